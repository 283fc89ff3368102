use super::*;
use libsystemd::logging::JournalStream;
use slog::{crit, debug, error, info, o, warn};
use std::collections::HashMap;
use std::io::{PipeReader, Read, pipe};
use std::os::unix::net::{UnixDatagram, UnixStream};

/// A process's surroundings that the test owns: stderr and stdout are stream sockets, as under systemd, or pipes.
struct World {
    folder: tempfile::TempDir,
    journal: UnixDatagram,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let journal = UnixDatagram::bind(folder.path().join("socket")).unwrap();
        journal.set_nonblocking(true).unwrap();
        Self { folder, journal }
    }

    /// Opens the log of a worker whose stdout and stderr are the stream to the journal.
    fn under_systemd(&self, settings: &LogSettings) -> Log {
        let (stream, _other) = UnixStream::pair().unwrap();
        let around = Surroundings {
            stdout: stream.as_fd(),
            stderr: stream.as_fd(),
            journal_stream: Some(JournalStream::from_fd(stream.as_fd()).unwrap()),
            journal_socket: &self.folder.path().join("socket"),
        };
        Log::open_in(settings, Process::Worker { generation: 3, slot: 2 }, &around).unwrap()
    }

    fn datagram(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let length = self.journal.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    /// The next record's fields.
    fn record(&self) -> HashMap<String, String> {
        fields(&self.datagram().unwrap())
    }
}

/// Opens the log of an arbiter whose stderr is a pipe: the returned reader is stderr's, then stdout's.
fn with_pipes(settings: &LogSettings) -> io::Result<(Log, PipeReader, PipeReader)> {
    let (stderr_reader, stderr) = pipe()?;
    let (stdout_reader, stdout) = pipe()?;
    let around = Surroundings {
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        journal_stream: None,
        journal_socket: Path::new("/nonexistent"),
    };
    Ok((Log::open_in(settings, Process::Arbiter, &around)?, stderr_reader, stdout_reader))
}

fn fields(mut record: &[u8]) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    while !record.is_empty() {
        let end = record.iter().position(|&byte| byte == b'=' || byte == b'\n').unwrap();
        let name = String::from_utf8(record[..end].to_vec()).unwrap();
        let (value, rest) = if record[end] == b'=' {
            let length = record[end + 1..].iter().position(|&byte| byte == b'\n').unwrap();
            (&record[end + 1..end + 1 + length], &record[end + 1 + length + 1..])
        } else {
            let length = u64::from_le_bytes(record[end + 1..end + 9].try_into().unwrap()) as usize;
            assert_eq!(record[end + 9 + length], b'\n');
            (&record[end + 9..end + 9 + length], &record[end + 9 + length + 1..])
        };
        assert_eq!(fields.insert(name, String::from_utf8(value.to_vec()).unwrap()), None);
        record = rest;
    }
    fields
}

fn everything(mut reader: PipeReader, log: Log) -> String {
    drop(log);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

fn request<'a>(target: &'a [u8], lookup: &'a dyn Lookup) -> AccessRecord<'a> {
    AccessRecord {
        remote_addr: b"192.0.2.7",
        method: b"GET",
        target,
        protocol: b"HTTP/1.1",
        script_name: b"",
        status: 200,
        bytes: 12,
        duration: Duration::from_micros(1500),
        queue: Duration::from_micros(20),
        request_id: b"7f",
        lookup,
    }
}

fn settings(change: impl FnOnce(&mut LogSettings)) -> LogSettings {
    let mut settings = LogSettings { instance: "shop".to_owned(), ..LogSettings::default() };
    change(&mut settings);
    settings
}

#[test]
fn a_journal_record_has_the_processs_fields_and_those_of_its_keys() {
    let world = World::new();
    let log = world.under_systemd(&settings(|_| {}));
    let logger = log.logger().new(o!("listener" => "http"));
    warn!(logger, "worker {} died", 17; event::WORKER_DIED, "exit-status" => 3, "reason" => "signal");
    let record = world.record();
    let expected = [
        ("MESSAGE", "worker 17 died"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "rgunicorn"),
        ("MESSAGE_ID", event::WORKER_DIED.uuid),
        ("RGUNICORN_INSTANCE", "shop"),
        ("RGUNICORN_GENERATION", "3"),
        ("RGUNICORN_SLOT", "2"),
        ("RGUNICORN_EXIT_STATUS", "3"),
        ("RGUNICORN_REASON", "signal"),
        ("RGUNICORN_LISTENER", "http"),
    ];
    for (name, value) in expected {
        assert_eq!(record[name], value, "{name}");
    }
    assert_eq!(record["RGUNICORN_WORKER_PID"], std::process::id().to_string());
    assert!(record["CODE_FILE"].ends_with("tests.rs"));
    assert!(record["CODE_LINE"].parse::<u32>().unwrap() > 0);
}

#[test]
fn a_traceback_is_one_record() {
    let world = World::new();
    let log = world.under_systemd(&settings(|_| {}));
    error!(log.logger(), "the application raised"; "traceback" => "Traceback:\n  File \"a.py\"\nValueError: x\n");
    let record = world.record();
    assert_eq!(record["MESSAGE"], "the application raised\nTraceback:\n  File \"a.py\"\nValueError: x");
    assert!(!record.contains_key("RGUNICORN_TRACEBACK"));
    assert_eq!(world.datagram(), None);
}

#[test]
fn a_full_journal_stops_nobody_and_the_loss_is_reported_later() {
    let world = World::new();
    let log = world.under_systemd(&settings(|_| {}));
    let mut sent = 0;
    while log.dropped() < 5 {
        info!(log.logger(), "again");
        sent += 1;
    }
    assert!(log.is_waiting());
    let mut received = 0;
    while received < sent - 5 {
        match world.datagram() {
            Some(record) => {
                assert_eq!(fields(&record)["MESSAGE"], "again");
                received += 1;
            }
            None => {
                log.flush();
            }
        }
    }
    assert!(log.flush() && !log.is_waiting());
    assert_eq!(world.datagram(), None);
    info!(log.logger(), "after");
    assert_eq!(world.record()["MESSAGE"], "after");
    let report = world.record();
    assert_eq!(report["MESSAGE"], "5 records were dropped: the journal did not take them");
    assert_eq!(report["MESSAGE_ID"], event::RECORDS_DROPPED.uuid);
    assert_eq!((&*report["RGUNICORN_DROPPED"], &*report["PRIORITY"]), ("5", "4"));
    log.report_losses();
    assert_eq!(world.datagram(), None);
    assert_eq!(log.dropped(), 5);
}

#[test]
fn an_access_record_has_its_fields_in_the_journal() {
    let world = World::new();
    let log = world.under_systemd(&settings(|settings| settings.accesslog = Some("-".to_owned())));
    log.access().unwrap().record(&request(b"/a?secret=1", &NoLookup));
    let record = world.record();
    assert!(record["MESSAGE"].contains("\"GET /a?secret=1 HTTP/1.1\" 200 12"));
    let expected = [
        ("MESSAGE_ID", event::ACCESS.uuid),
        ("PRIORITY", "6"),
        ("RGUNICORN_INSTANCE", "shop"),
        ("RGUNICORN_REQUEST_METHOD", "GET"),
        ("RGUNICORN_PATH", "/a"),
        ("RGUNICORN_STATUS", "200"),
        ("RGUNICORN_BYTES", "12"),
        ("RGUNICORN_DURATION_USEC", "1500"),
        ("RGUNICORN_QUEUE_USEC", "20"),
        ("RGUNICORN_REMOTE_ADDR", "192.0.2.7"),
        ("RGUNICORN_REQUEST_ID", "7f"),
    ];
    for (name, value) in expected {
        assert_eq!(record[name], value, "{name}");
    }
}

#[test]
fn a_path_with_a_line_break_cannot_forge_a_field() {
    let world = World::new();
    let log = world.under_systemd(&settings(|settings| settings.accesslog = Some("-".to_owned())));
    log.access().unwrap().record(&request(b"/a\nPRIORITY=0", &NoLookup));
    let record = world.record();
    assert_eq!((&*record["RGUNICORN_PATH"], &*record["PRIORITY"]), ("/a\nPRIORITY=0", "6"));
}

#[test]
fn a_line_is_gunicorns_with_the_keys_behind_it_in_their_order() {
    let (log, stderr, _stdout) = with_pipes(&settings(|_| {})).unwrap();
    info!(log.logger(), "Booting worker"; event::WORKER_BOOTED, "slot" => 1, "why" => "a b", "none" => None::<u8>);
    let line = everything(stderr, log);
    let (time, rest) = line.split_at("[2026-11-22 20:33:01 +0000] ".len());
    assert!(time.starts_with('[') && time.ends_with("] "), "{line}");
    assert_eq!(rest, format!("[{}] [INFO] Booting worker slot=1 why=\"a b\"\n", std::process::id()));
}

#[test]
fn later_lines_cannot_pass_for_records() {
    let (log, stderr, _stdout) = with_pipes(&settings(|_| {})).unwrap();
    crit!(log.logger(), "one\n[2026-11-22 20:33:01 +0000] [1] [INFO] forged"; "traceback" => "T\n[forged]\x1b[2J");
    let text = everything(stderr, log);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].ends_with("[CRITICAL] one"));
    assert_eq!(lines[1..], ["  [2026-11-22 20:33:01 +0000] [1] [INFO] forged", "  T", "  [forged]\\x1B[2J"]);
}

#[test]
fn the_level_holds_and_can_be_changed() {
    let (log, stderr, _stdout) = with_pipes(&settings(|settings| settings.level = "warning".to_owned())).unwrap();
    info!(log.logger(), "quiet");
    warn!(log.logger(), "loud");
    log.set_level(slog::Level::Debug);
    debug!(log.logger(), "detail");
    let text = everything(stderr, log);
    assert!(!text.contains("quiet") && text.contains("[WARNING] loud") && text.contains("[DEBUG] detail"));
}

#[test]
fn json_lines_are_typed_and_one_record_each() {
    let json = settings(|settings| {
        settings.log_format = "json".to_owned();
        settings.accesslog = Some("-".to_owned());
    });
    let (log, stderr, stdout) = with_pipes(&json).unwrap();
    error!(log.logger(), "it \"failed\"\n"; event::BOOT_FAULT, "slot" => 4, "ok" => false, "load" => f64::NAN,
        "traceback" => "a\nb");
    log.access().unwrap().record(&request(b"/a?b\"", &NoLookup));
    let access = everything(stdout, log);
    let mut text = String::new();
    { stderr }.read_to_string(&mut text).unwrap();
    let record: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(record["message"], "it \"failed\"\n");
    assert_eq!((&record["slot"], &record["ok"]), (&serde_json::json!(4), &serde_json::json!(false)));
    assert_eq!((&record["load"], &record["level"]), (&serde_json::json!("NaN"), &serde_json::json!("ERROR")));
    assert_eq!((&record["traceback"], &record["instance"]), (&serde_json::json!("a\nb"), &serde_json::json!("shop")));
    assert_eq!(record["message_id"], event::BOOT_FAULT.uuid);
    assert!(record["time"].as_str().unwrap().ends_with('Z'));
    let record: serde_json::Value = serde_json::from_str(access.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!((&record["path"], &record["query"]), (&serde_json::json!("/a"), &serde_json::json!("b\"")));
    assert_eq!((&record["status"], &record["duration_usec"]), (&serde_json::json!(200), &serde_json::json!(1500)));
}

#[test]
fn files_are_written_and_opened_anew_and_dev_stdout_is_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("error.log");
    let to_files = settings(|settings| {
        settings.errorlog = path.display().to_string();
        settings.accesslog = Some("/dev/stdout".to_owned());
    });
    let (log, _stderr, stdout) = with_pipes(&to_files).unwrap();
    info!(log.logger(), "before");
    std::fs::rename(&path, folder.path().join("error.log.1")).unwrap();
    log.reopen().unwrap();
    info!(log.logger(), "after");
    log.access().unwrap().record(&request(b"/", &NoLookup));
    let old = std::fs::read_to_string(folder.path().join("error.log.1")).unwrap();
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(old.ends_with("before\n") && new.ends_with("after\n") && !new.contains("before"));
    assert!(everything(stdout, log).contains("\"GET / HTTP/1.1\" 200 12"));
}

#[test]
fn lost_access_records_are_reported_in_the_error_log() {
    let (log, stderr, mut stdout) =
        with_pipes(&settings(|settings| settings.accesslog = Some("-".to_owned()))).unwrap();
    let access = log.access().unwrap();
    while log.dropped() == 0 {
        access.record(&request(b"/", &NoLookup));
    }
    let mut taken = vec![0; 1 << 20];
    assert!(stdout.read(&mut taken).unwrap() > 4096);
    access.record(&request(b"/", &NoLookup));
    drop(access);
    let text = everything(stderr, log);
    assert!(text.contains("1 access record was dropped: the reader of the output did not take it dropped=1"), "{text}");
}

#[test]
fn what_cannot_be_opened_or_read_is_named() {
    for (change, expected) in [
        (
            &(|s: &mut LogSettings| s.errorlog = "/nonexistent/x".to_owned()) as &dyn Fn(&mut LogSettings),
            "errorlog = \"/nonexistent/x\"",
        ),
        (&|s| s.accesslog = Some("/nonexistent/y".to_owned()), "accesslog = \"/nonexistent/y\""),
        (&|s| s.level = "loud".to_owned(), "loglevel = \"loud\""),
        (&|s| s.log_format = "xml".to_owned(), "log_format = \"xml\""),
        (
            &|s| (s.accesslog, s.access_log_format) = (Some("-".to_owned()), "%(h".to_owned()),
            "access_log_format = \"%(h\": at byte 0",
        ),
    ] {
        let error = with_pipes(&settings(change)).err().unwrap().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn what_waits_is_sent_when_the_log_is_closed() {
    let world = World::new();
    let log = world.under_systemd(&settings(|_| {}));
    let mut sent = 0;
    while !log.is_waiting() {
        info!(log.logger(), "again");
        sent += 1;
    }
    assert!(world.datagram().is_some(), "there is room for the one that waits");
    drop(log);
    for _ in 1..sent {
        assert!(world.datagram().is_some());
    }
    assert_eq!(world.datagram(), None);
}

//! What the application prints, as journal records: one per line, with the fields of the process that printed it.
//!
//! Owns the framing and a socket to the journal of its own, which a change of `errorlog` does not touch: what is printed
//! goes where systemd has connected standard output and error. Does not know who reads the lines. Invariants: nothing
//! here waits for the journal, what it does not take is counted, and such records leave half of the queue to events.

use crate::drain::{Losses, Origin, Sink};
use crate::escape::push_decimal;
use crate::journal::{Journal, SOCKET_PATH, Weight, push_field};
use crate::{Log, Process, event};
use libsystemd::logging::JournalStream;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// Which of a process's standard streams are the journal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalStreams {
    /// File descriptor 1.
    pub stdout: bool,
    /// File descriptor 2.
    pub stderr: bool,
}

impl JournalStreams {
    /// Of this process, as systemd has connected it (`JOURNAL_STREAM` in systemd.exec(5)).
    pub fn of_this_process() -> JournalStreams {
        let Ok(stream) = JournalStream::from_env() else { return JournalStreams::default() };
        let is = |number| {
            // SAFETY: standard output and error are open for the life of the process; where they are not, fstat(2) says
            // EBADF.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            JournalStream::from_fd(fd).is_ok_and(|found| found == stream)
        };
        JournalStreams { stdout: is(1), stderr: is(2) }
    }
}

/// Who printed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printer {
    /// The process's own id; a child of a worker has another one than the worker.
    pub pid: i32,
    /// The mold or worker that it is, or descends from.
    pub process: Process,
    /// The pid of that worker; 0 for none.
    pub worker: i32,
}

/// See the module.
#[derive(Debug)]
pub struct OutputLog {
    sink: Sink,
    journal: Arc<Journal>,
    origin: Vec<u8>,
    losses: Losses,
}

impl OutputLog {
    /// # Errors
    /// There is no file descriptor left.
    pub fn open(instance: &str) -> io::Result<OutputLog> {
        OutputLog::open_at(instance, Path::new(SOCKET_PATH))
    }

    fn open_at(instance: &str, socket: &Path) -> io::Result<OutputLog> {
        let journal = Arc::new(Journal::open(socket)?);
        let origin = Origin::new(Process::Arbiter, instance).fields;
        Ok(OutputLog { sink: Sink::Journal(Arc::clone(&journal)), journal, origin, losses: Losses::default() })
    }

    /// Records one line, given without its end. One that is empty says nothing and is left out, as by journald itself.
    /// `<3>` at its beginning is its priority, see SyslogLevelPrefix= in systemd.exec(5).
    pub fn record(&self, line: &[u8], printer: Printer) {
        let (priority, line) = match line {
            [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => (*digit, rest),
            _ => (b'6', line),
        };
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return;
        }
        let mut record = Vec::with_capacity(line.len() + 256);
        push_field(&mut record, "MESSAGE", line);
        push_field(&mut record, "PRIORITY", &[priority]);
        push_field(&mut record, "MESSAGE_ID", event::APPLICATION_OUTPUT.uuid.as_bytes());
        record.extend_from_slice(&self.origin);
        let mut number = |name: &[u8], number: u32| {
            record.extend_from_slice(name);
            push_decimal(&mut record, u64::from(number));
            record.push(b'\n');
        };
        number(b"SYSLOG_PID=", printer.pid.unsigned_abs());
        match printer.process {
            Process::Arbiter => {}
            Process::Mold { generation } => number(b"RGUNICORN_GENERATION=", generation),
            Process::Worker { generation, slot } => {
                number(b"RGUNICORN_GENERATION=", generation);
                number(b"RGUNICORN_SLOT=", slot);
                number(b"RGUNICORN_WORKER_PID=", printer.worker.unsigned_abs());
            }
        }
        if self.sink.deliver(&record, Weight::Access).is_err() {
            self.losses.count();
        }
    }

    /// Sends what the journal did not take at once; returns whether all of it is gone. What was dropped is reported in
    /// `log`, at most once a second.
    pub fn flush(&self, log: &Log) -> bool {
        let gone = self.journal.flush();
        if self.losses.is_due() {
            self.report_losses(log);
        }
        gone
    }

    /// Reports what was dropped.
    pub fn report_losses(&self, log: &Log) {
        let what = ("line that the application printed", "lines that the application printed");
        self.losses.report(what, &self.sink, log.errors());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_line_is_a_record_with_the_fields_of_who_printed_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let log = OutputLog::open_at("app", &path).unwrap();
        let process = Process::Worker { generation: 3, slot: 2 };
        log.record(b"  \t", Printer { pid: 1, process, worker: 1 });
        log.record(b"<4>watch out \r", Printer { pid: 77, process, worker: 70 });
        let mut buffer = [0; 1024];
        let length = journal.recv(&mut buffer).unwrap();
        let record = String::from_utf8_lossy(&buffer[..length]);
        assert!(record.starts_with("MESSAGE=watch out\nPRIORITY=4\nMESSAGE_ID="), "{record}");
        for field in [
            "RGUNICORN_INSTANCE=app",
            "RGUNICORN_GENERATION=3",
            "RGUNICORN_SLOT=2",
            "RGUNICORN_WORKER_PID=70",
            "SYSLOG_PID=77",
            "SYSLOG_IDENTIFIER=rgunicorn",
        ] {
            assert!(record.contains(&format!("\n{field}\n")), "{field} in {record}");
        }
        assert!(journal.recv(&mut buffer).is_err(), "an empty line is none");
    }
}

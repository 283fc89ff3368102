//! `reload_check`: a worker of a reload asks its own application before it says that it is ready.
//!
//! Owns the requests and the judgement. The arbiter reads no HTTP, and a worker that is not promoted accepts nobody; so
//! the requests come on a connection that is put into the reactor as if it had been accepted, and take the way of any
//! other: engine, lane, bridge. So it does not matter which driver runs. Its other end is a thread of ours, which never
//! attaches to Python. Invariant: exactly one message to the arbiter, `Ready` or `BootFault`.

use rgunicorn_protocol::{BootFault, BootFaultKind, FromWorker, ReloadCheck, WorkerSettings};
use rgunicorn_reactor::{Reactor, seconds};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is kept of an answer.
const MOST_KEPT: usize = 64 * 1024;
/// What of it is shown: lines, and bytes of each.
const SHOWN: (usize, usize) = (12, 300);
/// A datagram has its limit; what matters stands at a traceback's end.
const MOST_TRACEBACK: usize = 8 * 1024;

/// The latest traceback, while checks run.
static TRACEBACK: Mutex<Option<String>> = Mutex::new(None);
static RUNS: AtomicBool = AtomicBool::new(false);

/// The application has failed to answer a request, with this traceback. For bridges; costs nothing unless checks run.
pub(crate) fn note_traceback(traceback: &str) {
    if RUNS.load(Ordering::Relaxed) {
        *TRACEBACK.lock().unwrap_or_else(PoisonError::into_inner) = Some(traceback.to_owned());
    }
}

/// Starts the checks of a worker that was forked at `since`; the arbiter is told how they end. To be called once the
/// standby runs, before the first lane.
///
/// # Errors
/// Those of thread creation.
pub(crate) fn start(reactor: &Arc<Reactor>, settings: &WorkerSettings, since: Instant) -> io::Result<()> {
    let limit = seconds(settings.boot_timeout);
    let checks = Checks {
        reactor: Arc::clone(reactor),
        proxy_header: proxy_header(&settings.proxy_protocol),
        https: settings.secure_scheme_headers.iter().find(|(_, value)| value == "https").cloned(),
        // Some time before the arbiter's own, which knows less of the reason.
        deadline: (!limit.is_zero()).then(|| since + limit - (limit / 10).min(Duration::from_secs(2))),
        limit,
    };
    let list = settings.reload_check.clone();
    std::thread::Builder::new().name("reload-check".into()).stack_size(256 * 1024).spawn(move || checks.run(&list))?;
    Ok(())
}

/// A PROXY header that says nothing, where the listeners expect one.
fn proxy_header(protocol: &str) -> &'static [u8] {
    match protocol {
        "v1" | "auto" => b"PROXY UNKNOWN\r\n",
        "v2" => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        _ => b"",
    }
}

struct Checks {
    reactor: Arc<Reactor>,
    proxy_header: &'static [u8],
    /// The header that says https.
    https: Option<(String, String)>,
    deadline: Option<Instant>,
    limit: Duration,
}

/// Why a check has failed.
enum Failure {
    /// It was answered otherwise.
    Otherwise { status: String, answer: String },
    /// It was not answered in time.
    Late,
    /// The connection ended or failed.
    Unanswered(String),
}

impl Checks {
    fn run(&self, list: &[ReloadCheck]) {
        RUNS.store(true, Ordering::Relaxed);
        for check in list {
            if let Err(failure) = self.ask(check) {
                self.reactor.tell(&FromWorker::BootFault(self.explain(check, failure)));
                self.reactor.finish();
                return;
            }
        }
        RUNS.store(false, Ordering::Relaxed);
        self.reactor.tell(&FromWorker::Ready { warnings: Vec::new() });
    }

    fn ask(&self, check: &ReloadCheck) -> Result<(), Failure> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Late,
            _ => Failure::Unanswered(error.to_string()),
        };
        let mut stream = self.reactor.connect_within().map_err(failed)?;
        stream.write_all(&self.compose(check)).map_err(failed)?;
        let (mut kept, mut bytes) = (Vec::new(), [0; 8192]);
        loop {
            stream.set_read_timeout(self.left().ok_or(Failure::Late)?).map_err(failed)?;
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) if kept.len() < MOST_KEPT => kept.extend_from_slice(&bytes[..count]),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        judge(check, &kept)
    }

    /// What a read may still take: `None`: nothing; `Some(None)`: any time.
    fn left(&self) -> Option<Option<Duration>> {
        match self.deadline {
            None => Some(None),
            Some(at) => at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).map(Some),
        }
    }

    fn compose(&self, check: &ReloadCheck) -> Vec<u8> {
        let mut bytes = self.proxy_header.to_vec();
        let host = check.host.as_deref().unwrap_or("localhost");
        let https = match &self.https {
            Some((name, value)) if check.https => format!("{name}: {value}\r\n"),
            Some(_) | None => String::new(),
        };
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: rgunicorn-reload-check\r\nAccept: */*\r\n{https}Connection: close\r\n\r\n",
            check.target
        );
        bytes.extend_from_slice(head.as_bytes());
        bytes
    }

    fn explain(&self, check: &ReloadCheck, failure: Failure) -> BootFault {
        let raised = TRACEBACK.lock().unwrap_or_else(PoisonError::into_inner).take();
        let wanted = check.status.map_or_else(|| "a status from 200 to 399".to_owned(), |status| status.to_string());
        let target = &check.target;
        let (message, detail) = match failure {
            Failure::Otherwise { status, answer } => {
                (format!("reload_check: GET {target} was answered with {status} instead of {wanted}"), answer)
            }
            Failure::Late => {
                let limit = self.limit.as_secs_f64();
                let stacks = self.reactor.stacks().join("\n");
                (format!("reload_check: GET {target} was not answered within boot_timeout ({limit} s)"), stacks)
            }
            Failure::Unanswered(why) => (format!("reload_check: GET {target} was not answered: {why}"), String::new()),
        };
        let mut traceback = raised.unwrap_or(detail);
        if traceback.len() > MOST_TRACEBACK {
            let cut =
                (traceback.len() - MOST_TRACEBACK..).find(|at| traceback.is_char_boundary(*at)).unwrap_or_default();
            traceback = format!("[...]\n{}", &traceback[cut..]);
        }
        let traceback = (!traceback.is_empty()).then_some(traceback);
        BootFault { kind: BootFaultKind::Check, message, traceback }
    }
}

/// Compares an answer with what is expected.
fn judge(check: &ReloadCheck, answer: &[u8]) -> Result<(), Failure> {
    let mut rest = answer;
    loop {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Err(Failure::Unanswered("the connection was closed".into()));
        };
        let head = String::from_utf8_lossy(&rest[..end]);
        let line = head.lines().next().unwrap_or_default();
        let status = line.split_once(' ').map_or(line, |(_, status)| status);
        let number: u16 = status.get(..3).and_then(|number| number.parse().ok()).unwrap_or_default();
        rest = &rest[end + 4..];
        match (number, check.status) {
            (100..=199, _) => {}
            (_, Some(wanted)) if wanted == number => return Ok(()),
            (200..=399, None) => return Ok(()),
            _ => return Err(Failure::Otherwise { status: status.to_owned(), answer: shown(rest) }),
        }
    }
}

/// The first lines of an answer's body.
fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(SHOWN.0);
    let cut = |line: &str| line.chars().filter(|character| !character.is_control()).take(SHOWN.1).collect::<String>();
    lines.map(|line| format!("  {}", cut(line))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_answers_are_passed_over_and_the_status_decides() {
        let check = |status| ReloadCheck { host: None, https: false, target: "/".into(), status };
        let answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n<p>\n\nno";
        assert!(judge(&check(Some(404)), answer).is_ok());
        match judge(&check(None), answer) {
            Err(Failure::Otherwise { status, answer }) => {
                assert_eq!((status.as_str(), answer.as_str()), ("404 Not Found", "  <p>\n  no"));
            }
            Ok(()) | Err(Failure::Late | Failure::Unanswered(_)) => panic!("a 404 is no 2xx"),
        }
        assert!(matches!(judge(&check(None), b"HTTP/1.1 200"), Err(Failure::Unanswered(_))));
        assert!(judge(&check(None), b"HTTP/1.1 302 Found\r\n\r\n").is_ok());
    }
}

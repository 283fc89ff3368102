//! What the supervisor has to say to whoever reads the log.
//!
//! Owns every sentence about the life of generations and workers, each with its level and its tags; one transition is
//! one record, one traceback is one record. Knows no process. Invariant: a record that asks for action names the
//! generation, the slot and the pid where there is one.

use super::event::{Exit, Findings, InFlight, signal_name};
use super::process::Killed;
use super::vigil::{ANSWER_TIME, HALT_TIME};
use rgunicorn_log::event;
use rgunicorn_protocol::{BootFault, BootFaultKind};
use slog::{Logger, debug, error, info, o, warn};
use std::fmt;
use std::time::Duration;

/// What a death by the kernel's out-of-memory killer is called.
pub(crate) const OUT_OF_MEMORY: &str = " (out of memory: the kernel has killed for want of it)";

/// Requests that one record names.
const MOST_REQUESTS: usize = 16;

/// Which process a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tags {
    pub(crate) generation: u32,
    pub(crate) slot: Option<u32>,
    pub(crate) pid: Option<i32>,
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(f, "worker {slot} of generation {}", self.generation)?,
            None => write!(f, "the mold of generation {}", self.generation)?,
        }
        match self.pid {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

/// Why a mold or a worker did not become ready.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    /// What the process said of it; `None` if it said nothing.
    pub(crate) kind: Option<BootFaultKind>,
    /// One line.
    pub(crate) message: String,
    pub(crate) traceback: Option<String>,
}

impl From<BootFault> for Fault {
    fn from(fault: BootFault) -> Fault {
        Fault { kind: Some(fault.kind), message: fault.message, traceback: fault.traceback }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.traceback {
            Some(traceback) => write!(f, "\n{}", traceback.trim_end()),
            None => Ok(()),
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// The first generation could not be prepared: settings or listeners.
    NotPrepared { reason: String },
    /// The first generation could not be booted; the instance ends.
    NotStarted { tags: Tags, fault: Fault },
    /// A check ended well.
    Checked { interpreter: String },
    /// A generation serves.
    Serves { generation: u32, workers: usize, interpreter: String, after: Duration },
    /// A worker is ready.
    WorkerReady { tags: Tags, after: Duration },
    /// What a preloading mold says of the application.
    Warning { tags: Tags, text: String },
    /// A worker that serves has sent what is no message.
    Unreadable { tags: Tags, what: String },
    /// A worker or a mold of the serving generation could not boot; it will be tried again.
    BootFailed { tags: Tags, fault: Fault, retry: Duration },
    /// A worker died that was not asked to. `served` is how long it served.
    WorkerDied { tags: Tags, exit: Exit, served: Option<Duration>, retry: Duration, findings: Findings },
    /// A mold died that was not asked to.
    MoldDied { tags: Tags, exit: Exit, preload: bool, findings: Findings },
    /// A process left as it was asked to.
    Left { tags: Tags },
    /// A process that was asked to leave did not end well.
    LeftBadly { tags: Tags, exit: Exit, findings: Findings },
    /// A process was sent SIGKILL by us.
    Killed { tags: Tags, why: Killed, graceful: Duration },
    /// A process was stopped by a signal; when it is killed unless it is continued.
    Halted { tags: Tags, signal: i32, killed_in: Option<Duration> },
    /// A stopped process goes on.
    Continued { tags: Tags, after: Duration },
    /// The arbiter did not run for so long.
    WasLate { by: Duration },
    /// A worker's channel ended but the worker lives.
    ChannelClosed { tags: Tags },
    /// A process does not go away although it was killed.
    Undead { tags: Tags },
    /// A worker wants to be replaced.
    Recycles { tags: Tags, reason: String },
    /// A worker that retires says how much it still does.
    Drains { tags: Tags, running: u32 },
    /// The mold could not fork.
    ForkFailed { tags: Tags, reason: String },
    /// A reload has begun.
    ReloadBegins { generation: u32, after_mold_died: bool },
    /// A reload was ordered while one is running.
    ReloadFolded { generation: u32 },
    /// A reload could not be prepared; the generation in service goes on.
    ReloadNotPrepared { generation: u32, serving: u32, reason: String },
    /// The new generation was thrown away; the one in service goes on.
    /// So many of its workers serve already and are replaced by workers of the generation in service.
    ReloadFailed { tags: Tags, serving: u32, fault: Fault, back: usize },
    /// A rolling reload has come so far.
    Rolled { generation: u32, slot: u32, done: usize, of: usize },
    /// A rolling reload that has failed has been undone so far.
    TookBack { generation: u32, slot: u32, left: usize },
    /// A rolling reload that has failed is undone.
    RolledBack { serving: u32 },
    /// It cannot be undone now: some places stay with the new generation until the one in service can boot workers there.
    NotRolledBack { serving: u32, left: usize, because: &'static str },
    /// The number of workers was changed by order.
    Scaled { from: u32, to: u32 },
    /// The number of workers is not changed: it is the least possible.
    NotScaled,
    /// An order that means nothing now.
    OrderIgnored { order: &'static str, because: &'static str },
    /// An upgrade waits for what is going on.
    UpgradeWaits,
    /// The program that an upgrade would execute is asked whether it can take over.
    UpgradeBegins,
    /// It can and is executed.
    UpgradeExecutes { version: String },
    /// It cannot; this one goes on.
    UpgradeRefused { reason: String, version: &'static str },
    /// This program has taken over.
    Upgraded { from: String },
    /// Nobody has used the instance for so long.
    Idle { after: Duration },
    /// The instance stops.
    Stops { graceful: Option<Duration> },
    /// The instance stops faster than it was told before.
    Hastens,
    /// The instance has stopped.
    Stopped,
}

impl Record {
    /// Whether a process is told of that has died unasked, or was killed because nothing was to be expected of it any more.
    pub(crate) fn is_a_death(&self) -> bool {
        match self {
            Record::WorkerDied { .. } | Record::MoldDied { .. } => true,
            Record::Killed { why, .. } => match why {
                Killed::Unresponsive
                | Killed::Silent
                | Killed::Halted
                | Killed::Overgrown
                | Killed::Lost
                | Killed::Garbage => true,
                Killed::BootTimeout | Killed::Overdue | Killed::NotStopped | Killed::Unwanted => false,
            },
            _ => false,
        }
    }

    /// The process whose state is worth a look before this record is written, because it is about to be killed.
    pub(crate) fn victim(&self) -> Option<Tags> {
        if let Record::Killed { tags, .. } = self { Some(*tags) } else { None }
    }

    /// Writes the record; `evidence` is what was found at its victim.
    pub(crate) fn write(&self, log: &Logger, evidence: &Findings) {
        match self {
            Record::NotPrepared { reason } => error!(log, "{}", reason; event::START_FAILED),
            Record::NotStarted { tags, fault } => {
                error!(tagged(log, *tags), "The application could not be started: {}", fault; event::BOOT_FAULT);
            }
            Record::Checked { interpreter } => info!(log, "The application can be served by {}", interpreter),
            Record::Serves { generation, workers, interpreter, after } => {
                let id = if *generation == 1 { event::READY } else { event::RELOAD_DONE };
                info!(
                    log,
                    "Generation {} serves with {} after {}: {}",
                    generation,
                    counted(*workers, "worker"),
                    seconds(*after),
                    interpreter;
                    id, "generation" => generation
                );
            }
            Record::WorkerReady { tags, after } => {
                debug!(tagged(log, *tags), "{} is ready after {}", capital(*tags), seconds(*after);
                    event::WORKER_READY);
            }
            Record::Warning { tags, text } => warn!(tagged(log, *tags), "{}", text; event::PRELOAD_WARNING),
            Record::Unreadable { tags, what } => {
                warn!(tagged(log, *tags), "A message could not be read: {}", what; event::WORKER_ODD);
            }
            Record::BootFailed { tags, fault, retry } => {
                error!(tagged(log, *tags), "{} could not boot, {}: {}", capital(*tags), again(*retry), fault;
                    event::BOOT_FAULT);
            }
            Record::WorkerDied { tags, exit, served, retry, findings } => {
                let when = match served {
                    Some(served) => format!("after it served for {}", seconds(*served)),
                    None => "while it waited for its promotion".to_owned(),
                };
                error!(
                    with_ids(tagged(log, *tags), findings), "{} {}{} {}{}; a new one starts {}", capital(*tags), exit, cause(findings), when,
                    amid(findings), delay(*retry);
                    event::WORKER_DIED, "exit" => exit.to_string()
                );
            }
            Record::MoldDied { tags, exit, preload, findings } => {
                let then = if *preload {
                    "What a new one would import may be newer code, so a whole new generation is booted"
                } else {
                    "A new one starts"
                };
                error!(tagged(log, *tags), "{} {}{}. {}", capital(*tags), exit, cause(findings), then;
                    event::MOLD_DIED, "exit" => exit.to_string());
            }
            Record::Left { tags } => debug!(tagged(log, *tags), "{} has left", capital(*tags); event::WORKER_EXITED),
            Record::LeftBadly { tags, exit, findings } => {
                warn!(
                    with_ids(tagged(log, *tags), findings), "{} {}{} while it was leaving{}", capital(*tags), exit, cause(findings),
                    amid(findings); event::WORKER_EXITED
                );
            }
            Record::Killed { tags, why: why @ (Killed::BootTimeout | Killed::Unwanted), graceful } => {
                // The record of the failed boot, or of what made it unwanted, has said enough.
                debug!(tagged(log, *tags), "{} is killed: {}", capital(*tags), because(*why, *graceful).1;
                    event::WORKER_KILLED);
            }
            Record::Killed { tags, why, graceful } => {
                let (id, because) = because(*why, *graceful);
                let threads = match evidence.threads.as_slice() {
                    [] => String::new(),
                    threads => format!(". Its threads: {}", threads.join(", ")),
                };
                error!(with_ids(tagged(log, *tags), evidence), "{} is killed{}: {}{}", capital(*tags), amid(evidence),
                    because, threads; id);
            }
            Record::Halted { tags, signal, killed_in } => {
                let then = match killed_in {
                    Some(time) => format!("unless it is continued within {} it is killed", seconds(*time)),
                    None => "it is leaving and is killed when its time is over".to_owned(),
                };
                warn!(tagged(log, *tags), "{} was stopped by {}; {}", capital(*tags), signal_name(*signal), then;
                    event::WORKER_STUCK);
            }
            Record::Continued { tags, after } => {
                info!(tagged(log, *tags), "{} goes on after it was stopped for {}", capital(*tags), seconds(*after);
                    event::WORKER_CONTINUED);
            }
            Record::WasLate { by } => warn!(
                log,
                "The arbiter came {} too late to its work (stopped, frozen or starved of processor time); all deadlines are \
                 moved",
                seconds(*by); event::ARBITER_LATE
            ),
            Record::ChannelClosed { tags } => error!(
                tagged(log, *tags),
                "{} has lost its channel but lives on (does the application close file descriptors that are not its \
                 own?); it is replaced",
                capital(*tags); event::WORKER_ODD
            ),
            Record::Undead { tags } => error!(
                tagged(log, *tags),
                "{} was killed but does not go away (uninterruptible sleep?); it is no longer waited for",
                capital(*tags); event::WORKER_UNDEAD
            ),
            Record::Recycles { tags, reason } => {
                info!(tagged(log, *tags), "{} will be replaced: {}", capital(*tags), reason; event::WORKER_RECYCLED);
            }
            Record::Drains { tags, running } => {
                debug!(tagged(log, *tags), "{} finishes {}", capital(*tags), counted(*running as usize, "request");
                    event::WORKER_EXITED);
            }
            Record::ForkFailed { tags, reason } => {
                error!(tagged(log, *tags), "The mold cannot fork: {}", reason; event::FORK_FAILED)
            }
            Record::ReloadBegins { generation, after_mold_died } => {
                let why = if *after_mold_died { " because the preloading mold died" } else { "" };
                info!(log, "Generation {} boots{}", generation, why; event::RELOAD_BEGUN, "generation" => generation);
            }
            Record::ReloadFolded { generation } => info!(
                log, "Generation {} still boots; another reload follows when that one is done", generation;
                event::RELOAD_QUEUED, "generation" => generation
            ),
            Record::ReloadNotPrepared { generation, serving, reason } => error!(
                log, "The reload has failed and generation {} goes on: {}", serving, reason;
                event::RELOAD_FAILED, "generation" => generation
            ),
            Record::ReloadFailed { tags, serving, fault, back } => {
                let then = match back {
                    0 => String::new(),
                    back => format!(", {} of its places to be taken back", back),
                };
                error!(tagged(log, *tags), "The reload has failed and generation {} goes on{}: {}", serving, then, fault;
                    event::RELOAD_FAILED)
            }
            Record::Rolled { generation, slot, done, of } => info!(
                log, "Generation {} serves in slot {}: {} of {}", generation, slot, done, counted(*of, "worker");
                event::RELOAD_ROLLS, "generation" => generation
            ),
            Record::TookBack { generation, slot, left } => info!(
                log, "Generation {} serves in slot {} again: {} to be taken back", generation, slot,
                counted(*left, "place"); event::RELOAD_ROLLS, "generation" => generation
            ),
            Record::RolledBack { serving } => info!(
                log, "The failed reload is undone: generation {} has all its places back", serving;
                event::RELOAD_UNDONE, "generation" => serving
            ),
            Record::NotRolledBack { serving, left, because } => error!(
                log, "The failed reload is not undone: {}. {} with the new code until generation {} has booted others, or until \
                the next reload", because,
                if *left == 1 { "1 worker goes on".to_owned() } else { format!("{left} workers go on") }, serving;
                event::RELOAD_NOT_UNDONE, "generation" => serving
            ),
            Record::Scaled { from, to } => {
                info!(log, "From now on {}, {} before", counted(*to as usize, "worker"), from; event::SCALED)
            }
            Record::NotScaled => warn!(log, "One worker is the least"; event::ORDER_IGNORED),
            Record::OrderIgnored { order, because } => {
                warn!(log, "{} is ignored: {}", order, because; event::ORDER_IGNORED)
            }
            Record::UpgradeWaits => {
                info!(log, "The upgrade begins when the running boot is over"; event::ARBITER_REPLACING)
            }
            Record::UpgradeBegins => {
                info!(log, "The installed rgunicorn is asked whether it can take over"; event::ARBITER_REPLACING)
            }
            Record::UpgradeExecutes { version } => {
                info!(log, "rgunicorn {} takes over", version; event::ARBITER_REPLACING)
            }
            Record::UpgradeRefused { reason, version } => error!(
                log, "The upgrade is refused and rgunicorn {} goes on: {}", version, reason; event::ARBITER_REPLACE_FAILED
            ),
            Record::Upgraded { from } => info!(
                log, "rgunicorn {} has taken over from {}; its workers follow", rgunicorn_protocol::VERSION, from;
                event::ARBITER_REPLACED
            ),
            Record::Idle { after } => info!(
                log, "No connection and no request for {} (idle_timeout): the instance ends, the next connection starts it",
                seconds(*after); event::IDLE
            ),
            Record::Stops { graceful: Some(graceful) } => {
                info!(log, "Stopping: requests in flight have {} to finish", seconds(*graceful); event::STOPPING);
            }
            Record::Stops { graceful: None } => info!(log, "Stopping at once"; event::STOPPING),
            Record::Hastens => warn!(log, "Stopping faster: told so again"; event::STOP_HASTENED),
            Record::Stopped => info!(log, "Stopped"; event::STOPPED),
        }
    }
}

fn tagged(log: &Logger, tags: Tags) -> Logger {
    let log = log.new(o!("generation" => tags.generation));
    let log = match tags.slot {
        Some(slot) => log.new(o!("slot" => slot)),
        None => log,
    };
    match tags.pid {
        Some(pid) => log.new(o!("worker_pid" => pid)),
        None => log,
    }
}

fn because(why: Killed, graceful: Duration) -> (event::MessageId, String) {
    match why {
        Killed::BootTimeout => (event::BOOT_TIMEOUT, "it did not boot in time".into()),
        Killed::Overdue => (
            event::WORKER_KILLED,
            format!("it was to leave within {} (graceful_timeout) and did not", seconds(graceful)),
        ),
        Killed::Unwanted => (event::WORKER_KILLED, "it still boots and is no longer wanted".into()),
        Killed::NotStopped => (event::WORKER_KILLED, "it was told to stop at once and did not".into()),
        Killed::Unresponsive => (event::WORKER_STUCK, "it does not read its channel (stopped, or dead-locked)".into()),
        Killed::Silent => (
            event::WORKER_STUCK,
            format!("it has not answered for {} (dead-locked, or starved of processor time)", seconds(ANSWER_TIME)),
        ),
        Killed::Halted => (
            event::WORKER_STUCK,
            format!("it was stopped by a signal, and nobody continued it within {}", seconds(HALT_TIME)),
        ),
        Killed::Overgrown => (event::WORKER_KILLED, "it has more memory than max_worker_memory_hard".into()),
        Killed::Lost => (event::WORKER_KILLED, "its channel ended but it went on".into()),
        Killed::Garbage => (event::WORKER_KILLED, "it sent what is no message of this version".into()),
    }
}

/// Why a signal came, where that is known.
fn cause(findings: &Findings) -> &'static str {
    if findings.out_of_memory { OUT_OF_MEMORY } else { "" }
}

/// What a process was doing when it ended.
fn amid(findings: &Findings) -> String {
    let shown = &findings.requests[..findings.requests.len().min(MOST_REQUESTS)];
    let more = findings.requests.len() - shown.len();
    let requests = match (shown, more) {
        ([], _) => String::new(),
        (shown, 0) => format!(" in the middle of {}", listed(shown)),
        (shown, more) => format!(" in the middle of {} and {more} more", listed(shown)),
    };
    // Idle ones, and those whose requests waited for a lane.
    let others = usize::try_from(findings.connections).unwrap_or(usize::MAX).saturating_sub(findings.requests.len());
    let noun = if requests.is_empty() { "connection" } else { "further connection" };
    if others == 0 { requests } else { format!("{requests} with {}", counted(others, noun)) }
}

fn listed(requests: &[InFlight]) -> String {
    requests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A field for each request, so that the record is found by any of their ids.
fn with_ids(log: Logger, findings: &Findings) -> Logger {
    let named = findings.requests.iter().take(MOST_REQUESTS).filter(|request| !request.id.is_empty());
    named.fold(log, |log, request| log.new(o!("request_id" => request.id.clone())))
}

/// The tags at the start of a sentence.
fn capital(tags: Tags) -> String {
    let text = tags.to_string();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// `1 worker`, `2 workers`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A duration as people say it: `0.25 s`, `30 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 10.0 || duration.subsec_millis() == 0 { format!("{seconds:.0} s") } else { format!("{seconds:.2} s") }
}

fn delay(retry: Duration) -> String {
    if retry.is_zero() { "at once".into() } else { format!("in {}", seconds(retry)) }
}

fn again(retry: Duration) -> String {
    if retry.is_zero() { "tried again at once".into() } else { format!("tried again in {}", seconds(retry)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind that an instance records; a new kind belongs in here.
    fn one_of_each() -> Vec<Record> {
        let tags = Tags { generation: 1, slot: Some(2), pid: Some(3) };
        let fault = || Fault { kind: None, message: "no".into(), traceback: None };
        let (time, text, findings) = (Duration::from_secs(1), || String::from("x"), Findings::default);
        let exit = Exit::Code(1);
        let mut all = vec![
            Record::NotPrepared { reason: text() },
            Record::NotStarted { tags, fault: fault() },
            Record::Serves { generation: 1, workers: 1, interpreter: text(), after: time },
            Record::Serves { generation: 2, workers: 1, interpreter: text(), after: time },
            Record::WorkerReady { tags, after: time },
            Record::Warning { tags, text: text() },
            Record::Unreadable { tags, what: text() },
            Record::BootFailed { tags, fault: fault(), retry: time },
            Record::WorkerDied { tags, exit, served: None, retry: time, findings: findings() },
            Record::MoldDied { tags, exit, preload: true, findings: findings() },
            Record::Left { tags },
            Record::LeftBadly { tags, exit, findings: findings() },
            Record::Halted { tags, signal: 19, killed_in: None },
            Record::Continued { tags, after: time },
            Record::WasLate { by: time },
            Record::ChannelClosed { tags },
            Record::Undead { tags },
            Record::Recycles { tags, reason: text() },
            Record::Drains { tags, running: 1 },
            Record::ForkFailed { tags, reason: text() },
            Record::ReloadBegins { generation: 2, after_mold_died: false },
            Record::ReloadFolded { generation: 2 },
            Record::ReloadNotPrepared { generation: 2, serving: 1, reason: text() },
            Record::ReloadFailed { tags, serving: 1, fault: fault(), back: 0 },
            Record::ReloadFailed { tags, serving: 1, fault: fault(), back: 2 },
            Record::Rolled { generation: 2, slot: 1, done: 1, of: 2 },
            Record::TookBack { generation: 1, slot: 1, left: 0 },
            Record::RolledBack { serving: 1 },
            Record::NotRolledBack { serving: 1, left: 1, because: "x" },
            Record::Scaled { from: 1, to: 2 },
            Record::NotScaled,
            Record::UpgradeWaits,
            Record::UpgradeBegins,
            Record::UpgradeExecutes { version: text() },
            Record::UpgradeRefused { reason: text(), version: "1" },
            Record::Upgraded { from: text() },
            Record::OrderIgnored { order: "x", because: "y" },
            Record::Stops { graceful: Some(time) },
            Record::Stops { graceful: None },
            Record::Hastens,
            Record::Stopped,
        ];
        let whys = [
            Killed::BootTimeout,
            Killed::Overdue,
            Killed::Unwanted,
            Killed::NotStopped,
            Killed::Unresponsive,
            Killed::Silent,
            Killed::Halted,
            Killed::Overgrown,
            Killed::Lost,
            Killed::Garbage,
        ];
        all.extend(whys.map(|why| Record::Killed { tags, why, graceful: time }));
        all
    }

    /// Looks for an id of the table among the keys of each record.
    #[derive(Default)]
    struct Ids(std::sync::Mutex<Vec<(String, bool)>>);

    struct Key(bool);

    impl slog::Serializer for Key {
        fn emit_arguments(&mut self, _key: slog::Key, value: &fmt::Arguments<'_>) -> slog::Result {
            self.0 |= event::ALL.iter().any(|event| event.uuid == value.to_string());
            Ok(())
        }
    }

    impl slog::Drain for Ids {
        type Ok = ();
        type Err = slog::Never;

        fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
            let mut key = Key(false);
            let _ = slog::KV::serialize(&record.kv(), record, &mut key);
            self.0.lock().unwrap().push((record.msg().to_string(), key.0));
            Ok(())
        }
    }

    #[test]
    fn every_record_of_a_life_has_an_id_of_the_catalog() {
        let ids = std::sync::Arc::new(Ids::default());
        let log = Logger::root(std::sync::Arc::clone(&ids), o!());
        let all = one_of_each();
        all.iter().for_each(|record| record.write(&log, &Findings::default()));
        let seen = ids.0.lock().unwrap();
        assert_eq!(seen.len(), all.len());
        let without: Vec<&String> = seen.iter().filter(|(_, has)| !has).map(|(text, _)| text).collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn durations_and_numbers_read_like_prose() {
        assert_eq!(seconds(Duration::from_millis(250)), "0.25 s");
        assert_eq!(seconds(Duration::from_secs(30)), "30 s");
        assert_eq!(counted(1, "worker"), "1 worker");
        assert_eq!(counted(0, "worker"), "0 workers");
    }

    #[test]
    fn a_fault_is_its_line_and_then_its_traceback() {
        let fault = Fault { kind: None, message: "no".into(), traceback: Some("Traceback\n  x\n".into()) };
        assert_eq!(fault.to_string(), "no\nTraceback\n  x");
    }
}

//! Where records go, alike in arbiter and worker: the journal, a terminal, a file; and the access log.
//!
//! Owns the log files and the socket to the journal. Does not know who decides what is worth a record. Invariants:
//! nothing here ever waits for a reader (a record that a pipe or the journal does not take, the latter after a short
//! queue of ours is full, is dropped, counted and reported later), nothing here starts a thread, and every record is one line or one journal record whatever
//! bytes a client sent. A [`Log`] is opened after the fork by the process that uses it.

mod access;
mod clock;
mod drain;
mod escape;
pub mod event;
mod journal;
mod level;
mod output;
mod stream;

pub use access::format::{AccessFormat, AccessFormatError, DEFAULT_ACCESS_LOG_FORMAT};
pub use access::{AccessLog, AccessRecord, Lookup, NoLookup};
pub use event::MessageId;
pub use level::parse_level;
pub use output::{JournalStreams, OutputLog, Printer};

use drain::{ErrorLog, ErrorLogDrain, Form, Sink};
use journal::Journal;
use libsystemd::logging::JournalStream;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use stream::Stream;

/// How and where to log; travels from the arbiter to its workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct LogSettings {
    /// `debug`, `info`, `warning`, `error`, `critical`.
    pub level: String,
    /// `-` (stderr, or the journal where stderr is connected to it) or a path.
    pub errorlog: String,
    /// `-` (stdout, or the journal), a path, or none.
    pub accesslog: Option<String>,
    /// Gunicorn's format with its atoms.
    pub access_log_format: String,
    /// `text` or `json`.
    pub log_format: String,
    /// The instance's name, for the journal's fields.
    pub instance: String,
    /// Standard output was the journal's, and is now read by the arbiter.
    pub stdout_is_relayed: bool,
    /// Standard error was the journal's, and is now read by the arbiter.
    pub stderr_is_relayed: bool,
}

/// Which process opens the log: every record carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The arbiter, or one of the operator's tools.
    Arbiter,
    /// The mold of a generation.
    Mold {
        /// The generation's number, from 1.
        generation: u32,
    },
    /// A worker.
    Worker {
        /// The generation's number, from 1.
        generation: u32,
        /// The slot that the worker fills, from 1.
        slot: u32,
    },
}

/// The logs of one process.
///
/// Open it after the fork, and before file descriptors 1 and 2 are pointed elsewhere (`capture_output`): it keeps
/// duplicates of what they are now.
#[derive(Debug)]
pub struct Log {
    errors: Arc<ErrorLog>,
    access: Option<Arc<AccessLog>>,
    logger: slog::Logger,
    /// Whom the files were given to.
    owner: OnceLock<(Option<u32>, Option<u32>)>,
}

impl Log {
    /// Opens what the settings name. An empty setting means its default.
    ///
    /// # Errors
    /// A log file cannot be opened (the message names setting and path), the access log's format is malformed, the
    /// level is unknown, or the process has no file descriptor left.
    pub fn open(settings: &LogSettings, process: Process) -> io::Result<Self> {
        Self::open_in(settings, process, &Surroundings::of_this_process())
    }

    fn open_in(settings: &LogSettings, process: Process, around: &Surroundings<'_>) -> io::Result<Self> {
        let level = match settings.level.as_str() {
            "" => slog::Level::Info,
            name => parse_level(name).ok_or_else(|| invalid("loglevel", name, "it is not a level"))?,
        };
        let json = match settings.log_format.as_str() {
            "" | "text" => false,
            "json" => true,
            other => return Err(invalid("log_format", other, "it is neither text nor json")),
        };
        let journal = Lazy::new(around.journal_socket);
        let stdout_is_journal = settings.stdout_is_relayed || around.is_journal(around.stdout);
        let stderr_is_journal = settings.stderr_is_relayed || around.is_journal(around.stderr);
        let sink = match destination(&settings.errorlog) {
            Destination::Stderr if stderr_is_journal => Sink::Journal(journal.get()?),
            Destination::Stderr => Sink::Stream(Arc::new(Stream::duplicate(around.stderr)?)),
            Destination::Stdout if stdout_is_journal => Sink::Journal(journal.get()?),
            Destination::Stdout => Sink::Stream(Arc::new(Stream::duplicate(around.stdout)?)),
            Destination::File(path) => Sink::Stream(Arc::new(open_file("errorlog", path)?)),
        };
        let form = if json { Form::Json } else { Form::Text };
        let errors = Arc::new(ErrorLog::new(sink, form, level, process, &settings.instance));
        let access = match settings.accesslog.as_deref() {
            None | Some("") => None,
            Some(target) => {
                let sink = match destination(target) {
                    Destination::Stdout if stdout_is_journal => Sink::Journal(journal.get()?),
                    Destination::Stdout => Sink::Stream(Arc::new(Stream::duplicate(around.stdout)?)),
                    Destination::Stderr if target != "-" => Sink::Stream(Arc::new(Stream::duplicate(around.stderr)?)),
                    Destination::Stderr if stdout_is_journal => Sink::Journal(journal.get()?),
                    Destination::Stderr => Sink::Stream(Arc::new(Stream::duplicate(around.stdout)?)),
                    Destination::File(path) => Sink::Stream(Arc::new(open_file("accesslog", path)?)),
                };
                let format = match settings.access_log_format.as_str() {
                    "" => DEFAULT_ACCESS_LOG_FORMAT,
                    format => format,
                };
                let format = AccessFormat::parse(format)
                    .map_err(|error| invalid("access_log_format", format, &error.to_string()))?;
                Some(Arc::new(AccessLog::new(format, json, sink, Arc::clone(&errors))))
            }
        };
        let logger = slog::Logger::root(ErrorLogDrain(Arc::clone(&errors)), slog::o!());
        Ok(Self { errors, access, logger, owner: OnceLock::new() })
    }

    /// The root logger. Its level check is one comparison.
    pub fn logger(&self) -> slog::Logger {
        self.logger.clone()
    }

    /// The access log, if there is one.
    pub fn access(&self) -> Option<Arc<AccessLog>> {
        self.access.clone()
    }

    /// Opens the log files anew by their paths, as after a rotation (SIGUSR1). Threads may be writing meanwhile: no
    /// record is lost or torn.
    ///
    /// # Errors
    /// A file cannot be opened; records then go on to the old one.
    pub fn reopen(&self) -> io::Result<()> {
        let mut outcome = Ok(());
        for stream in self.streams() {
            let reopened = stream.reopen().and_then(|()| match self.owner.get() {
                Some((uid, gid)) => stream.give_to(*uid, *gid),
                None => Ok(()),
            });
            if let Err(error) = reopened {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Gives the log files to the user that the workers become, so that they can open them, and every file that
    /// [`Log::reopen`] makes later. Does nothing to what is not a file.
    ///
    /// # Errors
    /// fchown(2) fails.
    pub fn give_files_to(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        // Said once, when the log is opened.
        let _ = self.owner.set((uid, gid));
        self.streams().try_for_each(|stream| stream.give_to(uid, gid))
    }

    /// Changes the level of what is recorded.
    pub fn set_level(&self, level: slog::Level) {
        self.errors.set_level(level);
    }

    /// Writes a record of what was dropped since the last such record. It happens by itself with the next record that
    /// is taken; a process that may be silent for long calls this from a timer.
    pub fn report_losses(&self) {
        self.errors.report_losses();
        if let Some(access) = &self.access {
            access.report_losses();
        }
    }

    /// Sends what the journal did not take at once. It happens by itself before the next record; whoever has a timer
    /// calls this some milliseconds after [`Log::is_waiting`]. It never waits. Returns whether all of it is gone.
    pub fn flush(&self) -> bool {
        // Where both logs go to the journal it is the same one.
        self.journals().all(Journal::flush)
    }

    /// Whether records wait in this process for the journal.
    pub fn is_waiting(&self) -> bool {
        self.journals().any(Journal::is_waiting)
    }

    /// For the end of the process: gives the journal at most `limit` to take what waits, and reports what was dropped.
    pub fn finish(&self, limit: Duration) {
        self.report_losses();
        let deadline = Instant::now() + limit;
        while !self.flush() && Instant::now() < deadline {
            // Nothing says when the queue of an unconnected datagram socket's peer has room.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Records that were dropped since the log was opened, access records included.
    pub fn dropped(&self) -> u64 {
        self.errors.dropped() + self.access.as_ref().map_or(0, |access| access.dropped())
    }

    pub(crate) fn errors(&self) -> &ErrorLog {
        &self.errors
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        [Some(self.errors.sink()), self.access.as_deref().map(AccessLog::sink)].into_iter().flatten()
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.sinks().filter_map(|sink| match sink {
            Sink::Stream(stream) => Some(&**stream),
            Sink::Journal(_) => None,
        })
    }

    fn journals(&self) -> impl Iterator<Item = &Journal> {
        self.sinks().filter_map(|sink| match sink {
            Sink::Journal(journal) => Some(&**journal),
            Sink::Stream(_) => None,
        })
    }
}

/// Gives the journal a tenth of a second to take what waits. Not in a process that was forked later: the queue is not its
/// own.
impl Drop for Log {
    fn drop(&mut self) {
        if self.errors.origin().pid == std::process::id() {
            self.finish(Duration::from_millis(100));
        }
    }
}

/// What surrounds the process: replaced by tests.
struct Surroundings<'a> {
    stdout: BorrowedFd<'a>,
    stderr: BorrowedFd<'a>,
    /// What `JOURNAL_STREAM` names, see systemd.exec(5).
    journal_stream: Option<JournalStream>,
    journal_socket: &'a Path,
}

impl Surroundings<'static> {
    fn of_this_process() -> Self {
        // SAFETY: standard output and error are open for the life of the process; where they are not, every use of
        // them here ends in EBADF, which is reported.
        let (stdout, stderr) = unsafe { (BorrowedFd::borrow_raw(1), BorrowedFd::borrow_raw(2)) };
        Self {
            stdout,
            stderr,
            journal_stream: JournalStream::from_env().ok(),
            journal_socket: Path::new(journal::SOCKET_PATH),
        }
    }
}

impl Surroundings<'_> {
    /// Whether `fd` is the stream that systemd connected to the journal.
    fn is_journal(&self, fd: BorrowedFd<'_>) -> bool {
        self.journal_stream
            .as_ref()
            .is_some_and(|stream| JournalStream::from_fd(fd.as_fd()).is_ok_and(|found| found == *stream))
    }
}

/// The one journal socket of a log, made when it is first wanted.
struct Lazy<'a> {
    path: &'a Path,
    made: std::cell::OnceCell<Arc<Journal>>,
}

impl<'a> Lazy<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, made: std::cell::OnceCell::new() }
    }

    fn get(&self) -> io::Result<Arc<Journal>> {
        if let Some(journal) = self.made.get() {
            return Ok(Arc::clone(journal));
        }
        let journal = Arc::new(Journal::open(self.path)?);
        Ok(Arc::clone(self.made.get_or_init(|| journal)))
    }
}

enum Destination {
    Stdout,
    Stderr,
    File(PathBuf),
}

/// Reads `errorlog` or `accesslog`. `/dev/stderr` and the like are taken for the descriptors that they mean: opened by
/// path they fail with ENXIO where they are sockets, as under systemd.
fn destination(setting: &str) -> Destination {
    match setting {
        "" | "-" | "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => Destination::Stderr,
        "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => Destination::Stdout,
        path => Destination::File(PathBuf::from(path)),
    }
}

fn open_file(setting: &str, path: PathBuf) -> io::Result<Stream> {
    let shown = path.display().to_string();
    Stream::open(path).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                " (by ProtectSystem= of the unit? Log to the journal with \"-\", or write LogsDirectory= or ReadWritePaths= into \
                 a drop-in)"
            }
            _ => "",
        };
        io::Error::new(error.kind(), format!("{setting} = \"{shown}\": {error}{hint}"))
    })
}

fn invalid(setting: &str, value: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{setting} = \"{value}\": {why}"))
}

#[cfg(test)]
mod tests;

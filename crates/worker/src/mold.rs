//! The mold: an interpreter with this module, and the application when `preload_app` is on, that forks workers.
//!
//! Runs in the main thread of the application's interpreter, single-threaded as far as we are concerned. Waits for the
//! arbiter without the interpreter lock, obeys one message at a time, and in each forked worker leaves its own loop for
//! [`crate::worker::run`].

use crate::application::{self, Application};
use crate::drivers::gevent;
use crate::fork::{Role, fork_worker};
use crate::worker::{self, Place};
use crate::{identity, offspring, output, signals, stacks};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pyo3::prelude::*;
use rgunicorn_protocol::{BootFault, BootFaultKind, Channel, FromWorker, Received, ToWorker, VERSION, WorkerSettings};
use rgunicorn_reactor::Mark;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// What a worker inherits from its mold.
pub(crate) struct Mold {
    pub(crate) settings: WorkerSettings,
    /// In the order of `settings.listeners`, then handoff and scoreboard.
    pub(crate) fds: Vec<OwnedFd>,
    /// The application, if it is preloaded.
    pub(crate) application: Option<Application>,
}

/// Becomes the mold, and in its children the workers. Returns the exit status.
#[pyfunction]
#[pyo3(name = "mold")]
pub(crate) fn run(py: Python<'_>, channel_fd: i32) -> i32 {
    signals::ignore();
    // SAFETY: the arbiter has put the channel there, and nobody else in this process knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(channel_fd) };
    let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
    let channel = Channel::adopt(fd);
    say_hello(py, &channel, 0);
    match configure(py, &channel) {
        Ok(Some(mold)) => obey(py, channel, mold),
        Ok(None) => 0,
        Err(fault) => {
            let _ = channel.send(&FromWorker::BootFault(fault), &[]);
            1
        }
    }
}

pub(crate) fn say_hello(py: Python<'_>, channel: &Channel, worker: u64) {
    let hello = FromWorker::Hello {
        worker,
        pid: std::process::id() as i32,
        version: VERSION.to_owned(),
        interpreter: application::interpreter(py),
    };
    // An arbiter that cannot be told is gone; the next read from the channel shows it.
    let _ = channel.send(&hello, &[]);
}

/// Waits for one message; none when the arbiter is gone or has sent nonsense.
fn next_message(py: Python<'_>, channel: &Channel) -> Option<(ToWorker, Vec<OwnedFd>)> {
    loop {
        match channel.receive::<ToWorker>() {
            Ok(Received::Message(message, fds)) => return Some((message, fds)),
            Ok(Received::Empty) => {
                py.detach(|| {
                    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
                    let _ = poll(&mut fds, PollTimeout::NONE);
                });
                if let Err(error) = py.check_signals() {
                    error.print(py);
                }
            }
            Ok(Received::Unreadable(_) | Received::Ended) | Err(_) => return None,
        }
    }
}

/// Waits for the settings and makes this process what they say.
fn configure(py: Python<'_>, channel: &Channel) -> Result<Option<Mold>, BootFault> {
    let (settings, fds) = loop {
        match next_message(py, channel) {
            Some((ToWorker::Configure(settings), fds)) => break (*settings, fds),
            Some((ToWorker::Ping { id }, _)) => {
                let _ = channel.send(&FromWorker::Pong { id }, &[]);
            }
            Some(_) | None => return Ok(None),
        }
    };
    if settings.version != VERSION {
        return Err(BootFault {
            kind: BootFaultKind::Version,
            message: format!(
                "the worker module is version {VERSION} and rgunicorn is version {}: upgrade or restart rgunicorn, so \
                 that both come from the same package",
                settings.version
            ),
            traceback: None,
        });
    }
    identity::take(&settings)?;
    application::prepare(py, &settings)?;
    if settings.worker_class == "gevent" {
        gevent::patch(py)?;
    }
    if let Err(error) = offspring::register(py) {
        // Its children then keep our sockets.
        error.print(py);
    }
    let _marks = Mark::all(&fds, channel);
    let mut warnings = Vec::new();
    let application = if settings.preload_app {
        let load = || application::load(py, &settings);
        let load = || stacks::watched(py, channel, settings.boot_timeout, load);
        let application = output::captured(py, &settings, load)?;
        let mut kept: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        kept.push(channel.as_raw_fd());
        warnings = application::freeze(py, &kept);
        if settings.preload_strict && !warnings.is_empty() {
            let message = format!("preload_strict: {}", warnings.join("; "));
            return Err(BootFault { kind: BootFaultKind::Import, message, traceback: None });
        }
        Some(application)
    } else {
        None
    };
    identity::set_title(&settings, "mold");
    let _ = channel.send(&FromWorker::Ready { warnings }, &[]);
    Ok(Some(Mold { settings, fds, application }))
}

fn obey(py: Python<'_>, channel: Channel, mold: Mold) -> i32 {
    while let Some((message, mut fds)) = next_message(py, &channel) {
        match message {
            ToWorker::Fork { slot, worker, sheet, occasion } => {
                let Some(fd) = fds.pop() else { continue };
                match fork_worker(py) {
                    Role::Worker => {
                        drop(channel);
                        if let Some(printed) = fds.pop() {
                            output::replace(&mold.settings, printed);
                        }
                        return worker::run(py, mold, Channel::adopt(fd), Place { slot, worker, sheet, occasion });
                    }
                    Role::Mold(Ok(())) => {}
                    Role::Mold(Err(reason)) => {
                        let _ = channel.send(&FromWorker::ForkFailed { worker, reason }, &[]);
                    }
                }
            }
            ToWorker::Ping { id } => {
                let _ = channel.send(&FromWorker::Pong { id }, &[]);
            }
            ToWorker::Retire { .. } | ToWorker::Stop => break,
            ToWorker::Configure(_)
            | ToWorker::Promote
            | ToWorker::Workers { .. }
            | ToWorker::Drain { .. }
            | ToWorker::ReopenLogs => {}
        }
    }
    leave(py)
}

/// Ends the mold, as Python ends but for one thing: threads that a preloaded application has started are not waited for,
/// since here they serve nobody.
fn leave(py: Python<'_>) -> ! {
    let tidy = || -> PyResult<()> {
        py.import("atexit")?.call_method0("_run_exitfuncs")?;
        let sys = py.import("sys")?;
        for stream in ["stdout", "stderr"] {
            let stream = sys.getattr(stream)?;
            if !stream.is_none() {
                stream.call_method0("flush")?;
            }
        }
        Ok(())
    };
    // What an application registered for the end may fail; the end comes all the same.
    let _ = tidy();
    // SAFETY: it ends the process without running anything of it.
    unsafe { libc::_exit(0) }
}

//! Where descriptors 1 and 2 lead: to the arbiter, who makes records of what is printed, or by `capture_output` to the
//! file of `errorlog`.
//!
//! A worker gets a socket of its own in the place of its mold's right after the fork, so that what its children print is
//! known to be its own. They are moved to the file in each worker, after its own logs were opened (an access log on
//! stdout stays there), again when log files are reopened, and in the mold while it imports a preloaded application.
//! Invariant: where `errorlog` is no file nothing is captured, and what is not the arbiter's is not replaced.

use pyo3::prelude::*;
use rgunicorn_protocol::WorkerSettings;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Lets those of descriptors 1 and 2 that lead to the arbiter lead to `printed`.
pub(crate) fn replace(settings: &WorkerSettings, printed: OwnedFd) {
    for (target, relayed) in [(1, settings.log.stdout_is_relayed), (2, settings.log.stderr_is_relayed)] {
        if relayed {
            // Where that fails they lead where the mold's do, and the arbiter looks for the worker by its pid.
            let _ = place(printed.as_raw_fd(), target);
        }
    }
}

/// Lets descriptors 1 and 2 lead to the file of `errorlog`.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn capture(settings: &WorkerSettings) -> io::Result<()> {
    let path = settings.log.errorlog.as_str();
    if !settings.capture_output || !path.starts_with('/') || path.starts_with("/dev/") || path.starts_with("/proc/") {
        return Ok(());
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    for target in [1, 2] {
        place(file.as_raw_fd(), target)?;
    }
    Ok(())
}

/// Runs `work` with the output captured, and then lets the descriptors lead where they led before.
pub(crate) fn captured<T>(py: Python<'_>, settings: &WorkerSettings, work: impl FnOnce() -> T) -> T {
    if !settings.capture_output {
        return work();
    }
    let before = [duplicate(1), duplicate(2)];
    let taken = capture(settings).is_ok();
    let result = work();
    if taken {
        flush(py);
        for (before, target) in before.into_iter().zip([1, 2]) {
            // If there was none to be kept, the file is better than nothing.
            let _ = before.map(|before| place(before.as_raw_fd(), target));
        }
    }
    result
}

/// Writes out what Python has buffered, since it would go elsewhere later, and once per worker.
fn flush(py: Python<'_>) {
    for name in ["stdout", "stderr"] {
        let _ = py.import("sys").and_then(|sys| sys.getattr(name)).and_then(|stream| stream.call_method0("flush"));
    }
}

fn duplicate(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) on a number; it fails with EBADF if nothing is open there.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new fd that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn place(fd: i32, target: i32) -> io::Result<()> {
    // SAFETY: dup2(2) onto standard output or error, which nobody owns and everybody uses by number.
    if unsafe { libc::dup2(fd, target) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

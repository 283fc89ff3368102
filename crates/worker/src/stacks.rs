//! The Python stack of one thread, taken from outside while it computes, sleeps or holds the interpreter lock.
//!
//! `faulthandler` writes the stack of the thread that a signal reaches, from the signal's handler, without the lock; the
//! signal is sent to exactly that thread (tgkill(2)). It writes to a memfd, which is read when it has stopped growing.

use nix::sys::memfd::{MFdFlags, memfd_create};
use pyo3::prelude::*;
use rgunicorn_reactor::TakeStack;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a stack is waited for. A thread that is in the kernel for good (a hung file system) gives none.
const WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A real-time signal that neither glibc nor Python uses. Taken when the module is loaded, after the application's own
/// choice could not be known; an application that uses the same one gets its own handler and loses only these stacks.
fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

/// Lets the calling thread receive the signal.
pub(crate) fn unblock() {
    // SAFETY: the set is initialised before it is used, and only this thread's mask changes.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Prepares the interpreter; what comes back takes stacks, or none if `faulthandler` is not to be had.
pub(crate) fn taker(py: Python<'_>) -> TakeStack {
    let file = register(py).ok().map(Mutex::new);
    Box::new(move |thread| {
        let file = file.as_ref()?;
        let mut file = file.lock().ok()?;
        take(&mut file, thread)
    })
}

fn register(py: Python<'_>) -> PyResult<File> {
    let fd = memfd_create(c"rgunicorn-stack", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from)?;
    let kwargs = pyo3::types::PyDict::new(py);
    kwargs.set_item("file", fd.as_raw_fd())?;
    kwargs.set_item("all_threads", false)?;
    py.import("faulthandler")?.call_method("register", (signal(),), Some(&kwargs))?;
    Ok(File::from(fd))
}

fn take(file: &mut File, thread: i32) -> Option<String> {
    if thread == 0 {
        return None;
    }
    file.set_len(0).ok()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    // SAFETY: tgkill touches no memory; the signal has a handler (register), so it ends nothing.
    if unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal()) } != 0 {
        return None;
    }
    let until = Instant::now() + WITHIN;
    let mut length = 0;
    while Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
        let now = file.metadata().ok()?.len();
        if now > 0 && now == length {
            break;
        }
        length = now;
    }
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(64 * 1024).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

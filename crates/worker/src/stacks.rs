//! The Python stack of one thread, taken from outside while it computes, sleeps or holds the interpreter lock.
//!
//! `faulthandler` writes the stack of the thread that a signal reaches, from the signal's handler, without the lock; the
//! signal is sent to exactly that thread (tgkill(2)). It writes to a memfd, which is read when the handler has returned: the
//! kernel shows of each thread whether the signal is pending, and has it blocked while its handler runs (proc(5)).
//!
//! An import has no standby beside it: no thread of ours may exist while a preloading mold imports, or forks of the
//! application would be warned about. So a timer sends the signal, and the arbiter, which has the memfd too, reads it when
//! `boot_timeout` has passed.

use nix::sys::memfd::{MFdFlags, memfd_create};
use pyo3::prelude::*;
use rgunicorn_protocol::{Channel, FromWorker};
use rgunicorn_reactor::TakeStack;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a stack is waited for. A thread that is in the kernel for good (a hung file system) gives none.
const WITHIN: Duration = Duration::from_millis(500);
/// A stack is written within some hundred microseconds, and other lanes may wait for theirs.
const LOOK_EVERY: Duration = Duration::from_micros(250);

/// A real-time signal that neither glibc nor Python uses. Taken when the module is loaded, after the application's own
/// choice could not be known; an application that uses the same one gets its own handler and loses only these stacks.
fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

/// How long before the end of `boot_timeout` the stack is taken: the arbiter's clock began before the import did.
const BEFORE_THE_END: Duration = Duration::from_secs(3);

/// Runs `import` in this thread; if it takes nearly as long as `boot_timeout` (seconds, 0: for ever), its stack goes to the
/// arbiter.
pub(crate) fn watched<T>(py: Python<'_>, channel: &Channel, boot_timeout: f64, import: impl FnOnce() -> T) -> T {
    let timeout = Duration::try_from_secs_f64(boot_timeout).unwrap_or_default();
    let after = timeout.saturating_sub(BEFORE_THE_END).max(timeout.mul_f64(0.5));
    // Without it nothing is missing but a stack.
    let watch = if after.is_zero() { None } else { register(py).ok().and_then(|file| Timer::start(after, file)) };
    if let Some(timer) = &watch {
        let _ = channel.send(&FromWorker::Importing, &[timer.file.as_fd()]);
    }
    let result = import();
    if let Some(timer) = watch {
        timer.stop(py);
    }
    result
}

/// A timer that sends the signal to the thread that made it, once. Children that the application forks do not have it
/// (timer_create(2)).
struct Timer {
    id: libc::timer_t,
    file: File,
}

impl Timer {
    fn start(after: Duration, file: File) -> Option<Timer> {
        let mut id: libc::timer_t = std::ptr::null_mut();
        let at = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).ok()?,
            tv_nsec: libc::c_long::from(i32::try_from(after.subsec_nanos()).ok()?),
        };
        let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        // SAFETY: all pointers are to values that live longer than the calls; the signal has a handler (register), so it
        // ends nothing.
        unsafe {
            let mut event = std::mem::zeroed::<libc::sigevent>();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            event.sigev_notify_thread_id = libc::gettid();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) != 0 {
                return None;
            }
            if libc::timer_settime(id, 0, &raw const once, std::ptr::null_mut()) != 0 {
                libc::timer_delete(id);
                return None;
            }
        }
        Some(Timer { id, file })
    }

    /// A signal that was sent before has been handled when timer_delete(2) returns to this thread, so the handler can go.
    fn stop(self, py: Python<'_>) {
        // SAFETY: made by `start`, deleted once.
        unsafe { libc::timer_delete(self.id) };
        let _ = py.import("faulthandler").and_then(|module| module.call_method1("unregister", (signal(),)));
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
    if thread == 0 || !has_handler() || Delivery::of(thread)? == Delivery::Blocked {
        return None;
    }
    file.set_len(0).ok()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    // SAFETY: tgkill touches no memory; the signal has a handler, so it ends nothing.
    if unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, signal()) } != 0 {
        return None;
    }
    let until = Instant::now() + WITHIN;
    // For an instant on its way from pending to its handler the signal is neither: so the file is looked at first. Once
    // anything is in it the handler runs or has run.
    let taken = |file: &File| Some(file.metadata().ok()?.len() > 0 && Delivery::of(thread)? == Delivery::Over);
    while !taken(file)? && Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
    }
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(64 * 1024).read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

/// Whether the signal still has a handler, which an application may have taken away: it would end the worker, or be
/// waited for in vain.
fn has_handler() -> bool {
    // SAFETY: it only asks, into a value that lives longer than the call.
    let handler = unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        if libc::sigaction(signal(), std::ptr::null(), &raw mut action) != 0 {
            return false;
        }
        action.sa_sigaction
    };
    handler != libc::SIG_DFL && handler != libc::SIG_IGN
}

/// Where the signal is on its way through a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// Sent, and the thread has not run since.
    Pending,
    /// Not accepted: its handler runs, or the application has blocked it, and then it would stay for ever.
    Blocked,
    /// Not there.
    Over,
}

impl Delivery {
    /// None: there is no such thread, or no /proc.
    fn of(thread: i32) -> Option<Delivery> {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
        let has = |name: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(u64::from_str_radix(mask.trim(), 16).ok()? >> (signal() - 1) & 1 == 1)
        };
        Some(match (has("SigPnd:")?, has("SigBlk:")?) {
            (_, true) => Delivery::Blocked,
            (true, false) => Delivery::Pending,
            (false, false) => Delivery::Over,
        })
    }
}

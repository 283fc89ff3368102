//! The signals that molds and workers do not obey: what the arbiter is asked by signal, it tells them by channel.
//!
//! `systemctl kill -s HUP` signals every process of the unit, a terminal every process of its group. The handlers are
//! empty and not SIG_IGN, which programs that the application starts would inherit; SA_RESTART keeps system calls of the
//! application from failing with EINTR.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, pthread_sigmask, sigaction};
use rgunicorn_protocol::TOLD_BY_CHANNEL;
use std::cell::Cell;

extern "C" fn nothing(_: libc::c_int) {}

/// Installs the empty handlers, and takes away the mask under which the arbiter has started this process: until now any
/// of these signals would have ended it.
pub(crate) fn ignore() {
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for signal in TOLD_BY_CHANNEL {
        // SAFETY: the handler does nothing, so it is async-signal-safe.
        let _ = unsafe { sigaction(signal, &action) };
    }
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Gives a child that the application forked the defaults back, where our empty handler still stands.
pub(crate) fn restore_defaults() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in TOLD_BY_CHANNEL {
        // SAFETY: SIG_DFL is always a valid disposition; the old one is put back if it is not ours.
        unsafe {
            if let Ok(old) = sigaction(signal, &default) {
                let ours = matches!(old.handler(), SigHandler::Handler(handler) if handler as usize == nothing as *const () as usize);
                if !ours {
                    let _ = sigaction(signal, &old);
                }
            }
        }
    }
}

thread_local! {
    /// The mask of a thread that is about to fork.
    static BEFORE_FORK: Cell<Option<SigSet>> = const { Cell::new(None) };
}

/// The application is about to fork in this thread. A signal that comes to the child before it has its defaults back would
/// find our empty handlers: until then it waits.
pub(crate) fn hold_for_fork() {
    let mut before = SigSet::empty();
    if pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::from_iter(TOLD_BY_CHANNEL)), Some(&mut before)).is_ok() {
        BEFORE_FORK.set(Some(before));
    }
}

/// It has forked: in the parent, and in the child once that has its defaults.
pub(crate) fn release_after_fork() {
    if let Some(before) = BEFORE_FORK.take() {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
}

/// Runs `start` with every signal blocked, so that the threads of ours that it makes never take one: Python's handlers run
/// in the main thread, which must be the one that is interrupted. Not for threads in which the application runs, since
/// what it starts there would inherit the mask.
pub(crate) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    let mut before = SigSet::empty();
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before));
    let result = start();
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    result
}

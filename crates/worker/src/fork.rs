//! The double fork: a worker becomes the arbiter's own child.
//!
//! The mold forks an intermediate process, which forks the worker and exits at once. The worker is then an orphan, and
//! orphans go to the nearest child subreaper, the arbiter (PR_SET_CHILD_SUBREAPER(2const)). When the mold has reaped the
//! intermediate, the worker already is the arbiter's: the kernel finds new parents before it lets a parent reap.
//! Python's own preparations for a fork run once on each side, around both forks; the intermediate runs no Python.

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which process this is now.
pub(crate) enum Role {
    /// The caller, with the outcome.
    Mold(Result<(), String>),
    /// The worker.
    Worker,
}

/// What fork(2) has refused, and where the limit is.
fn refused(errno: nix::errno::Errno) -> String {
    let limit = match errno {
        nix::errno::Errno::EAGAIN => {
            ": no further process or thread is allowed (TasksMax= of the unit, ulimit -u, kernel.pid_max)"
        }
        nix::errno::Errno::ENOMEM => ": there is no memory for another process",
        _ => "",
    };
    format!("fork failed: {}{limit}", errno.desc())
}

/// A fork of ours is under way, of which the hooks for children of the application must not take notice.
pub(crate) static FORKING: AtomicBool = AtomicBool::new(false);

/// Forks a worker.
pub(crate) fn fork_worker(py: Python<'_>) -> Role {
    FORKING.store(true, Ordering::Relaxed);
    let role = fork_twice(py);
    FORKING.store(false, Ordering::Relaxed);
    role
}

fn fork_twice(_py: Python<'_>) -> Role {
    // SAFETY: attached, in the main thread; each of the three functions is called as its documentation asks.
    unsafe { pyo3::ffi::PyOS_BeforeFork() };
    // SAFETY: the child runs nothing but fork(2) and _exit(2) until it is the worker, and the mold has no other thread
    // of ours; what an application's native threads hold at a fork is what a preloading mold warns about.
    let first = unsafe { fork() };
    match first {
        Err(errno) => {
            // SAFETY: as above.
            unsafe { pyo3::ffi::PyOS_AfterFork_Parent() };
            Role::Mold(Err(refused(errno)))
        }
        Ok(ForkResult::Child) => {
            // SAFETY: as above.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => {
                    // SAFETY: as above.
                    unsafe { pyo3::ffi::PyOS_AfterFork_Child() };
                    Role::Worker
                }
                // SAFETY: _exit runs no handlers and touches no memory.
                Ok(ForkResult::Parent { .. }) => unsafe { libc::_exit(0) },
                // SAFETY: as above.
                Err(errno) => unsafe { libc::_exit(errno as i32) },
            }
        }
        Ok(ForkResult::Parent { child }) => {
            // SAFETY: as above.
            unsafe { pyo3::ffi::PyOS_AfterFork_Parent() };
            loop {
                match waitpid(child, Some(WaitPidFlag::empty())) {
                    Err(nix::errno::Errno::EINTR) => {}
                    Ok(WaitStatus::Exited(_, 0)) => return Role::Mold(Ok(())),
                    Ok(WaitStatus::Exited(_, code)) => {
                        let errno = nix::errno::Errno::from_raw(code);
                        return Role::Mold(Err(refused(errno)));
                    }
                    // An application's SIGCHLD handler may have reaped it; then it has exited.
                    Err(_) => return Role::Mold(Ok(())),
                    Ok(status) => return Role::Mold(Err(format!("the intermediate process ended: {status:?}"))),
                }
            }
        }
    }
}

//! Children: looking at the dead, reaping them, noticing the stopped, killing the living.
//!
//! Owns waitid(2) and pidfds. Knows nothing of generations. Invariant: nothing is killed that is not our own child, so a
//! pid that was claimed by mistake or by malice, or one that is used again, never hits a stranger.
//!
//! The races, and why they are none:
//! - A worker dies after its Hello, before the Hello was read: a dead child is looked at (WNOWAIT) before it is reaped;
//!   if its pid is unknown, all channels are read first. What a dead process said it said before it died.
//! - A worker dies before its Hello: its channel ends, as nobody else has its other end; that is its exit. The pid is
//!   reaped as an orphan.
//! - A worker's exit is noticed before its last words are read: its channel is read to the end before the exit is
//!   reported.
//! - A pid is used again: the kernel does not, while the zombie is not reaped; after that no pidfd of it is kept.
//! - SIGCHLD for several children is one: all dead children are looked at each time.
//! - A worker says Hello while its parent, the mold's short-lived child, has not left yet: it is not our child then, so
//!   waitid(2) says ECHILD. The kernel signals us when it becomes our child, dead or alive.
//! - A mold dies with orders to fork unread: the workers' ends of the channels die with its queue, each channel ends.
//! - A channel ends, the process lives (the application closed our fd): it has a time to be gone, then it is killed.

use super::event::Exit;
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A handle of a process that cannot come to mean another one.
#[derive(Debug)]
pub(super) struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Opens the process.
    ///
    /// # Errors
    /// ESRCH if there is none; EMFILE, ENFILE, ENOMEM.
    pub(super) fn open(pid: i32) -> io::Result<PidFd> {
        // SAFETY: pidfd_open(2) takes two numbers; what it returns is a new fd, CLOEXEC, that nobody else knows.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
        // SAFETY: see above.
        Ok(PidFd { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// SIGKILL, if it is our child.
    ///
    /// # Errors
    /// `NotFound` if it is not, or not yet; ESRCH if it is gone.
    pub(super) fn kill(&self) -> io::Result<()> {
        match wait(libc::P_PIDFD, self.fd.as_raw_fd().cast_unsigned(), libc::WNOWAIT) {
            Ok(None) => {}
            Ok(Some(_)) => return Ok(()),
            Err(Errno::ECHILD) => return Err(io::Error::new(io::ErrorKind::NotFound, "not a child of the arbiter")),
            Err(errno) => return Err(errno.into()),
        }
        let no_information: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: pidfd_send_signal(2) on our fd; a null siginfo means that of kill(2).
        let sent = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), libc::SIGKILL, no_information, 0)
        };
        Errno::result(sent)?;
        Ok(())
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A child that has ended and is not reaped yet, if there is one. The same one is returned until it is reaped.
pub(super) fn poll_dead() -> Option<i32> {
    wait(libc::P_ALL, 0, libc::WNOWAIT).ok().flatten().map(|(pid, _)| pid)
}

/// Reaps a child that has ended.
pub(super) fn reap(pid: i32) -> Option<Exit> {
    wait(libc::P_PID, pid.cast_unsigned(), 0).ok().flatten().map(|(_, exit)| exit)
}

/// A child that was stopped or continued since the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// By this signal.
    Stopped {
        pid: i32,
        signal: i32,
    },
    Continued {
        pid: i32,
    },
}

/// The next child that was stopped or continued, if there is one; each change is told once, and one that was undone
/// meanwhile may not be told at all. A child that is traced tells its tracer instead (ptrace(2)).
pub(super) fn poll_paused() -> Option<Pause> {
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `found` lives through the call and is large enough.
    let result =
        unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG) };
    Errno::result(result).ok()?;
    // SAFETY: waitid(2) has filled these fields, or left them zero when nothing has happened.
    let (pid, status) = unsafe { (found.si_pid(), found.si_status()) };
    match (pid, found.si_code) {
        (0, _) => None,
        (pid, libc::CLD_CONTINUED) => Some(Pause::Continued { pid }),
        (pid, _) => Some(Pause::Stopped { pid, signal: status }),
    }
}

/// waitid(2) for ended children, never waiting. nix's own fails on a child that a real-time signal killed.
fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> Result<Option<(i32, Exit)>, Errno> {
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `found` lives through the call and is large enough.
        let result = unsafe { libc::waitid(kind, id, &raw mut found, libc::WEXITED | libc::WNOHANG | flags) };
        match Errno::result(result) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // SAFETY: waitid(2) has filled these fields, or left them zero when no child has ended.
    let (pid, status) = unsafe { (found.si_pid(), found.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let exit = match found.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        libc::CLD_DUMPED => Exit::Signal { signal: status, core: true },
        _ => Exit::Signal { signal: status, core: false },
    };
    Ok(Some((pid, exit)))
}

/// Kills whatever the application has left below us, and what that leaves in turn. Returns how many there were. Waits
/// for at most `limit`; for the very end of the arbiter, where no systemd does this.
pub(super) fn kill_orphans(limit: Duration) -> usize {
    let end = Instant::now() + limit;
    let mut killed = 0;
    loop {
        while let Some(pid) = poll_dead() {
            reap(pid);
        }
        let children = children();
        if children.is_empty() || Instant::now() >= end {
            return killed;
        }
        for pid in children {
            let Ok(child) = PidFd::open(pid) else { continue };
            if child.kill().is_ok() {
                killed += 1;
            }
            let mut ready = [nix::poll::PollFd::new(child.as_fd(), nix::poll::PollFlags::POLLIN)];
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            let timeout = nix::poll::PollTimeout::try_from(left).unwrap_or(nix::poll::PollTimeout::ZERO);
            let _ = nix::poll::poll(&mut ready, timeout);
        }
    }
}

/// Our children, where the kernel tells (CONFIG_PROC_CHILDREN).
fn children() -> Vec<i32> {
    let me = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

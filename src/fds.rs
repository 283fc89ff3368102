//! Fds that outlive the program: kept open over execve(2) by the one, adopted under the same number by the next.
//!
//! Owns the CLOEXEC flag on the way. Invariant: every fd of ours is CLOEXEC at any time but between [`keep`] and the
//! execution, when nothing else can be executed: the arbiter has one thread.

use nix::errno::Errno;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Lets the fd survive execve(2), or no longer.
///
/// # Errors
/// EBADF.
pub(crate) fn keep(fd: RawFd, keep: bool) -> io::Result<()> {
    // SAFETY: F_SETFD changes a flag; of an fd that is not open it says EBADF.
    let set = unsafe { libc::fcntl(fd, libc::F_SETFD, if keep { 0 } else { libc::FD_CLOEXEC }) };
    Errno::result(set)?;
    Ok(())
}

/// Takes over what the program before this one has kept under this number.
///
/// # Errors
/// EBADF.
pub(crate) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    keep(number, false)?;
    // SAFETY: it is open, and the program before us has kept it for exactly one taker.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

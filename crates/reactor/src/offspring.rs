//! Which fds a process that the application forks must not keep.
//!
//! A bit per fd number, set while the fd is ours. The child reads it right after the fork, when no lock can be taken
//! (another thread of the parent may have held it), so it is a static array of atomics and nothing else.

use rgunicorn_protocol::Channel;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// As many fds as the kernel's default fs.nr_open allows a process; the pages of the array exist once they are touched.
const MOST_FDS: usize = 1 << 20;

static OURS: [AtomicU64; MOST_FDS / 64] = [const { AtomicU64::new(0) }; MOST_FDS / 64];

/// This process is a child of the application's.
static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this process was forked by the application. It shares the scoreboard with the worker, but has no part in it.
pub fn in_child() -> bool {
    IN_CHILD.load(Ordering::Relaxed)
}

/// Ends this process with `status` if the application has forked it: what comes back from the application there is a
/// second copy of the lane, and would answer, accept and take the worker's orders. Says so by one write, since a thread
/// that did not survive the fork may have held any lock.
pub fn leave_if_child(status: i32) {
    const TEXT: &[u8] = b"A process that the application forked has come back from the request that forked it, and is \
        ended; it should end by os._exit()\n";
    if in_child() {
        // SAFETY: write reads a static text of this length; _exit runs no handlers and touches no memory.
        unsafe {
            libc::write(2, TEXT.as_ptr().cast(), TEXT.len());
            libc::_exit(status)
        }
    }
}

/// Marks an fd that is owned elsewhere as one that no child of the application keeps, for as long as this lives. To be
/// dropped before the fd is closed.
#[derive(Debug)]
pub struct Mark(RawFd);

impl Mark {
    /// Marks what a process was lent, and its channel.
    pub fn all(fds: &[OwnedFd], channel: &Channel) -> Vec<Mark> {
        fds.iter().map(AsFd::as_fd).chain([channel.as_fd()]).map(Mark::new).collect()
    }

    pub(crate) fn new(fd: BorrowedFd<'_>) -> Mark {
        if let Some((word, bit)) = word(fd.as_raw_fd()) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Mark(fd.as_raw_fd())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if let Some((word, bit)) = word(self.0) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

fn word(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    OURS.get(fd / 64).map(|word| (word, 1 << (fd % 64)))
}

/// An fd that no child of the application keeps.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Dropped first: the number may be the application's an instant after the fd is closed.
    _mark: Mark,
    fd: OwnedFd,
    /// Somebody has begun to answer the request in hand: the lane, or the standby when its time was over.
    answered: AtomicBool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Socket {
        Socket { _mark: Mark::new(fd.as_fd()), fd, answered: AtomicBool::new(false) }
    }

    /// A new request is in hand.
    pub(crate) fn ask(&self) {
        self.answered.store(false, Ordering::Relaxed);
    }

    /// Whether the caller is the first to answer.
    pub(crate) fn claim(&self) -> bool {
        !self.answered.swap(true, Ordering::AcqRel)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Closes all our fds. For a child that the application has just forked, in its only thread. Async-signal-safe.
pub fn close_in_child() {
    IN_CHILD.store(true, Ordering::Relaxed);
    for (n, word) in OURS.iter().enumerate() {
        let mut bits = word.load(Ordering::Relaxed);
        while bits != 0 {
            let fd = n * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // SAFETY: the fd is one of ours, and in this process nothing of ours will run again.
            unsafe { libc::close(fd as RawFd) };
        }
    }
}

//! Memory that several processes share, as references to atomics. All unsafe code of the scoreboard is here.
//!
//! Owns mmap(2) and munmap(2). Knows nothing of what the memory means. Invariant: whatever is read through a mapping is
//! an atomic integer, for which every bit pattern is a value, so no process can make another one misbehave by what it
//! writes; and the file behind it is sealed against shrinking (or is anonymous), so no access is a SIGBUS.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Types that may lie in memory that other processes write to.
///
/// # Safety
/// The type is `repr(C)` and made of nothing but atomic integers, so it has no invalid value, no padding that matters
/// and no destructor, and all zeroes is its first value.
pub(super) unsafe trait Plain {}

// SAFETY: `repr(C)`, atomics alone.
unsafe impl Plain for super::Header {}
// SAFETY: `repr(C)`, atomics alone.
unsafe impl Plain for super::tally::SharedTally {}
// SAFETY: `repr(C)`, atomics alone.
unsafe impl Plain for super::sheet::Head {}
// SAFETY: `repr(C)`, atomics alone.
unsafe impl Plain for super::lane::LaneRecord {}

/// One `H` and behind it a number of `R`s.
#[derive(Debug)]
pub(super) struct Mapping<H: Plain, R: Plain> {
    start: NonNull<H>,
    rest: usize,
    types: PhantomData<(H, R)>,
}

// SAFETY: the memory stays mapped for as long as the value lives, wherever it lives, and is only accessed atomically.
unsafe impl<H: Plain, R: Plain> Send for Mapping<H, R> {}
// SAFETY: as above.
unsafe impl<H: Plain, R: Plain> Sync for Mapping<H, R> {}

impl<H: Plain, R: Plain> Mapping<H, R> {
    /// Bytes of one `H` and `rest` `R`s. `None`: more than there can be.
    pub(super) fn length(rest: usize) -> Option<usize> {
        size_of::<R>().checked_mul(rest)?.checked_add(size_of::<H>()).filter(|length| isize::try_from(*length).is_ok())
    }

    /// Maps shared memory at `offset` (a multiple of the page) of a file that cannot shrink and is long enough.
    ///
    /// # Errors
    /// Those of mmap(2); `InvalidInput` if the file could shrink below the mapping or is too short.
    pub(super) fn shared(file: BorrowedFd<'_>, offset: u64, rest: usize) -> io::Result<Self> {
        let seals = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GET_SEALS)?;
        let length = nix::sys::stat::fstat(file)?.st_size;
        let needed = Self::length(rest).and_then(|needed| offset.checked_add(needed as u64));
        let fits = needed.is_some_and(|needed| u64::try_from(length).is_ok_and(|length| needed <= length));
        if seals & libc::F_SEAL_SHRINK == 0 || !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a scoreboard, or one that was cut"));
        }
        Self::map(Some(file), offset, rest)
    }

    /// Maps memory that only this process and its children have.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn anonymous(rest: usize) -> io::Result<Self> {
        Self::map(None, 0, rest)
    }

    fn map(file: Option<BorrowedFd<'_>>, offset: u64, rest: usize) -> io::Result<Self> {
        let length = Self::length(rest).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<H>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, rest, types: PhantomData })
    }

    pub(super) fn head(&self) -> &H {
        // SAFETY: the mapping is page-aligned, long enough for an `H`, readable and writable while `self` lives, never a
        // SIGBUS (see `shared`), and an `H` is valid whatever its bytes are.
        unsafe { self.start.as_ref() }
    }

    pub(super) fn rest(&self) -> &[R] {
        const { assert!(size_of::<H>().is_multiple_of(align_of::<R>())) };
        // SAFETY: as for `head`; behind the `H` is room for `rest` `R`s, aligned as asserted above.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(1).cast::<R>(), self.rest) }
    }
}

impl<H: Plain, R: Plain> Drop for Mapping<H, R> {
    fn drop(&mut self) {
        if let Some(length) = Self::length(self.rest) {
            // SAFETY: exactly what `map` has mapped, and no reference into it outlives `self`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), length) };
        }
    }
}

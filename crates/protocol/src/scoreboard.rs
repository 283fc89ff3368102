//! The scoreboard: figures of an instance in memory that the arbiter and all its workers share.
//!
//! Owns the memfd, its layout and who has which part of it. The arbiter makes it ([`Scoreboard::create`]), its fd goes to
//! the molds beside their settings, and each worker gets a *sheet* ([`Sheet`]) of its own, named in
//! [`crate::ToWorker::Fork`]: counters and histograms ([`Tally`]) and one record per lane ([`LaneRecord`]). A worker maps
//! the common header and its own sheet, nothing of another worker. Knows no HTTP and no supervision.
//!
//! Layout: a header page; a page with the sum over all workers that are gone; then sheets, each at a multiple of the
//! page, at places that the arbiter keeps in its own memory. The file only grows (it is sealed against shrinking), so
//! another number of workers or lanes needs no new one; pages that nobody has touched do not exist.
//!
//! Invariants: everything shared is an atomic, so a worker that dies while it writes, or writes nonsense, harms nobody;
//! what a worker has counted is never lost: [`Scoreboard::reclaim`] adds it to the sum.
//!
//! ```text
//! arbiter   board.issue(lanes, owner) -> Sheet      (at() goes into Fork)      board.reclaim(sheet) when the worker is gone
//! worker    Sheet::open(fd, at)                      sheet.sign(), sheet.lane(n), sheet.count(..), sheet.record(..)
//! lane      record.begin(us, method, path, id) ... record.progress(us) ... record.end()
//! standby   record.glance() -> request number, since, progress, thread         (timeouts)
//! arbiter   record.look()   -> the same with method, path and id               (rgunicornctl requests)
//! ```

mod lane;
mod mapping;
mod sheet;
mod tally;

pub use lane::{Glance, LaneRecord, LaneState, Running};
pub use sheet::{Owner, Pool, ServiceState, Sheet};
pub use tally::{BUCKETS, COUNTERS, Counter, Histogram, Tally, Times};

use mapping::Mapping;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::ftruncate;
use serde::{Deserialize, Serialize};
use sheet::{Head, subtract};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tally::SharedTally;

/// `RGSCORE` and a NUL.
const MAGIC: u64 = u64::from_le_bytes(*b"RGSCORE\0");
/// Raised with each change of the layout. The arbiter's next program begins new figures then, and what systemd has kept is
/// closed; molds that go on would number their workers' sheets in the old file, so the form of the arbiter's state is
/// raised with it and such an upgrade is refused.
const VERSION: u32 = 2;
/// Sheets and the two parts before them begin at multiples of this, which mmap(2) asks for; that of every architecture
/// with pages of at most 64 KiB.
const PAGE: u64 = 65536;
/// Most lanes of one worker that are shown; more go unseen. A pool of coroutines may have thousands.
pub const MOST_LANES: u32 = 1024;

/// The first bytes of the file, mapped by everybody.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    /// Bytes of a lane's record, of what stands before the lanes of a sheet, and of the sum; checked beside the version.
    lane_stride: AtomicU32,
    sheet_head: AtomicU32,
    sum: AtomicU32,
    /// When the first arbiter made it.
    began: AtomicU64,
    reserved: [AtomicU64; 4],
    /// Bytes of all spooled bodies of the instance.
    spooled: AtomicU64,
}

/// Where a sheet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SheetAt {
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// Lanes that it has room for.
    pub lanes: u32,
}

/// The clock of all times on the board: microseconds of CLOCK_MONOTONIC, the same in all processes of a machine.
pub fn monotonic_us() -> u64 {
    microseconds(ClockId::CLOCK_MONOTONIC)
}

/// The same clock, some milliseconds late and a fifth of the cost: what it was at the kernel's latest tick.
pub fn monotonic_coarse_us() -> u64 {
    microseconds(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn microseconds(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let (seconds, nanoseconds) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
        seconds.wrapping_mul(1_000_000).wrapping_add(nanoseconds / 1000)
    })
}

/// The arbiter's side. See the module.
#[derive(Debug)]
pub struct Scoreboard {
    file: OwnedFd,
    common: Mapping<Header, LaneRecord>,
    /// What workers that are gone have counted.
    gone: Mapping<SharedTally, LaneRecord>,
    /// Where the next new sheet goes.
    end: u64,
    free: Vec<SheetAt>,
}

impl Scoreboard {
    /// A new one with nothing on it.
    ///
    /// # Errors
    /// Those of memfd_create(2), ftruncate(2), mmap(2).
    pub fn create() -> io::Result<Scoreboard> {
        let file = memfd_create(c"rgunicorn-scoreboard", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&file, 2 * PAGE as i64)?;
        // Sealed against other seals too: one against writing would shut later workers out.
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL))?;
        let board = Scoreboard::map(file)?;
        let header = board.common.head();
        header.magic.store(MAGIC, Ordering::Relaxed);
        header.version.store(VERSION, Ordering::Relaxed);
        header.began.store(monotonic_us(), Ordering::Relaxed);
        for (field, expected) in board.layout() {
            field.store(expected, Ordering::Relaxed);
        }
        Ok(board)
    }

    /// Takes over the board of an arbiter that this process was before, or that is gone. The figures of its workers are
    /// reached by [`Scoreboard::reopen`] and are otherwise lost; those of the workers before them are kept.
    ///
    /// # Errors
    /// As [`Scoreboard::create`]; `InvalidData` if it has another layout.
    pub fn adopt(file: OwnedFd) -> io::Result<Scoreboard> {
        let board = Scoreboard::map(file)?;
        let header = board.common.head();
        let same = header.magic.load(Ordering::Relaxed) == MAGIC
            && header.version.load(Ordering::Relaxed) == VERSION
            && board.layout().iter().all(|(field, expected)| field.load(Ordering::Relaxed) == *expected);
        if same { Ok(board) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "a scoreboard of another layout")) }
    }

    /// Takes over the board of an arbiter that was killed, with all its workers: what they had counted goes into the sum.
    ///
    /// # Errors
    /// As [`Scoreboard::adopt`].
    pub fn inherit(file: OwnedFd) -> io::Result<Scoreboard> {
        let mut board = Scoreboard::adopt(file)?;
        let end = board.end;
        let mut offset = 2 * PAGE;
        while offset < end {
            // Every sheet begins at a page; what lies within one claims no lanes unless its worker wrote nonsense, which
            // then is counted as if it were figures.
            let lanes =
                Sheet::open(board.file.as_fd(), SheetAt { offset, lanes: 1 }).map(|sheet| sheet.claimed_lanes());
            let lanes = lanes.ok().and_then(|lanes| u32::try_from(lanes).ok()).filter(|lanes| *lanes <= MOST_LANES);
            let mut length = PAGE;
            if let Some(lanes) = lanes.filter(|lanes| *lanes > 0)
                && let Ok(sheet) = Sheet::open(board.file.as_fd(), SheetAt { offset, lanes })
            {
                length = Sheet::length(lanes).unwrap_or(PAGE).next_multiple_of(PAGE);
                board.reclaim(sheet);
            }
            offset = offset.saturating_add(length);
        }
        // Whoever held spooled bodies is gone, and the bodies with them.
        board.common.head().spooled.store(0, Ordering::Relaxed);
        Ok(board)
    }

    fn map(file: OwnedFd) -> io::Result<Scoreboard> {
        let common = Mapping::shared(file.as_fd(), 0, 0)?;
        let gone = Mapping::shared(file.as_fd(), PAGE, 0)?;
        let end = u64::try_from(fstat(&file)?.st_size).unwrap_or(0).next_multiple_of(PAGE);
        Ok(Scoreboard { file, common, gone, end, free: Vec::new() })
    }

    fn layout(&self) -> [(&AtomicU32, u32); 3] {
        let header = self.common.head();
        [
            (&header.lane_stride, size_of::<LaneRecord>() as u32),
            (&header.sheet_head, size_of::<Head>() as u32),
            (&header.sum, size_of::<SharedTally>() as u32),
        ]
    }

    /// A sheet for a worker that is about to be forked.
    ///
    /// # Errors
    /// The file cannot grow, or the memory cannot be mapped.
    pub fn issue(&mut self, lanes: u32, owner: Owner) -> io::Result<Sheet> {
        let lanes = lanes.clamp(1, MOST_LANES);
        let length = Sheet::length(lanes).ok_or(io::ErrorKind::InvalidInput)?.next_multiple_of(PAGE);
        let old = self.free.iter().position(|at| at.lanes == lanes).map(|n| self.free.swap_remove(n));
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // What was written there is gone with its pages.
        let cleared = old.filter(|at| fallocate(&self.file, hole, at.offset as i64, length as i64).is_ok());
        let at = match cleared {
            Some(at) => at,
            None => {
                let at = SheetAt { offset: self.end, lanes };
                let end = at.offset.checked_add(length).ok_or(io::ErrorKind::OutOfMemory)?;
                // Some worker may have made it longer already, which does no harm; shorter it cannot become.
                if fstat(&self.file)?.st_size < end as i64 {
                    ftruncate(&self.file, end as i64)?;
                }
                self.end = end;
                at
            }
        };
        let sheet = Sheet::open(self.file.as_fd(), at)?;
        sheet.assign(owner);
        Ok(sheet)
    }

    /// Places that sheets have left.
    pub fn free(&self) -> &[SheetAt] {
        &self.free
    }

    /// The same board with these free places, after [`Scoreboard::adopt`].
    pub fn with_free(mut self, free: Vec<SheetAt>) -> Scoreboard {
        self.free = free;
        self
    }

    /// The sheet of a worker that goes on serving, after [`Scoreboard::adopt`].
    ///
    /// # Errors
    /// There is none, or it cannot be mapped.
    pub fn reopen(&self, at: SheetAt) -> io::Result<Sheet> {
        Sheet::open(self.file.as_fd(), at)
    }

    /// The worker is gone: what it has counted goes into the sum, what it held of the spool is given back, its place is
    /// free.
    pub fn reclaim(&mut self, sheet: Sheet) {
        let tally = sheet.tally();
        self.gone.head().carry(&tally, monotonic_us());
        // What it had open ended with it.
        self.gone.head().add(Counter::Closed, tally.connections());
        subtract(&self.common.head().spooled, sheet.spooled());
        sheet.vacate();
        self.free.push(sheet.at());
    }

    /// What all workers that are gone have counted.
    pub fn gone(&self) -> Tally {
        self.gone.head().read()
    }

    /// Adds what an older board counted.
    pub fn carry(&self, tally: &Tally) {
        self.gone.head().carry(tally, monotonic_us());
    }

    /// Since when it counts, on the clock of [`monotonic_us`].
    pub fn began(&self) -> u64 {
        self.common.head().began.load(Ordering::Relaxed)
    }

    /// Bytes of all spooled bodies of the instance.
    pub fn spooled(&self) -> u64 {
        self.common.head().spooled.load(Ordering::Relaxed)
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn owner(worker: u64) -> Owner {
        Owner { worker, generation: 1, slot: 1 }
    }

    #[test]
    fn what_a_worker_writes_on_its_sheet_the_arbiter_reads() {
        let mut board = Scoreboard::create().unwrap();
        let read = board.issue(4, owner(7)).unwrap();
        let written = Sheet::open(board.as_fd(), read.at()).unwrap();
        assert_eq!((read.pool(), read.lanes_in_use()), (None, 4));
        written.sign(Some(Pool::Gthread), 3);
        assert_eq!((read.pool(), read.lanes_in_use()), (Some(Pool::Gthread), 3));
        written.count(Counter::Accepted);
        written.record(Instant::now(), 200, 5, Duration::from_millis(1), Duration::ZERO);
        written.lane(3).unwrap().begin(1, b"GET", b"/", b"");
        assert_eq!(read.pid(), std::process::id() as i32);
        assert_eq!(read.owner(), owner(7));
        assert_eq!((read.tally().requests(), read.tally().connections(), read.busy()), (1, 1, 1));
        assert_eq!(read.tally().get(Counter::Responses2xx), 1);
        assert!(written.lane(4).is_none());
    }

    #[test]
    fn totals_survive_workers_and_a_new_arbiter() {
        let mut board = Scoreboard::create().unwrap();
        for n in 1..=3 {
            let sheet = board.issue(1, owner(n)).unwrap();
            sheet.record(Instant::now(), 500, 0, Duration::from_micros(10), Duration::ZERO);
            board.reclaim(sheet);
        }
        let living = board.issue(1, owner(4)).unwrap();
        living.record(Instant::now(), 200, 0, Duration::ZERO, Duration::ZERO);
        let board = Scoreboard::adopt(board.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(board.gone().requests(), 3);
        assert_eq!(board.gone().get(Counter::Responses5xx), 3);
        assert_eq!(board.reopen(living.at()).unwrap().tally().requests(), 1);
    }

    #[test]
    fn after_a_killed_arbiter_everything_counted_is_found_again_and_nothing_twice() {
        let mut board = Scoreboard::create().unwrap();
        for lanes in [1, 700, 4] {
            let sheet = board.issue(lanes, owner(u64::from(lanes))).unwrap();
            sheet.record(Instant::now(), 200, 0, Duration::ZERO, Duration::ZERO);
            sheet.take_spool(10, 0);
            if lanes == 4 {
                board.reclaim(sheet);
            }
        }
        let file = board.as_fd().try_clone_to_owned().unwrap();
        drop(board);
        let mut board = Scoreboard::inherit(file.try_clone().unwrap()).unwrap();
        assert_eq!((board.gone().requests(), board.spooled()), (3, 0));
        let again = board.issue(700, owner(9)).unwrap();
        assert_eq!(again.tally(), Tally::default());
        assert_eq!(Scoreboard::inherit(file).unwrap().gone().requests(), 3);
    }

    #[test]
    fn a_place_is_used_again_and_is_empty_then() {
        let mut board = Scoreboard::create().unwrap();
        let first = board.issue(2, owner(1)).unwrap();
        let place = first.at();
        first.record(Instant::now(), 200, 1, Duration::ZERO, Duration::ZERO);
        first.lane(0).unwrap().begin(1, b"GET", b"/", b"");
        board.reclaim(first);
        let second = board.issue(2, owner(2)).unwrap();
        assert_eq!(second.at(), place);
        assert_eq!((second.tally(), second.busy(), second.pid()), (Tally::default(), 0, 0));
    }

    #[test]
    fn sheets_do_not_overlap() {
        let mut board = Scoreboard::create().unwrap();
        let sheets: Vec<Sheet> = [1, 1000, 3].iter().map(|lanes| board.issue(*lanes, owner(1)).unwrap()).collect();
        for sheet in &sheets {
            for lane in sheet.lanes() {
                lane.begin(1, &[b'M'; 16], &[b'p'; 200], &[b'i'; 128]);
            }
        }
        assert!(sheets.iter().all(|sheet| sheet.busy() == sheet.lanes().len() && sheet.tally() == Tally::default()));
    }

    #[test]
    fn the_spool_is_one_account_for_all_and_a_dead_workers_share_is_given_back() {
        let mut board = Scoreboard::create().unwrap();
        let (a, b) = (board.issue(1, owner(1)).unwrap(), board.issue(1, owner(2)).unwrap());
        assert!(a.take_spool(60, 100));
        assert!(!b.take_spool(50, 100));
        assert!(b.take_spool(40, 100));
        board.reclaim(a);
        assert_eq!(board.spooled(), 40);
        assert!(b.take_spool(60, 100));
        b.give_spool_back(100);
        assert_eq!(board.spooled(), 0);
    }

    #[test]
    fn the_file_cannot_be_cut_and_a_cut_or_foreign_one_is_refused() {
        let mut board = Scoreboard::create().unwrap();
        let sheet = board.issue(1, owner(1)).unwrap();
        assert!(ftruncate(board.as_fd(), 0).is_err());
        assert!(Sheet::open(board.as_fd(), SheetAt { offset: board.end, lanes: 1 }).is_err());
        assert!(Sheet::open(board.as_fd(), SheetAt { lanes: u32::MAX, ..sheet.at() }).is_err());
        let foreign = memfd_create(c"x", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&foreign, 2 * PAGE as i64).unwrap();
        assert!(Scoreboard::adopt(foreign.try_clone().unwrap()).is_err());
        fcntl(&foreign, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        assert_eq!(Scoreboard::adopt(foreign).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

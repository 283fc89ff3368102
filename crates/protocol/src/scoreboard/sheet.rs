//! A sheet: one worker's part of the scoreboard.
//!
//! Owns the layout of a worker's figures and the worker's way to its own lanes. The worker writes; the arbiter reads, and
//! writes only what the docs of a field say. Nothing here waits, fails or takes a lock, and no figure is more than an
//! atomic addition: a request costs well below 50 ns. Invariant: a sheet is one worker's, from its fork to its end.

use super::lane::LaneRecord;
use super::mapping::Mapping;
use super::tally::{Counter, SharedTally, Tally};
use super::{Header, SheetAt, monotonic_us};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What stands before a sheet's lanes.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    pid: AtomicI32,
    service: AtomicU32,
    generation: AtomicU32,
    slot: AtomicU32,
    worker: AtomicU64,
    memory: AtomicU64,
    spooled: AtomicU64,
    /// As in [`SheetAt`], for an arbiter that has lost its books.
    lanes: AtomicU64,
    /// The pool, shifted by 32, and how many of the lanes it uses; 0: not known yet.
    pool: AtomicU64,
    reserved: [AtomicU64; 1],
    tally: SharedTally,
}

/// Whose a sheet is. Written by the arbiter before the worker is forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The worker's serial number, unique in the life of the instance.
    pub worker: u64,
    /// The worker's generation.
    pub generation: u32,
    /// The worker's slot, from 1.
    pub slot: u32,
}

/// What a worker's lanes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// The worker's only thread.
    Sync,
    /// Threads.
    Gthread,
    /// Greenlets.
    Gevent,
    /// Tasks of an event loop.
    Asgi,
}

impl Pool {
    const ALL: [Pool; 4] = [Pool::Sync, Pool::Gthread, Pool::Gevent, Pool::Asgi];

    /// Its name as a `worker_class`.
    pub const fn name(self) -> &'static str {
        match self {
            Pool::Sync => "sync",
            Pool::Gthread => "gthread",
            Pool::Gevent => "gevent",
            Pool::Asgi => "asgi",
        }
    }

    /// The pool that a `worker_class` means. None: `auto`, or no worker class.
    pub fn by_name(name: &str) -> Option<Pool> {
        Pool::ALL.into_iter().find(|pool| pool.name() == name)
    }
}

/// How a worker stands to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// It is not promoted yet.
    Booting,
    /// It accepts.
    Serving,
    /// It finishes what was begun.
    Retiring,
    /// It leaves.
    Stopped,
}

/// See the module.
#[derive(Debug)]
pub struct Sheet {
    at: SheetAt,
    /// What all workers share; a private sheet has its own.
    common: Mapping<Header, LaneRecord>,
    own: Mapping<Head, LaneRecord>,
    /// The same instant on both clocks, to convert without a system call.
    epoch: (Instant, u64),
}

impl Sheet {
    /// Bytes of a sheet with so many lanes.
    pub(super) fn length(lanes: u32) -> Option<u64> {
        Mapping::<Head, LaneRecord>::length(lanes as usize).map(|length| length as u64)
    }

    /// Maps the worker's own sheet of the scoreboard `file`. The fd is not needed afterwards.
    ///
    /// # Errors
    /// Those of mmap(2); `InvalidInput` if there is no such sheet.
    pub fn open(file: BorrowedFd<'_>, at: SheetAt) -> io::Result<Sheet> {
        let common = Mapping::shared(file, 0, 0)?;
        let own = Mapping::shared(file, at.offset, at.lanes as usize)?;
        Ok(Sheet::new(at, common, own))
    }

    /// A sheet that nobody else sees: for a worker without a scoreboard, and for tests.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn private(lanes: u32) -> io::Result<Sheet> {
        let at = SheetAt { offset: 0, lanes };
        Ok(Sheet::new(at, Mapping::anonymous(0)?, Mapping::anonymous(lanes as usize)?))
    }

    fn new(at: SheetAt, common: Mapping<Header, LaneRecord>, own: Mapping<Head, LaneRecord>) -> Sheet {
        Sheet { at, common, own, epoch: (Instant::now(), monotonic_us()) }
    }

    /// Where it is, to be told to the worker.
    pub fn at(&self) -> SheetAt {
        self.at
    }

    // What the worker does.

    /// Says which process the worker is, and with how many lanes of which kind it serves. By the worker, once.
    pub fn sign(&self, pool: Option<Pool>, lanes: u32) {
        let head = self.own.head();
        head.pid.store(std::process::id() as i32, Ordering::Relaxed);
        let kind =
            pool.and_then(|pool| Pool::ALL.iter().position(|other| *other == pool)).map_or(0, |at| at as u64 + 1);
        head.pool.store(kind << 32 | u64::from(lanes), Ordering::Relaxed);
    }

    /// What its lanes are; none if it is not known (yet).
    pub fn pool(&self) -> Option<Pool> {
        let kind = self.own.head().pool.load(Ordering::Relaxed) >> 32;
        Pool::ALL.get(usize::try_from(kind.checked_sub(1)?).ok()?).copied()
    }

    /// With how many lanes it serves: there may be room for more, if `auto` has chosen.
    pub fn lanes_in_use(&self) -> u32 {
        let lanes = self.own.head().pool.load(Ordering::Relaxed) as u32;
        if lanes == 0 { self.at.lanes } else { lanes.min(self.at.lanes) }
    }

    /// The record of lane `n`, from 0. `None`: more lanes than there is room for; such a lane goes unseen.
    pub fn lane(&self, n: usize) -> Option<&LaneRecord> {
        self.own.rest().get(n)
    }

    /// All lanes.
    pub fn lanes(&self) -> &[LaneRecord] {
        self.own.rest()
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.own.head().tally.add(counter, 1);
    }

    /// Counts several.
    pub fn add(&self, counter: Counter, n: u64) {
        self.own.head().tally.add(counter, n);
    }

    /// A request is over at `now` that the application was called for: its class, its bytes, its times.
    pub fn record(&self, now: Instant, status: u16, body_bytes: u64, latency: Duration, queue: Duration) {
        let tally = &self.own.head().tally;
        let class = Counter::of_status(status);
        if class != Counter::Responses2xx {
            tally.add(class, 1);
        }
        if body_bytes > 0 {
            tally.add(Counter::BodyBytes, body_bytes);
        }
        tally.record(self.microseconds(now), latency.as_micros() as u64, queue.as_micros() as u64);
    }

    /// An instant as the board writes it: microseconds of CLOCK_MONOTONIC.
    pub fn microseconds(&self, at: Instant) -> u64 {
        self.epoch.1 + at.saturating_duration_since(self.epoch.0).as_micros() as u64
    }

    /// Says how the worker stands to its clients.
    pub fn set_service(&self, service: ServiceState) {
        self.own.head().service.store(service as u32, Ordering::Relaxed);
    }

    /// Takes `bytes` of the instance's `limit` for spooled bodies (0: no limit). Whether there was room.
    ///
    /// The worker's share is raised first: a worker that dies in between makes the account too low by one write, never
    /// too high for ever.
    pub fn take_spool(&self, bytes: u64, limit: u64) -> bool {
        let (own, all) = (&self.own.head().spooled, &self.common.head().spooled);
        own.fetch_add(bytes, Ordering::Relaxed);
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        if limit != 0 && before.saturating_add(bytes) > limit {
            self.give_spool_back(bytes);
            return false;
        }
        true
    }

    /// Gives back what [`Sheet::take_spool`] gave.
    pub fn give_spool_back(&self, bytes: u64) {
        subtract(&self.common.head().spooled, bytes);
        subtract(&self.own.head().spooled, bytes);
    }

    // What the arbiter does.

    pub(super) fn assign(&self, owner: Owner) {
        let head = self.own.head();
        head.worker.store(owner.worker, Ordering::Relaxed);
        head.generation.store(owner.generation, Ordering::Relaxed);
        head.slot.store(owner.slot, Ordering::Relaxed);
        head.lanes.store(u64::from(self.at.lanes), Ordering::Relaxed);
        head.pool.store(0, Ordering::Relaxed);
    }

    /// How many lanes it was made with, as it says itself; 0: it is nobody's.
    pub(super) fn claimed_lanes(&self) -> u64 {
        self.own.head().lanes.load(Ordering::Relaxed)
    }

    /// It is nobody's any more.
    pub(super) fn vacate(&self) {
        self.own.head().lanes.store(0, Ordering::Relaxed);
    }

    /// Whose it is.
    pub fn owner(&self) -> Owner {
        let head = self.own.head();
        Owner {
            worker: head.worker.load(Ordering::Relaxed),
            generation: head.generation.load(Ordering::Relaxed),
            slot: head.slot.load(Ordering::Relaxed),
        }
    }

    /// The worker's process id, as it says itself; 0 before [`Sheet::sign`].
    pub fn pid(&self) -> i32 {
        self.own.head().pid.load(Ordering::Relaxed)
    }

    /// How the worker stands to its clients, as it says itself.
    pub fn service(&self) -> ServiceState {
        match self.own.head().service.load(Ordering::Relaxed) {
            0 => ServiceState::Booting,
            1 => ServiceState::Serving,
            2 => ServiceState::Retiring,
            _ => ServiceState::Stopped,
        }
    }

    /// Bytes of memory of the worker, by whoever measured last; 0: nobody.
    pub fn memory(&self) -> u64 {
        self.own.head().memory.load(Ordering::Relaxed)
    }

    /// Notes the worker's memory, in bytes.
    pub fn set_memory(&self, bytes: u64) {
        self.own.head().memory.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of spooled bodies that the worker holds.
    pub fn spooled(&self) -> u64 {
        self.own.head().spooled.load(Ordering::Relaxed)
    }

    /// Lanes that have a request now.
    pub fn busy(&self) -> usize {
        self.lanes().iter().filter(|lane| lane.is_busy()).count()
    }

    /// A copy of the worker's figures.
    pub fn tally(&self) -> Tally {
        self.own.head().tally.read()
    }
}

/// Never below zero, whatever was counted wrong before.
pub(super) fn subtract(from: &AtomicU64, bytes: u64) {
    let _ = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(value.saturating_sub(bytes)));
}

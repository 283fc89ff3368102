//! The standby: the thread that turns the reactor while no lane can: the leader is in the application, or waits for the
//! interpreter lock.
//!
//! It never attaches to Python, so a lane that computes, sleeps or holds the interpreter lock for ever stops nothing but
//! itself: heads and bodies go on being read, responses flushed, timeouts kept, connections accepted.
//!
//! States: *parked* (nothing is in the application; no tick, no cost), *watching* (a tick each millisecond, while
//! requests come and go), *in charge* (the leader has been kept by the same call or wait for a whole tick: the standby blocks in
//! epoll_wait in its place until the lane is back).
//!
//! **Races.** Parking: the standby sets `standby_parked`, then looks at the lanes' `watch`; a lane that enters changes
//! `watch`, then looks at `standby_parked`; sequentially consistent, so one of them sees the other. Leaving charge: the
//! standby sets `standby_in_charge`, then looks at `watch`; a lane that returns changes `watch`, then looks at
//! `standby_in_charge` and kicks. A kick that the lane's own epoll_wait takes instead of the standby's is made good by the
//! next event: the standby then sees that `watch` has changed and leaves.

use crate::hands::Hands;
use crate::lanes::STARVED;
use crate::reactor::{Reactor, lock};
use crate::timeouts::Watch;
use rgunicorn_log::event;
use rgunicorn_protocol::scoreboard::monotonic_us;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a lane may be in one call before the standby takes over, and how often that is looked at.
const TICK: Duration = Duration::from_millis(1);
/// How long lanes may take to come back when the worker is done.
const LEAVE_WITHIN: Duration = Duration::from_millis(100);
/// While in charge: how often connections that wait are accepted, though other workers may be about to.
pub(crate) const ACCEPT_EVERY: Duration = Duration::from_millis(10);

impl Reactor {
    /// Starts the standby of this worker. To be called after the fork, before the first lane.
    ///
    /// # Errors
    /// Those of thread creation.
    pub fn start_standby(self: &Arc<Self>) -> std::io::Result<std::thread::JoinHandle<()>> {
        let reactor = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name("standby".into())
            .stack_size(256 * 1024)
            .spawn(move || reactor.stand_by())?;
        *lock(&self.standby) = Some(handle.thread().clone());
        Ok(handle)
    }

    pub(crate) fn wake_standby(&self) {
        if let Some(thread) = &*lock(&self.standby) {
            thread.unpark();
        }
    }

    fn stand_by(self: &Arc<Self>) {
        if let Some(coroutines) = &self.coroutines {
            return self.stand_by_loop(coroutines);
        }
        let mut hands = Hands::default();
        let mut before = self.lanes.watch();
        let mut watch = Watch::new(self.lanes.count());
        while !self.finished.load(Ordering::Relaxed) {
            std::thread::park_timeout(TICK);
            let now = self.lanes.watch();
            if now == before && now & 1 == 1 {
                self.take_charge(now, &mut hands, &mut watch);
            } else if now == before {
                self.standby_parked.store(true, Ordering::SeqCst);
                while self.lanes.watch() == now && !self.finished.load(Ordering::SeqCst) {
                    match self.look_around(&mut watch) {
                        Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now()).max(TICK)),
                        None => std::thread::park(),
                    }
                }
                self.standby_parked.store(false, Ordering::SeqCst);
            }
            self.look_around(&mut watch);
            before = self.lanes.watch();
        }
        self.end_process_if_stuck();
    }

    /// The worker is done: the deadline of its retirement has passed, or it was told to stop at once. Lanes that come
    /// back leave by themselves and the interpreter is ended in order; one that stays inside the application would keep
    /// the process until it is killed.
    pub(crate) fn end_process_if_stuck(&self) {
        let until = Instant::now() + LEAVE_WITHIN;
        while self.lanes.inside() > 0 {
            if Instant::now() >= until {
                for (lane, record) in self.sheet.lanes().iter().enumerate() {
                    let Some(running) = record.look() else { continue };
                    let because = if self.is_given_up(lane) {
                        "it has timed out, and its worker ends"
                    } else {
                        "graceful_timeout is over, or the worker leaves at once"
                    };
                    let seconds = monotonic_us().saturating_sub(running.glance.since) as f64 / 1e6;
                    slog::warn!(
                        self.log,
                        "{} {} is cut off after {:.1} s in the application: {}",
                        running.method,
                        running.path,
                        seconds,
                        because; event::REQUEST_CUT, "request_id" => Some(&running.id).filter(|id| !id.is_empty())
                    );
                }
                crate::sys::end_process();
            }
            std::thread::park_timeout(TICK);
        }
    }

    /// Looks for what is to be told to the arbiter; gives the instant at which to look again, if any request is in a
    /// lane.
    pub(crate) fn look_around(self: &Arc<Self>, watch: &mut Watch) -> Option<Instant> {
        let memory = self.watch_memory(&mut watch.growth);
        self.watch_lanes(watch).into_iter().chain(memory).min()
    }

    /// Turns the reactor until a lane does so again.
    pub(crate) fn take_charge(self: &Arc<Self>, call: u64, hands: &mut Hands, watch: &mut Watch) {
        let begun = Instant::now();
        let mut listening = self.lanes.any_free();
        if !listening {
            self.stop_listening();
        }
        self.standby_in_charge.store(true, Ordering::SeqCst);
        let mut accept_at = Instant::now() + ACCEPT_EVERY;
        while self.lanes.watch() == call && !self.finished.load(Ordering::Relaxed) {
            let starved_at = self.starved_at(begun);
            let starved = starved_at.is_some_and(|at| at <= Instant::now());
            if listening && starved {
                self.stop_listening();
                listening = false;
            }
            self.find_lanes(hands, starved);
            let accepts = !listening && self.accepts();
            let accept_at_last = accepts.then_some(accept_at);
            let (lanes, late) = (self.look_around(watch), self.refuse_late_requests(hands));
            let deadline = [self.next_deadline(), lanes, late, accept_at_last, starved_at.filter(|_| !starved)]
                .into_iter()
                .flatten()
                .min();
            self.harvest(hands, self.timeout_until(deadline));
            self.find_lanes(hands, starved);
            if accepts && Instant::now() >= accept_at {
                self.accept_all();
                accept_at = Instant::now() + ACCEPT_EVERY;
            }
        }
        self.standby_in_charge.store(false, Ordering::SeqCst);
        // A kick that was meant for the lane which turns the reactor again may have come here instead.
        if self.has_work() || self.offer_again_at().is_some() {
            self.kick_pollers();
        }
    }

    /// Reads what has come, and sees that complete requests get a lane: an idle one here, or another worker's.
    fn find_lanes(self: &Arc<Self>, hands: &mut Hands, starved: bool) {
        self.turn_without_lane(hands);
        if self.has_requests() {
            // One that asks for the lock already has it first.
            if !self.lanes.leader_asks_for_lock() {
                self.lanes.rouse();
            }
            self.offer_requests(starved);
        }
    }

    /// When the lanes that are free will have waited too long for the interpreter lock, while there are other workers and
    /// the standby has been in charge since `begun`. None if no lane waits for it.
    fn starved_at(&self, begun: Instant) -> Option<Instant> {
        if !self.shares() {
            return None;
        }
        let asks = self.lanes.leader_asks_for_lock().then_some(begun);
        Some(asks.into_iter().chain(self.lanes.roused_since()).min()? + STARVED)
    }
}

//! Lanes that are threads: which of them leads.
//!
//! One lane, the *leader*, turns the reactor and serves what it finds; the others are *idle* (parked) or inside the
//! application. Nobody is woken for work that the leader could do next. When the leader stays in the application, another
//! lane takes the lead, in one of three ways:
//!
//! - a lane that comes back finds the leader inside the application and takes the lead itself: the saturated steady
//!   state, without any wake-up;
//! - the standby, in charge after a tick, has a complete request and wakes an idle lane for it;
//! - the last call was long (*armed*): calls of this application probably block, so an idle lane is woken at once to wait
//!   for the interpreter lock, which it gets the moment the leader blocks.
//!
//! The leader is also *kept* when it has polled and waits for the interpreter lock, which C code in another lane may have for
//! as long as it likes. That is the standby's business alone: a lane that could take the lead has the lock, and is about to
//! give it to the leader.
//!
//! **Races.** The leader's state is one atomic, `watch`: calls and waits begun by leaders, shifted, and whether the leader
//! is kept. It is written under the lock by whoever takes the lead, and without it by the leader itself, which is the only
//! other writer: a taker must hold the interpreter lock *and* find the bit set under our lock, and the leader clears the
//! bit under our lock too (`leave`), so both cannot believe that they lead. A woken lane that finds the bit cleared goes
//! back to sleep. The lost wake-up between parking and waking is closed by `std::thread`'s token: an unpark before the
//! park makes the park return at once.

use crate::reactor::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A call that took longer has probably blocked.
const LONG_CALL: Duration = Duration::from_micros(200);
/// Calls for which an idle lane is woken at once after a long one.
const ARMED_CALLS: u32 = 16;
/// Lanes that wait for the interpreter lock longer than this are starved: twice the switch interval (5 ms), after which
/// Python code gives the lock up. C code may keep it for as long as it likes.
pub(crate) const STARVED: Duration = Duration::from_millis(10);

/// What a lane does after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Turns the reactor.
    Lead,
    /// Parks: [`Lanes::park`].
    Idle,
}

#[derive(Debug, Default)]
struct State {
    leader: usize,
    idle: Vec<usize>,
    threads: Vec<Option<Thread>>,
    /// A lane that was woken to take the lead and has not decided yet, and when it was woken.
    roused: Option<(usize, Instant)>,
}

impl State {
    fn roused_lane(&self) -> Option<usize> {
        self.roused.map(|(lane, _)| lane)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lanes {
    count: usize,
    state: Mutex<State>,
    watch: AtomicU64,
    /// The leader is kept by the interpreter lock. True only while the bit of `watch` is set.
    asks: AtomicBool,
    armed: AtomicU32,
    /// Lanes inside the application.
    inside: AtomicU32,
    /// A lane has come back from the application.
    used: AtomicBool,
    finished: AtomicBool,
}

impl Lanes {
    /// `count` lanes, of which lane 0 leads at first.
    pub fn new(count: usize) -> Lanes {
        Lanes {
            count,
            state: Mutex::new(State { threads: vec![None; count], ..State::default() }),
            watch: AtomicU64::new(0),
            asks: AtomicBool::new(false),
            armed: AtomicU32::new(0),
            inside: AtomicU32::new(0),
            used: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        }
    }

    /// Lanes in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls and waits begun by leaders, shifted, and the bit that says whether the leader is kept.
    pub(crate) fn watch(&self) -> u64 {
        self.watch.load(Ordering::SeqCst)
    }

    /// Lanes inside the application.
    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Whether a lane has come back from the application since [`Lanes::forget_use`].
    pub(crate) fn were_used(&self) -> bool {
        self.used.load(Ordering::SeqCst)
    }

    pub(crate) fn forget_use(&self) {
        self.used.store(false, Ordering::SeqCst);
    }

    /// Whether some lane could take a request now.
    pub(crate) fn any_free(&self) -> bool {
        (self.inside() as usize) < self.count
    }

    /// The leader enters the application.
    pub(crate) fn enter(&self) {
        self.inside.fetch_add(1, Ordering::Relaxed);
        self.keep_leader();
        if self.count > 1 && self.armed.load(Ordering::Relaxed) > 0 {
            self.rouse();
        }
    }

    /// From now on the leader is kept.
    fn keep_leader(&self) {
        // The leader is the only writer while the bit is clear.
        let calls = self.watch.load(Ordering::Relaxed) >> 1;
        self.watch.store((calls + 1) << 1 | 1, Ordering::SeqCst);
    }

    /// The leader has polled and is about to wait for the interpreter lock.
    pub(crate) fn ask_for_lock(&self) {
        self.asks.store(true, Ordering::Relaxed);
        self.keep_leader();
    }

    /// The leader has the interpreter lock that it has asked for. Nobody has taken the lead meanwhile: who could would have
    /// needed the lock.
    pub(crate) fn got_lock(&self) {
        self.asks.store(false, Ordering::Relaxed);
        self.watch.fetch_and(!1, Ordering::SeqCst);
    }

    /// Whether the lead is to be taken. With the interpreter lock, so that a leader who asks for it stays where it is.
    fn leader_is_inside(&self) -> bool {
        self.watch() & 1 == 1 && !self.leader_asks_for_lock()
    }

    /// Whether it is the interpreter lock that keeps the leader.
    pub(crate) fn leader_asks_for_lock(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// A coroutine enters the application. Nobody leads there.
    pub(crate) fn enter_coroutine(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
    }

    /// A coroutine has ended.
    pub(crate) fn leave_coroutine(&self) {
        self.used.store(true, Ordering::Relaxed);
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    /// Lane `lane` is back after `call`.
    pub(crate) fn leave(&self, lane: usize, call: Duration) -> Role {
        self.used.store(true, Ordering::Relaxed);
        self.inside.fetch_sub(1, Ordering::Relaxed);
        if self.count == 1 {
            self.watch.fetch_and(!1, Ordering::SeqCst);
            return Role::Lead;
        }
        if call > LONG_CALL {
            self.armed.store(ARMED_CALLS, Ordering::Relaxed);
        } else {
            let armed = self.armed.load(Ordering::Relaxed);
            if armed > 0 {
                self.armed.store(armed - 1, Ordering::Relaxed);
            }
        }
        let mut state = lock(&self.state);
        if state.leader == lane {
            self.watch.fetch_and(!1, Ordering::SeqCst);
            return Role::Lead;
        }
        if self.leader_is_inside() {
            self.take_lead(&mut state, lane);
            return Role::Lead;
        }
        state.idle.push(lane);
        Role::Idle
    }

    fn take_lead(&self, state: &mut State, lane: usize) {
        state.leader = lane;
        if state.roused_lane() == Some(lane) {
            state.roused = None;
        }
        let calls = self.watch.load(Ordering::SeqCst) >> 1;
        // Another number too, so that a standby that is in charge sees that somebody turns the reactor again.
        self.watch.store((calls + 1) << 1, Ordering::SeqCst);
    }

    /// Registers a lane that starts idle. To be called by its thread.
    pub fn join(&self, lane: usize) {
        let mut state = lock(&self.state);
        if let Some(thread) = state.threads.get_mut(lane) {
            *thread = Some(std::thread::current());
        }
        if lane != state.leader {
            state.idle.push(lane);
        }
    }

    /// Sleeps until the lane is to try for the lead, or the worker is done (`false`). Without the interpreter lock.
    pub fn park(&self, lane: usize) -> bool {
        loop {
            if self.finished.load(Ordering::SeqCst) {
                return false;
            }
            if lock(&self.state).roused_lane() == Some(lane) {
                return true;
            }
            std::thread::park();
        }
    }

    /// What [`Lanes::try_lead`] compares with, read before the interpreter lock is waited for.
    pub fn before_lock(&self) -> (u64, Instant) {
        (self.watch(), Instant::now())
    }

    /// With the interpreter lock: takes the lead if the leader is still inside the application, else goes back to idle.
    ///
    /// `before` is of [`Lanes::before_lock`]. A lock that was long waited for while the leader went on from call to call
    /// was not given by a leader that blocks, but taken from one that runs (the switch interval, 5 ms): the lead stays.
    pub fn try_lead(&self, lane: usize, before: (u64, Instant)) -> bool {
        let forced = before.1.elapsed() > Duration::from_micros(4500) && self.watch() >> 1 != before.0 >> 1;
        let mut state = lock(&self.state);
        if self.leader_is_inside() && !forced {
            self.take_lead(&mut state, lane);
            return true;
        }
        state.roused = None;
        state.idle.push(lane);
        false
    }

    /// Wakes an idle lane to try for the lead, unless one is awake for that already.
    pub(crate) fn rouse(&self) {
        let thread = {
            let mut state = lock(&self.state);
            if state.roused.is_some() {
                return;
            }
            let Some(lane) = state.idle.pop() else { return };
            state.roused = Some((lane, Instant::now()));
            state.threads.get(lane).cloned().flatten()
        };
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Since when a lane that was woken for the lead waits for the interpreter lock. Until it has it none of the idle ones
    /// could take a request.
    pub(crate) fn roused_since(&self) -> Option<Instant> {
        lock(&self.state).roused.map(|(_, since)| since)
    }

    /// The worker is done: every parked lane leaves.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::SeqCst);
        for thread in lock(&self.state).threads.iter().flatten() {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_millis(10);

    fn two() -> Lanes {
        let lanes = Lanes::new(2);
        lanes.join(0);
        lanes.join(1);
        lanes
    }

    #[test]
    fn a_leader_that_returns_leads_on_and_nobody_is_woken() {
        let lanes = two();
        for _ in 0..100 {
            lanes.enter();
            assert_eq!(lanes.leave(0, SHORT), Role::Lead);
        }
        assert_eq!(lock(&lanes.state).roused, None);
    }

    #[test]
    fn a_woken_lane_takes_the_lead_of_a_leader_that_is_inside_and_the_old_leader_takes_it_back() {
        let lanes = two();
        lanes.enter();
        lanes.rouse();
        assert!(lanes.park(1));
        let before = lanes.before_lock();
        assert!(lanes.try_lead(1, before));
        lanes.enter();
        assert_eq!(lanes.leave(0, LONG), Role::Lead, "lane 1 leads and is inside, so lane 0 takes the lead");
        assert_eq!(lanes.leave(1, SHORT), Role::Idle, "lane 0 leads and is not inside");
    }

    #[test]
    fn a_woken_lane_that_comes_too_late_goes_back_to_sleep_and_can_be_woken_again() {
        let lanes = two();
        lanes.enter();
        lanes.rouse();
        assert_eq!(lanes.leave(0, SHORT), Role::Lead);
        let before = lanes.before_lock();
        assert!(!lanes.try_lead(1, before));
        lanes.enter();
        lanes.rouse();
        assert!(lanes.park(1));
        let before = lanes.before_lock();
        assert!(lanes.try_lead(1, before));
    }

    #[test]
    fn a_woken_lane_waits_from_its_waking_until_it_has_the_lead() {
        let lanes = two();
        assert_eq!(lanes.roused_since(), None);
        lanes.enter();
        lanes.rouse();
        let since = lanes.roused_since();
        assert!(since.is_some());
        lanes.rouse();
        assert_eq!(lanes.roused_since(), since, "it waits no shorter for being woken once more");
        assert!(lanes.try_lead(1, lanes.before_lock()));
        assert_eq!(lanes.roused_since(), None);
    }

    #[test]
    fn a_leader_that_waits_for_the_interpreter_lock_keeps_the_lead_from_those_who_have_the_lock() {
        let lanes = two();
        lanes.enter();
        lanes.rouse();
        assert!(lanes.try_lead(1, lanes.before_lock()));
        let before = lanes.watch();
        lanes.ask_for_lock();
        assert!(lanes.watch() & 1 == 1 && lanes.leader_asks_for_lock(), "the standby sees it");
        assert_eq!(lanes.leave(0, LONG), Role::Idle);
        lanes.rouse();
        assert!(!lanes.try_lead(0, lanes.before_lock()));
        lanes.got_lock();
        assert!(lanes.watch() & 1 == 0 && lanes.watch() != before && !lanes.leader_asks_for_lock());
        lanes.enter();
        assert_eq!(lanes.leave(1, SHORT), Role::Lead);
    }

    #[test]
    fn after_a_long_call_the_next_one_wakes_an_idle_lane_at_once() {
        let lanes = two();
        lanes.enter();
        assert_eq!(lanes.leave(0, LONG), Role::Lead);
        assert_eq!(lock(&lanes.state).roused, None);
        lanes.enter();
        assert_eq!(lock(&lanes.state).roused_lane(), Some(1));
    }
}

//! Lanes that are coroutines: greenlets under a hub, tasks under an event loop. One thread runs them all.
//!
//! The loop watches two fds: the reactor's epoll set, and the *bell*, an eventfd that says that somebody else has put work
//! into the table. On either it makes a *turn* ([`Reactor::begin_turn`], then [`Reactor::next`],
//! [`Reactor::take_woken`], [`Reactor::take_overdue`]). A coroutine that must wait for its client asks without waiting
//! ([`crate::Exchange::poll_body`], [`crate::Exchange::poll_room`]) and is woken when the connection's next event comes.
//!
//! Listeners and handoff are not in the reactor's set: EPOLLEXCLUSIVE is lost in a set that is itself watched by another
//! (589 wake-ups instead of 106). They are in a set of their own, *front*, on which the standby waits. The standby also
//! keeps the deadlines, so that the loop needs no timers of ours.
//!
//! **A blocked loop.** The standby waits on front and on the reactor's set. When the latter is readable, or work is in the
//! table that needs no lane but a turn, the loop has something to do; if it has made no turn a tick later the standby takes
//! charge, as it does for threads, until a turn comes. So requests that come and go cost a tick each millisecond, an idle
//! worker none.
//!
//! Requests in the application have their `timeout`. What keeps the loop may be none: a task after its response, a
//! WebSocket's, one that the application has started. So a loop that has something to do, does not turn for as long,
//! and has no request that says so, is told of in their place.
//!
//! **Races.** Bell: whoever adds work pushes it under the table's lock, then rings unless `rung` is set; a turn that
//! finds `rung` set empties the eventfd, clears `rung`, then looks at the table. What is pushed before the look is seen by it, what is pushed
//! after it finds `rung` clear. Charge: the standby sets `standby_in_charge`, then reads `turns`; a turn changes `turns`,
//! then reads `standby_in_charge` and kicks. All sequentially consistent. Sleep: a turn may take from the set what the
//! standby was woken for before the standby has looked, and then block in the first of many requests. So a standby that
//! is about to sleep for long sets `asleep`, then reads `turns`; a turn changes `turns`, then clears `asleep` and, if it was
//! set, sounds the alarm, which is in front. Deadlines: one that the loop's thread arms
//! while the standby sleeps is seen with the next event, and within [`LOOK_EVERY`] while anything is in the application.

use crate::exchange::Exchange;
use crate::hands::Hands;
use crate::reactor::{Reactor, lock};
use crate::sys;
use crate::timeouts::{NO_STACK, Watch};
use crate::token::Source;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rgunicorn_log::event;
use rgunicorn_protocol::FromWorker;
use rgunicorn_protocol::scoreboard::{Glance, LaneState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Milliseconds that a loop may take to turn once its set is readable.
const TICK: i32 = 1;
/// Milliseconds after which deadlines are looked at again while requests are in the application.
const LOOK_EVERY: i32 = 1000;
/// How long a loop that turns may take to do so.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// Milliseconds until records that the journal did not take are offered again.
const FLUSH_LOG_EVERY: i32 = 5;

/// What the reactor has for coroutine drivers.
pub(crate) struct Coroutines {
    /// Listeners and handoff.
    front: Epoll,
    bell: EventFd,
    rung: AtomicBool,
    turns: AtomicU64,
    /// Wakes the standby.
    alarm: EventFd,
    /// The standby sleeps for longer than [`LOOK_EVERY`].
    asleep: AtomicBool,
    lanes: Mutex<Free>,
    /// Lanes whose `timeout` has passed while the loop turns, each with its request.
    overdue: Mutex<Vec<(usize, u64)>>,
    /// The driver has something to do between the last request and the end.
    held: AtomicBool,
}

/// Lanes that nobody has: those that came back, and those that were never used.
#[derive(Debug)]
struct Free {
    back: Vec<usize>,
    unused: std::ops::Range<usize>,
}

impl Coroutines {
    pub(crate) fn new(lanes: usize) -> io::Result<Coroutines> {
        let front = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        sys::control(front.0.as_fd(), libc::EPOLL_CTL_ADD, alarm.as_fd(), libc::EPOLLIN, Source::Kick)?;
        Ok(Coroutines {
            front,
            alarm,
            asleep: AtomicBool::new(false),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            rung: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            lanes: Mutex::new(Free { back: Vec::new(), unused: 0..lanes }),
            overdue: Mutex::new(Vec::new()),
            held: AtomicBool::new(false),
        })
    }

    pub(crate) fn front(&self) -> BorrowedFd<'_> {
        self.front.0.as_fd()
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// All that is ours, for children of the application.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.front(), self.bell(), self.alarm.as_fd()]
    }

    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            // A counter that is full is as good as one that was written to.
            let _ = self.bell.write(1);
        }
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::SeqCst)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    pub(crate) fn note_overdue(&self, lane: usize, request: u64) {
        lock(&self.overdue).push((lane, request));
        self.ring();
    }
}

impl Reactor {
    /// The fd that says that there is work which epoll does not know of; none for threads.
    pub fn bell_fd(&self) -> Option<BorrowedFd<'_>> {
        self.coroutines.as_ref().map(Coroutines::bell)
    }

    /// Begins a turn: takes what epoll has. By the loop's thread; does not wait.
    pub fn begin_turn(self: &Arc<Self>, hands: &mut Hands) {
        let Some(coroutines) = &self.coroutines else { return };
        // One that is rung and cannot be read yet will be read by the turn that it causes.
        if coroutines.rung.load(Ordering::SeqCst) && coroutines.bell.read().is_ok() {
            coroutines.rung.store(false, Ordering::SeqCst);
        }
        coroutines.turns.fetch_add(1, Ordering::SeqCst);
        if coroutines.asleep.load(Ordering::SeqCst) && coroutines.asleep.swap(false, Ordering::SeqCst) {
            let _ = coroutines.alarm.write(1);
        }
        if self.standby_in_charge.load(Ordering::SeqCst) {
            self.kick();
        }
        self.harvest(hands, 0);
    }

    /// Has the loop turn again soon: a turn that ends with work left, so that others have theirs.
    pub fn turn_again(&self) {
        if let Some(coroutines) = &self.coroutines {
            coroutines.ring();
        }
    }

    /// The lanes whose connections something has happened to.
    pub fn take_woken(&self) -> Vec<usize> {
        lock(&self.table).take_woken()
    }

    /// The lanes whose `timeout` has passed. For each, the driver takes the stack and calls [`Reactor::time_out_lane`].
    pub fn take_overdue(&self) -> Vec<usize> {
        let Some(coroutines) = &self.coroutines else { return Vec::new() };
        let overdue = std::mem::take(&mut *lock(&coroutines.overdue));
        // A lane may have another request by now, whose time is not over.
        let is_same = |&(lane, request): &(usize, u64)| {
            let glance = self.sheet.lane(lane).and_then(|record| record.glance());
            glance.is_some_and(|glance| glance.request == request)
        };
        overdue.into_iter().filter(is_same).map(|(lane, _)| lane).collect()
    }

    /// Gives the exchange's request a lane. None: there is no free one, which [`Reactor::next`] prevents.
    pub fn enter_coroutine(&self, exchange: &mut Exchange) -> Option<usize> {
        let coroutines = self.coroutines.as_ref()?;
        let (lane, fresh) = {
            let mut lanes = lock(&coroutines.lanes);
            match lanes.back.pop() {
                Some(lane) => (lane, false),
                None => (lanes.unused.next()?, true),
            }
        };
        if fresh && let Some(record) = self.sheet.lane(lane) {
            record.join();
        }
        self.begin_in_lane(lane, exchange);
        self.lanes.enter_coroutine();
        exchange.listen();
        Some(lane)
    }

    /// The id of the lane's request, if there is a request and it has one.
    pub fn request_id_of(&self, lane: usize) -> Option<String> {
        let running = self.sheet.lane(lane)?.look()?;
        Some(running.id).filter(|id| !id.is_empty())
    }

    /// The response is over: what the coroutine still does concerns no client, and has no `timeout`.
    pub fn end_response_of(&self, lane: usize) {
        if let Some(record) = self.sheet.lane(lane) {
            record.end();
        }
        if !self.settings.timeout.is_zero() {
            self.in_lanes.set(lane, None);
        }
    }

    /// The coroutine has ended, and with it what [`Reactor::enter_coroutine`] began.
    pub fn leave_coroutine(self: &Arc<Self>, lane: usize) {
        let Some(coroutines) = &self.coroutines else { return };
        self.end_response_of(lane);
        let was_full = !self.lanes.any_free();
        lock(&coroutines.lanes).back.push(lane);
        self.lanes.leave_coroutine();
        if was_full {
            self.listen_again();
            coroutines.ring();
        }
        self.finish_if_retired();
    }

    /// Keeps the worker from ending by itself once it is drained: the driver calls [`Reactor::finish`] then.
    pub fn hold(&self) {
        if let Some(coroutines) = &self.coroutines {
            coroutines.held.store(true, Ordering::SeqCst);
        }
    }

    /// Whether the worker retires and has nothing left to do.
    pub fn is_drained(&self) -> bool {
        self.retiring.load(Ordering::SeqCst) && self.connections() == 0 && self.lanes.inside() == 0
    }

    /// Where listeners and handoff are watched.
    pub(crate) fn listening_set(&self) -> BorrowedFd<'_> {
        self.coroutines.as_ref().map_or_else(|| self.epoll_fd(), Coroutines::front)
    }

    /// No lane is free: what is complete waits, and other workers may have it.
    pub(crate) fn turn_without_coroutine(self: &Arc<Self>, hands: &mut Hands) {
        self.stop_listening();
        self.turn_without_lane(hands);
        self.offer_requests(false);
    }

    /// The standby's life under a coroutine driver.
    pub(crate) fn stand_by_loop(self: &Arc<Self>, coroutines: &Coroutines) {
        let (mut hands, mut watch) = (Hands::default(), Watch::new(self.lanes.count()));
        // Something has happened since the last sleep: a request may enter the application after this look at the lanes,
        // and block the loop without another event. So there is one more look before a sleep without end.
        let mut active = true;
        while !self.finished.load(Ordering::SeqCst) {
            let turns = coroutines.turns();
            let mut timeout = self.time_to_look(active, &mut watch, &mut hands);
            self.deal_with_overdue(coroutines, turns, &mut hands);
            let waits = self.waits_for_loop();
            if waits {
                timeout = TICK;
            } else if !(0..=LOOK_EVERY).contains(&timeout) {
                coroutines.asleep.store(true, Ordering::SeqCst);
                if coroutines.turns() != turns {
                    timeout = LOOK_EVERY;
                }
            }
            let (front, set) = sys::wait_for_two(coroutines.front(), self.epoll_fd(), timeout);
            coroutines.asleep.store(false, Ordering::SeqCst);
            active = set || front || self.lanes.inside() > 0;
            if front {
                self.turn_front(coroutines, &mut hands);
            }
            self.expire();
            self.ring_for_work(coroutines);
            if (set || waits) && self.is_stuck(coroutines, turns, &mut hands) {
                self.take_charge_of_loop(coroutines, turns, &mut hands, &mut watch);
            }
        }
        self.end_process_if_stuck();
    }

    /// The loop was asked for the stacks of lanes whose `timeout` has passed. If it does not turn it is what hangs, and its
    /// thread's stack says where.
    fn deal_with_overdue(self: &Arc<Self>, coroutines: &Coroutines, turns: u64, hands: &mut Hands) {
        if lock(&coroutines.overdue).is_empty() {
            return;
        }
        let until = Instant::now() + ANSWER_WITHIN;
        while coroutines.turns() == turns {
            if sys::wait_for(coroutines.front(), libc::POLLIN, TICK).unwrap_or(false) {
                self.turn_front(coroutines, hands);
            }
            if Instant::now() >= until {
                for lane in self.take_overdue() {
                    self.time_out_lane(lane, None);
                }
                return;
            }
        }
    }

    /// Looks around; milliseconds until it must be done again.
    fn time_to_look(self: &Arc<Self>, active: bool, watch: &mut Watch, hands: &mut Hands) -> i32 {
        let late = if self.has_requests() { self.refuse_late_requests(hands) } else { None };
        let deadline = [self.next_deadline(), self.look_around(watch), late].into_iter().flatten().min();
        let mut timeout = self.timeout_until(deadline);
        let mut at_most = |most: i32| timeout = if timeout < 0 { most } else { timeout.min(most) };
        if active || self.lanes.inside() > 0 {
            at_most(LOOK_EVERY);
        }
        if (self.flush_log)() {
            at_most(FLUSH_LOG_EVERY);
        }
        timeout
    }

    /// Whether the loop, which has something to do, does not turn for a whole tick. Connections are accepted meanwhile.
    fn is_stuck(self: &Arc<Self>, coroutines: &Coroutines, turns: u64, hands: &mut Hands) -> bool {
        let until = Instant::now() + Duration::from_millis(TICK as u64);
        loop {
            if sys::wait_for(coroutines.front(), libc::POLLIN, TICK).unwrap_or(false) {
                self.turn_front(coroutines, hands);
            }
            if self.finished.load(Ordering::SeqCst) {
                return false;
            }
            if Instant::now() >= until {
                break;
            }
        }
        let due = || self.waits_for_loop() || sys::wait_for(self.epoll_fd(), libc::POLLIN, 0).unwrap_or(false);
        coroutines.turns() == turns && due()
    }

    /// Whether a turn would find something to do in the table.
    fn waits_for_loop(&self) -> bool {
        let any_free = self.lanes.any_free();
        lock(&self.table).waits_for_loop(any_free)
    }

    fn take_charge_of_loop(
        self: &Arc<Self>,
        coroutines: &Coroutines,
        turns: u64,
        hands: &mut Hands,
        watch: &mut Watch,
    ) {
        self.standby_in_charge.store(true, Ordering::SeqCst);
        let (since, mut told) = (Instant::now(), false);
        while coroutines.turns() == turns && !self.finished.load(Ordering::SeqCst) {
            if !told && self.is_hung(since) {
                self.tell_of_hung_loop(since);
                told = true;
            }
            self.harvest(hands, 0);
            self.turn_without_lane(hands);
            self.offer_requests(false);
            for lane in self.take_overdue() {
                self.time_out_lane(lane, None);
            }
            // The loop's own set does not show what was taken from it here.
            self.ring_for_work(coroutines);
            let timeout = self.time_to_look(true, watch, hands);
            let (front, _) = sys::wait_for_two(coroutines.front(), self.epoll_fd(), timeout);
            if front {
                self.turn_front(coroutines, hands);
            }
        }
        self.standby_in_charge.store(false, Ordering::SeqCst);
    }

    /// Whether a loop that had to turn at `since` has not done so for `timeout`, while nobody's `timeout` runs.
    fn is_hung(&self, since: Instant) -> bool {
        let timeout = self.settings.timeout;
        let runs = |glance: Glance| glance.state == LaneState::Application;
        !timeout.is_zero()
            && since.elapsed() >= timeout
            && !self.sheet.lanes().iter().filter_map(|record| record.glance()).any(runs)
    }

    /// As for a request whose `timeout` has passed: the stack is recorded, and the worker replaced.
    fn tell_of_hung_loop(&self, since: Instant) {
        // A loop runs in its process's main thread.
        let stack = (self.take_stack)(std::process::id().cast_signed());
        let seconds = since.elapsed().as_secs_f64();
        slog::error!(self.log, "The event loop has not turned for {:.1} s (timeout = {} s), and no request is in the \
            application: what runs after a response, in a WebSocket or in a task of the application's own keeps it. {}",
            seconds, self.settings.timeout.as_secs_f64(), stack.as_deref().unwrap_or(NO_STACK).trim_end();
            event::REQUEST_TIMEOUT);
        self.tell(&FromWorker::Stuck { reason: format!("its event loop has not turned for {seconds:.0} s") });
    }

    fn ring_for_work(&self, coroutines: &Coroutines) {
        if lock(&self.table).has_work_for_loop() {
            coroutines.ring();
        }
    }

    /// Takes what waits at the listeners and in the handoff, one from each that is ready, so that idle workers share.
    fn turn_front(self: &Arc<Self>, coroutines: &Coroutines, hands: &mut Hands) {
        let mut events = std::mem::take(&mut hands.events);
        let count = sys::wait(coroutines.front(), &mut events, 0).unwrap_or(0);
        let (mut accept, mut take_over) = (0_u64, false);
        for event in &events[..count] {
            match Source::decode(event.u64) {
                Source::Listener(n) => accept |= 1 << n.min(63),
                Source::Handoff => take_over = true,
                Source::Kick => drop(coroutines.alarm.read()),
                Source::Connection(_) | Source::Channel => {}
            }
        }
        hands.events = events;
        if take_over {
            self.take_turn_at_handoff();
            // What came along with the connection is announced by no event.
            self.ring_for_work(coroutines);
        }
        if accept != 0 && self.accepts() {
            self.accept(accept);
        }
    }
}

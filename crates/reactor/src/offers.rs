//! What this worker offers to the others, and when: idle connections while it retires, complete requests while its lanes
//! are in the application.
//!
//! Knows not how a connection travels; that is the handoff's. Invariant: what nobody takes is in the table again, and
//! whoever turns the reactor hears of it.

use crate::connection::Connection;
use crate::handoff::{Head, OFFER_AGAIN};
use crate::reactor::{Reactor, Service, lock};
use rgunicorn_protocol::scoreboard::Counter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl Reactor {
    /// An idle connection of a worker that retires, and with it others that are idle. What nobody can take for now is
    /// offered again until the deadline.
    pub(crate) fn leave_with(self: &Arc<Self>, connection: Box<Connection>) {
        let successors = self.successors.load(Ordering::Relaxed);
        if !successors && !self.settings.parks {
            self.end(connection);
            return;
        }
        if self.offer_again_at().is_some_and(|at| at > Instant::now()) {
            self.put_back(connection);
            return;
        }
        let mut leavers = vec![connection];
        {
            let mut table = lock(&self.table);
            // A part for each worker: whoever takes a datagram has all that is in it.
            let part = (table.len() / self.workers.load(Ordering::Relaxed)).min(self.most_at_once());
            table.take_idle(part.saturating_sub(1), &mut leavers);
        }
        let stay = self.hand_over_all(leavers);
        if stay.is_empty() {
            self.finish_if_retired();
        } else if !successors {
            // Nobody takes anything out before the next arbiter's workers do.
            stay.into_iter().for_each(|connection| self.end(connection));
        } else {
            *lock(&self.offer_again) = Some(Instant::now() + OFFER_AGAIN);
            stay.into_iter().for_each(|connection| self.put_back(connection));
            self.kick_pollers();
        }
    }

    /// When what nobody could take is offered again, by a worker that retires.
    pub(crate) fn offer_again_at(&self) -> Option<Instant> {
        if self.retiring.load(Ordering::Relaxed) { *lock(&self.offer_again) } else { None }
    }

    /// Offers again what nobody could take, once the time has come.
    pub(crate) fn offer_leavers_again(&self) {
        if self.offer_again_at().is_some_and(|at| at <= Instant::now()) {
            *lock(&self.offer_again) = None;
            self.review_all();
        }
    }

    /// Whether there are, or may be, other workers who take what this one gives away. What a worker is asked while it boots
    /// is meant for its own application.
    pub(crate) fn shares(&self) -> bool {
        if *lock(&self.service) == Service::Booting {
            return false;
        }
        self.workers.load(Ordering::Relaxed) > 1
            || (self.retiring.load(Ordering::Relaxed) && self.successors.load(Ordering::Relaxed))
    }

    /// Whether the worker retires and nobody takes its connections over, so that responses must announce their end.
    pub(crate) fn retires_alone(&self) -> bool {
        self.all_leave() && !self.settings.parks
    }

    /// Whether all workers of the instance leave, this one too.
    fn all_leave(&self) -> bool {
        self.retiring.load(Ordering::Relaxed) && !self.successors.load(Ordering::Relaxed)
    }

    /// Whether this worker takes what others have offered. When all leave it still does: requests that were offered before
    /// are answered, by whoever has a lane first. Idle connections wait there for the next arbiter, where one may come.
    pub(crate) fn takes(&self) -> bool {
        if self.finished.load(Ordering::SeqCst) {
            return false;
        }
        self.accepts()
            || self.all_leave() && (!self.settings.parks || matches!(self.head_of_handoff(), Head::Waited(_)))
    }

    /// Before this worker ends: takes what it, or another one, had offered before all of them were told to leave. Whether
    /// there was something. A worker that leaves offers no requests, so none comes after this look.
    pub(crate) fn take_last(self: &Arc<Self>) -> bool {
        self.all_leave() && self.takes() && self.take_over()
    }

    /// Whether complete requests wait in the handoff that no generation to come takes.
    pub(crate) fn last_wait(&self) -> bool {
        self.all_leave() && matches!(self.head_of_handoff(), Head::Waited(_))
    }

    /// Whether nobody will have a lane for a request that is here: all of this worker's are given up, and nothing is offered
    /// when all workers leave.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.all_leave() && self.has_given_up_all()
    }

    /// Drops a connection that lives on elsewhere.
    pub(crate) fn forget(&self, connection: Box<Connection>) {
        lock(&self.table).leave(connection.token);
        drop(connection);
        self.sheet.count(Counter::HandedOver);
    }

    /// Gives a lane's queue to workers whose lanes are free, while all lanes here are in the application, or `starved`: those
    /// that are free do not get the interpreter lock.
    pub(crate) fn offer_requests(self: &Arc<Self>, starved: bool) {
        let stuck = self.coroutines.is_some() && self.standby_in_charge.load(Ordering::SeqCst);
        if self.lanes.any_free() && !stuck && !starved || !self.shares() || self.all_leave() {
            return;
        }
        let mut gone = false;
        loop {
            let Some(connection) = lock(&self.table).pop_request() else { break };
            if let Err(connection) = self.hand_over(connection) {
                lock(&self.table).unpop_request(connection);
                // A lane that came back in between has found nothing to do.
                self.kick_pollers();
                break;
            }
            gone = true;
        }
        // Under a loop that is only slow nobody is inside whose coming back would look for the end.
        if gone {
            self.finish_if_retired();
        }
    }
}

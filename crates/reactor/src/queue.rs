//! Complete requests that wait for a lane: in this worker's queue, and in the handoff that all workers share.
//!
//! Keeps `queue_timeout`, on time even if every lane of the instance is stuck: each standby that is in charge looks at
//! its own queue and at the head of the handoff. Spares lanes the requests of clients that have left. A request's time
//! runs from the moment in which it was complete, whatever workers it has passed through since.

use crate::connection::Connection;
use crate::handoff::Head;
use crate::hands::Hands;
use crate::reactor::{Reactor, lock};
use crate::sys;
use rgunicorn_log::event;
use rgunicorn_protocol::scoreboard::Counter;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A FIN this long after the request means that the client has left. One that comes with the request may be of a client
/// that only says that it has no more to ask (RFC 9112 section 9.6 leaves both open; nginx takes either for leaving).
const LEFT_AFTER: Duration = Duration::from_millis(200);
/// Late requests taken from the handoff in one go.
const MOST_AT_ONCE: usize = 256;
/// When to look again after late requests could not be taken (no fd is left).
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Reactor {
    /// Whether the client has gone away while its request waited.
    pub(crate) fn has_left(&self, connection: &Connection, waited: Duration) -> bool {
        !connection.hung_up
            && waited > LEFT_AFTER
            && !self.has_only_hung_up(connection)
            && sys::wait_for(connection.socket.as_fd(), libc::POLLRDHUP, 0).unwrap_or(true)
    }

    /// Whether the FIN of a client whose request waits came with the request, though it was read apart from it.
    pub(crate) fn has_only_hung_up(&self, connection: &Connection) -> bool {
        let (Some(complete), Some(at)) = (connection.complete, lock(&self.table).hung_up(connection.token)) else {
            return false;
        };
        connection.waited_before + at.saturating_duration_since(complete) <= LEFT_AFTER
    }

    /// Answers the requests that have waited for `queue_timeout`, here and in the handoff. When to do so again.
    pub(crate) fn refuse_late_requests(self: &Arc<Self>, hands: &mut Hands) -> Option<Instant> {
        if self.is_hopeless() {
            let (waiting, _) = lock(&self.table).take_late_requests(Duration::ZERO);
            waiting.into_iter().for_each(|connection| self.refuse_hopeless(connection, hands));
        }
        let limit = self.settings.queue_timeout;
        if limit.is_zero() {
            return None;
        }
        let handed_over = if self.shares() && self.takes() { self.fetch_late_requests(hands) } else { None };
        let (late, here) = lock(&self.table).take_late_requests(limit);
        for connection in late {
            if self.has_left(&connection, connection.waited()) {
                self.end(connection);
            } else {
                self.refuse_late(connection, hands);
            }
        }
        here.into_iter().chain(handed_over).min().map(|left| Instant::now() + left)
    }

    /// Takes what has waited for too long out of the handoff, in which nobody else looks while all are busy. What is left
    /// of the time of the request at its head.
    fn fetch_late_requests(self: &Arc<Self>, hands: &mut Hands) -> Option<Duration> {
        let limit = self.settings.queue_timeout;
        for _ in 0..MOST_AT_ONCE {
            match self.head_of_handoff() {
                Head::Nothing => return None,
                Head::Waited(time) if time < limit => return Some(limit.saturating_sub(time)),
                // An idle connection is in the way of what stands behind it, and can as well wait here.
                Head::Waited(_) | Head::Idle => {
                    if !self.take_over() {
                        break;
                    }
                    self.turn_without_lane(hands);
                }
            }
        }
        Some(LOOK_AGAIN)
    }

    /// `queue_timeout`: 503 with Retry-After.
    pub(crate) fn refuse_late(self: &Arc<Self>, connection: Box<Connection>, hands: &mut Hands) {
        slog::warn!(self.log, "a request waited too long for a lane and was answered with 503"; event::QUEUE_TIMEOUT,
            "setting" => "queue_timeout", "remote_addr" => connection.peer_text());
        self.sheet.count(Counter::QueueTimeouts);
        self.refuse(connection, hands);
    }

    /// See [`Reactor::is_hopeless`].
    fn refuse_hopeless(self: &Arc<Self>, connection: Box<Connection>, hands: &mut Hands) {
        slog::warn!(self.log, "a request was answered with 503: its worker leaves, and all its lanes are in requests that \
            have timed out"; event::REQUEST_CUT, "remote_addr" => connection.peer_text());
        self.refuse(connection, hands);
    }

    fn refuse(self: &Arc<Self>, mut connection: Box<Connection>, hands: &mut Hands) {
        let verdict = connection.answer_error(503, hands, &self.surroundings());
        // It lingers or ends: its request has had its answer.
        if let Some(connection) = self.follow(verdict, connection) {
            self.queue_request(connection);
        }
    }
}

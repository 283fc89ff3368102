//! The table of connections: who has each, what has happened to it since, when its deadline passes.
//!
//! Everything here is touched under one lock for a few instructions at a time; no system call is made under it. A
//! connection is *here* (its box is in the table), or *out* (a thread is working on it: a lane in the application, or
//! whoever turns the reactor). Events of a connection that is out are kept and looked at when it comes back. So the
//! owner of a connection is the owner of its box, and there is no other lock on it.

use crate::connection::Connection;
use crate::outbox::Outbox;
use crate::timers::{Armed, Timers};
use crate::token::{RESERVED, Token};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What epoll said of a connection and nobody has looked at yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Happened {
    /// Something to read: bytes, FIN or an error.
    pub(crate) readable: bool,
    /// Room to write.
    pub(crate) writable: bool,
    /// Its deadline has passed.
    pub(crate) expired: bool,
    /// The peer sends nothing more (EPOLLRDHUP), as was noticed at this instant.
    pub(crate) hung_up: Option<Instant>,
    /// The peer is gone altogether (EPOLLHUP, EPOLLERR).
    pub(crate) gone: bool,
    /// The worker's state changed (it retires): look at it again.
    pub(crate) review: bool,
}

impl Happened {
    fn any(self) -> bool {
        self != Happened::default()
    }

    fn merge(&mut self, other: Happened) {
        self.readable |= other.readable;
        self.writable |= other.writable;
        self.expired |= other.expired;
        self.hung_up = self.hung_up.or(other.hung_up);
        self.gone |= other.gone;
        self.review |= other.review;
    }
}

/// Unsent output of a connection that is out; shared by the lane, which adds to it, and the reactor, which flushes it.
pub(crate) type SharedOutbox = Arc<Mutex<Outbox>>;

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    used: bool,
    here: Option<Box<Connection>>,
    happened: Happened,
    /// The token stands in `ready`.
    queued: bool,
    armed: Armed,
    outbox: Option<SharedOutbox>,
    /// The lane that is to be woken by what happens while the connection is out.
    lane: Option<usize>,
    /// The lane stands in `woken`.
    woken: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Connections to look at, in the order in which something happened to them.
    ready: VecDeque<Token>,
    /// Complete requests that wait for a lane.
    requests: VecDeque<Box<Connection>>,
    timers: Timers,
    /// Lanes that something has happened to, each once.
    woken: Vec<(Token, usize)>,
    used: usize,
}

impl Table {
    /// Connections in all, here and out.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Gives a new connection its place. The connection is out: its maker has it.
    pub(crate) fn enter(&mut self) -> Token {
        self.used += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.used = true;
        Token { index, generation: place.generation }
    }

    fn place(&mut self, token: Token) -> Option<&mut Place> {
        self.places.get_mut(token.index as usize).filter(|place| place.used && place.generation == token.generation)
    }

    /// Notes that something happened. Whether anybody must look.
    pub(crate) fn note(&mut self, token: Token, happened: Happened) -> bool {
        let Some(place) = self.place(token) else { return false };
        place.happened.merge(happened);
        if place.here.is_some() && !place.queued {
            place.queued = true;
            self.ready.push_back(token);
            return true;
        }
        self.wake_lane(token);
        false
    }

    /// Wakes the lane that listens for a connection which is out.
    fn wake_lane(&mut self, token: Token) {
        let Some(place) = self.place(token) else { return };
        if let (None, Some(lane), false) = (&place.here, place.lane, place.woken) {
            place.woken = true;
            self.woken.push((token, lane));
        }
    }

    /// Events of a connection that is out are told to `lane` from now on, and what has happened already at once.
    pub(crate) fn listen(&mut self, token: Token, lane: usize) {
        let Some(place) = self.place(token) else { return };
        place.lane = Some(lane);
        if place.happened.any() {
            self.wake_lane(token);
        }
    }

    /// Takes the lanes that are to be woken. One whose connection is gone meanwhile is left out.
    pub(crate) fn take_woken(&mut self) -> Vec<usize> {
        let woken = std::mem::take(&mut self.woken);
        woken
            .into_iter()
            .filter(|(token, lane)| {
                self.place(*token).is_some_and(|place| {
                    place.woken = false;
                    place.lane == Some(*lane)
                })
            })
            .map(|(_, lane)| lane)
            .collect()
    }

    /// Whether a turn of the loop would find something.
    pub(crate) fn has_work_for_loop(&self) -> bool {
        self.has_work() || !self.woken.is_empty()
    }

    /// Whether work waits for a turn of the loop alone, and not for a lane, of which `any_free` says whether there is one.
    pub(crate) fn waits_for_loop(&self, any_free: bool) -> bool {
        !self.ready.is_empty() || !self.woken.is_empty() || any_free && !self.requests.is_empty()
    }

    /// Takes the next connection that something has happened to. It is out until [`Table::put_back`].
    pub(crate) fn take_ready(&mut self) -> Option<(Box<Connection>, Happened)> {
        while let Some(token) = self.ready.pop_front() {
            let Some(place) = self.place(token) else { continue };
            place.queued = false;
            if let Some(connection) = place.here.take() {
                return Some((connection, std::mem::take(&mut place.happened)));
            }
        }
        None
    }

    /// Puts a connection back, with the deadline at which somebody must look at it. Whether it is ready again at once.
    pub(crate) fn put_back(&mut self, connection: Box<Connection>, deadline: Option<Instant>) -> bool {
        let token = connection.token;
        let Some(place) = self.places.get_mut(token.index as usize) else { return false };
        place.outbox = None;
        place.lane = None;
        self.timers.arm(&mut place.armed, token, deadline);
        place.happened.readable |= connection.wants_turn();
        place.here = Some(connection);
        if place.happened.any() && !place.queued {
            place.queued = true;
            self.ready.push_back(token);
            return true;
        }
        false
    }

    /// Sets the deadline of a connection that is out.
    pub(crate) fn arm(&mut self, token: Token, deadline: Option<Instant>) {
        if let Some(place) = self.places.get_mut(token.index as usize)
            && place.used
            && place.generation == token.generation
        {
            self.timers.arm(&mut place.armed, token, deadline);
        }
    }

    /// Lets the reactor flush what a lane could not send.
    pub(crate) fn lend_outbox(&mut self, token: Token, outbox: &SharedOutbox) {
        if let Some(place) = self.place(token) {
            place.outbox = Some(Arc::clone(outbox));
        }
    }

    /// The outbox of a connection that is out, if it has unsent output.
    pub(crate) fn outbox(&mut self, token: Token) -> Option<SharedOutbox> {
        self.place(token).and_then(|place| place.outbox.clone())
    }

    /// Whether the token's connection is out; its events are for [`Table::outbox`] then.
    pub(crate) fn is_out(&mut self, token: Token) -> bool {
        self.place(token).is_some_and(|place| place.here.is_none())
    }

    /// What has happened to a connection that is out, for its owner.
    pub(crate) fn happened(&mut self, token: Token) -> Happened {
        self.place(token).map(|place| std::mem::take(&mut place.happened)).unwrap_or_default()
    }

    /// When the end of the peer's sending was noticed of a connection that is out, if nobody has looked since.
    pub(crate) fn hung_up(&mut self, token: Token) -> Option<Instant> {
        self.place(token).and_then(|place| place.happened.hung_up)
    }

    /// Forgets a connection; its box is its owner's to drop.
    pub(crate) fn leave(&mut self, token: Token) {
        let Some(place) = self.place(token) else { return };
        let generation = place.generation.wrapping_add(1);
        *place = Place { generation: if generation == RESERVED { 0 } else { generation }, ..Place::default() };
        self.used -= 1;
        self.free.push(token.index);
    }

    pub(crate) fn push_request(&mut self, connection: Box<Connection>) {
        self.requests.push_back(connection);
    }

    /// Takes the requests that have waited for `limit`, and says when the next one will have.
    pub(crate) fn take_late_requests(&mut self, limit: Duration) -> (VecDeque<Box<Connection>>, Option<Duration>) {
        let (mut late, mut next) = (VecDeque::new(), None);
        let mut waiting = VecDeque::with_capacity(self.requests.len());
        for connection in self.requests.drain(..) {
            match limit.checked_sub(connection.waited()).filter(|left| !left.is_zero()) {
                None => late.push_back(connection),
                Some(left) => {
                    next = Some(next.map_or(left, |nearest: Duration| nearest.min(left)));
                    waiting.push_back(connection);
                }
            }
        }
        self.requests = waiting;
        (late, next)
    }

    pub(crate) fn pop_request(&mut self) -> Option<Box<Connection>> {
        self.requests.pop_front()
    }

    /// Puts a request back where [`Table::pop_request`] took it.
    pub(crate) fn unpop_request(&mut self, connection: Box<Connection>) {
        self.requests.push_front(connection);
    }

    /// Whether a turn would find something without asking epoll.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.requests.is_empty()
    }

    pub(crate) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Takes the idle connection whose deadline is nearest: the one that has been idle for longest.
    pub(crate) fn take_oldest_idle(&mut self) -> Option<Box<Connection>> {
        let oldest = self
            .places
            .iter_mut()
            .filter(|place| place.here.as_ref().is_some_and(|connection| connection.is_idle()))
            .filter(|place| !place.happened.any())
            .min_by_key(|place| place.armed.deadline())?;
        oldest.here.take()
    }

    /// Takes the connection whose request has been without a complete head for longest.
    pub(crate) fn take_oldest_half_open(&mut self) -> Option<Box<Connection>> {
        let oldest = self
            .places
            .iter_mut()
            .filter(|place| !place.happened.any())
            .filter_map(|place| place.here.as_ref().and_then(|here| here.half_open_since()).map(|since| (since, place)))
            .min_by_key(|(since, _)| *since);
        oldest.and_then(|(_, place)| place.here.take())
    }

    /// Takes up to `most` idle connections to which nothing has happened beyond the worker's retirement.
    #[expect(clippy::vec_box, reason = "connections move by their boxes, here and in the table")]
    pub(crate) fn take_idle(&mut self, most: usize, into: &mut Vec<Box<Connection>>) {
        let review = Happened { review: true, ..Happened::default() };
        let idle = self
            .places
            .iter_mut()
            .filter(|place| place.here.as_ref().is_some_and(|connection| connection.is_idle()))
            .filter(|place| !place.happened.any() || place.happened == review);
        into.extend(idle.take(most).filter_map(|place| {
            place.happened = Happened::default();
            place.here.take()
        }));
    }

    /// What is lost with the connections that are here, a sentence for each request that was begun.
    pub(crate) fn unfinished(&self, now: Instant) -> Vec<String> {
        let here = self.places.iter().filter_map(|place| place.here.as_ref());
        here.chain(&self.requests).filter_map(|connection| connection.unfinished(now)).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Notes every deadline that has passed. The tokens of connections that are out are returned.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Token> {
        let mut out = Vec::new();
        loop {
            let Table { timers, places, .. } = self;
            let due = timers.pop_due(now, places, |places, token| {
                places
                    .get_mut(token.index as usize)
                    .filter(|place| place.used && place.generation == token.generation)
                    .map(|place| &mut place.armed)
            });
            let Some(token) = due else { return out };
            if self.is_out(token) {
                self.wake_lane(token);
                out.push(token);
            } else {
                self.note(token, Happened { expired: true, ..Happened::default() });
            }
        }
    }

    /// Asks for a look at every connection that is here.
    pub(crate) fn review_all(&mut self) {
        let tokens: Vec<Token> = (0_u32..)
            .zip(&self.places)
            .filter(|(_, place)| place.used)
            .map(|(index, place)| Token { index, generation: place.generation })
            .collect();
        for token in tokens {
            self.note(token, Happened { review: true, ..Happened::default() });
        }
    }
}

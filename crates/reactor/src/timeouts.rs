//! `timeout`: a request that is in the application for too long without progress.
//!
//! Looked for by the standby, the only thread that no application can keep from looking. What happens then: the stack of
//! exactly that lane goes into one record with the request; the client gets a 504 if nothing of a response has been sent,
//! else its connection is shut down; the arbiter is told and replaces the worker, whose other lanes finish.
//!
//! **The race for the client.** The lane may begin its response in the very moment in which the standby gives up on it.
//! Each socket has one flag, *answered*; whoever swaps it first has the word, the other one is silent.
//!
//! **The race for the connection.** A lane that has answered may stay in the application (`close` of a WSGI iterable)
//! while its connection has its next request, in another lane, and the flag is that request's. So a lane takes its
//! connection out of [`InLanes`] before it gives it back, and the standby holds the lock of that place from its look
//! until the client is told: what it finds there belongs to the request whose time is over, if the lane has that still.
//!
//! **The end of a worker that hangs.** A lane that has been given up may never come back, and a worker that retires waits
//! for nobody else's sake: it ends once only such lanes are in the application, and only their connections are open. The
//! lanes and the connections are counted elsewhere, so the lanes given up are looked at before and after: one that was
//! there both times was counted in between, with its connection if it had one both times, so equal numbers mean that
//! nobody else was.

use crate::memory::Growth;
use crate::offspring::Socket;
use crate::reactor::{Reactor, lock};
use crate::request_id::{self, IdText};
use crate::sys;
use rgunicorn_http::write_error;
use rgunicorn_log::event;
use rgunicorn_protocol::FromWorker;
use rgunicorn_protocol::scoreboard::{Counter, Glance, LaneState, Running, monotonic_us};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How often lanes are looked at while requests come and go: the look costs more than a short request.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a record says in the place of a stack.
pub(crate) const NO_STACK: &str = "No stack could be taken: the thread runs no Python code, or takes no signals.";

/// Takes the Python stack of a thread (gettid(2)) of this process, as text.
pub type TakeStack = Box<dyn Fn(i32) -> Option<String> + Send + Sync>;

/// What the standby knows of the lanes.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The last request of each lane that was dealt with.
    dealt_with: Vec<u64>,
    look_at: Instant,
    /// When the standby meant to be back at the latest.
    due: Option<Instant>,
    /// Requests older than the first figure have not run for as long as the second, in microseconds.
    pause: (u64, u64),
    /// What is known of the worker's memory.
    pub(crate) growth: Growth,
}

/// The requests in the lanes.
#[derive(Debug)]
pub(crate) struct InLanes {
    places: Vec<Mutex<Place>>,
    /// Lanes that were given up. Written under the lock of the place.
    given_up: AtomicUsize,
}

/// What is in a lane.
#[derive(Debug, Default)]
struct Place {
    /// None: nothing, or a request whose connection has been given back or has ended.
    request: Option<InLane>,
    /// The number of its request, once nothing more is expected of it, and since when.
    given_up: Option<(u64, Instant)>,
}

/// A request in a lane, as far as the standby must know it.
#[derive(Debug)]
pub(crate) struct InLane {
    pub(crate) socket: Arc<Socket>,
    pub(crate) request_id: Option<IdText>,
}

/// A lane of which nothing more is expected.
#[derive(Debug, PartialEq, Eq)]
struct GivenUp {
    lane: usize,
    request: u64,
    has_connection: bool,
}

impl InLanes {
    pub(crate) fn new(lanes: usize) -> InLanes {
        InLanes { places: (0..lanes).map(|_| Mutex::default()).collect(), given_up: AtomicUsize::new(0) }
    }

    /// The lane has a new request, or none.
    pub(crate) fn set(&self, lane: usize, request: Option<InLane>) {
        if let Some(place) = self.places.get(lane) {
            let mut place = lock(place);
            if place.given_up.is_some() {
                self.given_up.fetch_sub(1, Ordering::SeqCst);
            }
            *place = Place { request, given_up: None };
        }
    }

    /// The lane's request no longer has its connection, if it is this one. To be called before the connection is given
    /// back or ended.
    pub(crate) fn part(&self, lane: usize, socket: &Arc<Socket>) {
        if let Some(place) = self.places.get(lane) {
            lock(place).request.take_if(|request| Arc::ptr_eq(&request.socket, socket));
        }
    }

    /// Whether there are lanes that were given up.
    fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst) > 0
    }

    /// The lanes that were given up at least [`LATE_FOR`] ago.
    fn given_up(&self) -> Vec<GivenUp> {
        if !self.has_given_up() {
            return Vec::new();
        }
        let place = |(lane, place): (usize, &Mutex<Place>)| {
            let place = lock(place);
            let (request, _) = place.given_up.filter(|(_, since)| since.elapsed() >= LATE_FOR)?;
            Some(GivenUp { lane, request, has_connection: place.request.is_some() })
        };
        self.places.iter().enumerate().filter_map(place).collect()
    }
}

/// For how long a lane that was given up is waited for by a worker that has nothing else to do: it may be about to come
/// back, and to write its access line.
const LATE_FOR: Duration = Duration::from_secs(1);

/// A standby that is back so much later than it meant to be did not run, and neither did the lanes: the worker was
/// stopped (SIGSTOP, the control group's freezer, a paused virtual machine) or got no processor.
const LATE: Duration = Duration::from_secs(1);

impl Watch {
    pub(crate) fn new(lanes: usize) -> Watch {
        Watch { dealt_with: vec![0; lanes], look_at: Instant::now(), due: None, pause: (0, 0), growth: Growth::new() }
    }

    fn note_pause(&mut self, now: Instant, now_us: u64) {
        let Some(late) = self.due.map(|due| now.saturating_duration_since(due)).filter(|late| *late >= LATE) else {
            return;
        };
        self.pause = (now_us, self.pause.1.saturating_add(late.as_micros() as u64));
    }

    /// For how long the application has had a request that last made progress at `progress`.
    fn age(&self, progress: u64, now: u64) -> u64 {
        let (before, paused) = self.pause;
        now.saturating_sub(progress).saturating_sub(if progress <= before { paused } else { 0 })
    }
}

impl Reactor {
    /// Looks for requests whose time is over; gives the instant at which to look again, if any request is in a lane.
    /// Time in which the worker did not run is not the requests'.
    pub(crate) fn watch_lanes(self: &Arc<Self>, watch: &mut Watch) -> Option<Instant> {
        watch.note_pause(Instant::now(), monotonic_us());
        watch.due = self.look_at_lanes(watch);
        watch.due
    }

    fn look_at_lanes(self: &Arc<Self>, watch: &mut Watch) -> Option<Instant> {
        let timeout = self.settings.timeout;
        if timeout.is_zero() || self.lanes.inside() == 0 {
            watch.pause = (0, 0);
            return None;
        }
        let start = Instant::now();
        if start < watch.look_at {
            return Some(watch.look_at);
        }
        watch.look_at = start + LOOK_EVERY;
        let (now, limit) = (monotonic_us(), timeout.as_micros() as u64);
        let mut next = None;
        for lane in 0..watch.dealt_with.len() {
            let Some(glance) = self.sheet.lane(lane).and_then(|record| record.glance()) else { continue };
            if watch.dealt_with[lane] == glance.request {
                continue;
            }
            let age = match glance.state {
                LaneState::Application => watch.age(glance.progress.max(glance.since), now),
                // The client's time runs, not the application's: body_timeout, send_timeout.
                LaneState::Client => 0,
            };
            if age >= limit {
                watch.dealt_with[lane] = glance.request;
                match self.coroutines.as_ref().filter(|_| !self.standby_in_charge.load(Ordering::SeqCst)) {
                    // Only the loop knows where the coroutine stands.
                    Some(coroutines) => coroutines.note_overdue(lane, glance.request),
                    None => self.time_out(lane, glance, None),
                }
                continue;
            }
            let at = start + Duration::from_micros(limit - age);
            next = Some(next.map_or(at, |earlier: Instant| earlier.min(at)));
        }
        if self.in_lanes.has_given_up() {
            // Nothing else may happen any more in a worker that retires.
            self.finish_if_retired();
            return Some(watch.look_at);
        }
        if let Some(at) = next {
            watch.look_at = at.max(watch.look_at);
        }
        next
    }

    /// Whether no connection is open and no lane in the application but for those that have been given up.
    pub(crate) fn owes_nobody(&self) -> bool {
        let before = self.in_lanes.given_up();
        let held = before.iter().filter(|lane| lane.has_connection).count();
        self.connections() == held && self.lanes.inside() as usize == before.len() && self.in_lanes.given_up() == before
    }

    /// Whether the request in this lane is one of which nothing more is expected.
    pub(crate) fn is_given_up(&self, lane: usize) -> bool {
        self.in_lanes.given_up().iter().any(|given_up| given_up.lane == lane)
    }

    /// Whether nothing more is expected of any lane.
    pub(crate) fn has_given_up_all(&self) -> bool {
        self.in_lanes.given_up().len() == self.lanes.count()
    }

    /// The `timeout` of a lane has passed, and its stack is this, or that of its thread.
    pub fn time_out_lane(&self, lane: usize, stack: Option<String>) {
        if let Some(glance) = self.sheet.lane(lane).and_then(|record| record.glance()) {
            self.time_out(lane, glance, stack);
        }
    }

    fn time_out(&self, lane: usize, glance: Glance, stack: Option<String>) {
        let request = self.sheet.lane(lane).and_then(|record| record.look());
        let stack = stack.or_else(|| (self.take_stack)(glance.thread));
        let Some(place) = self.in_lanes.places.get(lane) else { return };
        let (answered, age, id) = {
            let mut place = lock(place);
            // It may have come back while its stack was taken, and then nothing is wrong any more. The number of the
            // request is raised before the next connection is put into the lane's place.
            let still = self.sheet.lane(lane).and_then(|record| record.glance());
            if still.is_none_or(|still| still.request != glance.request) {
                return;
            }
            // A loop that hangs does so with all its requests.
            if self.coroutines.is_none() && place.given_up.replace((glance.request, Instant::now())).is_none() {
                self.in_lanes.given_up.fetch_add(1, Ordering::SeqCst);
            }
            let in_lane = place.request.as_ref();
            let id = in_lane.and_then(|request| request.request_id.as_ref()).map(IdText::to_string);
            let age = Duration::from_micros(monotonic_us().saturating_sub(glance.since));
            (self.answer_timeout(in_lane, age), age, id)
        };
        self.sheet.count(Counter::Timeouts);
        let name = request.as_ref().map_or_else(|| "a request".to_owned(), line);
        let id = id.or_else(|| request.map(|request| request.id).filter(|id| !id.is_empty()));
        let still = Duration::from_micros(monotonic_us().saturating_sub(glance.progress.max(glance.since)));
        let stack = stack.as_deref().unwrap_or(NO_STACK);
        slog::error!(self.log, "{} has been in the application for {:.1} s, the last {:.1} s without progress \
            (timeout = {} s); {}. {}", name, age.as_secs_f64(), still.as_secs_f64(), self.settings.timeout.as_secs_f64(), answered, stack.trim_end();
            event::REQUEST_TIMEOUT, "lane" => lane + 1, "thread" => glance.thread,
            "duration_usec" => age.as_micros() as u64, "request_id" => id);
        self.tell(&FromWorker::Stuck { reason: format!("{name} has timed out after {:.0} s", age.as_secs_f64()) });
    }

    /// Tells the client, if it can still be told. What was done, as a clause.
    fn answer_timeout(&self, in_lane: Option<&InLane>, age: Duration) -> &'static str {
        let Some(InLane { socket, request_id }) = in_lane else { return "its client has its answer, or has left" };
        if !socket.claim() {
            sys::shut_down(socket.as_raw_fd());
            return "its client's connection was shut down, since the response had begun";
        }
        let mut out = Vec::new();
        let date = crate::hands::Hands::default().date();
        let policy = &self.settings.policy;
        let id = request_id.as_ref().map(|id| (request_id::NAME, id.as_bytes()));
        write_error(504, "the application took too long", id.as_slice(), &policy.server_header, &date, false, &mut out);
        let sent = sys::send(socket.as_fd(), &out);
        sys::finish_sending(socket.as_fd());
        // The lane may never come back to do it; if it does it finds that it was late.
        self.sheet.record(Instant::now(), 504, 0, age, Duration::ZERO);
        match sent {
            Ok(_) => "its client was answered with 504",
            Err(_) => "its client has left",
        }
    }
}

/// `GET /slow`, for records.
fn line(request: &Running) -> String {
    let cut = if request.truncated { "..." } else { "" };
    format!("{} {}{cut}", request.method, request.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_worker_did_not_run_is_not_the_requests() {
        let mut watch = Watch::new(1);
        let start = Instant::now();
        watch.due = Some(start);
        watch.note_pause(start + Duration::from_millis(900), 1_000_000);
        assert_eq!(watch.age(0, 1_000_000), 1_000_000);
        watch.note_pause(start + Duration::from_secs(60), 61_000_000);
        assert_eq!(watch.age(0, 62_000_000), 2_000_000);
        assert_eq!(watch.age(61_500_000, 62_000_000), 500_000, "a request that came later has had no pause");
        watch.due = None;
        watch.note_pause(start + Duration::from_secs(600), 601_000_000);
        assert_eq!(watch.pause.1, 60_000_000, "a standby that waited for nothing in particular is not late");
    }
}

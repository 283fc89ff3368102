//! One request and its response, in the hands of a lane.
//!
//! Owns the connection for as long as the application works on the request, and gives it back to the reactor with
//! [`Exchange::finish`] or when it is dropped (the connection is closed then: the response is not complete). Whatever may
//! wait says so; it is to be called without the interpreter lock. Knows no Python.

mod polling;
mod reading;
mod sending;
mod upgrade;

pub use polling::{Client, Read};
pub use reading::BodyError;
pub use upgrade::Raw;

use crate::connection::Connection;
use crate::hands::Hands;
use crate::offspring::{Socket, in_child};
use crate::reactor::Reactor;
use crate::request_id;
use crate::sys;
use crate::timeouts::InLane;
use rgunicorn_http::{BodyFraming, End, Head, Method, ProxyHeader, ResponseFault, Span, Trust, reason, write_error};
use rgunicorn_protocol::ListenerAddress;
use rgunicorn_protocol::scoreboard::{LaneState, monotonic_coarse_us};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the lane does after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Goes on.
    Go,
    /// More than `response_buffer` is unsent: calls [`Exchange::wait_for_room`] before the next write.
    Wait,
}

/// Why nothing more can be sent.
#[derive(Debug)]
pub enum SendError {
    /// The client has left, or has not read for `send_timeout`.
    Gone(io::Error),
    /// The orders do not fit: a response after the response, a bad header.
    Fault(ResponseFault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No order yet.
    Unanswered,
    /// The head is in `out` or sent.
    Started(BodyFraming),
    /// The connection speaks another protocol.
    Upgraded,
    /// The server's own error page was sent: the connection is closed behind it, lingering.
    Failed,
    /// Nothing more may be sent; the connection will be closed.
    Broken,
}

/// See the module.
pub struct Exchange {
    reactor: Arc<Reactor>,
    /// Present until the exchange ends.
    connection: Option<Box<Connection>>,
    stage: Stage,
    /// Encoded and not sent.
    out: Vec<u8>,
    /// Whether unsent bytes are in the outbox, so that later ones must go there too.
    boxed: bool,
    /// Bytes of the response body that were sent or kept.
    body_sent: u64,
    status: u16,
    waited: Duration,
    started: Instant,
    /// The lane that works on it.
    lane: Option<usize>,
    /// Streaming: the engine has given the end of the body.
    body_ended: bool,
    /// Streaming: body bytes that the engine has given and the application has not read.
    ready: Ready,
    continue_pending: bool,
    overrun: bool,
    /// The response is this lane's to give.
    claimed: bool,
    /// The standby has answered instead of the lane, and counted it.
    timed_out: bool,
    /// In the head's bytes.
    request_id: Option<Span>,
    /// The client is gone altogether.
    gone: bool,
    /// Until when more of the body is waited for, by a coroutine.
    body_deadline: Option<Instant>,
}

/// Body bytes at the beginning of a connection's unconsumed input.
#[derive(Debug, Default)]
struct Ready {
    left: usize,
    /// Framing behind them.
    behind: usize,
}

impl Ready {
    fn take(&mut self, connection: &mut Connection, into: &mut [u8]) -> usize {
        let n = self.left.min(into.len());
        into[..n].copy_from_slice(&connection.input[connection.start..connection.start + n]);
        connection.start += n;
        self.left -= n;
        if self.left == 0 {
            connection.start += std::mem::take(&mut self.behind);
        }
        n
    }

    /// Passes over what the application did not read.
    fn pass_over(&mut self, connection: &mut Connection) {
        connection.start += std::mem::take(&mut self.left) + std::mem::take(&mut self.behind);
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("stage", &self.stage)
            .field("body_sent", &self.body_sent)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    pub(crate) fn new(reactor: Arc<Reactor>, mut connection: Box<Connection>, waited: Duration) -> Exchange {
        let request_id = match connection.head.as_deref_mut() {
            Some(head) if reactor.settings.request_id => {
                Some(reactor.request_ids.give(head, &mut connection.head_bytes, connection.trust.forwarded))
            }
            Some(_) | None => None,
        };
        let body_ended =
            connection.body.is_some() || connection.head.as_ref().is_none_or(|head| head.framing.is_empty());
        let continue_pending = !body_ended && connection.engine.wants_continue();
        Exchange {
            reactor,
            connection: Some(connection),
            stage: Stage::Unanswered,
            out: Vec::new(),
            boxed: false,
            body_sent: 0,
            status: 0,
            waited,
            started: Instant::now(),
            lane: None,
            body_ended,
            ready: Ready::default(),
            continue_pending,
            overrun: false,
            claimed: false,
            timed_out: false,
            request_id,
            gone: false,
            body_deadline: None,
        }
    }

    pub(crate) fn set_lane(&mut self, lane: usize) {
        self.lane = Some(lane);
    }

    /// What the standby must know of the request while a lane works on it.
    pub(crate) fn in_lane(&self) -> Option<InLane> {
        let socket = self.connection.as_ref().map(|connection| &connection.socket)?;
        socket.ask();
        Some(InLane { socket: Arc::clone(socket), request_id: self.request_id().map(request_id::IdText::new) })
    }

    /// Before the first byte of the response: whether it is still the lane's to answer.
    fn claim(&mut self) -> Result<(), SendError> {
        if in_child() {
            return Err(gone());
        }
        if self.claimed || self.reactor.settings.timeout.is_zero() {
            return Ok(());
        }
        let Some(connection) = self.connection.as_ref() else { return Err(gone()) };
        if self.lane.is_some() && !connection.socket.claim() {
            self.stage = Stage::Broken;
            (self.timed_out, self.status, self.body_sent) = (true, 504, 0);
            return Err(gone());
        }
        self.claimed = true;
        Ok(())
    }

    /// The request came on: its `timeout` begins anew.
    fn note_progress(&self) {
        if let Some(record) = self.lane.and_then(|lane| self.reactor.sheet.lane(lane)) {
            record.progress(monotonic_coarse_us());
        }
    }

    /// The lane waits for the client, or no longer does.
    fn note_state(&self, state: LaneState) {
        if let Some(record) = self.lane.and_then(|lane| self.reactor.sheet.lane(lane)) {
            record.enter(state);
        }
    }

    /// Waits for the client's socket, and says so on the scoreboard meanwhile.
    fn wait_for_client(&self, socket: &Socket, events: i16, timeout: i32) -> io::Result<bool> {
        self.note_state(LaneState::Client);
        let ready = sys::wait_for(socket.as_fd(), events, timeout);
        self.note_state(LaneState::Application);
        self.note_progress();
        ready
    }

    /// The request is over: its figures go to the scoreboard.
    fn record(&self, now: Instant) {
        if !in_child() && !self.timed_out {
            let latency = now.saturating_duration_since(self.started);
            self.reactor.sheet.record(now, self.status, self.body_sent, latency, self.waited);
        }
    }

    fn connection(&self) -> Option<&Connection> {
        self.connection.as_deref()
    }

    /// The request's head. Its spans are of [`Exchange::bytes`].
    pub fn head(&self) -> &Head {
        static EMPTY: std::sync::OnceLock<Head> = std::sync::OnceLock::new();
        match self.connection().and_then(|connection| connection.head.as_deref()) {
            Some(head) => head,
            None => EMPTY.get_or_init(Head::default),
        }
    }

    /// The bytes of the request's head.
    pub fn bytes(&self) -> &[u8] {
        self.connection().map_or(&[], |connection| &connection.head_bytes)
    }

    /// The bytes of one span of the head.
    pub fn text(&self, span: Span) -> &[u8] {
        span.of(self.bytes())
    }

    /// The request's id, which is in its head, too; none where the setting `request_id` is off. ASCII without anything
    /// that would have to be escaped.
    pub fn request_id(&self) -> Option<&[u8]> {
        self.request_id.map(|id| self.text(id))
    }

    /// The other end of the socket; none on unix sockets.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.connection().and_then(|connection| connection.peer)
    }

    /// What a PROXY header said at the beginning of the connection.
    pub fn proxied(&self) -> Option<&ProxyHeader> {
        self.connection().and_then(|connection| connection.proxied.as_deref())
    }

    /// Whom the peer may speak for.
    pub fn trust(&self) -> Trust {
        self.connection().map(|connection| connection.trust).unwrap_or_default()
    }

    /// Number of the listener that the connection came from.
    pub fn listener(&self) -> u32 {
        self.connection().map_or(0, |connection| connection.listener)
    }

    /// Address of the listener that the connection came from.
    pub fn listener_address(&self) -> Option<ListenerAddress> {
        self.reactor.listener_address(self.listener())
    }

    /// The socket's fd, for `gunicorn.socket`. Valid until the exchange ends; whoever keeps it longer duplicates it.
    pub fn raw_fd(&self) -> RawFd {
        self.connection().map_or(-1, |connection| connection.socket.as_raw_fd())
    }

    /// As [`Exchange::raw_fd`], for an application that is going to read and write itself. If the client has offered
    /// another protocol, that is taken to be spoken, and no `timeout` runs.
    pub fn lend_socket(&mut self) -> RawFd {
        if self.head().upgrade.is_some() {
            self.note_state(LaneState::Client);
        }
        self.raw_fd()
    }

    /// How long the complete request waited for this lane.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// When the lane got the request.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Status of the response; 0 before [`Exchange::respond`].
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Bytes of the response body so far, without framing.
    pub fn body_sent(&self) -> u64 {
        self.body_sent
    }

    /// Whether the application gave more than its Content-Length; the rest was cut.
    pub fn overrun(&self) -> bool {
        self.overrun
    }

    // The response.

    /// Whether [`Exchange::respond`] was called.
    pub fn responded(&self) -> bool {
        self.stage != Stage::Unanswered
    }

    /// Whether anything of the response has left for the client, so that it can no longer be replaced by another.
    pub fn head_sent(&self) -> bool {
        match self.stage {
            Stage::Unanswered => false,
            Stage::Started(_) => self.out.is_empty() || self.boxed,
            Stage::Upgraded | Stage::Failed | Stage::Broken => true,
        }
    }

    /// Whether the client is known to have left. Looks only at what epoll has said; it does not read.
    pub fn client_left(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| {
            let happened = self.reactor.happened(connection.token);
            let gone = happened.gone;
            if happened != crate::table::Happened::default() {
                self.reactor.note_again(connection.token, happened);
            }
            gone
        })
    }

    /// Gives up a response that was begun: the client sees the connection close before the response's end.
    pub fn abort(&mut self) {
        // Where nothing was sent the standby may have answered.
        let _ = self.claim();
        self.stage = Stage::Broken;
    }

    /// Answers with an error page of the server's own, if nothing has been sent. [`Exchange::finish`] then closes the
    /// connection in any case.
    pub fn fail(&mut self, status: u16, hands: &mut Hands) {
        if self.head_sent() {
            self.stage = Stage::Broken;
            return;
        }
        let date = hands.date();
        self.out.clear();
        self.status = status;
        self.body_sent = 0;
        let text = reason(status);
        if let Some(connection) = self.connection.as_mut() {
            let policy = &self.reactor.settings.policy;
            // The head that was encoded and not sent is forgotten, and with it the engine's idea of a response.
            let head_only = connection.head.as_ref().is_some_and(|head| head.method == Method::Head);
            let fields = [(request_id::NAME, self.request_id.unwrap_or_default().of(&connection.head_bytes))];
            let fields = if self.request_id.is_some() { &fields[..] } else { &[] };
            if !connection.engine.error_response(policy, status, text, fields, &date, &mut self.out) {
                write_error(status, text, fields, &policy.server_header, &date, head_only, &mut self.out);
            }
            if !head_only {
                self.body_sent = text.len() as u64 + 1;
            }
        }
        // What the socket does not take goes to the outbox; what fails, fails with the connection.
        let _ = self.transmit();
        self.stage = Stage::Failed;
    }

    /// Ends the response and gives the connection back: the next request, or the end. Bytes that the response owes
    /// against its Content-Length are returned.
    pub fn finish(mut self, hands: &mut Hands) -> Finished {
        let Some(mut connection) = self.connection.take() else {
            return Finished { missing: 0, status: self.status, body_sent: self.body_sent };
        };
        if in_child() {
            // Its fd was closed at the fork; the number may be another file's by now and is not to be closed again.
            std::mem::forget(connection);
            return Finished { missing: 0, status: self.status, body_sent: self.body_sent };
        }
        let now = Instant::now();
        // An upgraded one was recorded with its handshake.
        if self.status != 101 {
            self.record(now);
        }
        let mut finished = Finished { missing: 0, status: self.status, body_sent: self.body_sent };
        self.ready.pass_over(&mut connection);
        match self.stage {
            Stage::Started(_) => {}
            Stage::Failed | Stage::Upgraded => {
                self.give_back(connection, false, hands);
                return finished;
            }
            Stage::Unanswered | Stage::Broken => {
                self.end(connection);
                return finished;
            }
        }
        let end = connection.engine.end_response(&self.reactor.settings.policy, now, &mut self.out);
        self.connection = Some(connection);
        let sent = if self.out.is_empty() { Ok(Flow::Go) } else { self.transmit() };
        let Some(connection) = self.connection.take() else { return finished };
        match (end, sent) {
            (End::CloseShort { missing }, _) => {
                finished.missing = missing;
                self.end(connection);
            }
            (_, Err(_)) => self.end(connection),
            (End::KeepAlive, Ok(_)) => self.give_back(connection, true, hands),
            (End::Close, Ok(_)) => self.give_back(connection, false, hands),
        }
        finished
    }

    fn give_back(&self, mut connection: Box<Connection>, keep_alive: bool, hands: &mut Hands) {
        self.part(&connection);
        let verdict = connection.finish_response(keep_alive, hands, &self.reactor.surroundings());
        if let Some(connection) = self.reactor.follow(verdict, connection) {
            self.reactor.queue_request(connection);
        }
    }

    fn end(&self, connection: Box<Connection>) {
        self.part(&connection);
        self.reactor.end(connection);
    }

    /// What the lane still does for this request concerns the connection no more, which soon has its next one, or ends.
    fn part(&self, connection: &Connection) {
        if let Some(lane) = self.lane.filter(|_| !self.reactor.settings.timeout.is_zero()) {
            self.reactor.in_lanes.part(lane, &connection.socket);
        }
    }
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Bytes that were announced by Content-Length and never given.
    pub missing: u64,
    /// The status that was sent.
    pub status: u16,
    /// Bytes of the body without framing.
    pub body_sent: u64,
}

fn gone() -> SendError {
    SendError::Gone(io::Error::new(io::ErrorKind::BrokenPipe, "the client has left"))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            if in_child() {
                std::mem::forget(connection);
                return;
            }
            if self.status != 101 {
                self.record(Instant::now());
            }
            self.end(connection);
        }
    }
}

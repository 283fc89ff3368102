//! One request and its response, in the hands of a lane.
//!
//! Owns the connection for as long as the application works on the request, and gives it back to the reactor with
//! [`Exchange::finish`] or when it is dropped (the connection is closed then: the response is not complete). Whatever may
//! wait says so; it is to be called without the interpreter lock. Knows no Python.

mod polling;
mod reading;
mod upgrade;

pub use polling::{Client, Read};
pub use reading::BodyError;
pub use upgrade::Raw;

use crate::connection::Connection;
use crate::hands::Hands;
use crate::offspring::{Socket, in_child};
use crate::outbox::{Flushed, OwnedBytes};
use crate::reactor::{Reactor, lock};
use crate::request_id;
use crate::sys;
use crate::timeouts::InLane;
use rgunicorn_http::{
    BodyFraming, End, Head, Method, ProxyHeader, ResponseFault, Span, Started, Trust, reason, write_error,
};
use rgunicorn_protocol::ListenerAddress;
use rgunicorn_protocol::scoreboard::{LaneState, monotonic_coarse_us};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes up to which head and data are joined in one buffer instead of being sent from two places.
const JOIN_UP_TO: usize = 16 * 1024;

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
        if !in_child() {
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

    /// Encodes the response's head; it is sent with the first data. The request's id is added unless `fields` have one.
    /// `known_length` is the length of the whole body
    /// where the caller knows it and the application gave no Content-Length.
    ///
    /// # Errors
    /// What is wrong with status or fields; nothing was encoded, another response may be given.
    pub fn respond(
        &mut self,
        status: &[u8],
        fields: &[(&[u8], &[u8])],
        known_length: Option<u64>,
        hands: &mut Hands,
    ) -> Result<Started, ResponseFault> {
        let date = hands.date();
        self.out.clear();
        let retiring = self.reactor.retires_alone();
        let Some(connection) = self.connection.as_mut() else { return Err(ResponseFault::OutOfTurn) };
        if retiring {
            connection.engine.close_after_response();
        }
        let id = self
            .request_id
            .filter(|_| !fields.iter().any(|(name, _)| request_id::is_name(name)))
            .map(|id| (request_id::NAME, id.of(&connection.head_bytes)));
        let started = connection.engine.start_response(
            &self.reactor.settings.policy,
            status,
            fields.iter().copied().chain(id),
            known_length,
            &date,
            &mut self.out,
        )?;
        self.status = status.iter().take(3).fold(0, |code, digit| code * 10 + u16::from(digit & 15));
        self.stage = Stage::Started(started.framing);
        Ok(started)
    }

    /// Ends a body that is sent in chunks with trailers; only [`Exchange::finish`] may follow. Elsewhere they are dropped.
    ///
    /// # Errors
    /// A field that may not be sent; nothing was encoded.
    pub fn trailers(&mut self, fields: &[(&[u8], &[u8])]) -> Result<(), ResponseFault> {
        let (Stage::Started(_), Some(connection)) = (self.stage, self.connection.as_mut()) else { return Ok(()) };
        connection.engine.end_with_trailers(fields.iter().copied(), &mut self.out).map(drop)
    }

    /// A 103 (RFC 8297), sent at once. Nothing happens on HTTP/1.0 or after the response's head.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn early_hints(&mut self, fields: &[(&[u8], &[u8])]) -> Result<Flow, SendError> {
        if self.stage != Stage::Unanswered {
            return Ok(Flow::Go);
        }
        let Some(connection) = self.connection.as_mut() else { return Ok(Flow::Go) };
        let mut out = Vec::new();
        if connection.engine.early_hints(fields.iter().copied(), &mut out).map_err(SendError::Fault)? {
            self.transmit_raw(&out)
        } else {
            Ok(Flow::Go)
        }
    }

    /// Sends data of the response body, and the head with the first. All of it is taken: what the socket does not take
    /// at once is kept and sent by the reactor. Data beyond the Content-Length is cut (see [`Exchange::overrun`]).
    ///
    /// # Errors
    /// [`SendError::Gone`]: nothing more can be sent.
    pub fn send(&mut self, data: &[u8]) -> Result<Flow, SendError> {
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        match self.stage {
            Stage::Unanswered => return Err(SendError::Fault(ResponseFault::OutOfTurn)),
            Stage::Upgraded | Stage::Failed | Stage::Broken => return Err(gone()),
            Stage::Started(_) => {}
        }
        let chunk = connection.engine.frame_data(data.len() as u64);
        let data = &data[..chunk.take as usize];
        self.overrun |= chunk.overrun;
        self.body_sent += data.len() as u64;
        self.out.extend_from_slice(chunk.prefix());
        if data.len() <= JOIN_UP_TO {
            self.out.extend_from_slice(data);
            self.out.extend_from_slice(chunk.suffix);
            return self.transmit();
        }
        let flow = self.transmit_with(data, None)?;
        if chunk.suffix.is_empty() {
            return Ok(flow);
        }
        self.out.extend_from_slice(chunk.suffix);
        self.transmit()
    }

    /// As [`Exchange::send`], for long data: what the socket does not take at once is kept without being copied.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub fn send_owned(&mut self, data: &OwnedBytes) -> Result<Flow, SendError> {
        let bytes = (**data).as_ref();
        if bytes.len() <= JOIN_UP_TO || !matches!(self.stage, Stage::Started(_)) {
            return self.send(bytes);
        }
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        let chunk = connection.engine.frame_data(bytes.len() as u64);
        self.overrun |= chunk.overrun;
        self.body_sent += chunk.take;
        self.out.extend_from_slice(chunk.prefix());
        // What is cut cannot be kept whole.
        let whole = chunk.take as usize == bytes.len();
        let flow = self.transmit_with(&bytes[..chunk.take as usize], whole.then_some(data))?;
        if chunk.suffix.is_empty() {
            return Ok(flow);
        }
        self.out.extend_from_slice(chunk.suffix);
        self.transmit()
    }

    /// Keeps data to be sent with what follows: for a caller that has more at hand.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub fn add(&mut self, data: &[u8]) -> Result<Flow, SendError> {
        if self.out.len() + data.len() > JOIN_UP_TO {
            return self.send(data);
        }
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        if !matches!(self.stage, Stage::Started(_)) {
            return Err(SendError::Fault(ResponseFault::OutOfTurn));
        }
        let chunk = connection.engine.frame_data(data.len() as u64);
        self.overrun |= chunk.overrun;
        self.body_sent += chunk.take;
        self.out.extend_from_slice(chunk.prefix());
        self.out.extend_from_slice(&data[..chunk.take as usize]);
        self.out.extend_from_slice(chunk.suffix);
        Ok(Flow::Go)
    }

    /// Sends what was kept: the head alone, or what [`Exchange::add`] collected.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub fn flush(&mut self) -> Result<Flow, SendError> {
        if self.out.is_empty() { Ok(Flow::Go) } else { self.transmit() }
    }

    /// Sends `length` bytes of `file` from `offset` as response body, by sendfile(2), after everything before it. The
    /// lane need not wait: the reactor goes on after the exchange has ended. Not past the Content-Length.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub fn send_file(&mut self, file: OwnedFd, offset: u64, length: u64) -> Result<(), SendError> {
        self.claim()?;
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        if !matches!(self.stage, Stage::Started(_)) {
            return Err(SendError::Fault(ResponseFault::OutOfTurn));
        }
        let chunk = connection.engine.frame_data(length);
        self.body_sent += chunk.take;
        let outbox = connection.outbox();
        let mut queue = lock(&outbox);
        queue.own(&connection.socket);
        queue.push(&self.out);
        self.out.clear();
        queue.push(chunk.prefix());
        queue.push_file(file, offset, chunk.take);
        queue.push(chunk.suffix);
        let flushed = queue.flush_own();
        drop(queue);
        match flushed {
            Flushed::All => {
                connection.outbox = None;
                self.boxed = false;
                Ok(())
            }
            Flushed::Blocked => {
                self.share_outbox();
                Ok(())
            }
            Flushed::Failed(error) => {
                self.stage = Stage::Broken;
                Err(SendError::Gone(error))
            }
        }
    }

    /// Waits until less than `response_buffer` is unsent. For a thread without the interpreter lock.
    ///
    /// # Errors
    /// [`SendError::Gone`]: the client left, or read nothing for `send_timeout`.
    pub fn wait_for_room(&mut self) -> Result<(), SendError> {
        let settings = &self.reactor.settings;
        let timeout = match settings.send_timeout {
            Duration::ZERO => -1,
            timeout => i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        };
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        let Some(outbox) = connection.outbox.clone() else { return Ok(()) };
        let socket = Arc::clone(&connection.socket);
        loop {
            let flushed = {
                let mut queue = lock(&outbox);
                let flushed = queue.flush_own();
                if matches!(flushed, Flushed::Blocked) && queue.held() <= settings.response_buffer {
                    return Ok(());
                }
                flushed
            };
            match flushed {
                Flushed::All => return Ok(()),
                Flushed::Blocked => {}
                Flushed::Failed(error) => {
                    self.stage = Stage::Broken;
                    return Err(SendError::Gone(error));
                }
            }
            match self.wait_for_client(&socket, libc::POLLOUT, timeout) {
                Ok(true) => {}
                Ok(false) if timeout >= 0 => {
                    self.stage = Stage::Broken;
                    return Err(SendError::Gone(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the client read nothing for send_timeout",
                    )));
                }
                Ok(false) => {}
                Err(error) => return Err(SendError::Gone(error)),
            }
        }
    }

    /// Sends `self.out`.
    fn transmit(&mut self) -> Result<Flow, SendError> {
        self.note_progress();
        let out = std::mem::take(&mut self.out);
        let result = self.transmit_raw(&out);
        self.out = out;
        self.out.clear();
        result
    }

    fn transmit_raw(&mut self, bytes: &[u8]) -> Result<Flow, SendError> {
        if self.boxed {
            return self.box_up(&[bytes], None);
        }
        self.claim()?;
        let Some(connection) = self.connection.as_ref() else { return Err(gone()) };
        match sys::send(connection.socket.as_fd(), bytes) {
            Ok(n) if n == bytes.len() => Ok(Flow::Go),
            Ok(n) => self.box_up(&[&bytes[n..]], None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.box_up(&[bytes], None),
            Err(error) => {
                self.stage = Stage::Broken;
                Err(SendError::Gone(error))
            }
        }
    }

    /// Sends `self.out` and `data` as one.
    fn transmit_with(&mut self, data: &[u8], owner: Option<&OwnedBytes>) -> Result<Flow, SendError> {
        self.note_progress();
        let out = std::mem::take(&mut self.out);
        let result = self.transmit_two(&out, data, owner);
        self.out = out;
        self.out.clear();
        result
    }

    fn transmit_two(&mut self, out: &[u8], data: &[u8], owner: Option<&OwnedBytes>) -> Result<Flow, SendError> {
        let mut sent = 0;
        if !self.boxed {
            self.claim()?;
            let Some(connection) = self.connection.as_ref() else { return Err(gone()) };
            match sys::send_two(connection.socket.as_fd(), out, data) {
                Ok(n) if n == out.len() + data.len() => return Ok(Flow::Go),
                Ok(n) => sent = n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.stage = Stage::Broken;
                    return Err(SendError::Gone(error));
                }
            }
        }
        let head = &out[sent.min(out.len())..];
        let from = sent.saturating_sub(out.len());
        self.box_up(&[head, if owner.is_some() { &[] } else { &data[from..] }], owner.map(|owner| (owner, from)))
    }

    fn box_up(&mut self, parts: &[&[u8]], owned: Option<(&OwnedBytes, usize)>) -> Result<Flow, SendError> {
        let limit = self.reactor.settings.response_buffer;
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        let outbox = connection.outbox();
        let mut queue = lock(&outbox);
        queue.own(&connection.socket);
        if queue.is_empty() {
            self.boxed = false;
        }
        for part in parts {
            queue.push(part);
        }
        if let Some((data, from)) = owned {
            queue.push_owned(data, from);
        }
        let flushed = queue.flush_own();
        let held = queue.held();
        drop(queue);
        match flushed {
            Flushed::All => {
                connection.outbox = None;
                self.boxed = false;
                Ok(Flow::Go)
            }
            Flushed::Blocked => {
                self.share_outbox();
                Ok(if held > limit { Flow::Wait } else { Flow::Go })
            }
            Flushed::Failed(error) => {
                self.stage = Stage::Broken;
                Err(SendError::Gone(error))
            }
        }
    }

    /// Lets the reactor flush while the application goes on.
    fn share_outbox(&mut self) {
        if self.boxed {
            return;
        }
        self.boxed = true;
        if let Some(connection) = self.connection.as_ref()
            && let Some(outbox) = &connection.outbox
        {
            self.reactor.lend_outbox(connection.token, outbox);
            self.reactor.want_room(connection.token, connection.socket.as_fd());
            self.reactor.arm_send_deadline(connection.token);
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
                self.reactor.end(connection);
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
                self.reactor.end(connection);
            }
            (_, Err(_)) => self.reactor.end(connection),
            (End::KeepAlive, Ok(_)) => self.give_back(connection, true, hands),
            (End::Close, Ok(_)) => self.give_back(connection, false, hands),
        }
        finished
    }

    fn give_back(&self, mut connection: Box<Connection>, keep_alive: bool, hands: &mut Hands) {
        // What the lane still does for this request concerns the connection no more, which soon has its next one.
        if let Some(lane) = self.lane.filter(|_| !self.reactor.settings.timeout.is_zero()) {
            self.reactor.in_lanes.set(lane, None);
        }
        let verdict = connection.finish_response(keep_alive, hands, &self.reactor.surroundings());
        if let Some(connection) = self.reactor.follow(verdict, connection) {
            self.reactor.queue_request(connection);
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
            self.reactor.end(connection);
        }
    }
}

//! One connection outside the application: receives a request, flushes a response, lingers, ends.
//!
//! Owns the socket, the engine's state and the bytes in between. Every call is non-blocking and is made by the one
//! thread that has the connection's box. Knows no epoll set and no lane. The HTTP rules are the engine's; here is only
//! where bytes come from and go to.

use crate::body::{BufferedBody, SpoolError};
use crate::hands::{Hands, KEEP_SMALL, READ_SIZE};
use crate::offspring::Socket;
use crate::outbox::{Flushed, Outbox};
use crate::settings::ReactorSettings;
use crate::sys;
use crate::table::{Happened, SharedOutbox};
use crate::token::Token;
use rgunicorn_http::{self as http, Eof, Expired, Framing, Head, ProxyHeader, Rejection, Step, Trust};
use rgunicorn_log::event;
use rgunicorn_protocol::Sheet;
use rgunicorn_protocol::scoreboard::Counter;
use slog::Logger;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a lingering close waits for the client's FIN (RFC 9112 section 9.6; nginx's and Apache's order of size).
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that a lingering close reads and forgets before it gives up on a client that goes on sending.
const LINGER_BYTES: usize = 1 << 20;
/// How long a client that was accepted while the worker leaves may take to begin its request.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);
/// How long one that was answered before may take to begin its next one. It may be on its way, and would be reset; its
/// response says that it is the last (RFC 9112 section 9.6).
const BEGIN_AGAIN_WITHIN: Duration = Duration::from_millis(100);
/// Seconds after which a client that was refused for want of room may try again.
const RETRY_AFTER: (&[u8], &[u8]) = (b"Retry-After", b"1");
/// Reads in one turn, so that one fast client does not hold the thread.
const READS_PER_TURN: usize = 16;

/// What a connection does next.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Waits for a request or receives one.
    Receiving,
    /// Its request is complete and waits for a lane, or is in the application.
    Answering,
    /// The response is complete, but the socket did not take all of it.
    Flushing { keep_alive: bool, deadline: Option<Instant> },
    /// FIN is sent; what still comes is read and forgotten.
    Lingering { deadline: Instant, left: usize },
}

/// What the thread that advanced a connection does with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Puts it back: it waits for the next event or its deadline.
    Keep,
    /// Its request wants a lane.
    Request,
    /// Gives it to another worker if there is one, or ends it: it is idle and this worker retires.
    Leave,
    /// Ends it.
    End,
}

/// What a connection needs to know of its worker.
pub(crate) struct Surroundings<'a> {
    pub(crate) settings: &'a ReactorSettings,
    pub(crate) log: &'a Logger,
    pub(crate) sheet: &'a Sheet,
    /// The worker retires: no connection stays once it is idle.
    pub(crate) retiring: bool,
    /// It retires, and nobody takes its connections over.
    pub(crate) alone: bool,
    pub(crate) now: Instant,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) token: Token,
    pub(crate) socket: Arc<Socket>,
    pub(crate) engine: http::Connection,
    /// Received bytes; those before `start` are consumed.
    pub(crate) input: Vec<u8>,
    pub(crate) start: usize,
    pub(crate) phase: Phase,
    pub(crate) trust: Trust,
    /// The other end of the socket; none on unix sockets.
    pub(crate) peer: Option<SocketAddr>,
    /// What a PROXY header said.
    pub(crate) proxied: Option<Box<ProxyHeader>>,
    /// Which listener it came from.
    pub(crate) listener: u32,
    pub(crate) head: Option<Box<Head>>,
    /// The bytes that the head's spans are of.
    pub(crate) head_bytes: Vec<u8>,
    pub(crate) body: Option<Box<BufferedBody>>,
    pub(crate) outbox: Option<SharedOutbox>,
    /// The socket may have more than was read: bytes, or the end. Edges come once (epoll(7)), so it is remembered until
    /// a read finds nothing.
    pub(crate) readable: bool,
    /// The client's FIN or RST was announced: reading goes on until it is found.
    pub(crate) hung_up: bool,
    /// The client said that this request is its last.
    client_closes: bool,
    /// `100 Continue` was sent for the request in hand.
    pub(crate) continued: bool,
    /// No request was complete on this connection yet.
    pub(crate) fresh: bool,
    /// How long its request has waited before it came to this worker.
    pub(crate) waited_before: Duration,
    /// While the worker leaves: how long its first request is waited for.
    begin_until: Option<Instant>,
    /// When the request was complete: its queue time runs from here.
    pub(crate) complete: Option<Instant>,
    /// When the first bytes of the request in hand were read, if it was not complete then.
    begun: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(
        token: Token,
        socket: OwnedFd,
        peer: Option<SocketAddr>,
        listener: u32,
        settings: &ReactorSettings,
        now: Instant,
    ) -> Connection {
        Connection {
            token,
            socket: Arc::new(Socket::new(socket)),
            engine: http::Connection::new(&settings.policy, now),
            input: Vec::new(),
            start: 0,
            phase: Phase::Receiving,
            trust: settings.trust(peer.map(|address| address.ip())),
            peer,
            proxied: None,
            listener,
            head: None,
            head_bytes: Vec::new(),
            body: None,
            outbox: None,
            readable: false,
            hung_up: false,
            client_closes: false,
            continued: false,
            begin_until: None,
            fresh: true,
            waited_before: Duration::ZERO,
            complete: None,
            begun: None,
        }
    }

    /// What is lost if the connection ends now, as a sentence; none if it is nothing.
    pub(crate) fn unfinished(&self, now: Instant) -> Option<String> {
        let age = self.begun.or(self.complete).map(|at| now.saturating_duration_since(at).as_secs_f64());
        let age = age.unwrap_or_default();
        let named = || {
            let head = self.head.as_deref()?;
            let text = |span: http::Span| String::from_utf8_lossy(span.of(&self.head_bytes)).escape_debug().to_string();
            Some(format!("{} {}", text(head.method_span), text(head.target)))
        };
        match &self.phase {
            Phase::Receiving if self.body.is_some() => {
                let come = self.body.as_ref().map_or(0, |body| body.length());
                Some(format!("{} is cut off after {age:.1} s: only {come} bytes of its body have come", named()?))
            }
            Phase::Receiving if self.is_idle() => None,
            Phase::Receiving if !self.waited_before.is_zero() => {
                let age = self.waited_before.as_secs_f64();
                Some(format!(
                    "A request of {} is cut off after {age:.1} s: no thread was free for it",
                    self.peer_text()
                ))
            }
            Phase::Receiving => {
                Some(format!("A request of {} is cut off after {age:.1} s: its head is not complete", self.peer_text()))
            }
            Phase::Answering => Some(format!("{} is cut off after {age:.1} s: no thread was free for it", named()?)),
            Phase::Flushing { .. } => {
                Some(format!("A response to {} is cut off: the client has not read all of it", self.peer_text()))
            }
            Phase::Lingering { .. } => None,
        }
    }

    /// When somebody must look at the connection though nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Receiving => {
                [self.engine.deadline(), self.begin_until.filter(|_| self.is_idle())].into_iter().flatten().min()
            }
            // In the application, or in the queue, which has a deadline of its own (queue.rs).
            Phase::Answering => None,
            Phase::Flushing { deadline, .. } => *deadline,
            Phase::Lingering { deadline, .. } => Some(*deadline),
        }
    }

    /// Whether it waits for a request of which no byte has come.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Receiving) && self.unread() == 0 && self.engine.is_idle()
    }

    /// Since when it has had a part of a head; none if it has none, or the whole.
    pub(crate) fn half_open_since(&self) -> Option<Instant> {
        let receives = matches!(self.phase, Phase::Receiving) && !self.is_idle();
        if receives && (self.engine.is_in_head() || self.engine.is_idle()) { self.begun } else { None }
    }

    /// How long its complete request has waited for a lane, here and with other workers.
    pub(crate) fn waited(&self) -> Duration {
        self.waited_before + self.complete.map(|at| at.elapsed()).unwrap_or_default()
    }

    /// Received bytes that are not consumed.
    pub(crate) fn unread(&self) -> usize {
        self.input.len() - self.start
    }

    /// Goes as far as it can.
    pub(crate) fn advance(&mut self, happened: Happened, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        self.readable |= happened.readable || happened.gone || happened.review && around.alone;
        self.hung_up |= happened.hung_up.is_some() || happened.gone;
        if happened.expired {
            match self.expire(hands, around) {
                Verdict::Keep => {}
                verdict => return verdict,
            }
        }
        if matches!(self.phase, Phase::Flushing { .. }) {
            match self.flush(hands, around) {
                Verdict::Keep if matches!(self.phase, Phase::Receiving) => {}
                verdict => return verdict,
            }
        }
        match self.phase {
            Phase::Receiving => self.receive(hands, around),
            Phase::Lingering { .. } => self.linger(hands),
            Phase::Answering | Phase::Flushing { .. } => Verdict::Keep,
        }
    }

    fn expire(&mut self, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        match self.phase {
            Phase::Receiving => match self.engine.handle_timeout(around.now) {
                // The moment of `may_still_begin` may be over; that is looked at next.
                Expired::NotYet => Verdict::Keep,
                Expired::Close => Verdict::End,
                Expired::Rejected(rejection) => self.reject(&rejection, hands, around),
            },
            Phase::Flushing { .. } => {
                slog::info!(around.log, "a client stopped reading its response and was disconnected";
                    event::REQUEST_ABANDONED,
                    "remote_addr" => self.peer_text(), "setting" => "send_timeout");
                around.sheet.count(Counter::SendTimeouts);
                Verdict::End
            }
            Phase::Lingering { .. } => Verdict::End,
            Phase::Answering => Verdict::Keep,
        }
    }

    fn receive(&mut self, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        for _ in 0..READS_PER_TURN {
            if self.unread() > 0 {
                match self.parse(hands, around) {
                    Verdict::Keep => {}
                    verdict => return verdict,
                }
            }
            // Without successors a request that has arrived unread would be lost with the connection.
            let unheard = around.alone && self.readable;
            if around.retiring && self.is_idle() && !unheard && !self.may_still_begin(around) {
                return Verdict::Leave;
            }
            if !self.readable {
                self.settle_input(hands);
                return Verdict::Keep;
            }
            self.make_room(hands);
            let room = self.input.capacity() - self.input.len();
            match sys::receive(self.socket.as_fd(), &mut self.input) {
                Ok(0) => return self.end_of_input(hands, around),
                // Less than there was room for: the socket is empty, and a later byte or FIN is a new edge (epoll(7)).
                // A FIN that came with these bytes is not.
                Ok(n) => self.readable = n == room || self.hung_up,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => return Verdict::End,
            }
        }
        // The turn is over, and its last read may have been the request's end.
        if self.unread() > 0 { self.parse(hands, around) } else { Verdict::Keep }
    }

    /// The worker leaves, and what a client sends now would be lost. It is read from at least once, and has a moment to
    /// begin; a longer one if it was let in just before and has not been heard yet. (With successors it is they who hear it.)
    fn may_still_begin(&mut self, around: &Surroundings<'_>) -> bool {
        if !around.alone {
            return false;
        }
        let moment = if self.fresh { BEGIN_WITHIN } else { BEGIN_AGAIN_WITHIN };
        let until = *self.begin_until.get_or_insert(around.now + moment);
        around.now < until
    }

    /// Asks the engine about what has arrived until it wants more or a request is complete.
    fn parse(&mut self, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        let policy = &around.settings.policy;
        loop {
            let head = self.head.get_or_insert_with(|| hands.head());
            let input = &self.input[self.start..];
            match self.engine.handle_input(policy, self.trust, input, head, around.now) {
                Step::NeedMore | Step::Wait => {
                    self.begun.get_or_insert(around.now);
                    return Verdict::Keep;
                }
                Step::Skip { consumed } => self.start += consumed,
                Step::Proxied { consumed, header } => {
                    self.start += consumed;
                    self.proxied = Some(Box::new(header));
                }
                Step::Request { consumed } => {
                    let whole = head.framing.is_empty();
                    self.client_closes = !head.keep_alive;
                    let length = match head.framing {
                        Framing::None | Framing::Chunked => None,
                        Framing::Length(length) => Some(length),
                    };
                    self.take_head_bytes(consumed, hands);
                    if whole {
                        if !self.asks_for_health(around) {
                            return self.complete(around);
                        }
                        let verdict = self.answer_health(hands, around);
                        if verdict != Verdict::Keep || !matches!(self.phase, Phase::Receiving) {
                            return verdict;
                        }
                    } else {
                        if !around.settings.request_buffering {
                            return self.complete(around);
                        }
                        self.body = Some(Box::new(BufferedBody::new(length, &around.settings.spool)));
                        if self.engine.wants_continue() {
                            self.continued = true;
                            hands.out.clear();
                            self.engine.send_continue(&mut hands.out);
                            // 25 bytes that do not fit mean a client that has stopped reading long ago; it will see
                            // the final response instead, or nothing.
                            let _ = sys::send(self.socket.as_fd(), &hands.out);
                        }
                    }
                }
                Step::Data { consumed, data } => {
                    let start = self.start;
                    self.start += consumed;
                    if let Some(body) = &mut self.body {
                        let data = &self.input[start + data.start..start + data.end];
                        if let Err(error) = body.append(data, &around.settings.spool) {
                            return self.cannot_spool(&error, hands, around);
                        }
                    }
                }
                Step::End { consumed } => {
                    self.start += consumed;
                    return self.complete(around);
                }
                Step::Rejected(rejection) => return self.reject(&rejection, hands, around),
                Step::Switched | Step::Closed => return Verdict::End,
            }
            if self.start == self.input.len() && self.body.is_some() {
                self.input.clear();
                self.start = 0;
            }
        }
    }

    fn asks_for_health(&self, around: &Surroundings<'_>) -> bool {
        let path = &around.settings.health_path;
        !path.is_empty()
            && self.head.as_ref().is_some_and(|head| {
                matches!(head.method, http::Method::Get | http::Method::Head) && head.path(&self.head_bytes) == path
            })
    }

    /// `health_path`: answered here, so that a worker whose lanes are all busy is not taken for a dead one, and one that
    /// leaves says so to the load balancer.
    fn answer_health(&mut self, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        const FIELDS: [(&[u8], &[u8]); 2] = [(b"Content-Type", b"text/plain"), (b"Cache-Control", b"no-store")];
        let (status, text): (&[u8], &[u8]) =
            if around.retiring { (b"503 Service Unavailable", b"draining\n") } else { (b"200 OK", b"ok\n") };
        if around.retiring {
            self.engine.close_after_response();
        }
        hands.out.clear();
        let (date, policy) = (hands.date(), &around.settings.policy);
        let begun = self.engine.start_response(policy, status, FIELDS, Some(text.len() as u64), &date, &mut hands.out);
        if begun.is_err() {
            return Verdict::End;
        }
        self.engine.append_data(text, &mut hands.out);
        let end = self.engine.end_response(policy, around.now, &mut hands.out);
        hands.keep_buffer(std::mem::take(&mut self.head_bytes));
        match (sys::send(self.socket.as_fd(), &hands.out), end) {
            (Ok(n), http::End::KeepAlive) if n == hands.out.len() => Verdict::Keep,
            (Ok(n), http::End::Close) if n == hands.out.len() => self.begin_lingering(hands, around.now),
            // A client that does not even take a few bytes reads nothing.
            _ => Verdict::End,
        }
    }

    fn complete(&mut self, around: &Surroundings<'_>) -> Verdict {
        self.phase = Phase::Answering;
        self.complete = Some(around.now);
        Verdict::Request
    }

    /// Keeps the head's bytes apart, so that input can come and go while the head is in use. When the head is all there
    /// is, the buffer itself changes hands and nothing is copied.
    fn take_head_bytes(&mut self, consumed: usize, hands: &mut Hands) {
        if self.start == 0 && consumed == self.input.len() {
            self.head_bytes = std::mem::take(&mut self.input);
        } else {
            let mut bytes = hands.buffer();
            bytes.extend_from_slice(&self.input[self.start..self.start + consumed]);
            self.head_bytes = bytes;
            self.start += consumed;
        }
    }

    /// Room for one read behind what is unread.
    pub(crate) fn make_room(&mut self, hands: &mut Hands) {
        if self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
            if self.input.capacity() < READ_SIZE {
                self.input = hands.buffer();
            }
        } else if self.input.capacity() - self.input.len() < READ_SIZE / 4 {
            self.input.drain(..self.start);
            self.start = 0;
            let room = self.input.len().max(READ_SIZE);
            self.input.reserve(room);
        }
    }

    /// Gives buffers back before a wait: what is idle holds none, what holds little gets a small one.
    fn settle_input(&mut self, hands: &mut Hands) {
        let unread = self.unread();
        if unread == 0 {
            self.start = 0;
            hands.keep_buffer(std::mem::take(&mut self.input));
            if self.engine.is_idle()
                && let Some(head) = self.head.take()
            {
                hands.keep_head(head);
            }
        } else if unread <= KEEP_SMALL && self.input.capacity() > KEEP_SMALL {
            let small = self.input[self.start..].to_vec();
            self.start = 0;
            hands.keep_buffer(std::mem::replace(&mut self.input, small));
        }
    }

    /// FIN. A complete request that came before it was dealt with before; what is begun can never become complete.
    fn end_of_input(&mut self, _hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        match self.engine.handle_eof() {
            Eof::Clean | Eof::HalfClosed => {}
            Eof::Truncated(rejection) => {
                slog::debug!(around.log, "a client left in the middle of its request";
                    "rule" => rejection.rule.id(), "remote_addr" => self.peer_text());
            }
        }
        Verdict::End
    }

    fn cannot_spool(&mut self, error: &SpoolError, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        let status = match error {
            SpoolError::Full => {
                slog::warn!(around.log, "a request body was refused with 503: all bodies on disk together reach \
                    spool_limit; raise it, or lower limit_request_body";
                        event::SPOOL_FULL, "remote_addr" => self.peer_text());
                503
            }
            SpoolError::Failure(error) => {
                slog::error!(around.log, "a request body could not be kept in /var/tmp and was refused with 500; free \
                    space there or raise request_buffer";
                        event::SPOOL_FULL, "error" => %error, "remote_addr" => self.peer_text());
                500
            }
        };
        around.sheet.count(Counter::SpoolRefusals);
        self.answer_error(status, hands, around)
    }

    fn reject(&mut self, rejection: &Rejection, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        around.sheet.count(Counter::Rejected);
        slog::info!(around.log, "a request was refused: {}", rejection.rule.text(); event::REQUEST_REJECTED,
            "rule" => rejection.rule.id(), "source" => rejection.rule.source(), "status" => rejection.status(),
            "remote_addr" => self.peer_text(), "excerpt" => String::from_utf8_lossy(rejection.excerpt.as_bytes()).escape_debug().to_string());
        hands.out.clear();
        let date = hands.date();
        self.engine.reject(&around.settings.policy, rejection, &date, &mut hands.out);
        self.send_last(hands, around)
    }

    /// A response of the server's own that ends the connection: `status` with its short body.
    pub(crate) fn answer_error(&mut self, status: u16, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        hands.out.clear();
        let date = hands.date();
        let fields: &[(&[u8], &[u8])] = if status == 503 { &[RETRY_AFTER] } else { &[] };
        let policy = &around.settings.policy;
        self.engine.error_response(policy, status, http::reason(status), fields, &date, &mut hands.out);
        self.send_last(hands, around)
    }

    /// Sends `hands.out` as the last thing on this connection and lingers. What the socket does not take of a short
    /// response is lost: such a client does not read.
    fn send_last(&mut self, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        self.body = None;
        match sys::send(self.socket.as_fd(), &hands.out) {
            Ok(n) if n == hands.out.len() => self.begin_lingering(hands, around.now),
            Ok(_) | Err(_) => Verdict::End,
        }
    }

    /// FIN, then reading until the client's FIN, so that a RST for late bytes does not take the response from the
    /// client's buffer (RFC 9112 section 9.6).
    pub(crate) fn begin_lingering(&mut self, hands: &mut Hands, now: Instant) -> Verdict {
        sys::finish_sending(self.socket.as_fd());
        hands.keep_buffer(std::mem::take(&mut self.input));
        self.start = 0;
        if let Some(head) = self.head.take() {
            hands.keep_head(head);
        }
        self.phase = Phase::Lingering { deadline: now + LINGER, left: LINGER_BYTES };
        self.linger(hands)
    }

    fn linger(&mut self, hands: &mut Hands) -> Verdict {
        let Phase::Lingering { left, .. } = &mut self.phase else { return Verdict::Keep };
        loop {
            match sys::discard(self.socket.as_fd(), &mut hands.scratch) {
                Ok(0) => return Verdict::End,
                Ok(n) => match left.checked_sub(n) {
                    Some(rest) => *left = rest,
                    None => return Verdict::End,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Verdict::Keep,
                Err(_) => return Verdict::End,
            }
        }
    }

    /// After a complete response: what is left of it goes out, then the next request or the end.
    pub(crate) fn finish_response(
        &mut self,
        keep_alive: bool,
        hands: &mut Hands,
        around: &Surroundings<'_>,
    ) -> Verdict {
        self.complete = None;
        self.begun = None;
        self.fresh = false;
        self.continued = false;
        self.waited_before = Duration::ZERO;
        self.body = None;
        hands.keep_buffer(std::mem::take(&mut self.head_bytes));
        if self.outbox.is_some() {
            self.phase = Phase::Flushing { keep_alive, deadline: self.send_deadline(around) };
            return self.flush(hands, around);
        }
        self.after_response(keep_alive, hands, around)
    }

    fn after_response(&mut self, keep_alive: bool, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        if keep_alive {
            self.phase = Phase::Receiving;
            if self.unread() > 0 || self.readable {
                return self.receive(hands, around);
            }
            self.settle_input(hands);
            return if around.retiring && !self.may_still_begin(around) { Verdict::Leave } else { Verdict::Keep };
        }
        // A client that asked for the close sends nothing more, so there is nothing that a RST could hurt.
        if self.client_closes && self.unread() == 0 {
            return Verdict::End;
        }
        self.begin_lingering(hands, around.now)
    }

    /// Whether it was put back only so that others have their turn.
    pub(crate) fn wants_turn(&self) -> bool {
        self.readable && matches!(self.phase, Phase::Receiving)
    }

    fn send_deadline(&self, around: &Surroundings<'_>) -> Option<Instant> {
        Some(around.settings.send_timeout).filter(|timeout| !timeout.is_zero()).map(|timeout| around.now + timeout)
    }

    fn flush(&mut self, hands: &mut Hands, around: &Surroundings<'_>) -> Verdict {
        let Phase::Flushing { keep_alive, .. } = self.phase else { return Verdict::Keep };
        let Some(outbox) = self.outbox.clone() else { return Verdict::End };
        let mut outbox = outbox.lock().unwrap_or_else(PoisonError::into_inner);
        let before = outbox.progress;
        match outbox.flush(self.socket.as_fd()) {
            Flushed::All => {
                drop(outbox);
                self.outbox = None;
                self.after_response(keep_alive, hands, around)
            }
            Flushed::Blocked => {
                if outbox.progress != before {
                    let deadline = self.send_deadline(around);
                    self.phase = Phase::Flushing { keep_alive, deadline };
                }
                Verdict::Keep
            }
            Flushed::Failed(error) => {
                slog::debug!(around.log, "a response could not be sent to its end"; "error" => %error,
                    "remote_addr" => self.peer_text());
                Verdict::End
            }
        }
    }

    /// Keeps what the socket did not take.
    pub(crate) fn outbox(&mut self) -> SharedOutbox {
        Arc::clone(self.outbox.get_or_insert_with(|| Arc::new(Mutex::new(Outbox::default()))))
    }

    /// The peer for records: its address, or `unix`.
    pub(crate) fn peer_text(&self) -> String {
        self.peer.map_or_else(|| "unix".to_owned(), |address| address.to_string())
    }
}

//! One connection's two state machines, and every transition of both.
//!
//! *Reading* is what the client does: it begins a request, sends a head, a body, and is done. *Writing* is what we do:
//! nothing yet, a body, done. They meet in three places only: a response can be begun once a head was read; the next
//! head is read once both are done; and when a response is begun it is decided, from both, whether the connection can
//! be used again.
//!
//! ```text
//! Reading  Fresh --PROXY--> Between --CRLF--> Blank --byte--> Head --> Body --> Complete --response ends--> Between
//!                                                              |  \-> Awaiting ^   ^                          ^
//!                                                              \--- no body -------/    Body --response ends--> Drain
//!          any --rule broken, deadline, end of input, response that closes--> Closed; Complete --> Switched (upgrade)
//! Writing  Unasked --head--> Unsent --start_response--> Body --end_response--> Unasked | Closed
//! ```
//!
//! Touches no socket and no clock: `now` is an argument, [`Connection::deadline`] tells when to come back. Invariant: a
//! connection whose framing is in doubt on either side ends in `Closed` and never reads another head.

use crate::chunked::{ChunkDecoder, Piece};
use crate::date::HttpDate;
use crate::head::{self, Framing, Head, Method, Version};
use crate::policy::{Policy, ProxyProtocol};
use crate::proxy::{self, ProxyHeader, Sniffed};
use crate::response::{self, BodyFraming, Chunk, ResponseFault, Started};
use crate::rules::{Rejection, Rule};
use crate::scan::HeadScan;
use crate::trust::Trust;
use std::ops::Range;
use std::time::{Duration, Instant};

/// The most of an unread body that is read and thrown away to keep a connection, in bytes.
const MOST_DRAINED: u64 = 64 * 1024;

/// What [`Connection::handle_input`] found. `consumed` bytes at the input's beginning are done with: the driver drops
/// them and calls again with what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be done with these bytes alone: read more.
    NeedMore,
    /// The request is complete and its response is not: these bytes belong to the next request. Stop reading.
    Wait,
    /// A PROXY header: it tells the client's address for the whole connection.
    Proxied {
        /// Bytes of the header.
        consumed: usize,
        /// What it says.
        header: ProxyHeader,
    },
    /// Bytes without meaning for the driver: an empty line, framing, a drained body.
    Skip {
        /// Their number.
        consumed: usize,
    },
    /// A head, valid, in the `Head` that was passed; spans are relative to the input's first byte. If its framing
    /// [is empty](Framing::is_empty) the request is complete; else `Data` and `End` follow.
    Request {
        /// Bytes of the head.
        consumed: usize,
    },
    /// Bytes of the body.
    Data {
        /// Bytes to drop, framing before the data included.
        consumed: usize,
        /// Where in the input the data lies.
        data: Range<usize>,
    },
    /// The body is complete.
    End {
        /// Bytes to drop.
        consumed: usize,
    },
    /// The client broke a rule: [`Connection::reject`], send, close.
    Rejected(Rejection),
    /// The connection speaks another protocol now: the bytes belong to the driver.
    Switched,
    /// Nothing more is read from this connection.
    Closed,
}

/// What the end of the client's bytes (FIN) means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eof {
    /// Between requests: close.
    Clean,
    /// The request is complete and its response is not: answer it, then close.
    HalfClosed,
    /// Inside a head or a body. The application must not be called; if a response has not begun, [`Connection::reject`]
    /// may answer, in case the client still reads.
    Truncated(Rejection),
}

/// What a deadline that has passed means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expired {
    /// It has not passed.
    NotYet,
    /// Between requests, or a body that was only drained: close without a word.
    Close,
    /// A head or a body took too long: [`Connection::reject`], send, close.
    Rejected(Rejection),
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection can be used again: [`Connection::handle_input`] with what has arrived since.
    KeepAlive,
    /// Close once everything is sent.
    Close,
    /// Close at once: the body is shorter than its Content-Length said (a fault of the application), and only the close
    /// keeps the client from taking the next response for the rest of it.
    CloseShort {
        /// Bytes that are missing.
        missing: u64,
    },
}

/// A request's body in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length { remaining: u64 },
    Chunked(ChunkDecoder),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// A new connection: nothing read, a PROXY header may come.
    Fresh,
    /// Between requests.
    Between,
    /// Between requests, behind the one empty line that may precede a request line (RFC 9112 section 2.2).
    Blank,
    /// Inside a head.
    Head(HeadScan),
    /// The client waits for 100 Continue; it may also send without it.
    Awaiting(Body),
    /// Inside a body.
    Body(Body),
    /// Inside a body that nobody wants any more: the response has ended. `budget` bytes more are read, within one
    /// `body_timeout`.
    Drain { body: Body, budget: u64 },
    /// The request is complete.
    Complete,
    /// Another protocol took the connection.
    Switched,
    /// Nothing more is read.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// No request, nothing to answer.
    Unasked,
    /// A request whose response has not begun.
    Unsent,
    /// The head is written. `keep_alive` is what it says.
    Body { framing: BodyFraming, keep_alive: bool },
    /// Nothing more is written.
    Closed,
}

/// What the current request means for its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    is_head: bool,
    version: Version,
    keep_alive: bool,
}

/// The protocol state of one connection. Plain data without a heap: an idle connection costs its size.
#[derive(Debug)]
pub struct Connection {
    reading: Reading,
    writing: Writing,
    asked: Asked,
    /// The next response says `Connection: close`.
    last: bool,
    deadline: Option<Instant>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(policy: &Policy, now: Instant) -> Connection {
        Connection {
            reading: Reading::Fresh,
            writing: Writing::Unasked,
            asked: Asked { is_head: false, version: Version::HTTP_11, keep_alive: false },
            last: false,
            deadline: after(now, policy.header_timeout),
        }
    }

    /// A connection that another worker accepted and that is between requests, or whose request was not begun to be
    /// answered and comes along as raw bytes. `fresh`: nothing was consumed yet, so that a PROXY header may come.
    pub fn adopt(policy: &Policy, fresh: bool, now: Instant) -> Connection {
        let mut connection = Connection::new(policy, now);
        if !fresh {
            connection.reading = Reading::Between;
            connection.deadline = after(now, policy.keepalive);
        }
        connection
    }

    /// Whether nothing was consumed on this connection yet (see [`Connection::adopt`]).
    pub fn is_fresh(&self) -> bool {
        self.reading == Reading::Fresh
    }

    /// Whether no request is in progress: it may be closed or handed over without anybody noticing (together with the
    /// bytes that are not consumed; inside a head these are the head's beginning).
    pub fn is_idle(&self) -> bool {
        matches!(self.reading, Reading::Fresh | Reading::Between | Reading::Blank) && self.writing == Writing::Unasked
    }

    /// Whether a head, not yet complete, is being received.
    pub fn is_in_head(&self) -> bool {
        matches!(self.reading, Reading::Head(_))
    }

    /// Whether a request was received whole and its response is not finished.
    pub fn is_request_complete(&self) -> bool {
        self.reading == Reading::Complete
    }

    /// Whether a request waits for its response to begin.
    pub fn is_response_due(&self) -> bool {
        self.writing == Writing::Unsent
    }

    /// Looks at what has arrived: `input` is every byte received and not yet consumed, and is looked at again with more
    /// behind it after [`Step::NeedMore`]. Inside a body every byte that is given is taken, so that there the driver may
    /// also show a part of what it has. `head` is filled by [`Step::Request`] and left alone otherwise.
    pub fn handle_input(&mut self, policy: &Policy, trust: Trust, input: &[u8], head: &mut Head, now: Instant) -> Step {
        loop {
            match &mut self.reading {
                Reading::Fresh => {
                    if input.is_empty() {
                        return Step::NeedMore;
                    }
                    let sniffed = match policy.proxy_protocol {
                        ProxyProtocol::Off => Sniffed::Absent,
                        wanted @ (ProxyProtocol::V1 | ProxyProtocol::V2 | ProxyProtocol::Auto) => {
                            proxy::sniff(wanted, trust.proxy, input)
                        }
                    };
                    match sniffed {
                        Sniffed::NeedMore => return Step::NeedMore,
                        Sniffed::Absent => self.reading = Reading::Between,
                        Sniffed::Header { consumed, header } => {
                            self.reading = Reading::Between;
                            return Step::Proxied { consumed, header };
                        }
                        Sniffed::Rejected(rejection) => return self.refuse(rejection),
                    }
                }
                Reading::Between => match input {
                    [] | [b'\r'] => return Step::NeedMore,
                    [b'\r', b'\n', ..] => {
                        self.reading = Reading::Blank;
                        return Step::Skip { consumed: 2 };
                    }
                    [b'\r', ..] => return self.refuse(Rejection::new(Rule::BareCr)),
                    _ => self.begin_head(policy, now),
                },
                Reading::Blank => match input {
                    [] => return Step::NeedMore,
                    _ => self.begin_head(policy, now),
                },
                Reading::Head(scan) => {
                    return match scan.advance(policy, input) {
                        Ok(None) => Step::NeedMore,
                        Ok(Some(lines)) => match head::parse(policy, trust, input, lines, head) {
                            Ok(()) => {
                                self.begin_exchange(policy, head, now);
                                Step::Request { consumed: lines.len }
                            }
                            Err(rejection) => self.refuse(rejection),
                        },
                        Err(rejection) => self.refuse(rejection),
                    };
                }
                Reading::Awaiting(body) => {
                    if input.is_empty() {
                        return Step::NeedMore;
                    }
                    self.reading = Reading::Body(*body);
                }
                Reading::Body(body) => {
                    let piece = match body.advance(policy, input) {
                        Ok(piece) => piece,
                        Err(rejection) => return self.refuse(rejection),
                    };
                    return match piece {
                        Piece::NeedMore { consumed: 0 } => Step::NeedMore,
                        Piece::NeedMore { consumed } => Step::Skip { consumed },
                        Piece::Data { consumed, data } => {
                            self.deadline = after(now, policy.body_timeout);
                            Step::Data { consumed, data }
                        }
                        Piece::End { consumed } => {
                            self.reading = Reading::Complete;
                            self.deadline = None;
                            Step::End { consumed }
                        }
                    };
                }
                Reading::Drain { body, budget } => {
                    let (consumed, ended) = match body.advance(policy, input) {
                        Ok(Piece::NeedMore { consumed: 0 }) => return Step::NeedMore,
                        Ok(Piece::NeedMore { consumed } | Piece::Data { consumed, .. }) => (consumed, false),
                        Ok(Piece::End { consumed }) => (consumed, true),
                        // The response has gone out; there is nobody to tell.
                        Err(_) => (usize::MAX, false),
                    };
                    match budget.checked_sub(consumed as u64) {
                        Some(left) => *budget = left,
                        None => {
                            self.close();
                            return Step::Closed;
                        }
                    }
                    if ended {
                        self.reading = Reading::Between;
                        self.deadline = after(now, policy.keepalive);
                    }
                    return Step::Skip { consumed };
                }
                Reading::Complete => return Step::Wait,
                Reading::Switched => return Step::Switched,
                Reading::Closed => return Step::Closed,
            }
        }
    }

    /// The first byte of a head has arrived.
    fn begin_head(&mut self, policy: &Policy, now: Instant) {
        self.reading = Reading::Head(HeadScan::default());
        self.writing = Writing::Unasked;
        self.asked = Asked { is_head: false, version: Version::HTTP_11, keep_alive: false };
        self.deadline = after(now, policy.header_timeout);
    }

    /// A head was read.
    fn begin_exchange(&mut self, policy: &Policy, head: &Head, now: Instant) {
        self.asked = Asked { is_head: head.method == Method::Head, version: head.version, keep_alive: head.keep_alive };
        self.writing = Writing::Unsent;
        let body = match head.framing {
            Framing::None | Framing::Length(0) => {
                self.reading = Reading::Complete;
                self.deadline = None;
                return;
            }
            Framing::Length(remaining) => Body::Length { remaining },
            Framing::Chunked => Body::Chunked(ChunkDecoder::new()),
        };
        self.reading = if head.expect_continue { Reading::Awaiting(body) } else { Reading::Body(body) };
        self.deadline = after(now, policy.body_timeout);
    }

    /// The client sent FIN, and everything before it went through [`Connection::handle_input`].
    pub fn handle_eof(&mut self) -> Eof {
        let rule = match self.reading {
            Reading::Fresh | Reading::Between | Reading::Blank | Reading::Drain { .. } => {
                self.close();
                return Eof::Clean;
            }
            Reading::Switched | Reading::Closed => return Eof::Clean,
            Reading::Complete => {
                self.last = true;
                return Eof::HalfClosed;
            }
            Reading::Head(_) => Rule::HeadTruncated,
            Reading::Awaiting(_) | Reading::Body(_) => Rule::BodyTruncated,
        };
        self.reading = Reading::Closed;
        self.deadline = None;
        Eof::Truncated(Rejection::new(rule))
    }

    /// When to call [`Connection::handle_timeout`]. `None` while the application has the request: how long that may
    /// take is not the protocol's business. A driver that stops reading a body does not ask.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Expired {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Expired::NotYet;
        }
        let expired = match self.reading {
            Reading::Head(_) => Expired::Rejected(Rejection::new(Rule::HeadTimeout)),
            Reading::Awaiting(_) | Reading::Body(_) => Expired::Rejected(Rejection::new(Rule::BodyTimeout)),
            Reading::Fresh
            | Reading::Between
            | Reading::Blank
            | Reading::Drain { .. }
            | Reading::Complete
            | Reading::Switched
            | Reading::Closed => Expired::Close,
        };
        self.reading = Reading::Closed;
        self.deadline = None;
        expired
    }

    /// The driver reads a body again after it had stopped: `body_timeout` starts anew.
    pub fn resume_body(&mut self, policy: &Policy, now: Instant) {
        if matches!(self.reading, Reading::Awaiting(_) | Reading::Body(_)) {
            self.deadline = after(now, policy.body_timeout);
        }
    }

    /// Whether the client waits for `100 Continue`, and nothing of the response was written.
    pub fn wants_continue(&self) -> bool {
        matches!(self.reading, Reading::Awaiting(_)) && self.writing == Writing::Unsent
    }

    /// Appends `100 Continue` if the client waits for it.
    pub fn send_continue(&mut self, out: &mut Vec<u8>) {
        if let (Reading::Awaiting(body), Writing::Unsent) = (self.reading, self.writing) {
            self.reading = Reading::Body(body);
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }

    /// Appends `103 Early Hints` (RFC 8297). `Ok(false)`: left out, since the client speaks HTTP/1.0 or the response was
    /// begun.
    ///
    /// # Errors
    /// A field that may not be sent. Nothing was appended.
    pub fn early_hints<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<bool, ResponseFault> {
        if self.writing != Writing::Unsent || self.asked.version < Version::HTTP_11 {
            return Ok(false);
        }
        let start = out.len();
        out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\n");
        if let Err(fault) = response::write_fields(fields, out) {
            out.truncate(start);
            return Err(fault);
        }
        out.extend_from_slice(b"\r\n");
        Ok(true)
    }

    /// Begins the response: checks `status` (`200 OK`) and the application's fields, decides how the body is framed and
    /// whether the connection can be used again, and appends the head. `length` is the body's length if the driver
    /// knows it, for an application that gives no Content-Length. `date` goes out if the application gives none.
    ///
    /// # Errors
    /// The application's fault; nothing was appended, and another response can be begun.
    pub fn start_response<'f>(
        &mut self,
        policy: &Policy,
        status: &[u8],
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        length: Option<u64>,
        date: &HttpDate,
        out: &mut Vec<u8>,
    ) -> Result<Started, ResponseFault> {
        if self.writing != Writing::Unsent {
            return Err(ResponseFault::OutOfTurn);
        }
        let code = response::check_status(status)?;
        let start = out.len();
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status);
        // RFC 9112 section 4: the space stays even where there is no reason phrase.
        out.extend_from_slice(if status.len() == 3 { b" \r\n" } else { b"\r\n" });
        let mut said = match response::write_fields(fields, out) {
            Ok(said) => said,
            Err(fault) => {
                out.truncate(start);
                return Err(fault);
            }
        };
        if !said.server && !policy.server_header.is_empty() {
            response::write_field(b"Server", &policy.server_header, out);
        }
        if !said.date {
            response::write_field(b"Date", date, out);
        }

        // RFC 9110 sections 8.6, 15.3.5, 15.3.6 and 15.4.5.
        let framing = match code {
            204 => {
                said.dropped += u32::from(said.content_length.is_some());
                BodyFraming::None
            }
            205 => {
                said.dropped += u32::from(said.content_length.is_some_and(|length| length > 0));
                response::write_content_length(0, out);
                BodyFraming::None
            }
            _ if self.asked.is_head || code == 304 => {
                if let Some(length) = said.content_length {
                    response::write_content_length(length, out);
                }
                BodyFraming::None
            }
            _ => match said.content_length.or(length) {
                Some(length) => {
                    response::write_content_length(length, out);
                    BodyFraming::Length(length)
                }
                None if self.asked.version >= Version::HTTP_11 => {
                    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                    BodyFraming::Chunked
                }
                None => BodyFraming::UntilClose,
            },
        };
        let keep_alive = self.asked.keep_alive
            && !said.close
            && !self.last
            && policy.keepalive > Duration::ZERO
            && framing != BodyFraming::UntilClose
            && self.can_be_drained();
        if !keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.asked.version < Version::HTTP_11 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.writing = Writing::Body { framing, keep_alive };
        Ok(Started { framing, keep_alive, dropped_fields: said.dropped })
    }

    /// Whether what is left of the request's body is worth reading to keep the connection. A client that was not told
    /// to continue may send the body or may not: the connection cannot go on (RFC 9110 section 10.1.1).
    fn can_be_drained(&self) -> bool {
        match self.reading {
            Reading::Complete | Reading::Body(Body::Chunked(_)) => true,
            Reading::Body(Body::Length { remaining }) => remaining <= MOST_DRAINED,
            Reading::Fresh
            | Reading::Between
            | Reading::Blank
            | Reading::Head(_)
            | Reading::Awaiting(_)
            | Reading::Drain { .. }
            | Reading::Switched
            | Reading::Closed => false,
        }
    }

    /// Frames the next `len` bytes of the body: what to send around them, and how many of them.
    pub fn frame_data(&mut self, len: u64) -> Chunk {
        match &mut self.writing {
            Writing::Body { framing, .. } => match framing {
                BodyFraming::None => Chunk::plain(0, false),
                BodyFraming::Length(remaining) => {
                    let take = len.min(*remaining);
                    *remaining -= take;
                    Chunk::plain(take, take < len)
                }
                BodyFraming::Chunked if len == 0 => Chunk::plain(0, false),
                BodyFraming::Chunked => Chunk::chunked(len),
                BodyFraming::UntilClose => Chunk::plain(len, false),
            },
            Writing::Unasked | Writing::Unsent | Writing::Closed => Chunk::plain(0, len > 0),
        }
    }

    /// Appends `data`, framed. Returns whether some of it lay beyond Content-Length and was cut.
    pub fn append_data(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        let chunk = self.frame_data(data.len() as u64);
        out.extend_from_slice(chunk.prefix());
        out.extend_from_slice(&data[..chunk.take as usize]);
        out.extend_from_slice(chunk.suffix);
        chunk.overrun
    }

    /// Appends the last chunk and a trailer section, after which only [`Connection::end_response`] may follow.
    /// `Ok(false)`: nothing was appended, since the body is not in chunks.
    ///
    /// # Errors
    /// A field that may not be sent. Nothing was appended.
    pub fn end_with_trailers<'f>(
        &mut self,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<bool, ResponseFault> {
        let Writing::Body { framing: framing @ BodyFraming::Chunked, .. } = &mut self.writing else { return Ok(false) };
        let start = out.len();
        out.extend_from_slice(b"0\r\n");
        if let Err(fault) = response::write_trailers(fields, out) {
            out.truncate(start);
            return Err(fault);
        }
        out.extend_from_slice(b"\r\n");
        // Nothing is left to be said about the body's end.
        *framing = BodyFraming::Length(0);
        Ok(true)
    }

    /// Ends the response, and decides what becomes of the connection. Without a response that was begun it closes.
    pub fn end_response(&mut self, policy: &Policy, now: Instant, out: &mut Vec<u8>) -> End {
        let Writing::Body { framing, keep_alive } = self.writing else {
            self.close();
            return End::Close;
        };
        match framing {
            BodyFraming::Length(missing) if missing > 0 => {
                self.close();
                return End::CloseShort { missing };
            }
            BodyFraming::Chunked => out.extend_from_slice(b"0\r\n\r\n"),
            BodyFraming::None | BodyFraming::Length(_) | BodyFraming::UntilClose => {}
        }
        if !keep_alive || self.last {
            self.close();
            return End::Close;
        }
        match self.reading {
            Reading::Complete => {
                self.reading = Reading::Between;
                self.deadline = after(now, policy.keepalive);
            }
            Reading::Body(body) => {
                self.reading = Reading::Drain { body, budget: MOST_DRAINED };
                self.deadline = after(now, policy.body_timeout);
            }
            Reading::Fresh
            | Reading::Between
            | Reading::Blank
            | Reading::Head(_)
            | Reading::Awaiting(_)
            | Reading::Drain { .. }
            | Reading::Switched
            | Reading::Closed => {
                self.close();
                return End::Close;
            }
        }
        self.writing = Writing::Unasked;
        End::KeepAlive
    }

    /// Gives the response up where it stands, so that the client notices: the connection must be closed, and a chunked
    /// body gets no last chunk.
    pub fn abort_response(&mut self) {
        self.close();
    }

    /// Appends the answer to a rejection, unless a response was begun already. Returns whether something was appended;
    /// the connection closes in any case.
    pub fn reject(&mut self, policy: &Policy, rejection: &Rejection, date: &HttpDate, out: &mut Vec<u8>) -> bool {
        self.error_response(policy, rejection.status(), rejection.rule.text(), &[], date, out)
    }

    /// Appends a whole short error response with `Connection: close`, unless a response was begun already. `text` is for
    /// the client; `fields` are added as they are. Returns whether something was appended; the connection closes in any
    /// case.
    pub fn error_response(
        &mut self,
        policy: &Policy,
        status: u16,
        text: &str,
        fields: &[(&[u8], &[u8])],
        date: &HttpDate,
        out: &mut Vec<u8>,
    ) -> bool {
        let unbegun = matches!(self.writing, Writing::Unasked | Writing::Unsent);
        if unbegun {
            response::write_error(status, text, fields, &policy.server_header, date, self.asked.is_head, out);
        }
        self.close();
        unbegun
    }

    /// The next response is this connection's last (a worker that retires, `max_requests`): it says so, and the
    /// connection closes behind it.
    pub fn close_after_response(&mut self) {
        self.last = true;
    }

    /// Takes the client's offer to speak another protocol: appends `101 Switching Protocols` with `Upgrade: protocol`
    /// and the given fields. From then on [`Connection::handle_input`] gives [`Step::Switched`] and the bytes both ways
    /// are the driver's.
    ///
    /// # Errors
    /// A field that may not be sent, or no complete request that waits for its response. Nothing was appended.
    pub fn switch_protocols<'f>(
        &mut self,
        protocol: &[u8],
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), ResponseFault> {
        if self.reading != Reading::Complete || self.writing != Writing::Unsent {
            return Err(ResponseFault::OutOfTurn);
        }
        let start = out.len();
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
        response::write_field(b"Upgrade", protocol, out);
        if let Err(fault) = response::write_fields(fields, out) {
            out.truncate(start);
            return Err(fault);
        }
        out.extend_from_slice(b"\r\n");
        self.reading = Reading::Switched;
        self.writing = Writing::Closed;
        Ok(())
    }

    fn refuse(&mut self, rejection: Rejection) -> Step {
        self.reading = Reading::Closed;
        self.deadline = None;
        Step::Rejected(rejection)
    }

    fn close(&mut self) {
        self.reading = Reading::Closed;
        self.writing = Writing::Closed;
        self.deadline = None;
    }
}

impl Body {
    fn advance(&mut self, policy: &Policy, input: &[u8]) -> Result<Piece, Rejection> {
        match self {
            Body::Length { remaining: 0 } => Ok(Piece::End { consumed: 0 }),
            Body::Length { .. } if input.is_empty() => Ok(Piece::NeedMore { consumed: 0 }),
            Body::Length { remaining } => {
                let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                *remaining -= len as u64;
                Ok(Piece::Data { consumed: len, data: 0..len })
            }
            Body::Chunked(decoder) => decoder.advance(policy, input),
        }
    }
}

/// `now + timeout`; a zero timeout is none.
fn after(now: Instant, timeout: Duration) -> Option<Instant> {
    if timeout.is_zero() { None } else { now.checked_add(timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_little() {
        assert!(size_of::<Connection>() <= 128, "{} bytes", size_of::<Connection>());
    }
}

//! The body of the request in hand: buffered, or streamed as it comes.

use super::{Exchange, Ready, Stage};
use crate::body::BufferedBody;
use crate::hands::Hands;
use crate::sys;
use rgunicorn_http::{Framing, Step};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a body cannot be read on.
#[derive(Debug)]
pub enum BodyError {
    /// The client left before the body was complete.
    Truncated,
    /// The client sent nothing for `body_timeout`.
    TimedOut,
    /// The client broke the framing; the rule's text.
    Rejected(&'static str),
    /// The spooled file cannot be read.
    Failure(io::Error),
}

/// What one step of a streamed body brought.
pub(super) enum Streamed {
    /// So many bytes.
    Data(usize),
    /// Nothing yet: look again.
    Again,
    /// The client has sent no more.
    Blocked,
}

impl BodyError {
    /// The status of an answer that says no more than this.
    pub fn status(&self) -> u16 {
        match self {
            BodyError::TimedOut => 408,
            BodyError::Truncated | BodyError::Rejected(_) => 400,
            BodyError::Failure(_) => 500,
        }
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BodyError::Truncated => f.write_str("the client left before the request body was complete"),
            BodyError::TimedOut => f.write_str("the client sent nothing of the request body for body_timeout"),
            BodyError::Rejected(text) => write!(f, "the request body is malformed: {text}"),
            BodyError::Failure(error) => write!(f, "the buffered request body cannot be read: {error}"),
        }
    }
}

impl Exchange {
    /// Bytes of the whole body where that is known: buffered, or announced by Content-Length.
    pub fn body_length(&self) -> Option<u64> {
        let connection = self.connection()?;
        match (&connection.body, connection.head.as_ref().map(|head| head.framing)) {
            (Some(body), _) => Some(body.length()),
            (None, Some(Framing::None) | None) => Some(0),
            (None, Some(Framing::Length(length))) => Some(length),
            (None, Some(Framing::Chunked)) => None,
        }
    }

    /// Whether [`Exchange::read_body`] may wait for the client or the disk.
    pub fn body_may_wait(&self) -> bool {
        match self.connection().and_then(|connection| connection.body.as_deref()) {
            Some(body) => body.in_memory().is_none(),
            None => !self.body_ended,
        }
    }

    /// Takes the buffered body, if there is one: it then lives as long as its reader.
    pub fn take_body(&mut self) -> Option<Box<BufferedBody>> {
        self.connection.as_mut().and_then(|connection| connection.body.take())
    }

    /// Reads on in the body. `Ok(0)`: it has ended. May wait: see [`Exchange::body_may_wait`].
    ///
    /// # Errors
    /// See [`BodyError`]; the connection is closed after the response.
    pub fn read_body(&mut self, into: &mut [u8], hands: &mut Hands) -> Result<usize, BodyError> {
        if into.is_empty() {
            return Ok(0);
        }
        if let Some(body) = self.connection.as_mut().and_then(|connection| connection.body.as_mut()) {
            return body.read(into).map_err(BodyError::Failure);
        }
        if self.continue_pending {
            self.continue_pending = false;
            self.send_continue();
        }
        while !self.body_ended {
            match self.read_stream(into, hands)? {
                0 => {}
                n => return Ok(n),
            }
        }
        Ok(0)
    }

    pub(super) fn send_continue(&mut self) {
        if self.stage != Stage::Unanswered {
            return;
        }
        let Some(connection) = self.connection.as_mut() else { return };
        let mut out = Vec::new();
        connection.engine.send_continue(&mut out);
        let _ = self.transmit_raw(&out);
    }

    /// One step of a streamed body: what is here, or one wait for more. `Ok(0)`: look again.
    fn read_stream(&mut self, into: &mut [u8], hands: &mut Hands) -> Result<usize, BodyError> {
        match self.read_streamed(into, hands)? {
            Streamed::Data(n) => return Ok(n),
            Streamed::Again => return Ok(0),
            Streamed::Blocked => {}
        }
        let Some(connection) = self.connection.as_ref() else { return Err(BodyError::Truncated) };
        let timeout = match self.reactor.settings.policy.body_timeout {
            Duration::ZERO => -1,
            timeout => i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        };
        let socket = Arc::clone(&connection.socket);
        match self.wait_for_client(&socket, libc::POLLIN, timeout) {
            Ok(true) => Ok(0),
            Ok(false) => {
                self.stage_broken_after_response();
                Err(BodyError::TimedOut)
            }
            Err(error) => Err(BodyError::Failure(error)),
        }
    }

    /// One step of a streamed body, without waiting.
    pub(super) fn read_streamed(&mut self, into: &mut [u8], hands: &mut Hands) -> Result<Streamed, BodyError> {
        let Some(connection) = self.connection.as_mut() else { return Err(BodyError::Truncated) };
        if self.ready.left > 0 {
            return Ok(Streamed::Data(self.ready.take(connection, into)));
        }
        let settings = &self.reactor.settings;
        let mut head = hands.head();
        let input = &connection.input[connection.start..];
        let step = connection.engine.handle_input(&settings.policy, connection.trust, input, &mut head, Instant::now());
        hands.keep_head(head);
        match step {
            Step::Data { consumed, data } => {
                connection.start += data.start;
                self.ready = Ready { left: data.len(), behind: consumed - data.end };
                return Ok(Streamed::Data(self.ready.take(connection, into)));
            }
            Step::End { consumed } => {
                connection.start += consumed;
                self.body_ended = true;
                return Ok(Streamed::Again);
            }
            Step::Skip { consumed } => {
                connection.start += consumed;
                return Ok(Streamed::Again);
            }
            Step::Wait => {
                self.body_ended = true;
                return Ok(Streamed::Again);
            }
            Step::Rejected(rejection) => {
                self.stage_broken_after_response();
                return Err(BodyError::Rejected(rejection.rule.text()));
            }
            Step::Closed | Step::Switched | Step::Request { .. } | Step::Proxied { .. } => {
                return Err(BodyError::Truncated);
            }
            Step::NeedMore => {}
        }
        connection.make_room(hands);
        // What is left unread here is not announced again.
        connection.readable = true;
        match sys::receive(connection.socket.as_fd(), &mut connection.input) {
            Ok(0) => {
                self.stage_broken_after_response();
                Err(BodyError::Truncated)
            }
            Ok(_) => Ok(Streamed::Again),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Streamed::Blocked),
            Err(_) => {
                self.stage_broken_after_response();
                Err(BodyError::Truncated)
            }
        }
    }

    /// The connection cannot be used again, whatever is answered.
    pub(super) fn stage_broken_after_response(&mut self) {
        self.body_ended = true;
        if let Some(connection) = self.connection.as_mut() {
            connection.engine.close_after_response();
        }
    }
}

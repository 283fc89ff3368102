//! The response on its way to the client: to the socket at once, or to the outbox.
//!
//! Invariant: nothing goes to the socket past what the outbox holds.

use super::{Exchange, Flow, SendError, Stage, gone};
use crate::hands::Hands;
use crate::outbox::{Flushed, OwnedBytes};
use crate::reactor::lock;
use crate::request_id;
use crate::sys;
use rgunicorn_http::{ResponseFault, Started};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes up to which head and data are joined in one buffer instead of being sent from two places.
const JOIN_UP_TO: usize = 16 * 1024;

impl Exchange {
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
    pub(super) fn transmit(&mut self) -> Result<Flow, SendError> {
        self.note_progress();
        let out = std::mem::take(&mut self.out);
        let result = self.transmit_raw(&out);
        self.out = out;
        self.out.clear();
        result
    }

    pub(super) fn transmit_raw(&mut self, bytes: &[u8]) -> Result<Flow, SendError> {
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
    pub(super) fn transmit_with(&mut self, data: &[u8], owner: Option<&OwnedBytes>) -> Result<Flow, SendError> {
        self.note_progress();
        let out = std::mem::take(&mut self.out);
        let result = self.transmit_two(&out, data, owner);
        self.out = out;
        self.out.clear();
        result
    }

    pub(super) fn transmit_two(
        &mut self,
        out: &[u8],
        data: &[u8],
        owner: Option<&OwnedBytes>,
    ) -> Result<Flow, SendError> {
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

    pub(super) fn box_up(&mut self, parts: &[&[u8]], owned: Option<(&OwnedBytes, usize)>) -> Result<Flow, SendError> {
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
    pub(super) fn share_outbox(&mut self) {
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
}

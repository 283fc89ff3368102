//! An exchange in the hands of a coroutine: what would wait says so instead, and the coroutine is woken.
//!
//! Owns the state between two polls: since when the client is waited for. Invariant: nothing here waits.

use super::reading::Streamed;
use super::{Exchange, SendError, Stage};
use crate::BodyError;
use crate::hands::Hands;
use crate::outbox::Flushed;
use crate::reactor::lock;
use rgunicorn_protocol::scoreboard::LaneState;
use std::time::Instant;

/// What of a body is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were read.
    Data(usize),
    /// The body has ended.
    End,
    /// Nothing for now: the lane is woken.
    Pending,
}

/// What is known of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// It sends nothing more: it has left, or only has nothing more to ask.
    pub hung_up: bool,
    /// It is gone altogether.
    pub gone: bool,
}

impl Exchange {
    /// From now on, events of the connection wake the lane.
    pub(crate) fn listen(&mut self) {
        if let (Some(connection), Some(lane)) = (self.connection.as_ref(), self.lane) {
            self.reactor.listen_for(connection.token, lane);
        }
    }

    /// Takes note of what has happened to the connection.
    pub fn look(&mut self) -> Client {
        let Some(connection) = self.connection.as_mut() else { return Client { hung_up: true, gone: true } };
        let happened = self.reactor.happened(connection.token);
        // Edges come once: what was not read is looked at when the connection is back.
        connection.readable |= happened.readable || happened.gone || happened.hung_up.is_some();
        connection.hung_up |= happened.hung_up.is_some() || happened.gone;
        self.gone |= happened.gone;
        Client { hung_up: connection.hung_up, gone: self.gone }
    }

    /// Whether the body was read to its end.
    pub fn body_ended(&self) -> bool {
        self.body_ended && self.ready.left == 0
    }

    /// Reads on in a body that is streamed. A client that waits for 100 Continue gets it with the first call.
    ///
    /// # Errors
    /// See [`BodyError`]; the connection is closed after the response.
    pub fn poll_body(&mut self, into: &mut [u8], hands: &mut Hands) -> Result<Read, BodyError> {
        if into.is_empty() {
            return Ok(Read::Pending);
        }
        if self.continue_pending {
            self.continue_pending = false;
            self.send_continue();
        }
        loop {
            if self.body_ended() {
                self.end_wait();
                return Ok(Read::End);
            }
            match self.read_streamed(into, hands)? {
                Streamed::Data(n) => {
                    self.end_wait();
                    return Ok(Read::Data(n));
                }
                Streamed::Again => {}
                Streamed::Blocked => break,
            }
        }
        let timeout = self.reactor.settings.policy.body_timeout;
        if timeout.is_zero() {
            return Ok(Read::Pending);
        }
        let now = Instant::now();
        let deadline = *self.body_deadline.get_or_insert(now + timeout);
        if now >= deadline {
            self.stage_broken_after_response();
            return Err(BodyError::TimedOut);
        }
        self.note_state(LaneState::Client);
        if let Some(connection) = self.connection.as_ref()
            && connection.outbox.is_none()
        {
            lock(&self.reactor.table).arm(connection.token, Some(deadline));
        }
        Ok(Read::Pending)
    }

    fn end_wait(&mut self) {
        if self.body_deadline.take().is_some() {
            self.note_state(LaneState::Application);
            if let Some(connection) = self.connection.as_ref()
                && connection.outbox.is_none()
            {
                lock(&self.reactor.table).arm(connection.token, None);
            }
        }
        self.note_progress();
    }

    /// Whether less than `response_buffer` is unsent. If not, the lane is woken.
    ///
    /// # Errors
    /// [`SendError::Gone`]: the client left, or read nothing for `send_timeout`.
    pub fn poll_room(&mut self) -> Result<bool, SendError> {
        if matches!(self.stage, Stage::Broken) {
            return Err(super::gone());
        }
        let Some(outbox) = self.connection.as_ref().and_then(|connection| connection.outbox.clone()) else {
            return Ok(true);
        };
        let (flushed, held) = {
            let mut queue = lock(&outbox);
            (queue.flush_own(), queue.held())
        };
        match flushed {
            Flushed::All => {}
            Flushed::Blocked if held <= self.reactor.settings.response_buffer => {}
            Flushed::Blocked => {
                self.note_state(LaneState::Client);
                return Ok(false);
            }
            Flushed::Failed(error) => {
                self.stage = Stage::Broken;
                return Err(SendError::Gone(error));
            }
        }
        if self.stage != Stage::Upgraded {
            self.note_state(LaneState::Application);
        }
        self.note_progress();
        Ok(true)
    }
}

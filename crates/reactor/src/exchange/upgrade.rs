//! An exchange whose connection speaks another protocol: bytes both ways, until the lane ends it.
//!
//! Owns nothing beside the exchange. Knows no WebSocket. Invariants: nothing here waits; `timeout` does not run; the
//! figures of the request are those of its handshake.

use super::{Exchange, Flow, SendError, Stage, gone};
use crate::hands::Hands;
use crate::request_id;
use crate::sys;
use rgunicorn_http::ResponseFault;
use rgunicorn_protocol::scoreboard::LaneState;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// Bytes were appended.
    Bytes,
    /// Nothing for now: the lane is woken.
    Pending,
    /// The client has left.
    End,
}

impl Exchange {
    /// Takes the client's offer to speak another protocol: sends a 101 with these fields, and the request's id unless
    /// they have one.
    ///
    /// # Errors
    /// See [`SendError`]. After a fault, another response may be given.
    pub fn upgrade(&mut self, protocol: &[u8], fields: &[(&[u8], &[u8])]) -> Result<Flow, SendError> {
        if self.stage != Stage::Unanswered {
            return Err(SendError::Fault(ResponseFault::OutOfTurn));
        }
        let Some(connection) = self.connection.as_mut() else { return Err(gone()) };
        let id = self
            .request_id
            .filter(|_| !fields.iter().any(|(name, _)| request_id::is_name(name)))
            .map(|id| (request_id::NAME, id.of(&connection.head_bytes)));
        let mut out = Vec::new();
        let fields = fields.iter().copied().chain(id);
        connection.engine.switch_protocols(protocol, fields, &mut out).map_err(SendError::Fault)?;
        self.claim()?;
        self.status = 101;
        self.record(Instant::now());
        self.stage = Stage::Upgraded;
        self.note_state(LaneState::Client);
        self.transmit_raw(&out)
    }

    /// Appends what has come to `into`; one read.
    pub fn receive_raw(&mut self, into: &mut Vec<u8>, hands: &mut Hands) -> Raw {
        let Some(connection) = self.connection.as_mut() else { return Raw::End };
        if connection.unread() > 0 {
            into.extend_from_slice(&connection.input[connection.start..]);
            hands.keep_buffer(std::mem::take(&mut connection.input));
            connection.start = 0;
            return Raw::Bytes;
        }
        let mut buffer = hands.buffer();
        let result = sys::receive(connection.socket.as_fd(), &mut buffer);
        into.extend_from_slice(&buffer);
        hands.keep_buffer(buffer);
        match result {
            Ok(0) => Raw::End,
            Ok(_) => Raw::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Raw::Pending,
            Err(_) => Raw::End,
        }
    }

    /// Sends bytes; what the socket does not take at once is kept.
    ///
    /// # Errors
    /// [`SendError::Gone`]: nothing more can be sent.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<Flow, SendError> {
        match self.stage {
            Stage::Upgraded => {}
            Stage::Unanswered | Stage::Started(_) => return Err(SendError::Fault(ResponseFault::OutOfTurn)),
            Stage::Failed | Stage::Broken => return Err(gone()),
        }
        self.body_sent += bytes.len() as u64;
        self.transmit_raw(bytes)
    }
}

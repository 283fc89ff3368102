//! What each thread that turns the reactor keeps for itself: buffers to reuse, room for events, the formatted date.
//!
//! Nothing here is shared, so nothing here is locked. Buffers wander between threads with the connections they serve.

use rgunicorn_http::{Head, HttpDate, imf_fixdate};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes read at once, and the size of a reused buffer.
pub(crate) const READ_SIZE: usize = 16 * 1024;
/// Input of a connection that waits for more and holds less than this is kept in a vector of just its size.
pub(crate) const KEEP_SMALL: usize = 1024;
/// Buffers and heads kept for reuse, per thread.
const KEPT: usize = 64;
/// Events taken from epoll at once.
const EVENTS: usize = 128;

/// One thread's own things.
pub struct Hands {
    pub(crate) events: Vec<libc::epoll_event>,
    buffers: Vec<Vec<u8>>,
    // Boxed as connections hold them: a head changes hands by its pointer.
    #[allow(clippy::vec_box)]
    heads: Vec<Box<Head>>,
    /// What is about to be sent.
    pub(crate) out: Vec<u8>,
    /// What is read and forgotten.
    pub(crate) scratch: Vec<u8>,
    date: HttpDate,
    date_second: u64,
}

impl Default for Hands {
    fn default() -> Hands {
        Hands {
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            buffers: Vec::new(),
            heads: Vec::new(),
            out: Vec::with_capacity(4096),
            scratch: vec![0; READ_SIZE],
            date: imf_fixdate(0),
            date_second: 0,
        }
    }
}

impl Hands {
    /// An empty buffer with room for one read.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(READ_SIZE))
    }

    /// Takes a buffer back. Ones of other sizes are let go.
    pub(crate) fn keep_buffer(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() == READ_SIZE && self.buffers.len() < KEPT {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// The value of `Date` for now.
    pub(crate) fn date(&mut self) -> HttpDate {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.date_second {
            self.date_second = second;
            self.date = imf_fixdate(second);
        }
        self.date
    }

    pub(crate) fn head(&mut self) -> Box<Head> {
        self.heads.pop().unwrap_or_default()
    }

    pub(crate) fn keep_head(&mut self, head: Box<Head>) {
        if self.heads.len() < KEPT {
            self.heads.push(head);
        }
    }
}

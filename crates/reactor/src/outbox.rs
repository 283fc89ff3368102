//! Response bytes that the socket did not take at once, and files that are sent after the lane is free.
//!
//! Owns the unsent segments of one connection, in order. Knows neither epoll nor HTTP. Invariant: nothing is written to
//! the socket past an unsent segment.

use crate::offspring::Socket;
use crate::sys;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Segments smaller than this are appended to the one before instead of standing alone.
const JOIN_BELOW: usize = 16 * 1024;

enum Segment {
    Bytes { data: Vec<u8>, sent: usize },
    Owned { data: OwnedBytes, sent: usize },
    File { fd: OwnedFd, offset: u64, left: u64 },
}

/// Bytes that somebody else made and that are kept without being copied: a long body of the application.
pub type OwnedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The unsent part of a connection's output.
#[derive(Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes in memory that are not sent. Files do not count: they cost none.
    held: usize,
    /// The socket, for a flush by a thread that has not the connection's box. Held open by this, so that its number
    /// cannot be another connection's by then.
    socket: Option<Arc<Socket>>,
    /// Bytes sent since the outbox was made; the send deadline moves when this does.
    pub(crate) progress: u64,
}

/// How a flush ended.
#[derive(Debug)]
pub(crate) enum Flushed {
    /// Everything is sent.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The client is gone (EPIPE, ECONNRESET, ...), or a file ended before its announced length.
    Failed(io::Error),
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes held in memory.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Remembers the socket for [`Outbox::flush_own`].
    pub(crate) fn own(&mut self, socket: &Arc<Socket>) {
        self.socket.get_or_insert_with(|| Arc::clone(socket));
    }

    /// As [`Outbox::flush`], to the remembered socket.
    pub(crate) fn flush_own(&mut self) -> Flushed {
        match self.socket.clone() {
            Some(socket) => self.flush(socket.as_fd()),
            None => Flushed::All,
        }
    }

    /// Ends the connection under whoever has it: the next write or read fails.
    pub(crate) fn shut_down(&self) {
        if let Some(socket) = &self.socket {
            sys::shut_down(socket.as_raw_fd());
        }
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.held += data.len();
        if let Some(Segment::Bytes { data: last, .. }) = self.segments.back_mut()
            && last.len() + data.len() <= JOIN_BELOW.max(last.capacity())
        {
            last.extend_from_slice(data);
            return;
        }
        self.segments.push_back(Segment::Bytes { data: data.to_vec(), sent: 0 });
    }

    /// Keeps `data` from byte `sent` on.
    pub(crate) fn push_owned(&mut self, data: &OwnedBytes, sent: usize) {
        let length = (**data).as_ref().len();
        if sent < length {
            self.held += length - sent;
            self.segments.push_back(Segment::Owned { data: Arc::clone(data), sent });
        }
    }

    pub(crate) fn push_file(&mut self, fd: OwnedFd, offset: u64, length: u64) {
        if length > 0 {
            self.segments.push_back(Segment::File { fd, offset, left: length });
        }
    }

    /// Writes until everything is sent or the socket blocks.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> Flushed {
        while let Some(segment) = self.segments.front_mut() {
            let in_memory = match segment {
                Segment::Bytes { data, sent } => Some((data.as_slice(), sent)),
                Segment::Owned { data, sent } => Some(((**data).as_ref(), sent)),
                Segment::File { .. } => None,
            };
            if let Some((data, sent)) = in_memory {
                match sys::send(socket, &data[*sent..]) {
                    Ok(n) => {
                        *sent += n;
                        self.held -= n;
                        self.progress += n as u64;
                        if *sent == data.len() {
                            self.segments.pop_front();
                        }
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                    Err(error) => return Flushed::Failed(error),
                }
            }
            let done = match segment {
                Segment::Bytes { .. } | Segment::Owned { .. } => true,
                Segment::File { fd, offset, left } => match sys::sendfile(socket, fd, offset, *left) {
                    Ok(0) => {
                        return Flushed::Failed(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            format!("the file ended {left} bytes before its announced length"),
                        ));
                    }
                    Ok(n) => {
                        *left -= n as u64;
                        self.progress += n as u64;
                        *left == 0
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                    Err(error) => return Flushed::Failed(error),
                },
            };
            if done {
                self.segments.pop_front();
            }
        }
        Flushed::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_and_files_leave_in_order_however_often_the_socket_blocks() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        file.write_all(&content).unwrap();
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        outbox.push(b"head");
        expected.extend_from_slice(b"head");
        outbox.push(&content);
        expected.extend_from_slice(&content);
        outbox.push_owned(&(Arc::new(content.clone()) as OwnedBytes), 7);
        expected.extend_from_slice(&content[7..]);
        outbox.push_file(file.into(), 10, 200_000);
        expected.extend_from_slice(&content[10..200_010]);
        outbox.push(b"tail");
        expected.extend_from_slice(b"tail");
        let mut got = Vec::new();
        loop {
            match outbox.flush(ours.as_fd()) {
                Flushed::All => break,
                Flushed::Blocked => {
                    let mut part = vec![0; 50_000];
                    let n = theirs.read(&mut part).unwrap();
                    got.extend_from_slice(&part[..n]);
                }
                Flushed::Failed(error) => panic!("{error}"),
            }
        }
        assert_eq!((outbox.held(), outbox.progress), (0, expected.len() as u64));
        drop(ours);
        theirs.read_to_end(&mut got).unwrap();
        assert!(got == expected);
    }

    #[test]
    fn a_file_that_shrank_is_a_failure_and_not_an_endless_loop() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        outbox.push_file(tempfile::tempfile().unwrap().into(), 0, 5);
        assert!(matches!(outbox.flush(ours.as_fd()), Flushed::Failed(_)));
    }
}

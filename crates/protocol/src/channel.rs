//! The channel: one SOCK_SEQPACKET pair between the arbiter and each mold or worker.
//!
//! Owns one end. Datagrams keep their borders, so there is no framing; fds arrive with the message they were sent
//! beside, or not at all. Sending never blocks: a peer that does not read (stopped, dead-locked) must not stop the
//! arbiter; [`Channel::send`] reports it as [`io::ErrorKind::WouldBlock`] and the caller decides.

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, sendmsg,
    socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Longest datagram, in bytes. Below the usual SO_SNDBUF of 208 KiB, above any settings or traceback that we send.
pub const MAX_MESSAGE: usize = 128 * 1024;

/// Most fds beside one message: the kernel's SCM_MAX_FD (unix(7)).
pub const MAX_FDS: usize = 253;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// What [`Channel::receive`] found.
#[derive(Debug)]
pub enum Received<M> {
    /// A message and the fds that came beside it, all CLOEXEC.
    Message(M, Vec<OwnedFd>),
    /// A datagram that is no message of ours: another version, or garbage. The text says what did not fit.
    Unreadable(String),
    /// Nothing waits.
    Empty,
    /// The other end is closed.
    Ended,
}

impl Channel {
    /// Makes both ends, CLOEXEC and non-blocking.
    ///
    /// # Errors
    /// Those of socketpair(2): EMFILE, ENFILE, ENOMEM.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        Ok((Channel { fd: a }, Channel { fd: b }))
    }

    /// Takes over an end that was inherited or received.
    pub fn adopt(fd: OwnedFd) -> Channel {
        Channel { fd }
    }

    /// Gives the fd up, to hand it over.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one message and lends `fds` beside it (the receiver gets duplicates).
    ///
    /// # Errors
    /// `WouldBlock` if the peer has not read enough; `BrokenPipe` or `ConnectionReset` if it is gone; `InvalidInput` if
    /// the message is longer than [`MAX_MESSAGE`] or `fds` more than [`MAX_FDS`].
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a message of {} bytes and {} fds does not fit a datagram", bytes.len(), fds.len()),
            ));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        loop {
            let sent = sendmsg::<UnixAddr>(
                self.fd.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
                None,
            );
            match sent {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Takes one message. Never blocks.
    ///
    /// # Errors
    /// Those of recvmsg(2) that are neither "nothing there" nor "gone".
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
        let mut bytes = vec![0_u8; MAX_MESSAGE];
        let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
        let (length, truncated, fds) = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            match recvmsg::<UnixAddr>(self.fd.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => {
                    let mut fds = Vec::new();
                    for item in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = item {
                            // SAFETY: the kernel has just made these fds for us; nobody else knows their numbers.
                            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                        }
                    }
                    let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                    break (message.bytes, cut, fds);
                }
                // ECONNRESET says, once, that the peer left without reading all that we had sent. It comes before the
                // peer's own last words, which are still queued and may say why it left.
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNRESET) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(Received::Empty),
                Err(nix::errno::Errno::EPIPE) => return Ok(Received::Ended),
                Err(errno) => return Err(errno.into()),
            }
        };
        if length == 0 {
            return Ok(Received::Ended);
        }
        if truncated {
            return Ok(Received::Unreadable("the datagram or its fds were cut by the kernel".into()));
        }
        match serde_json::from_slice(&bytes[..length]) {
            Ok(message) => Ok(Received::Message(message, fds)),
            Err(error) => Ok(Received::Unreadable(error.to_string())),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ToWorker;

    #[test]
    fn a_message_arrives_whole_with_its_fds() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&ToWorker::Ping { id: 7 }, &[a.as_fd()]).unwrap();
        match b.receive::<ToWorker>().unwrap() {
            Received::Message(message, fds) => {
                assert_eq!(message, ToWorker::Ping { id: 7 });
                assert_eq!(fds.len(), 1);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(b.receive::<ToWorker>().unwrap(), Received::Empty));
    }

    #[test]
    fn a_closed_end_is_seen_after_what_was_sent() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&ToWorker::Promote, &[]).unwrap();
        drop(a);
        assert!(matches!(b.receive::<ToWorker>().unwrap(), Received::Message(ToWorker::Promote, _)));
        assert!(matches!(b.receive::<ToWorker>().unwrap(), Received::Ended));
        assert!(b.send(&ToWorker::Promote, &[]).is_err());
    }

    #[test]
    fn the_last_words_of_a_peer_that_left_without_reading_are_heard() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&ToWorker::Promote, &[]).unwrap();
        b.send(&ToWorker::Ping { id: 7 }, &[]).unwrap();
        drop(b);
        assert!(matches!(a.receive::<ToWorker>().unwrap(), Received::Message(ToWorker::Ping { id: 7 }, _)));
        assert!(matches!(a.receive::<ToWorker>().unwrap(), Received::Ended));
    }

    #[test]
    fn a_peer_that_does_not_read_never_blocks_the_sender() {
        let (a, _b) = Channel::pair().unwrap();
        let error = (0..1_000_000).find_map(|id| a.send(&ToWorker::Ping { id }, &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn garbage_is_reported_and_not_fatal() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&"something else", &[]).unwrap();
        assert!(matches!(b.receive::<ToWorker>().unwrap(), Received::Unreadable(_)));
    }
}

//! The handoff: connections that this worker cannot serve now go to whichever worker of the instance can.
//!
//! All workers of an instance, of every generation, share one SOCK_SEQPACKET pair; the kernel's socket buffer is the
//! queue. A connection travels as its fd and a record: where it came from, what a PROXY header said, and the bytes that
//! were read and not answered, so that the taker parses them as if it had read them itself. Used for idle connections
//! of a worker that retires, many in a datagram, since the kernel counts the buffer's room by datagrams more than by bytes; and
//! for complete requests while every lane is in the application, one in a datagram, so that workers share them.
//!
//! **Nothing is lost.** Before sending, the connection leaves the epoll set, since a registration lives with the open
//! file description and would go on reporting it here. A datagram is taken whole or not at all, and every send error means
//! that its connections stay: EAGAIN (the buffer is full), ETOOMANYREFS (too many fds in flight for this user), EMSGSIZE,
//! ENOBUFS. A taker makes sure of free fds before it receives: without them the kernel would drop fds and clients would
//! see their connections end. One that has none leaves the handoff to the others for a while: the datagram would be
//! reported without end. Whoever is woken for a datagram and is told to leave in the same moment wakes another one.

use crate::connection::{Connection, Phase};
use crate::offspring::Socket;
use crate::reactor::{CONNECTION_EVENTS, Reactor, lock};
use crate::sys;
use crate::table::Happened;
use crate::token::Source;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use rgunicorn_http::{self as http, Framing, ProxyHeader};
use rgunicorn_log::event;
use rgunicorn_protocol::scoreboard::{Counter, monotonic_us};
use rgunicorn_protocol::{HANDOFF_FORM as FORM, ListenerAddress};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Most bytes that travel with a connection; one that has more stays.
const MOST_BYTES: usize = 16 * 1024;
/// Most bytes of a datagram, within any SO_SNDBUF.
const DATAGRAM: usize = 64 * 1024;
/// Connections in one datagram at most (unix(7), SCM_MAX_FD).
const MOST_FDS: usize = 253;
/// The part of the fds that a process may have which one datagram may bring: a taker needs as many free ones at once.
const SHARE_OF_FDS: u64 = 8;
/// How long connections that nobody could take stay before they are offered again, and how long a taker without free fds
/// leaves the handoff alone.
pub(crate) const OFFER_AGAIN: Duration = Duration::from_millis(50);

/// The two ends that all workers share.
#[derive(Debug)]
pub(crate) struct Handoff {
    receive: Socket,
    send: Socket,
    pub(crate) watched: bool,
    /// This worker had no fd for what waits: it does not look again before this instant.
    pub(crate) rests_until: Option<Instant>,
    /// It has rested, and nobody else has taken what waits since: nobody sees the requests of clients that wait there.
    rested: bool,
}

impl Handoff {
    pub(crate) fn new(receive: OwnedFd, send: OwnedFd) -> Handoff {
        Handoff {
            receive: Socket::new(receive),
            send: Socket::new(send),
            watched: false,
            rests_until: None,
            rested: false,
        }
    }

    pub(crate) fn receive(&self) -> std::os::fd::BorrowedFd<'_> {
        self.receive.as_fd()
    }
}

/// The first connection in the handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// There is none, or it cannot be read from here.
    Nothing,
    /// One without a complete request.
    Idle,
    /// One whose request has waited so long.
    Waited(Duration),
}

/// What travels beside the fd, before the bytes. What is not said is as in most connections.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<ListenerAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxied: Option<(u8, Option<(SocketAddr, SocketAddr)>)>,
    /// Nothing was consumed yet: a PROXY header may come.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fresh: bool,
    /// Since when its complete request waits, in microseconds of CLOCK_MONOTONIC; none if there is no such request.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// The client had ended its side when the connection was handed over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    hung_up: bool,
    /// Bytes that follow.
    #[serde(skip_serializing_if = "is_zero")]
    bytes: usize,
}

/// The unanswered bytes of a connection, if it may travel.
fn unanswered(connection: &Connection) -> Option<Vec<u8>> {
    let mut bytes = match connection.phase {
        Phase::Receiving if connection.engine.is_idle() => Vec::new(),
        Phase::Answering if !connection.continued => {
            let head = connection.head.as_deref()?;
            let mut bytes = connection.head_bytes.clone();
            match (&connection.body, head.framing) {
                (None, framing) if framing.is_empty() => {}
                (Some(body), Framing::Length(_)) => bytes.extend_from_slice(body.in_memory()?),
                (_, Framing::None | Framing::Length(_) | Framing::Chunked) => return None,
            }
            bytes
        }
        Phase::Receiving | Phase::Answering | Phase::Flushing { .. } | Phase::Lingering { .. } => return None,
    };
    bytes.extend_from_slice(connection.input.get(connection.start..)?);
    (bytes.len() <= MOST_BYTES).then_some(bytes)
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A datagram in the making: the form, the number of records, then the records, each with its bytes.
struct Datagram(Vec<u8>);

impl Datagram {
    fn new() -> Datagram {
        Datagram(vec![FORM, 0])
    }

    /// Adds a record if there is room for it; whether there was.
    fn add(&mut self, record: &Record, bytes: &[u8]) -> bool {
        let Ok(record) = serde_json::to_vec(record) else { return false };
        let Ok(length) = u16::try_from(record.len()) else { return false };
        let room = DATAGRAM - self.0.len() >= 2 + record.len() + bytes.len();
        if room {
            self.0[1] += 1;
            self.0.extend_from_slice(&length.to_le_bytes());
            self.0.extend_from_slice(&record);
            self.0.extend_from_slice(bytes);
        }
        room
    }

    fn send(&self, handoff: &Handoff, fds: &[RawFd]) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<UnixAddr>(handoff.send.as_raw_fd(), &[IoSlice::new(&self.0)], rights, flags, None).map(drop)
    }
}

/// The records of a datagram, each with its bytes.
fn decode(datagram: &[u8]) -> Option<Vec<(Record, Vec<u8>)>> {
    let (&form, rest) = datagram.split_first()?;
    let (&count, mut rest) = rest.split_first()?;
    if form != FORM {
        return None;
    }
    let mut records = Vec::new();
    for _ in 0..count {
        let (length, after) = rest.split_at_checked(2)?;
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let (record, after) = after.split_at_checked(length)?;
        let record: Record = serde_json::from_slice(record).ok()?;
        let (bytes, after) = after.split_at_checked(record.bytes)?;
        records.push((record, bytes.to_vec()));
        rest = after;
    }
    rest.is_empty().then_some(records)
}

impl Reactor {
    /// Gives a connection to another worker; it comes back if it cannot go.
    pub(crate) fn hand_over(&self, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        match self.hand_over_all(vec![connection]).pop() {
            None => Ok(()),
            Some(stays) => Err(stays),
        }
    }

    /// Gives at most [`Reactor::most_at_once`] connections to another worker, in one datagram. Those that stay come back.
    #[expect(clippy::vec_box, reason = "connections move by their boxes, here and in the table")]
    pub(crate) fn hand_over_all(&self, connections: Vec<Box<Connection>>) -> Vec<Box<Connection>> {
        let handoff = lock(&self.handoff);
        let Some(handoff) = handoff.as_ref() else { return connections };
        let (mut leave, mut stay) = (Vec::with_capacity(connections.len()), Vec::new());
        let mut datagram = Datagram::new();
        for connection in connections {
            let goes = unanswered(&connection)
                .is_some_and(|bytes| datagram.add(&self.record(&connection, bytes.len()), &bytes));
            if goes { leave.push(connection) } else { stay.push(connection) }
        }
        if leave.is_empty() {
            return stay;
        }
        for connection in &leave {
            // It is in the set, so it can be deleted; ENOMEM is no error of this operation (epoll_ctl(2)).
            let _ =
                sys::control(self.epoll_fd(), libc::EPOLL_CTL_DEL, connection.socket.as_fd(), 0, source(connection));
        }
        let fds: Vec<RawFd> = leave.iter().map(|connection| connection.socket.as_raw_fd()).collect();
        match datagram.send(handoff, &fds) {
            // Closed here without a shutdown: they live on in the queue.
            Ok(()) => leave.into_iter().for_each(|connection| self.forget(connection)),
            Err(errno) => {
                slog::debug!(self.log, "connections could not be handed over and stay";
                    "error" => errno.desc(), "connections" => leave.len());
                for connection in &leave {
                    let socket = connection.socket.as_fd();
                    if let Err(error) = sys::control(
                        self.epoll_fd(),
                        libc::EPOLL_CTL_ADD,
                        socket,
                        CONNECTION_EVENTS,
                        source(connection),
                    ) {
                        slog::error!(self.log, "epoll_ctl failed"; event::FAILURE, "error" => %error);
                    }
                }
                stay.append(&mut leave);
            }
        }
        stay
    }

    fn record(&self, connection: &Connection, bytes: usize) -> Record {
        Record {
            listener: self.listener_address(connection.listener),
            peer: connection.peer,
            proxied: connection.proxied.as_ref().map(|header| (header.version, header.addresses)),
            fresh: connection.fresh && connection.proxied.is_none(),
            since: connection.complete.map(|_| monotonic_us().saturating_sub(connection.waited().as_micros() as u64)),
            hung_up: connection.hung_up || self.has_only_hung_up(connection),
            bytes,
        }
    }

    /// Connections that one datagram may carry: a taker with the same limit of fds must find that many free.
    pub(crate) fn most_at_once(&self) -> usize {
        let fds = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        usize::try_from(fds / SHARE_OF_FDS).unwrap_or(MOST_FDS).clamp(1, MOST_FDS)
    }

    /// Takes what waits in the handoff: one datagram, so that idle workers share. Whether there was one.
    pub(crate) fn take_over(self: &Arc<Self>) -> bool {
        let error = {
            let _arrives = lock(&self.arrival);
            if self.finished.load(Ordering::SeqCst) {
                return false;
            }
            let received = match lock(&self.handoff).as_mut() {
                Some(handoff) => {
                    let received = receive(handoff);
                    let lacks = |error: &io::Error| error.kind() != io::ErrorKind::WouldBlock;
                    handoff.rested &= received.as_ref().err().is_some_and(lacks);
                    received
                }
                None => return false,
            };
            match received {
                Ok((datagram, fds)) => {
                    self.adopt(&datagram, fds);
                    return true;
                }
                Err(error) => error,
            }
        };
        match error {
            error if error.kind() == io::ErrorKind::WouldBlock => {}
            error if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                self.say_full(&error);
                // A request is worth more than an idle connection. One idle connection is worth no other, unless nobody else
                // has room for it: the request that comes next on it would be seen by nobody.
                let waits = matches!(self.head_of_handoff(), Head::Waited(_));
                let rested = lock(&self.handoff).as_ref().is_some_and(|handoff| handoff.rested);
                if !(waits && self.make_room() || !waits && rested && self.end_oldest_idle(&mut false)) {
                    self.leave_handoff_alone();
                }
            }
            error => slog::error!(self.log, "the handoff cannot be read"; event::FAILURE, "error" => %error),
        }
        false
    }

    /// Something waits in the handoff: takes a datagram, and goes to the end of the queue of those who do. A worker that has
    /// been told to leave in the same moment takes what it still may.
    pub(crate) fn take_turn_at_handoff(self: &Arc<Self>) {
        if self.takes() {
            self.take_over();
        }
        if self.takes() { self.rotate_handoff() } else { self.watch_handoff(false) }
    }

    /// This worker no longer watches the handoff, and may have been the one who was woken for what waits there. A datagram
    /// without connections wakes the next one, who finds what is before it, too.
    pub(crate) fn wake_other_takers(self: &Arc<Self>) {
        loop {
            let sent = match lock(&self.handoff).as_ref() {
                Some(handoff) if sys::wait_for(handoff.receive(), libc::POLLIN, 0).unwrap_or(false) => {
                    Datagram::new().send(handoff, &[])
                }
                Some(_) | None => return,
            };
            // There is no room: one that is taken makes some, and its connections are offered again.
            if sent.is_ok() || !self.take_over() {
                return;
            }
        }
    }

    /// Leaves what waits in the handoff to workers that have fds.
    fn leave_handoff_alone(&self) {
        if let Some(handoff) = lock(&self.handoff).as_mut() {
            handoff.rests_until = Some(Instant::now() + OFFER_AGAIN);
            handoff.rested = true;
        }
        self.handoff_rests.store(true, Ordering::Relaxed);
        self.watch_handoff(false);
    }

    /// When this worker looks at the handoff again, if it leaves it alone.
    pub(crate) fn handoff_rests_until(&self) -> Option<Instant> {
        let rests = self.handoff_rests.load(Ordering::Relaxed);
        if rests { lock(&self.handoff).as_ref().and_then(|handoff| handoff.rests_until) } else { None }
    }

    /// Looks at the handoff again, once the time has come.
    pub(crate) fn end_rest_of_handoff(&self) {
        if self.handoff_rests_until().is_some_and(|at| at <= Instant::now()) {
            self.handoff_rests.store(false, Ordering::Relaxed);
            if let Some(handoff) = lock(&self.handoff).as_mut() {
                handoff.rests_until = None;
            }
            if self.lanes.any_free() && self.takes() {
                self.watch_handoff(true);
            }
        }
    }

    /// What stands at the head of the handoff.
    pub(crate) fn head_of_handoff(&self) -> Head {
        match lock(&self.handoff).as_ref().map(peek) {
            None | Some(None) => Head::Nothing,
            Some(Some(Record { since: None, .. })) => Head::Idle,
            Some(Some(Record { since: Some(since), .. })) => {
                Head::Waited(Duration::from_micros(monotonic_us().saturating_sub(since)))
            }
        }
    }

    fn adopt(self: &Arc<Self>, datagram: &[u8], fds: Vec<OwnedFd>) {
        let Some(records) = decode(datagram).filter(|records| records.len() == fds.len()) else {
            slog::error!(self.log, "a datagram of the handoff cannot be read; its connections are closed"; event::FAILURE,
                "connections" => fds.len());
            return;
        };
        let now = Instant::now();
        for ((record, bytes), socket) in records.into_iter().zip(fds) {
            let listener = record.listener.map_or(0, |address| self.listener_number(address));
            self.sheet.count(Counter::TakenOver);
            let token = self.new_token();
            let mut connection = Connection::new(token, socket, record.peer, listener, &self.settings, now);
            connection.engine = http::Connection::adopt(&self.settings.policy, record.fresh, now);
            connection.fresh = record.fresh;
            connection.input = bytes;
            connection.proxied =
                record.proxied.map(|(version, addresses)| Box::new(ProxyHeader { version, addresses }));
            let waited = record.since.map_or(0, |since| monotonic_us().saturating_sub(since));
            connection.waited_before = Duration::from_micros(waited);
            connection.hung_up = record.hung_up;
            let look = Happened { readable: true, ..Happened::default() };
            self.admit(Box::new(connection), look);
        }
    }
}

fn source(connection: &Connection) -> Source {
    Source::Connection(connection.token)
}

/// Reads the first record of the first datagram and leaves it there.
fn peek(handoff: &Handoff) -> Option<Record> {
    let mut start = vec![0_u8; 4 * 1024];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
    let mut parts = [IoSliceMut::new(&mut start)];
    let length = recvmsg::<UnixAddr>(handoff.receive.as_raw_fd(), &mut parts, None, flags).ok()?.bytes;
    let (prefix, rest) = start.get(..length)?.split_at_checked(4)?;
    let record = rest.get(..usize::from(u16::from_le_bytes([prefix[2], prefix[3]])))?;
    if prefix[0] == FORM { serde_json::from_slice(record).ok() } else { None }
}

/// Receives one datagram, if its fds have room in this process.
fn receive(handoff: &Handoff) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut first = [0_u8; 2];
    let fd = handoff.receive.as_raw_fd();
    {
        let mut parts = [IoSliceMut::new(&mut first)];
        let peeked = recvmsg::<UnixAddr>(fd, &mut parts, None, flags | MsgFlags::MSG_PEEK)?;
        if peeked.bytes == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    let count = usize::from(first[1]).min(MOST_FDS);
    // As many fds as will come, closed again at once: the kernel gives the lowest free numbers, so these are free then.
    let reserved =
        (0..count).map(|_| handoff.send.as_fd().try_clone_to_owned()).collect::<io::Result<Vec<OwnedFd>>>()?;
    let mut datagram = vec![0_u8; DATAGRAM];
    let mut control = nix::cmsg_space!([RawFd; MOST_FDS]);
    drop(reserved);
    let mut fds = Vec::new();
    let length = {
        let mut parts = [IoSliceMut::new(&mut datagram)];
        let message = recvmsg::<UnixAddr>(fd, &mut parts, Some(&mut control), flags)?;
        for item in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = item {
                // SAFETY: the kernel has just made these fds for us; nobody else knows their numbers.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        message.bytes
    };
    datagram.truncate(length);
    Ok((datagram, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_and_its_bytes_survive_the_journey() {
        let record = Record {
            listener: Some(ListenerAddress::Unix { path: "/run/x.sock".into() }),
            peer: Some("192.0.2.1:80".parse().unwrap()),
            proxied: Some((2, None)),
            fresh: false,
            since: Some(7),
            hung_up: true,
            bytes: 5,
        };
        let idle = Record::default();
        let mut datagram = Datagram::new();
        assert!(datagram.add(&record, b"GET /") && datagram.add(&idle, b""));
        assert_eq!(decode(&datagram.0).unwrap(), [(record, b"GET /".to_vec()), (idle, Vec::new())]);
    }

    #[test]
    fn a_datagram_that_was_cut_anywhere_is_refused_whole() {
        let record =
            Record { listener: None, peer: None, proxied: None, fresh: true, since: None, hung_up: false, bytes: 3 };
        let mut datagram = Datagram::new();
        assert!(datagram.add(&record, b"abc") && datagram.add(&record, b"abc"));
        let datagram = datagram.0;
        for end in 0..datagram.len() {
            assert!(decode(&datagram[..end]).is_none());
        }
        assert!(decode(&[&datagram[..], b"x"].concat()).is_none());
    }
}

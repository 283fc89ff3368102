//! One client: a connection, what it has asked, what it still expects.
//!
//! Owns its socket. Knows neither epoll nor the other clients: it is called when its socket is ready or its time has
//! come, and says when it wants to be called next. Invariant: each request ends as exactly one of: answered, lost, sent
//! again.

use crate::answer::{Difference, shown, take};
use crate::random::Random;
use crate::request::{Expected, Kind, compose};
use crate::tally::{Loss, Tally};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, UnixAddr, connect, getsockopt, recv, send, setsockopt,
    socket, sockopt,
};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long an answer or a connect is waited for before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client that could not connect waits.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// What a slow reader reads at once, and how often.
const SIP: (usize, Duration) = (16 * 1024, Duration::from_millis(2));
/// The receive buffer of a slow reader in bytes.
const SMALL_BUFFER: usize = 8 * 1024;

/// Where the server listens.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tcp(SocketAddrV4),
    Unix(PathBuf),
}

/// A request of which the whole answer has not come.
#[derive(Debug)]
struct Asked {
    expected: Expected,
    /// Where its bytes end in `out`.
    end: usize,
    /// When its last byte was sent.
    sent: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    pub(crate) kind: Kind,
    random: Random,
    asked_ever: u64,
    socket: Option<OwnedFd>,
    connecting: bool,
    since: Instant,
    out: Vec<u8>,
    sent: usize,
    asked: VecDeque<Asked>,
    input: Vec<u8>,
    /// Answers on this connection.
    answers: u64,
    /// The server has announced the end of the connection.
    last: bool,
    /// No request begins any more.
    over: bool,
    /// When to be called again though the socket is not ready.
    pub(crate) wake: Option<Instant>,
}

impl Client {
    pub(crate) fn new(number: usize, kind: Kind, seed: u64, now: Instant) -> Client {
        let mut random = Random::new(seed ^ (number as u64) << 32);
        let wake = now + Duration::from_millis(random.between(0, 500));
        Client {
            number,
            kind,
            random,
            asked_ever: 0,
            socket: None,
            connecting: false,
            since: now,
            out: Vec::new(),
            sent: 0,
            asked: VecDeque::new(),
            input: Vec::new(),
            answers: 0,
            last: false,
            over: false,
            wake: Some(wake),
        }
    }

    /// The socket, which changes with each connection.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Whether a request waits for its answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.connecting || !self.asked.is_empty()
    }

    /// Begins no request from now on.
    pub(crate) fn wind_up(&mut self) {
        self.over = true;
    }

    /// Goes as far as it can. Returns whether `socket` is a new one, to be watched.
    pub(crate) fn proceed(&mut self, target: &Target, tally: &mut Tally, now: Instant) -> bool {
        let before = self.socket.as_ref().map(AsRawFd::as_raw_fd);
        let mut fresh = false;
        if self.socket.is_none() && !self.over && self.wake.is_none_or(|at| at <= now) {
            self.connect(target, tally, now);
            fresh = self.socket.is_some();
        }
        if self.socket.is_some() && self.has_connected(tally, now) {
            self.read(tally, now);
            if self.socket.is_some() && self.asked.is_empty() && !self.over && self.wake.is_none_or(|at| at <= now) {
                self.ask();
            }
            if self.socket.is_some() && self.sent < self.out.len() {
                self.write(tally, now);
            }
        }
        self.lose_patience(tally, now);
        fresh || self.socket.is_some() && before != self.socket.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn connect(&mut self, target: &Target, tally: &mut Tally, now: Instant) {
        let family = match target {
            Target::Tcp(_) => AddressFamily::Inet,
            Target::Unix(_) => AddressFamily::Unix,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let connected = socket(family, SockType::Stream, flags, None).and_then(|socket| {
            if self.kind == Kind::Reading {
                setsockopt(&socket, sockopt::RcvBuf, &SMALL_BUFFER)?;
            }
            let result = match target {
                Target::Tcp(address) => connect(socket.as_raw_fd(), &SockaddrIn::from(*address)),
                Target::Unix(path) => connect(socket.as_raw_fd(), &UnixAddr::new(path)?),
            };
            match result {
                Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
                Err(error) => Err(error),
            }
        });
        self.wake = None;
        self.since = now;
        match connected {
            Ok(socket) => {
                self.socket = Some(socket);
                self.connecting = true;
            }
            // The backlog of a unix socket is full (unix(7)): it has not been refused, only not yet.
            Err(Errno::EAGAIN) => self.wake = Some(now + Duration::from_millis(5)),
            Err(error) => {
                tally.loss(Loss::Connect, &format!("client {}: {error}", self.number));
                self.wake = Some(now + AFTER_FAILURE);
            }
        }
    }

    fn has_connected(&mut self, tally: &mut Tally, now: Instant) -> bool {
        let Some(socket) = &self.socket else { return false };
        if !self.connecting {
            return true;
        }
        let error = getsockopt(socket, sockopt::SocketError).unwrap_or(libc::EIO);
        if error != 0 {
            tally.loss(Loss::Connect, &format!("client {}: {}", self.number, Errno::from_raw(error)));
            self.close(now + AFTER_FAILURE);
            return false;
        }
        // Without an error it is connected unless a send of nothing says otherwise; what else it says is found by reading.
        if let Err(Errno::EAGAIN | Errno::ENOTCONN) = send(socket.as_raw_fd(), &[], MsgFlags::MSG_NOSIGNAL) {
            return false;
        }
        let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
        self.connecting = false;
        tally.connections += 1;
        true
    }

    /// Composes the next requests.
    fn ask(&mut self) {
        let (least, most) = self.kind.batch();
        let count = self.random.between(least, most);
        self.out.clear();
        self.sent = 0;
        self.wake = None;
        for n in 1..=count {
            self.asked_ever += 1;
            let token = format!("{}-{}", self.number, self.asked_ever);
            let last = self.kind == Kind::Once || n == count && self.random.once_in(self.lifetime(200));
            let expected = compose(self.kind, token, last, &mut self.random, &mut self.out);
            self.asked.push_back(Asked { expected, end: self.out.len(), sent: None });
        }
    }

    fn write(&mut self, tally: &mut Tally, now: Instant) {
        while self.sent < self.out.len() {
            let Some(socket) = &self.socket else { return };
            let slow = self.kind == Kind::Slow;
            if slow && self.wake.is_some_and(|at| at > now) {
                return;
            }
            let end = if slow { (self.sent + 1).min(self.out.len()) } else { self.out.len() };
            match send(socket.as_raw_fd(), &self.out[self.sent..end], MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::EAGAIN) => return,
                Err(error) => return self.ended(Some(error), tally, now),
            }
            for asked in &mut self.asked {
                if asked.end <= self.sent && asked.sent.is_none() {
                    asked.sent = Some(now);
                    self.since = now;
                }
            }
            if slow {
                let pause = Duration::from_millis(self.random.between(0, 3));
                self.wake = (self.sent < self.out.len()).then_some(now + pause);
            }
        }
    }

    fn read(&mut self, tally: &mut Tally, now: Instant) {
        let slow = self.kind == Kind::Reading;
        loop {
            if slow && self.wake.is_some_and(|at| at > now) && !self.asked.is_empty() {
                return;
            }
            if slow && !self.asked.is_empty() {
                self.wake = None;
            }
            let Some(socket) = &self.socket else { return };
            let mut bytes = [0_u8; SIP.0];
            match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(0) => return self.ended(None, tally, now),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(Errno::EAGAIN) => return,
                Err(error) => return self.ended(Some(error), tally, now),
            }
            self.since = now;
            self.take_answers(tally, now);
            if slow && !self.asked.is_empty() {
                self.wake = Some(now + SIP.1);
            }
        }
    }

    fn take_answers(&mut self, tally: &mut Tally, now: Instant) {
        while !self.input.is_empty() && self.socket.is_some() {
            if self.asked.is_empty() {
                tally.loss(Loss::Duplicated, &format!("client {}: {}", self.number, shown(&self.input)));
                return self.close(now);
            }
            let answer = match take(&mut self.input) {
                Ok(Some(answer)) => answer,
                Ok(None) => return,
                Err(what) => {
                    tally.loss(Loss::Wrong, &format!("client {}: {what}", self.number));
                    return self.give_up(tally, now);
                }
            };
            let Some(asked) = self.asked.pop_front() else { return };
            self.answers += 1;
            self.last |= answer.last;
            match asked.expected.compare(&answer) {
                // A slow reader's answers take as long as it wants.
                Ok(()) if self.kind == Kind::Reading => tally.answered += 1,
                Ok(()) => tally.answer(asked.sent.unwrap_or(now), now, || {
                    format!("{:?} {}, {} answers before", self.kind, asked.expected.token, self.answers - 1)
                }),
                Err(Difference::Other(token)) => {
                    let own = token.split('-').next() == Some(self.number.to_string().as_str());
                    let earlier = self.asked.front().is_none_or(|next| token < next.expected.token);
                    let loss = if own && earlier { Loss::Duplicated } else { Loss::MixedUp };
                    tally.loss(loss, &format!("{}: the answer to {token}", asked.expected.token));
                }
                Err(Difference::Status(status)) => {
                    tally.loss(Loss::Wrong, &format!("{} {:?}: status {status}", asked.expected.token, self.kind));
                }
                Err(Difference::Content(content)) => {
                    tally.loss(Loss::Wrong, &format!("{}: {content}", asked.expected.line));
                }
            }
            if self.last || self.asked.is_empty() {
                // What was pipelined behind the last answer is not processed (RFC 9112 section 9.6) and is asked anew.
                tally.sent_again += self.asked.len() as u64;
                self.asked.clear();
                let again = now + self.pause();
                self.wake = Some(again);
                if self.last || self.random.once_in(self.lifetime(100)) {
                    return self.close(again);
                }
            }
        }
    }

    /// How many rounds a connection lasts on average; the kinds without pauses would else mostly connect.
    fn lifetime(&self, usual: u64) -> u64 {
        if matches!(self.kind, Kind::Flooding | Kind::Quick) { usual * 10 } else { usual }
    }

    /// Some requests come at once, most after a moment, a few after a long pause.
    fn pause(&mut self) -> Duration {
        match self.kind {
            Kind::Flooding => return Duration::from_micros(self.random.between(500, 6000)),
            Kind::Quick => return Duration::ZERO,
            Kind::Plain
            | Kind::Pipelining
            | Kind::Slow
            | Kind::Uploading
            | Kind::Reading
            | Kind::Once
            | Kind::Waiting => {}
        }
        Duration::from_millis(match self.random.between(0, 9) {
            0..=2 => 0,
            3..=8 => self.random.between(1, 60),
            _ => self.random.between(200, 1500),
        })
    }

    /// The connection has ended from the other side.
    fn ended(&mut self, error: Option<Errno>, tally: &mut Tally, now: Instant) {
        let how = if error.is_some() { Loss::Reset } else { Loss::Ended };
        if self.answers == 0 && self.sent == 0 {
            // Let in and sent away, though it asks at once.
            tally.loss(how, &format!("client {}: {how:?} before it could ask", self.number));
            return self.close(now + Duration::from_millis(1));
        }
        if self.sent == 0 || self.asked.is_empty() {
            // Before the first byte of a request: that is asked on the next connection.
            tally.closed_idle += 1;
            tally.sent_again += self.asked.len() as u64;
            self.asked.clear();
            return self.close(now);
        }
        for (n, asked) in self.asked.drain(..).enumerate() {
            let begun = n == 0 && !self.input.is_empty();
            let loss = match asked.sent {
                None => Loss::CutOff,
                Some(_) if begun || self.answers == 0 => how,
                Some(_) => Loss::Raced,
            };
            let age = asked.sent.map(|at| now.saturating_duration_since(at).as_micros()).unwrap_or_default();
            let what = format!(
                "{} {:?}: {how:?} {age} us after it was sent ({} of {} bytes), {} bytes of answer, {} answers before",
                asked.expected.token,
                self.kind,
                self.sent,
                self.out.len(),
                self.input.len(),
                self.answers
            );
            tally.loss(loss, &what);
        }
        self.close(now + Duration::from_millis(1));
    }

    fn lose_patience(&mut self, tally: &mut Tally, now: Instant) {
        if !self.is_waiting() || now.saturating_duration_since(self.since) < PATIENCE {
            return;
        }
        if self.connecting {
            tally.loss(Loss::Connect, &format!("client {}: no answer", self.number));
        }
        self.give_up(tally, now);
    }

    /// What is expected will not come.
    fn give_up(&mut self, tally: &mut Tally, now: Instant) {
        for asked in self.asked.drain(..) {
            tally.loss(Loss::Unanswered, &format!("{} {:?}", asked.expected.token, self.kind));
        }
        self.close(now);
    }

    fn close(&mut self, again: Instant) {
        self.socket = None;
        self.connecting = false;
        self.asked.clear();
        self.out.clear();
        self.sent = 0;
        self.input.clear();
        self.answers = 0;
        self.last = false;
        self.wake = Some(again);
    }
}

//! When this worker accepts, and what it does when it cannot.
//!
//! Owns the worker's duplicates of the listeners. EPOLLEXCLUSIVE wakes one worker for a connection, but always the one
//! that was added last; a worker that has accepted leaves the set and joins it again, at the end of the queue, so that
//! idle workers take turns (epoll_ctl(2); MOD would be EINVAL).

use crate::hands::Hands;
use crate::offspring::Socket;
use crate::reactor::{Reactor, Service, lock};
use crate::sys;
use crate::table::Happened;
use crate::token::Source;
use rgunicorn_log::event;
use rgunicorn_protocol::ListenerAddress;
use rgunicorn_protocol::scoreboard::monotonic_us;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Listener {
    /// None: given up. The last duplicate closes the socket, and a client must not be let in where nobody accepts.
    fd: Option<Socket>,
    address: ListenerAddress,
    watched: bool,
}

/// The listeners of one worker.
#[derive(Debug)]
pub(crate) struct Listeners {
    all: Vec<Listener>,
    /// Whether they are to be watched while a lane is free.
    open: bool,
    /// A spare fd: without it a full fd table could not even accept in order to refuse.
    reserve: Option<OwnedFd>,
    /// When the last record said that no fd is left.
    said_full: Option<Instant>,
}

/// At most one record in this time says that no fd is left: it happens for each connection, thousands in a second.
const SAY_FULL_EVERY: Duration = Duration::from_secs(10);

fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

impl Listeners {
    pub(crate) fn new(listeners: Vec<(OwnedFd, ListenerAddress)>) -> Listeners {
        let all = listeners
            .into_iter()
            .map(|(fd, address)| Listener { fd: Some(Socket::new(fd)), address, watched: false })
            .collect();
        Listeners { all, open: false, reserve: spare(), said_full: None }
    }

    /// The number of the listener with this address. A connection that another generation accepted may come from one that
    /// this generation does not have: its address gets a number, too.
    pub(crate) fn number(&mut self, address: ListenerAddress) -> u32 {
        let known = (0_u32..).zip(&self.all).find(|(_, listener)| listener.address == address).map(|(n, _)| n);
        known.unwrap_or_else(|| {
            self.all.push(Listener { fd: None, address, watched: false });
            u32::try_from(self.all.len() - 1).unwrap_or_default()
        })
    }

    pub(crate) fn address(&self, n: u32) -> Option<ListenerAddress> {
        self.all.get(n as usize).map(|listener| listener.address.clone())
    }
}

impl Reactor {
    /// Begins to accept.
    pub(crate) fn open_listeners(&self) {
        lock(&self.listeners).open = true;
        self.listen_again();
    }

    /// Stops accepting and gives the worker's duplicates of the listeners up.
    pub(crate) fn close_listeners(&self) {
        self.stop_listening();
        let mut listeners = lock(&self.listeners);
        listeners.open = false;
        // Addresses are still asked for by requests in flight, so only the fds go.
        listeners.all.iter_mut().for_each(|listener| listener.fd = None);
        listeners.reserve = None;
    }

    /// From now on nothing new wakes this worker. What has woken it already, and whom it would have served next, is taken:
    /// the kernel tells one worker of each arrival (EPOLLEXCLUSIVE), and the others would not look before something else
    /// comes. `all`: whatever waits is taken, since the listeners end.
    pub(crate) fn give_up_listening(self: &Arc<Self>, all: bool) {
        self.stop_listening();
        let successors = self.successors.load(Ordering::SeqCst);
        if all {
            self.accept_all();
        } else if successors {
            let count = lock(&self.listeners).all.len() as u32;
            // One is all that it can have been woken for.
            for n in 0..count {
                self.accept_one(n);
            }
        }
        if successors {
            self.wake_other_takers();
        }
    }

    /// These listeners end with this worker's generation and let nobody in any more: accepts what waits in them, and
    /// gives them up.
    pub(crate) fn drain_listeners(self: &Arc<Self>, ending: &[u32]) {
        for n in ending {
            while self.accept_one(*n) {}
            let mut listeners = lock(&self.listeners);
            let Some(listener) = listeners.all.get_mut(*n as usize) else { continue };
            if let Some(fd) = listener.fd.take_if(|_| std::mem::take(&mut listener.watched)) {
                let _ = sys::control(self.listening_set(), libc::EPOLL_CTL_DEL, fd.as_fd(), 0, Source::Listener(*n));
            }
            listener.fd = None;
        }
    }

    /// Watches the listeners and the handoff, as far as the worker takes part in them.
    pub(crate) fn listen_again(&self) {
        self.deaf_since.store(0, Ordering::Relaxed);
        let mut listeners = lock(&self.listeners);
        let open = listeners.open;
        for (n, listener) in (0_u32..).zip(&mut listeners.all) {
            if open
                && !listener.watched
                && let Some(fd) = &listener.fd
            {
                let events = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
                match sys::control(self.listening_set(), libc::EPOLL_CTL_ADD, fd.as_fd(), events, Source::Listener(n)) {
                    Ok(()) => listener.watched = true,
                    Err(error) => {
                        slog::error!(self.log, "a listener cannot be watched"; event::FAILURE, "error" => %error)
                    }
                }
            }
        }
        drop(listeners);
        if self.takes() {
            self.watch_handoff(true);
        }
    }

    /// Takes part in the handoff, or leaves it to the other workers.
    pub(crate) fn watch_handoff(&self, watch: bool) {
        let mut handoff = lock(&self.handoff);
        let Some(handoff) = handoff.as_mut() else { return };
        if handoff.watched == watch || (watch && handoff.rests_until.is_some()) {
            return;
        }
        let (operation, events) =
            if watch { (libc::EPOLL_CTL_ADD, libc::EPOLLIN | libc::EPOLLEXCLUSIVE) } else { (libc::EPOLL_CTL_DEL, 0) };
        match sys::control(self.listening_set(), operation, handoff.receive(), events, Source::Handoff) {
            Ok(()) => handoff.watched = watch,
            Err(error) => slog::error!(self.log, "the handoff cannot be watched"; event::FAILURE, "error" => %error),
        }
    }

    /// After a taking: to the end of the queue, as with listeners.
    pub(crate) fn rotate_handoff(&self) {
        self.watch_handoff(false);
        self.watch_handoff(true);
    }

    /// Leaves new connections to the other workers.
    pub(crate) fn stop_listening(&self) {
        let _ = self.deaf_since.compare_exchange(0, monotonic_us(), Ordering::Relaxed, Ordering::Relaxed);
        let mut listeners = lock(&self.listeners);
        for (n, listener) in (0_u32..).zip(&mut listeners.all) {
            if std::mem::take(&mut listener.watched)
                && let Some(fd) = &listener.fd
            {
                // It was added, so it can be deleted; a failure would only mean one wake-up too many.
                let _ = sys::control(self.listening_set(), libc::EPOLL_CTL_DEL, fd.as_fd(), 0, Source::Listener(n));
            }
        }
        drop(listeners);
        self.watch_handoff(false);
    }

    /// Accepts from the listeners of which a bit is set, then goes to the end of their queues.
    pub(crate) fn accept(self: &Arc<Self>, ready: u64) {
        let count = lock(&self.listeners).all.len() as u32;
        for n in (0..count).filter(|n| ready >> (*n).min(63) & 1 != 0) {
            self.accept_one(n);
            let mut listeners = lock(&self.listeners);
            let Some(listener) = listeners.all.get_mut(n as usize) else { continue };
            if listener.watched
                && let Some(fd) = &listener.fd
            {
                let (epoll, fd) = (self.listening_set(), fd.as_fd());
                let events = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
                let moved = sys::control(epoll, libc::EPOLL_CTL_DEL, fd, 0, Source::Listener(n))
                    .and_then(|()| sys::control(epoll, libc::EPOLL_CTL_ADD, fd, events, Source::Listener(n)));
                listener.watched = moved.is_ok();
            }
        }
    }

    /// Accepts whatever waits, from all listeners: while every lane is in the application, and when the worker drains.
    pub(crate) fn accept_all(self: &Arc<Self>) {
        let (count, open) = {
            let listeners = lock(&self.listeners);
            (listeners.all.len() as u32, listeners.open)
        };
        if open {
            for n in 0..count {
                while self.accept_one(n) {}
            }
        }
    }

    /// Accepts one connection. Whether there was one.
    fn accept_one(self: &Arc<Self>, n: u32) -> bool {
        if !matches!(*lock(&self.service), Service::Serving | Service::Retiring { .. }) {
            return false;
        }
        let error = {
            let _arrives = lock(&self.arrival);
            if self.finished.load(Ordering::SeqCst) {
                return false;
            }
            let accepted = match lock(&self.listeners).all.get(n as usize).and_then(|listener| listener.fd.as_ref()) {
                Some(fd) => sys::accept(fd.as_fd()),
                None => return false,
            };
            match accepted {
                Ok((socket, peer)) => {
                    self.enter(socket, peer, n);
                    return true;
                }
                Err(error) => error,
            }
        };
        self.accept_failed(n, &error)
    }

    fn accept_failed(self: &Arc<Self>, n: u32, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => false,
            // The client left before it was accepted, or the network did (accept(2)): the next may be fine.
            Some(libc::ECONNABORTED | libc::EPERM | libc::EPROTO) => true,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                // It says so before it looks whether anybody waits.
                if self.somebody_waits(n) {
                    self.out_of_fds(n, error);
                }
                false
            }
            _ => {
                slog::error!(self.log, "accept failed"; event::FAILURE, "error" => %error);
                false
            }
        }
    }

    fn somebody_waits(&self, n: u32) -> bool {
        let listeners = lock(&self.listeners);
        let fd = listeners.all.get(n as usize).and_then(|listener| listener.fd.as_ref());
        fd.is_some_and(|fd| sys::wait_for(fd.as_fd(), libc::POLLIN, 0).unwrap_or(false))
    }

    /// No fd is left. An idle connection makes room, or one whose head does not come to its end (or clients that hold every
    /// fd with half a request would keep all others out for `header_timeout`); if there is none, the connection that
    /// waits is accepted with the spare fd and closed, since a level-triggered listener would otherwise spin.
    fn out_of_fds(self: &Arc<Self>, n: u32, error: &io::Error) {
        self.say_full(error);
        if self.make_room() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        listeners.reserve = None;
        if let Some(fd) = listeners.all.get(n as usize).and_then(|listener| listener.fd.as_ref()) {
            drop(sys::accept(fd.as_fd()));
        }
        listeners.reserve = spare();
    }

    /// Makes room for a new connection: ends the one that has been idle for longest, or else the one whose head has been
    /// incomplete for longest, which is told so. Whether there was one, or there may be one once those are heard whose first
    /// bytes have come.
    pub(crate) fn make_room(self: &Arc<Self>) -> bool {
        let mut unheard = false;
        if self.end_oldest_idle(&mut unheard) {
            return true;
        }
        let half_open = lock(&self.table).take_oldest_half_open();
        let Some(mut connection) = half_open else { return unheard };
        // It has no time to linger: its fd is what is wanted. Nothing that it has sent is unread, so the answer arrives.
        let _ = connection.answer_error(503, &mut Hands::default(), &self.surroundings());
        self.end(connection);
        true
    }

    /// Ends the connection that has been idle for longest. Whether there was one; `unheard`: whether there was one to which
    /// something had come, and which is to be heard first.
    pub(crate) fn end_oldest_idle(self: &Arc<Self>, unheard: &mut bool) -> bool {
        loop {
            let idle = lock(&self.table).take_oldest_idle();
            let Some(connection) = idle else { return false };
            // A request may have come after the set was asked.
            if !sys::has_input(connection.socket.as_fd()) {
                self.end(connection);
                return true;
            }
            *unheard = true;
            let token = connection.token;
            self.put_back(connection);
            if lock(&self.table).note(token, Happened { readable: true, ..Happened::default() }) {
                self.kick_pollers();
            }
        }
    }

    /// Warns that no fd is left, once in a while.
    pub(crate) fn say_full(&self, error: &io::Error) {
        let now = Instant::now();
        {
            let mut listeners = lock(&self.listeners);
            if listeners.said_full.is_some_and(|at| now.saturating_duration_since(at) < SAY_FULL_EVERY) {
                return;
            }
            listeners.said_full = Some(now);
        }
        slog::warn!(self.log, "no fd is left for a new connection: the connections that have been idle for longest are \
            closed, or else those that have sent half a request for longest, or else the new ones; raise LimitNOFILE= of the unit (or ulimit -n)"; event::OUT_OF_FDS,
            "error" => %error, "connections" => self.connections());
    }

    /// Whether the standby may accept.
    pub(crate) fn accepts(&self) -> bool {
        lock(&self.listeners).open && !self.finished.load(Ordering::Relaxed)
    }
}

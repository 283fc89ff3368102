//! The reactor of one worker: the epoll set, the table, the listeners, and who turns it.
//!
//! Any thread of the worker may turn it, one connection at a time each: a lane between two requests, or the standby while
//! every lane is in the application. Knows no Python. Invariants: no system call is made under the table's lock; the lock
//! is never waited for by a thread that holds it; a thread that blocks in [`Reactor::wait`] has said so in `polling`
//! before it looked at the table for the last time.
//!
//! **The lost wake-up.** A thread that adds work (a complete request) while another is about to block: the adder pushes
//! under the lock, then reads `polling`; the other sets `polling`, then looks at the table under the lock. Both orders
//! are sequentially consistent, so at least one of them sees the other, and the adder kicks. Who takes work out for a
//! moment and puts it back is an adder, too: meanwhile the table looked empty. And so is who sets an instant at which
//! something is to be done: the other one has not counted with it. The standby waits without being counted in `polling`,
//! since a lane's return ends its charge; it may take a kick that was meant for that lane, and passes it on as it leaves.

use crate::connection::{Connection, Surroundings, Verdict};
use crate::coroutines::Coroutines;
use crate::exchange::Exchange;
use crate::handoff::Handoff;
use crate::hands::Hands;
use crate::lanes::{Lanes, Role};
use crate::listener::Listeners;
use crate::offspring::Mark;
use crate::outbox::Flushed;
use crate::request_id::RequestIds;
use crate::settings::ReactorSettings;
use crate::standby::ACCEPT_EVERY;
use crate::sys;
use crate::table::{Happened, Table};
use crate::timeouts::{InLanes, TakeStack};
use crate::token::{Source, Token};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rgunicorn_log::event;
use rgunicorn_protocol::scoreboard::{Counter, LaneRecord, monotonic_us};
use rgunicorn_protocol::{Channel, ListenerAddress, Sheet};
use slog::Logger;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Events of a connection: edge-triggered, so that one that is busy costs nothing when its client sends more.
pub(crate) const CONNECTION_EVENTS: i32 = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;

/// How the worker stands to its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Not promoted yet.
    Booting,
    /// Accepts.
    Serving,
    /// Finishes what was begun, until the deadline.
    Retiring { deadline: Instant },
    /// Closes everything.
    Stopped,
}

/// What [`Reactor::next`] found.
#[derive(Debug)]
pub enum Next {
    /// A complete request for this lane.
    Exchange(Box<Exchange>),
    /// Nothing for now: call [`Reactor::wait`] without the interpreter lock.
    Nothing,
    /// The worker is done: leave the lane.
    Finished,
}

/// See [`Hooks::flush_log`].
type FlushLog = Box<dyn Fn() -> bool + Send + Sync>;

/// How long records that the journal did not take wait for the next try.
const FLUSH_LOG_EVERY: i32 = 5;

/// What the reactor has others do.
pub struct Hooks {
    /// Reopens the worker's log files.
    pub reopen: Box<dyn Fn() + Send>,
    /// Takes the stack of a lane.
    pub stack: TakeStack,
    /// Offers the journal again what it did not take; says whether something still waits.
    pub flush_log: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The fds that a worker has from the arbiter.
#[derive(Debug)]
pub struct Inheritance {
    /// The listeners with their addresses.
    pub listeners: Vec<(OwnedFd, ListenerAddress)>,
    /// The two ends of the handoff: to receive from, to send to.
    pub handoff: Option<(OwnedFd, OwnedFd)>,
    /// The worker's end of its channel.
    pub channel: Channel,
    /// The worker's part of the scoreboard.
    pub sheet: Arc<Sheet>,
}

/// See the module.
pub struct Reactor {
    /// The epoll set, the kick and the channel are no child's: it would take events and orders away from this worker.
    _marks: Vec<Mark>,
    pub(crate) epoll: Epoll,
    kick: EventFd,
    pub(crate) table: Mutex<Table>,
    pub(crate) listeners: Mutex<Listeners>,
    pub(crate) handoff: Mutex<Option<Handoff>>,
    /// Whether retirement leaves somebody who takes connections over.
    pub(crate) successors: AtomicBool,
    /// Nobody could take what this worker, which retires, has offered: it does so again at this instant.
    pub(crate) offer_again: Mutex<Option<Instant>>,
    /// This worker had no fd for what waits in the handoff and leaves it alone for a while.
    pub(crate) handoff_rests: AtomicBool,
    /// Held from the moment that a connection is this process's until it is in the table, and while the worker decides
    /// that it has none left and ends: otherwise one that another thread has just accepted would end with it.
    pub(crate) arrival: Mutex<()>,
    pub(crate) service: Mutex<Service>,
    pub(crate) retiring: AtomicBool,
    pub(crate) finished: AtomicBool,
    /// Threads that are blocked in epoll_wait, or about to be.
    polling: AtomicU32,
    /// Since when nobody of this worker looks at the listeners and the handoff, in microseconds; 0: somebody does, or will
    /// when no request waits.
    pub(crate) deaf_since: AtomicU64,
    /// Who leads, and whether the leader is in the application.
    pub lanes: Lanes,
    /// The standby sleeps until somebody enters the application.
    pub(crate) standby_parked: AtomicBool,
    /// The standby turns the reactor.
    pub(crate) standby_in_charge: AtomicBool,
    pub(crate) standby: Mutex<Option<std::thread::Thread>>,
    pub(crate) channel: Channel,
    pub(crate) control: Mutex<crate::control::Control>,
    /// Workers of the instance, this one too.
    pub(crate) workers: AtomicUsize,
    /// The worker's part of the scoreboard.
    pub sheet: Arc<Sheet>,
    pub(crate) in_lanes: InLanes,
    pub(crate) request_ids: RequestIds,
    pub(crate) take_stack: TakeStack,
    pub(crate) flush_log: FlushLog,
    /// What coroutine drivers need; none for threads.
    pub(crate) coroutines: Option<Coroutines>,
    /// See [`ReactorSettings`].
    pub settings: ReactorSettings,
    /// The worker's root logger.
    pub log: Logger,
}

/// A lock that a panic elsewhere has poisoned holds consistent data here: nothing panics between two related writes.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn epoll_set(channel: &Channel) -> io::Result<(Epoll, EventFd)> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let kick = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    sys::control(epoll.0.as_fd(), libc::EPOLL_CTL_ADD, kick.as_fd(), libc::EPOLLIN, Source::Kick)?;
    sys::control(epoll.0.as_fd(), libc::EPOLL_CTL_ADD, channel.as_fd(), libc::EPOLLIN, Source::Channel)?;
    Ok((epoll, kick))
}

impl Reactor {
    /// Makes the reactor of this worker. The listeners are polled from the promotion on.
    ///
    /// # Errors
    /// Those of epoll_create1(2), eventfd(2), epoll_ctl(2): too many fds. The channel comes back, to say so.
    pub fn new(
        settings: ReactorSettings,
        inheritance: Inheritance,
        lanes: usize,
        graceful_timeout: Duration,
        hooks: Hooks,
        log: Logger,
    ) -> Result<Arc<Reactor>, (Channel, io::Error)> {
        let Inheritance { listeners, handoff, channel, sheet } = inheritance;
        let (epoll, kick) = match epoll_set(&channel) {
            Ok(made) => made,
            Err(error) => return Err((channel, error)),
        };
        let coroutines = match settings.coroutines.then(|| Coroutines::new(lanes)).transpose() {
            Ok(coroutines) => coroutines,
            Err(error) => return Err((channel, error)),
        };
        let mut marks: Vec<Mark> = [epoll.0.as_fd(), kick.as_fd(), channel.as_fd()].map(Mark::new).into();
        if let Some(coroutines) = &coroutines {
            marks.extend(coroutines.fds().map(Mark::new));
        }
        Ok(Arc::new(Reactor {
            _marks: marks,
            epoll,
            kick,
            table: Mutex::new(Table::default()),
            listeners: Mutex::new(Listeners::new(listeners)),
            handoff: Mutex::new(handoff.map(|(receive, send)| Handoff::new(receive, send))),
            successors: AtomicBool::new(false),
            offer_again: Mutex::new(None),
            handoff_rests: AtomicBool::new(false),
            arrival: Mutex::new(()),
            service: Mutex::new(Service::Booting),
            retiring: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            polling: AtomicU32::new(0),
            deaf_since: AtomicU64::new(0),
            lanes: Lanes::new(lanes),
            standby_parked: AtomicBool::new(false),
            standby_in_charge: AtomicBool::new(false),
            standby: Mutex::new(None),
            channel,
            control: Mutex::new(crate::control::Control { graceful_timeout, on_reopen: hooks.reopen }),
            workers: AtomicUsize::new(settings.workers),
            sheet,
            in_lanes: InLanes::new(lanes),
            request_ids: RequestIds::new(),
            take_stack: hooks.stack,
            flush_log: hooks.flush_log,
            coroutines,
            settings,
            log,
        }))
    }

    /// The set that everything waits on, for drivers whose loop watches it.
    pub fn epoll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// What listener `n` is bound to.
    pub fn listener_address(&self, n: u32) -> Option<ListenerAddress> {
        lock(&self.listeners).address(n)
    }

    /// The next complete request, without waiting. Turns the reactor as far as that takes.
    pub fn next(self: &Arc<Self>, hands: &mut Hands) -> Next {
        loop {
            if self.finished.load(Ordering::Relaxed) {
                return Next::Finished;
            }
            if self.coroutines.is_some() && !self.lanes.any_free() {
                self.turn_without_coroutine(hands);
                return Next::Nothing;
            }
            // Requests that the standby reads while the lane is in the application may never come to an end.
            if self.coroutines.is_none() && self.is_deaf() {
                self.listen_again();
                self.harvest(hands, 0);
            }
            let mut table = lock(&self.table);
            if let Some(connection) = table.pop_request() {
                drop(table);
                if let Some(exchange) = self.lend(connection, hands) {
                    return Next::Exchange(exchange);
                }
                continue;
            }
            let Some((connection, happened)) = table.take_ready() else { return Next::Nothing };
            drop(table);
            if let Some(connection) = self.look_at(connection, happened, hands)
                && let Some(exchange) = self.lend(connection, hands)
            {
                return Next::Exchange(exchange);
            }
        }
    }

    /// Waits until a turn has something to do, and takes note of it. For a thread that holds no interpreter lock.
    pub fn wait(self: &Arc<Self>, hands: &mut Hands) {
        self.listen_again();
        self.polling.fetch_add(1, Ordering::SeqCst);
        let deadline = {
            let table = lock(&self.table);
            if table.has_work() || self.finished.load(Ordering::SeqCst) {
                drop(table);
                self.polling.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            table.next_deadline()
        };
        let mut timeout = self.timeout_until(deadline);
        if (self.flush_log)() {
            timeout = if timeout < 0 { FLUSH_LOG_EVERY } else { timeout.min(FLUSH_LOG_EVERY) };
        }
        self.harvest(hands, timeout);
        self.polling.fetch_sub(1, Ordering::SeqCst);
    }

    /// Milliseconds for epoll_wait until `deadline` or the end of the retirement, rounded up; -1 for ever.
    pub(crate) fn timeout_until(&self, deadline: Option<Instant>) -> i32 {
        let retirement = match *lock(&self.service) {
            Service::Retiring { deadline } => Some(deadline),
            Service::Booting | Service::Serving | Service::Stopped => None,
        };
        let offers = [self.handoff_rests_until(), self.offer_again_at()];
        let Some(at) = [deadline, retirement].into_iter().chain(offers).flatten().min() else { return -1 };
        let left = at.saturating_duration_since(Instant::now());
        i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
    }

    /// Whether a turn would find something without asking epoll.
    pub(crate) fn has_work(&self) -> bool {
        lock(&self.table).has_work()
    }

    pub(crate) fn has_requests(&self) -> bool {
        lock(&self.table).has_requests()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        lock(&self.table).next_deadline()
    }

    /// Asks epoll and notes what it says; accepts; obeys the arbiter.
    pub(crate) fn harvest(self: &Arc<Self>, hands: &mut Hands, timeout: i32) {
        let mut events = std::mem::take(&mut hands.events);
        let count = match sys::wait(self.epoll.0.as_fd(), &mut events, timeout) {
            Ok(count) => count,
            Err(error) => {
                slog::crit!(self.log, "epoll_wait failed; the worker ends"; event::FAILURE, "error" => %error);
                self.finish();
                0
            }
        };
        let (mut accept, mut obey, mut take_over) = (0_u64, false, false);
        let mut outboxes = Vec::new();
        if count > 0 {
            let mut table = lock(&self.table);
            let hung_up = |bits: i32| (bits & libc::EPOLLRDHUP != 0).then(Instant::now);
            for event in &events[..count] {
                let bits = event.events as i32;
                match Source::decode(event.u64) {
                    Source::Connection(token) => {
                        let happened = Happened {
                            readable: bits & (libc::EPOLLIN | libc::EPOLLRDHUP) != 0,
                            writable: bits & libc::EPOLLOUT != 0,
                            hung_up: hung_up(bits),
                            gone: bits & (libc::EPOLLHUP | libc::EPOLLERR) != 0,
                            ..Happened::default()
                        };
                        table.note(token, happened);
                        if happened.writable && table.is_out(token) {
                            outboxes.push(token);
                        }
                    }
                    Source::Listener(n) => accept |= 1 << n.min(63),
                    Source::Channel => obey = true,
                    Source::Handoff => take_over = true,
                    Source::Kick => {
                        let _ = self.kick.read();
                        // The end is for everybody: whoever takes the kick passes it on, or another thread that is
                        // about to block would not hear of it. Taking comes first, so no kick is lost in between.
                        if self.finished.load(Ordering::SeqCst) {
                            self.kick();
                        }
                    }
                }
            }
        }
        hands.events = events;
        for token in outboxes {
            self.flush_for_lane(token);
        }
        if obey {
            self.obey();
        }
        // What the arbiter said may have been the last word: a worker that leaves takes nothing new.
        if take_over {
            self.take_turn_at_handoff();
        }
        if accept != 0 && self.accepts() {
            self.accept(accept);
        }
        self.end_rest_of_handoff();
        self.offer_leavers_again();
        self.expire();
    }

    /// Deals with every deadline that has passed.
    pub(crate) fn expire(self: &Arc<Self>) {
        let now = Instant::now();
        let out = {
            let mut table = lock(&self.table);
            if table.next_deadline().is_none_or(|at| at > now) { Vec::new() } else { table.expire(now) }
        };
        for token in out {
            self.expire_for_lane(token);
        }
        let over = matches!(*lock(&self.service), Service::Retiring { deadline } if deadline <= now);
        if over {
            // What nobody has taken belongs to those who are named.
            while self.take_last() {}
            // Those in lanes are named by the standby, once it is sure that they do not come back.
            for lost in lock(&self.table).unfinished(now) {
                slog::warn!(self.log, "{} when graceful_timeout was over", lost; event::REQUEST_CUT);
            }
            self.finish();
        }
    }

    /// Looks at a connection that something has happened to, and puts it back, ends it, or gives it for its request.
    fn look_at(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        happened: Happened,
        hands: &mut Hands,
    ) -> Option<Box<Connection>> {
        let verdict = connection.advance(happened, hands, &self.surroundings());
        self.follow(verdict, connection)
    }

    pub(crate) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            settings: &self.settings,
            log: &self.log,
            sheet: &self.sheet,
            retiring: self.retiring.load(Ordering::Relaxed),
            alone: self.retires_alone(),
            now: Instant::now(),
        }
    }

    pub(crate) fn follow(self: &Arc<Self>, verdict: Verdict, connection: Box<Connection>) -> Option<Box<Connection>> {
        match verdict {
            Verdict::Keep => {
                self.put_back(connection);
                None
            }
            Verdict::Request => Some(connection),
            Verdict::Leave => {
                self.leave_with(connection);
                None
            }
            Verdict::End => {
                self.end(connection);
                None
            }
        }
    }

    /// A place in the table for a connection that is about to be admitted.
    pub(crate) fn new_token(&self) -> Token {
        lock(&self.table).enter()
    }

    /// The number of the listener with this address, even if it is none of ours.
    pub(crate) fn listener_number(&self, address: ListenerAddress) -> u32 {
        lock(&self.listeners).number(address)
    }

    pub(crate) fn put_back(self: &Arc<Self>, connection: Box<Connection>) {
        let deadline = connection.deadline();
        self.watch_for_room(&connection);
        let ready = lock(&self.table).put_back(connection, deadline);
        if ready {
            self.kick_pollers();
        }
    }

    /// A response that waits for the socket needs EPOLLOUT, which is asked for only then: on unix sockets each read of
    /// the peer would otherwise be an event.
    fn watch_for_room(&self, connection: &Connection) {
        if connection.outbox.is_some() {
            self.want_room(connection.token, connection.socket.as_fd());
        }
    }

    pub(crate) fn want_room(&self, token: Token, socket: BorrowedFd<'_>) {
        let events = CONNECTION_EVENTS | libc::EPOLLOUT;
        if let Err(error) =
            sys::control(self.epoll.0.as_fd(), libc::EPOLL_CTL_MOD, socket, events, Source::Connection(token))
        {
            slog::error!(self.log, "epoll_ctl failed"; event::FAILURE, "error" => %error);
        }
    }

    pub(crate) fn end(self: &Arc<Self>, connection: Box<Connection>) {
        let left = {
            let mut table = lock(&self.table);
            table.leave(connection.token);
            table.len()
        };
        sys::end(self.epoll.0.as_fd(), connection.socket.as_fd());
        drop(connection);
        self.sheet.count(Counter::Closed);
        if left == 0 {
            self.finish_if_retired();
        }
    }

    /// Flushes what a lane could not send, while the lane is in the application.
    fn flush_for_lane(&self, token: Token) {
        let Some(outbox) = lock(&self.table).outbox(token) else { return };
        let (flushed, timeout) = {
            let mut outbox = lock(&outbox);
            let before = outbox.progress;
            let flushed = outbox.flush_own();
            (flushed, outbox.progress != before)
        };
        match flushed {
            Flushed::All => lock(&self.table).arm(token, None),
            Flushed::Blocked if timeout => self.arm_send_deadline(token),
            // The lane sees the same error with its next write.
            Flushed::Blocked | Flushed::Failed(_) => {}
        }
    }

    pub(crate) fn arm_send_deadline(&self, token: Token) {
        if !self.settings.send_timeout.is_zero() {
            lock(&self.table).arm(token, Some(Instant::now() + self.settings.send_timeout));
        }
    }

    /// A client that has not read for `send_timeout`, while the lane is still making the response: the socket is shut
    /// down, and the lane's next write fails.
    fn expire_for_lane(&self, token: Token) {
        let Some(outbox) = lock(&self.table).outbox(token) else { return };
        let outbox = lock(&outbox);
        if !outbox.is_empty() {
            slog::info!(self.log, "a client stopped reading its response and was disconnected"; event::REQUEST_ABANDONED,
                "setting" => "send_timeout");
            self.sheet.count(Counter::SendTimeouts);
            outbox.shut_down();
        }
    }

    pub(crate) fn lend_outbox(&self, token: Token, outbox: &crate::table::SharedOutbox) {
        lock(&self.table).lend_outbox(token, outbox);
    }

    /// See [`Table::listen`].
    pub(crate) fn listen_for(&self, token: Token, lane: usize) {
        lock(&self.table).listen(token, lane);
    }

    pub(crate) fn happened(&self, token: Token) -> Happened {
        lock(&self.table).happened(token)
    }

    /// Gives a connection whose request is complete to the lane that asked, unless it needs none.
    fn lend(self: &Arc<Self>, connection: Box<Connection>, hands: &mut Hands) -> Option<Box<Exchange>> {
        let waited = connection.waited();
        if self.has_left(&connection, waited) {
            slog::debug!(self.log, "a client left while its request waited for a lane";
                "remote_addr" => connection.peer_text());
            self.end(connection);
            return None;
        }
        if !self.settings.queue_timeout.is_zero() && waited > self.settings.queue_timeout {
            self.refuse_late(connection, hands);
            return None;
        }
        Some(Box::new(Exchange::new(Arc::clone(self), connection, waited)))
    }

    /// Turns the reactor for a thread that never enters the application: complete requests queue for the lanes.
    pub(crate) fn turn_without_lane(self: &Arc<Self>, hands: &mut Hands) {
        loop {
            let Some((connection, happened)) = lock(&self.table).take_ready() else { return };
            if let Some(connection) = self.look_at(connection, happened, hands) {
                self.queue_request(connection);
            }
        }
    }

    /// Events that were taken from the table and not dealt with.
    pub(crate) fn note_again(&self, token: Token, happened: Happened) {
        lock(&self.table).note(token, happened);
    }

    /// As [`Reactor::turn_without_lane`] does.
    pub(crate) fn queue_request(&self, connection: Box<Connection>) {
        lock(&self.table).push_request(connection);
        self.kick_pollers();
    }

    /// Wakes threads that are blocked in epoll_wait, if there are any: see the lost wake-up above.
    pub(crate) fn kick_pollers(&self) {
        if let Some(coroutines) = &self.coroutines {
            coroutines.ring();
            return;
        }
        if self.polling.load(Ordering::SeqCst) > 0 {
            self.kick();
        }
    }

    pub(crate) fn kick(&self) {
        // A counter that is full is as good as one that was written to.
        let _ = self.kick.write(1);
    }

    /// A connection of the worker's own, as if it had come to the first listener: what is written to the stream is asked of
    /// the application, whatever drives the lanes.
    ///
    /// # Errors
    /// No fd is left.
    pub fn connect_within(self: &Arc<Self>) -> io::Result<UnixStream> {
        let (client, server) = UnixStream::pair()?;
        server.set_nonblocking(true)?;
        let peer = match self.listener_address(0) {
            Some(ListenerAddress::Tcp { .. }) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            Some(ListenerAddress::Unix { .. }) | None => None,
        };
        let _arrives = lock(&self.arrival);
        self.enter(server.into(), peer, 0);
        Ok(client)
    }

    /// Where the lanes are that are in the application.
    pub fn stacks(&self) -> Vec<String> {
        let running = self.sheet.lanes().iter().filter_map(LaneRecord::look);
        running.filter_map(|running| (self.take_stack)(running.glance.thread)).collect()
    }

    /// Puts a connection that was just accepted into the table and the set.
    pub(crate) fn enter(self: &Arc<Self>, socket: OwnedFd, peer: Option<std::net::SocketAddr>, listener: u32) {
        if peer.is_some() {
            sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        }
        self.sheet.count(Counter::Accepted);
        let token = self.new_token();
        let connection = Connection::new(token, socket, peer, listener, &self.settings, Instant::now());
        self.admit(Box::new(connection), Happened::default());
    }

    /// Puts a connection into the set and the table, in this order: as long as it is out, its events are kept for it, and
    /// nobody else can have it if the set does not take it.
    pub(crate) fn admit(self: &Arc<Self>, connection: Box<Connection>, happened: Happened) {
        let source = Source::Connection(connection.token);
        let socket = connection.socket.as_fd();
        if let Err(error) = sys::control(self.epoll_fd(), libc::EPOLL_CTL_ADD, socket, CONNECTION_EVENTS, source) {
            slog::error!(self.log, "a connection could not be watched and was closed"; event::FAILURE, "error" => %error);
            lock(&self.table).leave(connection.token);
            self.sheet.count(Counter::Closed);
            return;
        }
        let (token, deadline) = (connection.token, connection.deadline());
        let ready = {
            let mut table = lock(&self.table);
            let ready = table.put_back(connection, deadline);
            if happened != Happened::default() {
                table.note(token, happened);
            }
            ready
        };
        // Its first event was taken by another thread, which had nobody to tell.
        if ready {
            self.kick_pollers();
        }
    }

    /// Whether nobody has looked at the listeners for as long as a lane that is in one call would let them wait.
    fn is_deaf(&self) -> bool {
        let since = self.deaf_since.load(Ordering::Relaxed);
        since != 0 && monotonic_us().saturating_sub(since) >= ACCEPT_EVERY.as_micros() as u64
    }

    pub(crate) fn review_all(&self) {
        lock(&self.table).review_all();
        self.kick_pollers();
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.table).len()
    }

    /// Lane `lane` exists, and is the calling thread.
    pub fn join(&self, lane: usize) {
        self.lanes.join(lane);
        if let Some(record) = self.sheet.lane(lane) {
            record.join();
        }
    }

    /// The leading lane enters the application with a request.
    pub fn enter_application(&self, lane: usize, exchange: &mut Exchange) -> Instant {
        self.begin_in_lane(lane, exchange);
        self.lanes.enter();
        self.have_standby_watch();
        exchange.started()
    }

    /// The leader is kept from now on.
    fn have_standby_watch(&self) {
        if self.standby_parked.load(Ordering::SeqCst) {
            self.wake_standby();
        }
    }

    /// The leading lane has polled and is about to wait for the interpreter lock. The next that it does here is
    /// [`Reactor::got_lock`].
    pub fn ask_for_lock(&self) {
        self.lanes.ask_for_lock();
        self.have_standby_watch();
    }

    /// The leading lane has the interpreter lock that it has asked for.
    pub fn got_lock(&self) {
        self.lanes.got_lock();
        self.relieve_standby();
    }

    /// A lane turns the reactor again.
    fn relieve_standby(&self) {
        if self.standby_in_charge.load(Ordering::SeqCst) {
            self.kick();
        }
    }

    /// From now on scoreboard and timeouts find the request in its lane.
    pub(crate) fn begin_in_lane(&self, lane: usize, exchange: &mut Exchange) {
        if let Some(record) = self.sheet.lane(lane) {
            let (head, bytes) = (exchange.head(), exchange.bytes());
            let since = self.sheet.microseconds(exchange.started());
            let id = exchange.request_id().unwrap_or_default();
            record.begin(since, head.method_span.of(bytes), head.target.of(bytes), id);
        }
        exchange.set_lane(lane);
        if !self.settings.timeout.is_zero() {
            self.in_lanes.set(lane, exchange.in_lane());
        }
    }

    /// Lane `lane` is back from the application, which it entered at `since`.
    pub fn leave_application(self: &Arc<Self>, lane: usize, since: Instant) -> Role {
        if let Some(record) = self.sheet.lane(lane) {
            record.end();
        }
        if !self.settings.timeout.is_zero() {
            self.in_lanes.set(lane, None);
        }
        let role = self.lanes.leave(lane, since.elapsed());
        self.finish_if_retired();
        if role == Role::Lead {
            self.relieve_standby();
        }
        role
    }

    /// As [`Lanes::try_lead`]; a standby that is in charge leaves at once.
    pub fn try_lead(&self, lane: usize, before: (u64, Instant)) -> bool {
        let leads = self.lanes.try_lead(lane, before);
        if leads {
            self.relieve_standby();
        }
        leads
    }

    /// Waits for a short time like [`Reactor::wait`], for a lane that keeps the interpreter lock meanwhile: see the
    /// threads driver for when that pays.
    /// Whether something came.
    pub fn wait_briefly(self: &Arc<Self>, hands: &mut Hands, time: Duration) -> bool {
        self.listen_again();
        let until = Instant::now() + time;
        loop {
            self.harvest(hands, 0);
            if lock(&self.table).has_work() || self.is_finished() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Whether the worker is done.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[path = "reactor_tests.rs"]
mod tests;

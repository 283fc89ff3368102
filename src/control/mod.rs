//! The control socket: where `rgunicornctl` is answered.
//!
//! Owns the socket, its clients and the bytes between; the language is [`rgunicorn_protocol::control`]. Knows nothing of
//! workers: what to answer is the supervisor's affair. Invariants: nothing here ever waits; clients, lines and answers
//! are bounded, so nobody who may connect can make the arbiter grow; a client of another user is not heard, unless
//! `control_socket_mode` lets others in.

mod carried;
mod place;

pub(crate) use carried::Carried;

use crate::settings::Settings;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use place::{Place, Surroundings};
use rgunicorn_log::event;
use rgunicorn_protocol::control::{Answer, MAX_ORDER, Order};
use slog::{Logger, debug, info, warn};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Clients at once that wait for nothing. One more displaces the one that has been silent for longest, or waits until one of
/// them has.
const MOST_CLIENTS: usize = 16;
/// Clients at once that wait for the end of what they have ordered: they keep nobody else out.
const MOST_WAITING: usize = 128;
/// A client may be silent for so long before another one displaces it: many that come at once all have their say.
const SILENT: Duration = Duration::from_millis(250);
/// How soon there may be room for a client that waits.
const ROOM_AGAIN: Duration = Duration::from_millis(50);
/// Bytes of answers that a client has not read; one that leaves more is dropped.
const MOST_UNREAD: usize = 16 << 20;
/// How soon accepting is tried again when no fd was left.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// A client, for as long as it is connected. 0 names the socket itself.
pub(crate) type ClientId = u64;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// An order of it is not answered yet; the next one waits.
    waits: bool,
    /// It has said all that it has to say.
    ended: bool,
    /// It is closed when its output is out.
    leaves: bool,
    /// What epoll watches; nothing: not in the set.
    interest: EpollFlags,
    heard: Instant,
}

impl Client {
    fn has_line(&self) -> bool {
        self.input.contains(&b'\n')
    }

    /// What is to be watched. A peer that has closed is not: its end would be reported for ever.
    fn wanted(&self) -> EpollFlags {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, !self.ended);
        wanted.set(EpollFlags::EPOLLOUT, !self.output.is_empty());
        wanted
    }

    fn watch(&mut self, epoll: &Epoll, data: u64) -> Result<(), Errno> {
        let wanted = self.wanted();
        if wanted == self.interest {
            return Ok(());
        }
        if wanted.is_empty() {
            epoll.delete(&self.stream)?;
        } else if self.interest.is_empty() {
            epoll.add(&self.stream, EpollEvent::new(wanted, data))?;
        } else {
            epoll.modify(&self.stream, &mut EpollEvent::new(wanted, data))?;
        }
        self.interest = wanted;
        Ok(())
    }
}

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Control {
    place: Option<Place>,
    /// The mode lets others than root and us connect.
    shared: bool,
    clients: BTreeMap<ClientId, Client>,
    latest: ClientId,
    /// No fd was left, or no room; the socket is not watched until then.
    paused: Option<Instant>,
}

impl Control {
    /// Makes the socket where the settings or the environment want it. Without one the instance serves all the same.
    pub(crate) fn open(settings: &Settings, log: &Logger) -> Control {
        if settings.control_socket_disable {
            return Control::default();
        }
        let shared = settings.control_socket_mode & 0o066 != 0;
        match Place::find(settings, &Surroundings::of_this_process()) {
            Ok(place) => {
                debug!(log, "The control socket is {}", place.path().display());
                Control { place: Some(place), shared, ..Control::default() }
            }
            Err(reason) if settings.control_socket.is_some() => {
                warn!(log, "There is no control socket for rgunicornctl: {}", reason; event::CONTROL_UNAVAILABLE);
                Control::default()
            }
            Err(reason) => {
                info!(log, "There is no control socket for rgunicornctl ({}); control_socket = PATH makes one", reason;
                    event::CONTROL_UNAVAILABLE);
                Control::default()
            }
        }
    }

    /// Has the socket watched; `data` is what epoll says for it.
    pub(crate) fn watch(&self, epoll: &Epoll, data: u64) {
        if let Some(place) = &self.place {
            // It fails only where the kernel has no memory left; then nobody is answered.
            let _ = epoll.add(&place.listener, EpollEvent::new(EpollFlags::EPOLLIN, data));
        }
    }

    /// Makes the socket anew if its file is gone, as after somebody has cleared its folder.
    pub(crate) fn restore(&mut self, epoll: &Epoll, data: u64, log: &Logger) {
        let Some(place) = self.place.as_ref().filter(|place| !place.is_there()) else { return };
        match place.again() {
            Ok(again) => {
                info!(log, "The control socket {} was gone and is made anew", again.path().display(); event::LISTENING);
                let _ = epoll.delete(&place.listener);
                (self.place, self.paused) = (Some(again), None);
                self.watch(epoll, data);
            }
            Err(reason) => {
                warn!(log, "The control socket {} is gone and cannot be made anew: {}", place.path().display(), reason;
                    event::CONTROL_UNAVAILABLE);
            }
        }
    }

    /// Something happened on the socket (0) or to a client; `data` gives the epoll data of a client. The orders that
    /// have come.
    pub(crate) fn handle_ready(
        &mut self,
        id: ClientId,
        epoll: &Epoll,
        data: impl Fn(ClientId) -> u64,
        log: &Logger,
    ) -> Vec<(ClientId, Order)> {
        if id == 0 {
            self.accept(epoll, data, log);
            return Vec::new();
        }
        self.read(id);
        self.poll_orders(id, epoll, data)
    }

    /// The next order of a client whose former one is answered. To be called after each [`Control::answer`], too.
    pub(crate) fn poll_orders(
        &mut self,
        id: ClientId,
        epoll: &Epoll,
        data: impl Fn(ClientId) -> u64,
    ) -> Vec<(ClientId, Order)> {
        let Some(client) = self.clients.get_mut(&id).filter(|client| !client.waits && !client.leaves) else {
            return Vec::new();
        };
        let Some(end) = client.input.iter().position(|byte| *byte == b'\n') else {
            if client.input.len() > MAX_ORDER {
                self.refuse(id, "an order is longer than 4096 bytes", epoll, data);
            } else {
                self.flush(id, epoll, data);
            }
            return Vec::new();
        };
        let line: Vec<u8> = client.input.drain(..=end).collect();
        match serde_json::from_slice(&line) {
            Ok(order) => {
                client.waits = true;
                vec![(id, order)]
            }
            Err(error) => {
                self.refuse(id, &format!("this is no order that rgunicorn understands: {error}"), epoll, data);
                Vec::new()
            }
        }
    }

    /// Says something to a client. All but [`Answer::Progress`] end its order.
    pub(crate) fn answer(&mut self, id: ClientId, answer: &Answer, epoll: &Epoll, data: impl Fn(ClientId) -> u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if !matches!(answer, Answer::Progress { .. }) {
            client.waits = false;
        }
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            client.output.append(&mut line);
        }
        self.flush(id, epoll, data);
    }

    /// The process that a client is, as it connected.
    pub(crate) fn pid_of(&self, id: ClientId) -> Option<i32> {
        let client = self.clients.get(&id)?;
        getsockopt(&client.stream, PeerCredentials).ok().map(|peer| peer.pid())
    }

    /// Watches the socket again after a lack of fds or of room.
    pub(crate) fn poll_again(&mut self, epoll: &Epoll, data: u64, now: Instant) {
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
            self.watch(epoll, data);
        }
    }

    /// When [`Control::poll_again`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.paused
    }

    fn refuse(&mut self, id: ClientId, text: &str, epoll: &Epoll, data: impl Fn(ClientId) -> u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.leaves = true;
        }
        self.answer(id, &Answer::Failed { text: text.to_owned() }, epoll, data);
    }

    /// Whether one more client can be dealt with now, even if it is only told to go.
    fn has_room(&self) -> bool {
        let others: Vec<_> = self.clients.values().filter(|client| !client.waits).collect();
        others.len() < MOST_CLIENTS || others.iter().any(|client| client.heard.elapsed() >= SILENT)
    }

    fn accept(&mut self, epoll: &Epoll, data: impl Fn(ClientId) -> u64, log: &Logger) {
        while let Some(place) = &self.place {
            if !self.has_room() {
                let _ = epoll.delete(&place.listener);
                self.paused = Some(Instant::now() + ROOM_AGAIN);
                return;
            }
            let stream = match place.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // The connection stays in the queue and would be reported for ever.
                    warn!(log, "The control socket cannot accept for now: {}", error; event::FAILURE);
                    let _ = epoll.delete(&place.listener);
                    self.paused = Some(Instant::now() + ACCEPT_AGAIN);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if let Some(uid) = self.stranger(&stream) {
                info!(log, "A process of user {} was not heard on the control socket", uid; event::CONTROL_REFUSED);
                let text = format!("user {uid} may not control this instance; root and user {} may", geteuid());
                say_and_close(stream, &text);
                continue;
            }
            let waiting = self.clients.values().filter(|client| client.waits).count();
            if self.clients.len() - waiting >= MOST_CLIENTS {
                self.displace(epoll);
            }
            if waiting >= MOST_WAITING {
                say_and_close(stream, "too many clients wait for their answers; try again later");
                continue;
            }
            self.latest += 1;
            let id = self.latest;
            let mut client = Client {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                waits: false,
                ended: false,
                leaves: false,
                interest: EpollFlags::empty(),
                heard: Instant::now(),
            };
            if client.watch(epoll, data(id)).is_ok() {
                self.clients.insert(id, client);
            }
        }
    }

    /// The user of a peer that is not heard.
    fn stranger(&self, stream: &UnixStream) -> Option<u32> {
        if self.shared {
            return None;
        }
        match getsockopt(&stream.as_fd(), PeerCredentials) {
            Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => None,
            Ok(peer) => Some(peer.uid()),
            Err(_) => Some(u32::MAX),
        }
    }

    /// Drops the client that has been silent for longest and waits for nothing.
    fn displace(&mut self, epoll: &Epoll) {
        let silent = self.clients.iter().filter(|(_, client)| !client.waits).min_by_key(|(_, client)| client.heard);
        if let Some(id) = silent.map(|(id, _)| *id) {
            self.drop_client(id, epoll);
        }
    }

    fn drop_client(&mut self, id: ClientId, epoll: &Epoll) {
        if let Some(client) = self.clients.remove(&id)
            && !client.interest.is_empty()
        {
            let _ = epoll.delete(&client.stream);
        }
    }

    fn read(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.heard = Instant::now();
        let mut bytes = [0; MAX_ORDER];
        // One read a turn; what is left is reported again.
        match client.stream.read(&mut bytes) {
            Ok(0) => client.ended = true,
            Ok(_) if client.input.len() > 4 * MAX_ORDER => client.leaves = true,
            Ok(n) => client.input.extend_from_slice(&bytes[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => {
                client.output.clear();
                client.ended = true;
                client.leaves = true;
            }
        }
    }

    fn flush(&mut self, id: ClientId, epoll: &Epoll, data: impl Fn(ClientId) -> u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let mut sent = 0;
        let failed = loop {
            if sent == client.output.len() {
                break false;
            }
            match client.stream.write(&client.output[sent..]) {
                Ok(0) => break true,
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(_) => break true,
            }
        };
        client.output.drain(..sent);
        let over = client.leaves || (client.ended && !client.waits && !client.has_line());
        let unread = client.output.len();
        if failed || unread > MOST_UNREAD || (over && unread == 0) || client.watch(epoll, data(id)).is_err() {
            self.drop_client(id, epoll);
        }
    }
}

/// A last word to somebody who does not become a client; lost if it does not fit the socket's buffer.
fn say_and_close(mut stream: UnixStream, text: &str) {
    if let Ok(mut line) = serde_json::to_vec(&Answer::Failed { text: text.to_owned() }) {
        line.push(b'\n');
        let _ = stream.write(&line);
    }
}

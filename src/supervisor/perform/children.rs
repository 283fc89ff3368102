//! Molds and workers from the side of the one who performs: made, written to, heard, reaped, forgotten.
//!
//! Owns the books of their channels, pidfds and sheets ([`Peer`]), and reads what they say. Decides nothing: what
//! it finds becomes events. Invariant: what a process said before its end is delivered before its end.

use super::super::event::{Event, Exit, Findings, InFlight, Serial};
use super::super::evidence;
use super::super::output::Output;
use super::super::reap::{self, Pause, PidFd};
use super::super::record::Record;
use super::super::spawn;
use super::super::token::Token;
use super::{Peer, Performer, is_gone, watch};
use nix::sys::epoll::EpollFlags;
use rgunicorn_log::event;
use rgunicorn_protocol::scoreboard::Owner;
use rgunicorn_protocol::{Channel, FromWorker, Occasion, Received, Sheet, ToWorker};
use slog::{debug, warn};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

/// Messages taken from one channel per turn of the loop, so that one that floods starves nobody.
const TURN: usize = 64;

impl Performer<'_> {
    /// Reads up to a turn's worth of messages.
    pub(in crate::supervisor) fn handle_channel(&mut self, serial: Serial) {
        self.read(serial, TURN);
    }

    /// Reaps every child that has ended. Of molds and workers the last words are delivered first.
    pub(in crate::supervisor) fn handle_deaths(&mut self) {
        while let Some(pid) = reap::poll_dead() {
            let known = self.find(pid);
            if let Some(serial) = known {
                self.read(serial, usize::MAX);
            }
            self.end_output(pid, known);
            let Some(exit) = reap::reap(pid) else { return };
            match known {
                Some(serial) => {
                    let findings = self.find_remains(serial, exit);
                    self.forget(serial);
                    self.events.push_back(Event::Exited { from: serial, exit, findings });
                }
                None if self.conclude_check(pid, exit) => {}
                None => debug!(self.logger, "An orphan (pid {}) {}", pid, exit),
            }
        }
    }

    /// Notices every child that was stopped or continued.
    pub(in crate::supervisor) fn handle_pauses(&mut self) {
        while let Some(pause) = reap::poll_paused() {
            match pause {
                Pause::Stopped { pid, signal } => {
                    if let Some(from) = self.find(pid) {
                        self.events.push_back(Event::Halted { from, signal });
                    }
                }
                Pause::Continued { pid } => {
                    if let Some(from) = self.find(pid) {
                        self.events.push_back(Event::Continued { from });
                    }
                }
            }
        }
    }

    /// What a process that has died was doing, and whether the kernel says why it died.
    fn find_remains(&mut self, serial: Serial, exit: Exit) -> Findings {
        let killed = matches!(exit, Exit::Signal { signal: libc::SIGKILL, .. });
        Findings {
            requests: self.requests_of(serial),
            connections: self.connections_of(serial),
            out_of_memory: killed && self.oom_kills.has_grown(),
            threads: Vec::new(),
        }
    }

    /// A process that did not boot in time has left its stack where we can read it.
    pub(super) fn add_stack(&self, record: &mut Record) {
        let (Record::NotStarted { tags, fault }
        | Record::ReloadFailed { tags, fault, .. }
        | Record::BootFailed { tags, fault, .. }) = record
        else {
            return;
        };
        if fault.kind.is_none() && fault.traceback.is_none() {
            let peer = tags.pid.and_then(|pid| self.serial_of(pid)).and_then(|serial| self.peers.get(&serial));
            fault.traceback = peer.and_then(|peer| peer.stack.as_ref()).and_then(evidence::stack);
        }
    }

    /// What a process that is about to be killed does.
    pub(super) fn examine(&self, pid: i32) -> Findings {
        let serial = self.serial_of(pid);
        let requests = serial.map(|serial| self.requests_of(serial)).unwrap_or_default();
        let connections = serial.map(|serial| self.connections_of(serial)).unwrap_or_default();
        Findings { requests, connections, out_of_memory: false, threads: evidence::threads(pid) }
    }

    fn connections_of(&self, serial: Serial) -> u64 {
        self.sheet(serial).map(|sheet| sheet.tally().connections()).unwrap_or_default()
    }

    fn requests_of(&self, serial: Serial) -> Vec<InFlight> {
        let sheet = self.peers.get(&serial).and_then(|peer| peer.sheet.as_ref());
        sheet.map(evidence::requests).unwrap_or_default()
    }

    /// Whose pid this is. A worker may not have been heard yet, so those are listened to first.
    fn find(&mut self, pid: i32) -> Option<Serial> {
        if let Some(known) = self.serial_of(pid) {
            return Some(known);
        }
        let silent: Vec<Serial> =
            self.peers.iter().filter(|(_, peer)| peer.pid.is_none()).map(|(serial, _)| *serial).collect();
        for serial in silent {
            self.read(serial, usize::MAX);
        }
        self.serial_of(pid)
    }

    pub(super) fn serial_of(&self, pid: i32) -> Option<Serial> {
        self.peers.iter().find(|(_, peer)| peer.pid == Some(pid)).map(|(serial, _)| *serial)
    }

    fn read(&mut self, from: Serial, most: usize) {
        for _ in 0..most {
            let Some(peer) = self.peers.get_mut(&from) else { return };
            if peer.ended {
                return;
            }
            match peer.channel.receive::<FromWorker>() {
                Ok(Received::Message(message, mut fds)) => {
                    if let FromWorker::Importing = message {
                        peer.stack = fds.pop().map(File::from);
                    } else if let FromWorker::Ready { .. } = message {
                        peer.stack = None;
                    } else if let FromWorker::Hello { pid, .. } = message {
                        self.meet(from, pid);
                    }
                    self.events.push_back(Event::Message { from, message });
                }
                Ok(Received::Unreadable(what)) => self.events.push_back(Event::Garbage { from, what }),
                Ok(Received::Empty) => return,
                Ok(Received::Ended) => return self.end(from),
                Err(error) => {
                    warn!(self.logger, "The channel of {} cannot be read: {}", from, error; event::WORKER_ODD);
                    return self.end(from);
                }
            }
        }
    }

    fn end(&mut self, from: Serial) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.ended = true;
        // An end stays readable; without this the loop would spin until the process is gone.
        let _ = self.epoll.delete(&peer.channel);
        self.events.push_back(Event::Ended { from });
    }

    /// A worker says which process it is.
    fn meet(&mut self, serial: Serial, pid: i32) {
        let Some(peer) = self.peers.get_mut(&serial) else { return };
        if peer.pid.is_some() || pid <= 1 {
            return;
        }
        peer.pid = Some(pid);
        if let Some(output) = &mut self.output {
            output.name(serial, pid);
        }
        match PidFd::open(pid) {
            Ok(process) => {
                watch(&self.epoll, &process, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Process(serial));
                peer.process = Some(process);
            }
            Err(error) => {
                warn!(self.logger, "Worker {} (pid {}) cannot be watched: {}", serial, pid, error; event::FAILURE)
            }
        }
    }

    pub(super) fn spawn_mold(&mut self, generation: u32, mold: Serial) -> Result<i32, String> {
        let prepared = self.generations.get(&generation).ok_or("its generation was not prepared")?;
        let settings = Rc::clone(&prepared.settings);
        let listeners = prepared.listeners.clone();
        let (ours, theirs) = Channel::pair().map_err(|error| format!("no channel can be made: {error}"))?;
        let output = self.output.as_ref().map(Output::lend);
        let pid = spawn::spawn_mold(&settings, &prepared.module, theirs, output)?.as_raw();
        let process = match PidFd::open(pid) {
            Ok(process) => {
                watch(&self.epoll, &process, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Process(mold));
                Some(process)
            }
            Err(error) => {
                warn!(self.logger, "The mold (pid {}) cannot be watched: {}", pid, error; event::FAILURE);
                None
            }
        };
        watch(&self.epoll, &ours, EpollFlags::EPOLLIN, Token::Channel(mold));
        self.peers.insert(
            mold,
            Peer {
                channel: ours,
                ended: false,
                pid: Some(pid),
                slot: None,
                process,
                generation,
                sheet: None,
                stack: None,
            },
        );

        let addresses = listeners.iter().map(|listener| listener.address.clone()).collect();
        let mut configuration = settings.worker_settings(generation, addresses);
        configuration.handoff = true;
        let relayed = output.map(|(_, streams)| streams).unwrap_or_default();
        configuration.log.stdout_is_relayed = relayed.stdout;
        configuration.log.stderr_is_relayed = relayed.stderr;
        configuration.parks = self.store.is_available();
        configuration.scoreboard = self.scoreboard.is_some();
        let lent: Vec<BorrowedFd<'_>> = listeners
            .iter()
            .map(|listener| listener.as_fd())
            .chain([self.handoff.0.as_fd(), self.handoff.1.as_fd()])
            .chain(self.scoreboard.as_ref().map(AsFd::as_fd))
            .collect();
        let message = ToWorker::Configure(Box::new(configuration));
        match self.peers.get(&mold).map(|peer| peer.channel.send(&message, &lent)) {
            None | Some(Ok(())) => {}
            // It is gone already, or could not execute: its exit or its own word of it follows.
            Some(Err(error)) if is_gone(&error) => {}
            Some(Err(error)) => {
                // Without its settings the mold would wait for ever. It ends when its channel does.
                return Err(format!("the settings (with env_file and raw_env) cannot be told to the mold: {error}"));
            }
        }
        Ok(pid)
    }

    pub(super) fn fork(&mut self, mold: Serial, worker: Serial, slot: u32, occasion: Occasion) -> Result<(), String> {
        let (ours, theirs) = Channel::pair().map_err(|error| format!("no channel can be made: {error}"))?;
        watch(&self.epoll, &ours, EpollFlags::EPOLLIN, Token::Channel(worker));
        let generation = self.peers.get(&mold).map_or(0, |mold| mold.generation);
        let sheet = self.issue_sheet(Owner { worker: worker.0, generation, slot });
        let at = sheet.as_ref().map(Sheet::at);
        self.peers.insert(
            worker,
            Peer {
                channel: ours,
                ended: false,
                pid: None,
                slot: Some(slot),
                process: None,
                generation,
                sheet,
                stack: None,
            },
        );
        let printed = self.lend_output(worker, generation, slot);
        let fds: Vec<BorrowedFd<'_>> = printed.iter().map(AsFd::as_fd).chain([theirs.as_fd()]).collect();
        self.send(mold, &ToWorker::Fork { slot, worker: worker.0, sheet: at, occasion }, &fds)
    }

    fn issue_sheet(&mut self, owner: Owner) -> Option<Sheet> {
        let lanes = self.generations.get(&owner.generation)?.settings.lanes();
        match self.scoreboard.as_mut()?.issue(lanes, owner) {
            Ok(sheet) => Some(sheet),
            Err(error) => {
                warn!(self.logger, "Worker {} is missing from the figures: {}", Serial(owner.worker), error;
                    event::FAILURE);
                None
            }
        }
    }

    /// Sends; that the receiver is gone or does not read is no error here but an event, now or soon.
    pub(super) fn send(&mut self, to: Serial, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let Some(peer) = self.peers.get(&to) else { return Ok(()) };
        match peer.channel.send(message, fds) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.events.push_back(Event::Unresponsive { to });
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn kill(&mut self, whom: Serial) {
        let Some(peer) = self.peers.get(&whom) else { return };
        let killed = match (&peer.process, peer.pid) {
            (Some(process), _) => process.kill(),
            (None, Some(pid)) => PidFd::open(pid).and_then(|process| process.kill()),
            (None, None) => Ok(()),
        };
        if let Err(error) = killed {
            warn!(self.logger, "Process {} ({:?}) could not be killed: {}", whom, peer.pid, error; event::FAILURE);
        }
    }

    pub(super) fn forget(&mut self, serial: Serial) {
        if let Some(mut peer) = self.peers.remove(&serial) {
            if let (Some(sheet), Some(scoreboard)) = (peer.sheet.take(), &mut self.scoreboard) {
                scoreboard.reclaim(sheet);
            }
            // Closing removes an fd from the epoll set only if no duplicate is open, and forks in flight may hold one.
            let _ = self.epoll.delete(&peer.channel);
            if let Some(process) = &peer.process {
                let _ = self.epoll.delete(process);
            }
        }
    }
}

//! What molds and workers print, from the side of the one who performs: sockets given, read and forgotten.
//!
//! Owns when each of the sockets of [`Output`] is read, and who a process is that only its pid is known of. Decides nothing.
//! Invariant: what a process has printed is recorded before its end is delivered.

use super::super::event::Serial;
use super::super::output::{self, MOLDS, Output, ROOM, TURN};
use super::super::token::Token;
use super::{Performer, watch};
use nix::sys::epoll::EpollFlags;
use rgunicorn_log::{Printer, Process};
use std::os::fd::OwnedFd;

/// How far up the tree of processes is looked for the mold that a process belongs to.
const GENERATIONS_OF_CHILDREN: usize = 8;

impl Performer<'_> {
    /// The standard output and error of a worker that is about to be forked; `None`: it goes on with its mold's.
    pub(super) fn lend_output(&mut self, worker: Serial, generation: u32, slot: u32) -> Option<OwnedFd> {
        let output = self.output.as_mut()?;
        // Without fds its lines are found by its pid, like those of a mold.
        let writer = output.admit(worker, generation, slot).ok()?;
        let reader = output.readers().find(|(serial, _)| *serial == worker)?.1;
        watch(&self.epoll, reader, EpollFlags::EPOLLIN, Token::Output(worker));
        Some(writer)
    }

    /// Records what has been printed there, a turn's worth of it.
    pub(in crate::supervisor) fn handle_output(&mut self, whose: Serial) {
        self.read_output(whose, TURN);
        self.with_output(|output, who| {
            if output.is_crowded() {
                output.end_all(who);
            }
        });
    }

    /// A child is about to be reaped: records its last words. `known`: it is this mold or worker.
    pub(super) fn end_output(&mut self, pid: i32, known: Option<Serial>) {
        self.read_output(MOLDS, TURN);
        if let Some(serial) = known {
            self.read_output(serial, 2 * ROOM);
        }
        self.with_output(|output, who| output.end(pid, who));
    }

    /// At the end: records everything that was printed.
    pub(in crate::supervisor) fn finish_output(&mut self) {
        if let Some(mut output) = self.output.take() {
            output.finish(&|pid| self.printer(pid), &self.log);
        }
    }

    fn read_output(&mut self, whose: Serial, most: usize) {
        if self.output.as_ref().is_some_and(|output| output.is_nameless(whose)) {
            // It may have been said already.
            self.handle_channel(whose);
        }
        let mut more = true;
        self.with_output(|output, who| more = output.read(whose, most, who));
        if !more && let Some(ended) = self.output.as_mut().and_then(|output| output.close(whose)) {
            // Closing removes an fd from the epoll set only if no duplicate is open, and forks in flight may hold one.
            let _ = self.epoll.delete(&ended);
        }
    }

    fn with_output(&mut self, act: impl FnOnce(&mut Output, &dyn Fn(i32) -> Printer)) {
        if let Some(mut output) = self.output.take() {
            act(&mut output, &|pid| self.printer(pid));
            self.output = Some(output);
        }
    }

    /// Which mold, or worker without a socket of its own, a process is or descends from.
    fn printer(&self, pid: i32) -> Printer {
        let mut ancestor = pid;
        for _ in 0..GENERATIONS_OF_CHILDREN {
            if let Some(peer) = self.serial_of(ancestor).and_then(|serial| self.peers.get(&serial)) {
                let generation = peer.generation;
                return match peer.slot {
                    Some(slot) => Printer { pid, process: Process::Worker { generation, slot }, worker: ancestor },
                    None => Printer { pid, process: Process::Mold { generation }, worker: 0 },
                };
            }
            match output::parent(ancestor) {
                Some(parent) => ancestor = parent,
                None => break,
            }
        }
        Printer { pid, process: Process::Arbiter, worker: 0 }
    }
}

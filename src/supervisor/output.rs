//! What the application prints, where systemd has connected us to the journal: lines become records.
//!
//! Owns the stream sockets that are the standard output and error of molds, workers and what they start, one for all
//! molds and one for each worker, and the lines that are not yet ended. systemd's own stream would do as well, but its
//! records do not say which worker of which generation has printed, and a journal that stands still would block the
//! application in `print`. Knows the processes only by what it is told. Invariants: whoever prints never waits for the
//! journal, and one process's line is never mixed with another's; a turn of the arbiter's loop reads a bounded amount.
//!
//! Races, and why they are none:
//! - Two processes write at once: the kernel attaches the writer's pid to what it writes (SO_PASSCRED, set before there is
//!   a writer) and never gives bytes of two writers in one recvmsg(2). Each pid has a line of its own that is begun.
//! - A child of a worker prints and is gone before its words are read (`subprocess.run`): nothing in /proc says any more
//!   whose it was, but the socket does, since it is the worker's own.
//! - A worker prints before its pid is known: its channel is read first.
//! - A process prints and dies: what it wrote stays in the socket. It is read before the death is dealt with, so the
//!   last words stand before the record of the death.
//! - A worker dies and what it has started prints on: its socket is read until nobody has it open.
//! - A pid is used again: a process's begun line is recorded when it is reaped, and only then can its pid be another's.
//!   One that somebody else reaps is the exception; its begun line is another's beginning then, in the same worker.
//! - The arbiter ends: it reads what there is, and its workers have ended before it. When it is killed, so are they
//!   (KillMode=mixed), and nobody is left who would print into a socket without a reader.

use super::event::Serial;
use crate::fds;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, setsockopt, socketpair,
    sockopt,
};
use rgunicorn_log::{JournalStreams, Log, OutputLog, Printer, Process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Bytes that are read in one turn of the loop.
pub(super) const TURN: usize = 256 << 10;
/// The longest line; a longer one becomes several records. journald's own default (LineMax=).
const LONGEST: usize = 48 << 10;
/// Processes whose begun lines are kept; beyond it all are recorded as they are.
const MOST_BEGUN: usize = 256;
/// Bytes that may wait to be read. The kernel grants what net.core.wmem_max allows, and may count them differently: at most
/// double.
pub(super) const ROOM: usize = 1 << 20;
/// The socket of all molds, where others have their worker's serial.
pub(super) const MOLDS: Serial = Serial(0);

/// See the module.
#[derive(Debug)]
pub(super) struct Output {
    molds: Stream,
    writer: OwnedFd,
    workers: BTreeMap<Serial, WorkerStream>,
    /// Which standard streams of the children are replaced.
    streams: JournalStreams,
    log: OutputLog,
}

/// A socket that is read, and the lines that are begun in it, by the process that began them.
#[derive(Debug)]
struct Stream {
    reader: OwnedFd,
    begun: BTreeMap<i32, Vec<u8>>,
}

#[derive(Debug)]
struct WorkerStream {
    stream: Stream,
    generation: u32,
    slot: u32,
    /// The worker's; 0 before it has said it.
    pid: i32,
}

/// [`Output`] on its way into the next program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Carried {
    reader: RawFd,
    writer: RawFd,
    begun: BTreeMap<i32, Vec<u8>>,
    #[serde(default)]
    workers: Vec<CarriedWorker>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct CarriedWorker {
    serial: Serial,
    reader: RawFd,
    begun: BTreeMap<i32, Vec<u8>>,
    generation: u32,
    slot: u32,
    pid: i32,
}

impl Carried {
    /// Every fd that must stay open.
    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> {
        [self.reader, self.writer].into_iter().chain(self.workers.iter().map(|worker| worker.reader))
    }
}

/// What a socket gave.
enum Got {
    Bytes(usize, i32),
    Nothing,
    /// Nobody can write into it any more.
    End,
}

impl Stream {
    fn pair() -> io::Result<(Stream, OwnedFd)> {
        let (reader, writer) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&reader, sockopt::PassCred, &true)?;
        // With less room a process that prints much waits for the arbiter a little earlier.
        let _ = setsockopt(&writer, sockopt::SndBuf, &ROOM);
        Ok((Stream { reader, begun: BTreeMap::new() }, writer))
    }

    /// Reads up to so many bytes; whether more may come.
    fn read(&mut self, most: usize, log: &OutputLog, who: &dyn Fn(i32) -> Printer) -> bool {
        let mut buffer = vec![0; 16 << 10];
        let mut read = 0;
        let mut last: Option<Printer> = None;
        while read < most {
            match self.receive(&mut buffer) {
                Got::Bytes(n, pid) => {
                    read += n;
                    let printer = match last {
                        Some(printer) if printer.pid == pid => printer,
                        Some(_) | None => who(pid),
                    };
                    last = Some(printer);
                    self.take(&buffer[..n], log, printer);
                }
                Got::Nothing => return true,
                Got::End => return false,
            }
        }
        true
    }

    fn receive(&self, buffer: &mut [u8]) -> Got {
        let mut space = cmsg_space!(UnixCredentials);
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.reader.as_raw_fd(), &mut slices, Some(&mut space), flags) {
                Ok(message) if message.bytes == 0 => return Got::End,
                Ok(message) => {
                    let pid = message.cmsgs().ok().and_then(|mut controls| {
                        controls.find_map(|control| match control {
                            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                            _ => None,
                        })
                    });
                    return Got::Bytes(message.bytes, pid.unwrap_or(0));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Got::Nothing,
                Err(_) => return Got::End,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], log: &OutputLog, printer: Printer) {
        let mut rest = bytes;
        let mut line = self.begun.remove(&printer.pid).unwrap_or_default();
        while let Some(at) = memchr::memchr(b'\n', rest) {
            if line.is_empty() {
                log.record(&rest[..at], printer);
            } else {
                line.extend_from_slice(&rest[..at]);
                log.record(&line, printer);
                line.clear();
            }
            rest = &rest[at + 1..];
        }
        line.extend_from_slice(rest);
        if line.len() >= LONGEST {
            log.record(&line, printer);
            line.clear();
        }
        if !line.is_empty() {
            self.begun.insert(printer.pid, line);
        }
    }

    fn end(&mut self, pid: i32, log: &OutputLog, who: &dyn Fn(i32) -> Printer) {
        if let Some(line) = self.begun.remove(&pid) {
            log.record(&line, who(pid));
        }
    }

    fn end_all(&mut self, log: &OutputLog, who: &dyn Fn(i32) -> Printer) {
        for (pid, line) in std::mem::take(&mut self.begun) {
            log.record(&line, who(pid));
        }
    }
}

impl WorkerStream {
    /// Whoever prints here is the worker or descends from it.
    fn who(&self) -> impl Fn(i32) -> Printer + use<> {
        let process = Process::Worker { generation: self.generation, slot: self.slot };
        let worker = self.pid;
        move |pid| Printer { pid, process, worker }
    }
}

impl Output {
    /// Nothing if neither standard output nor error is the journal's.
    ///
    /// # Errors
    /// The process has no fds left.
    pub(super) fn open(instance: &str) -> io::Result<Option<Output>> {
        let streams = JournalStreams::of_this_process();
        if streams == JournalStreams::default() {
            return Ok(None);
        }
        let log = OutputLog::open(instance)?;
        let (molds, writer) = Stream::pair()?;
        Ok(Some(Output { molds, writer, workers: BTreeMap::new(), streams, log }))
    }

    /// The same for the next program of this process (SIGUSR2): those who print notice nothing.
    pub(super) fn pack(&self) -> Carried {
        let pack = |(serial, worker): (&Serial, &WorkerStream)| CarriedWorker {
            serial: *serial,
            reader: worker.stream.reader.as_raw_fd(),
            begun: worker.stream.begun.clone(),
            generation: worker.generation,
            slot: worker.slot,
            pid: worker.pid,
        };
        Carried {
            reader: self.molds.reader.as_raw_fd(),
            writer: self.writer.as_raw_fd(),
            begun: self.molds.begun.clone(),
            workers: self.workers.iter().map(pack).collect(),
        }
    }

    /// # Errors
    /// An fd is not open.
    pub(super) fn unpack(carried: Carried, instance: &str) -> io::Result<Output> {
        let (reader, writer) = (fds::adopt(carried.reader)?, fds::adopt(carried.writer)?);
        let (streams, log) = (JournalStreams::of_this_process(), OutputLog::open(instance)?);
        let molds = Stream { reader, begun: carried.begun };
        let mut workers = BTreeMap::new();
        for CarriedWorker { serial, reader, begun, generation, slot, pid } in carried.workers {
            let stream = Stream { reader: fds::adopt(reader)?, begun };
            workers.insert(serial, WorkerStream { stream, generation, slot, pid });
        }
        Ok(Output { molds, writer, workers, streams, log })
    }

    /// What becomes standard output and error of a mold: fd and the numbers to place it at.
    pub(super) fn lend(&self) -> (BorrowedFd<'_>, JournalStreams) {
        (self.writer.as_fd(), self.streams)
    }

    /// A socket for a worker that is about to be forked.
    pub(super) fn admit(&mut self, worker: Serial, generation: u32, slot: u32) -> io::Result<OwnedFd> {
        let (stream, writer) = Stream::pair()?;
        self.workers.insert(worker, WorkerStream { stream, generation, slot, pid: 0 });
        Ok(writer)
    }

    /// The worker has said which process it is.
    pub(super) fn name(&mut self, worker: Serial, pid: i32) {
        if let Some(stream) = self.workers.get_mut(&worker) {
            stream.pid = pid;
        }
    }

    /// Whether it is a worker that has not said yet which process it is.
    pub(super) fn is_nameless(&self, worker: Serial) -> bool {
        self.workers.get(&worker).is_some_and(|stream| stream.pid == 0)
    }

    /// Nobody prints there any more; gives the socket that was read.
    pub(super) fn close(&mut self, worker: Serial) -> Option<OwnedFd> {
        self.workers.remove(&worker).map(|worker| worker.stream.reader)
    }

    /// All sockets that are read.
    pub(super) fn readers(&self) -> impl Iterator<Item = (Serial, BorrowedFd<'_>)> {
        let workers = self.workers.iter().map(|(serial, worker)| (*serial, worker.stream.reader.as_fd()));
        [(MOLDS, self.molds.reader.as_fd())].into_iter().chain(workers)
    }

    /// Reads up to so many bytes from one of the sockets; whether more may come. `who` says to which mold a pid belongs.
    pub(super) fn read(&mut self, whose: Serial, most: usize, who: &dyn Fn(i32) -> Printer) -> bool {
        match self.workers.get_mut(&whose) {
            Some(worker) => {
                let who = worker.who();
                let more = worker.stream.read(most, &self.log, &who);
                if !more {
                    worker.stream.end_all(&self.log, &who);
                }
                more
            }
            // The other end of the molds' is ours.
            None => whose != MOLDS || self.molds.read(most, &self.log, who),
        }
    }

    /// At the end: reads what there is and records every line, also one that is not ended. Who prints on without an end
    /// does not hold it up.
    pub(super) fn finish(&mut self, who: &dyn Fn(i32) -> Printer, log: &Log) {
        self.molds.read(2 * ROOM, &self.log, who);
        for worker in self.workers.values_mut() {
            worker.stream.read(2 * ROOM, &self.log, &worker.who());
        }
        self.end_all(who);
        self.log.flush(log);
        self.log.report_losses(log);
    }

    /// The process is about to be reaped: its line, if one is begun, ends.
    pub(super) fn end(&mut self, pid: i32, who: &dyn Fn(i32) -> Printer) {
        self.molds.end(pid, &self.log, who);
        for worker in self.workers.values_mut() {
            let who = worker.who();
            worker.stream.end(pid, &self.log, &who);
        }
    }

    /// Sends what the journal did not take before; whether nothing waits any more.
    pub(super) fn flush(&self, log: &Log) -> bool {
        self.log.flush(log)
    }

    /// Records every line that is begun.
    pub(super) fn end_all(&mut self, who: &dyn Fn(i32) -> Printer) {
        self.molds.end_all(&self.log, who);
        for worker in self.workers.values_mut() {
            let who = worker.who();
            worker.stream.end_all(&self.log, &who);
        }
    }

    /// Whether so many processes have left a line without its end that they should be recorded as they are.
    pub(super) fn is_crowded(&self) -> bool {
        let begun = self.workers.values().map(|worker| worker.stream.begun.len()).sum::<usize>();
        begun + self.molds.begun.len() > MOST_BEGUN
    }
}

/// The parent of a process, from field 4 of proc_pid_stat(5).
pub(super) fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok().filter(|parent| *parent > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_a_process_is_found() {
        let us = std::process::id() as i32;
        assert_eq!(parent(us), Some(nix::unistd::getppid().as_raw()).filter(|parent| *parent > 1));
        assert_eq!(parent(i32::MAX), None);
    }
}

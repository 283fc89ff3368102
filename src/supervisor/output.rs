//! What the application prints, where systemd has connected us to the journal: lines become records.
//!
//! Owns one stream socket, the standard output and error of all molds, workers and what they start, and the lines that
//! are not yet ended. systemd's own stream would do as well, but its records do not say which worker of which generation
//! has printed, and a journal that stands still would block the application in `print`. Knows the processes only by what
//! it is told. Invariants: whoever prints never waits for the journal, and one process's line is never mixed with
//! another's; a turn of the arbiter's loop reads a bounded amount.
//!
//! Races, and why they are none:
//! - Two processes write at once: the kernel attaches the writer's pid to what it writes (SO_PASSCRED, set before there is
//!   a writer) and never gives bytes of two writers in one recvmsg(2). Each pid has a line of its own that is begun.
//! - A process prints and dies: what it wrote stays in the socket. It is read before the death is dealt with, so the
//!   last words stand before the record of the death.
//! - A pid is used again: a process's begun line is recorded when it is reaped, and only then can its pid be another's.
//! - The arbiter ends: it reads what there is, and its workers have ended before it. When it is killed, so are they
//!   (KillMode=mixed), and nobody is left who would print into a socket without a reader.

use crate::fds;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg, setsockopt, socketpair,
    sockopt,
};
use rgunicorn_log::{JournalStreams, Log, OutputLog, Printer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Bytes that are read in one turn of the loop.
const TURN: usize = 256 << 10;
/// The longest line; a longer one becomes several records. journald's own default (LineMax=).
const LONGEST: usize = 48 << 10;
/// Processes whose begun lines are kept; beyond it all are recorded as they are.
const MOST_BEGUN: usize = 256;
/// Bytes that may wait to be read. The kernel grants what net.core.wmem_max allows.
const ROOM: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Output {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Which standard streams of the children are replaced.
    streams: JournalStreams,
    log: OutputLog,
    begun: BTreeMap<i32, Vec<u8>>,
}

/// [`Output`] on its way into the next program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) reader: RawFd,
    pub(super) writer: RawFd,
    begun: BTreeMap<i32, Vec<u8>>,
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
        Output::with(streams, OutputLog::open(instance)?).map(Some)
    }

    fn with(streams: JournalStreams, log: OutputLog) -> io::Result<Output> {
        let (reader, writer) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&reader, sockopt::PassCred, &true)?;
        // With less room a process that prints much waits for the arbiter a little earlier.
        let _ = setsockopt(&writer, sockopt::SndBuf, &ROOM);
        Ok(Output { reader, writer, streams, log, begun: BTreeMap::new() })
    }

    /// The same for the next program of this process (SIGUSR2): those who print notice nothing.
    pub(super) fn pack(&self) -> Carried {
        Carried { reader: self.reader.as_raw_fd(), writer: self.writer.as_raw_fd(), begun: self.begun.clone() }
    }

    /// # Errors
    /// An fd is not open.
    pub(super) fn unpack(carried: Carried, instance: &str) -> io::Result<Output> {
        let (reader, writer) = (fds::adopt(carried.reader)?, fds::adopt(carried.writer)?);
        let (streams, log) = (JournalStreams::of_this_process(), OutputLog::open(instance)?);
        Ok(Output { reader, writer, streams, log, begun: carried.begun })
    }

    /// What becomes standard output and error of a child: fd and the numbers to place it at.
    pub(super) fn lend(&self) -> (BorrowedFd<'_>, JournalStreams) {
        (self.writer.as_fd(), self.streams)
    }

    /// Reads up to a turn's worth. `who` says which mold or worker a pid is or belongs to.
    pub(super) fn read(&mut self, who: &dyn Fn(i32) -> Printer) {
        self.read_up_to(TURN, who);
    }

    /// At the end: reads what there is and records every line, also one that is not ended.
    pub(super) fn finish(&mut self, who: &dyn Fn(i32) -> Printer, log: &Log) {
        self.read_up_to(usize::MAX, who);
        self.end_all(who);
        self.log.flush(log);
        self.log.report_losses(log);
    }

    /// The process is about to be reaped: its line, if one is begun, ends.
    pub(super) fn end(&mut self, pid: i32, who: &dyn Fn(i32) -> Printer) {
        if let Some(line) = self.begun.remove(&pid) {
            self.log.record(&line, who(pid));
        }
    }

    /// Sends what the journal did not take before; whether nothing waits any more.
    pub(super) fn flush(&self, log: &Log) -> bool {
        self.log.flush(log)
    }

    fn read_up_to(&mut self, most: usize, who: &dyn Fn(i32) -> Printer) {
        let mut buffer = vec![0; 16 << 10];
        let mut read = 0;
        let mut last: Option<Printer> = None;
        while read < most {
            let Some((n, pid)) = self.receive(&mut buffer) else { return };
            read += n;
            let printer = match last {
                Some(printer) if printer.pid == pid => printer,
                Some(_) | None => who(pid),
            };
            last = Some(printer);
            self.take(&buffer[..n], printer);
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Option<(usize, i32)> {
        let mut space = cmsg_space!(UnixCredentials);
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.reader.as_raw_fd(), &mut slices, Some(&mut space), flags) {
                Ok(message) if message.bytes == 0 => return None,
                Ok(message) => {
                    let pid = message.cmsgs().ok()?.find_map(|control| match control {
                        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                        _ => None,
                    });
                    return Some((message.bytes, pid.unwrap_or(0)));
                }
                Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], printer: Printer) {
        let Output { begun, log, .. } = self;
        let mut rest = bytes;
        let mut line = begun.remove(&printer.pid).unwrap_or_default();
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
            begun.insert(printer.pid, line);
        }
    }

    /// Whether so many processes have left a line without its end that they should be recorded as they are.
    pub(super) fn is_crowded(&self) -> bool {
        self.begun.len() > MOST_BEGUN
    }

    /// Records every line that is begun.
    pub(super) fn end_all(&mut self, who: &dyn Fn(i32) -> Printer) {
        for (pid, line) in std::mem::take(&mut self.begun) {
            self.log.record(&line, who(pid));
        }
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
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

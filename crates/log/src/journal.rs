//! The journal's native protocol: framing of fields, and a socket that never makes anybody wait.
//!
//! Owns one datagram socket, unconnected, so that it survives a restart of journald, and a short queue of what did not go
//! out at once. Does not know what a record means. Invariants: a record is sent whole or not at all, in order, and the
//! queue is bounded. The queue is there because journald's own holds net.unix.max_dgram_qlen records (10 by the kernel,
//! 512 by systemd): the burst of a start would lose some while journald is only waiting for a processor. Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, sendto, setsockopt, socket, sockopt,
};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where journald listens.
pub(crate) const SOCKET_PATH: &str = "/run/systemd/journal/socket";

/// Bytes that may wait in our socket: what libsystemd itself asks for. The kernel grants what net.core.wmem_max allows.
const SEND_BUFFER: usize = 8 << 20;

/// Bytes of records that wait in this process.
const QUEUE_ROOM: usize = 1 << 20;

/// How much of the queue a record may find filled and still be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Records of the error log: all of it.
    Event,
    /// Access records: half, so that they cannot crowd out what an operator must see.
    Access,
}

/// The socket to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: OwnedFd,
    address: UnixAddr,
    queue: Mutex<Queue>,
    /// Whether the queue has anything, for those who do not hold its lock.
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Journal {
    /// # Errors
    /// The path is too long for a socket address, or there is no file descriptor left.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let socket =
            socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        // Without the larger buffer fewer records wait, and more of them go by memfd: nothing else is lost.
        let _ = setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER);
        Ok(Self {
            socket,
            address: UnixAddr::new(path)?,
            queue: Mutex::new(Queue::default()),
            waiting: AtomicBool::new(false),
        })
    }

    /// Sends a record, or queues it. It never waits for the journal.
    ///
    /// # Errors
    /// The record is lost: the journal does not take it and the queue is full (EAGAIN), or it does not run (ENOENT).
    pub(crate) fn send(&self, record: &[u8], weight: Weight) -> Result<(), Errno> {
        if self.flush() {
            match self.send_now(record) {
                Err(Errno::EAGAIN | Errno::ECONNREFUSED) => {}
                other => return other,
            }
        }
        let room = match weight {
            Weight::Event => QUEUE_ROOM,
            Weight::Access => QUEUE_ROOM / 2,
        };
        let mut queue = self.locked();
        if queue.bytes + record.len() > room {
            return Err(Errno::EAGAIN);
        }
        queue.bytes += record.len();
        queue.records.push_back(record.into());
        self.waiting.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether records wait in this process.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Sends what waits, as far as the journal takes it. Returns whether all of it is gone.
    pub(crate) fn flush(&self) -> bool {
        if !self.is_waiting() {
            return true;
        }
        let mut queue = self.locked();
        while let Some(record) = queue.records.front() {
            if let Err(Errno::EAGAIN | Errno::ECONNREFUSED) = self.send_now(record) {
                return false;
            }
            if let Some(sent) = queue.records.pop_front() {
                queue.bytes -= sent.len();
            }
        }
        self.waiting.store(false, Ordering::Release);
        true
    }

    /// A thread that panics while it holds the lock leaves a queue that is at worst one record short.
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_now(&self, record: &[u8]) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            return match sendto(self.socket.as_raw_fd(), record, &self.address, flags) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EMSGSIZE | Errno::ENOBUFS) => self.send_by_memfd(record),
                Err(error) => Err(error),
            };
        }
    }

    /// Sends what is too large for a datagram as a sealed file, which journald maps.
    fn send_by_memfd(&self, record: &[u8]) -> Result<(), Errno> {
        let memfd = memfd_create("rgunicorn-record", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let mut file = File::from(memfd);
        file.write_all(record).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let fds = [file.as_raw_fd()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg(self.socket.as_raw_fd(), &[], &[ControlMessage::ScmRights(&fds)], flags, Some(&self.address))
            {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Appends a field. `name` must be one that journald takes: `A-Z`, `0-9` and `_`, at most 64 of them.
pub(crate) fn push_field(record: &mut Vec<u8>, name: &str, value: &[u8]) {
    record.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        record.push(b'\n');
        record.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        record.push(b'=');
    }
    record.extend_from_slice(value);
    record.push(b'\n');
}

/// Appends a field `RGUNICORN_<KEY>` for a slog key: in upper case, what journald does not take replaced by `_`.
pub(crate) fn push_keyed_field(record: &mut Vec<u8>, key: &str, value: &[u8]) {
    const PREFIX: &str = "RGUNICORN_";
    let mut name = [0; 64];
    let mut length = 0;
    for byte in PREFIX.bytes().chain(key.bytes()).take(name.len()) {
        let upper = byte.to_ascii_uppercase();
        name[length] = if upper.is_ascii_uppercase() || upper.is_ascii_digit() { upper } else { b'_' };
        length += 1;
    }
    push_field(record, std::str::from_utf8(&name[..length]).unwrap_or(PREFIX), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{IoSliceMut, Read, Seek};
    use std::os::unix::net::UnixDatagram;

    fn journal() -> (tempfile::TempDir, UnixDatagram, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver.set_nonblocking(true).unwrap();
        let journal = Journal::open(&path).unwrap();
        (folder, receiver, journal)
    }

    #[test]
    fn a_value_of_one_line_is_framed_by_an_equals_sign_and_one_of_several_by_its_length() {
        let mut record = Vec::new();
        push_field(&mut record, "MESSAGE", b"one");
        push_field(&mut record, "MESSAGE", b"a\nb");
        assert_eq!(record, b"MESSAGE=one\nMESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n");
    }

    #[test]
    fn any_key_becomes_a_field_name_that_journald_takes() {
        let mut record = Vec::new();
        push_keyed_field(&mut record, "listener-name.x", b"1");
        push_keyed_field(&mut record, &"k".repeat(100), b"2");
        let text = String::from_utf8(record).unwrap();
        let (first, second) = text.split_once('\n').unwrap();
        assert_eq!(first, "RGUNICORN_LISTENER_NAME_X=1");
        assert_eq!(second.len(), 64 + "=2\n".len());
    }

    #[test]
    fn a_small_record_is_one_datagram() {
        let (_folder, receiver, journal) = journal();
        journal.send(b"MESSAGE=hello\n", Weight::Event).unwrap();
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"MESSAGE=hello\n");
    }

    #[test]
    fn a_record_too_large_for_a_datagram_comes_as_a_sealed_memfd() {
        use nix::sys::socket::{ControlMessageOwned, recvmsg};
        use std::os::fd::FromRawFd;
        let (_folder, receiver, journal) = journal();
        let record = vec![b'x'; 32 << 20];
        journal.send(&record, Weight::Event).unwrap();
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut payload = [0; 8];
        let mut slices = [IoSliceMut::new(&mut payload)];
        let message =
            recvmsg::<UnixAddr>(receiver.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
        assert_eq!(message.bytes, 0);
        let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
            panic!("no file descriptor came")
        };
        // SAFETY: the descriptor has just been received and nobody else knows it.
        let mut file = unsafe { File::from_raw_fd(fds[0]) };
        let seals = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS).unwrap());
        assert!(seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW));
        let mut content = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut content).unwrap();
        assert!(content == record);
    }

    /// Fills journald's queue and ours with numbered records; how many were taken.
    fn fill(journal: &Journal, weight: Weight) -> usize {
        (0..1_000_000)
            .find(|number| journal.send(format!("MESSAGE={number:06}\n").as_bytes(), weight) == Err(Errno::EAGAIN))
            .unwrap()
    }

    #[test]
    fn a_full_journal_refuses_at_once_and_then_gets_what_waited_in_its_order() {
        let (_folder, receiver, journal) = journal();
        let taken = fill(&journal, Weight::Event);
        let mut received = Vec::new();
        let mut buffer = [0; 64];
        while received.len() < taken {
            match receiver.recv(&mut buffer) {
                Ok(length) => received.push(buffer[..length].to_vec()),
                Err(_) => {
                    journal.flush();
                }
            }
        }
        assert!(!journal.is_waiting());
        let expected: Vec<_> = (0..taken).map(|number| format!("MESSAGE={number:06}\n").into_bytes()).collect();
        assert!(received == expected);
    }

    #[test]
    fn access_records_leave_room_for_events() {
        let (_folder, _receiver, journal) = journal();
        fill(&journal, Weight::Access);
        assert_eq!(journal.send(b"MESSAGE=event\n", Weight::Event), Ok(()));
    }

    #[test]
    fn a_journal_that_is_not_there_is_an_error() {
        let journal = Journal::open(Path::new("/nonexistent/socket")).unwrap();
        assert_eq!(journal.send(b"MESSAGE=x\n", Weight::Event), Err(Errno::ENOENT));
    }
}

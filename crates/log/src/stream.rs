//! A file, terminal, pipe or socket that takes lines, without waiting for whoever reads it.
//!
//! Owns its file descriptor and, for a file, the path. Does not know what a line says. Invariants: a write never waits
//! for a reader; lines of several processes are not mixed (one write(2) with O_APPEND on files, at most PIPE_BUF bytes or
//! all at once on pipes); the descriptor's number never changes, so that `reopen` needs no lock.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, dup3_raw, fchown, isatty, write};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that a pipe which polls writable takes without waiting, see pipe(7).
const PIPE_BUF: usize = 4096;

/// What takes lines.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    way: Way,
    /// Where it was opened; none for a duplicate of stdout or stderr.
    path: Option<PathBuf>,
    /// The last line was cut: a line break comes before the next one.
    torn: AtomicBool,
    terminal: bool,
}

/// How to write without waiting for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A file on a disk, or an open file description that is ours and does not block.
    Write,
    /// A pipe or terminal that we share with others and could not open anew: its flags are not ours to change.
    Shared,
    /// A socket: send(2) takes a flag for it.
    Socket,
}

impl Stream {
    /// Opens a log file for appending, made with mode 0644 less the umask where there is none.
    ///
    /// # Errors
    /// open(2) fails; ENXIO is a FIFO that nobody reads.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let fd = open_path(&path)?;
        let terminal = isatty(&fd).unwrap_or(false);
        Ok(Self { fd, way: Way::Write, path: Some(path), torn: AtomicBool::new(false), terminal })
    }

    /// Keeps a duplicate of standard output or error.
    ///
    /// # Errors
    /// It is not open, or there is no file descriptor left.
    pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
        let terminal = isatty(fd).unwrap_or(false);
        let (fd, way) = match kind {
            SFlag::S_IFSOCK => (duplicate(fd)?, Way::Socket),
            SFlag::S_IFIFO | SFlag::S_IFCHR => match open_anew(fd) {
                Ok(own) => (own, Way::Write),
                Err(_) => (duplicate(fd)?, Way::Shared),
            },
            _ => (duplicate(fd)?, Way::Write),
        };
        Ok(Self { fd, way, path: None, torn: AtomicBool::new(false), terminal })
    }

    /// Whether a person reads it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// What it is, for the record of losses.
    pub(crate) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "the reader of the output".to_owned(), |path| path.display().to_string())
    }

    /// Writes a line, which ends with its line break.
    ///
    /// # Errors
    /// The line was not taken, or cut: the reader is slow (EAGAIN), the disk is full (ENOSPC), nobody reads (EPIPE).
    pub(crate) fn write(&self, line: &[u8]) -> Result<(), Errno> {
        if self.torn.load(Ordering::Relaxed) {
            self.write_once(b"\n")?;
            self.torn.store(false, Ordering::Relaxed);
        }
        let written = self.write_once(line)?;
        if written < line.len() {
            self.torn.store(true, Ordering::Relaxed);
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    fn write_once(&self, bytes: &[u8]) -> Result<usize, Errno> {
        loop {
            let outcome = match self.way {
                Way::Write => write(&self.fd, bytes),
                Way::Socket => send(self.fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL),
                Way::Shared => write_unless_it_waits(self.fd.as_fd(), bytes),
            };
            if outcome != Err(Errno::EINTR) {
                return outcome;
            }
        }
    }

    /// Opens the file anew by its path and lets the same descriptor mean it. Does nothing to what has no path.
    ///
    /// # Errors
    /// open(2) fails; the stream goes on as it was.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let fresh = open_path(path)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot reopen {}: {error}", path.display())))?;
        replace(&self.fd, &fresh)?;
        self.torn.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the file to a user. Does nothing to what has no path.
    ///
    /// # Errors
    /// fchown(2) fails.
    pub(crate) fn give_to(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        if self.path.is_some() {
            fchown(&self.fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
        }
        Ok(())
    }
}

/// O_NONBLOCK does nothing to a file on a disk, and what is not one must not block.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    Ok(open(path, flags, Mode::from_bits_truncate(0o644))?)
}

/// A second open file description of the same pipe or terminal: O_NONBLOCK on it does not reach the others who write
/// there. Fails where the pipe belongs to another user.
fn open_anew(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    open(path.as_str(), flags, Mode::empty())
}

fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn replace(old: &OwnedFd, fresh: &OwnedFd) -> io::Result<()> {
    // SAFETY: `old` stays open and ours; dup3(2) exchanges what it means in one step, so that a thread that is writing
    // meanwhile writes to the one file or to the other.
    let same = unsafe { dup3_raw(fresh, old.as_raw_fd(), OFlag::O_CLOEXEC) }?;
    // `same` has the number of `old`, which goes on owning it.
    let _ = same.into_raw_fd();
    Ok(())
}

/// RWF_NOWAIT reaches pipes since Linux 6.5. Before, a page is written where poll(2) promises room for one: another
/// process that fills the pipe between the two calls can make us wait, until its reader reads.
fn write_unless_it_waits(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `slice` points to `bytes`, which outlives the call and is only read; offset -1 is the file's own.
    let written = unsafe { libc::pwritev2(fd.as_raw_fd(), &slice, 1, -1, libc::RWF_NOWAIT) };
    match Errno::result(written) {
        Ok(written) => Ok(usize::try_from(written).unwrap_or_default()),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::ESPIPE) => write_while_writable(fd, bytes),
        Err(error) => Err(error),
    }
}

fn write_while_writable(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let mut written = 0;
    for page in bytes.chunks(PIPE_BUF) {
        let mut polled = [PollFd::new(fd, PollFlags::POLLOUT)];
        let ready = poll(&mut polled, PollTimeout::ZERO)? == 1
            && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
        match ready.then(|| write(fd, page)) {
            Some(Ok(count)) => written += count,
            Some(Err(error)) if written == 0 => return Err(error),
            None if written == 0 => return Err(Errno::EAGAIN),
            Some(Err(_)) | None => break,
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read, pipe};
    use std::os::unix::net::UnixStream;

    fn fill(stream: &Stream) -> Errno {
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        (0..1_000_000).find_map(|_| stream.write(&line).err()).unwrap()
    }

    fn drain(reader: &mut PipeReader) -> usize {
        let mut taken = vec![0; 1 << 20];
        reader.read(&mut taken).unwrap()
    }

    #[test]
    fn a_full_pipe_refuses_at_once_and_its_other_writers_still_block() {
        let (mut reader, writer) = pipe().unwrap();
        let stream = Stream::duplicate(writer.as_fd()).unwrap();
        assert_eq!(stream.way, Way::Write);
        assert_eq!(fill(&stream), Errno::EAGAIN);
        let flags = OFlag::from_bits_truncate(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        assert!(drain(&mut reader) > 4096);
        stream.write(b"after\n").unwrap();
    }

    #[test]
    fn a_shared_pipe_refuses_at_once_too() {
        for write in [write_unless_it_waits, write_while_writable] {
            let (_reader, writer) = pipe().unwrap();
            let refusal = (0..1_000_000).find_map(|_| write(writer.as_fd(), &[b'x'; 100]).err());
            assert_eq!(refusal, Some(Errno::EAGAIN));
        }
    }

    #[test]
    fn a_full_socket_refuses_at_once_and_a_cut_line_is_ended() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let stream = Stream::duplicate(writer.as_fd()).unwrap();
        assert_eq!(stream.way, Way::Socket);
        assert_eq!(fill(&stream), Errno::EAGAIN);
        stream.torn.store(true, Ordering::Relaxed);
        let mut taken = vec![0; 1 << 20];
        reader.set_nonblocking(true).unwrap();
        while reader.read(&mut taken).is_ok() {}
        stream.write(b"after\n").unwrap();
        let count = reader.read(&mut taken).unwrap();
        assert_eq!(&taken[..count], b"\nafter\n");
    }

    #[test]
    fn nobody_reading_is_an_error_and_not_a_signal() {
        let (reader, writer) = pipe().unwrap();
        let stream = Stream::duplicate(writer.as_fd()).unwrap();
        drop(reader);
        assert_eq!(stream.write(b"x\n"), Err(Errno::EPIPE));
    }

    #[test]
    fn a_rotated_file_is_opened_anew_under_the_same_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let stream = Stream::open(path.clone()).unwrap();
        let before = stream.fd.as_raw_fd();
        stream.write(b"one\n").unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        stream.write(b"two\n").unwrap();
        stream.reopen().unwrap();
        stream.write(b"three\n").unwrap();
        assert_eq!(stream.fd.as_raw_fd(), before);
        assert_eq!(std::fs::read_to_string(folder.path().join("log.1")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_goes_on_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("log");
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        let stream = Stream::open(path.clone()).unwrap();
        std::fs::rename(folder.path().join("deep"), folder.path().join("moved")).unwrap();
        assert!(stream.reopen().is_err());
        stream.write(b"still\n").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("moved/log")).unwrap(), "still\n");
    }
}

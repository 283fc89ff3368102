//! What systemd is told: READY, STATUS, RELOADING, STOPPING, EXTEND_TIMEOUT_USEC, FDSTORE, ERRNO, EXIT_STATUS
//! (sd_notify(3)).
//!
//! Owns the datagrams and remembers the last STATUS, so that nothing is sent twice. Knows nothing of why. Invariant: it
//! never waits. `sd_notify::notify` does, when the service manager is slow to read (unix(7), net.unix.max_dgram_qlen), so
//! only its vocabulary is used here: what cannot be sent at once stays in the outbox, in order, and is tried again.

use crate::trouble::Trouble;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg};
use sd_notify::NotifyState;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// When a full socket is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// Datagrams kept for a service manager that does not read.
const MOST: usize = 64;

/// A datagram that could not be sent yet, and the fd that goes with it.
#[derive(Debug)]
struct Datagram {
    text: String,
    fd: Option<OwnedFd>,
}

impl Datagram {
    /// Whether it says nothing that a later one does not say again.
    fn is_dispensable(&self) -> bool {
        self.text.starts_with("STATUS=") || self.text.starts_with("WATCHDOG=")
    }
}

/// The connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<(OwnedFd, UnixAddr)>,
    outbox: VecDeque<Datagram>,
    again: Option<Instant>,
    status: String,
}

impl Notifier {
    /// The one that NOTIFY_SOCKET names.
    pub(crate) fn from_environment() -> Notifier {
        Notifier { socket: std::env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name)), ..Notifier::default() }
    }

    /// The instance serves, or has ended a reload well or badly; `status` goes out in the same datagram.
    pub(crate) fn ready(&mut self, status: String) {
        self.send(&[NotifyState::Ready, NotifyState::Status(&status)]);
        self.status = status;
    }

    /// A reload has begun. systemd wants the time in the same datagram, else it waits for ever.
    pub(crate) fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// The instance stops.
    pub(crate) fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Starting, reloading or stopping goes on for at most `time` from now.
    pub(crate) fn extend(&mut self, time: Duration) {
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(microseconds)]);
    }

    /// The line that `systemctl status` shows; sent if it has changed.
    pub(crate) fn status(&mut self, status: String) {
        if status != self.status {
            // One that still waits is not worth sending any more.
            self.outbox.retain(|waiting| !waiting.text.starts_with("STATUS="));
            self.send(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// The loop turned.
    pub(crate) fn watchdog(&mut self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Keep a duplicate of `fd` under this name; whether it is on its way. It is not to be polled: systemd would drop what
    /// hangs up, and a listener or the handoff never does.
    pub(crate) fn store(&mut self, name: &str, fd: BorrowedFd<'_>) -> bool {
        if self.socket.is_none() {
            return false;
        }
        // Its own duplicate, since the caller may close it before the datagram is out.
        let Ok(fd) = fd.try_clone_to_owned() else { return false };
        self.push(format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"), Some(fd));
        true
    }

    /// Forget what is kept under this name.
    pub(crate) fn remove_stored(&mut self, name: &str) {
        self.push(format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None);
    }

    /// How the process is about to end, in words and as a number, and errno(3) if a system call has refused something:
    /// StatusText=, StatusErrno= of the unit.
    pub(crate) fn ends(&mut self, code: u8, status: &str, errno: Option<i32>) {
        let status = status.lines().next().unwrap_or_default();
        let code = format!("EXIT_STATUS={code}");
        let errno = errno.and_then(|number| u32::try_from(number).ok());
        let parts = [NotifyState::Status(status), NotifyState::Custom(&code)];
        let parts: Vec<_> = errno.map(NotifyState::Errno).into_iter().chain(parts).collect();
        self.send(&parts);
    }

    /// The same of a process that could not start.
    pub(crate) fn fails(&mut self, code: u8, trouble: &Trouble) {
        self.ends(code, &format!("Could not start: {trouble}"), trouble.errno());
    }

    /// When what waits is to be tried again; `None` if nothing waits.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Tries again what waits, if it is time.
    pub(crate) fn poll_again(&mut self, now: Instant) {
        if self.again.is_some_and(|at| at <= now) {
            self.flush();
        }
    }

    fn send(&mut self, states: &[NotifyState<'_>]) {
        self.push(states.iter().map(|state| format!("{state}\n")).collect(), None);
    }

    fn push(&mut self, text: String, fd: Option<OwnedFd>) {
        if self.socket.is_none() {
            return;
        }
        self.outbox.push_back(Datagram { text, fd });
        if self.outbox.len() > MOST {
            let least = self.outbox.iter().position(Datagram::is_dispensable).unwrap_or(0);
            self.outbox.remove(least);
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.again = None;
        let Some((socket, address)) = &self.socket else { return };
        while let Some(datagram) = self.outbox.front() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let fds: Vec<_> = datagram.fd.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&fds)];
            let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
            let text = [IoSlice::new(datagram.text.as_bytes())];
            match sendmsg(socket.as_raw_fd(), &text, control, flags, Some(address)) {
                // ETOOMANYREFS: too many fds of this user are on their way.
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ETOOMANYREFS) => {
                    self.again = Some(Instant::now() + AGAIN);
                    return;
                }
                Err(Errno::EINTR) => {}
                // A service manager that is gone must not end the service.
                Ok(_) | Err(_) => {
                    self.outbox.pop_front();
                }
            }
        }
    }
}

/// A path, or an abstract name that begins with `@`.
fn open(name: &OsStr) -> Option<(OwnedFd, UnixAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name).ok()?,
        _ => UnixAddr::new(name).ok()?,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Some((socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None).ok()?, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        (folder, manager, Notifier { socket: open(path.as_os_str()), ..Notifier::default() })
    }

    #[test]
    fn an_fd_that_cannot_be_stored_at_once_is_stored_later_even_if_it_was_closed_here_meanwhile() {
        let (folder, manager, mut notifier) = pair();
        let mut states = 0;
        while notifier.deadline().is_none() {
            notifier.status(states.to_string());
            states += 1;
        }
        let file = std::fs::File::create(folder.path().join("kept")).unwrap();
        assert!(notifier.store("rgunicorn.x", std::os::fd::AsFd::as_fd(&file)));
        drop(file);
        for _ in 0..2 * MOST {
            notifier.watchdog();
        }
        while receive(&manager).is_some() {}
        notifier.poll_again(Instant::now() + AGAIN);
        manager.set_nonblocking(true).unwrap();
        let (mut text, mut found) = (vec![0; 4096], None);
        let mut control = nix::cmsg_space!([i32; 1]);
        let mut parts = [std::io::IoSliceMut::new(&mut text)];
        let message =
            socket::recvmsg::<UnixAddr>(manager.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())
                .unwrap();
        let length = message.bytes;
        for item in message.cmsgs().unwrap() {
            if let socket::ControlMessageOwned::ScmRights(fds) = item {
                found = fds.first().copied();
            }
        }
        assert_eq!(String::from_utf8_lossy(&text[..length]), "FDSTORE=1\nFDNAME=rgunicorn.x\nFDPOLL=0\n");
        // SAFETY: the kernel has just made this fd for us.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(found.unwrap()) });
    }

    fn receive(manager: &UnixDatagram) -> Option<String> {
        manager.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        manager.recv(&mut bytes).ok().map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn a_reload_and_its_time_are_one_datagram_and_an_unchanged_status_is_none() {
        let (_folder, manager, mut notifier) = pair();
        notifier.reloading();
        notifier.ready("x".into());
        notifier.status("x".into());
        notifier.status("y".into());
        assert!(receive(&manager).unwrap().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(receive(&manager).unwrap(), "READY=1\nSTATUS=x\n");
        assert_eq!(receive(&manager).unwrap(), "STATUS=y\n");
        assert_eq!(receive(&manager), None);
    }

    #[test]
    fn a_service_manager_that_does_not_read_is_not_waited_for_and_still_gets_what_matters() {
        let (_folder, manager, mut notifier) = pair();
        let mut states = 0;
        while notifier.deadline().is_none() {
            notifier.status(states.to_string());
            states += 1;
        }
        for more in 0..100 {
            notifier.status(format!("more {more}"));
        }
        notifier.stopping();
        while receive(&manager).is_some() {}
        notifier.poll_again(Instant::now() + AGAIN);
        assert_eq!(receive(&manager).unwrap(), "STATUS=more 99\n");
        assert_eq!(receive(&manager).unwrap(), "STOPPING=1\n");
        assert_eq!(notifier.deadline(), None);
    }
}

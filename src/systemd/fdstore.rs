//! The fd store: what systemd keeps for us from one arbiter to the next (FileDescriptorStoreMax=, sd_notify(3)).
//!
//! Owns the names under which things lie there, what is there now, and the door through which they come back. Kept are
//! listeners that we bound ourselves, so that their backlog survives; the handoff, in which idle connections wait for
//! the next arbiter's workers; and the scoreboard. They come back after `systemctl restart`, a crash or SIGKILL; systemd
//! closes them when the service is stopped for good, so idle connections end then. Knows no worker.
//!
//! A name says what a thing is and which: `rgunicorn.KIND.` and then its form and its inodes. What comes back is believed
//! only if it is what its name says, because a drop-in, another version or another program may have filled the store:
//! everything else is closed, removed there and recorded. Invariant: nothing that is not in use stays in the store.
//!
//! ```text
//! rgunicorn.listener.DEVICE-INODE.BIND     of the socket's file, 0-0 without one; BIND as in the settings, % for what a
//!                                          name may not have
//! rgunicorn.handoff.FORM.RECEIVE-SEND.END  FORM of its datagrams, the inodes of both ends, END receive or send
//! rgunicorn.scoreboard
//! ```

use super::notify::Notifier;
use nix::sys::socket::{self, AddressFamily, SockType, SockaddrLike, SockaddrStorage, sockopt};
use nix::sys::stat::fstat;
use rgunicorn_protocol::{HANDOFF_FORM, Scoreboard};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const PREFIX: &str = "rgunicorn.";
const LISTENER: &str = "rgunicorn.listener.";
const HANDOFF: &str = "rgunicorn.handoff.";
pub(crate) const SCOREBOARD: &str = "rgunicorn.scoreboard";
/// What systemd calls an fd that was stored without a name.
const NAMELESS: &str = "stored";
/// How the name of a socket unit ends.
const UNIT: &str = ".socket";
/// systemd takes names of up to 255 bytes.
const LONGEST: usize = 255;

/// An fd that came out of the store, before anybody has looked at it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) fd: OwnedFd,
}

/// A listener that an earlier arbiter had bound.
#[derive(Debug)]
pub(crate) struct StoredListener {
    pub(crate) name: String,
    /// The entry of `bind` that it was made for.
    pub(crate) bind: String,
    /// Device and inode of its file, if it has one.
    pub(crate) file: Option<(u64, u64)>,
    pub(crate) fd: OwnedFd,
}

/// What came out of the store, examined.
#[derive(Debug, Default)]
pub(crate) struct Returned {
    pub(crate) listeners: Vec<StoredListener>,
    /// Receiving and sending end.
    pub(crate) handoff: Option<(OwnedFd, OwnedFd)>,
    pub(crate) scoreboard: Option<Scoreboard>,
    /// Names of what cannot be used, each with the reason. The fds are closed.
    pub(crate) refused: Vec<(String, String)>,
}

/// Whether an fd of this name, passed by systemd, comes from the store and not from a socket unit. A unit that says nothing
/// else passes its own name, so `rgunicorn.socket` is the name of a socket unit and nothing of ours.
pub(crate) fn is_stored(name: &str) -> bool {
    let kind = [LISTENER, HANDOFF].iter().any(|kind| name.starts_with(kind)) || name == SCOREBOARD;
    kind || name == NAMELESS || name.starts_with(PREFIX) && !name.ends_with(UNIT)
}

/// Examines what came out of the store.
pub(crate) fn examine(stored: Vec<Stored>) -> Returned {
    let mut returned = Returned::default();
    let mut ends: Vec<(String, End, OwnedFd)> = Vec::new();
    for Stored { name, fd } in stored {
        let verdict = if name.starts_with(LISTENER) {
            listener(&name).map(|(bind, file)| {
                returned.listeners.push(StoredListener { name: name.clone(), bind, file, fd });
            })
        } else if name.starts_with(HANDOFF) {
            End::read(&name, &fd).map(|end| ends.push((name.clone(), end, fd)))
        } else if name == SCOREBOARD && returned.scoreboard.is_none() {
            Scoreboard::inherit(fd)
                .map(|board| returned.scoreboard = Some(board))
                .map_err(|error| format!("it is no scoreboard of this version: {error}"))
        } else {
            Err("it is nothing that this version stores".to_owned())
        };
        if let Err(reason) = verdict {
            returned.refused.push((name, reason));
        }
    }
    let whole = ends.iter().find_map(|(_, end, _)| {
        let both = |receives| ends.iter().any(|(_, other, _)| other.pair == end.pair && other.receives == receives);
        (both(true) && both(false)).then_some(end.pair)
    });
    let (mut receive, mut send) = (None, None);
    for (name, end, fd) in ends {
        let place = if end.receives { &mut receive } else { &mut send };
        if whole == Some(end.pair) && place.is_none() {
            *place = Some(fd);
        } else {
            returned.refused.push((name, "its other end is missing".to_owned()));
        }
    }
    returned.handoff = receive.zip(send);
    returned
}

/// One end of a handoff, as its name has it.
#[derive(Debug, Clone, Copy)]
struct End {
    pair: (u64, u64),
    receives: bool,
}

impl End {
    fn read(name: &str, fd: &OwnedFd) -> Result<End, String> {
        let parts: Vec<&str> = name.strip_prefix(HANDOFF).unwrap_or_default().split('.').collect();
        let [form, inodes, end] = parts[..] else { return Err("its name has another form".into()) };
        if form.parse() != Ok(HANDOFF_FORM) {
            return Err(format!(
                "its connections are written in form {form}, this version reads {HANDOFF_FORM}; they are closed"
            ));
        }
        let pair = inodes.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let receives = match end {
            "receive" => true,
            "send" => false,
            _ => return Err("its name has another form".into()),
        };
        let Some(pair) = pair else { return Err("its name has another form".into()) };
        let own = if receives { pair.0 } else { pair.1 };
        if fstat(fd).map_or(0, |found| found.st_ino) != own {
            return Err("it is another file than its name says".into());
        }
        let family = socket::getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|address| address.family());
        match (socket::getsockopt(fd, sockopt::SockType), family) {
            (Ok(SockType::SeqPacket), Some(AddressFamily::Unix)) => Ok(End { pair, receives }),
            (Ok(_) | Err(_), _) => Err("it is no unix socket of datagrams in order".into()),
        }
    }
}

fn listener(name: &str) -> Result<(String, Option<(u64, u64)>), String> {
    let other = || "its name has another form".to_owned();
    let (file, bind) = name.strip_prefix(LISTENER).and_then(|rest| rest.split_once('.')).ok_or_else(other)?;
    let (device, inode) = file.split_once('-').ok_or_else(other)?;
    let file = (device.parse().map_err(|_| other())?, inode.parse().map_err(|_| other())?);
    Ok((decode(bind).ok_or_else(other)?, (file != (0, 0)).then_some(file)))
}

/// The name of a listener. `None`: it would be too long for systemd, so the listener is not stored.
pub(crate) fn name_of_listener(bind: &str, file: Option<(u64, u64)>) -> Option<String> {
    let (device, inode) = file.unwrap_or_default();
    let name = format!("{LISTENER}{device}-{inode}.{}", encode(bind));
    (name.len() <= LONGEST).then_some(name)
}

fn names_of_handoff(receive: BorrowedFd<'_>, send: BorrowedFd<'_>) -> Option<[String; 2]> {
    let pair = (fstat(receive).ok()?.st_ino, fstat(send).ok()?.st_ino);
    Some(["receive", "send"].map(|end| format!("{HANDOFF}{HANDOFF_FORM}.{}-{}.{end}", pair.0, pair.1)))
}

fn encode(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'@' | b'[' | b']' => {
                name.push(byte.into());
            }
            _ => drop(write!(name, "%{byte:02x}")),
        }
    }
    name
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut parts = name.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// What lies in the store. See the file's header.
#[derive(Debug, Default)]
pub(crate) struct FdStore {
    available: bool,
    names: BTreeSet<String>,
}

impl FdStore {
    /// The store of the service manager that started this process. systemd says with $FDSTORE (from 254 on) that there is
    /// one; earlier ones do not say it, and answer an attempt in vain with a warning in their own log.
    pub(crate) fn from_environment() -> FdStore {
        let manager = std::env::var_os("NOTIFY_SOCKET").is_some();
        let available = manager && (std::env::var_os("FDSTORE").is_some() || super::is_our_parent());
        FdStore { available, names: BTreeSet::new() }
    }

    pub(crate) fn is_available(&self) -> bool {
        self.available
    }

    /// The handoff is to outlive this process.
    pub(crate) fn keep_handoff(&mut self, ends: &(OwnedFd, OwnedFd), notifier: &mut Notifier) {
        if let Some([receive, send]) = names_of_handoff(ends.0.as_fd(), ends.1.as_fd()) {
            self.keep(&receive, ends.0.as_fd(), notifier);
            self.keep(&send, ends.1.as_fd(), notifier);
        }
    }

    /// The scoreboard is to outlive this process.
    pub(crate) fn keep_scoreboard(&mut self, board: &Scoreboard, notifier: &mut Notifier) {
        self.keep(SCOREBOARD, board.as_fd(), notifier);
    }

    /// These, and no others, are the listeners that are to outlive this process.
    pub(crate) fn keep_listeners(&mut self, listeners: &[(String, BorrowedFd<'_>)], notifier: &mut Notifier) {
        let gone: Vec<String> = self
            .names
            .iter()
            .filter(|name| name.starts_with(LISTENER) && !listeners.iter().any(|(kept, _)| kept == *name))
            .cloned()
            .collect();
        for name in gone {
            self.remove(&name, notifier);
        }
        for (name, fd) in listeners {
            self.keep(name, *fd, notifier);
        }
    }

    /// systemd compares open files, so one that it has already is not stored twice.
    fn keep(&mut self, name: &str, fd: BorrowedFd<'_>, notifier: &mut Notifier) {
        if self.available && !self.names.contains(name) && notifier.store(name, fd) {
            self.names.insert(name.to_owned());
        }
    }

    /// What lies there under this name is no longer of use.
    pub(crate) fn remove(&mut self, name: &str, notifier: &mut Notifier) {
        self.names.remove(name);
        if self.available {
            notifier.remove_stored(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgunicorn_protocol::Channel;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (receive, send) = Channel::pair().unwrap();
        (receive.into_fd(), send.into_fd())
    }

    fn stored(name: &str, fd: impl AsFd) -> Stored {
        Stored { name: name.to_owned(), fd: fd.as_fd().try_clone_to_owned().unwrap() }
    }

    #[test]
    fn a_listeners_name_tells_its_bind_and_its_file() {
        for bind in ["127.0.0.1:8000", "[::1]:0", "unix:/run/a b/%41:\u{e9}.sock", "unix:@x"] {
            for file in [None, Some((7, 8))] {
                let name = name_of_listener(bind, file).unwrap();
                assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{name}");
                assert_eq!(listener(&name), Ok((bind.to_owned(), file)));
            }
        }
        assert_eq!(name_of_listener(&":".repeat(100), None), None);
    }

    #[test]
    fn a_socket_unit_may_be_named_as_the_program_is() {
        for unit in ["rgunicorn.socket", "rgunicorn.shop.socket", "rgunicorn@shop.socket", "http"] {
            assert!(!is_stored(unit), "{unit}");
        }
        let listener = name_of_listener("unix:/run/own.socket", Some((7, 8))).unwrap();
        assert!(listener.ends_with(".socket"));
        for kept in
            [listener.as_str(), SCOREBOARD, "rgunicorn.handoff.2.1-2.send", "rgunicorn.of.a.later.version", "stored"]
        {
            assert!(is_stored(kept), "{kept}");
        }
    }

    #[test]
    fn a_handoff_comes_back_whole_or_not_at_all() {
        let (receive, send) = pair();
        let [a, b] = names_of_handoff(receive.as_fd(), send.as_fd()).unwrap();
        let returned = examine(vec![stored(&a, &receive), stored(&b, &send)]);
        let found = returned.handoff.unwrap();
        assert_eq!(fstat(&found.0).unwrap().st_ino, fstat(&receive).unwrap().st_ino);
        assert!(returned.refused.is_empty());

        let half = examine(vec![stored(&b, &send)]);
        assert!(half.handoff.is_none());
        assert!(half.refused[0].1.contains("missing"));
        let swapped = examine(vec![stored(&b, &receive), stored(&a, &send)]);
        assert!(swapped.handoff.is_none() && swapped.refused.len() == 2);
    }

    #[test]
    fn a_handoff_of_another_form_is_refused_and_says_so() {
        let (receive, send) = pair();
        let [name, _] = names_of_handoff(receive.as_fd(), send.as_fd()).unwrap();
        let name = name.replacen(&format!(".{HANDOFF_FORM}."), ".99.", 1);
        let returned = examine(vec![stored(&name, &receive)]);
        assert!(returned.refused[0].1.contains("form 99"), "{:?}", returned.refused);
    }

    #[test]
    fn the_figures_come_back_and_what_is_foreign_does_not() {
        let board = Scoreboard::create().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let returned = examine(vec![
            stored(SCOREBOARD, &board),
            stored("rgunicorn.something", &file),
            stored("stored", &file),
            stored("rgunicorn.listener.x", &file),
        ]);
        assert!(returned.scoreboard.is_some());
        assert_eq!(returned.refused.len(), 3, "{:?}", returned.refused);
        assert!(examine(vec![stored(SCOREBOARD, &file)]).scoreboard.is_none());
    }
}

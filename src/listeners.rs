//! Listening sockets: adopted from systemd or from whoever started us, or bound here.
//!
//! Owns the sockets and their identity: a reload that wants an address which is open keeps the very same socket, with
//! its backlog, and never closes and reopens it. Knows nothing of workers; they are lent duplicates. Invariant: a socket
//! is closed (and its file removed, if we made it) when the last generation that uses it is gone. Activated ones live
//! as long as the process, and inherited ones, which nobody can open again, until a generation is promoted without them:
//! a reload that fails after it has named one takes nothing away.

mod bind;
mod carried;
mod ending;
mod holder;

pub(crate) use carried::Carried;

use crate::settings::{Bind, Settings};
use crate::systemd::activation::{Activated, verify};
use crate::systemd::fdstore::{StoredListener, name_of_listener};
use crate::trouble::Trouble;
use rgunicorn_protocol::ListenerAddress;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::{Rc, Weak};

/// Most listeners of an instance: they travel in one message beside the handoff and the scoreboard.
const MOST: usize = 200;

/// An open listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    /// What it is bound to, the port being the real one.
    pub(crate) address: ListenerAddress,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// Passed by systemd under this number and name.
    Activated { number: i32, name: String },
    /// Found open under the number that `bind = "fd://N"` names.
    Inherited { number: i32 },
    /// Made here for this entry of `bind`.
    Bound { wanted: Bind, file: Option<SocketFile> },
}

/// The file of a unix socket that we made: removed together with it, if it is still the same file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// The socket outlives this process in the fd store, so its file must, too.
    stays: Cell<bool>,
    /// What its mode and owner were made by; none: not known.
    made_by: Cell<Option<MadeBy>>,
}

/// The settings from which the mode and owner of a socket's file come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct MadeBy {
    umask: u32,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl MadeBy {
    fn of(settings: &Settings) -> MadeBy {
        MadeBy { umask: settings.umask, uid: settings.uid, gid: settings.gid }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        use std::os::unix::fs::MetadataExt;
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if same && !self.stays.get() {
            // If it cannot be removed the next start finds it stale and says so.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Its name in the fd store, if it is one that is to be kept there: systemd has those of socket units anyway, and those
    /// that we inherited belong to somebody else.
    pub(crate) fn name_in_store(&self) -> Option<String> {
        match &self.origin {
            Origin::Bound { wanted, file } => {
                name_of_listener(&wanted.to_string(), file.as_ref().map(|file| (file.device, file.inode)))
            }
            Origin::Activated { .. } | Origin::Inherited { .. } => None,
        }
    }

    /// The process is about to end and the socket lives on.
    pub(crate) fn leave_file(&self) {
        if let Origin::Bound { file: Some(file), .. } = &self.origin {
            file.stays.set(true);
        }
    }

    /// Gives a socket that we made the backlog and its file the mode and owner that the settings want, which may be others
    /// than those with which it was made. What they have made already is left as it is: an operator may have changed
    /// it by hand.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn follow(&self, settings: &Settings) -> Result<(), String> {
        let Origin::Bound { file, .. } = &self.origin else { return Ok(()) };
        bind::renew_backlog(&self.fd, settings);
        let wanted = MadeBy::of(settings);
        let Some(file) = file.as_ref().filter(|file| file.made_by.get() != Some(wanted)) else { return Ok(()) };
        bind::renew_file(file, settings)
            .map_err(|error| format!("{} keeps the mode and owner that it has: {error}", file.path.display()))?;
        file.made_by.set(Some(wanted));
        Ok(())
    }

    /// Nobody is let in any more; what waits in the backlog can still be accepted. To be called before it is closed,
    /// which resets whatever waits. Only of a socket that we made: others would lose theirs.
    pub(crate) fn let_nobody_in(&self) {
        match self.origin {
            Origin::Bound { .. } => ending::let_nobody_in(&self.fd, &self.address),
            Origin::Inherited { .. } | Origin::Activated { .. } => {}
        }
    }

    /// Whether it was opened by this instance, which alone decides when it ends.
    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.origin, Origin::Bound { .. })
    }

    /// Whether we made it, so that nobody else keeps its backlog.
    pub(crate) fn is_own(&self) -> bool {
        match self.origin {
            Origin::Bound { .. } | Origin::Inherited { .. } => true,
            Origin::Activated { .. } => false,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `http://127.0.0.1:8000`, `unix:/run/app.sock`, for records.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            ListenerAddress::Tcp { address } => write!(f, "http://{address}")?,
            ListenerAddress::Unix { path } => write!(f, "unix:{path}")?,
        }
        match &self.origin {
            Origin::Activated { name, .. } => write!(f, " ({name}, from systemd)"),
            Origin::Inherited { number } => write!(f, " (fd {number})"),
            Origin::Bound { .. } => Ok(()),
        }
    }
}

/// The listeners of one generation, and what the operator should know of how they came about.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) listeners: Vec<Rc<Listener>>,
    /// Those of them that were not open before.
    pub(crate) new: Vec<Rc<Listener>>,
    pub(crate) remarks: Vec<String>,
}

/// All listeners of the process.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    activated: Vec<Rc<Listener>>,
    /// Those that an earlier arbiter had bound, until the first reading of the settings has taken what it wants.
    stored: Vec<StoredListener>,
    /// Those that an entry of `bind` has named.
    inherited: Vec<Rc<Listener>>,
    open: Vec<Weak<Listener>>,
    /// Remarks are made once.
    remarked: Vec<String>,
}

impl Listeners {
    /// Takes over what systemd passed, of sockets and out of its fd store.
    pub(crate) fn adopt(activated: Vec<Activated>, stored: Vec<StoredListener>) -> Listeners {
        let adopt = |socket: Activated| {
            let origin = Origin::Activated { number: socket.number, name: socket.name };
            Rc::new(Listener { fd: socket.fd, address: socket.address, origin })
        };
        Listeners { activated: activated.into_iter().map(adopt).collect(), stored, ..Listeners::default() }
    }

    /// Closes what came out of the fd store and nobody wants, with the reason for each name.
    pub(crate) fn close_unwanted(&mut self) -> Vec<(String, String)> {
        let unwanted = std::mem::take(&mut self.stored).into_iter();
        unwanted.map(|stored| (stored.name, format!("bind = \"{}\" is no longer wanted", stored.bind))).collect()
    }

    /// A generation is promoted that uses these: the inherited ones that it does without end with their last user.
    pub(crate) fn settle(&mut self, used: &[Rc<Listener>]) {
        self.inherited.retain(|listener| used.iter().any(|other| Rc::ptr_eq(listener, other)));
    }

    /// Opens what the settings want and is not open yet. The order is that of systemd, then that of `bind`.
    ///
    /// # Errors
    /// A sentence that names the place in the settings, the address, why it cannot be listened on and what to do. Nothing
    /// has changed then: what was opened on the way is closed again.
    pub(crate) fn open(&mut self, settings: &Settings) -> Result<Opened, Trouble> {
        self.open.retain(|listener| listener.strong_count() > 0);
        let mut opened = Opened { listeners: self.activated.clone(), new: Vec::new(), remarks: Vec::new() };
        // A default gives way to what systemd passes; what somebody has set is wanted in addition.
        let wanted: &[Bind] =
            if settings.bind_origin.is_some() || self.activated.is_empty() { &settings.bind } else { &[] };
        let place = settings.bind_origin.iter().map(|origin| format!("{origin}: ")).collect::<String>();
        for wanted in wanted {
            self.open_one(wanted, settings, &mut opened).map_err(|wrong| wrong.said(|why| format!("{place}{why}")))?;
        }
        if opened.listeners.len() > MOST {
            return Err(format!(
                "{place}bind: {} listeners are more than the {MOST} that are possible",
                opened.listeners.len()
            )
            .into());
        }
        self.open.extend(opened.new.iter().map(Rc::downgrade));
        opened.remarks.retain(|remark| !self.remarked.contains(remark));
        self.remarked.extend(opened.remarks.iter().cloned());
        Ok(opened)
    }

    fn open_one(&mut self, wanted: &Bind, settings: &Settings, opened: &mut Opened) -> Result<(), Trouble> {
        if let Some(found) = self.find_open(wanted, opened) {
            if !opened.listeners.iter().any(|listener| Rc::ptr_eq(listener, &found)) {
                opened.listeners.push(found);
            }
            return Ok(());
        }
        if let Some(found) = self.activated.iter().find(|listener| is_bound_to(listener, wanted)) {
            opened.remarks.push(format!("bind = \"{wanted}\" is what systemd passes: {found}"));
            return Ok(());
        }
        let listener = match wanted {
            Bind::FdName(name) => {
                let names: Vec<&str> = self.activated.iter().filter_map(|listener| listener.fd_name()).collect();
                let passed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(format!(
                    "bind = \"{wanted}\": systemd passed no socket with FileDescriptorName={name} (it passed: {passed})"
                )
                .into());
            }
            Bind::Fd(number) => {
                let listener =
                    Rc::new(inherit(*number).map_err(|wrong| format!("bind = \"{wanted}\": fd {number} {wrong}"))?);
                self.inherited.push(Rc::clone(&listener));
                listener
            }
            Bind::Tcp { .. } | Bind::Unix(_) | Bind::UnixAbstract(_) => {
                let (fd, address, file) = match self.restore(wanted, settings) {
                    Some(restored) => restored,
                    None => bind::bind(wanted, settings)
                        .map_err(|wrong| wrong.said(|why| format!("cannot listen on {wanted}: {why}")))?,
                };
                Rc::new(Listener { fd, address, origin: Origin::Bound { wanted: wanted.clone(), file } })
            }
        };
        if !self.activated.is_empty() {
            opened.remarks.push(format!(
                "bind = \"{wanted}\" is listened on in addition to what systemd passes ({}); remove it from the settings if \
                 it is not wanted",
                self.activated.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ));
        }
        opened.listeners.push(Rc::clone(&listener));
        opened.new.push(listener);
        Ok(())
    }

    /// The socket that an earlier arbiter had bound for the same entry, with all who wait in its backlog.
    fn restore(&mut self, wanted: &Bind, settings: &Settings) -> Option<bind::Bound> {
        let text = wanted.to_string();
        let at = self.stored.iter().position(|stored| {
            stored.bind == text && verify(&stored.fd).is_ok() && bind::may_be_restored(wanted, stored.file)
        })?;
        let StoredListener { fd, file, .. } = self.stored.swap_remove(at);
        let address = verify(&fd).ok()?;
        bind::renew_backlog(&fd, settings);
        let file = match (wanted, file) {
            (Bind::Unix(path), Some((device, inode))) => Some(SocketFile {
                path: path.clone(),
                device,
                inode,
                stays: Cell::new(false),
                made_by: Cell::new(None),
            }),
            (Bind::Tcp { .. } | Bind::UnixAbstract(_) | Bind::Unix(_) | Bind::Fd(_) | Bind::FdName(_), _) => None,
        };
        Some((fd, address, file))
    }

    /// A socket that was opened for the same entry of `bind`, now or by an earlier reading of the settings.
    fn find_open(&self, wanted: &Bind, opened: &Opened) -> Option<Rc<Listener>> {
        let earlier = self.open.iter().filter_map(Weak::upgrade);
        let passed = self.activated.iter().chain(&self.inherited).cloned();
        opened.new.iter().cloned().chain(earlier).chain(passed).find(|listener| match (&listener.origin, wanted) {
            (Origin::Bound { wanted: before, file }, wanted) => {
                // Whose file is gone, or is somebody else's by now, cannot be reached any more.
                before == wanted && bind::may_be_restored(wanted, file.as_ref().map(|file| (file.device, file.inode)))
            }
            (Origin::Inherited { number } | Origin::Activated { number, .. }, Bind::Fd(wanted)) => number == wanted,
            (Origin::Activated { name, .. }, Bind::FdName(wanted)) => name == wanted,
            (Origin::Inherited { .. } | Origin::Activated { .. }, _) => false,
        })
    }
}

impl Listener {
    fn fd_name(&self) -> Option<&str> {
        match &self.origin {
            Origin::Activated { name, .. } => Some(name),
            Origin::Inherited { .. } | Origin::Bound { .. } => None,
        }
    }
}

/// Whether a socket listens exactly where an entry of `bind` wants it.
fn is_bound_to(listener: &Listener, wanted: &Bind) -> bool {
    match (&listener.address, wanted) {
        (ListenerAddress::Tcp { address }, Bind::Tcp { host, port }) => {
            let host = if host.is_empty() { "0.0.0.0" } else { host };
            address.port() == *port && host.parse() == Ok(address.ip())
        }
        (ListenerAddress::Unix { path }, Bind::Unix(wanted)) => std::path::Path::new(path) == wanted,
        (ListenerAddress::Unix { path }, Bind::UnixAbstract(name)) => path.strip_prefix('@') == Some(name),
        (ListenerAddress::Tcp { .. } | ListenerAddress::Unix { .. }, _) => false,
    }
}

/// Takes over a socket that was open under this number when we were started.
fn inherit(number: i32) -> Result<Listener, String> {
    use std::os::fd::FromRawFd;
    // Our own fds are CLOEXEC from birth, those that we were started with are not: so only the latter can be meant.
    // SAFETY: F_GETFD only asks; an fd that is not open is answered by EBADF.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err("is not open".into());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err("is one of the arbiter's own and was not inherited".into());
    }
    // SAFETY: the fd is open, was inherited, and is taken once: from now on it is CLOEXEC, see above.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match verify(&fd) {
        Ok(address) => Ok(Listener { fd, address, origin: Origin::Inherited { number } }),
        Err(wrong) => {
            // It stays open: somebody else may have a use for it.
            std::mem::forget(fd);
            Err(wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn settings(bind: &[Bind]) -> Settings {
        Settings { bind: bind.to_vec(), bind_origin: Some("a.toml:1".into()), backlog: 16, ..Settings::default() }
    }

    fn local() -> Bind {
        Bind::Tcp { host: "127.0.0.1".into(), port: 0 }
    }

    fn activated(name: &str) -> Activated {
        let fd: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
        let address = verify(&fd).unwrap();
        Activated { name: name.into(), number: 3, fd, address }
    }

    #[test]
    fn a_second_reading_keeps_the_same_socket_and_closes_what_nobody_uses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let unix = Bind::Unix(path.clone());
        let mut listeners = Listeners::default();
        let first = listeners.open(&settings(&[local(), unix])).unwrap();
        let second = listeners.open(&settings(&[local()])).unwrap();
        assert!(Rc::ptr_eq(&first.listeners[0], &second.listeners[0]));
        assert!(second.new.is_empty());
        assert!(path.exists());
        drop(first);
        assert!(!path.exists(), "the file goes with the last user of its socket");
    }

    #[test]
    fn an_inherited_socket_outlives_readings_that_fail_and_ends_when_a_generation_is_promoted_without_it() {
        use std::os::fd::{AsRawFd, IntoRawFd};
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let in_use = Bind::Tcp { host: "127.0.0.1".into(), port: taken.local_addr().unwrap().port() };
        let passed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        // As if it had come over execve(2).
        nix::fcntl::fcntl(&passed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let number = passed.into_raw_fd();

        let mut listeners = Listeners::default();
        listeners.open(&settings(&[Bind::Fd(number), in_use])).unwrap_err();
        for _ in 0..2 {
            let thrown_away = listeners.open(&settings(&[Bind::Fd(number)])).unwrap();
            assert_eq!(thrown_away.listeners[0].as_fd().as_raw_fd(), number);
        }
        let mut after_an_upgrade = Listeners::of(&listeners.all());
        drop(listeners);
        std::net::TcpStream::connect(address).unwrap();
        after_an_upgrade.settle(&[]);
        assert_eq!(std::net::TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_socket_whose_file_is_gone_or_replaced_is_bound_anew_and_the_old_one_leaves_the_new_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let wanted = settings(&[Bind::Unix(path.clone())]);
        let mut listeners = Listeners::default();
        let first = listeners.open(&wanted).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = listeners.open(&wanted).unwrap();
        assert!(!Rc::ptr_eq(&first.listeners[0], &second.listeners[0]));
        drop(first);
        UnixStream::connect(&path).unwrap();
        let third = listeners.open(&wanted).unwrap();
        assert!(Rc::ptr_eq(&second.listeners[0], &third.listeners[0]));

        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let wrong = listeners.open(&wanted).unwrap_err().to_string();
        assert!(wrong.contains("in use"), "{wrong}");
        drop((second, third, other));
        assert!(path.exists(), "it is not ours to remove");
    }

    #[test]
    fn a_socket_that_stays_follows_the_umask_and_not_over_what_was_changed_by_hand() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let before = settings(&[Bind::Unix(path.clone())]);
        let opened = Listeners::default().open(&before).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o777);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
        opened.listeners[0].follow(&before).unwrap();
        assert_eq!(mode(), 0o660);
        opened.listeners[0].follow(&Settings { umask: 0o077, ..before }).unwrap();
        assert_eq!(mode(), 0o700);
    }

    #[test]
    fn a_default_bind_gives_way_to_activated_sockets_and_a_set_one_does_not() {
        let mut listeners = Listeners::adopt(vec![activated("web")], Vec::new());
        let silent = Settings { bind_origin: None, ..settings(&[local()]) };
        let opened = listeners.open(&silent).unwrap();
        assert_eq!((opened.listeners.len(), opened.remarks.len()), (1, 0));
        assert!(opened.listeners[0].to_string().ends_with("(web, from systemd)"));

        let opened = listeners.open(&settings(&[local()])).unwrap();
        assert_eq!((opened.listeners.len(), opened.remarks.len()), (2, 1));
        assert!(opened.remarks[0].contains("in addition"));

        let opened = listeners.open(&settings(&[Bind::FdName("web".into())])).unwrap();
        assert_eq!(opened.listeners.len(), 1);
        let wrong = listeners.open(&settings(&[Bind::FdName("admin".into())])).unwrap_err().to_string();
        assert!(wrong.contains("admin") && wrong.contains("web"), "{wrong}");
    }

    #[test]
    fn a_stored_listener_is_taken_again_with_its_backlog_and_its_file_and_others_are_closed() {
        let folder = tempfile::tempdir().unwrap();
        let unix = Bind::Unix(folder.path().join("s.sock"));
        let wanted = [local(), unix.clone(), Bind::Unix(folder.path().join("gone.sock"))];
        let before = Listeners::default().open(&settings(&wanted)).unwrap().listeners;
        let stored: Vec<_> = before
            .iter()
            .map(|listener| crate::systemd::fdstore::Stored {
                name: listener.name_in_store().unwrap(),
                fd: listener.as_fd().try_clone_to_owned().unwrap(),
            })
            .collect();
        before.iter().take(2).for_each(|listener| listener.leave_file());
        let port = before[0].address.clone();
        drop(before);
        let mut waiting = UnixStream::connect(folder.path().join("s.sock")).unwrap();

        let returned = crate::systemd::fdstore::examine(stored);
        let mut listeners = Listeners::adopt(Vec::new(), returned.listeners);
        let after = listeners.open(&settings(&wanted)).unwrap().listeners;
        assert_eq!(after[0].address, port, "even where the kernel had chosen the port");
        let accepted = nix::sys::socket::accept(std::os::fd::AsRawFd::as_raw_fd(&after[1].as_fd())).unwrap();
        // SAFETY: the kernel has just made this fd for us.
        drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(accepted) });
        assert_eq!(std::io::Read::read(&mut waiting, &mut [0]).unwrap(), 0, "it was accepted and closed");
        UnixStream::connect(folder.path().join("gone.sock")).unwrap();
        let unwanted = listeners.close_unwanted();
        assert!(unwanted.len() == 1 && unwanted[0].1.contains("gone.sock"), "its file was gone: {unwanted:?}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        let mut listeners = Listeners::default();
        let ours = listeners.open(&settings(&[Bind::Unix(path.clone())])).unwrap();
        UnixStream::connect(&path).unwrap();

        let wrong = Listeners::default().open(&settings(&[Bind::Unix(path.clone())])).unwrap_err().to_string();
        assert!(wrong.contains(&format!("pid {}", std::process::id())), "{wrong}");
        UnixStream::connect(&path).unwrap();
        drop(ours);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let wrong = Listeners::default().open(&settings(&[Bind::Unix(path.clone())])).unwrap_err().to_string();
        assert!(wrong.contains("not a socket"), "{wrong}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn an_address_in_use_names_who_holds_it() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let bind = Bind::Tcp { host: "127.0.0.1".into(), port: holder.local_addr().unwrap().port() };
        let wrong = Listeners::default().open(&settings(&[bind])).unwrap_err().to_string();
        assert!(wrong.contains("in use") && wrong.contains(&format!("pid {}", std::process::id())), "{wrong}");
    }

    #[test]
    fn both_wildcards_can_be_bound_to_one_port() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let both = [Bind::Tcp { host: "0.0.0.0".into(), port }, Bind::Tcp { host: "::".into(), port }];
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            assert_eq!(Listeners::default().open(&settings(&both)).unwrap().listeners.len(), 2);
        }
    }
}

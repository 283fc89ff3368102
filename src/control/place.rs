//! Where the control socket is, and how it gets there.
//!
//! Owns one path in the file system, from the bind to the removal. Invariants: the socket never exists with wider
//! permissions than it shall have; one on which somebody listens is never taken away; only what is still ours is removed.

use crate::settings::Settings;
use crate::socket_file;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, Backlog};
use nix::unistd::geteuid;
use rgunicorn_protocol::control::{SOCKET, folder};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a start waits for another one that makes its socket in the same folder.
const LOCK_TIME: Duration = Duration::from_secs(2);
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// A bound socket, removed when dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// Device and inode of the socket's file.
    pub(super) identity: (u64, u64),
    /// Its folder is made if it is not there.
    pub(super) makes_folder: bool,
    /// The folder that was made for it, removed with it.
    pub(super) folder: Option<PathBuf>,
    /// The permissions of the socket's file.
    pub(super) mode: u32,
}

/// What the environment says of runtime directories.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    /// RUNTIME_DIRECTORY: systemd has made one for this service (systemd.exec(5)).
    pub(super) service: Option<OsString>,
    /// XDG_RUNTIME_DIR: the user's session has one.
    pub(super) session: Option<OsString>,
    /// Where root's are: /run.
    pub(super) run: PathBuf,
}

impl Surroundings {
    pub(super) fn of_this_process() -> Surroundings {
        Surroundings {
            service: std::env::var_os("RUNTIME_DIRECTORY"),
            session: std::env::var_os("XDG_RUNTIME_DIR"),
            run: PathBuf::from("/run"),
        }
    }

    /// Places for the socket, the best first: a path, and whether its folder is ours to make.
    fn candidates(&self, settings: &Settings) -> Vec<(PathBuf, bool)> {
        if let Some(path) = &settings.control_socket {
            return vec![(path.clone(), false)];
        }
        if let Some(list) = self.service.as_ref().filter(|list| !list.is_empty()) {
            // Several directories are separated by colons.
            let first = list.to_string_lossy().split(':').next().map(PathBuf::from).unwrap_or_default();
            return vec![(first.join(SOCKET), false)];
        }
        let folder = folder(&settings.instance, std::process::id());
        let mut bases = Vec::new();
        if geteuid().is_root() {
            bases.push(self.run.clone());
        }
        bases.extend(self.session.as_ref().filter(|path| Path::new(path).is_absolute()).map(PathBuf::from));
        bases.into_iter().map(|base| (base.join(&folder).join(SOCKET), true)).collect()
    }
}

impl Place {
    /// Binds the socket at the first place where that works.
    ///
    /// # Errors
    /// A sentence that names every place and what is wrong with it.
    pub(super) fn find(settings: &Settings, around: &Surroundings) -> Result<Place, String> {
        let mut wrong = Vec::new();
        for (path, make_folder) in around.candidates(settings) {
            match Place::bind(&path, make_folder, settings.control_socket_mode, LOCK_TIME) {
                Ok(place) => return Ok(place),
                Err(reason) => wrong.push(format!("{}: {reason}", path.display())),
            }
        }
        if wrong.is_empty() {
            return Err("neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR is set".to_owned());
        }
        Err(wrong.join("; "))
    }

    fn bind(path: &Path, makes_folder: bool, mode: u32, lock_time: Duration) -> Result<Place, String> {
        let parent = path.parent().ok_or("no folder is named")?;
        let mut folder = None;
        if makes_folder {
            clear_dead_neighbours(parent);
            if own_folder(parent)? {
                folder = Some(parent.to_owned());
            }
        }
        let bound = bind_below(parent, path, mode, lock_time);
        if let (Err(_), Some(folder)) = (&bound, &folder) {
            let _ = std::fs::remove_dir(folder);
        }
        let (listener, identity) = bound?;
        Ok(Place { listener, path: path.to_owned(), identity, makes_folder, folder, mode })
    }

    /// Whether its file is still there.
    pub(super) fn is_there(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// Binds another socket at the same place. Waits for nobody.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn again(&self) -> Result<Place, String> {
        let mut place = Place::bind(&self.path, self.makes_folder, self.mode, Duration::ZERO)?;
        if place.folder.is_none() {
            place.folder.clone_from(&self.folder);
        }
        Ok(place)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Binds, after removing what a process that was killed has left there. Two that start at the same time wait for each
/// other, for so long at most.
fn bind_below(
    folder: &Path,
    path: &Path,
    mode: u32,
    lock_time: Duration,
) -> Result<(UnixListener, (u64, u64)), String> {
    let text = |error: io::Error| error.to_string();
    let errno = |errno: Errno| errno.desc().to_owned();
    let mut folder = std::fs::File::open(folder).map_err(text)?;
    let until = Instant::now() + lock_time;
    let _lock = loop {
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < until => folder = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => return Err("another process holds a lock (flock) of its folder".to_owned()),
            Err((_, errno)) => return Err(errno.desc().to_owned()),
        }
        std::thread::sleep(LOCK_AGAIN);
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
        Ok(found) if !found.file_type().is_socket() => return Err("a file that is no socket is there".to_owned()),
        Ok(_) if socket_file::listened_to(path).map_err(errno)?.is_some() => {
            return Err("another process listens there; is this instance running already?".to_owned());
        }
        Ok(_) => std::fs::remove_file(path).map_err(text)?,
    }
    let fd = socket_file::stream().map_err(errno)?;
    socket_file::bind(&fd, path, mode).map_err(errno)?;
    socket::listen(&fd, Backlog::MAXCONN).map_err(errno)?;
    let found = path.symlink_metadata().map_err(text)?;
    Ok((UnixListener::from(fd), (found.dev(), found.ino())))
}

/// Makes the folder, or makes sure that nobody else can put things into it. Whether it was made.
fn own_folder(path: &Path) -> Result<bool, String> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.to_string()),
    }
    let found = path.symlink_metadata().map_err(|error| error.to_string())?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err("its folder exists and belongs to somebody else, or others may write to it".to_owned());
    }
    Ok(false)
}

/// Removes the folders of instances without a name that were killed: they are called by a pid that no process has.
fn clear_dead_neighbours(folder: &Path) {
    let Some(Ok(entries)) = folder.parent().map(std::fs::read_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid =
            name.to_str().and_then(|name| name.strip_prefix("rgunicorn-")).and_then(|pid| pid.parse::<u32>().ok());
        let socket = entry.path().join(SOCKET);
        // One that lives in another pid namespace has no /proc entry here, but listens.
        let listens = || socket_file::listened_to(&socket).is_ok_and(|listener| listener.is_some());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) && !listens() {
            let _ = std::fs::remove_file(&socket);
            // Fails if anything else is in it.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn around(session: &Path) -> Surroundings {
        Surroundings { service: None, session: Some(session.into()), run: session.to_owned() }
    }

    fn settings(instance: &str) -> Settings {
        Settings { instance: instance.into(), control_socket_mode: 0o600, ..Settings::default() }
    }

    #[test]
    fn the_socket_is_ours_alone_and_goes_with_its_folder() {
        let base = tempfile::tempdir().unwrap();
        let place = Place::find(&settings("shop"), &around(base.path())).unwrap();
        let path = base.path().join("rgunicorn-shop/control.sock");
        assert_eq!(place.path(), path);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(place);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("rgunicorn-shop/control.sock");
        std::fs::DirBuilder::new().mode(0o700).create(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let place = Place::find(&settings("shop"), &around(base.path())).unwrap();
        let wrong = Place::find(&settings("shop"), &around(base.path())).unwrap_err();
        assert!(wrong.contains("another process listens"), "{wrong}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(place);
        assert!(!path.exists() && path.parent().unwrap().exists(), "the folder was there before");
    }

    #[test]
    fn a_socket_that_took_our_place_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let place = Place::find(&settings("shop"), &around(base.path())).unwrap();
        let path = place.path().to_owned();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(place);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_place_is_taken_again_with_its_folder_and_waits_for_nobody() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("rgunicorn-shop");
        std::fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        let place = Place::find(&settings("shop"), &around(base.path())).unwrap();
        assert!(place.is_there());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(!place.is_there());
        let again = place.again().unwrap();
        drop(place);
        assert!(again.is_there());
        UnixStream::connect(again.path()).unwrap();

        std::fs::remove_file(again.path()).unwrap();
        let lock = Flock::lock(std::fs::File::open(&folder).unwrap(), FlockArg::LockExclusive).unwrap();
        assert!(again.again().unwrap_err().contains("flock"));
        drop(lock);
        let other = socket_file::stream().unwrap();
        socket_file::bind(&other, again.path(), 0o600).unwrap();
        socket::listen(&other, Backlog::new(0).unwrap()).unwrap();
        let _fills = UnixStream::connect(again.path()).unwrap();
        assert!(again.again().unwrap_err().contains("another process listens"));
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("important");
        std::fs::write(&path, "data").unwrap();
        let settings = Settings { control_socket: Some(path.clone()), ..settings("") };
        assert!(Place::find(&settings, &around(base.path())).unwrap_err().contains("no socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("rgunicorn-shop");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Place::find(&settings("shop"), &around(base.path())).is_err());
    }

    #[test]
    fn folders_of_unnamed_instances_that_were_killed_are_cleared_away() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("rgunicorn-999999999");
        std::fs::create_dir(&dead).unwrap();
        drop(UnixListener::bind(dead.join(SOCKET)).unwrap());
        let place = Place::find(&settings(""), &around(base.path())).unwrap();
        assert!(place.path().parent().unwrap().ends_with(format!("rgunicorn-{}", std::process::id())));
        assert!(!dead.exists());
    }

    #[test]
    fn without_any_runtime_directory_a_sentence_says_so() {
        if geteuid().is_root() {
            return;
        }
        assert!(Place::find(&settings(""), &Surroundings::default()).unwrap_err().contains("XDG_RUNTIME_DIR"));
    }
}

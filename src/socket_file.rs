//! Files of unix sockets: whether somebody listens there, and binding one that has the wanted mode, without umask(2), which
//! would be every thread's.
//!
//! Owns nothing. Invariants: the file never has a bit that it shall not have; nothing here waits.

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A socket that is neither bound nor connected.
///
/// # Errors
/// Those of socket(2).
pub(crate) fn stream() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// A socket that has tried to connect to `path`, if somebody listens there. None: the file is stale.
///
/// # Errors
/// As connect(2) has: there is no such file, it may not be used, somebody has a socket of another kind there.
pub(crate) fn listened_to(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let probe = stream()?;
    match socket::connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        // EAGAIN: somebody listens whose backlog is full.
        Ok(()) | Err(Errno::EAGAIN) => Ok(Some(probe)),
        Err(Errno::ECONNREFUSED) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Binds `fd` to `path`, a file with these permissions. It does not listen yet, so nobody is turned away meanwhile.
///
/// # Errors
/// As bind(2) has; the mode cannot be set, and then the file is removed.
pub(crate) fn bind(fd: &OwnedFd, path: &Path, mode: u32) -> Result<(), Errno> {
    let address = UnixAddr::new(path)?;
    // Linux makes the file with the mode of the socket's own inode, less the umask.
    fchmod(fd, Mode::from_bits_truncate(mode))?;
    socket::bind(fd.as_raw_fd(), &address)?;
    set_mode(path, mode).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

/// Gives a file these permissions, if it has others. A link that somebody puts there is not followed.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Errno> {
    let found = std::fs::symlink_metadata(path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    if found.mode() & 0o777 == mode {
        return Ok(());
    }
    fchmodat(AT_FDCWD, path, Mode::from_bits_truncate(mode), FchmodatFlags::NoFollowSymlink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockname;

    #[test]
    fn the_file_has_the_mode_whatever_the_umask_is() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o600, 0o660, 0o200] {
            let path = folder.path().join(format!("{mode:o}.sock"));
            let fd = stream().unwrap();
            bind(&fd, &path, mode).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, mode);
            assert_eq!(getsockname::<UnixAddr>(fd.as_raw_fd()).unwrap().path(), Some(path.as_path()));
        }
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "").unwrap();
        let before = std::fs::metadata(&file).unwrap().mode();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        set_mode(&link, 0o600).unwrap_err();
        assert_eq!(std::fs::metadata(&file).unwrap().mode(), before);
    }
}

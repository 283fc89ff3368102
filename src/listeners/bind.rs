//! Binding our own sockets, with an explanation for each way in which it can fail.
//!
//! Owns the system calls and the handling of socket files. Knows nothing of who uses the socket. Invariant: no file is
//! removed unless it is a socket, nobody answers on it, and it is ours to remove.

use super::{MadeBy, SocketFile, holder};
use crate::settings::{Bind, Settings};
use crate::socket_file;
use crate::systemd::activation::address_of;
use crate::trouble::Trouble;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, sockopt};
use rgunicorn_protocol::ListenerAddress;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

pub(super) type Bound = (OwnedFd, ListenerAddress, Option<SocketFile>);

/// Binds and listens.
///
/// # Errors
/// A clause: why not, and what to do.
pub(super) fn bind(wanted: &Bind, settings: &Settings) -> Result<Bound, Trouble> {
    match wanted {
        Bind::Tcp { host, port } => bind_tcp(host, *port, settings),
        Bind::Unix(path) => bind_unix(path, settings),
        Bind::UnixAbstract(name) => {
            let address = UnixAddr::new_abstract(name.as_bytes())?;
            let fd = stream_socket(AddressFamily::Unix)?;
            socket::bind(fd.as_raw_fd(), &address).map_err(|errno| match errno {
                Errno::EADDRINUSE => Trouble::by(errno, format!("the name is in use{}", holder::of_unix(&address))),
                other => other.into(),
            })?;
            listen(&fd, settings)?;
            let address = address_of(&fd)?;
            Ok((fd, address, None))
        }
        Bind::Fd(_) | Bind::FdName(_) => Err("it is not ours to bind".into()),
    }
}

/// Whether a socket that was made for this entry can still be reached by it: a file must be the one that was made.
pub(super) fn may_be_restored(wanted: &Bind, file: Option<(u64, u64)>) -> bool {
    match (wanted, file) {
        (Bind::Unix(path), Some(file)) => {
            std::fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == file)
        }
        (Bind::Tcp { .. } | Bind::UnixAbstract(_), None) => true,
        (Bind::Unix(_), None) | (Bind::Tcp { .. } | Bind::UnixAbstract(_) | Bind::Fd(_) | Bind::FdName(_), _) => false,
    }
}

/// Sets the backlog of a socket that listens already (listen(2) may be called again).
pub(super) fn renew_backlog(fd: &OwnedFd, settings: &Settings) {
    // It keeps the old one if this fails, which it does for no socket that listens.
    let _ = socket::listen(fd, backlog(settings));
}

/// Gives the file of a socket the mode and owner that it would have if it were made now. One that is not ours any more is
/// left alone.
pub(super) fn renew_file(file: &SocketFile, settings: &Settings) -> std::io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(&file.path) else { return Ok(()) };
    if (found.dev(), found.ino()) != (file.device, file.inode) {
        return Ok(());
    }
    socket_file::set_mode(&file.path, 0o777 & !settings.umask)?;
    let differs = |wanted: Option<u32>, found: u32| wanted.is_some_and(|wanted| wanted != found);
    if differs(settings.uid, found.uid()) || differs(settings.gid, found.gid()) {
        std::os::unix::fs::lchown(&file.path, settings.uid, settings.gid)?;
    }
    Ok(())
}

fn bind_tcp(host: &str, port: u16, settings: &Settings) -> Result<Bound, Trouble> {
    let wanted = resolve(host, port)?;
    let family = if wanted.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = stream_socket(family)?;
    // A restart must not wait for TIME_WAIT. On Linux this does not let two listeners share a port.
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if wanted.ip() == IpAddr::from([0_u16; 8]) {
        // As with Gunicorn, [::] takes IPv4 as well (whatever net.ipv6.bindv6only says), unless 0.0.0.0 is wanted too:
        // then each takes its own, where Gunicorn would find the address in use.
        let beside_ipv4 = settings.bind.iter().any(|other| match other {
            Bind::Tcp { host, port: other } => *other == port && (host.is_empty() || host == "0.0.0.0"),
            Bind::Unix(_) | Bind::UnixAbstract(_) | Bind::Fd(_) | Bind::FdName(_) => false,
        });
        socket::setsockopt(&fd, sockopt::Ipv6V6Only, &beside_ipv4)?;
    }
    let words = |errno| match errno {
        Errno::EADDRINUSE => format!("the address is in use{}", holder::of_port(wanted.port())),
        Errno::EACCES => format!(
            "the port {} needs a privilege (CAP_NET_BIND_SERVICE); let a systemd socket unit own it, or choose one from \
             1024 on",
            wanted.port()
        ),
        Errno::EADDRNOTAVAIL => format!("no network interface of this machine has the address {}", wanted.ip()),
        other => other.to_string(),
    };
    let explain = |errno| Trouble::by(errno, words(errno));
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(wanted)).map_err(explain)?;
    // listen(2) finds a port in use that bind(2) with SO_REUSEADDR did not.
    socket::listen(&fd, backlog(settings)).map_err(explain)?;
    let address = address_of(&fd)?;
    Ok((fd, address, None))
}

/// The address that a host means; for a name that has several, IPv4 is taken first, as Gunicorn does.
fn resolve(host: &str, port: u16) -> Result<SocketAddr, Trouble> {
    if host.is_empty() {
        return Ok(SocketAddr::from(([0, 0, 0, 0], port)));
    }
    let mut found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| Trouble::by_io(&error, format!("the name \"{host}\" cannot be resolved: {error}")))?
        .collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| format!("the name \"{host}\" has no address").into())
}

fn bind_unix(path: &Path, settings: &Settings) -> Result<Bound, Trouble> {
    // Before anything is touched: a path may be too long, and this kind of socket forbidden.
    UnixAddr::new(path)?;
    let fd = stream_socket(AddressFamily::Unix)?;
    clear_the_way(path)?;
    socket_file::bind(&fd, path, 0o777 & !settings.umask).map_err(|errno| {
        let folder = path.parent().unwrap_or(Path::new("/")).display();
        let words = match errno {
            Errno::ENOENT => format!("the folder {folder} does not exist"),
            Errno::EACCES => format!("the folder {folder} is not writable for this user"),
            Errno::EROFS => format!("the folder {folder} is read-only here (ProtectSystem= of the unit?)"),
            Errno::EADDRINUSE => "the file was made by somebody else at this moment".into(),
            other => other.to_string(),
        };
        Trouble::by(errno, words)
    })?;
    let made = std::fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
        stays: Cell::new(false),
        made_by: Cell::new(Some(MadeBy::of(settings))),
    };
    if settings.uid.is_some() || settings.gid.is_some() {
        std::os::unix::fs::lchown(path, settings.uid, settings.gid).map_err(|error| {
            Trouble::by_io(&error, format!("the socket file cannot be given to the workers' user: {error}"))
        })?;
    }
    listen(&fd, settings)?;
    let address = address_of(&fd)?;
    Ok((fd, address, Some(file)))
}

/// Removes a socket file that nobody listens on.
fn clear_the_way(path: &Path) -> Result<(), Trouble> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !found.file_type().is_socket() {
        return Err("there is a file of this name that is not a socket".into());
    }
    match socket_file::listened_to(path) {
        Ok(Some(probe)) => {
            return Err(Trouble::by(Errno::EADDRINUSE, format!("the socket is in use{}", holder::of_peer(&probe))));
        }
        Ok(None) => {}
        Err(Errno::EPROTOTYPE) => return Err("the socket is in use by a service of another kind".into()),
        Err(errno) => {
            let words = format!("there is a socket of this name and whether it is in use cannot be found out: {errno}");
            return Err(Trouble::by(errno, words));
        }
    }
    let me = nix::unistd::geteuid();
    if !me.is_root() && found.uid() != me.as_raw() {
        return Err(
            format!("there is a stale socket of this name that belongs to user {}: remove it", found.uid()).into()
        );
    }
    std::fs::remove_file(path)
        .map_err(|error| Trouble::by_io(&error, format!("there is a stale socket of this name: {error}")))
}

fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Trouble> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket::socket(family, SockType::Stream, flags, None).map_err(|errno| match (errno, family) {
        (Errno::EAFNOSUPPORT, AddressFamily::Inet6) => {
            Trouble::by(errno, "this machine (or RestrictAddressFamilies= of the unit) has no IPv6")
        }
        (Errno::EAFNOSUPPORT, _) => Trouble::by(
            errno,
            "RestrictAddressFamilies= of the unit, or the kernel, does not allow this kind of socket",
        ),
        (other, _) => other.into(),
    })
}

fn listen(fd: &OwnedFd, settings: &Settings) -> Result<(), Trouble> {
    Ok(socket::listen(fd, backlog(settings))?)
}

fn backlog(settings: &Settings) -> Backlog {
    Backlog::new(settings.backlog).unwrap_or(Backlog::MAXCONN)
}

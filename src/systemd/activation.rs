//! The fds that systemd passes: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES (sd_listen_fds(3)). First come the sockets of socket
//! units, then what lies in the fd store, told apart by their names.
//!
//! Owns the adoption of the sockets and their verification at the door; what does not fit is refused by name, since serving less
//! than was configured would go unnoticed. Knows nothing of `bind`. Invariant: every fd that leaves here is CLOEXEC,
//! non-blocking, a stream socket of a family that we serve, and listens.

use super::fdstore::{self, Stored};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{self, AddressFamily, SockaddrLike, SockaddrStorage, sockopt};
use rgunicorn_protocol::ListenerAddress;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

/// A socket that systemd passed.
#[derive(Debug)]
pub(crate) struct Activated {
    /// Its FileDescriptorName=, by default the name of the socket unit.
    pub(crate) name: String,
    /// The number under which it was passed.
    pub(crate) number: i32,
    pub(crate) fd: OwnedFd,
    pub(crate) address: ListenerAddress,
}

/// Takes over what systemd passed. To be called once.
///
/// # Errors
/// A clause for the operator: which fd, by number and name, is not what can be served, and what to change.
pub(crate) fn adopt() -> Result<(Vec<Activated>, Vec<Stored>), String> {
    // libsystemd's own pairing with names drops every fd when LISTEN_FDNAMES is missing.
    let descriptors = libsystemd::activation::receive_descriptors(false)
        .map_err(|error| format!("the sockets that systemd passed cannot be taken over: {error}"))?;
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let (mut activated, mut stored) = (Vec::with_capacity(descriptors.len()), Vec::new());
    for descriptor in descriptors {
        let number = descriptor.into_raw_fd();
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into());
        // SAFETY: LISTEN_PID says that this number was opened for this process, libsystemd has just found it open, and
        // this function is its only taker.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        if fdstore::is_stored(&name) {
            // What is wrong with it is said later; here it only must not be inherited.
            let _ = fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
            stored.push(Stored { name, fd });
            continue;
        }
        let address = verify(&fd).map_err(|wrong| format!("fd {number} ({name}), passed by systemd, {wrong}"))?;
        activated.push(Activated { name, number, fd, address });
    }
    Ok((activated, stored))
}

/// Checks that `fd` is a socket that can be served, and makes it CLOEXEC and non-blocking.
///
/// # Errors
/// A clause that goes on after the fd's name: what it is instead.
pub(crate) fn verify(fd: &OwnedFd) -> Result<ListenerAddress, String> {
    match socket::getsockopt(fd, sockopt::SockType) {
        Ok(socket::SockType::Stream) => {}
        Ok(socket::SockType::Datagram) => return Err("is a datagram socket: use ListenStream=".into()),
        Ok(other) => return Err(format!("is a socket of type {other:?}: use ListenStream=")),
        Err(nix::errno::Errno::ENOTSOCK) => return Err("is no socket".into()),
        Err(nix::errno::Errno::EBADF) => return Err("is not open".into()),
        Err(errno) => return Err(format!("cannot be examined: {errno}")),
    }
    let address = address_of(fd)?;
    match socket::getsockopt(fd, sockopt::AcceptConn) {
        Ok(true) => {}
        Ok(false) => return Err("is a connection and does not listen: use Accept=no".into()),
        Err(errno) => return Err(format!("cannot be examined: {errno}")),
    }
    let prepared = fcntl(fd.as_fd(), FcntlArg::F_GETFL)
        .and_then(|flags| fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK)))
        .and_then(|_| fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)));
    match prepared {
        Ok(_) => Ok(address),
        Err(errno) => Err(format!("cannot be made non-blocking: {errno}")),
    }
}

/// The address that a socket is bound to.
///
/// # Errors
/// A clause that goes on after the fd's name.
pub(crate) fn address_of(fd: &OwnedFd) -> Result<ListenerAddress, String> {
    let address: SockaddrStorage =
        socket::getsockname(fd.as_raw_fd()).map_err(|errno| format!("has no address: {errno}"))?;
    match address.family() {
        Some(AddressFamily::Inet) => {
            let address = address.as_sockaddr_in().ok_or("has no IPv4 address")?;
            Ok(ListenerAddress::Tcp { address: std::net::SocketAddrV4::from(*address).into() })
        }
        Some(AddressFamily::Inet6) => {
            let address = address.as_sockaddr_in6().ok_or("has no IPv6 address")?;
            Ok(ListenerAddress::Tcp { address: std::net::SocketAddrV6::from(*address).into() })
        }
        Some(AddressFamily::Unix) => {
            let address = address.as_unix_addr().ok_or("has no unix address")?;
            let path = match (address.path(), address.as_abstract()) {
                (Some(path), _) => path.display().to_string(),
                (None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
                (None, None) => return Err("is a unix socket without a path".into()),
            };
            Ok(ListenerAddress::Unix { path })
        }
        Some(other) => Err(format!("is of the family {other:?}: only TCP and unix sockets can be served")),
        None => Err("is of an unknown family: only TCP and unix sockets can be served".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn a_listening_stream_socket_is_taken_with_its_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let expected = listener.local_addr().unwrap();
        assert_eq!(verify(&listener.into()), Ok(ListenerAddress::Tcp { address: expected }));
    }

    #[test]
    fn anything_else_is_refused_with_what_it_is() {
        let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        assert!(verify(&udp).unwrap_err().contains("datagram"));
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        assert_eq!(verify(&file).unwrap_err(), "is no socket");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection: OwnedFd = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
        assert!(verify(&connection).unwrap_err().contains("Accept=no"));
    }
}

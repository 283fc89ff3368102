//! How a listening socket ends without a reset: first it lets nobody in, then its backlog is accepted, then it is closed.
//!
//! **The race.** close(2) of a listening socket resets every connection in its backlog. Whoever accepts until accept(2)
//! says EAGAIN, and closes then, resets those that came in between. So nobody must come in between:
//!
//! - A unix socket that is shut down for reading refuses connect(2) and gives out what waits (unix(7), `unix_accept`).
//! - A TCP socket that is shut down loses its backlog at once. But it can have a filter (socket(7), SO_ATTACH_FILTER),
//!   which sees each segment before the handshake does: SYNs are dropped, the last ACK of a handshake that has begun is
//!   not. A client whose SYN was dropped sends it again after a second, and is refused by then.
//!
//! Best effort: where the kernel refuses the filter, the window is as long as it takes to close. So knows no error.

use rgunicorn_protocol::ListenerAddress;
use std::os::fd::{AsRawFd, OwnedFd};

/// Drops a segment with SYN and without ACK. The filter's data begins with the TCP header, whose byte 13 has the flags
/// (RFC 9293 section 3.1).
const NO_SYN: [libc::sock_filter; 5] = [
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x12),
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0x02),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
];

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// See the file's header.
pub(super) fn let_nobody_in(socket: &OwnedFd, address: &ListenerAddress) {
    match address {
        ListenerAddress::Unix { .. } => {
            let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Read);
        }
        ListenerAddress::Tcp { .. } => {
            let mut filter = NO_SYN;
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            // SAFETY: the kernel copies the program, whose length is that of the array, before the call returns.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_ATTACH_FILTER,
                    (&raw const program).cast(),
                    size_of::<libc::sock_fprog>() as libc::socklen_t,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    #[test]
    fn what_waits_at_a_tcp_socket_can_be_accepted_and_nobody_else_comes_in() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let mut waiting = TcpStream::connect(address).unwrap();
        waiting.write_all(b"early").unwrap();
        let socket = listener.as_fd().try_clone_to_owned().unwrap();
        let_nobody_in(&socket, &ListenerAddress::Tcp { address });
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(200)).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        let (mut accepted, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"early");
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop((listener, socket));
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_waits_at_a_unix_socket_can_be_accepted_and_nobody_else_comes_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut waiting = UnixStream::connect(&path).unwrap();
        waiting.write_all(b"early").unwrap();
        let socket = listener.as_fd().try_clone_to_owned().unwrap();
        let_nobody_in(&socket, &ListenerAddress::Unix { path: path.to_string_lossy().into() });
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let (mut accepted, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"early");
    }
}

//! The system calls of the hot path, thin: retried on EINTR, errors as `io::Error`, fds borrowed.
//!
//! Everything `unsafe` of the reactor is here.

use crate::token::Source;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn check(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        match check(call()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// send(2) without SIGPIPE and without waiting.
pub(crate) fn send(socket: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the pointer and the length are of one live slice; the kernel only reads it.
    retry(|| unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) })
}

/// sendmsg(2) of two slices as one, without SIGPIPE and without waiting.
pub(crate) fn send_two(socket: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let mut parts = [
        libc::iovec { iov_base: first.as_ptr().cast_mut().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_ptr().cast_mut().cast(), iov_len: second.len() },
    ];
    // SAFETY: msghdr is plain data, for which all zeroes is the documented empty value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = 2;
    // SAFETY: `message` points to two iovecs over live slices; sendmsg only reads them.
    retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) })
}

/// recv(2) into the spare capacity of `into`, without waiting. `Ok(0)` is the peer's FIN.
pub(crate) fn receive(socket: BorrowedFd<'_>, into: &mut Vec<u8>) -> io::Result<usize> {
    let spare = into.spare_capacity_mut();
    let (pointer, room) = (spare.as_mut_ptr(), spare.len());
    // SAFETY: the pointer and the length are of the vector's spare capacity, which the kernel may overwrite.
    let n = retry(|| unsafe { libc::recv(socket.as_raw_fd(), pointer.cast(), room, libc::MSG_DONTWAIT) })?;
    // SAFETY: the kernel has initialised the first `n` bytes of the spare capacity.
    unsafe { into.set_len(into.len() + n) };
    Ok(n)
}

/// recv(2) and forget, without waiting: what a client sends after the last response.
pub(crate) fn discard(socket: BorrowedFd<'_>, scratch: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and the length are of one live, writable slice.
    retry(|| unsafe { libc::recv(socket.as_raw_fd(), scratch.as_mut_ptr().cast(), scratch.len(), libc::MSG_DONTWAIT) })
}

/// sendfile(2) of at most `length` bytes from `offset`, which moves on. `Ok(0)`: the file has ended.
pub(crate) fn sendfile(socket: BorrowedFd<'_>, file: &OwnedFd, offset: &mut u64, length: u64) -> io::Result<usize> {
    // The kernel sends at most 0x7ffff000 bytes at once; 1 MiB keeps one connection from holding the thread.
    let length = length.min(1 << 20) as usize;
    let mut at = i64::try_from(*offset).map_err(io::Error::other)?;
    // SAFETY: `at` lives over the call and both fds are open.
    let n = retry(|| unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &mut at, length) })?;
    *offset += n as u64;
    Ok(n)
}

/// accept4(2), CLOEXEC and non-blocking. The peer's address is in the form of the kernel.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<std::net::SocketAddr>)> {
    // SAFETY: sockaddr_storage is plain data, for which all zeroes is a valid value.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let fd = retry(|| {
        // SAFETY: `address` and `length` live over the call, and `length` is the size of `address`.
        (unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                (&raw mut address).cast(),
                &raw mut length,
                libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            )
        }) as libc::ssize_t
    })?;
    // SAFETY: the kernel has just made this fd for us; nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    Ok((fd, socket_address(&address)))
}

/// Whether there is something to read; false at the end of the stream, too.
pub(crate) fn has_input(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0_u8; 1];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `byte` lives over the call and is one byte long.
    retry(|| unsafe { libc::recv(socket.as_raw_fd(), byte.as_mut_ptr().cast(), 1, flags) }).is_ok_and(|n| n > 0)
}

/// TCP addresses; none for a unix peer. A v4-mapped address is given as the IPv4 address that it is.
pub(crate) fn socket_address(address: &libc::sockaddr_storage) -> Option<std::net::SocketAddr> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in.
            let v4 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the storage holds a sockaddr_in6.
            let v6 = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
                None => SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)),
            })
        }
        _ => None,
    }
}

/// The end of a connection that another process may hold a duplicate of (an application that forked): out of the epoll
/// set, FIN to the peer. A close alone would do none of the first two (epoll(7), questions and answers).
/// The caller drops the fd.
pub(crate) fn end(epoll: BorrowedFd<'_>, socket: BorrowedFd<'_>) {
    let fd = socket.as_raw_fd();
    // SAFETY: both fds are open; a null event is allowed for DEL since Linux 2.6.9.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    shut_down(fd);
}

/// shutdown(2) both ways.
pub(crate) fn shut_down(fd: i32) {
    // SAFETY: shutdown touches no memory; a failure (the peer is gone) is of no interest.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// FIN to the peer; reading goes on.
pub(crate) fn finish_sending(socket: BorrowedFd<'_>) {
    // SAFETY: the fd is open; a failure (the peer is gone) is of no interest, the next read tells it.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

/// epoll_ctl(2).
pub(crate) fn control(
    epoll: BorrowedFd<'_>,
    operation: i32,
    fd: BorrowedFd<'_>,
    events: i32,
    source: Source,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: source.encode() };
    // SAFETY: `event` lives over the call and both fds are open.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) } as libc::ssize_t)
        .map(drop)
}

/// epoll_wait(2); `timeout` in milliseconds, -1 for ever. EINTR is "nothing yet".
pub(crate) fn wait(epoll: BorrowedFd<'_>, events: &mut [libc::epoll_event], timeout: i32) -> io::Result<usize> {
    // SAFETY: the pointer and the length are of one live, writable slice.
    let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as libc::c_int, timeout) };
    match check(n as libc::ssize_t) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        result => result,
    }
}

/// Waits for one fd alone: `events` as in poll(2), `timeout` in milliseconds, -1 for ever. Whether it is ready.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, events: i16, timeout: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: `poll` lives over the call and is one entry.
    match check(unsafe { libc::poll(&raw mut poll, 1, timeout) } as libc::ssize_t) {
        Ok(n) => Ok(n > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until either fd is readable, or `timeout` milliseconds (-1: for ever). Which of them are.
pub(crate) fn wait_for_two(first: BorrowedFd<'_>, second: BorrowedFd<'_>, timeout: i32) -> (bool, bool) {
    let entry = |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polls = [entry(first), entry(second)];
    // SAFETY: `polls` lives over the call and has two entries.
    match check(unsafe { libc::poll(polls.as_mut_ptr(), 2, timeout) } as libc::ssize_t) {
        Ok(n) if n > 0 => (polls[0].revents != 0, polls[1].revents != 0),
        Ok(_) | Err(_) => (false, false),
    }
}

/// Sets an integer socket option; whether it was taken is of no interest to the callers.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) {
    // SAFETY: the pointer is to one live i32 and the length is its size.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
}

/// Bytes of a page, in which the kernel counts memory.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf(3) takes a number and gives one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// _exit(2) with status 0: no handlers run, whatever other threads do.
pub(crate) fn end_process() -> ! {
    // SAFETY: _exit touches no memory of this process.
    unsafe { libc::_exit(0) }
}

//! Who holds an address that is in use, as far as /proc tells it to this user.
//!
//! Owns the search; used only to explain a failure. Invariant: it never fails, what cannot be found is left out.

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

/// ` by pid 12 (nginx)` for a TCP port that somebody listens on, or nothing.
pub(super) fn of_port(port: u16) -> String {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    inodes.iter().find_map(|inode| process_with_socket(inode)).map(by).unwrap_or_default()
}

/// The same for an abstract unix name.
pub(super) fn of_unix(address: &UnixAddr) -> String {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match socket::socket(AddressFamily::Unix, SockType::Stream, flags, None) {
        Ok(probe) if socket::connect(probe.as_raw_fd(), address).is_ok() => of_peer(&probe),
        Ok(_) | Err(_) => String::new(),
    }
}

/// The same for the other side of a connected unix socket: whoever called listen(2).
pub(super) fn of_peer(probe: &OwnedFd) -> String {
    match socket::getsockopt(probe, sockopt::PeerCredentials) {
        Ok(credentials) if credentials.pid() > 0 => by(credentials.pid()),
        Ok(_) | Err(_) => String::new(),
    }
}

fn by(pid: i32) -> String {
    if pid.cast_unsigned() == std::process::id() {
        return format!(
            " by this instance itself (pid {pid}), whose sockets a reload keeps: an address that overlaps one of them needs a \
             restart"
        );
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!(" by pid {pid} ({})", name.trim_end()),
        Err(_) => format!(" by pid {pid}"),
    }
}

/// The inodes of the sockets of a /proc/net/tcp table that listen on this port (proc(5): state 0A is LISTEN).
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A";
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
        })
        .collect()
}

fn process_with_socket(inode: &str) -> Option<i32> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).find(|pid| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
            fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_that_listen_on_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
            1: 0100007F:1F40 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1\n\
            2: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1\n";
        assert_eq!(listening_inodes(table, 8000), ["111"]);
    }
}

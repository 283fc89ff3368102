//! What systemd gives and wants: sockets, the fd store, readiness, watchdog.
//!
//! Owns the conversation with the service manager. Knows nothing of workers. Invariant: without systemd all of it does
//! nothing, and its failures never stop the service.

pub(crate) mod activation;
pub(crate) mod fdstore;
pub(crate) mod notify;
pub(crate) mod watchdog;

/// Whether systemd itself executed this process and will clean up behind it. `INVOCATION_ID` would not do: every
/// process of a user's session inherits one.
pub(crate) fn is_our_parent() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()))
}

/// Variables that are for the arbiter alone. An application that finds them would adopt our sockets or speak to systemd
/// in our place.
pub(crate) const PRIVATE_VARIABLES: [&str; 10] = [
    crate::supervisor::STATE_VARIABLE,
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
    "SYSTEMD_EXEC_PID",
];

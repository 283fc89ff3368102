//! The signals that are the arbiter's: whoever sends one to all processes of an instance means the arbiter.
//!
//! Owns the list. The arbiter starts interpreters with these blocked, and molds and workers put empty handlers in their
//! place before they take the mask away; a signal that one of the two forgot would end a process in between.

use nix::sys::signal::Signal;

/// Everything that a unit (`systemctl kill`) or a terminal sends to all processes; what it asks for, molds and workers are
/// told by channel.
pub const TOLD_BY_CHANNEL: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
];

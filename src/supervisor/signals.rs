//! Signals as data: a signalfd.
//!
//! Owns the mask of the process and the translation of a signal into an order. Invariant: from the moment that this is
//! made no signal of the set interrupts or ends the arbiter; equal ones that pile up are one.

use super::event::Order;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What a signal means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// A child ended, stopped or went on.
    Child,
    /// The operator wants something.
    Order(Order),
}

/// Who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// Our parent: systemd, where it runs us.
    Parent,
    Other,
}

const TAKEN: [(Signal, Sent); 9] = [
    (Signal::SIGCHLD, Sent::Child),
    (Signal::SIGTERM, Sent::Order(Order::Stop)),
    (Signal::SIGINT, Sent::Order(Order::StopNow)),
    (Signal::SIGQUIT, Sent::Order(Order::StopNow)),
    (Signal::SIGHUP, Sent::Order(Order::Reload)),
    (Signal::SIGUSR1, Sent::Order(Order::ReopenLogs)),
    (Signal::SIGUSR2, Sent::Order(Order::Upgrade)),
    (Signal::SIGTTIN, Sent::Order(Order::More)),
    (Signal::SIGTTOU, Sent::Order(Order::Fewer)),
];

/// What means nothing here and would by default end the process that everything hangs on: timers that another program
/// left running over exec(2), and a log that has reached RLIMIT_FSIZE, whose write then fails with EFBIG like any other.
/// SIGXCPU is not among them: who sets a limit of processor time wants an end.
const MEANINGLESS: [Signal; 6] =
    [Signal::SIGALRM, Signal::SIGVTALRM, Signal::SIGPROF, Signal::SIGXFSZ, Signal::SIGIO, Signal::SIGPWR];

/// Ignores what means nothing. The interpreters that the arbiter starts get the defaults back (`spawn`).
pub(super) fn ignore_meaningless() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in MEANINGLESS {
        // SAFETY: SIG_IGN is no code of ours.
        let _ = unsafe { sigaction(signal, &ignore) };
    }
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals of the table and opens the fd that reports them.
    ///
    /// # Errors
    /// Those of signalfd(2).
    pub(super) fn take() -> io::Result<Signals> {
        let mut mask = SigSet::empty();
        for (signal, _) in TAKEN {
            mask.add(signal);
        }
        mask.thread_block()?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { fd })
    }

    /// The next signal, if one waits.
    ///
    /// # Errors
    /// Those of read(2) on a signalfd.
    pub(super) fn poll_sent(&self) -> io::Result<Option<(Sent, Sender)>> {
        loop {
            let Some(found) = self.fd.read_signal()? else { return Ok(None) };
            let meaning = TAKEN.iter().find(|(signal, _)| u32::try_from(*signal as i32) == Ok(found.ssi_signo));
            if let Some((_, sent)) = meaning {
                let parent = nix::unistd::getppid().as_raw();
                // A parent in another pid namespace is 0 for both.
                let sender = if found.ssi_pid.cast_signed() == parent { Sender::Parent } else { Sender::Other };
                return Ok(Some((*sent, sender)));
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

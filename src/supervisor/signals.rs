//! Signals as data: a signalfd.
//!
//! Owns the mask of the process and the translation of a signal into an order. Invariant: from the moment that this is
//! made no signal of the set interrupts or ends the arbiter; equal ones that pile up are one.

use super::event::Order;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What a signal means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// A child ended, stopped or went on.
    Child,
    /// The operator wants something.
    Order(Order),
    /// It means nothing here, and nobody has been told so for a while.
    Stray(Stray),
    /// It means nothing here, and that was told already.
    Known,
}

/// A signal that means nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) signal: i32,
    /// The process that sent it; 0: the kernel, or a process of another pid namespace.
    pub(super) pid: i32,
    pub(super) uid: u32,
}

impl fmt::Display for Stray {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(self.signal) {
            Ok(signal) => out.write_str(signal.as_str())?,
            Err(_) => write!(out, "signal {} (SIGRTMIN+{})", self.signal, self.signal - libc::SIGRTMIN())?,
        }
        match self.pid {
            0 => out.write_str(" from the kernel"),
            pid => write!(out, " from process {pid} of user {}", self.uid),
        }
    }
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
    (Signal::SIGTTIN, Sent::Order(Order::ScaleBy(1))),
    (Signal::SIGTTOU, Sent::Order(Order::ScaleBy(-1))),
];

/// What means nothing here and would by default end the process that everything hangs on: timers that another program
/// left running over exec(2), and a log that has reached RLIMIT_FSIZE, whose write then fails with EFBIG like any other.
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

/// What else would end the arbiter by default and can only be a mistake, so that it is told: real-time signals, and
/// SIGXCPU, by which the kernel warns of a soft RLIMIT_CPU. That is a limit per process: a worker that reaches it ends and
/// is replaced, and an arbiter that did so would take all of them along. The hard limit is a SIGKILL in any case.
fn strays() -> impl Iterator<Item = i32> {
    [libc::SIGXCPU, libc::SIGSTKFLT].into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// A stray signal is told so often at most: real-time signals queue by thousands, and SIGXCPU comes again and again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// See the file's header.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
    /// When each stray signal was told.
    told: BTreeMap<i32, Instant>,
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
        let mut mask = *mask.as_ref();
        for signal in strays() {
            // SAFETY: the set is initialised, and sigaddset(3) writes to nothing else.
            unsafe { libc::sigaddset(&raw mut mask, signal) };
        }
        // SAFETY: the set is initialised; nix has no names for real-time signals, but takes sets that hold them.
        let mask = unsafe { SigSet::from_sigset_t_unchecked(mask) };
        mask.thread_block()?;
        // Ignored, which execve(2) keeps, it would have the kernel reap children by itself, and their ends be lost.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: SIG_DFL is no code of ours.
        unsafe { sigaction(Signal::SIGCHLD, &default) }?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { fd, told: BTreeMap::new() })
    }

    /// The next signal, if one waits.
    ///
    /// # Errors
    /// Those of read(2) on a signalfd.
    pub(super) fn poll_sent(&mut self, now: Instant) -> io::Result<Option<(Sent, Sender)>> {
        let Some(found) = self.fd.read_signal()? else { return Ok(None) };
        let (signal, pid) = (found.ssi_signo.cast_signed(), found.ssi_pid.cast_signed());
        let meaning = TAKEN.iter().find(|(taken, _)| *taken as i32 == signal).map(|(_, sent)| *sent);
        let sent = meaning.unwrap_or_else(|| self.stray(Stray { signal, pid, uid: found.ssi_uid }, now));
        // A parent in another pid namespace is 0 for both.
        let sender = if pid == nix::unistd::getppid().as_raw() { Sender::Parent } else { Sender::Other };
        Ok(Some((sent, sender)))
    }

    fn stray(&mut self, stray: Stray, now: Instant) -> Sent {
        let told = self.told.get(&stray.signal);
        if told.is_some_and(|at| now.saturating_duration_since(*at) < TELL_EVERY) {
            return Sent::Known;
        }
        self.told.insert(stray.signal, now);
        Sent::Stray(stray)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

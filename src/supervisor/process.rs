//! One mold or worker, as far as the decisions know it.
//!
//! Owns the phases of its life and their deadlines. Knows no fd. Invariant: a phase that must end has a deadline, so
//! nothing that a process does or omits can hold the arbiter up.

use super::event::Serial;
use super::vigil::{ANSWER_TIME, HALT_TIME};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// From Stop to SIGKILL.
pub(crate) const STOP_TIME: Duration = Duration::from_secs(2);

/// The same for a process that still boots: it has nothing to finish and is probably not listening.
pub(crate) const CANCEL_TIME: Duration = Duration::from_millis(500);

/// A retiring worker ends itself at its deadline; so much later it is killed.
pub(crate) const MARGIN: Duration = Duration::from_secs(1);

/// From the end of a channel to the end of its process.
pub(crate) const LOST_TIME: Duration = Duration::from_secs(2);

/// From SIGKILL until a process that cannot die (uninterruptible sleep) is no longer waited for.
pub(crate) const DEATH_TIME: Duration = Duration::from_secs(5);

/// Where a process belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Seat {
    /// It forks the workers of its generation.
    Mold,
    /// It is a worker for this slot (numbered from 1).
    Slot(u32),
}

/// A mold or a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) serial: Serial,
    pub(crate) seat: Seat,
    /// Known once the mold was spawned or the worker said hello.
    pub(crate) pid: Option<i32>,
    pub(crate) phase: Phase,
    /// When its channel ended, if it did: the process should be gone at once.
    #[serde(with = "super::moment::option")]
    pub(crate) lost: Option<Instant>,
    /// Since when it owes an answer to the question whether it lives.
    #[serde(with = "super::moment::option")]
    pub(crate) asked: Option<Instant>,
    /// It is stopped, as by SIGSTOP or a debugger.
    pub(crate) halted: Option<Halt>,
}

/// A process is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Halt {
    #[serde(with = "super::moment")]
    pub(crate) since: Instant,
    pub(crate) signal: i32,
}

/// What a process is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Ordered, then importing; not ready yet.
    Booting {
        #[serde(with = "super::moment")]
        since: Instant,
        #[serde(with = "super::moment::option")]
        deadline: Option<Instant>,
    },
    /// It said that it cannot boot, and why; it is about to exit.
    Faulted {
        #[serde(with = "super::moment")]
        kill_at: Instant,
    },
    /// It can fork, or serve; a worker waits for its promotion.
    Ready,
    /// Promoted.
    Serving {
        #[serde(with = "super::moment")]
        since: Instant,
    },
    /// It finishes what it has begun.
    Retiring {
        #[serde(with = "super::moment")]
        kill_at: Instant,
    },
    /// It was told to leave at once.
    Stopping {
        #[serde(with = "super::moment")]
        kill_at: Instant,
        booting: bool,
    },
    /// It was sent SIGKILL.
    Killed {
        why: Killed,
        #[serde(with = "super::moment")]
        forget_at: Instant,
    },
}

/// Why a process was killed by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Killed {
    /// It did not boot in time.
    BootTimeout,
    /// It did not leave in time.
    Overdue,
    /// It was told to stop at once and did not.
    NotStopped,
    /// It was no longer wanted while it booted. An import does not listen.
    Unwanted,
    /// It did not read its channel.
    Unresponsive,
    /// It did not answer the question whether it lives.
    Silent,
    /// It was stopped, and nobody continued it.
    Halted,
    /// It has more memory than it may have by any means.
    Overgrown,
    /// Its channel ended but it went on.
    Lost,
    /// It sent what is no message of ours.
    Garbage,
}

impl Phase {
    /// The phase in a word.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Phase::Booting { .. } => "boots",
            Phase::Faulted { .. } => "could not boot",
            Phase::Ready => "is ready",
            Phase::Serving { .. } => "serves",
            Phase::Retiring { .. } => "finishes what it has begun",
            Phase::Stopping { .. } => "leaves",
            Phase::Killed { .. } => "was killed",
        }
    }
}

impl Process {
    /// A process that has just been ordered.
    pub(crate) fn ordered(serial: Serial, seat: Seat, boot_timeout: Option<Duration>, now: Instant) -> Process {
        let deadline = boot_timeout.map(|timeout| now + timeout);
        Process {
            serial,
            seat,
            pid: None,
            phase: Phase::Booting { since: now, deadline },
            lost: None,
            asked: None,
            halted: None,
        }
    }

    /// Whether it may still become useful or is useful: it holds its seat.
    pub(crate) fn seated(&self) -> bool {
        match self.phase {
            Phase::Booting { .. } | Phase::Ready | Phase::Serving { .. } => true,
            Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => false,
        }
    }

    /// When something must be done about it if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Booting { deadline, .. } => deadline,
            Phase::Faulted { kill_at } | Phase::Retiring { kill_at } | Phase::Stopping { kill_at, .. } => Some(kill_at),
            Phase::Killed { forget_at, .. } => Some(forget_at),
            Phase::Ready | Phase::Serving { .. } => None,
        };
        // A process on its way out may close its channel before it ends; it has a deadline already.
        let lost = self.lost.filter(|_| self.seated()).map(|at| at + LOST_TIME);
        phase.into_iter().chain(lost).chain(self.given_up().map(|(at, _)| at)).min()
    }

    /// When it is given up as stopped or silent, and which of them.
    pub(crate) fn given_up(&self) -> Option<(Instant, Killed)> {
        // A mold that leaves has the time of its generation's workers, and nothing to finish in it.
        let idles = matches!((self.seat, &self.phase), (Seat::Mold, Phase::Stopping { .. }));
        match (self.halted, self.asked) {
            (Some(halt), _) if self.seated() => Some((halt.since + HALT_TIME, Killed::Halted)),
            (Some(halt), _) if idles => Some((halt.since + HALT_TIME, Killed::NotStopped)),
            (None, Some(asked)) if self.seated() => Some((asked + ANSWER_TIME, Killed::Silent)),
            (Some(_), _) | (None, _) => None,
        }
    }

    /// When a worker has served for `lifetime`, and up to a tenth more, so that workers that were born together do not
    /// grow old together.
    pub(crate) fn old_at(&self, lifetime: Duration) -> Option<Instant> {
        // Fibonacci hashing of the serial: neighbours lie far apart.
        let spread = self.serial.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        match self.phase {
            Phase::Serving { since } => Some(since + lifetime + lifetime / 10 * spread as u32 / 256),
            Phase::Booting { .. }
            | Phase::Faulted { .. }
            | Phase::Ready
            | Phase::Retiring { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => None,
        }
    }

    /// Moves everything that it would be judged by at least `grace` away.
    pub(crate) fn forgive(&mut self, grace: Duration, now: Instant) {
        let earliest = now + grace;
        match &mut self.phase {
            Phase::Booting { deadline: Some(at), .. }
            | Phase::Faulted { kill_at: at }
            | Phase::Retiring { kill_at: at }
            | Phase::Stopping { kill_at: at, .. }
            | Phase::Killed { forget_at: at, .. } => *at = earliest.max(*at),
            Phase::Booting { deadline: None, .. } | Phase::Ready | Phase::Serving { .. } => {}
        }
        self.lost = self.lost.map(|_| now);
        self.asked = self.asked.map(|_| now);
        self.halted = self.halted.map(|halt| Halt { since: now, ..halt });
    }
}

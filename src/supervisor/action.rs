//! What the supervisor can order.
//!
//! Owns the vocabulary that flows out of [`super::decide`]; carried out by [`super::perform`], in order. Invariant: an
//! action that fails comes back as an event, never as an error of the one who decided.

use super::event::Serial;
use super::record::Record;
use rgunicorn_protocol::{BootFaultKind, Occasion, ToWorker};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Do this.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Read the settings anew and open the listeners of this generation; answered by `Event::Prepared`.
    Prepare { generation: u32 },
    /// Let this generation use the same settings and listeners as that one; answered by `Event::Prepared`.
    Inherit { generation: u32, from: u32 },
    /// Execute the interpreter of a generation and configure it; answered by `Event::Spawned` or `SpawnFailed`.
    SpawnMold { generation: u32, mold: Serial },
    /// Make a channel and have the mold fork a worker that holds its other end. `check`: it must pass `reload_check`.
    Fork { mold: Serial, worker: Serial, slot: u32, occasion: Occasion },
    /// Send a message to a mold or a worker.
    Send { to: Serial, message: ToWorker },
    /// SIGKILL.
    Kill { whom: Serial },
    /// Close our end of the channel and forget the process; only of one whose pid is not known.
    Abandon { whom: Serial },
    /// The generation serves: its listeners are the instance's, those that it does not use are closed.
    Commit { generation: u32 },
    /// The generation is on its way out, though some of it has served: nobody is let in any more at listeners that are its
    /// alone.
    Withdraw { generation: u32 },
    /// The generation is gone: drop its settings, and its listeners unless another one uses them.
    Drop { generation: u32 },
    /// Ask the program that would be executed whether it can take over; answered by `Event::UpgradeChecked`.
    CheckUpgrade,
    /// The answer is no longer waited for.
    AbandonUpgrade,
    /// Execute it in this process, once all events are dealt with. Comes back as `Event::UpgradeChecked` if that fails.
    Upgrade,
    /// Reopen the arbiter's own log files.
    ReopenLogs,
    /// Tell systemd.
    Notify(Notice),
    /// Write a record.
    Record(Record),
    /// Everything is down: kill what is left below us, leave with this outcome.
    Exit(Outcome),
}

/// What systemd is told beside STATUS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The instance serves, or a reload is over.
    Ready,
    /// A reload has begun.
    Reloading,
    /// The instance stops.
    Stopping,
    /// Booting or draining goes on for at most so long from now.
    Extend(Duration),
}

/// How the instance ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// As ordered.
    Clean,
    /// The application or its interpreter could not be booted.
    Fault(BootFaultKind),
    /// The settings or the machine did not let the first generation be prepared; errno(3) if it was a system call.
    Failure { errno: Option<i32> },
}

//! What can happen to the supervisor.
//!
//! Owns the vocabulary that flows into [`super::decide`]; knows no fd and no clock. Invariant: everything that the
//! outside can do to the arbiter is one of these, so the decisions can be tested without processes.

use crate::trouble::Trouble;
use rgunicorn_protocol::FromWorker;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Names a mold or a worker for the life of the instance. Never used twice, unlike a pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Serial(pub(crate) u64);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The operator wants something.
    Order(Order),
    /// The mold's interpreter was executed and has this pid.
    Spawned { mold: Serial, pid: i32 },
    /// The mold's process could not be made.
    SpawnFailed { mold: Serial, reason: String },
    /// A mold or a worker said something.
    Message { from: Serial, message: FromWorker },
    /// A mold or a worker sent what is no message of ours.
    Garbage { from: Serial, what: String },
    /// A channel ended; what was sent before it has been delivered.
    Ended { from: Serial },
    /// A process is gone and reaped; what it sent before has been delivered.
    Exited { from: Serial, exit: Exit, findings: Findings },
    /// A process was stopped by this signal.
    Halted { from: Serial, signal: i32 },
    /// A stopped process goes on.
    Continued { from: Serial },
    /// A message could not be delivered because its receiver does not read.
    Unresponsive { to: Serial },
    /// A generation was prepared: settings read, listeners open, or the reason why not.
    Prepared { generation: u32, plan: Result<Plan, Trouble> },
    /// The program that an upgrade would execute can take over, being of this version; or why not.
    UpgradeChecked(Result<String, String>),
    /// The next known deadline has come.
    Timer,
}

/// What an operator can order, by signal or control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// TERM: finish what was begun, then stop.
    Stop,
    /// Nobody has used the instance for so long (idle_timeout): as [`Order::Stop`], unless it is busy with a reload.
    Rest(Duration),
    /// INT, QUIT: stop now.
    StopNow,
    /// HUP: a new generation.
    Reload,
    /// USR1.
    ReopenLogs,
    /// USR2: replace the arbiter's own binary.
    Upgrade,
    /// So many workers.
    Scale(u32),
    /// So many more, or fewer; TTIN: 1, TTOU: -1.
    ScaleBy(i32),
    /// Another worker in this slot, ready before the one there leaves.
    Replace(u32),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// exit(2) with this status.
    Code(i32),
    /// Killed by this signal; whether it dumped core.
    Signal { signal: i32, core: bool },
    /// It ended before its pid was known, so its status went with an orphan's.
    Unknown,
}

impl Exit {
    /// Whether it was one of the signals that units and terminals send to all processes at once.
    pub(crate) fn is_broadcast(self) -> bool {
        match self {
            Exit::Signal { signal, .. } => matches!(
                signal,
                libc::SIGHUP
                    | libc::SIGINT
                    | libc::SIGQUIT
                    | libc::SIGTERM
                    | libc::SIGUSR1
                    | libc::SIGUSR2
                    | libc::SIGTTIN
                    | libc::SIGTTOU
            ),
            Exit::Code(_) | Exit::Unknown => false,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with status {code}"),
            Exit::Signal { signal, core } => {
                write!(f, "was killed by {}", signal_name(*signal))?;
                if *core { write!(f, " (core dumped)") } else { Ok(()) }
            }
            Exit::Unknown => write!(f, "ended without a word"),
        }
    }
}

/// `SIGKILL`; of a real-time signal its number.
pub(crate) fn signal_name(signal: i32) -> String {
    let known = nix::sys::signal::Signal::try_from(signal);
    known.map_or_else(|_| format!("signal {signal}"), |name| name.to_string())
}

/// A request in a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// `GET /report for 3.2 s`.
    pub(crate) text: String,
    /// Its id, empty if it has none.
    pub(crate) id: String,
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.id.is_empty() { Ok(()) } else { write!(f, " (id {})", self.id) }
    }
}

/// What was found at a process that died or is about to be killed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    /// The requests in its lanes.
    pub(crate) requests: Vec<InFlight>,
    /// Connections that it had, those of the requests among them.
    pub(crate) connections: u64,
    /// The kernel has killed something for want of memory since the last time that this was looked at.
    pub(crate) out_of_memory: bool,
    /// What its threads do, if it lives: `python sleeps in futex_wait_queue`.
    pub(crate) threads: Vec<String>,
}

/// What the decisions need to know of a generation's settings. Everything else stays with the one who performs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Workers wanted.
    pub(crate) workers: u32,
    /// The application is imported in the mold.
    pub(crate) preload: bool,
    /// Longest time from an order to fork or spawn to the answer that it is ready; `None`: no limit.
    pub(crate) boot_timeout: Option<Duration>,
    /// Time for requests in flight at retirement.
    pub(crate) graceful_timeout: Duration,
    /// Serve the backlog of listeners that we bound ourselves before stopping.
    pub(crate) drain_listeners: bool,
    /// Time after which a worker is replaced; `None`: never.
    pub(crate) lifetime: Option<Duration>,
    /// A reload to it replaces worker by worker.
    #[serde(default)]
    pub(crate) rolling: bool,
}

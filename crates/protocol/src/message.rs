//! All messages. One message is one JSON object in one datagram; fds travel beside it by SCM_RIGHTS.
//!
//! The order of a worker's life: the arbiter sends [`ToWorker::Fork`] to the mold; the worker says
//! [`FromWorker::Hello`] on its own channel, imports the application, says [`FromWorker::Ready`], is promoted by
//! [`ToWorker::Promote`], serves, is retired by [`ToWorker::Retire`], ends. A channel that ends tells a worker that the
//! arbiter is gone: it drains as after `Retire`. A channel that ends tells the arbiter that the worker is gone or will
//! be at once; its exit status comes from its pidfd.

use crate::scoreboard::SheetAt;
use crate::settings::WorkerSettings;
use serde::{Deserialize, Serialize};

/// What a worker is forked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// Its generation is the first one: nothing serves yet.
    #[default]
    Start,
    /// Its generation is to take another one's place: it is ready only once it has answered `WorkerSettings::reload_check`.
    Reload,
    /// Its generation serves, and misses one.
    Replacement,
}

/// From the arbiter to a mold or a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// The first message to a mold: everything that it and its workers need. Fds beside it: the listeners in the order
    /// of `WorkerSettings::listeners`, then the two ends of the handoff (receive, send) if `handoff` is set, then the
    /// scoreboard if `scoreboard` is set.
    Configure(Box<WorkerSettings>),
    /// To a mold: fork a worker. Fds beside it: what becomes its standard output and error where
    /// `LogSettings::stdout_is_relayed` and `stderr_is_relayed` say so (without it: the mold's), then the worker's end of
    /// its channel.
    Fork {
        /// The slot that the worker fills, from 1.
        slot: u32,
        /// The worker's serial number, unique in the life of the instance: names it until its pid is known.
        worker: u64,
        /// The worker's sheet of the scoreboard; none: it goes unseen.
        sheet: Option<SheetAt>,
        /// What it is forked for.
        #[serde(default)]
        occasion: Occasion,
    },
    /// To a ready worker: accept connections.
    Promote,
    /// To a worker that serves: the instance now has so many workers (another number than `WorkerSettings::workers`).
    Workers {
        /// Beside itself there are others from 2 on, with whom it shares requests.
        count: u32,
    },
    /// Stop accepting, finish what was begun, hand idle connections over, exit 0. A mold simply exits.
    Retire {
        /// Milliseconds until the worker must be gone; at this time it closes what is left and exits.
        deadline_ms: u64,
        /// Whether other workers take over what is handed to the handoff. When the instance stops nobody does:
        /// idle connections are closed, and the backlog of `drain_listeners` is served as far as the deadline allows.
        successors: bool,
        /// Serve what waits in the backlog of the instance's own listeners before leaving (never on activated ones,
        /// whose backlog systemd keeps).
        drain_listeners: bool,
    },
    /// These listeners (numbers in the order of `WorkerSettings::listeners`) end with a reload and let nobody in any
    /// more: accept what waits in them, and close them. `Retire` follows.
    Drain {
        /// From 0.
        listeners: Vec<u32>,
    },
    /// Close everything and exit at once (INT, QUIT).
    Stop,
    /// Reopen log files (USR1).
    ReopenLogs,
    /// Answer with [`FromWorker::Pong`].
    Ping {
        /// Comes back in the answer.
        id: u64,
    },
}

/// From a mold or a worker to the arbiter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// The first message of a mold (`worker` 0) and of every worker.
    Hello {
        /// As in [`ToWorker::Fork`]; 0 is the mold.
        worker: u64,
        /// The sender's process id in the arbiter's pid namespace.
        pid: i32,
        /// [`crate::VERSION`] of the worker module.
        version: String,
        /// The interpreter, for the records: `CPython 3.11.7 /srv/app/venv/bin/python`.
        interpreter: String,
    },
    /// The import of the application begins. Beside it a file, in which the importing thread's stack will stand shortly
    /// before `boot_timeout` has passed.
    Importing,
    /// The mold can fork (with `preload_app`: the application is imported), or the worker can serve.
    Ready {
        /// What deserves a warning in the log, one sentence each (threads in a preloading mold, ...).
        warnings: Vec<String>,
    },
    /// The mold or the worker cannot boot. It exits after this.
    BootFault(BootFault),
    /// The mold could not fork the worker.
    ForkFailed {
        /// As in [`ToWorker::Fork`].
        worker: u64,
        /// Why.
        reason: String,
    },
    /// Answer to [`ToWorker::Ping`].
    Pong {
        /// As in the question.
        id: u64,
    },
    /// The worker wants to be replaced; it serves on until it is retired.
    Recycle {
        /// Why, a clause: `it has served 1,000 requests (max_requests)`.
        reason: String,
    },
    /// A request has been in the application for longer than `timeout`: the worker must be replaced at once, and is to
    /// retire; it may not come back.
    Stuck {
        /// Why, a clause: `GET /slow has timed out after 30 s`.
        reason: String,
    },
    /// The worker has more memory than it may have by any means: it is to be killed at once.
    Overgrown {
        /// Resident bytes.
        bytes: u64,
    },
    /// The worker no longer accepts; it finishes what it has begun.
    Draining {
        /// Requests still in the application.
        running: u32,
    },
}

/// Why an application could not be booted, for the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootFault {
    /// What went wrong, for exit codes and hints.
    pub kind: BootFaultKind,
    /// One line that says what is wrong and what to do.
    pub message: String,
    /// The Python traceback where there is one.
    pub traceback: Option<String>,
}

/// The kinds of [`BootFault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootFaultKind {
    /// The interpreter is too old, PyPy, free-threaded, or cannot load the worker module.
    Interpreter,
    /// The application raised while it was imported or made.
    Import,
    /// The module or the variable does not exist, or is not callable.
    NotFound,
    /// user, group, chdir, umask or the like cannot be applied.
    Environment,
    /// The worker module and the arbiter are of different versions.
    Version,
    /// The application is there and does not answer `reload_check` as expected.
    Check,
}

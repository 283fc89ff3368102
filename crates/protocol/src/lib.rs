//! What arbiter, mold and worker say to each other.
//!
//! Owns the message types ([`message`]), the socket they travel on ([`channel`]), what a worker must know to serve
//! ([`settings`]), the signals that only the arbiter obeys ([`signals`]), the memory that all share ([`scoreboard`]) and
//! the language of the control socket ([`control`]). Knows nothing of Python, of HTTP or of supervision. Invariant: one message is one datagram, complete or not at all.

pub mod channel;
pub mod control;
pub mod message;
pub mod scoreboard;
pub mod settings;
pub mod signals;

pub use channel::{Channel, Received};
pub use message::{BootFault, BootFaultKind, FromWorker, Occasion, ToWorker};
pub use scoreboard::{Scoreboard, Sheet, SheetAt};
pub use settings::{ListenerAddress, ReloadCheck, WorkerSettings};
pub use signals::TOLD_BY_CHANNEL;

/// The version that arbiter and worker module must share. A package upgrade replaces the module below running
/// instances, so both say it by name in the handshake.
///
/// A packager may give his build a version of its own: `RGUNICORN_VERSION=0.1.0-2 make build`.
pub const VERSION: &str = match option_env!("RGUNICORN_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// Raised when a message changes so that molds and workers of the version before would misunderstand it: they go on
/// serving while the arbiter is upgraded, and a new arbiter of another protocol refuses to take over.
pub const PROTOCOL: u32 = 1;

/// The form of the datagrams in the handoff. Raised with each change; connections in another form cannot be taken over.
pub const HANDOFF_FORM: u8 = 2;

/// The fd at which a mold finds its channel. 3 would be `SD_LISTEN_FDS_START`; a wrapper such as
/// `opentelemetry-instrument` that looks there must not find a channel.
pub const CHANNEL_FD: i32 = 63;

//! The event loop of a worker: epoll set, accept policy, timers, buffers, spooled bodies, the standby. No Python.
//!
//! A lane asks [`Reactor::next`] for a request and gets an [`Exchange`], which is the connection itself until the response
//! is finished; [`Reactor::wait`] blocks until there is something to do. The HTTP rules are those of `rgunicorn-http`.

// The name by which the world of the tests knows this crate.
#[cfg(test)]
extern crate self as rgunicorn_reactor;

mod body;
mod connection;
mod control;
mod coroutines;
mod exchange;
mod handoff;
mod hands;
mod lanes;
mod listener;
mod memory;
mod offers;
mod offspring;
mod outbox;
mod queue;
mod reactor;
mod request_id;
mod settings;
mod standby;
mod sys;
mod table;
mod timeouts;
mod timers;
mod token;

pub use body::{BufferedBody, Spool, SpoolError};
pub use exchange::{BodyError, Client, Exchange, Finished, Flow, Raw, Read, SendError};
pub use hands::Hands;
pub use lanes::{Lanes, Role};
pub use offspring::{Mark, close_in_child, in_child, leave_if_child};
pub use outbox::OwnedBytes;
pub use reactor::{Hooks, Inheritance, Next, Reactor};
pub use settings::{ReactorSettings, seconds};
pub use timeouts::TakeStack;

#[cfg(test)]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "it serves the tests of the whole crate"
)]
#[path = "../tests/world/mod.rs"]
mod world;

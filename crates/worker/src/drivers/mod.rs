//! Where application code runs: one driver per kind of lane. No HTTP rule is in here.

pub(crate) mod asyncio;
pub(crate) mod gevent;
pub(crate) mod recycling;
pub(crate) mod threads;

use rgunicorn_protocol::{FromWorker, WorkerSettings};
use rgunicorn_reactor::Reactor;

/// Requests that a worker with these settings has in the application at once.
pub(crate) fn lanes(settings: &WorkerSettings) -> usize {
    let lanes = match settings.worker_class.as_str() {
        "gevent" | "asgi" => settings.worker_connections,
        _ => settings.threads,
    };
    (lanes as usize).max(1)
}

/// The application wants the interpreter to end. The worker is replaced, and serves before what it has begun and what has
/// come to it: other clients have no part in it.
pub(crate) fn leave_soon(reactor: &Reactor) {
    reactor.tell(&FromWorker::Stuck {
        reason: "the application called sys.exit(), or raised KeyboardInterrupt".to_owned(),
    });
}

//! Where application code runs: one driver per kind of lane. No HTTP rule is in here.

pub(crate) mod asyncio;
pub(crate) mod gevent;
pub(crate) mod recycling;
pub(crate) mod threads;

use rgunicorn_protocol::WorkerSettings;

/// Requests that a worker with these settings has in the application at once.
pub(crate) fn lanes(settings: &WorkerSettings) -> usize {
    let lanes = match settings.worker_class.as_str() {
        "gevent" | "asgi" => settings.worker_connections,
        _ => settings.threads,
    };
    (lanes as usize).max(1)
}

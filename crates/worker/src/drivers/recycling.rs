//! When a worker asks to be replaced because of what it has served.
//!
//! Owns the count of requests. Invariant: it asks once.

use rgunicorn_protocol::{FromWorker, WorkerSettings};
use rgunicorn_reactor::Reactor;
use std::sync::atomic::{AtomicU64, Ordering};

/// `max_requests`: after so many requests the worker asks, once, to be replaced.
pub(crate) struct Recycling {
    after: u64,
    served: AtomicU64,
}

impl Recycling {
    pub(crate) fn new(settings: &WorkerSettings) -> Recycling {
        let after = match settings.max_requests {
            0 => u64::MAX,
            n => n + jitter(settings.max_requests_jitter),
        };
        Recycling { after, served: AtomicU64::new(0) }
    }

    /// A request has ended.
    pub(crate) fn count(&self, reactor: &Reactor) {
        let served = self.served.fetch_add(1, Ordering::Relaxed) + 1;
        if served == self.after {
            reactor.tell(&FromWorker::Recycle { reason: format!("it has served {served} requests (max_requests)") });
        }
    }
}

/// A number from 0 to `most`, different in each worker: they were forked at the same time with the same memory.
fn jitter(most: u64) -> u64 {
    if most == 0 {
        return 0;
    }
    let mut bytes = [0_u8; 8];
    match std::fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes)) {
        Ok(()) => u64::from_ne_bytes(bytes) % (most + 1),
        Err(_) => u64::from(std::process::id()) % (most + 1),
    }
}

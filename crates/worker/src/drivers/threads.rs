//! Lanes that are threads. One lane is Gunicorn's `sync`: the worker's main thread turns the reactor, reads and parses a
//! request, calls the application and writes the response, with no other thread in between.

use crate::bridge::Lane;
use crate::bridge::wsgi::{Served, WsgiBridge};
use pyo3::prelude::*;
use rgunicorn_protocol::{FromWorker, WorkerSettings};
use rgunicorn_reactor::{Next, Reactor};
use std::sync::Arc;

/// Serves until the worker is done. Returns the exit status.
pub(crate) fn run(py: Python<'_>, reactor: &Arc<Reactor>, bridge: &WsgiBridge, settings: &WorkerSettings) -> i32 {
    let lane = Arc::new(Lane::new());
    let mut recycling = Recycling::new(settings);
    loop {
        match lane.with_hands(|hands| reactor.next(hands)) {
            Next::Exchange(exchange) => {
                match bridge.serve(py, &lane, exchange) {
                    Served::Continue => {}
                    Served::Exit(status) => return status,
                }
                recycling.count(reactor);
            }
            Next::Nothing => {
                py.detach(|| lane.with_hands(|hands| reactor.wait(hands)));
                // Handlers that the application has installed with signal.signal run now.
                if let Err(error) = py.check_signals() {
                    error.print(py);
                }
            }
            Next::Finished => return 0,
        }
    }
}

/// `max_requests`: after so many requests the worker asks, once, to be replaced.
struct Recycling {
    after: u64,
    served: u64,
}

impl Recycling {
    fn new(settings: &WorkerSettings) -> Recycling {
        let after = match settings.max_requests {
            0 => u64::MAX,
            n => n + jitter(settings.max_requests_jitter),
        };
        Recycling { after, served: 0 }
    }

    fn count(&mut self, reactor: &Reactor) {
        self.served += 1;
        if self.served == self.after {
            reactor.tell(&FromWorker::Recycle {
                reason: format!("it has served {} requests (max_requests)", self.served),
            });
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

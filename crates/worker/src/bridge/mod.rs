//! Between the engine and Python: requests become calls, results become responses. Nothing here knows a driver.

pub(crate) mod wsgi;

use rgunicorn_reactor::Hands;
use std::sync::{Mutex, PoisonError};

/// A place where application code runs, and what belongs to it.
pub(crate) struct Lane {
    hands: Mutex<Hands>,
}

impl Lane {
    pub(crate) fn new() -> Lane {
        Lane { hands: Mutex::new(Hands::default()) }
    }

    /// The lane's buffers. Only the lane's own thread takes them between two requests.
    pub(crate) fn with_hands<T>(&self, work: impl FnOnce(&mut Hands) -> T) -> T {
        work(&mut self.hands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

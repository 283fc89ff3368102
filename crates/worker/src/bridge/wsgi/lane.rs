//! One lane: the request that it works on, and what it keeps from request to request.
//!
//! Owns the exchange while the application runs. The Python objects of a request (wsgi.input, start_response, ...) hold
//! the lane and the request's serial number; whatever they do goes through [`Lane::with`] or [`Lane::detached_with`],
//! which compare it. Invariants: an object of an earlier request never reaches a later one; nobody waits for a lock here
//! while holding the interpreter lock, and nobody takes the interpreter lock while holding a lock of these.
//! Order of the locks: `work`, then `hands`.
//!
//! A lane that is a greenlet never waits in the kernel: it asks, and if the client is to be waited for it switches to the
//! hub until its driver calls [`Lane::wake`]. No lock is held over a switch, since another greenlet of the same thread
//! would wait for it for ever.

use super::declared::Declared;
use super::responder::Kept;
use super::waiting::Waiting;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use rgunicorn_http::{BodyFraming, ResponseFault};
use rgunicorn_reactor::{Exchange, Flow, Hands, OwnedBytes, SendError};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Bytes above which copying them to the kernel takes longer than others should wait for the interpreter lock.
const LONG: usize = 64 * 1024;

/// See the module. One per place where application code runs: thread, greenlet.
#[derive(Default)]
pub(crate) struct Lane {
    hands: Arc<Mutex<Hands>>,
    waiting: Waiting,
    work: Mutex<Work>,
    /// Python objects that can be used again, since nobody has kept them.
    pub(super) kept: Mutex<Option<Kept>>,
}

/// The request in work, and its response as far as it is declared.
#[derive(Default)]
pub(super) struct Work {
    /// Number of the request, counted in this lane. Raised when it begins and when it ends.
    serial: u64,
    /// Present while the request runs.
    pub(super) exchange: Option<Box<Exchange>>,
    pub(super) declared: Declared,
    /// The client has left: what still comes is dropped.
    gone: Option<io::Error>,
    /// Why the request body could not be read to its end, if so, and the status of an answer that says so.
    pub(super) body_error: Option<(u16, String)>,
    framing: Option<BodyFraming>,
    /// The application gave a body where HTTP has none.
    bodiless: bool,
    /// Its `timeout` has passed, and that is recorded.
    timed_out: bool,
}

/// What is left of a request when the application has answered it.
pub(super) struct Ending {
    pub(super) exchange: Box<Exchange>,
    pub(super) declared: Declared,
    /// How the body is framed; none: the response was not begun.
    pub(super) framing: Option<BodyFraming>,
    /// The application gave a body where HTTP has none.
    pub(super) bodiless: bool,
    /// Its `timeout` has passed, and that is recorded.
    pub(super) timed_out: bool,
    /// The client has left.
    pub(super) gone: Option<io::Error>,
    /// Why the request body could not be read to its end, if so, and the status of an answer that says so.
    pub(super) body_error: Option<(u16, String)>,
}

impl Ending {
    /// Of a request for which the application is not called.
    pub(super) fn unbegun(exchange: Box<Exchange>) -> Ending {
        Ending {
            exchange,
            declared: Declared::default(),
            framing: None,
            bodiless: false,
            timed_out: false,
            gone: None,
            body_error: None,
        }
    }
}

/// The request that an object belongs to has ended.
#[derive(Debug)]
pub(super) struct Ended;

/// Why data cannot be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The client has left; [`Work::gone`] says how.
    Gone,
    /// `start_response` was not called.
    Undeclared,
    /// What it was called with cannot be sent.
    Fault(ResponseFault),
    /// Somebody has thrown this into the greenlet while it waited for the client.
    Thrown(PyErr),
}

impl Lane {
    /// A lane that has not served yet.
    pub(crate) fn new() -> Lane {
        Lane::default()
    }

    /// A lane that waits by switching to the hub, and shares the reactor's things with the others of its thread.
    pub(crate) fn of_hub(hands: &Arc<Mutex<Hands>>, event: Py<PyAny>) -> Lane {
        Lane { hands: Arc::clone(hands), waiting: Waiting::in_hub(event), ..Lane::default() }
    }

    /// How the lane waits for its client.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Something has happened to the connection of the request in work.
    pub(crate) fn wake(&self, py: Python<'_>) {
        self.waiting.wake(py);
    }

    /// The request is over: nobody has anything to wait for any more.
    pub(crate) fn end_waiting(&self, py: Python<'_>) {
        self.waiting.end(py);
    }

    /// The standby or the driver has answered for this request, which has taken too long.
    pub(crate) fn note_timeout(&self, py: Python<'_>) {
        self.lock_work(py).timed_out = true;
    }

    /// Whether that was noted of the request in work, or of the one that has just ended.
    pub(super) fn has_timed_out(&self, py: Python<'_>) -> bool {
        self.lock_work(py).timed_out
    }

    /// The lane's own things for the reactor, to be used by its driver while no request runs.
    pub(crate) fn with_hands<T>(&self, act: impl FnOnce(&mut Hands) -> T) -> T {
        act(&mut lock(&self.hands))
    }

    /// The serial number of the request that begins now; its objects are made with it.
    pub(super) fn reserve(&self, py: Python<'_>) -> u64 {
        let mut work = self.lock_work(py);
        work.serial += 1;
        work.serial
    }

    /// Takes the request in hand.
    pub(super) fn begin(&self, py: Python<'_>, exchange: Box<Exchange>) {
        let mut work = self.lock_work(py);
        work.exchange = Some(exchange);
        work.declared.clear();
        work.gone = None;
        work.body_error = None;
        work.framing = None;
        work.bodiless = false;
        work.timed_out = false;
    }

    /// Ends a request: its objects are of no more use, what is left of it is the caller's.
    pub(super) fn end(&self, py: Python<'_>) -> Option<Ending> {
        let mut work = self.lock_work(py);
        work.serial += 1;
        Some(Ending {
            exchange: work.exchange.take()?,
            declared: std::mem::take(&mut work.declared),
            framing: work.framing.take(),
            bodiless: work.bodiless,
            timed_out: work.timed_out,
            gone: work.gone.take(),
            body_error: work.body_error.take(),
        })
    }

    /// Takes the buffers of a declaration back.
    pub(super) fn reuse(&self, py: Python<'_>, declared: Declared) {
        self.lock_work(py).declared = declared;
    }

    /// Works on a request with the interpreter lock held: `act` must not wait for anything.
    pub(super) fn with<T>(
        &self,
        py: Python<'_>,
        serial: u64,
        act: impl FnOnce(&mut Work, &mut Hands) -> T,
    ) -> Result<T, Ended> {
        let mut work = self.lock_work(py);
        if work.serial != serial || work.exchange.is_none() {
            return Err(Ended);
        }
        // Free: while a request runs `hands` is only taken by the holder of `work`.
        Ok(act(&mut work, &mut lock(&self.hands)))
    }

    /// Works on a request without the interpreter lock: `act` may wait.
    pub(super) fn detached_with<T: Send>(
        &self,
        py: Python<'_>,
        serial: u64,
        act: impl FnOnce(&mut Work, &mut Hands) -> T + Send,
    ) -> Result<T, Ended> {
        py.detach(|| self.waiting_with(serial, act))
    }

    /// As [`Lane::detached_with`], for a caller that has given the interpreter lock back already.
    pub(super) fn waiting_with<T>(
        &self,
        serial: u64,
        act: impl FnOnce(&mut Work, &mut Hands) -> T,
    ) -> Result<T, Ended> {
        let mut work = lock(&self.work);
        if work.serial != serial || work.exchange.is_none() {
            return Err(Ended);
        }
        Ok(act(&mut work, &mut lock(&self.hands)))
    }

    /// Sends data of the body, and the head before the first; waits, without the interpreter lock, while the client has
    /// too much to read.
    pub(super) fn send(&self, part: &Bound<'_, PyBytes>, serial: u64) -> Result<Result<(), Unsent>, Ended> {
        let (py, data) = (part.py(), part.as_bytes());
        if data.len() > LONG {
            // The object itself is kept for a client that reads slowly: its last reference may be dropped by a thread
            // without the interpreter lock, which pyo3 puts off until somebody has it.
            let owned: OwnedBytes = Arc::new(PyBackedBytes::from(part.clone()));
            let flow = self.detached_with(py, serial, |work, hands| match work.send_owned(&owned, hands)? {
                Flow::Wait if self.waiting.blocks() => work.wait_for_room().map(|()| Flow::Go),
                flow => Ok(flow),
            })?;
            return self.follow(py, serial, flow);
        }
        let flow = self.with(py, serial, |work, hands| work.send(data, hands))?;
        self.follow(py, serial, flow)
    }

    /// Waits, if there is a need for it, until the client has read enough.
    fn follow(&self, py: Python<'_>, serial: u64, flow: Result<Flow, Unsent>) -> Result<Result<(), Unsent>, Ended> {
        match flow {
            Ok(Flow::Go) => Ok(Ok(())),
            Ok(Flow::Wait) if self.waiting.blocks() => self.detached_with(py, serial, |work, _| work.wait_for_room()),
            Ok(Flow::Wait) => {
                let room = self.waiting.until(py, || {
                    Ok(match self.with(py, serial, |work, _| work.order(Exchange::poll_room)) {
                        Ok(Ok(true)) => Some(Ok(Ok(()))),
                        Ok(Ok(false)) => None,
                        Ok(Err(unsent)) => Some(Ok(Err(unsent))),
                        Err(ended) => Some(Err(ended)),
                    })
                });
                room.unwrap_or_else(|error| Ok(Err(Unsent::Thrown(error))))
            }
            Err(unsent) => Ok(Err(unsent)),
        }
    }

    /// Taken at once or, if a thread of the application is just reading or writing, waited for without the interpreter
    /// lock.
    fn lock_work(&self, py: Python<'_>) -> MutexGuard<'_, Work> {
        loop {
            match self.work.try_lock() {
                Ok(work) => return work,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => py.detach(|| drop(lock(&self.work))),
            }
        }
    }
}

/// A panic elsewhere does not make the state unusable: each step leaves it whole.
pub(in crate::bridge) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    /// Whether the head has been given to the client, so that nothing about it can be changed.
    pub(super) fn responded(&self) -> bool {
        self.framing.is_some() || self.exchange.as_ref().is_none_or(|exchange| exchange.head_sent())
    }

    /// How the body is framed, once the response was begun.
    pub(super) fn framing(&self) -> Option<BodyFraming> {
        self.framing
    }

    /// Encodes the head that was declared, if that was not done yet. `length`: the whole body's, if it is known.
    pub(super) fn respond(&mut self, length: Option<u64>, hands: &mut Hands) -> Result<BodyFraming, Unsent> {
        if let Some(framing) = self.framing {
            return Ok(framing);
        }
        let Some(exchange) = self.exchange.as_mut() else { return Err(Unsent::Gone) };
        if !self.declared.is_declared() {
            return Err(Unsent::Undeclared);
        }
        let started = self
            .declared
            .with(|status, fields| exchange.respond(status, fields, length, hands))
            .map_err(Unsent::Fault)?;
        self.framing = Some(started.framing);
        Ok(started.framing)
    }

    /// Sends data, and the head before the first. On [`Flow::Wait`] the caller calls [`Work::wait_for_room`], without
    /// the interpreter lock, before the next data.
    pub(super) fn send(&mut self, data: &[u8], hands: &mut Hands) -> Result<Flow, Unsent> {
        if self.respond(None, hands)? == BodyFraming::None {
            self.drop_body();
            return self.order(Exchange::flush);
        }
        self.order(|exchange| exchange.send(data))
    }

    /// As [`Work::send`], for long data that can be kept without a copy.
    fn send_owned(&mut self, data: &OwnedBytes, hands: &mut Hands) -> Result<Flow, Unsent> {
        if self.respond(None, hands)? == BodyFraming::None {
            self.drop_body();
            return self.order(Exchange::flush);
        }
        self.order(|exchange| exchange.send_owned(data))
    }

    /// Notes that there is data and no place for it.
    pub(super) fn drop_body(&mut self) {
        self.bodiless = true;
    }

    /// Has an order carried out, unless the client has left; notes it if it has.
    pub(super) fn order<T>(&mut self, order: impl FnOnce(&mut Exchange) -> Result<T, SendError>) -> Result<T, Unsent> {
        if self.gone.is_some() {
            return Err(Unsent::Gone);
        }
        let Some(exchange) = self.exchange.as_mut() else { return Err(Unsent::Gone) };
        order(exchange).map_err(|error| match error {
            SendError::Fault(fault) => Unsent::Fault(fault),
            SendError::Gone(error) => {
                self.gone = Some(error);
                Unsent::Gone
            }
        })
    }

    /// Waits until the client has read enough; not with the interpreter lock.
    pub(super) fn wait_for_room(&mut self) -> Result<(), Unsent> {
        self.order(Exchange::wait_for_room)
    }
}

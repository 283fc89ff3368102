//! `start_response`, `write` and `wsgi.early_hints`: what the application calls to answer.
//!
//! The three are bound methods of one object, which knows its request by lane and serial number. Owns PEP 3333's rules
//! about when each may be called. Invariant: after the request they raise, and never touch another one.
//!
//! All of them, and the stand-in for `gunicorn.socket`, are used again for the next request if nobody has kept them:
//! the reference counts tell.

use super::declared::Declared;
use super::input::Input;
use super::lane::{Ended, Lane, Unsent, lock};
use super::socket::ConnectionSocket;
use crate::bridge::direct::references;
use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use rgunicorn_reactor::BufferedBody;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// See the module.
#[pyclass(frozen, module = "rgunicorn")]
pub(super) struct Responder {
    lane: Arc<Lane>,
    serial: AtomicU64,
    /// The bound method, which start_response returns. Taken out when the object is given up, since it refers back.
    write: Mutex<Option<Py<PyAny>>>,
}

impl Responder {
    fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    fn bound_write(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &*lock(&self.write) {
            Some(write) => Ok(write.clone_ref(py)),
            None => Err(ended("start_response")),
        }
    }
}

fn ended(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("{what} was called after its request had ended"))
}

#[pymethods]
impl Responder {
    #[pyo3(signature = (status, response_headers, exc_info=None))]
    fn start_response(
        &self,
        py: Python<'_>,
        status: &Bound<'_, PyAny>,
        response_headers: &Bound<'_, PyAny>,
        exc_info: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        // Read before the lane is taken: that may call the application's own code (`__iter__`, `__repr__`).
        let mut declared = Declared::default();
        let serial = self.serial();
        let reused = self.lane.with(py, serial, |work, _| {
            let state = (work.declared.is_declared(), work.responded());
            if exc_info.is_none() && !state.0 {
                std::mem::swap(&mut declared, &mut work.declared);
            }
            state
        });
        let (is_declared, responded) = reused.map_err(|Ended| ended("start_response"))?;
        match exc_info {
            Some(exc_info) if responded => return Err(raised(exc_info)?),
            None if is_declared => {
                return Err(PyAssertionError::new_err(
                    "start_response was called twice: the second call needs exc_info (PEP 3333)",
                ));
            }
            Some(_) | None => {}
        }
        declared.declare(status, response_headers)?;
        self.lane.with(py, serial, |work, _| work.declared = declared).map_err(|Ended| ended("start_response"))?;
        self.bound_write(py)
    }

    #[pyo3(signature = (data, /))]
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Ok(data) = data.cast::<PyBytes>() else {
            return Err(PyTypeError::new_err(format!("write takes bytes, not {}", super::declared::kind(data))));
        };
        if data.as_bytes().is_empty() {
            return Ok(());
        }
        match self.lane.send(data, self.serial()).map_err(|Ended| ended("write"))? {
            Ok(()) => Ok(()),
            Err(Unsent::Gone) => Err(PyBrokenPipeError::new_err("the client has left")),
            Err(Unsent::Undeclared) => Err(PyAssertionError::new_err("write was called before start_response")),
            Err(Unsent::Fault(fault)) => Err(PyValueError::new_err(fault.to_string())),
            Err(Unsent::Thrown(error)) => Err(error),
        }
    }

    #[pyo3(signature = (headers, /))]
    fn early_hints(&self, py: Python<'_>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        let hints = Declared::hints(headers)?;
        let sent = self
            .lane
            .with(py, self.serial(), |work, _| {
                work.order(|exchange| hints.with(|_, fields| exchange.early_hints(fields)))
            })
            .map_err(|Ended| ended("wsgi.early_hints"))?;
        match sent {
            // Hints are a courtesy: what became of them shows in the response.
            Ok(_) | Err(Unsent::Gone | Unsent::Undeclared) => Ok(()),
            Err(Unsent::Fault(fault)) => Err(PyValueError::new_err(fault.to_string())),
            Err(Unsent::Thrown(error)) => Err(error),
        }
    }
}

/// The exception of an `exc_info` triple, with its traceback.
fn raised(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let malformed = || PyTypeError::new_err("start_response: exc_info must be the tuple of sys.exc_info()");
    let triple = exc_info.cast::<PyTuple>().map_err(|_| malformed())?;
    let (value, traceback) = (triple.get_item(1).map_err(|_| malformed())?, triple.get_item(2));
    if value.is_none() {
        return Err(malformed());
    }
    let value = match traceback {
        Ok(traceback) => value.call_method1("with_traceback", (traceback,))?,
        Err(_) => value,
    };
    Ok(PyErr::from_value(value))
}

/// What a lane keeps for its next request.
pub(crate) struct Kept {
    lane: Arc<Lane>,
    responder: Py<Responder>,
    pub(super) start_response: Py<PyAny>,
    pub(super) early_hints: Py<PyAny>,
    write: Py<PyAny>,
    pub(super) socket: Py<ConnectionSocket>,
}

impl Kept {
    pub(super) fn new(py: Python<'_>, lane: &Arc<Lane>) -> PyResult<Kept> {
        let responder = Responder { lane: Arc::clone(lane), serial: AtomicU64::new(0), write: Mutex::new(None) };
        let responder = Bound::new(py, responder)?;
        let start_response = responder.getattr("start_response")?.unbind();
        let early_hints = responder.getattr("early_hints")?.unbind();
        let write = responder.getattr("write")?.unbind();
        *lock(&responder.get().write) = Some(write.clone_ref(py));
        let socket = Py::new(py, ConnectionSocket::new(Arc::clone(lane)))?;
        Ok(Kept { lane: Arc::clone(lane), responder: responder.unbind(), start_response, early_hints, write, socket })
    }

    /// Belongs to this request from now on.
    pub(super) fn renew(&self, serial: u64) {
        self.responder.get().serial.store(serial, Ordering::Relaxed);
        self.socket.get().renew(serial);
    }

    /// The input of the request, with its body if that is buffered.
    pub(super) fn input(&self, body: Option<Box<BufferedBody>>) -> Input {
        Input::new(Arc::clone(&self.lane), self.responder.get().serial(), body)
    }

    /// The request has ended. Whether nobody has kept any of it, so that it can serve the next one; otherwise it is
    /// given up.
    pub(super) fn end(&self, py: Python<'_>) -> bool {
        self.socket.get().end();
        // The three methods refer to the responder, and the responder to one of them.
        let free = references(&self.start_response, py) == 1
            && references(&self.early_hints, py) == 1
            && references(&self.write, py) == 2
            && references(&self.responder, py) == 4
            && references(&self.socket, py) == 1;
        if !free {
            let write = lock(&self.responder.get().write).take();
            drop(write);
        }
        free
    }
}

//! `gunicorn.socket`: the connection's socket, for applications that take it over (simple-websocket).
//!
//! A real `socket.socket` costs an fd, two system calls and a Python object per request, and next to no application
//! asks for it: this one stands for it and makes it when it is first used. Invariant: after the request it reaches no
//! socket at all.

use super::lane::{Lane, lock};
use crate::bridge::direct::duplicate;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Seconds; about what poll(2) can wait for.
const LONGEST_TIMEOUT: f64 = 2_000_000.0;

/// See the module.
#[pyclass(frozen, module = "rgunicorn", name = "socket")]
pub(super) struct ConnectionSocket {
    lane: Arc<Lane>,
    serial: AtomicU64,
    made: Mutex<Option<Py<PyAny>>>,
    taken: AtomicBool,
}

impl ConnectionSocket {
    pub(super) fn new(lane: Arc<Lane>) -> ConnectionSocket {
        ConnectionSocket { lane, serial: AtomicU64::new(0), made: Mutex::new(None), taken: AtomicBool::new(false) }
    }

    /// Belongs to this request from now on.
    pub(super) fn renew(&self, serial: u64) {
        self.serial.store(serial, Ordering::Relaxed);
        self.taken.store(false, Ordering::Relaxed);
    }

    /// Whether the application has a socket of this request's connection.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// The request has ended: lets the duplicate go.
    pub(super) fn end(&self) {
        let made = lock(&self.made).take();
        drop(made);
    }

    fn fd(&self, py: Python<'_>) -> PyResult<RawFd> {
        self.lane
            .with(py, self.serial.load(Ordering::Relaxed), |work, _| {
                work.exchange.as_ref().map_or(-1, |exchange| exchange.raw_fd())
            })
            .map_err(|_| ended())
    }

    /// A new `socket.socket` of a duplicate.
    fn make<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let fd = self
            .lane
            .with(py, self.serial.load(Ordering::Relaxed), |work, _| {
                work.exchange.as_mut().map_or(-1, |exchange| exchange.lend_socket())
            })
            .map_err(|_| ended())?;
        let named = PyDict::new(py);
        named.set_item("fileno", duplicate(fd)?.into_raw_fd())?;
        let socket = py.import("socket")?.getattr("socket")?.call((), Some(&named))?;
        if self.lane.waiting().blocks() {
            // O_NONBLOCK belongs to what is duplicated: it stays, or the reactor would block, and a socket without a
            // timeout would raise BlockingIOError. With one, Python waits by poll(2). gevent's sockets wait in the hub.
            socket.call_method1("settimeout", (LONGEST_TIMEOUT,))?;
        }
        self.taken.store(true, Ordering::Relaxed);
        Ok(socket)
    }
}

fn ended() -> PyErr {
    PyValueError::new_err("gunicorn.socket was used after its request had ended")
}

#[pymethods]
impl ConnectionSocket {
    fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        self.fd(py)
    }

    /// A socket of the application's own.
    fn dup<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.make(py)
    }

    /// Anything else that a socket can.
    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let made = lock(&self.made).as_ref().map(|made| made.clone_ref(py));
        let made = match made {
            Some(made) => made.into_bound(py),
            None => {
                let made = self.make(py)?;
                // Let go behind the lock: another thread's may be closed by that.
                let other = lock(&self.made).replace(made.clone().unbind());
                drop(other);
                made
            }
        };
        made.getattr(name)
    }
}

//! What `receive()` and `send()` return: awaitables that are complete at once where that is possible.
//!
//! Owns the protocol between an awaitable and the task that awaits it (PEP 492, asyncio's futures). [`Awaited`] asks its
//! [`Source`] when it is awaited, not when it is made: one that is cancelled before has taken nothing. To wait, it lets
//! the task wait for a plain future of the loop, which the source keeps and wakes. Its four methods make it a coroutine
//! to `asyncio.create_task` and `ensure_future`. Invariant: what a source has given is returned to the task at once, so
//! that no cancellation can come between.

use super::Shared;
use crate::bridge::wsgi::lane::lock;
use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex};
use std::task::Poll;

/// Where the result of an awaitable comes from.
pub(super) trait Source: Send + Sync {
    /// The result, if it is there; none is None. On [`Poll::Pending`], `waiter` of [`Source::wait`] is woken when it may be.
    fn poll(&self, py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>>;
    /// Keeps a future to be woken.
    fn wait(&self, py: Python<'_>, future: Py<PyAny>);
}

/// Futures to be woken together.
#[derive(Default)]
pub(super) struct Waiters(Vec<Py<PyAny>>);

impl Waiters {
    pub(super) fn push(&mut self, future: Py<PyAny>) {
        self.0.push(future);
    }

    /// Takes them, to be woken by [`wake`] when no lock is held.
    pub(super) fn take(&mut self) -> Waiters {
        std::mem::take(self)
    }

    pub(super) fn wake(self, py: Python<'_>) {
        for future in self.0 {
            let future = future.bind(py);
            let wake = || -> PyResult<()> {
                // A cancelled one is done already.
                if !future.call_method0(pyo3::intern!(py, "done"))?.is_truthy()? {
                    future.call_method1(pyo3::intern!(py, "set_result"), (py.None(),))?;
                }
                Ok(())
            };
            if let Err(error) = wake() {
                error.print(py);
            }
        }
    }
}

/// Complete and without a result. One object for all.
#[pyclass(frozen, module = "rgunicorn")]
pub(super) struct Done;

#[pymethods]
impl Done {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    fn send(&self, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Err(PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        Err(thrown(kind, value))
    }

    fn close(&self) {}
}

enum State {
    /// Not awaited yet, or woken.
    Asking(Arc<dyn Source>),
    Over,
}

/// See the module.
#[pyclass(frozen, module = "rgunicorn")]
pub(super) struct Awaited {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

impl Awaited {
    pub(super) fn new(shared: &Arc<Shared>, source: Arc<dyn Source>) -> Awaited {
        Awaited { shared: Arc::clone(shared), state: Mutex::new(State::Asking(source)) }
    }

    /// What the task is to wait for, or the result.
    fn step(&self, py: Python<'_>) -> PyResult<Result<Py<PyAny>, Option<Py<PyAny>>>> {
        let source = match &*lock(&self.state) {
            State::Asking(source) => Arc::clone(source),
            State::Over => {
                return Err(PyRuntimeError::new_err("an awaitable of receive() or send() was awaited twice"));
            }
        };
        match source.poll(py) {
            Ok(Poll::Ready(result)) => {
                *lock(&self.state) = State::Over;
                Ok(Err(result))
            }
            Ok(Poll::Pending) => {
                let future = self.shared.new_future(py)?;
                // As asyncio's own `Future.__await__` does: the task checks that it was meant to wait for it.
                future.setattr(pyo3::intern!(py, "_asyncio_future_blocking"), true)?;
                source.wait(py, future.clone().unbind());
                Ok(Ok(future.unbind()))
            }
            Err(error) => {
                *lock(&self.state) = State::Over;
                Err(error)
            }
        }
    }
}

#[pymethods]
impl Awaited {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.step(py)? {
            Ok(future) => Ok(Some(future)),
            Err(None) => Ok(None),
            Err(Some(result)) => Err(PyStopIteration::new_err((result,))),
        }
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        match self.step(py)? {
            Ok(future) => Ok(future),
            Err(None) => Err(PyStopIteration::new_err(())),
            Err(Some(result)) => Err(PyStopIteration::new_err((result,))),
        }
    }

    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        *lock(&self.state) = State::Over;
        Err(thrown(kind, value))
    }

    fn close(&self) {
        *lock(&self.state) = State::Over;
    }
}

/// The exception that a generator's `throw` was given: an instance, or a class with or without a value.
fn thrown(kind: &Bound<'_, PyAny>, value: Option<&Bound<'_, PyAny>>) -> PyErr {
    let exception = pyo3::exceptions::PyBaseException::type_object(kind.py());
    let is_exception = |object: &Bound<'_, PyAny>| object.is_instance(&exception).unwrap_or(false);
    if let Some(value) = value.filter(|value| is_exception(value)) {
        return PyErr::from_value(value.clone());
    }
    if is_exception(kind) {
        return PyErr::from_value(kind.clone());
    }
    let made = match value.filter(|value| !value.is_none()) {
        Some(value) => kind.call1((value,)),
        None => kind.call0(),
    };
    match made {
        Ok(made) if is_exception(&made) => PyErr::from_value(made),
        Ok(_) => PyTypeError::new_err("exceptions must be derived from BaseException"),
        Err(error) => error,
    }
}

//! `receive` and `send` of a WebSocket, as objects that pass for coroutine functions (`inspect.iscoroutinefunction`).
//!
//! That is what they are elsewhere, and asgiref's `async_to_sync`, by which the synchronous consumers of Channels send,
//! warns of what is none. Requests have bound methods, which cannot be marked: their calls cost a tenth less.

use super::awaitable::Awaited;
use super::websocket::Inner;
use pyo3::prelude::*;
use std::sync::Arc;

/// `receive()`.
#[pyclass(frozen, weakref, module = "rgunicorn", name = "receive")]
pub(super) struct Receive(pub(super) Arc<Inner>);

/// `send(event)`.
#[pyclass(frozen, weakref, module = "rgunicorn", name = "send")]
pub(super) struct Send(pub(super) Arc<Inner>);

#[pymethods]
impl Receive {
    fn __call__(&self) -> Awaited {
        self.0.receive()
    }

    #[classattr]
    fn _is_coroutine(py: Python<'_>) -> Option<Py<PyAny>> {
        until_3_11(py)
    }

    #[classattr]
    fn _is_coroutine_marker(py: Python<'_>) -> Option<Py<PyAny>> {
        since_3_12(py)
    }
}

#[pymethods]
impl Send {
    fn __call__(&self, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.0.send(py, event)
    }

    #[classattr]
    fn _is_coroutine(py: Python<'_>) -> Option<Py<PyAny>> {
        until_3_11(py)
    }

    #[classattr]
    fn _is_coroutine_marker(py: Python<'_>) -> Option<Py<PyAny>> {
        since_3_12(py)
    }
}

/// What `asyncio.iscoroutinefunction` looks for.
fn until_3_11(py: Python<'_>) -> Option<Py<PyAny>> {
    Some(py.import("asyncio.coroutines").ok()?.getattr("_is_coroutine").ok()?.unbind())
}

/// What `inspect.markcoroutinefunction` leaves; it takes functions only.
fn since_3_12(py: Python<'_>) -> Option<Py<PyAny>> {
    Some(py.import("inspect").ok()?.getattr("_is_coroutine_mark").ok()?.unbind())
}

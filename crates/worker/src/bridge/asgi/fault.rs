//! Faults of an ASGI application: what is recorded, and in which words.
//!
//! Invariant: one fault is one record, with the traceback inside it.

use crate::bridge::wsgi::fault::{Faults, Named};
use pyo3::prelude::*;
use rgunicorn_log::event;
use slog::Logger;

/// Records an exception. `what` is a sentence's beginning: `Error handling request`.
pub(super) fn raised(py: Python<'_>, log: &Logger, faults: &Faults, what: &str, request: &Named, error: &PyErr) {
    let traceback = faults.traceback(py, error);
    crate::reload_check::note_traceback(&traceback);
    slog::error!(log, "{} {}", what, request.line; event::APPLICATION_ERROR,
        "request_id" => &request.id, "exception" => faults.name(py, error), "traceback" => traceback);
}

/// Records that the application has not kept to the specification; `sentence` says how.
pub(super) fn broke(log: &Logger, request: &Named, sentence: &str) {
    slog::error!(log, "Error handling request {}: {}", request.line, sentence; event::RESPONSE_FAULT,
        "request_id" => &request.id);
}

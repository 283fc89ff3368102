//! What went wrong in a request, as one record; and whether the worker must leave.
//!
//! Owns the words. Invariant: one fault is one record, which names the request, and no value of a header.

use super::sending::Stop;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use rgunicorn_log::event;
use slog::Logger;

/// Formats exceptions and writes the records.
pub(in crate::bridge) struct Faults {
    log: Logger,
    format_exception: Py<PyAny>,
}

/// A request as records name it.
#[derive(Debug, Default, Clone)]
pub(in crate::bridge) struct Named {
    /// `GET /path`, safe to be shown.
    pub(in crate::bridge) line: String,
    /// Its id, if requests have ids.
    pub(in crate::bridge) id: Option<String>,
}

impl Faults {
    pub(in crate::bridge) fn new(py: Python<'_>, log: Logger) -> PyResult<Faults> {
        let format_exception = py.import("traceback")?.getattr("format_exception")?.unbind();
        Ok(Faults { log, format_exception })
    }

    /// Records why the response to `request` ended early. `gone`: the client has left, and how; `body`: the request body
    /// could not be read, and why. An exception that only says so again is no fault of the application.
    pub(in crate::bridge) fn report(
        &self,
        py: Python<'_>,
        stop: &Stop,
        request: &Named,
        gone: Option<&str>,
        body: Option<&str>,
    ) {
        let error = match stop {
            Stop::TakenOver => return,
            Stop::Gone => return self.report_abandoned(request, gone.unwrap_or("it has closed the connection")),
            Stop::Raised(error) if error.is_instance_of::<PyOSError>(py) && (gone.or(body)).is_some() => {
                return self.report_abandoned(request, gone.or(body).unwrap_or_default());
            }
            Stop::Raised(error) => error,
            Stop::Misdirected(sentence) => {
                slog::error!(self.log, "Error handling request {}: {}", request.line, sentence; event::RESPONSE_FAULT,
                    "request_id" => &request.id);
                return;
            }
            Stop::Broke(sentence) => {
                slog::error!(self.log, "Error handling request {}: {}", request.line, sentence; event::RESPONSE_FAULT,
                    "request_id" => &request.id);
                return;
            }
            Stop::Fault(fault) => {
                slog::error!(self.log, "Error handling request {}: {}", request.line, fault; event::RESPONSE_FAULT,
                    "request_id" => &request.id);
                return;
            }
        };
        let traceback = self.traceback(py, error);
        crate::reload_check::note_traceback(&traceback);
        slog::error!(self.log, "Error handling request {}", request.line; event::APPLICATION_ERROR,
            "request_id" => &request.id, "exception" => self.name(py, error), "traceback" => traceback);
    }

    /// An exception of `close`, when the response is over.
    pub(in crate::bridge) fn report_close(&self, py: Python<'_>, error: &PyErr, request: &Named) {
        slog::error!(self.log, "Error closing the response to {}", request.line; event::APPLICATION_ERROR,
            "request_id" => &request.id, "exception" => self.name(py, error), "traceback" => self.traceback(py, error));
    }

    pub(in crate::bridge) fn report_abandoned(&self, request: &Named, how: &str) {
        slog::debug!(self.log, "a client left before its response was complete";
            event::REQUEST_ABANDONED, "request" => &request.line, "reason" => how, "request_id" => &request.id);
    }

    /// Less was sent than the head says: the client must not take it for the whole.
    pub(in crate::bridge) fn report_short(&self, request: &Named, missing: u64, sent: u64) {
        slog::error!(self.log, "the response to {} is {} bytes shorter than its Content-Length; the connection was closed",
            request.line, missing; event::RESPONSE_FAULT, "sent" => sent, "request_id" => &request.id);
    }

    /// More was given than the head says.
    pub(in crate::bridge) fn report_overrun(&self, request: &Named, sent: u64) {
        slog::warn!(self.log, "the response to {} is longer than its Content-Length; the rest was cut", request.line;
            event::RESPONSE_FAULT, "sent" => sent, "request_id" => &request.id);
    }

    /// 204, 205 and 304 have no body (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
    pub(in crate::bridge) fn report_bodiless(&self, request: &Named, status: u16) {
        slog::warn!(self.log, "the response to {} has a body, which status {} does not allow; it was dropped", request.line,
            status; event::RESPONSE_FAULT, "request_id" => &request.id);
    }

    pub(in crate::bridge) fn name(&self, py: Python<'_>, error: &PyErr) -> String {
        error.get_type(py).name().map_or_else(|_| String::from("an exception"), |name| name.to_string())
    }

    pub(in crate::bridge) fn traceback(&self, py: Python<'_>, error: &PyErr) -> String {
        let formatted =
            self.format_exception.bind(py).call1((error.get_type(py), error.value(py), error.traceback(py))).and_then(
                |lines| {
                    let lines = lines.cast_into::<PyList>()?;
                    let mut text = String::new();
                    for line in lines {
                        text.push_str(&line.cast_into::<PyString>()?.to_string_lossy());
                    }
                    Ok(text)
                },
            );
        formatted.unwrap_or_else(|_| format!("{} (its traceback cannot be formatted)", self.name(py, error)))
    }
}

/// The status with which the worker leaves, if the application has raised what ends an interpreter.
pub(crate) fn exit_status(py: Python<'_>, error: &PyErr) -> Option<i32> {
    if error.is_instance_of::<PyKeyboardInterrupt>(py) {
        return Some(130);
    }
    if !error.is_instance_of::<PySystemExit>(py) {
        return None;
    }
    let code = error.value(py).getattr("code").ok()?;
    if code.is_none() { Some(0) } else { Some(code.extract().unwrap_or(1)) }
}

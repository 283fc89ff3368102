//! `wsgi.errors`: what the application writes there goes to the error log.
//!
//! Owns the line that is not yet ended, per thread (`print` writes a line and its end apart), and the id of the thread's
//! request, so that Flask's tracebacks, which come this way, have it. Where a thread has several requests at once
//! ([`Whose`]) the pool is asked when something is written, which costs the requests that write nothing nothing. Invariant:
//! one write of whole lines is one record, so a traceback that is written at once stays together.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use rgunicorn_log::event;
use slog::Logger;
use std::cell::RefCell;
use std::sync::OnceLock;

thread_local! {
    static BEGUN: RefCell<String> = const { RefCell::new(String::new()) };
    /// The id of the request that this thread works on; empty between requests, and where a thread has several at once.
    static REQUEST_ID: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of an unended line that are kept; a longer one is recorded in parts.
const LONGEST: usize = 16 * 1024;

/// Says the id of the request that the caller works on.
pub(crate) type Whose = Box<dyn Fn(Python<'_>) -> Option<String> + Send + Sync>;

/// The stream. One per worker.
#[pyclass(frozen, module = "rgunicorn")]
pub(super) struct Errors {
    log: Logger,
    /// A thread works on one request at a time.
    attributes: bool,
    /// Who knows it where that is not so.
    whose: OnceLock<Whose>,
}

impl Errors {
    /// `attributes`: a thread works on one request at a time, so that what it writes belongs to that.
    pub(super) fn new(log: Logger, attributes: bool) -> Errors {
        Errors { log, attributes, whose: OnceLock::new() }
    }

    /// A thread has several requests at once, and this says whose turn it is. To be called once.
    pub(super) fn ask(&self, whose: Whose) {
        // A second one would change nothing.
        let _ = self.whose.set(whose);
    }

    /// The thread works on this request from now on; on none with an empty id.
    pub(super) fn attribute(&self, id: &[u8]) {
        if self.attributes {
            REQUEST_ID.with(|current| {
                let mut current = current.borrow_mut();
                current.clear();
                current.extend_from_slice(id);
            });
        }
    }

    fn record(&self, py: Python<'_>, text: &str) {
        let text = text.trim_end_matches('\n');
        if !text.is_empty() {
            let of_thread = || {
                REQUEST_ID.with(|id| {
                    let id = id.borrow();
                    (!id.is_empty()).then(|| String::from_utf8_lossy(&id).into_owned())
                })
            };
            let id = self.whose.get().map_or_else(of_thread, |whose| whose(py));
            slog::error!(self.log, "{}", text; event::APPLICATION_OUTPUT, "stream" => "wsgi.errors", "request_id" => id);
        }
    }

    /// Records what this thread has left without a line's end.
    pub(super) fn end_line(&self, py: Python<'_>) {
        // Taken out first: whoever records must not find it borrowed.
        let begun = BEGUN.with(|begun| if begun.borrow().is_empty() { None } else { Some(begun.take()) });
        if let Some(begun) = begun {
            self.record(py, &begun);
        }
    }
}

#[pymethods]
impl Errors {
    /// Always utf-8: what cannot be written so is replaced.
    #[getter]
    fn encoding(&self) -> &'static str {
        "utf-8"
    }

    #[pyo3(signature = (text, /))]
    fn write(&self, text: &Bound<'_, PyAny>) -> PyResult<usize> {
        let Ok(text) = text.cast::<PyString>() else {
            return Err(PyTypeError::new_err("wsgi.errors takes str, not bytes"));
        };
        let lossy = text.to_string_lossy();
        let whole = BEGUN.with(|begun| {
            let mut begun = begun.borrow_mut();
            begun.push_str(&lossy);
            match begun.rfind('\n') {
                Some(end) => {
                    let rest = begun.split_off(end + 1);
                    Some(std::mem::replace(&mut *begun, rest))
                }
                None if begun.len() > LONGEST => Some(std::mem::take(&mut *begun)),
                None => None,
            }
        });
        if let Some(whole) = whole {
            self.record(text.py(), &whole);
        }
        text.len()
    }

    #[pyo3(signature = (lines, /))]
    fn writelines(&self, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(&line?)?;
        }
        Ok(())
    }

    fn flush(&self, py: Python<'_>) {
        self.end_line(py);
    }
}

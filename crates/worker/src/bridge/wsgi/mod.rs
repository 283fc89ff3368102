//! WSGI (PEP 3333, and what Gunicorn adds): a request becomes one call of the application.
//!
//! [`WsgiBridge::serve`] is the whole way of a request: environ, call, response, end of the exchange, `close`. Knows no
//! driver and no HTTP rule. Invariants: each request gets one response or a closed connection; the iterable's `close` is
//! called, whatever happened; one fault is one record; and nothing of a request outlives it but what the application
//! keeps, and that is of no effect any more.

pub(in crate::bridge) mod access;
pub(in crate::bridge) mod declared;
mod environ;
mod errors;
pub(in crate::bridge) mod fault;
pub(in crate::bridge) mod fields;
mod file_wrapper;
mod input;
pub(in crate::bridge) mod lane;
mod responder;
mod sending;
mod socket;
mod waiting;

pub(crate) use fault::exit_status;

use super::direct::call2;
use environ::{Caches, EnvironTemplate, Unmade};
use errors::Errors;
use fault::{Faults, Named};
use file_wrapper::FileTypes;
use input::Input;
use lane::{Ending, Lane, lock};
use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use responder::Kept;
use rgunicorn_http::{BodyFraming, Method};
use rgunicorn_log::AccessLog;
use rgunicorn_protocol::WorkerSettings;
use rgunicorn_reactor::Exchange;
use sending::{Stop, send_result};
use slog::Logger;
use std::sync::{Arc, Mutex};

/// What the lane does after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// The next one.
    Continue,
    /// The next one, if it is a thread. A greenlet ends: somebody has thrown into it what is to end it.
    Thrown,
    /// Leaves with this status: the application has ended the interpreter.
    Exit(i32),
}

/// See the module. One per worker.
pub(crate) struct WsgiBridge {
    application: Py<PyAny>,
    environs: EnvironTemplate,
    caches: Mutex<Caches>,
    errors: Py<Errors>,
    faults: Faults,
    /// None: files are iterated.
    files: Option<FileTypes>,
    access: Option<Arc<AccessLog>>,
}

impl WsgiBridge {
    /// The bridge of this worker's application.
    ///
    /// # Errors
    /// What the interpreter's own modules raise when they are imported.
    pub(crate) fn new(
        py: Python<'_>,
        application: Py<PyAny>,
        settings: &WorkerSettings,
        log: Logger,
        access: Option<Arc<AccessLog>>,
    ) -> PyResult<WsgiBridge> {
        let errors =
            Bound::new(py, Errors::new(log.clone(), matches!(settings.worker_class.as_str(), "sync" | "gthread")))?;
        Ok(WsgiBridge {
            application,
            environs: EnvironTemplate::new(py, settings, errors.as_any())?,
            caches: Mutex::default(),
            errors: errors.unbind(),
            faults: Faults::new(py, log)?,
            files: if settings.sendfile { Some(FileTypes::new(py)?) } else { None },
            access,
        })
    }

    /// A thread has several requests at once, and this says whose turn it is.
    pub(crate) fn ask_whose_turn(&self, whose: errors::Whose) {
        self.errors.get().ask(whose);
    }

    /// Serves one request on a lane, from the first call into Python to the last.
    pub(crate) fn serve(&self, py: Python<'_>, lane: &Arc<Lane>, mut exchange: Box<Exchange>) -> Served {
        let serial = lane.reserve(py);
        let kept = lock(&lane.kept).take().map_or_else(|| Kept::new(py, lane), Ok);
        let (kept, (environ, input)) = match kept.map_err(Stop::from).and_then(|kept| {
            kept.renew(serial);
            let made = self.make_environ(py, &mut exchange, &kept)?;
            Ok((kept, made))
        }) {
            Ok(made) => made,
            Err(stop) => {
                self.finish(py, lane, Ending::unbegun(exchange), None, Some(stop), false);
                return Served::Continue;
            }
        };
        self.errors.get().attribute(exchange.request_id().unwrap_or_default());
        lane.begin(py, exchange);
        let served = self.call(py, lane, serial, &environ, &kept);
        if let Some(input) = input {
            input.get().end(py);
        }
        drop(environ);
        if kept.end(py) {
            *lock(&lane.kept) = Some(kept);
        }
        self.errors.get().end_line(py);
        self.errors.get().attribute(b"");
        served
    }

    fn make_environ<'py>(
        &self,
        py: Python<'py>,
        exchange: &mut Exchange,
        kept: &Kept,
    ) -> Result<(Bound<'py, PyDict>, Option<Py<Input>>), Stop> {
        let made = match self.caches.try_lock() {
            Ok(mut caches) => self.environs.make(py, exchange, &mut caches, kept),
            // Another lane was interrupted while it used them, by a finalizer that gave the interpreter lock away.
            Err(_) => self.environs.make(py, exchange, &mut Caches::default(), kept),
        };
        made.map_err(|unmade| match unmade {
            Unmade::Failed(error) => Stop::Raised(error),
            Unmade::NotBelow { script_name, path } => {
                Stop::Misdirected(format!("the path {path} is not below SCRIPT_NAME {script_name}"))
            }
        })
    }

    /// From the call of the application to the end of its iterable.
    fn call(&self, py: Python<'_>, lane: &Lane, serial: u64, environ: &Bound<'_, PyDict>, kept: &Kept) -> Served {
        let result = call2(self.application.bind(py), environ.as_any(), kept.start_response.bind(py));
        let (result, stop) = match result {
            Ok(result) => {
                let stop = send_result(&result, lane, serial, self.files.as_ref()).err();
                (Some(result), stop)
            }
            Err(error) => (None, Some(Stop::Raised(error))),
        };
        let stop = match stop {
            // What Flask-Sock does when its WebSocket is over: nothing of a response may follow.
            Some(Stop::Raised(error))
                if error.is_instance_of::<PyStopIteration>(py) && kept.socket.get().is_taken() =>
            {
                Some(Stop::TakenOver)
            }
            stop => stop,
        };
        let mut exit = stop.as_ref().and_then(|stop| stop.exit_status(py));
        let mut thrown = stop.as_ref().is_some_and(|stop| stop.ends_greenlet(py));
        let close = result.as_ref().filter(|result| may_close(result));
        let request = match lane.end(py) {
            Some(ending) => self.finish(py, lane, ending, Some(environ), stop, close.is_some()),
            None => None,
        };
        if let Some(result) = close
            && let Err(error) = close_result(result)
        {
            exit = exit.or(exit_status(py, &error));
            // As in `finish`: the record of its timeout has said all.
            if !lane.has_timed_out(py) {
                self.faults.report_close(py, &error, &request.unwrap_or_default());
            }
            thrown |= Stop::Raised(error).ends_greenlet(py);
        }
        exit.map_or(if thrown { Served::Thrown } else { Served::Continue }, Served::Exit)
    }

    /// Ends the response, records what is to be recorded, and gives the connection back. Returns the request's name if
    /// it is `named`. The client does not wait for `close`: that comes after.
    fn finish(
        &self,
        py: Python<'_>,
        lane: &Lane,
        ending: Ending,
        environ: Option<&Bound<'_, PyDict>>,
        stop: Option<Stop>,
        named: bool,
    ) -> Option<Named> {
        let Ending { mut exchange, declared, framing, bodiless, timed_out, gone, body_error } = ending;
        // The record of its timeout has said all; what was thrown into its greenlet is the same news.
        let stop = if timed_out { stop.map(|_| Stop::Gone) } else { stop };
        let sent = exchange.body_sent();
        let missing = match framing {
            Some(BodyFraming::Length(length)) if stop.is_none() => length.saturating_sub(sent),
            Some(BodyFraming::Length(_) | BodyFraming::None | BodyFraming::Chunked | BodyFraming::UntilClose)
            | None => 0,
        };
        let overrun = exchange.overrun();
        let bodiless = bodiless && exchange.head().method != Method::Head;
        let named = named || stop.is_some() || missing > 0 || overrun || bodiless;
        let request = named.then(|| name_of(&exchange));
        if let Some(request) = &request {
            if let Some(stop) = &stop {
                let gone = gone.map(|error| error.to_string());
                let (blame, unread) = body_error.unzip();
                self.faults.report(py, stop, request, gone.as_deref(), unread.as_deref());
                match stop {
                    Stop::Gone | Stop::TakenOver => exchange.abort(),
                    Stop::Raised(_) | Stop::Broke(_) | Stop::Fault(_) | Stop::Misdirected(_) => {
                        // Whose fault an unreadable body is was decided where it was read.
                        let status = blame.filter(|_| stop.is_os_error(py)).unwrap_or(500);
                        lane.with_hands(|hands| exchange.fail(status, hands));
                    }
                }
            }
            if missing > 0 {
                self.faults.report_short(request, missing, sent);
            }
            if overrun {
                self.faults.report_overrun(request, sent);
            }
            if bodiless {
                self.faults.report_bodiless(request, exchange.status());
            }
        }
        if let Some(access) = &self.access {
            access::record(access, &exchange, &declared, framing, environ);
        }
        lane.reuse(py, declared);
        lane.with_hands(|hands| exchange.finish(hands));
        request
    }
}

/// Whether there can be a `close`: lists and tuples have none.
fn may_close(result: &Bound<'_, PyAny>) -> bool {
    result.cast_exact::<PyList>().is_err() && result.cast_exact::<PyTuple>().is_err()
}

fn close_result(result: &Bound<'_, PyAny>) -> PyResult<()> {
    match result.getattr_opt(pyo3::intern!(result.py(), "close"))? {
        Some(close) => close.call0().map(drop),
        None => Ok(()),
    }
}

fn name_of(exchange: &Exchange) -> Named {
    let (head, bytes) = (exchange.head(), exchange.bytes());
    let line = format!("{} {}", head.method_span.of(bytes).escape_ascii(), head.target.of(bytes).escape_ascii());
    Named { line, id: exchange.request_id().map(|id| String::from_utf8_lossy(id).into_owned()) }
}

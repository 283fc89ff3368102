//! From what the application returns to the bytes of the response (PEP 3333, "The Server/Gateway Side").
//!
//! Owns the order of things: what is known at once goes out at once, a generator's pieces go out one by one before the
//! next is asked for, the head waits for the first piece that is not empty. Does not call `close` and does not end the
//! exchange. Invariant: the application is never asked for more after it, or the client, has ended the response.

use super::declared::kind;
use super::fault::exit_status;
use super::file_wrapper::{FileTypes, FileWrapper};
use super::lane::{Ended, Lane, Unsent};
use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use rgunicorn_http::{BodyFraming, ResponseFault};
use rgunicorn_reactor::{Exchange, Flow};

/// Why the response ended before its time.
#[derive(Debug)]
pub(in crate::bridge) enum Stop {
    /// The application raised an exception.
    Raised(PyErr),
    /// The client has left.
    Gone,
    /// The application broke PEP 3333; a sentence about it.
    Broke(String),
    /// Status or fields that cannot be sent.
    Fault(ResponseFault),
    /// The request does not fit the settings; a sentence about it. The application was not called.
    Misdirected(String),
    /// The application has spoken to the client itself, over `gunicorn.socket`.
    TakenOver,
}

impl Stop {
    /// Whether the application raised an OSError, as reading a body that does not come on does.
    pub(super) fn is_os_error(&self, py: Python<'_>) -> bool {
        match self {
            Stop::Raised(error) => error.is_instance_of::<PyOSError>(py),
            Stop::Gone | Stop::Broke(_) | Stop::Fault(_) | Stop::Misdirected(_) | Stop::TakenOver => false,
        }
    }

    /// The status with which the worker leaves, if the application has ended the interpreter.
    pub(super) fn exit_status(&self, py: Python<'_>) -> Option<i32> {
        match self {
            Stop::Raised(error) => exit_status(py, error),
            Stop::Gone | Stop::Broke(_) | Stop::Fault(_) | Stop::Misdirected(_) | Stop::TakenOver => None,
        }
    }

    /// Whether this was thrown to end the greenlet or the thread, not only the request (GreenletExit, gevent.Timeout).
    pub(super) fn ends_greenlet(&self, py: Python<'_>) -> bool {
        match self {
            Stop::Raised(error) => !error.is_instance_of::<PyException>(py),
            Stop::Gone | Stop::Broke(_) | Stop::Fault(_) | Stop::Misdirected(_) | Stop::TakenOver => false,
        }
    }
}

impl From<PyErr> for Stop {
    fn from(error: PyErr) -> Stop {
        Stop::Raised(error)
    }
}

impl From<Unsent> for Stop {
    fn from(unsent: Unsent) -> Stop {
        match unsent {
            Unsent::Gone => Stop::Gone,
            Unsent::Undeclared => {
                Stop::Broke("the application has not called start_response before the first bytes of the body".into())
            }
            Unsent::Fault(fault) => Stop::Fault(fault),
            Unsent::Thrown(error) => Stop::Raised(error),
        }
    }
}

impl From<Ended> for Stop {
    fn from(_: Ended) -> Stop {
        Stop::Gone
    }
}

/// Bytes of a list's items up to which they are sent as one.
const AT_ONCE: usize = 64 * 1024;

/// Sends what the application returned.
pub(super) fn send_result(
    result: &Bound<'_, PyAny>,
    lane: &Lane,
    serial: u64,
    files: Option<&FileTypes>,
) -> Result<(), Stop> {
    let py = result.py();
    if let Ok(list) = result.cast_exact::<PyList>() {
        if list.len() == 1 {
            return send_one(&list.get_item(0)?, lane, serial);
        }
        // A snapshot: while a part waits for the client, other threads run.
        let parts = list.iter().map(|part| bytes_of(&part)).collect::<Result<Vec<_>, Stop>>()?;
        return send_parts(py, &parts, lane, serial);
    }
    if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        let parts = tuple.iter().map(|part| bytes_of(&part)).collect::<Result<Vec<_>, Stop>>()?;
        return send_parts(py, &parts, lane, serial);
    }
    if let Some(files) = files
        && let Ok(wrapper) = result.cast_exact::<FileWrapper>()
        && send_file(wrapper, files, lane, serial)?
    {
        return Ok(());
    }
    send_iterated(result, lane, serial)
}

fn bytes_of<'py>(part: &Bound<'py, PyAny>) -> Result<Bound<'py, PyBytes>, Stop> {
    match part.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.clone()),
        Err(_) => Err(not_bytes(part)),
    }
}

fn not_bytes(part: &Bound<'_, PyAny>) -> Stop {
    Stop::Broke(format!("the application's iterable must give bytes, it gave {}", kind(part)))
}

/// The common case: one piece, which is the whole body.
fn send_one(part: &Bound<'_, PyAny>, lane: &Lane, serial: u64) -> Result<(), Stop> {
    let Ok(bytes) = part.cast::<PyBytes>() else { return Err(not_bytes(part)) };
    let (py, data) = (part.py(), bytes.as_bytes());
    if data.len() > AT_ONCE {
        return send_parts(py, std::slice::from_ref(bytes), lane, serial);
    }
    let flow = lane.with(py, serial, |work, hands| {
        let framing = work.respond(Some(data.len() as u64), hands)?;
        if data.is_empty() {
            return work.order(Exchange::flush);
        }
        if framing == BodyFraming::None {
            work.drop_body();
            return work.order(Exchange::flush);
        }
        work.order(|exchange| exchange.send(data))
    })?;
    // Whatever is unsent: there is nothing more to wait with.
    let _: Flow = flow?;
    Ok(())
}

/// All pieces are known, and so is the body's length.
fn send_parts(py: Python<'_>, parts: &[Bound<'_, PyBytes>], lane: &Lane, serial: u64) -> Result<(), Stop> {
    let total = parts.iter().map(|part| part.as_bytes().len()).sum::<usize>();
    let framing = lane.with(py, serial, |work, hands| work.respond(Some(total as u64), hands))??;
    let bodiless = matches!(framing, BodyFraming::None);
    if total <= AT_ONCE || bodiless {
        let sent = lane.with(py, serial, |work, _| {
            if bodiless {
                if total > 0 {
                    work.drop_body();
                }
            } else {
                for part in parts.iter().map(|part| part.as_bytes()).filter(|part| !part.is_empty()) {
                    let _: Flow = work.order(|exchange| exchange.add(part))?;
                }
            }
            work.order(Exchange::flush)
        })?;
        let _: Flow = sent?;
        return Ok(());
    }
    for part in parts.iter().filter(|part| !part.as_bytes().is_empty()) {
        lane.send(part, serial)??;
    }
    Ok(())
}

/// Anything that can be iterated, piece by piece.
fn send_iterated(result: &Bound<'_, PyAny>, lane: &Lane, serial: u64) -> Result<(), Stop> {
    let py = result.py();
    let Ok(parts) = result.try_iter() else {
        return Err(Stop::Broke(format!(
            "the application must return an iterable of bytes, it returned {}",
            kind(result)
        )));
    };
    for part in parts {
        let part = part?;
        let Ok(bytes) = part.cast::<PyBytes>() else { return Err(not_bytes(&part)) };
        if bytes.as_bytes().is_empty() {
            continue;
        }
        lane.send(bytes, serial)??;
        let enough = lane.with(py, serial, |work, _| {
            let overrun = work.exchange.as_ref().is_some_and(|exchange| exchange.overrun());
            overrun || matches!(work.framing(), Some(BodyFraming::None))
        })?;
        // Nothing more of it can be sent. `close` tells the application.
        if enough {
            return Ok(());
        }
    }
    let sent = lane.with(py, serial, |work, hands| {
        work.respond(Some(0), hands)?;
        work.order(Exchange::flush)
    })?;
    let _: Flow = sent?;
    Ok(())
}

/// Gives a file to the kernel to send. `Ok(false)`: it has to be iterated.
fn send_file(wrapper: &Bound<'_, FileWrapper>, files: &FileTypes, lane: &Lane, serial: u64) -> Result<bool, Stop> {
    let py = wrapper.py();
    let Some(range) = files.range(wrapper) else { return Ok(false) };
    // After `write` the body may be in chunks, for which iteration is the way.
    if lane.with(py, serial, |work, _| work.responded())? {
        return Ok(false);
    }
    let sent = lane.with(py, serial, |work, hands| -> Result<(), Unsent> {
        let framing = work.respond(Some(range.length), hands)?;
        if matches!(framing, BodyFraming::None) || range.length == 0 {
            let _: Flow = work.order(Exchange::flush)?;
            return Ok(());
        }
        work.order(|exchange| exchange.send_file(range.file, range.offset, range.length))
    })?;
    sent?;
    Ok(true)
}

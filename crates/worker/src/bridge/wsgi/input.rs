//! `wsgi.input`: the request body as a stream (PEP 3333, "Input and Error Streams").
//!
//! Owns a buffered body, or reads a streamed one through the lane. Knows no framing: the end of the stream is the end of
//! the body. Invariants: the interpreter lock is not held while the client or the disk is waited for (a greenlet waits in the
//! hub, which gives it up; its disk is waited for like any other file's, without the lock); an error stays an
//! error, so a truncated body is never taken for a complete one.

use super::lane::{Ended, Lane, lock};
use pyo3::exceptions::{
    PyConnectionAbortedError, PyConnectionResetError, PyOSError, PyTimeoutError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};
use rgunicorn_reactor::{BodyError, BufferedBody, Read};
use std::sync::{Arc, Mutex};

/// Bytes asked for at once.
const STEP: usize = 64 * 1024;

/// The input of all requests without a body: it has no state, so one serves them all.
#[pyclass(frozen, module = "rgunicorn")]
pub(super) struct EmptyInput;

#[pymethods]
impl EmptyInput {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyBytes>> {
        wanted(size)?;
        Ok(PyBytes::new(py, b""))
    }

    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyBytes>> {
        self.read(py, size)
    }

    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, hint: Option<&Bound<'py, PyAny>>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        wanted(hint)?;
        Ok(Vec::new())
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self) -> Option<Bound<'py, PyBytes>> {
        None
    }
}

/// The input of a request with a body.
#[pyclass(frozen, module = "rgunicorn")]
pub(super) struct Input {
    lane: Arc<Lane>,
    serial: u64,
    state: Mutex<State>,
}

/// What is read, `usize::MAX` being all of it.
#[derive(Clone, Copy)]
enum Wanted {
    Bytes(usize),
    Line(usize),
}

impl Wanted {
    /// How much of what was read ahead answers it, if it is enough. `looked_at`: bytes known to have no line's end.
    fn enough(self, ahead: &[u8], looked_at: usize) -> Option<usize> {
        match self {
            Wanted::Bytes(most) => (ahead.len() >= most).then_some(most),
            Wanted::Line(most) => {
                let end = memchr::memchr(b'\n', &ahead[looked_at..]).map(|at| looked_at + at + 1);
                end.map(|end| end.min(most)).or((ahead.len() >= most).then_some(most))
            }
        }
    }
}

struct State {
    source: Source,
    /// Read from the source and not yet by the application, from `at` on.
    ahead: Vec<u8>,
    at: usize,
}

enum Source {
    /// Complete, in memory or on disk.
    Buffered(Box<BufferedBody>),
    /// Still arriving, at the lane's exchange.
    Streamed,
    /// The request has ended.
    Ended,
    /// Reading has failed, for good.
    Failed(Failure),
}

/// What is raised in the application.
#[derive(Debug, Clone)]
enum Failure {
    Ended,
    Truncated(String),
    TimedOut(String),
    Rejected(String),
    Disk(String),
}

impl Failure {
    /// OSError where the client or the disk is to blame, since frameworks take that for a client that left.
    fn into_error(self) -> PyErr {
        match self {
            Failure::Ended => PyValueError::new_err("wsgi.input was read after its request had ended"),
            Failure::Truncated(text) => PyConnectionResetError::new_err(text),
            Failure::TimedOut(text) => PyTimeoutError::new_err(text),
            Failure::Rejected(text) => PyConnectionAbortedError::new_err(text),
            Failure::Disk(text) => PyOSError::new_err(text),
        }
    }
}

impl Input {
    /// `body`: complete and buffered; without it, the body is read from the lane's exchange.
    pub(super) fn new(lane: Arc<Lane>, serial: u64, body: Option<Box<BufferedBody>>) -> Input {
        let source = body.map_or(Source::Streamed, Source::Buffered);
        Input { lane, serial, state: Mutex::new(State { source, ahead: Vec::new(), at: 0 }) }
    }

    /// The request has ended: gives the body's memory or disk space back.
    pub(super) fn end(&self, py: Python<'_>) {
        let ended = State { source: Source::Ended, ahead: Vec::new(), at: 0 };
        let old = match self.state.try_lock() {
            Ok(mut state) => std::mem::replace(&mut *state, ended),
            // A thread of the application is reading.
            Err(_) => py.detach(|| std::mem::replace(&mut *lock(&self.state), ended)),
        };
        drop(old);
    }

    /// A piece of a body in memory, straight from there. `cut` says how much of the rest it is.
    fn at_once<'py>(&self, py: Python<'py>, cut: impl FnOnce(&[u8]) -> usize) -> Option<Bound<'py, PyBytes>> {
        let mut state = self.state.try_lock().ok()?;
        let Source::Buffered(body) = &mut state.source else { return None };
        let rest = body.in_memory()?;
        let n = cut(rest);
        let piece = PyBytes::new(py, &rest[..n]);
        body.consume(n);
        Some(piece)
    }

    /// Anything else: without the interpreter lock, or in the hub.
    fn wait<'py>(&self, py: Python<'py>, wanted: Wanted) -> PyResult<Bound<'py, PyBytes>> {
        if !self.lane.waiting().blocks() && self.is_streamed(py) {
            let data = self.lane.waiting().until(py, || {
                lock(&self.state).poll(py, wanted, &self.lane, self.serial).map_err(Failure::into_error)
            })?;
            return Ok(PyBytes::new(py, &data));
        }
        let data = py.detach(|| {
            let mut state = lock(&self.state);
            match wanted {
                Wanted::Bytes(most) => state.read(most, &self.lane, self.serial),
                Wanted::Line(most) => state.read_line(most, &self.lane, self.serial),
            }
        });
        data.map(|data| PyBytes::new(py, &data)).map_err(Failure::into_error)
    }

    /// Whether the body still comes from the client. A state that another thread reads in is waited for.
    fn is_streamed(&self, py: Python<'_>) -> bool {
        let look = |state: &State| matches!(state.source, Source::Streamed);
        match self.state.try_lock() {
            Ok(state) => look(&state),
            Err(_) => py.detach(|| look(&lock(&self.state))),
        }
    }

    fn line<'py>(&self, py: Python<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let most = size.unwrap_or(usize::MAX);
        let cut = |rest: &[u8]| {
            let rest = &rest[..rest.len().min(most)];
            memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1)
        };
        match self.at_once(py, cut) {
            Some(line) => Ok(line),
            None => self.wait(py, Wanted::Line(most)),
        }
    }
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyBytes>> {
        let most = wanted(size)?.unwrap_or(usize::MAX);
        match self.at_once(py, |rest| rest.len().min(most)) {
            Some(data) => Ok(data),
            None => self.wait(py, Wanted::Bytes(most)),
        }
    }

    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyBytes>> {
        self.line(py, wanted(size)?)
    }

    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<&Bound<'py, PyAny>>) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let enough = wanted(hint)?.filter(|hint| *hint > 0).unwrap_or(usize::MAX);
        let (mut lines, mut total) = (Vec::new(), 0);
        while total < enough {
            let line = self.line(py, None)?;
            let length = line.as_bytes().len();
            if length == 0 {
                break;
            }
            total += length;
            lines.push(line);
        }
        Ok(lines)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.line(py, None)?;
        Ok(if line.as_bytes().is_empty() { None } else { Some(line) })
    }
}

impl State {
    /// Reads `most` bytes, or what there is to the end.
    fn read(&mut self, most: usize, lane: &Lane, serial: u64) -> Result<Vec<u8>, Failure> {
        let mut data = self.take_ahead(most);
        while data.len() < most {
            let before = data.len();
            let step = (most - before).min(STEP);
            data.resize(before + step, 0);
            let n = self.step(&mut data[before..], lane, serial)?;
            data.truncate(before + n);
            if n == 0 {
                break;
            }
        }
        Ok(data)
    }

    /// Reads a line with its end, or `most` bytes of it, or what there is to the end.
    fn read_line(&mut self, most: usize, lane: &Lane, serial: u64) -> Result<Vec<u8>, Failure> {
        let mut looked_at = 0;
        loop {
            let rest = &self.ahead[self.at..];
            let new = &rest[looked_at..];
            if let Some(at) = memchr::memchr(b'\n', new) {
                return Ok(self.take_ahead((looked_at + at + 1).min(most)));
            }
            looked_at = rest.len();
            if looked_at >= most {
                return Ok(self.take_ahead(most));
            }
            let mut step = vec![0; STEP];
            let n = self.step(&mut step, lane, serial)?;
            if n == 0 {
                return Ok(self.take_ahead(most));
            }
            self.ahead.drain(..self.at);
            self.at = 0;
            self.ahead.extend_from_slice(&step[..n]);
        }
    }

    /// As [`State::read`] and [`State::read_line`], without waiting. None: the client is to be waited for; what has come
    /// is kept.
    fn poll(&mut self, py: Python<'_>, wanted: Wanted, lane: &Lane, serial: u64) -> Result<Option<Vec<u8>>, Failure> {
        let mut looked_at = 0;
        loop {
            if let Some(n) = wanted.enough(&self.ahead[self.at..], looked_at) {
                return Ok(Some(self.take_ahead(n)));
            }
            match &self.source {
                Source::Streamed => {}
                Source::Failed(failure) => return Err(failure.clone()),
                Source::Ended | Source::Buffered(_) => return Err(Failure::Ended),
            }
            self.ahead.drain(..self.at);
            self.at = 0;
            looked_at = self.ahead.len();
            self.ahead.resize(looked_at + STEP, 0);
            let polled = lane.with(py, serial, |work, hands| {
                let Some(exchange) = work.exchange.as_mut() else { return Err(BodyError::Truncated) };
                let result = exchange.poll_body(&mut self.ahead[looked_at..], hands);
                if let Err(error) = &result {
                    work.body_error = Some((error.status(), error.to_string()));
                }
                result
            });
            let new = if let Ok(Ok(Read::Data(n))) = &polled { *n } else { 0 };
            self.ahead.truncate(looked_at + new);
            match polled.map_err(|Ended| Failure::Ended)? {
                Ok(Read::Data(_)) => {}
                Ok(Read::Pending) => return Ok(None),
                Ok(Read::End) => {
                    return Ok(Some(self.take_ahead(match wanted {
                        Wanted::Bytes(most) | Wanted::Line(most) => most,
                    })));
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    fn fail(&mut self, error: BodyError) -> Failure {
        let text = error.to_string();
        let failure = match error {
            BodyError::Truncated => Failure::Truncated(text),
            BodyError::TimedOut => Failure::TimedOut(text),
            BodyError::Rejected(_) => Failure::Rejected(text),
            BodyError::Failure(_) => Failure::Disk(text),
        };
        self.source = Source::Failed(failure.clone());
        failure
    }

    fn take_ahead(&mut self, most: usize) -> Vec<u8> {
        if self.at == 0 && most >= self.ahead.len() {
            return std::mem::take(&mut self.ahead);
        }
        let end = self.at.saturating_add(most).min(self.ahead.len());
        let data = self.ahead[self.at..end].to_vec();
        self.at = end;
        if self.at == self.ahead.len() {
            self.ahead.clear();
            self.at = 0;
        }
        data
    }

    /// One read of the source. 0: the end.
    fn step(&mut self, into: &mut [u8], lane: &Lane, serial: u64) -> Result<usize, Failure> {
        let result = match &mut self.source {
            Source::Buffered(body) => body.read(into).map_err(BodyError::Failure),
            Source::Streamed => lane
                .waiting_with(serial, |work, hands| {
                    let Some(exchange) = work.exchange.as_mut() else { return Err(BodyError::Truncated) };
                    let result = exchange.read_body(into, hands);
                    if let Err(error) = &result {
                        work.body_error = Some((error.status(), error.to_string()));
                    }
                    result
                })
                .map_err(|Ended| Failure::Ended)?,
            Source::Ended => return Err(Failure::Ended),
            Source::Failed(failure) => return Err(failure.clone()),
        };
        result.map_err(|error| self.fail(error))
    }
}

/// A size argument: none, None or negative is "all".
fn wanted(size: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
    let Some(size) = size.filter(|size| !size.is_none()) else { return Ok(None) };
    if !size.is_instance_of::<PyInt>() && !size.hasattr("__index__")? {
        return Err(PyTypeError::new_err("size must be an integer"));
    }
    match size.extract::<i64>() {
        Ok(size) => Ok(usize::try_from(size).ok()),
        // More than fits is more than there is.
        Err(_) => Ok(None),
    }
}

//! One HTTP request between the application and its client: `receive`, `send`, and the end of the coroutine.
//!
//! Owns the exchange, and the order of the events (ASGI HTTP specification 2.5 and the extensions pathsend,
//! zerocopysend, early_hint, trailers). The head waits for the first event of the body, so that a body that is given at
//! once has a Content-Length. Invariants: once the last part of the body is sent the connection belongs to the reactor
//! again, whatever the application still does; a client that has left is never sent to.

use super::awaitable::{Awaited, Source, Waiters};
use super::event::{Event, backed};
use super::{Shared, fault, name_of};
use crate::bridge::direct::duplicate;
use crate::bridge::wsgi::access;
use crate::bridge::wsgi::declared::Declared;
use crate::bridge::wsgi::fault::{Named, exit_status};
use crate::bridge::wsgi::lane::lock;
use crate::drivers::leave_soon;
use pyo3::exceptions::{PyBrokenPipeError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use rgunicorn_http::BodyFraming;
use rgunicorn_reactor::{Exchange, Flow, OwnedBytes, Read, SendError};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Instant;

/// Bytes of a request body given in one event at most.
const PART: usize = 64 * 1024;
/// Bytes above which a part of the response is kept, not copied, when the socket does not take it.
const LONG: usize = 64 * 1024;

/// How far the application's answer is.
enum Answer {
    /// `http.response.start` is awaited.
    Awaited,
    /// It came; `trailers` was set in it.
    Started { trailers: bool },
    /// The head is encoded, and the body goes on.
    Body { framing: BodyFraming, trailers: bool },
    /// The body is complete, trailers are awaited.
    Trailers { collected: Declared },
    /// Nothing more is sent.
    Complete,
}

struct State {
    /// Present until the response is complete or given up.
    exchange: Option<Box<Exchange>>,
    answer: Answer,
    declared: Declared,
    /// The last part of the request body was given.
    body_given: bool,
    /// The client has left, as far as `receive` tells; since when.
    left: Option<Instant>,
    /// Nothing can be sent any more, and why.
    gone: Option<String>,
    /// Why the body could not be read, and the status that says so.
    body_error: Option<(u16, String)>,
    /// The application gave a body where HTTP has none.
    bodiless: bool,
    cancelled: bool,
    receivers: Waiters,
    senders: Waiters,
    /// For records once the exchange is gone.
    name: Option<Unnamed>,
}

/// See the module.
#[pyclass(frozen, weakref, module = "rgunicorn")]
pub(crate) struct HttpCycle {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    lane: usize,
    state: Mutex<State>,
}

/// What a request is named by, as it came: only a fault after the response needs the name.
struct Unnamed {
    line: Box<[u8]>,
    id: Option<Box<[u8]>>,
}

impl Unnamed {
    fn of(exchange: &Exchange) -> Unnamed {
        let (head, bytes) = (exchange.head(), exchange.bytes());
        let line = bytes.get(head.method_span.start as usize..head.target.end as usize).unwrap_or_default();
        Unnamed { line: line.into(), id: exchange.request_id().map(Into::into) }
    }

    fn named(&self) -> Named {
        let id = self.id.as_ref().map(|id| String::from_utf8_lossy(id).into_owned());
        Named { line: self.line.escape_ascii().to_string(), id }
    }
}

/// The awaitable of `receive()`.
struct Receiving(Arc<Inner>);
/// The awaitable of a `send()` that waits for the client to read.
struct Sending(Arc<Inner>);

impl HttpCycle {
    pub(super) fn new(shared: &Arc<Shared>, exchange: Box<Exchange>, lane: usize) -> HttpCycle {
        let state = State {
            exchange: Some(exchange),
            answer: Answer::Awaited,
            declared: Declared::default(),
            body_given: false,
            left: None,
            gone: None,
            body_error: None,
            bodiless: false,
            cancelled: false,
            receivers: Waiters::default(),
            senders: Waiters::default(),
            name: None,
        };
        HttpCycle { inner: Arc::new(Inner { shared: Arc::clone(shared), lane, state: Mutex::new(state) }) }
    }

    pub(super) fn wake(&self, py: Python<'_>) {
        let (receivers, senders) = {
            let mut state = lock(&self.inner.state);
            state.look();
            (state.receivers.take(), state.senders.take())
        };
        receivers.wake(py);
        senders.wake(py);
    }

    pub(super) fn left(&self) -> Option<Instant> {
        let state = lock(&self.inner.state);
        state.left.filter(|_| state.exchange.is_some() && !state.cancelled)
    }

    pub(super) fn note_cancelled(&self) {
        lock(&self.inner.state).cancelled = true;
    }

    /// The name of the request, if its response is over.
    pub(super) fn clientless(&self) -> Option<Named> {
        let state = lock(&self.inner.state);
        let over = state.exchange.is_none() && matches!(state.answer, Answer::Complete);
        over.then(|| state.name.as_ref().map(Unnamed::named).unwrap_or_default())
    }
}

#[pymethods]
impl HttpCycle {
    fn receive(&self) -> Awaited {
        Awaited::new(&self.inner.shared, Arc::new(Receiving(Arc::clone(&self.inner))))
    }

    fn send(&self, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        match self.inner.take_event(py, event)? {
            Flow::Go => Ok(self.inner.shared.done(py)),
            Flow::Wait => {
                let sending = Awaited::new(&self.inner.shared, Arc::new(Sending(Arc::clone(&self.inner))));
                Ok(Py::new(py, sending)?.into_any())
            }
        }
    }

    /// The coroutine has ended: with an exception, or by returning.
    #[pyo3(signature = (error=None))]
    fn end(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) {
        self.inner.end(py, error.map(|error| PyErr::from_value(error.clone())));
    }
}

impl Source for Receiving {
    fn poll(&self, py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
        self.0.poll_receive(py)
    }

    fn wait(&self, _py: Python<'_>, future: Py<PyAny>) {
        lock(&self.0.state).receivers.push(future);
    }
}

impl Source for Sending {
    fn poll(&self, _py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
        let mut state = lock(&self.0.state);
        let Some(exchange) = state.exchange.as_mut() else { return Ok(Poll::Ready(None)) };
        match exchange.poll_room() {
            Ok(true) => Ok(Poll::Ready(None)),
            Ok(false) => Ok(Poll::Pending),
            Err(error) => Err(state.lose(&error)),
        }
    }

    fn wait(&self, _py: Python<'_>, future: Py<PyAny>) {
        lock(&self.0.state).senders.push(future);
    }
}

impl State {
    /// Takes note of what has happened to the connection.
    fn look(&mut self) {
        let Some(exchange) = self.exchange.as_mut() else { return };
        let client = exchange.look();
        if client.hung_up && exchange.body_ended() || client.gone {
            self.left.get_or_insert_with(Instant::now);
        }
    }

    /// Nothing can be sent any more. What `send` raises: an OSError, as the specification demands since 2.4.
    fn lose(&mut self, error: &SendError) -> PyErr {
        match error {
            SendError::Gone(error) => {
                self.left.get_or_insert_with(Instant::now);
                self.gone.get_or_insert_with(|| error.to_string());
                client_left()
            }
            SendError::Fault(fault) => PyValueError::new_err(fault.to_string()),
        }
    }

    fn order(&mut self, order: impl FnOnce(&mut Exchange) -> Result<Flow, SendError>) -> PyResult<Flow> {
        if self.gone.is_some() {
            return Err(client_left());
        }
        let Some(exchange) = self.exchange.as_mut() else { return Ok(Flow::Go) };
        match order(exchange) {
            Ok(flow) => Ok(flow),
            Err(error) => Err(self.lose(&error)),
        }
    }
}

fn client_left() -> PyErr {
    PyBrokenPipeError::new_err("the client has left")
}

fn unexpected(expected: &str, event: &Event<'_>) -> PyErr {
    PyRuntimeError::new_err(format!("Expected ASGI message '{expected}', but got '{}'.", event.name))
}

impl Inner {
    fn poll_receive(&self, py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
        let mut part = Vec::new();
        let more = {
            let mut state = lock(&self.state);
            if matches!(state.answer, Answer::Complete) || state.exchange.is_none() {
                return disconnected(py);
            }
            if !state.body_given {
                part.resize(PART, 0);
                let shared = &self.shared;
                let Some(exchange) = state.exchange.as_mut() else { return disconnected(py) };
                let length = exchange.body_length();
                if length == Some(0) {
                    part = Vec::new();
                    Some(false)
                } else {
                    match shared.with_hands(|hands| exchange.poll_body(&mut part, hands)) {
                        Ok(Read::Data(n)) => {
                            part.truncate(n);
                            Some(!exchange.body_ended())
                        }
                        Ok(Read::End) => {
                            part.clear();
                            Some(false)
                        }
                        Ok(Read::Pending) => {
                            state.look();
                            if state.left.is_none() {
                                return Ok(Poll::Pending);
                            }
                            None
                        }
                        Err(error) => {
                            state.body_error = Some((error.status(), error.to_string()));
                            state.left.get_or_insert_with(Instant::now);
                            None
                        }
                    }
                }
            } else {
                state.look();
                if state.left.is_none() {
                    return Ok(Poll::Pending);
                }
                None
            }
            .inspect(|more| state.body_given = !more)
        };
        let Some(more) = more else { return disconnected(py) };
        let event = PyDict::new(py);
        event.set_item(pyo3::intern!(py, "type"), pyo3::intern!(py, "http.request"))?;
        event.set_item(pyo3::intern!(py, "body"), PyBytes::new(py, &part))?;
        event.set_item(pyo3::intern!(py, "more_body"), more)?;
        Ok(Poll::Ready(Some(event.into_any().unbind())))
    }

    /// What `send` was given. [`Flow::Wait`]: the caller waits for room.
    fn take_event(&self, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<Flow> {
        let event = Event::of(event)?;
        match event.name.as_str() {
            "http.response.body" => self.take_body(py, &event),
            "http.response.start" => self.take_start(py, &event),
            "http.response.pathsend" => self.take_path(py, &event),
            "http.response.zerocopysend" => self.take_file(py, &event),
            "http.response.early_hint" => self.take_hint(py, &event),
            "http.response.trailers" => self.take_trailers(py, &event),
            name => Err(PyRuntimeError::new_err(format!("'{name}' is no ASGI message of an HTTP response."))),
        }
    }

    fn take_start(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let expected = match lock(&self.state).answer {
            Answer::Awaited => None,
            Answer::Complete => return Ok(Flow::Go),
            Answer::Started { .. } | Answer::Body { .. } => Some("http.response.body"),
            Answer::Trailers { .. } => Some("http.response.trailers"),
        };
        if let Some(expected) = expected {
            return Err(unexpected(expected, event));
        }
        // The application's own code may run while its headers are iterated: no lock is held.
        let mut declared = self.shared.spare_declared();
        let headers = event.get(pyo3::intern!(py, "headers"))?;
        declared.declare_bytes(event.status(py)?, headers.as_ref(), &event.name)?;
        let trailers = event.flag(pyo3::intern!(py, "trailers"))?;
        let mut state = lock(&self.state);
        if state.gone.is_some() {
            return Err(client_left());
        }
        state.declared = declared;
        state.answer = Answer::Started { trailers };
        Ok(Flow::Go)
    }

    /// Encodes the head, if that was not done yet. None: the response is over, the event is ignored.
    fn respond(&self, state: &mut State, event: &Event<'_>, length: Option<u64>) -> PyResult<Option<BodyFraming>> {
        let trailers = match &state.answer {
            Answer::Awaited => return Err(unexpected("http.response.start", event)),
            Answer::Trailers { .. } => return Err(unexpected("http.response.trailers", event)),
            Answer::Complete => return Ok(None),
            Answer::Body { framing, .. } => return Ok(Some(*framing)),
            Answer::Started { trailers } => *trailers,
        };
        if state.gone.is_some() {
            return Err(client_left());
        }
        let State { exchange, declared, .. } = state;
        let Some(exchange) = exchange.as_mut() else { return Ok(None) };
        let length = length.filter(|_| !trailers);
        let started = self
            .shared
            .with_hands(|hands| declared.with(|status, fields| exchange.respond(status, fields, length, hands)))
            .map_err(|fault| PyValueError::new_err(format!("http.response.start: {fault}")))?;
        state.answer = Answer::Body { framing: started.framing, trailers };
        Ok(Some(started.framing))
    }

    fn take_body(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let body = event.bytes(pyo3::intern!(py, "body"))?;
        let more = event.flag(pyo3::intern!(py, "more_body"))?;
        let data = body.as_ref().map_or(&b""[..], |body| body.as_bytes());
        let mut state = lock(&self.state);
        let known = (!more).then_some(data.len() as u64);
        let Some(framing) = self.respond(&mut state, event, known)? else { return Ok(Flow::Go) };
        let mut flow = Flow::Go;
        if framing == BodyFraming::None {
            state.bodiless |= !data.is_empty();
        } else if !data.is_empty() {
            flow = match body {
                Some(body) if data.len() > LONG => {
                    let owned: OwnedBytes = Arc::new(backed(body));
                    state.order(|exchange| exchange.send_owned(&owned))?
                }
                // What is complete leaves with the end of the response.
                Some(_) if !more => state.order(|exchange| exchange.add(data))?,
                Some(_) => state.order(|exchange| exchange.send(data))?,
                None => Flow::Go,
            };
        } else if more {
            // An empty part is how a stream has its head sent before there is data.
            flow = state.order(Exchange::flush)?;
        }
        self.go_on(py, state, more, flow)
    }

    /// After a part of the body: the last one ends the response.
    fn go_on(
        &self,
        py: Python<'_>,
        mut state: std::sync::MutexGuard<'_, State>,
        more: bool,
        flow: Flow,
    ) -> PyResult<Flow> {
        if more {
            return Ok(flow);
        }
        if let Answer::Body { trailers: true, .. } = state.answer {
            state.answer = Answer::Trailers { collected: Declared::default() };
            return Ok(flow);
        }
        self.complete(py, state);
        Ok(Flow::Go)
    }

    /// `pathsend`: a file as the whole body, by sendfile(2).
    fn take_path(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let Some(path) = event.text(pyo3::intern!(py, "path"))? else {
            return Err(PyValueError::new_err("http.response.pathsend: the key 'path' is missing"));
        };
        if matches!(lock(&self.state).answer, Answer::Complete) {
            return Ok(Flow::Go);
        }
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(PyValueError::new_err(format!("http.response.pathsend: {path:?} is not a regular file")));
        }
        self.send_file(py, event, file, 0, metadata.len(), false)
    }

    /// `zerocopysend`: a part of an open file.
    fn take_file(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let Some(file) = event.get(pyo3::intern!(py, "file"))? else {
            return Err(PyValueError::new_err("http.response.zerocopysend: the key 'file' is missing"));
        };
        let fd = match file.extract::<i32>() {
            Ok(fd) => fd,
            Err(_) => file.call_method0(pyo3::intern!(py, "fileno"))?.extract::<i32>()?,
        };
        let given = event.number(pyo3::intern!(py, "offset"))?;
        let count = event.number(pyo3::intern!(py, "count"))?;
        let more = event.flag(pyo3::intern!(py, "more_body"))?;
        let file = File::from(duplicate(fd)?);
        let size = file.metadata()?.len();
        let offset = match given.and_then(|offset| u64::try_from(offset).ok()) {
            Some(offset) => offset,
            None => std::io::Seek::stream_position(&mut &file)?,
        };
        let left = size.saturating_sub(offset);
        let length = count.and_then(|count| u64::try_from(count).ok()).map_or(left, |count| count.min(left));
        self.send_file(py, event, file, offset, length, more)
    }

    fn send_file(
        &self,
        py: Python<'_>,
        event: &Event<'_>,
        file: File,
        offset: u64,
        length: u64,
        more: bool,
    ) -> PyResult<Flow> {
        let mut state = lock(&self.state);
        let known = (!more).then_some(length);
        let Some(framing) = self.respond(&mut state, event, known)? else { return Ok(Flow::Go) };
        let mut flow = Flow::Go;
        if framing != BodyFraming::None && length > 0 {
            flow = if self.shared.sendfile {
                state.order(|exchange| exchange.send_file(OwnedFd::from(file), offset, length).map(|()| Flow::Go))?
            } else {
                let mut data = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                file.read_exact_at(&mut data, offset)?;
                let owned: OwnedBytes = Arc::new(data);
                state.order(|exchange| exchange.send_owned(&owned))?
            };
        }
        self.go_on(py, state, more, flow)
    }

    fn take_hint(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let Some(links) = event.get(pyo3::intern!(py, "links"))? else {
            return Err(PyValueError::new_err("http.response.early_hint: the key 'links' is missing"));
        };
        if links.is_instance_of::<PyBytes>() || links.is_instance_of::<PyString>() {
            return Err(event.wrong("links", "an iterable of bytes", &links));
        }
        let mut hints = Declared::default();
        for link in links.try_iter()? {
            let link = link?;
            match link.cast::<PyBytes>() {
                Ok(link) => hints.add_field(b"link", link.as_bytes()),
                Err(_) => return Err(event.wrong("a link", "bytes", &link)),
            }
        }
        let mut state = lock(&self.state);
        match state.answer {
            // The head is not sent before the first part of the body, so hints may come before and after the start.
            Answer::Awaited | Answer::Started { .. } => {
                state.order(|exchange| hints.with(|_, fields| exchange.early_hints(fields)))
            }
            Answer::Body { .. } | Answer::Trailers { .. } | Answer::Complete => Ok(Flow::Go),
        }
    }

    fn take_trailers(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let more = event.flag(pyo3::intern!(py, "more_trailers"))?;
        let mut taken = Declared::default();
        if let Some(headers) = event.get(pyo3::intern!(py, "headers"))? {
            taken.add_byte_fields(&headers, &event.name)?;
        }
        let mut state = lock(&self.state);
        match &mut state.answer {
            Answer::Trailers { collected } => taken.fields().for_each(|(name, value)| collected.add_field(name, value)),
            Answer::Complete => return Ok(Flow::Go),
            Answer::Awaited => return Err(unexpected("http.response.start", event)),
            Answer::Started { .. } | Answer::Body { .. } => return Err(unexpected("http.response.body", event)),
        }
        if more {
            return Ok(Flow::Go);
        }
        let State { exchange, answer, .. } = &mut *state;
        if let (Some(exchange), Answer::Trailers { collected }) = (exchange.as_mut(), &*answer)
            && super::scope::takes_trailers(exchange.head(), exchange.bytes())
        {
            collected
                .with(|_, fields| exchange.trailers(fields))
                .map_err(|fault| PyValueError::new_err(format!("http.response.trailers: {fault}")))?;
        }
        self.complete(py, state);
        Ok(Flow::Go)
    }

    /// The response is complete: the connection is the reactor's again.
    fn complete(&self, py: Python<'_>, mut state: std::sync::MutexGuard<'_, State>) {
        let framing = match state.answer {
            Answer::Body { framing, .. } => Some(framing),
            Answer::Awaited | Answer::Started { .. } | Answer::Trailers { .. } | Answer::Complete => None,
        };
        state.answer = Answer::Complete;
        let Some(exchange) = state.exchange.take() else { return };
        let (declared, bodiless) = (std::mem::take(&mut state.declared), state.bodiless);
        let waiters = (state.receivers.take(), state.senders.take());
        let overrun = exchange.overrun();
        let missing = match framing {
            Some(BodyFraming::Length(length)) => length.saturating_sub(exchange.body_sent()),
            Some(BodyFraming::None | BodyFraming::Chunked | BodyFraming::UntilClose) | None => 0,
        };
        let head = exchange.head().method == rgunicorn_http::Method::Head;
        let faults = &self.shared.faults;
        if missing > 0 {
            faults.report_short(&name_of(&exchange), missing, exchange.body_sent());
        }
        if overrun {
            faults.report_overrun(&name_of(&exchange), exchange.body_sent());
        }
        if bodiless && !head {
            faults.report_bodiless(&name_of(&exchange), exchange.status());
        }
        state.name = Some(Unnamed::of(&exchange));
        drop(state);
        self.finish(exchange, &declared, framing);
        self.shared.keep_declared(declared);
        waiters.0.wake(py);
        waiters.1.wake(py);
    }

    /// Records the access and gives the connection back.
    fn finish(&self, exchange: Box<Exchange>, declared: &Declared, framing: Option<BodyFraming>) {
        if let Some(access) = &self.shared.access {
            access::record(access, &exchange, declared, framing, None);
        }
        self.shared.with_hands(|hands| exchange.finish(hands));
        self.shared.reactor.end_response_of(self.lane);
    }

    fn end(&self, py: Python<'_>, error: Option<PyErr>) {
        rgunicorn_reactor::leave_if_child(error.as_ref().and_then(|error| exit_status(py, error)).unwrap_or(1));
        let mut state = lock(&self.state);
        let exchange = state.exchange.take();
        let cancelled = std::mem::replace(&mut state.cancelled, true);
        let (gone, body_error, left) = (state.gone.take(), state.body_error.take(), state.left);
        let declared = std::mem::take(&mut state.declared);
        let (started, framing) = match state.answer {
            Answer::Awaited => (false, None),
            Answer::Started { .. } => (true, None),
            Answer::Body { framing, .. } => (true, Some(framing)),
            Answer::Trailers { .. } | Answer::Complete => (true, None),
        };
        state.answer = Answer::Complete;
        let waiters = (state.receivers.take(), state.senders.take());
        let name = match &exchange {
            Some(exchange) => name_of(exchange),
            None if error.is_some() => state.name.take().map(|name| name.named()).unwrap_or_default(),
            None => Named::default(),
        };
        drop(state);
        let shared = &self.shared;
        let exits = error.as_ref().is_some_and(|error| exit_status(py, error).is_some());
        if let Some(mut exchange) = exchange {
            let why = gone.as_deref().or(body_error.as_ref().map(|(_, why)| why.as_str()));
            let excused = error.as_ref().is_some_and(|error| is_excuse(py, error));
            let left = why.or(left.map(|_| "it has closed the connection"));
            match &error {
                Some(error) if !(excused && left.is_some() || cancelled && is_cancelled(py, error)) => {
                    fault::raised(py, &shared.log, &shared.faults, "Error handling request", &name, error);
                }
                Some(_) => shared.faults.report_abandoned(&name, left.unwrap_or("its task was cancelled")),
                None if left.is_some() => shared.faults.report_abandoned(&name, left.unwrap_or_default()),
                None if !started => fault::broke(
                    &shared.log,
                    &name,
                    "the ASGI application has returned without starting a response (http.response.start)",
                ),
                None => fault::broke(
                    &shared.log,
                    &name,
                    "the ASGI application has returned without completing its response (http.response.body with \
                     more_body False)",
                ),
            }
            match body_error {
                // Whose fault an unreadable body is was decided where it was read.
                Some((status, _)) => shared.with_hands(|hands| exchange.fail(status, hands)),
                None if gone.is_some() => exchange.abort(),
                None => shared.with_hands(|hands| exchange.fail(500, hands)),
            }
            self.finish(exchange, &declared, framing);
        } else if let Some(error) = &error
            && !(cancelled && is_cancelled(py, error))
        {
            fault::raised(py, &shared.log, &shared.faults, "Error after the response to", &name, error);
        }
        waiters.0.wake(py);
        waiters.1.wake(py);
        if exits {
            leave_soon(&shared.reactor);
        }
        shared.leave(self.lane);
    }
}

/// Whether an exception is one that only says again that the client has left: what `send` has raised, what frameworks
/// make of it, or a task group's collection of nothing else.
pub(super) fn is_excuse(py: Python<'_>, error: &PyErr) -> bool {
    if error.is_instance_of::<pyo3::exceptions::PyOSError>(py) || is_cancelled(py, error) {
        return true;
    }
    let class = error.get_type(py);
    if class.name().is_ok_and(|name| matches!(&*name.to_string_lossy(), "ClientDisconnect" | "WebSocketDisconnect")) {
        return true;
    }
    // ExceptionGroup is of Python 3.11, and of a package before it.
    let Ok(Ok(members)) = error.value(py).getattr("exceptions").map(Bound::cast_into::<PyTuple>) else { return false };
    !members.is_empty() && members.iter().all(|member| is_excuse(py, &PyErr::from_value(member)))
}

pub(super) fn is_cancelled(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<pyo3::exceptions::asyncio::CancelledError>(py)
}

fn disconnected(py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
    let event = PyDict::new(py);
    event.set_item(pyo3::intern!(py, "type"), pyo3::intern!(py, "http.disconnect"))?;
    Ok(Poll::Ready(Some(event.into_any().unbind())))
}

//! One WebSocket between the application and its client: `receive`, `send`, and the end of the coroutine.
//!
//! Owns the exchange, the protocol's session, and the order of the events (ASGI WebSocket specification 2.5 and the
//! extension `websocket.http.response`). Messages are read from the socket while less than [`AHEAD`] waits for the
//! application, so pings and closes are seen though it does not receive; and while the client reads what it is sent, so
//! that nobody fills the memory with pongs.
//!
//! When the client has left, `receive` gives `websocket.disconnect` and `send` raises an OSError (2.4). Somebody who was
//! told so goes on as long as the worker does; a task that waits for something else, and so learns of it neither way, is
//! cancelled by the driver after `asgi_disconnect_grace_period`. Invariants: an application that does not answer the
//! handshake is at fault; the client is told by a close code why it ends, unless it has left.

use super::awaitable::{Awaited, Source, Waiters};
use super::event::Event;
use super::http::{is_cancelled, is_excuse};
use super::{Shared, fault, name_of};
use crate::bridge::wsgi::access;
use crate::bridge::wsgi::declared::Declared;
use crate::bridge::wsgi::fault::{Named, exit_status};
use crate::bridge::wsgi::lane::lock;
use crate::drivers::leave_soon;
use pyo3::exceptions::{PyBrokenPipeError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use rgunicorn_http::BodyFraming;
use rgunicorn_reactor::{Exchange, Flow, Raw, SendError};
use rgunicorn_websocket::{Closed, Event as Incoming, Offer, Refusal, SendFault, Session, code};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Instant;

/// Bytes of messages that may wait for the application before the socket is no longer read.
const AHEAD: usize = 64 * 1024;

/// How far the WebSocket is.
enum Stage {
    /// The handshake is not answered. `told`: the application has received `websocket.connect`.
    Offered { told: bool },
    /// The application denies it with a response of its own, whose head came.
    Denying { begun: Option<BodyFraming> },
    /// It is open.
    Open(Box<Session>),
    /// It is over.
    Over(Over),
}

/// How it ended.
struct Over {
    code: u16,
    reason: String,
    at: Instant,
    /// The application knows: it has ended it itself, or was told.
    known: bool,
    /// The application has ended it itself.
    ours: bool,
}

impl Stage {
    fn over(code: u16, reason: String, ours: bool) -> Stage {
        Stage::Over(Over { code, reason, at: Instant::now(), known: ours, ours })
    }
}

struct State {
    exchange: Option<Box<Exchange>>,
    stage: Stage,
    offer: Option<Offer>,
    declared: Declared,
    /// Messages for the application.
    queue: VecDeque<Incoming>,
    /// Their bytes.
    queued: usize,
    /// When the client was heard last, and when a ping was sent since.
    heard: Instant,
    pinged: Option<Instant>,
    cancelled: bool,
    receivers: Waiters,
    senders: Waiters,
    name: Named,
}

/// See the module.
#[pyclass(frozen, weakref, module = "rgunicorn")]
pub(crate) struct WebSocketCycle {
    inner: Arc<Inner>,
}

/// What `receive` and `send` are about.
pub(super) struct Inner {
    shared: Arc<Shared>,
    lane: usize,
    state: Mutex<State>,
}

struct Receiving(Arc<Inner>);
struct Sending(Arc<Inner>);

/// Answers a handshake that cannot become a WebSocket.
pub(super) fn refuse(shared: &Shared, mut exchange: Box<Exchange>, refusal: Refusal) {
    let text = format!("{refusal}\n");
    slog::info!(shared.log, "a WebSocket handshake was refused: {}", refusal; "status" => refusal.status());
    let status = format!("{} {}", refusal.status(), rgunicorn_http::phrase(refusal.status()));
    let mut fields: Vec<(&[u8], &[u8])> =
        vec![(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")];
    fields.extend(refusal.fields().iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    shared.with_hands(|hands| {
        if exchange.respond(status.as_bytes(), &fields, Some(text.len() as u64), hands).is_ok() {
            let _ = exchange.add(text.as_bytes());
        }
        if let Some(access) = &shared.access {
            access::record(access, &exchange, &Declared::default(), None, None);
        }
        exchange.finish(hands);
    });
}

impl WebSocketCycle {
    pub(super) fn new(shared: &Arc<Shared>, exchange: Box<Exchange>, offer: Offer, lane: usize) -> WebSocketCycle {
        let state = State {
            name: name_of(&exchange),
            exchange: Some(exchange),
            stage: Stage::Offered { told: false },
            offer: Some(offer),
            declared: Declared::default(),
            queue: VecDeque::new(),
            queued: 0,
            heard: Instant::now(),
            pinged: None,
            cancelled: false,
            receivers: Waiters::default(),
            senders: Waiters::default(),
        };
        WebSocketCycle { inner: Arc::new(Inner { shared: Arc::clone(shared), lane, state: Mutex::new(state) }) }
    }

    pub(super) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    pub(super) fn wake(&self, py: Python<'_>) {
        let mut state = lock(&self.inner.state);
        self.inner.read(&mut state);
        self.inner.release(py, state);
    }

    pub(super) fn note_cancelled(&self) {
        lock(&self.inner.state).cancelled = true;
    }

    /// Since when the client has left without the application knowing.
    pub(super) fn left(&self) -> Option<Instant> {
        let state = lock(&self.inner.state);
        match &state.stage {
            Stage::Over(over) if !over.known && !state.cancelled => Some(over.at),
            Stage::Offered { .. } | Stage::Denying { .. } | Stage::Open(_) | Stage::Over(_) => None,
        }
    }

    /// The name of the request, if there is no client any more.
    pub(super) fn clientless(&self) -> Option<Named> {
        let state = lock(&self.inner.state);
        matches!(state.stage, Stage::Over(_)).then(|| state.name.clone())
    }

    /// Pings a client that was not heard for `websocket_ping_interval`, and gives up on one that does not answer.
    pub(super) fn tick(&self, py: Python<'_>, now: Instant) {
        let shared = &self.inner.shared;
        if shared.ping_interval.is_zero() {
            return;
        }
        let mut state = lock(&self.inner.state);
        let (heard, pinged) = (state.heard, state.pinged);
        let Stage::Open(session) = &mut state.stage else { return };
        match pinged {
            Some(at) if !shared.ping_timeout.is_zero() && now.saturating_duration_since(at) >= shared.ping_timeout => {
                slog::info!(shared.log, "a WebSocket's client did not answer a ping and was disconnected";
                    "setting" => "websocket_ping_timeout", "request" => &state.name.line);
                self.inner.shut(&mut state, code::ABNORMAL, "the client did not answer a ping");
                self.inner.release(py, state);
            }
            Some(_) => {}
            None if now.saturating_duration_since(heard) >= shared.ping_interval => {
                session.ping();
                state.pinged = Some(now);
                let _ = self.inner.flush(&mut state);
            }
            None => {}
        }
    }

    /// The worker's time is over.
    pub(super) fn restart(&self, py: Python<'_>) {
        let mut state = lock(&self.inner.state);
        if let Stage::Open(session) = &mut state.stage {
            let _ = session.close(code::RESTART, "");
            let _ = self.inner.flush(&mut state);
            self.inner.over(&mut state, Closed { code: code::RESTART, reason: String::new(), fault: false }, false);
            self.inner.release(py, state);
        }
    }
}

#[pymethods]
impl WebSocketCycle {
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
        let Some(exchange) = state.exchange.as_mut() else { return Err(told(&mut state)) };
        match exchange.poll_room() {
            Ok(true) => Ok(Poll::Ready(None)),
            Ok(false) => Ok(Poll::Pending),
            Err(_) => {
                self.0.shut(&mut state, code::ABNORMAL, "the client has left");
                Err(told(&mut state))
            }
        }
    }

    fn wait(&self, _py: Python<'_>, future: Py<PyAny>) {
        lock(&self.0.state).senders.push(future);
    }
}

fn client_left() -> PyErr {
    PyBrokenPipeError::new_err("the WebSocket's client has left")
}

/// Has `send` raise what tells the application that its client has left.
fn told(state: &mut State) -> PyErr {
    if let Stage::Over(over) = &mut state.stage {
        over.known = true;
    }
    client_left()
}

fn unexpected(expected: &str, event: &Event<'_>) -> PyErr {
    PyRuntimeError::new_err(format!("Expected ASGI message {expected}, but got '{}'.", event.name))
}

/// What a message that waits for the application counts.
fn size(event: &Incoming) -> usize {
    match event {
        Incoming::Text(text) => text.as_str().len() + 1,
        Incoming::Binary(bytes) => bytes.len() + 1,
        Incoming::Pong | Incoming::Closed(_) => 0,
    }
}

fn message<'py>(py: Python<'py>, kind: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyDict>> {
    let event = PyDict::new(py);
    event.set_item(pyo3::intern!(py, "type"), kind)?;
    Ok(event)
}

impl Inner {
    pub(super) fn receive(self: &Arc<Inner>) -> Awaited {
        Awaited::new(&self.shared, Arc::new(Receiving(Arc::clone(self))))
    }

    pub(super) fn send(self: &Arc<Inner>, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        match self.take_event(py, event)? {
            Flow::Go => Ok(self.shared.done(py)),
            Flow::Wait => Ok(Py::new(py, Awaited::new(&self.shared, Arc::new(Sending(Arc::clone(self)))))?.into_any()),
        }
    }

    /// Ends the lock, then wakes who waits: everybody looks again.
    fn release(&self, py: Python<'_>, mut state: MutexGuard<'_, State>) {
        let (receivers, senders) = (state.receivers.take(), state.senders.take());
        drop(state);
        receivers.wake(py);
        senders.wake(py);
    }

    /// Reads what has come, as far as the application may fall behind.
    fn read(&self, state: &mut State) {
        let Some(exchange) = state.exchange.as_mut() else { return };
        let client = exchange.look();
        match &mut state.stage {
            Stage::Offered { .. } | Stage::Denying { .. } => {
                if client.hung_up {
                    self.shut(state, code::ABNORMAL, "the client has left");
                }
                return;
            }
            Stage::Over(_) => return,
            Stage::Open(_) => {}
        }
        let mut bytes = Vec::new();
        while state.queued < AHEAD {
            // One who does not read the answers to his pings has to wait, as for any answer.
            match state.exchange.as_mut().map(|exchange| exchange.poll_room()) {
                Some(Ok(true)) => {}
                Some(Ok(false)) | None => return,
                Some(Err(_)) => return self.shut(state, code::ABNORMAL, "the client has left"),
            }
            let (Stage::Open(session), Some(exchange)) = (&mut state.stage, state.exchange.as_mut()) else { return };
            bytes.clear();
            let raw = self.shared.with_hands(|hands| exchange.receive_raw(&mut bytes, hands));
            let ended = match raw {
                Raw::Bytes => {
                    state.heard = Instant::now();
                    state.pinged = None;
                    session.handle_input(&bytes);
                    None
                }
                Raw::Pending => return,
                Raw::End => session.handle_eof(),
            };
            let mut closed = ended;
            while let Some(event) = session.poll_event() {
                match event {
                    Incoming::Text(_) | Incoming::Binary(_) => {
                        state.queued += size(&event);
                        state.queue.push_back(event);
                    }
                    Incoming::Pong => {}
                    Incoming::Closed(how) => closed = Some(how),
                }
            }
            let flushed = self.flush(state);
            match closed {
                Some(how) => self.over(state, how, false),
                None if flushed.is_err() => self.shut(state, code::ABNORMAL, "the client has left"),
                None => {}
            }
        }
    }

    /// Sends what the session has to say.
    fn flush(&self, state: &mut State) -> Result<Flow, SendError> {
        let (Stage::Open(session), Some(exchange)) = (&mut state.stage, state.exchange.as_mut()) else {
            return Ok(Flow::Go);
        };
        let output = session.output();
        if output.is_empty() { Ok(Flow::Go) } else { exchange.send_raw(&output) }
    }

    /// The protocol is over: the connection is the reactor's, which sends what is unsent and ends it.
    fn over(&self, state: &mut State, how: Closed, ours: bool) {
        if how.fault {
            slog::info!(self.shared.log, "a WebSocket's client broke the protocol: {}", how.reason;
                "code" => how.code, "request" => &state.name.line);
        }
        state.stage = Stage::over(how.code, how.reason, ours);
        if let Some(exchange) = state.exchange.take() {
            self.give_back(state, exchange, None);
        }
    }

    /// The connection is to be ended without a word.
    fn shut(&self, state: &mut State, code: u16, reason: &str) {
        if let Some(exchange) = state.exchange.as_mut() {
            exchange.abort();
        }
        self.over(state, Closed { code, reason: reason.to_owned(), fault: false }, false);
    }

    fn give_back(&self, state: &mut State, exchange: Box<Exchange>, framing: Option<BodyFraming>) {
        if let Some(access) = &self.shared.access {
            access::record(access, &exchange, &state.declared, framing, None);
        }
        self.shared.with_hands(|hands| exchange.finish(hands));
        self.shared.reactor.end_response_of(self.lane);
    }

    fn poll_receive(&self, py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
        let mut state = lock(&self.state);
        if let Stage::Offered { told: told @ false } = &mut state.stage {
            *told = true;
            drop(state);
            return Ok(Poll::Ready(Some(message(py, pyo3::intern!(py, "websocket.connect"))?.into_any().unbind())));
        }
        let was_full = state.queued >= AHEAD;
        if let Some(next) = state.queue.pop_front() {
            state.queued -= size(&next);
            if was_full && state.queued < AHEAD {
                self.read(&mut state);
            }
            drop(state);
            let event = message(py, pyo3::intern!(py, "websocket.receive"))?;
            match next {
                Incoming::Text(text) => event.set_item(pyo3::intern!(py, "text"), text.as_str())?,
                Incoming::Binary(bytes) => event.set_item(pyo3::intern!(py, "bytes"), PyBytes::new(py, &bytes))?,
                Incoming::Pong | Incoming::Closed(_) => {}
            }
            return Ok(Poll::Ready(Some(event.into_any().unbind())));
        }
        let Stage::Over(over) = &mut state.stage else { return Ok(Poll::Pending) };
        over.known = true;
        let (code, reason) = (over.code, over.reason.clone());
        drop(state);
        let event = message(py, pyo3::intern!(py, "websocket.disconnect"))?;
        event.set_item(pyo3::intern!(py, "code"), code)?;
        event.set_item(pyo3::intern!(py, "reason"), reason)?;
        Ok(Poll::Ready(Some(event.into_any().unbind())))
    }

    fn take_event(&self, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<Flow> {
        let event = Event::of(event)?;
        match event.name.as_str() {
            "websocket.send" => self.take_message(py, &event),
            "websocket.accept" => self.take_accept(py, &event),
            "websocket.close" => self.take_close(py, &event),
            "websocket.http.response.start" => self.take_denial(py, &event),
            "websocket.http.response.body" => self.take_denial_body(py, &event),
            name => Err(PyRuntimeError::new_err(format!("'{name}' is no ASGI message of a WebSocket."))),
        }
    }

    /// What is raised for an event that comes too late, or has no place here.
    fn misplaced(stage: &mut Stage, event: &Event<'_>) -> PyErr {
        match stage {
            Stage::Offered { .. } => {
                unexpected("'websocket.accept', 'websocket.close' or 'websocket.http.response.start'", event)
            }
            Stage::Denying { .. } => unexpected("'websocket.http.response.body'", event),
            Stage::Open(_) => unexpected("'websocket.send' or 'websocket.close'", event),
            Stage::Over(Over { ours: true, .. }) => PyRuntimeError::new_err(format!(
                "Unexpected ASGI message '{}', after sending 'websocket.close' or completing a response.",
                event.name
            )),
            Stage::Over(over) => {
                over.known = true;
                client_left()
            }
        }
    }

    fn take_accept(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let subprotocol = event.text(pyo3::intern!(py, "subprotocol"))?.filter(|name| !name.is_empty());
        let mut fields = Declared::default();
        if let Some(headers) = event.get(pyo3::intern!(py, "headers"))? {
            fields.add_byte_fields(&headers, &event.name)?;
        }
        for (name, _) in fields.fields() {
            let sentence = match name {
                b"sec-websocket-protocol" => "give the subprotocol by the key 'subprotocol', not among the headers",
                b"sec-websocket-extensions" => "no extension is spoken here, so none can be accepted",
                b"sec-websocket-accept" => "Sec-WebSocket-Accept is the server's to give",
                _ => continue,
            };
            return Err(PyValueError::new_err(format!("websocket.accept: {sentence}")));
        }
        let mut state = lock(&self.state);
        if !matches!(state.stage, Stage::Offered { .. }) {
            return Err(Self::misplaced(&mut state.stage, event));
        }
        let Some(offer) = state.offer.take() else { return Err(Self::misplaced(&mut state.stage, event)) };
        fields.add_field(b"sec-websocket-accept", offer.accept().as_bytes());
        if let Some(subprotocol) = &subprotocol {
            fields.add_field(b"sec-websocket-protocol", subprotocol.as_bytes());
        }
        let Some(exchange) = state.exchange.as_mut() else { return Err(client_left()) };
        match fields.with(|_, fields| exchange.upgrade(b"websocket", fields)) {
            Ok(flow) => {
                state.declared = fields;
                state.stage = Stage::Open(Box::new(Session::new(self.shared.limits)));
                state.heard = Instant::now();
                // What the client has sent behind its handshake.
                self.read(&mut state);
                self.release(py, state);
                Ok(flow)
            }
            Err(SendError::Fault(fault)) => {
                state.offer = Some(offer);
                Err(PyValueError::new_err(format!("websocket.accept: {fault}")))
            }
            Err(SendError::Gone(_)) => {
                self.shut(&mut state, code::ABNORMAL, "the client has left");
                Err(told(&mut state))
            }
        }
    }

    fn take_message(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let text = event.get(pyo3::intern!(py, "text"))?;
        let bytes = event.bytes(pyo3::intern!(py, "bytes"))?;
        if text.is_some() == bytes.is_some() {
            return Err(PyTypeError::new_err("websocket.send: exactly one of text and bytes must be given"));
        }
        let mut state = lock(&self.state);
        let session = match &mut state.stage {
            Stage::Open(session) => session,
            stage => return Err(Self::misplaced(stage, event)),
        };
        let sent = match (&text, &bytes) {
            (Some(text), _) => match text.cast::<PyString>() {
                Ok(text) => session.send_text(text.to_str()?),
                Err(_) => return Err(event.wrong("text", "a str", text)),
            },
            (None, Some(bytes)) => session.send_binary(bytes.as_bytes()),
            (None, None) => Ok(()),
        };
        if sent.is_err() {
            return Err(client_left());
        }
        match self.flush(&mut state) {
            Ok(flow) => Ok(flow),
            Err(_) => {
                self.shut(&mut state, code::ABNORMAL, "the client has left");
                let error = told(&mut state);
                self.release(py, state);
                Err(error)
            }
        }
    }

    fn take_close(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let code = match event.number(pyo3::intern!(py, "code"))? {
            None => code::NORMAL,
            Some(number) => u16::try_from(number)
                .map_err(|_| PyValueError::new_err(format!("websocket.close: {number} is no close code")))?,
        };
        let reason = event.text(pyo3::intern!(py, "reason"))?.unwrap_or_default();
        let mut state = lock(&self.state);
        match &mut state.stage {
            Stage::Offered { .. } => {
                self.deny(&mut state);
                self.release(py, state);
                Ok(Flow::Go)
            }
            Stage::Open(session) => {
                match session.close(code, &reason) {
                    Ok(()) => {}
                    Err(SendFault::Closed) => return Err(client_left()),
                    Err(fault @ (SendFault::Code(_) | SendFault::Reason)) => {
                        return Err(PyValueError::new_err(format!("websocket.close: {fault}")));
                    }
                }
                // A client that has left in this moment is closed as well.
                let _ = self.flush(&mut state);
                self.over(&mut state, Closed { code, reason, fault: false }, true);
                self.release(py, state);
                Ok(Flow::Go)
            }
            stage => Err(Self::misplaced(stage, event)),
        }
    }

    /// The handshake is answered with 403.
    fn deny(&self, state: &mut State) {
        if let Some(mut exchange) = state.exchange.take() {
            self.shared.with_hands(|hands| {
                if exchange.respond(b"403 Forbidden", &[(b"content-type", b"text/plain")], Some(0), hands).is_err() {
                    exchange.abort();
                }
            });
            self.give_back(state, exchange, Some(BodyFraming::Length(0)));
        }
        state.stage = Stage::over(code::ABNORMAL, String::new(), true);
    }

    fn take_denial(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let mut declared = Declared::default();
        let headers = event.get(pyo3::intern!(py, "headers"))?;
        declared.declare_bytes(event.status(py)?, headers.as_ref(), &event.name)?;
        let mut state = lock(&self.state);
        if !matches!(state.stage, Stage::Offered { .. }) {
            return Err(Self::misplaced(&mut state.stage, event));
        }
        state.declared = declared;
        state.stage = Stage::Denying { begun: None };
        Ok(Flow::Go)
    }

    fn take_denial_body(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<Flow> {
        let body = event.bytes(pyo3::intern!(py, "body"))?;
        let more = event.flag(pyo3::intern!(py, "more_body"))?;
        let data = body.as_ref().map_or(&b""[..], |body| body.as_bytes());
        let mut state = lock(&self.state);
        let begun = match &mut state.stage {
            Stage::Denying { begun } => *begun,
            stage => return Err(Self::misplaced(stage, event)),
        };
        let State { exchange, declared, .. } = &mut *state;
        let Some(exchange) = exchange.as_mut() else { return Err(client_left()) };
        let framing = match begun {
            Some(framing) => framing,
            None => {
                let length = (!more).then_some(data.len() as u64);
                self.shared
                    .with_hands(|hands| declared.with(|status, fields| exchange.respond(status, fields, length, hands)))
                    .map_err(|fault| PyValueError::new_err(format!("websocket.http.response.start: {fault}")))?
                    .framing
            }
        };
        let sent = if data.is_empty() || framing == BodyFraming::None { exchange.flush() } else { exchange.send(data) };
        state.stage = Stage::Denying { begun: Some(framing) };
        match sent {
            Ok(flow) if more => Ok(flow),
            Ok(_) => {
                if let Some(exchange) = state.exchange.take() {
                    self.give_back(&mut state, exchange, Some(framing));
                }
                state.stage = Stage::over(code::ABNORMAL, String::new(), true);
                self.release(py, state);
                Ok(Flow::Go)
            }
            Err(_) => {
                self.shut(&mut state, code::ABNORMAL, "the client has left");
                Err(told(&mut state))
            }
        }
    }

    fn end(&self, py: Python<'_>, error: Option<PyErr>) {
        rgunicorn_reactor::leave_if_child(error.as_ref().and_then(|error| exit_status(py, error)).unwrap_or(1));
        let shared = &self.shared;
        let mut state = lock(&self.state);
        let excused = error.as_ref().is_some_and(|error| {
            is_cancelled(py, error) && state.cancelled
                || matches!(state.stage, Stage::Over(Over { ours: false, .. })) && is_excuse(py, error)
        });
        let name = state.name.clone();
        let returned = error.is_none();
        match &mut state.stage {
            Stage::Offered { .. } => {
                if let Some(mut exchange) = state.exchange.take() {
                    shared.with_hands(|hands| exchange.fail(500, hands));
                    self.give_back(&mut state, exchange, None);
                }
                if returned {
                    fault::broke(
                        &shared.log,
                        &name,
                        "the ASGI application has returned without answering the WebSocket's handshake",
                    );
                }
            }
            Stage::Denying { .. } => {
                if let Some(mut exchange) = state.exchange.take() {
                    shared.with_hands(|hands| exchange.fail(500, hands));
                    self.give_back(&mut state, exchange, None);
                }
            }
            Stage::Open(session) => {
                // An application that just returns has nothing more to say.
                let code = if returned { code::NORMAL } else { code::FAULT };
                let _ = session.close(code, "");
                let _ = self.flush(&mut state);
                self.over(&mut state, Closed { code, reason: String::new(), fault: false }, true);
            }
            Stage::Over(_) => {}
        }
        if !matches!(state.stage, Stage::Over(_)) {
            state.stage = Stage::over(code::ABNORMAL, String::new(), true);
        }
        self.release(py, state);
        match &error {
            Some(_) if excused => shared.faults.report_abandoned(&name, "it has left, or its worker"),
            Some(error) => fault::raised(py, &shared.log, &shared.faults, "Error handling WebSocket", &name, error),
            None => {}
        }
        if error.as_ref().is_some_and(|error| exit_status(py, error).is_some()) {
            leave_soon(&shared.reactor);
        }
        shared.leave(self.lane);
    }
}

//! ASGI 3: a request becomes one call of the application, a coroutine that a driver runs as a task.
//!
//! [`AsgiBridge::begin`] makes scope, `receive` and `send` of a request. The rest happens in those two ([`http`],
//! [`websocket`]) and when the coroutine ends. Knows neither asyncio's loop beyond its futures, nor an HTTP rule.
//! Invariants: each request gets one response or a closed connection; one fault is one record; nothing here waits.

mod awaitable;
mod calls;
mod event;
mod fault;
mod http;
pub(crate) mod lifespan;
mod scope;
mod websocket;

use crate::bridge::wsgi::declared::Declared;
use crate::bridge::wsgi::fault::{Faults, Named};
use crate::bridge::wsgi::lane::lock;
use crate::drivers::recycling::Recycling;
use awaitable::Done;
use calls::{Receive, Send};
use http::HttpCycle;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgunicorn_log::AccessLog;
use rgunicorn_protocol::WorkerSettings;
use rgunicorn_reactor::{Exchange, Hands, Reactor, seconds};
use rgunicorn_websocket::{Limits, Offer, is_offered};
use scope::Scopes;
use slog::Logger;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use websocket::WebSocketCycle;

/// Declarations' buffers that are kept.
const KEPT: usize = 64;

/// What all requests of a worker share.
pub(crate) struct Shared {
    log: Logger,
    faults: Faults,
    access: Option<Arc<AccessLog>>,
    hands: Mutex<Hands>,
    reactor: Arc<Reactor>,
    create_future: Py<PyAny>,
    done: Py<Done>,
    /// What the application's lifespan has put there: each request gets a copy.
    state: Py<PyDict>,
    limits: Limits,
    ping_interval: Duration,
    ping_timeout: Duration,
    sendfile: bool,
    /// What runs, by lane.
    running: Mutex<Vec<Option<Running>>>,
    recycling: Recycling,
    /// Buffers of declarations, to be used again.
    declared: Mutex<Vec<Declared>>,
}

/// A request or a WebSocket whose coroutine has not ended.
pub(crate) struct Running {
    pub(crate) lane: usize,
    pub(crate) cycle: Cycle,
    /// None while the task is being made.
    pub(crate) task: Option<Py<PyAny>>,
}

impl Shared {
    pub(crate) fn new(
        py: Python<'_>,
        reactor: &Arc<Reactor>,
        settings: &WorkerSettings,
        event_loop: &Bound<'_, PyAny>,
        log: Logger,
        access: Option<Arc<AccessLog>>,
    ) -> PyResult<Shared> {
        Ok(Shared {
            faults: Faults::new(py, log.clone())?,
            log,
            access,
            hands: Mutex::default(),
            reactor: Arc::clone(reactor),
            create_future: event_loop.getattr("create_future")?.unbind(),
            done: Py::new(py, Done)?,
            state: PyDict::new(py).unbind(),
            limits: Limits { message: usize::try_from(settings.websocket_max_message_size).unwrap_or(usize::MAX) },
            ping_interval: seconds(settings.websocket_ping_interval),
            ping_timeout: seconds(settings.websocket_ping_timeout),
            sendfile: settings.sendfile,
            running: Mutex::default(),
            recycling: Recycling::new(settings),
            declared: Mutex::default(),
        })
    }

    fn new_future<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.create_future.bind(py).call0()
    }

    fn state<'py>(&self, py: Python<'py>) -> &Bound<'py, PyDict> {
        self.state.bind(py)
    }

    /// An awaitable without a result that is complete.
    fn done(&self, py: Python<'_>) -> Py<PyAny> {
        self.done.clone_ref(py).into_any()
    }

    /// The reactor's things of the loop's thread.
    pub(crate) fn with_hands<T>(&self, act: impl FnOnce(&mut Hands) -> T) -> T {
        act(&mut lock(&self.hands))
    }

    /// A declaration's buffers.
    fn spare_declared(&self) -> Declared {
        lock(&self.declared).pop().unwrap_or_default()
    }

    /// Takes buffers back.
    fn keep_declared(&self, declared: Declared) {
        let mut kept = lock(&self.declared);
        if kept.len() < KEPT {
            kept.push(declared);
        }
    }

    /// A coroutine is about to begin in this lane.
    pub(crate) fn enter(&self, lane: usize, cycle: Cycle) {
        let mut running = lock(&self.running);
        if lane >= running.len() {
            running.resize_with(lane + 1, || None);
        }
        running[lane] = Some(Running { lane, cycle, task: None });
    }

    /// The task of a lane, unless its coroutine has ended already.
    pub(crate) fn keep_task(&self, lane: usize, task: Py<PyAny>) {
        if let Some(Some(running)) = lock(&self.running).get_mut(lane) {
            running.task = Some(task);
        }
    }

    /// What runs in a lane.
    pub(crate) fn running(&self, py: Python<'_>, lane: usize) -> Option<Running> {
        lock(&self.running).get(lane)?.as_ref().map(|running| running.clone_ref(py))
    }

    /// What runs in all lanes.
    pub(crate) fn all_running(&self, py: Python<'_>) -> Vec<Running> {
        lock(&self.running).iter().flatten().map(|running| running.clone_ref(py)).collect()
    }

    /// The coroutine of a lane has ended.
    fn leave(&self, lane: usize) {
        // Dropped when no lock is held: it may be the last reference to the application's objects.
        let ended = lock(&self.running).get_mut(lane).and_then(Option::take);
        drop(ended);
        self.reactor.leave_coroutine(lane);
        self.recycling.count(&self.reactor);
    }
}

/// What goes on between the application and one client.
pub(crate) enum Cycle {
    /// A request.
    Http(Py<HttpCycle>),
    /// A WebSocket.
    WebSocket(Py<WebSocketCycle>),
}

impl Running {
    fn clone_ref(&self, py: Python<'_>) -> Running {
        let cycle = match &self.cycle {
            Cycle::Http(cycle) => Cycle::Http(cycle.clone_ref(py)),
            Cycle::WebSocket(cycle) => Cycle::WebSocket(cycle.clone_ref(py)),
        };
        Running { lane: self.lane, cycle, task: self.task.as_ref().map(|task| task.clone_ref(py)) }
    }
}

impl Cycle {
    /// Whether it is a WebSocket.
    pub(crate) fn is_websocket(&self) -> bool {
        matches!(self, Cycle::WebSocket(_))
    }

    /// Something has happened to the connection.
    pub(crate) fn wake(&self, py: Python<'_>) {
        match self {
            Cycle::Http(cycle) => cycle.get().wake(py),
            Cycle::WebSocket(cycle) => cycle.get().wake(py),
        }
    }

    /// Whether the client has left and the application goes on: when that was seen first.
    pub(crate) fn left(&self) -> Option<std::time::Instant> {
        match self {
            Cycle::Http(cycle) => cycle.get().left(),
            Cycle::WebSocket(cycle) => cycle.get().left(),
        }
    }

    /// The request's name (`GET /path`), if the task goes on though there is no client any more: after its response, or
    /// after the end of its WebSocket.
    pub(crate) fn clientless(&self) -> Option<(String, Option<String>)> {
        let named = match self {
            Cycle::Http(cycle) => cycle.get().clientless(),
            Cycle::WebSocket(cycle) => cycle.get().clientless(),
        };
        named.map(|named| (named.line, named.id))
    }

    /// Looks after what comes with time: pings, and clients that do not answer them.
    pub(crate) fn tick(&self, py: Python<'_>, now: std::time::Instant) {
        match self {
            Cycle::Http(_) => {}
            Cycle::WebSocket(cycle) => cycle.get().tick(py, now),
        }
    }

    /// The worker must leave: a WebSocket is closed with 1012.
    pub(crate) fn restart(&self, py: Python<'_>) {
        match self {
            Cycle::Http(_) => {}
            Cycle::WebSocket(cycle) => cycle.get().restart(py),
        }
    }

    /// The server has cancelled the task: what it raises is no fault.
    pub(crate) fn note_cancelled(&self) {
        match self {
            Cycle::Http(cycle) => cycle.get().note_cancelled(),
            Cycle::WebSocket(cycle) => cycle.get().note_cancelled(),
        }
    }
}

/// A request that begins: what the application is called with, and who is told of its end.
pub(crate) struct Begun {
    pub(crate) lane: usize,
    pub(crate) cycle: Cycle,
    pub(crate) scope: Py<PyDict>,
    pub(crate) receive: Py<PyAny>,
    pub(crate) send: Py<PyAny>,
    /// To be called with None or the exception when the coroutine has ended.
    pub(crate) end: Py<PyAny>,
}

/// See the module. One per worker.
pub(crate) struct AsgiBridge {
    pub(crate) shared: Arc<Shared>,
    scopes: Mutex<Scopes>,
}

impl AsgiBridge {
    pub(crate) fn new(py: Python<'_>, shared: Arc<Shared>, settings: &WorkerSettings) -> PyResult<AsgiBridge> {
        Ok(AsgiBridge { shared, scopes: Mutex::new(Scopes::new(py, settings)?) })
    }

    /// Gives the request a lane and makes what the application is called with. None: it was answered here.
    ///
    /// # Errors
    /// Python has no memory; the connection is closed.
    pub(crate) fn begin(&self, py: Python<'_>, mut exchange: Box<Exchange>) -> PyResult<Option<Begun>> {
        let shared = &self.shared;
        let offer = if is_offered(exchange.head(), exchange.bytes()) {
            match Offer::of(exchange.head(), exchange.bytes()) {
                Ok(offer) => Some(offer),
                Err(refusal) => {
                    websocket::refuse(shared, exchange, refusal);
                    return Ok(None);
                }
            }
        } else {
            None
        };
        let Some(lane) = shared.reactor.enter_coroutine(&mut exchange) else { return Ok(None) };
        let made = self.make(py, exchange, offer, lane);
        if made.is_err() {
            shared.reactor.leave_coroutine(lane);
        }
        made.map(Some)
    }

    fn make(&self, py: Python<'_>, exchange: Box<Exchange>, offer: Option<Offer>, lane: usize) -> PyResult<Begun> {
        let shared = &self.shared;
        let mut scopes = lock(&self.scopes);
        match offer {
            None => {
                let scope = scopes.http(py, &exchange, shared)?.unbind();
                drop(scopes);
                let cycle = Bound::new(py, HttpCycle::new(shared, exchange, lane))?;
                let (receive, send, end) = methods(cycle.as_any())?;
                Ok(Begun { lane, cycle: Cycle::Http(cycle.unbind()), scope, receive, send, end })
            }
            Some(offer) => {
                let scope = scopes.websocket(py, &exchange, &offer.subprotocols, shared)?.unbind();
                drop(scopes);
                let cycle = Bound::new(py, WebSocketCycle::new(shared, exchange, offer, lane))?;
                let receive = Py::new(py, Receive(cycle.get().inner()))?.into_any();
                let send = Py::new(py, Send(cycle.get().inner()))?.into_any();
                let end = cycle.getattr(pyo3::intern!(py, "end"))?.unbind();
                Ok(Begun { lane, cycle: Cycle::WebSocket(cycle.unbind()), scope, receive, send, end })
            }
        }
    }
}

fn methods(cycle: &Bound<'_, PyAny>) -> PyResult<(Py<PyAny>, Py<PyAny>, Py<PyAny>)> {
    let py = cycle.py();
    let method = |name: &Bound<'_, pyo3::types::PyString>| cycle.getattr(name).map(Bound::unbind);
    Ok((method(pyo3::intern!(py, "receive"))?, method(pyo3::intern!(py, "send"))?, method(pyo3::intern!(py, "end"))?))
}

/// `GET /path`, safe to be shown.
fn name_of(exchange: &Exchange) -> Named {
    let (head, bytes) = (exchange.head(), exchange.bytes());
    let line = format!("{} {}", head.method_span.of(bytes).escape_ascii(), head.target.of(bytes).escape_ascii());
    Named { line, id: exchange.request_id().map(|id| String::from_utf8_lossy(id).into_owned()) }
}

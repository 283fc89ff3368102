//! The lifespan protocol (version 2.0): the application is told when the worker begins and ends.
//!
//! Owns what was told and what was answered. `auto`: an application that fails before it has received anything, or by
//! sending what belongs to a request, does not know the protocol, and is served without it. Invariant: a startup that
//! has failed is told once, with its traceback.

use super::awaitable::{Awaited, Source, Waiters};
use super::event::Event;
use super::http::is_cancelled;
use super::{Shared, fault};
use crate::bridge::wsgi::fault::Named;
use crate::bridge::wsgi::lane::lock;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rgunicorn_log::event;
use std::sync::{Arc, Mutex};
use std::task::Poll;

/// What the application is to be told next, or was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Startup,
    Waiting,
    Shutdown,
    ShutdownTaken,
}

/// What has come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not decided yet.
    Open,
    /// It has started.
    Started,
    /// The application does not know the protocol.
    Unsupported,
    /// The startup has failed: a sentence, and the traceback if there is one.
    Failed(String, Option<String>),
    /// It has shut down, or ended otherwise.
    Ended,
}

struct State {
    told: Told,
    outcome: Outcome,
    /// The application sent what belongs to a request.
    strange: bool,
    receivers: Waiters,
    watchers: Waiters,
}

/// See the module. One per worker.
#[pyclass(frozen, module = "rgunicorn")]
pub(crate) struct Lifespan {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    required: bool,
    task: std::sync::OnceLock<Py<PyAny>>,
    state: Mutex<State>,
}

struct Receiving(Arc<Inner>);
struct Watching(Arc<Inner>);

impl Lifespan {
    /// `required`: the application must know the protocol.
    pub(crate) fn new(shared: &Arc<Shared>, required: bool) -> Lifespan {
        let state = State {
            told: Told::Nothing,
            outcome: Outcome::Open,
            strange: false,
            receivers: Waiters::default(),
            watchers: Waiters::default(),
        };
        Lifespan {
            inner: Arc::new(Inner {
                shared: Arc::clone(shared),
                required,
                task: std::sync::OnceLock::new(),
                state: Mutex::new(state),
            }),
        }
    }

    /// Keeps the task alive.
    pub(crate) fn keep(&self, task: Py<PyAny>) {
        let _ = self.inner.task.set(task);
    }

    /// What was kept.
    pub(crate) fn task(&self) -> Option<&Py<PyAny>> {
        self.inner.task.get()
    }

    /// The scope that the application is called with.
    pub(crate) fn scope<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let asgi = PyDict::new(py);
        asgi.set_item("version", "3.0")?;
        asgi.set_item("spec_version", "2.0")?;
        let scope = PyDict::new(py);
        scope.set_item("type", "lifespan")?;
        scope.set_item("asgi", asgi)?;
        scope.set_item("state", self.inner.shared.state(py))?;
        Ok(scope)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        lock(&self.inner.state).outcome.clone()
    }

    /// Tells the application that the worker ends. Whether there is anybody to be told.
    pub(crate) fn shut_down(&self, py: Python<'_>) -> bool {
        let receivers = {
            let mut state = lock(&self.inner.state);
            if state.outcome != Outcome::Started {
                return false;
            }
            state.told = Told::Shutdown;
            state.receivers.take()
        };
        receivers.wake(py);
        true
    }
}

#[pymethods]
impl Lifespan {
    fn receive(&self) -> Awaited {
        Awaited::new(&self.inner.shared, Arc::new(Receiving(Arc::clone(&self.inner))))
    }

    fn send(&self, py: Python<'_>, event: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.inner.take_event(py, &Event::of(event)?)?;
        Ok(self.inner.shared.done(py))
    }

    #[pyo3(signature = (error=None))]
    fn end(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) {
        self.inner.end(py, error.map(|error| PyErr::from_value(error.clone())).as_ref());
    }

    /// An awaitable that is complete once the startup is decided.
    fn decided(&self) -> Awaited {
        Awaited::new(&self.inner.shared, Arc::new(Watching(Arc::clone(&self.inner))))
    }
}

impl Source for Receiving {
    fn poll(&self, py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
        let name = {
            let mut state = lock(&self.0.state);
            match state.told {
                Told::Nothing => {
                    state.told = Told::Startup;
                    "lifespan.startup"
                }
                Told::Shutdown => {
                    state.told = Told::ShutdownTaken;
                    "lifespan.shutdown"
                }
                Told::Startup | Told::Waiting | Told::ShutdownTaken => return Ok(Poll::Pending),
            }
        };
        let event = PyDict::new(py);
        event.set_item("type", name)?;
        Ok(Poll::Ready(Some(event.into_any().unbind())))
    }

    fn wait(&self, _py: Python<'_>, future: Py<PyAny>) {
        lock(&self.0.state).receivers.push(future);
    }
}

impl Source for Watching {
    fn poll(&self, _py: Python<'_>) -> PyResult<Poll<Option<Py<PyAny>>>> {
        match lock(&self.0.state).outcome {
            Outcome::Open => Ok(Poll::Pending),
            Outcome::Started | Outcome::Unsupported | Outcome::Failed(..) | Outcome::Ended => Ok(Poll::Ready(None)),
        }
    }

    fn wait(&self, _py: Python<'_>, future: Py<PyAny>) {
        lock(&self.0.state).watchers.push(future);
    }
}

impl Inner {
    fn take_event(&self, py: Python<'_>, event: &Event<'_>) -> PyResult<()> {
        let reason = event.text(pyo3::intern!(py, "message"))?.unwrap_or_default();
        let mut state = lock(&self.state);
        match (event.name.as_str(), state.told, &state.outcome) {
            ("lifespan.startup.complete", Told::Nothing | Told::Startup, Outcome::Open) => {
                state.told = Told::Waiting;
                state.outcome = Outcome::Started;
            }
            ("lifespan.startup.failed", Told::Nothing | Told::Startup, Outcome::Open) => {
                let sentence = if reason.is_empty() {
                    "the application's lifespan startup has failed".to_owned()
                } else {
                    // Frameworks put a whole traceback there; its last line says what was raised.
                    let last = reason.trim_end().lines().last().unwrap_or_default().to_owned();
                    format!("the application's lifespan startup has failed: {last}")
                };
                let whole = reason.trim_end().to_owned();
                state.outcome = Outcome::Failed(sentence, Some(whole).filter(|text| text.contains('\n')));
            }
            ("lifespan.shutdown.complete", Told::Shutdown | Told::ShutdownTaken, _) => state.outcome = Outcome::Ended,
            ("lifespan.shutdown.failed", Told::Shutdown | Told::ShutdownTaken, _) => {
                state.outcome = Outcome::Ended;
                slog::error!(self.shared.log, "the application's lifespan shutdown has failed: {}", reason.trim_end();
                    event::APPLICATION_ERROR);
            }
            (name, ..) => {
                state.strange |= !name.starts_with("lifespan.");
                return Err(PyRuntimeError::new_err(format!("'{name}' is not expected in the lifespan protocol now.")));
            }
        }
        let watchers = state.watchers.take();
        drop(state);
        watchers.wake(py);
        self.shared.reactor.turn_again();
        Ok(())
    }

    fn end(&self, py: Python<'_>, error: Option<&PyErr>) {
        let mut state = lock(&self.state);
        let (told, strange) = (state.told, state.strange);
        let faults = &self.shared.faults;
        match (&state.outcome, error) {
            (Outcome::Open, error) => {
                let ignorant = told == Told::Nothing || strange || error.is_none();
                state.outcome = match error {
                    _ if ignorant && !self.required => Outcome::Unsupported,
                    None => Outcome::Failed(
                        "the application has ended its lifespan without lifespan.startup.complete (asgi_lifespan = \
                         \"on\" demands it)"
                            .to_owned(),
                        None,
                    ),
                    Some(error) => Outcome::Failed(
                        format!("the application's lifespan startup has failed: {error}"),
                        Some(faults.traceback(py, error)),
                    ),
                };
            }
            // The worker leaves and cancels what is left: a shutdown that has taken too long, or one who was not told.
            (Outcome::Started, Some(error)) if is_cancelled(py, error) && self.shared.reactor.is_finished() => {
                state.outcome = Outcome::Ended;
                if told != Told::Waiting {
                    slog::warn!(self.shared.log, "The application's lifespan shutdown is not complete and is cut off: \
                        graceful_timeout is over"; event::REQUEST_CUT, "traceback" => faults.traceback(py, error));
                }
            }
            (Outcome::Started, Some(error)) => {
                let lifespan = Named { line: "lifespan".to_owned(), id: None };
                fault::raised(py, &self.shared.log, faults, "Error in the application's", &lifespan, error);
                state.outcome = Outcome::Ended;
            }
            (Outcome::Started, None) => state.outcome = Outcome::Ended,
            // Frameworks raise once more what they have told.
            (Outcome::Unsupported | Outcome::Failed(..) | Outcome::Ended, _) => {}
        }
        let watchers = state.watchers.take();
        drop(state);
        watchers.wake(py);
        // The driver looks at the outcome in its next turn.
        self.shared.reactor.turn_again();
    }
}

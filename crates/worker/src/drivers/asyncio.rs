//! Lanes that are tasks of an asyncio event loop, for ASGI applications.
//!
//! The loop, asyncio's or uvloop's, runs in the worker's main thread and watches the reactor's epoll set and its bell.
//! Each event is a turn: what has come is read and parsed, each complete request becomes a task, coroutines whose
//! clients moved are woken. A task is an ordinary `asyncio.Task` of its own with a context of its own, so
//! `current_task`, context variables, timeouts and task groups work as they do elsewhere. (A pool of tasks that are used
//! again was tried: 2 us less per request, and state that leaks from one request to the next.) From Python 3.12 on it is
//! started eagerly, which spares a round through the loop. An application that has given the loop a task factory of its
//! own has its tasks made by that.
//!
//! The end: once the worker retires and is drained, the application's lifespan is told. Otherwise that comes shortly
//! before the deadline, step by step ([`FAREWELL`]): open WebSockets are closed with 1012; what still runs without a
//! client (after its response, after the end of its WebSocket) is cancelled, with a record; the lifespan is told. As
//! `asyncio.run` does, tasks that the application has started and left are cancelled at the very end. Invariant: no
//! exception of ours leaves a callback of the loop.

use crate::bridge::asgi::lifespan::{Lifespan, Outcome};
use crate::bridge::asgi::{AsgiBridge, Begun, Shared};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};
use rgunicorn_log::{AccessLog, event};
use rgunicorn_protocol::{BootFault, BootFaultKind, WorkerSettings};
use rgunicorn_reactor::{Exchange, Next, Reactor, seconds};
use slog::Logger;
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

const SOURCE: &str = include_str!("../../python/asyncio_driver.py");
/// Requests begun in one turn, so that the tasks of others have theirs.
const BATCH: usize = 64;
/// Before the deadline of a retirement, at most: half of it for what WebSockets' tasks do when they are closed, a quarter
/// for what is cancelled, a quarter for the lifespan's end.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long before the end of `boot_timeout` it is told what the startup waits for.
const BEFORE_THE_END: Duration = Duration::from_secs(3);

/// What the driver needs of a worker that has booted.
pub(crate) struct Parts {
    pub(crate) application: Py<PyAny>,
    pub(crate) log: Logger,
    pub(crate) access: Option<Arc<AccessLog>>,
}

/// How a task is made.
enum Making {
    /// `loop.create_task(coroutine)`.
    Created(Py<PyAny>),
    /// `asyncio.Task(coroutine, loop=loop, eager_start=True)`; the first as long as the loop has no task factory.
    Eager { class: Py<PyAny>, kwargs: Py<PyDict>, task_factory: Py<PyAny>, create: Py<PyAny> },
}

impl Making {
    fn make<'py>(&self, py: Python<'py>, coroutine: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Making::Created(create) => create.bind(py).call1((coroutine,)),
            Making::Eager { task_factory, create, .. } if !task_factory.bind(py).call0()?.is_none() => {
                create.bind(py).call1((coroutine,))
            }
            Making::Eager { class, kwargs, .. } => class.bind(py).call((coroutine,), Some(kwargs.bind(py))),
        }
    }
}

/// See the module. Its methods are callbacks of the loop.
#[pyclass(frozen, module = "rgunicorn")]
struct Driver {
    reactor: Arc<Reactor>,
    bridge: AsgiBridge,
    application: Py<PyAny>,
    run: Py<PyAny>,
    stack: Py<PyAny>,
    making: Making,
    event_loop: Py<PyAny>,
    lifespan: OnceLock<Py<Lifespan>>,
    grace: Duration,
    /// When the worker began, and how long it may take to be ready; zero: for ever.
    boot: (Instant, Duration),
    ping_every: Duration,
    pinging: AtomicBool,
    farewell: AtomicBool,
    shutting_down: AtomicBool,
}

/// A worker whose application has started.
pub(crate) struct Started {
    driver: Py<Driver>,
    module: Py<PyModule>,
}

/// Makes the loop and starts the application in it. `Ok(None)`: the worker, which began at `since`, was told to leave
/// meanwhile.
///
/// # Errors
/// What is to be told to the arbiter.
pub(crate) fn start(
    py: Python<'_>,
    reactor: &Arc<Reactor>,
    parts: Parts,
    settings: &WorkerSettings,
    since: Instant,
) -> Result<Option<Started>, BootFault> {
    let environment = |message: String| BootFault { kind: BootFaultKind::Environment, message, traceback: None };
    let started = make(py, reactor, parts, settings, since).map_err(|error| {
        if error.is_instance_of::<pyo3::exceptions::PyImportError>(py) && settings.asgi_loop == "uvloop" {
            environment(
                "asgi_loop = \"uvloop\", but the application's virtual environment has no uvloop: pip install uvloop, or \
                 leave asgi_loop out"
                    .to_owned(),
            )
        } else {
            environment(format!("the asyncio event loop cannot be made: {error}"))
        }
    })?;
    reactor.hold();
    if settings.asgi_lifespan == "off" {
        return Ok(Some(started));
    }
    match start_application(py, started.driver.bind(py), settings.asgi_lifespan == "on") {
        Ok(Outcome::Failed(message, traceback)) => {
            Err(BootFault { kind: BootFaultKind::Import, message, traceback: traceback.map(cut) })
        }
        Ok(Outcome::Open) => Ok(None),
        Ok(Outcome::Started | Outcome::Unsupported | Outcome::Ended) => Ok(Some(started)),
        Err(_) if reactor.is_finished() => Ok(None),
        Err(error) => Err(environment(format!("the application's lifespan cannot be started: {error}"))),
    }
}

/// The end of a long traceback: a datagram has its limit.
fn cut(text: String) -> String {
    let mut from = text.len().saturating_sub(60_000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    if from == 0 { text } else { format!("[...]\n{}", &text[from..]) }
}

fn make(
    py: Python<'_>,
    reactor: &Arc<Reactor>,
    parts: Parts,
    settings: &WorkerSettings,
    since: Instant,
) -> PyResult<Started> {
    let source = CString::new(SOURCE)?;
    let module = PyModule::from_code(py, &source, c"<rgunicorn>/asyncio_driver.py", c"rgunicorn_asyncio_driver")?;
    let event_loop = module.getattr("new_loop")?.call1((&settings.asgi_loop,))?;
    let Parts { application, log, access } = parts;
    let shared = Arc::new(Shared::new(py, reactor, settings, &event_loop, log, access)?);
    let making = if py.version_info() >= (3, 12) {
        let kwargs = PyDict::new(py);
        kwargs.set_item("loop", &event_loop)?;
        kwargs.set_item("eager_start", true)?;
        Making::Eager {
            class: py.import("asyncio")?.getattr("Task")?.unbind(),
            kwargs: kwargs.unbind(),
            task_factory: event_loop.getattr("get_task_factory")?.unbind(),
            create: event_loop.getattr("create_task")?.unbind(),
        }
    } else {
        Making::Created(event_loop.getattr("create_task")?.unbind())
    };
    let interval = seconds(settings.websocket_ping_interval);
    let driver = Bound::new(
        py,
        Driver {
            reactor: Arc::clone(reactor),
            bridge: AsgiBridge::new(py, shared, settings)?,
            application,
            run: module.getattr("run")?.unbind(),
            stack: module.getattr("stack")?.unbind(),
            making,
            event_loop: event_loop.clone().unbind(),
            lifespan: OnceLock::new(),
            grace: seconds(settings.asgi_disconnect_grace_period),
            boot: (since, seconds(settings.boot_timeout)),
            ping_every: (interval / 4).clamp(Duration::from_millis(50), Duration::from_secs(5)),
            pinging: AtomicBool::new(interval.is_zero()),
            farewell: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
        },
    )?;
    let turn = driver.getattr("turn")?;
    event_loop.call_method1("add_reader", (reactor.epoll_fd().as_raw_fd(), &turn))?;
    if let Some(bell) = reactor.bell_fd() {
        event_loop.call_method1("add_reader", (bell.as_raw_fd(), &turn))?;
    }
    Ok(Started { driver: driver.unbind(), module: module.unbind() })
}

/// Runs the loop until the application's startup is decided.
fn start_application(py: Python<'_>, driver: &Bound<'_, Driver>, required: bool) -> PyResult<Outcome> {
    let this = driver.get();
    let lifespan = Bound::new(py, Lifespan::new(&this.bridge.shared, required))?;
    let scope = lifespan.get().scope(py)?;
    let (receive, send, end) = (lifespan.getattr("receive")?, lifespan.getattr("send")?, lifespan.getattr("end")?);
    let coroutine = this.run.bind(py).call1((&this.application, scope, receive, send, end))?;
    let event_loop = this.event_loop.bind(py);
    let task = event_loop.call_method1("create_task", (coroutine,))?;
    // The loop itself has only a weak reference to its tasks.
    lifespan.get().keep(task.unbind());
    let _ = this.lifespan.set(lifespan.clone().unbind());
    let (since, most) = this.boot;
    if !most.is_zero() {
        let at = most.saturating_sub(BEFORE_THE_END).max(most / 2);
        this.later(driver, at.saturating_sub(since.elapsed()), "tell_of_startup", None);
    }
    event_loop.call_method1("run_until_complete", (lifespan.call_method0("decided")?,))?;
    Ok(lifespan.get().outcome())
}

impl Started {
    /// Serves until the worker is done. Returns the exit status.
    pub(crate) fn serve(self, py: Python<'_>) -> i32 {
        let driver = self.driver.get();
        let event_loop = driver.event_loop.bind(py);
        let result = event_loop.call_method0("run_forever");
        if let Err(error) = &result {
            slog::crit!(driver.reactor.log, "the event loop has ended by an exception"; event::FAILURE, "error" => %error);
        }
        driver.reactor.finish();
        if driver.reactor.lanes.inside() > 0 {
            // The standby names what is cut off, and ends the process.
            py.detach(|| std::thread::sleep(FAREWELL));
        } else {
            let fds = (driver.reactor.epoll_fd().as_raw_fd(), driver.reactor.bell_fd().map(|bell| bell.as_raw_fd()));
            let closed = self.module.bind(py).getattr("close").and_then(|close| close.call1((event_loop, fds)));
            if let Err(error) = closed {
                error.print(py);
            }
        }
        i32::from(result.is_err())
    }
}

#[pymethods]
impl Driver {
    /// Something has come.
    fn turn(slf: &Bound<'_, Self>) {
        let (py, this) = (slf.py(), slf.get());
        let (reactor, shared) = (&this.reactor, &this.bridge.shared);
        shared.with_hands(|hands| reactor.begin_turn(hands));
        let mut more = true;
        for _ in 0..BATCH {
            match shared.with_hands(|hands| reactor.next(hands)) {
                Next::Exchange(exchange) => this.begin(slf, exchange),
                Next::Nothing => {
                    more = false;
                    break;
                }
                Next::Finished => {
                    this.stop(py);
                    return;
                }
            }
        }
        if more {
            reactor.turn_again();
        }
        for lane in reactor.take_woken() {
            let Some(running) = shared.running(py, lane) else { continue };
            running.cycle.wake(py);
            if running.cycle.left().is_some() {
                this.later(slf, this.grace, "cancel_left", Some(lane));
            }
        }
        for lane in reactor.take_overdue() {
            this.time_out(py, lane);
        }
        this.look_at_end(slf);
    }

    /// The startup has taken nearly as long as it may: says where it waits.
    fn tell_of_startup(&self, py: Python<'_>) {
        let Some(lifespan) = self.lifespan.get().map(|lifespan| lifespan.get()) else { return };
        if lifespan.outcome() != Outcome::Open {
            return;
        }
        let (since, most) = self.boot;
        let stack = lifespan.task().and_then(|task| self.stack_of(py, task)).unwrap_or_default();
        slog::warn!(self.reactor.log, "The application's lifespan startup is not complete after {:.1} s (boot_timeout = {} s). {}",
            since.elapsed().as_secs_f64(), most.as_secs_f64(), stack.trim_end(); event::BOOT_TIMEOUT);
    }

    /// The client of this lane has left some time ago: an application that still works for it is cancelled.
    fn cancel_left(&self, py: Python<'_>, lane: usize) {
        let Some(running) = self.bridge.shared.running(py, lane) else { return };
        let long_ago = running.cycle.left().is_some_and(|at| at.elapsed() + Duration::from_millis(1) >= self.grace);
        if long_ago {
            running.cycle.note_cancelled();
            cancel(py, running.task.as_ref());
        }
    }

    /// Pings.
    fn ping(slf: &Bound<'_, Self>) {
        let (py, this, now) = (slf.py(), slf.get(), Instant::now());
        let mut any = false;
        for running in this.bridge.shared.all_running(py) {
            any |= running.cycle.is_websocket();
            running.cycle.tick(py, now);
            if running.cycle.left().is_some() {
                this.later(slf, this.grace, "cancel_left", Some(running.lane));
            }
        }
        if any {
            this.later(slf, this.ping_every, "ping", None);
        } else {
            this.pinging.store(false, Ordering::Relaxed);
        }
    }

    /// The time of a worker that retires is nearly over: WebSockets are told to come again.
    fn bid_farewell(slf: &Bound<'_, Self>) {
        let (py, this) = (slf.py(), slf.get());
        for running in this.bridge.shared.all_running(py) {
            running.cycle.restart(py);
        }
        this.later(slf, this.time_left() / 2, "cancel_clientless", None);
    }

    /// A little later: what goes on without a client is cancelled. That its lane is free again ends the worker, if it was
    /// the last.
    fn cancel_clientless(slf: &Bound<'_, Self>) {
        let (py, this) = (slf.py(), slf.get());
        for running in this.bridge.shared.all_running(py) {
            let Some((request, id)) = running.cycle.clientless() else { continue };
            slog::warn!(this.reactor.log, "The task of {} is cancelled: it goes on without a client, and graceful_timeout is \
                over", request; event::REQUEST_CUT, "request_id" => id);
            running.cycle.note_cancelled();
            cancel(py, running.task.as_ref());
        }
        this.later(slf, this.time_left() / 2, "shut_down", None);
    }

    /// Tells the application that the worker ends, and ends it if there is nobody to be told.
    fn shut_down(&self, py: Python<'_>) {
        if self.shutting_down.swap(true, Ordering::Relaxed) {
            return;
        }
        let told = self.lifespan.get().is_some_and(|lifespan| lifespan.get().shut_down(py));
        if !told && self.reactor.is_drained() {
            self.reactor.finish();
        }
    }
}

impl Driver {
    /// Until the deadline of the retirement.
    fn time_left(&self) -> Duration {
        self.reactor.retirement().map(|at| at.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// A request becomes a task.
    fn begin(&self, slf: &Bound<'_, Self>, exchange: Box<Exchange>) {
        let py = slf.py();
        if let Err(error) = self.try_begin(slf, exchange) {
            slog::error!(self.reactor.log, "a request could not be given to the application"; event::FAILURE, "error" => %error);
            error.print(py);
        }
    }

    fn try_begin(&self, slf: &Bound<'_, Self>, exchange: Box<Exchange>) -> PyResult<()> {
        let py = slf.py();
        let Some(Begun { lane, cycle, scope, receive, send, end }) = self.bridge.begin(py, exchange)? else {
            return Ok(());
        };
        if cycle.is_websocket() && !self.pinging.swap(true, Ordering::Relaxed) {
            self.later(slf, self.ping_every, "ping", None);
        }
        let shared = &self.bridge.shared;
        shared.enter(lane, cycle);
        let coroutine = self.run.bind(py).call1((&self.application, scope, receive, send, &end));
        let made = coroutine.and_then(|coroutine| self.making.make(py, coroutine));
        match made {
            Ok(task) => shared.keep_task(lane, task.unbind()),
            Err(error) => {
                end.bind(py).call1((error.value(py),))?;
            }
        }
        Ok(())
    }

    /// `timeout` has passed: the stack is taken, the client told, the task cancelled.
    fn time_out(&self, py: Python<'_>, lane: usize) {
        let Some(running) = self.bridge.shared.running(py, lane) else { return };
        let stack = running.task.as_ref().and_then(|task| self.stack_of(py, task));
        self.reactor.time_out_lane(lane, stack);
        running.cycle.note_cancelled();
        cancel(py, running.task.as_ref());
    }

    /// Where a task waits, as text.
    fn stack_of(&self, py: Python<'_>, task: &Py<PyAny>) -> Option<String> {
        self.stack.bind(py).call1((task,)).and_then(|text| text.extract()).ok()
    }

    /// After each turn: whether the worker is about to end.
    fn look_at_end(&self, slf: &Bound<'_, Self>) {
        let py = slf.py();
        if self.reactor.retirement().is_none() {
            return;
        }
        if !self.farewell.swap(true, Ordering::Relaxed) {
            let left = self.time_left();
            self.later(slf, left.saturating_sub(FAREWELL.min(left / 4)), "bid_farewell", None);
        }
        if self.reactor.is_drained() {
            self.shut_down(py);
            let over = self.lifespan.get().is_none_or(|lifespan| lifespan.get().outcome() != Outcome::Started);
            if over {
                self.reactor.finish();
            }
        }
        if self.reactor.is_finished() {
            self.stop(py);
        }
    }

    fn stop(&self, py: Python<'_>) {
        if let Err(error) = self.event_loop.bind(py).call_method0("stop") {
            error.print(py);
        }
    }

    /// Has the loop call one of the callbacks above after some time.
    fn later(&self, slf: &Bound<'_, Self>, time: Duration, name: &str, lane: Option<usize>) {
        let set = || -> PyResult<()> {
            let (event_loop, callback) = (self.event_loop.bind(slf.py()), slf.getattr(name)?);
            match lane {
                Some(lane) => event_loop.call_method1("call_later", (time.as_secs_f64(), callback, lane))?,
                None => event_loop.call_method1("call_later", (time.as_secs_f64(), callback))?,
            };
            Ok(())
        };
        if let Err(error) = set() {
            error.print(slf.py());
        }
    }
}

fn cancel(py: Python<'_>, task: Option<&Py<PyAny>>) {
    if let Some(task) = task
        && let Err(error) = task.bind(py).call_method0("cancel")
    {
        error.print(py);
    }
}

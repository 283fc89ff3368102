//! Lanes that are greenlets of gevent's hub, for WSGI applications that wait a lot.
//!
//! The hub of the worker's main thread watches the reactor's epoll set and its bell. Each event is a turn, a callback of
//! the hub: what has come is read and parsed, and each complete request is run at once in a greenlet that the callback
//! switches to. When the application waits (gevent.sleep, a patched socket), its greenlet switches to the hub, which is to
//! say: back into the callback, which goes on with the next request.
//!
//! **Greenlets are used again** if nothing can tell. Making one costs more than all the rest of a short request (16 us:
//! Python maps memory for its frames), so one that has served waits in a pool, as `gevent.Greenlet`, for the next request.
//! That is allowed only if the request has left no trace on it: nobody has kept a reference, strong or weak, or has linked
//! to it (gevent.local, and so a patched threading.local and logging's current_thread(), do), nothing was thrown into it,
//! and it has no attributes and no tree locals. Then its context is emptied. Otherwise it ends as any greenlet does, and
//! so its locals end and those who joined it are told.
//!
//! **Races.** All of it is one thread, so there are none with greenlets; but each call into Python may switch. So no lock
//! is held over one, and nothing here is exclusively borrowed. Invariant: no exception of ours leaves a callback of the hub.

use crate::bridge::Lane;
use crate::bridge::references;
use crate::bridge::wsgi::{Served, WsgiBridge, exit_status};
use crate::drivers::leave_soon;
use crate::drivers::recycling::Recycling;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};
use rgunicorn_log::event;
use rgunicorn_protocol::{BootFault, BootFaultKind, WorkerSettings};
use rgunicorn_reactor::{Exchange, Hands, Next, Reactor};
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

const SOURCE: &str = include_str!("../../python/gevent_driver.py");
/// Requests begun in one turn, so that other greenlets have theirs.
const BATCH: usize = 64;
/// Greenlets that wait to be used again. One keeps some 20 KiB.
const KEPT: usize = 64;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    static MODULE: pyo3::sync::PyOnceLock<Py<PyModule>> = pyo3::sync::PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || {
            let source = CString::new(SOURCE)?;
            PyModule::from_code(py, &source, c"<rgunicorn>/gevent_driver.py", c"rgunicorn_gevent_driver")
                .map(Bound::unbind)
        })
        .map(|module| module.bind(py).clone())
}

fn environment(message: String) -> BootFault {
    BootFault { kind: BootFaultKind::Environment, message, traceback: None }
}

/// Makes Python's blocking calls gevent's, before anything of the application is imported.
///
/// # Errors
/// The virtual environment has no gevent, or one that is too old.
pub(crate) fn patch(py: Python<'_>) -> Result<(), BootFault> {
    let wrong = module(py)
        .and_then(|module| module.call_method0("patch")?.extract::<Option<String>>())
        .unwrap_or_else(|error| Some(format!("gevent cannot be prepared: {error}")));
    wrong.map_or(Ok(()), |message| Err(environment(message)))
}

/// In a worker, right after the fork.
///
/// # Errors
/// gevent's own.
pub(crate) fn after_fork(py: Python<'_>) -> Result<(), BootFault> {
    module(py)
        .and_then(|module| module.call_method0("after_fork").map(drop))
        .map_err(|error| environment(format!("gevent cannot be prepared after a fork: {error}")))
}

/// What the hub's callback and the greenlets share.
struct Pool {
    reactor: Arc<Reactor>,
    bridge: WsgiBridge,
    recycling: Recycling,
    hands: Arc<Mutex<Hands>>,
    stopped: AtomicBool,
    /// The Python object of that name.
    hub: Py<PyAny>,
    switch_to_hub: Py<PyAny>,
    greenlet_class: Py<PyAny>,
    event_class: Py<PyAny>,
    count_weak: Py<PyAny>,
    stack: Py<PyAny>,
    kept: Mutex<Vec<Py<Runner>>>,
    /// By lane of the reactor.
    running: Mutex<Vec<Option<Py<Runner>>>>,
}

/// What a greenlet runs: one request after the other.
#[pyclass(frozen, module = "rgunicorn", name = "request")]
struct Runner {
    pool: Arc<Pool>,
    lane: Arc<Lane>,
    next: Mutex<Option<(Box<Exchange>, usize)>>,
    /// Taken out at its end, since it refers back.
    greenlet: Mutex<Option<Py<PyAny>>>,
    /// As it was when it began its first request.
    fresh: OnceLock<Traces>,
}

/// What would show that somebody knows a greenlet.
#[derive(PartialEq, Eq)]
struct Traces {
    references: isize,
    weak: usize,
    attributes: usize,
}

/// A worker that is ready to serve.
pub(crate) struct Started(Arc<Pool>);

/// Makes the hub and has it watch the reactor.
///
/// # Errors
/// What is to be told to the arbiter.
pub(crate) fn start(
    py: Python<'_>,
    reactor: &Arc<Reactor>,
    bridge: WsgiBridge,
    settings: &WorkerSettings,
) -> Result<Started, BootFault> {
    make(py, reactor, bridge, settings)
        .map(Started)
        .map_err(|error| environment(format!("gevent's hub cannot be made: {error}")))
}

fn make(py: Python<'_>, reactor: &Arc<Reactor>, bridge: WsgiBridge, settings: &WorkerSettings) -> PyResult<Arc<Pool>> {
    let module = module(py)?;
    let hub = module.getattr("Hub")?.call0()?;
    let count = reactor.lanes.count();
    let pool = Arc::new(Pool {
        reactor: Arc::clone(reactor),
        bridge,
        recycling: Recycling::new(settings),
        hands: Arc::default(),
        stopped: AtomicBool::new(false),
        switch_to_hub: hub.getattr("hub")?.getattr("switch")?.unbind(),
        greenlet_class: hub.getattr("Greenlet")?.unbind(),
        event_class: hub.getattr("Event")?.unbind(),
        count_weak: py.import("weakref")?.getattr("getweakrefcount")?.unbind(),
        stack: module.getattr("stack")?.unbind(),
        hub: hub.clone().unbind(),
        kept: Mutex::default(),
        running: Mutex::new((0..count).map(|_| None).collect()),
    });
    let current = py.import("greenlet")?.getattr("getcurrent")?.unbind();
    let asked = Arc::downgrade(&pool);
    pool.bridge.ask_whose_turn(Box::new(move |py| asked.upgrade()?.request_of(py, &current.call0(py).ok()?)));
    let turn = Bound::new(py, Turn(Arc::clone(&pool)))?;
    let mut fds = vec![reactor.epoll_fd().as_raw_fd()];
    fds.extend(reactor.bell_fd().map(|bell| bell.as_raw_fd()));
    hub.call_method1("watch", (fds, turn))?;
    Ok(pool)
}

impl Started {
    /// Serves until the worker is done. Returns the exit status.
    pub(crate) fn serve(self, py: Python<'_>) -> i32 {
        let pool = &self.0;
        let waited = pool.hub.bind(py).getattr("done").and_then(|done| done.call_method0("wait"));
        // The hub throws into the main greenlet what it cannot deal with itself.
        let status = waited.map_or_else(|error| {
            let status = exit_status(py, &error).unwrap_or(1);
            if status != 0 {
                slog::crit!(pool.reactor.log, "gevent's hub has ended by an exception"; event::FAILURE, "error" => %error);
            }
            status
        }, |_| 0);
        pool.reactor.finish();
        status
    }
}

/// The callback of the hub.
#[pyclass(frozen)]
struct Turn(Arc<Pool>);

#[pymethods]
impl Turn {
    fn __call__(&self, py: Python<'_>) {
        self.0.turn(py);
    }
}

impl Pool {
    fn with_hands<T>(&self, act: impl FnOnce(&mut Hands) -> T) -> T {
        act(&mut lock(&self.hands))
    }

    /// Something has come.
    fn turn(self: &Arc<Self>, py: Python<'_>) {
        if rgunicorn_reactor::in_child() {
            print_error(py, self.hub.bind(py).call_method0("unwatch").map(drop));
            return;
        }
        let reactor = &self.reactor;
        self.with_hands(|hands| reactor.begin_turn(hands));
        let mut more = true;
        for _ in 0..BATCH {
            match self.with_hands(|hands| reactor.next(hands)) {
                Next::Exchange(exchange) => self.begin(py, exchange),
                Next::Nothing => {
                    more = false;
                    break;
                }
                Next::Finished => {
                    self.stop(py);
                    return;
                }
            }
        }
        if more {
            reactor.turn_again();
        }
        for lane in reactor.take_woken() {
            if let Some(runner) = self.running(py, lane) {
                runner.get().lane.wake(py);
            }
        }
        for lane in reactor.take_overdue() {
            self.time_out(py, lane);
        }
        if reactor.is_finished() {
            self.stop(py);
        }
    }

    /// The id of the request that this greenlet serves. Those that the application has started serve none.
    fn request_of(&self, py: Python<'_>, greenlet: &Py<PyAny>) -> Option<String> {
        let running = lock(&self.running);
        let lane = running.iter().position(|runner| {
            let own = runner.as_ref().and_then(|runner| runner.bind(py).get().greenlet(py));
            own.is_some_and(|own| own.is(greenlet))
        })?;
        self.reactor.request_id_of(lane)
    }

    fn running<'py>(&self, py: Python<'py>, lane: usize) -> Option<Bound<'py, Runner>> {
        lock(&self.running).get(lane)?.as_ref().map(|runner| runner.bind(py).clone())
    }

    /// Runs a request, until it is over or waits.
    fn begin(self: &Arc<Self>, py: Python<'_>, mut exchange: Box<Exchange>) {
        let Some(lane) = self.reactor.enter_coroutine(&mut exchange) else { return };
        let kept = lock(&self.kept).pop().map(|runner| runner.into_bound(py));
        let made = kept.map_or_else(|| Runner::make(py, self), Ok).and_then(|runner| {
            let greenlet = runner.get().greenlet(py);
            Ok((runner, greenlet.map(|greenlet| greenlet.getattr(pyo3::intern!(py, "switch"))).transpose()?))
        });
        let (runner, switch) = match made {
            Ok((runner, Some(switch))) => (runner, switch),
            Ok((_, None)) => return self.refuse(exchange, lane),
            Err(error) => {
                error.print(py);
                return self.refuse(exchange, lane);
            }
        };
        if let Some(place) = lock(&self.running).get_mut(lane) {
            *place = Some(runner.clone().unbind());
        }
        *lock(&runner.get().next) = Some((exchange, lane));
        print_error(py, switch.call0().map(drop));
        // One that somebody has ended while it was kept does not run any more.
        let left = lock(&runner.get().next).take();
        if let Some((exchange, lane)) = left {
            self.forget(lane);
            self.reactor.leave_coroutine(lane);
            self.begin(py, exchange);
        }
    }

    /// No greenlet can be made: there is no memory.
    fn refuse(&self, mut exchange: Box<Exchange>, lane: usize) {
        slog::error!(self.reactor.log, "a request could not be given to the application: no greenlet can be made";
            event::FAILURE);
        self.with_hands(|hands| {
            exchange.fail(500, hands);
            exchange.finish(hands)
        });
        self.reactor.leave_coroutine(lane);
    }

    fn forget(&self, lane: usize) {
        let runner = lock(&self.running).get_mut(lane).and_then(Option::take);
        drop(runner);
    }

    /// `timeout` has passed: the stack is taken, the client told, the greenlet killed.
    fn time_out(&self, py: Python<'_>, lane: usize) {
        let Some(runner) = self.running(py, lane) else { return };
        let Some(greenlet) = runner.get().greenlet(py) else { return };
        let stack = self.stack.bind(py).call1((&greenlet,)).and_then(|text| text.extract::<String>()).ok();
        self.reactor.time_out_lane(lane, stack);
        runner.get().lane.note_timeout(py);
        let at_once = PyDict::new(py);
        let killed = at_once
            .set_item("block", false)
            .and_then(|()| greenlet.call_method(pyo3::intern!(py, "kill"), (), Some(&at_once)));
        print_error(py, killed.map(drop));
    }

    fn stop(&self, py: Python<'_>) {
        if !self.stopped.swap(true, Ordering::Relaxed) {
            let hub = self.hub.bind(py);
            let done = hub.getattr("done").and_then(|done| done.call_method0("set"));
            print_error(py, done.map(drop));
            // The hub may run on, while threads of the application are waited for, and what comes is nobody's any more.
            print_error(py, hub.call_method0("unwatch").map(drop));
        }
    }
}

fn print_error(py: Python<'_>, result: PyResult<()>) {
    if let Err(error) = result {
        error.print(py);
    }
}

impl Runner {
    fn make<'py>(py: Python<'py>, pool: &Arc<Pool>) -> PyResult<Bound<'py, Runner>> {
        let lane = Arc::new(Lane::of_hub(&pool.hands, pool.event_class.clone_ref(py)));
        let runner = Runner {
            pool: Arc::clone(pool),
            lane,
            next: Mutex::default(),
            greenlet: Mutex::default(),
            fresh: OnceLock::new(),
        };
        let runner = Bound::new(py, runner)?;
        let greenlet = pool.greenlet_class.bind(py).call1((&runner,))?;
        // Otherwise it has those of the hub, from which it is spawned, together with all others.
        greenlet.setattr(pyo3::intern!(py, "spawn_tree_locals"), PyDict::new(py))?;
        *lock(&runner.get().greenlet) = Some(greenlet.unbind());
        Ok(runner)
    }

    fn greenlet<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        lock(&self.greenlet).as_ref().map(|greenlet| greenlet.bind(py).clone())
    }

    fn traces(&self, greenlet: &Bound<'_, PyAny>) -> PyResult<Traces> {
        let py = greenlet.py();
        Ok(Traces {
            references: references(greenlet.as_unbound(), py),
            weak: self.pool.count_weak.bind(py).call1((greenlet,))?.extract()?,
            attributes: greenlet.getattr(pyo3::intern!(py, "__dict__"))?.len()?,
        })
    }

    /// Whether the greenlet is as if it had not served yet.
    fn is_fresh(&self, greenlet: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = greenlet.py();
        let now = self.traces(greenlet)?;
        if self.fresh.get().is_none_or(|fresh| *fresh != now)
            || greenlet.call_method0(pyo3::intern!(py, "has_links"))?.is_truthy()?
            || greenlet.getattr(pyo3::intern!(py, "spawn_tree_locals"))?.is_truthy()?
        {
            return Ok(false);
        }
        greenlet.setattr(pyo3::intern!(py, "gr_context"), py.None())?;
        Ok(true)
    }

    /// Serves one request. Whether this greenlet may serve another.
    fn serve(&self, greenlet: &Bound<'_, PyAny>, exchange: Box<Exchange>, lane: usize) -> bool {
        let (py, pool) = (greenlet.py(), &self.pool);
        if self.fresh.get().is_none()
            && let Ok(traces) = self.traces(greenlet)
        {
            let _: &Traces = self.fresh.get_or_init(|| traces);
        }
        let served = pool.bridge.serve(py, &self.lane, exchange);
        // 1 is what Python says of an exception that nobody caught.
        rgunicorn_reactor::leave_if_child(if let Served::Exit(status) = served { status } else { 1 });
        self.lane.end_waiting(py);
        pool.forget(lane);
        pool.reactor.leave_coroutine(lane);
        pool.recycling.count(&pool.reactor);
        match served {
            Served::Continue => self.is_fresh(greenlet).unwrap_or(false),
            Served::Thrown => false,
            Served::Exit(_) => {
                leave_soon(&pool.reactor);
                false
            }
        }
    }
}

#[pymethods]
impl Runner {
    /// The greenlet's body.
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Some(greenlet) = this.greenlet(py) else { return Ok(()) };
        let mut thrown = Ok(());
        loop {
            let next = lock(&this.next).take();
            let Some((exchange, lane)) = next else { break };
            if !this.serve(&greenlet, exchange, lane) {
                break;
            }
            {
                let mut kept = lock(&this.pool.kept);
                if kept.len() >= KEPT {
                    break;
                }
                kept.push(slf.clone().unbind());
            }
            if let Err(error) = this.pool.switch_to_hub.bind(py).call0() {
                let mine = {
                    let mut kept = lock(&this.pool.kept);
                    kept.iter().position(|other| other.is(slf)).map(|at| kept.remove(at))
                };
                drop(mine);
                thrown = Err(error);
                break;
            }
        }
        let itself = lock(&this.greenlet).take();
        drop(itself);
        thrown
    }
}

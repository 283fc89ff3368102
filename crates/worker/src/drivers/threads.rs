//! Lanes that are threads. One lane is Gunicorn's `sync`, many are its `gthread`.
//!
//! The leading lane turns the reactor, reads and parses a request, calls the application and writes the response, with
//! no other thread in between. How the lead changes hands is in [`rgunicorn_reactor::Lanes`]. Lane 0 is the worker's main
//! thread with one lane; with many, the main thread only waits for them, so that signal handlers of the application run
//! while every lane is busy, and lanes are Python threads with names, as profilers and `threading.local` expect.

use crate::bridge::Lane;
use crate::bridge::wsgi::{Served, WsgiBridge};
use crate::drivers::leave_soon;
use crate::drivers::recycling::Recycling;
use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;
use rgunicorn_log::event;
use rgunicorn_protocol::{BootFault, BootFaultKind, FromWorker, WorkerSettings};
use rgunicorn_reactor::{Next, Reactor, Role};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The interpreter lock was waited for that long after a poll: another lane computes and gave it up only when the switch
/// interval (5 ms) forced it to.
const CONTENDED: Duration = Duration::from_millis(2);
/// Polls for which the leader then keeps the lock a little longer, since giving it up would cost a whole interval.
const CONTENDED_POLLS: u32 = 64;
/// How long it keeps the lock without work then: some round trips to a client nearby. Bounded, and a small part of the
/// interval that the other lane is given anyway.
const LINGER: Duration = Duration::from_micros(200);

/// What all lanes of a worker share.
struct Pool {
    reactor: Arc<Reactor>,
    bridge: WsgiBridge,
    recycling: Recycling,
}

/// Serves until the worker is done. Returns the exit status.
pub(crate) fn run(
    py: Python<'_>,
    reactor: &Arc<Reactor>,
    bridge: WsgiBridge,
    settings: &WorkerSettings,
    ready: impl FnOnce(),
) -> i32 {
    let pool = Arc::new(Pool { reactor: Arc::clone(reactor), bridge, recycling: Recycling::new(settings) });
    let count = reactor.lanes.count();
    if count == 1 {
        ready();
        reactor.join(0);
        pool.run_lane(py, 0);
    } else if let Err(error) = run_threads(py, &pool, count, ready) {
        slog::crit!(reactor.log, "the worker's threads cannot be started; lower `threads` or raise TasksMax= of the unit";
            event::FAILURE,
            "error" => %error);
        let message =
            format!("the worker's threads cannot be started: {error}; lower `threads` or raise TasksMax= of the unit");
        reactor.tell(&FromWorker::BootFault(BootFault { kind: BootFaultKind::Environment, message, traceback: None }));
        return 1;
    }
    0
}

/// A lane's body, for `threading.Thread(target=...)`.
#[pyclass(frozen)]
struct LaneThread {
    pool: Arc<Pool>,
    lane: usize,
}

#[pymethods]
impl LaneThread {
    fn __call__(&self, py: Python<'_>) {
        self.pool.run_lane(py, self.lane);
    }
}

fn run_threads(py: Python<'_>, pool: &Arc<Pool>, count: usize, ready: impl FnOnce()) -> PyResult<()> {
    let class = py.import("threading")?.getattr("Thread")?;
    let mut threads = Vec::new();
    for lane in 0..count {
        let target = Py::new(py, LaneThread { pool: Arc::clone(pool), lane })?;
        let kwargs = pyo3::types::PyDict::new(py);
        kwargs.set_item("target", target)?;
        kwargs.set_item("name", format!("lane-{}", lane + 1))?;
        // A lane that never comes back from the application must not keep the interpreter from ending.
        kwargs.set_item("daemon", true)?;
        let thread = class.call((), Some(&kwargs))?;
        // Its signal mask is the main thread's, empty: programs that the application starts inherit it, and one that has
        // SIGTERM or SIGCHLD blocked cannot be terminated or never sees its children end. The kernel gives a signal to the
        // main thread as long as that takes it (signal(7)), so handlers of the application run there all the same.
        thread.call_method0("start")?;
        threads.push(thread);
    }
    ready();
    for thread in threads {
        loop {
            let finished = pool.reactor.is_finished();
            // The timeout lets the main thread run signal handlers of the application; a join without one would not
            // return for them before Python 3.13. After the end it bounds the wait for lanes that never come back.
            // A handler may raise here, as in a lane that turns the reactor: Python says so, and the lanes go on.
            let joined = thread.call_method1("join", (if finished { 0.1 } else { 3600.0 },));
            let alive = joined.and_then(|_| thread.call_method0("is_alive")?.is_truthy()).unwrap_or_else(|error| {
                pool.deal_with(py, &error);
                true
            });
            if finished || !alive {
                break;
            }
        }
    }
    Ok(())
}

impl Pool {
    fn run_lane(&self, py: Python<'_>, number: usize) {
        let (reactor, lane) = (&self.reactor, Arc::new(Lane::new()));
        if reactor.lanes.count() > 1 {
            reactor.join(number);
            if number != 0 && !self.idle(py, number) {
                return;
            }
        }
        let mut contended = 0_u32;
        loop {
            match lane.with_hands(|hands| reactor.next(hands)) {
                Next::Exchange(mut exchange) => {
                    let since = reactor.enter_application(number, &mut exchange);
                    let served = self.bridge.serve(py, &lane, exchange);
                    // 1 is what Python says of an exception that nobody caught.
                    rgunicorn_reactor::leave_if_child(if let Served::Exit(status) = served { status } else { 1 });
                    let role = reactor.leave_application(number, since);
                    self.recycling.count(reactor);
                    match served {
                        Served::Exit(_) => leave_soon(reactor),
                        Served::Continue | Served::Thrown => {}
                    }
                    if role == Role::Idle && !self.idle(py, number) {
                        return;
                    }
                }
                Next::Nothing => {
                    if contended > 0 && reactor.lanes.inside() > 0 {
                        contended -= 1;
                        if lane.with_hands(|hands| reactor.wait_briefly(hands, LINGER)) {
                            continue;
                        }
                    }
                    let polled = py.detach(|| {
                        lane.with_hands(|hands| reactor.wait(hands));
                        reactor.ask_for_lock();
                        Instant::now()
                    });
                    reactor.got_lock();
                    if polled.elapsed() > CONTENDED {
                        contended = CONTENDED_POLLS;
                    }
                    // Handlers that the application has installed with signal.signal run now.
                    if let Err(error) = py.check_signals() {
                        self.deal_with(py, &error);
                    }
                }
                Next::Finished => return,
            }
        }
    }

    /// A signal handler of the application has raised this while no request ran in the main thread.
    fn deal_with(&self, py: Python<'_>, error: &PyErr) {
        match error.is_instance_of::<PySystemExit>(py) {
            // Printing it would end the process here and now.
            true => leave_soon(&self.reactor),
            false => error.print(py),
        }
    }

    /// Sleeps until this lane has the lead. `false`: the worker is done.
    fn idle(&self, py: Python<'_>, number: usize) -> bool {
        loop {
            let before = py.detach(|| {
                let go_on = self.reactor.lanes.park(number);
                go_on.then(|| self.reactor.lanes.before_lock())
            });
            let Some(before) = before else { return false };
            if self.reactor.try_lead(number, before) {
                return true;
            }
        }
    }
}

//! How a lane waits for its client: in the kernel, as threads do, or in gevent's hub.
//!
//! Owns the `gevent.event.Event` on which the greenlets of a request wait; there may be several. A thread of gevent's
//! pool that reads or writes for a request has a hub of its own, in which nothing else would wait: it blocks until it is
//! told. Whoever waits for the client asks again when it is woken. Knows nothing of what is waited for.
//!
//! **The lost wake-up.** The event is cleared (in another thread: the count of wake-ups is read) before the question is
//! asked, and set (raised) by the driver after something has happened to the connection; so what happens after the
//! question was answered sets it again.

use super::lane::lock;
use pyo3::prelude::*;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{ThreadId, current};

/// See the module.
#[derive(Default)]
pub(super) enum Waiting {
    /// The thread blocks, without the interpreter lock.
    #[default]
    Blocking,
    /// The greenlet switches to the hub.
    InHub {
        /// `gevent.event.Event`.
        class: Py<PyAny>,
        /// The one of the request in work, once something was waited for.
        event: Mutex<Option<Py<PyAny>>>,
        /// The thread that runs the hub.
        thread: ThreadId,
        /// For other threads: how often somebody was woken.
        woken: Mutex<u64>,
        changed: Condvar,
    },
}

impl Waiting {
    pub(super) fn in_hub(class: Py<PyAny>) -> Waiting {
        Waiting::InHub {
            class,
            event: Mutex::new(None),
            thread: current().id(),
            woken: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// Whether the thread may block.
    pub(super) fn blocks(&self) -> bool {
        matches!(self, Waiting::Blocking)
    }

    /// Asks until there is an answer, and waits in the hub between two questions.
    ///
    /// # Errors
    /// Those of `ask`; and what somebody throws into the greenlet while it waits (gevent.Timeout, GreenletExit).
    pub(super) fn until<T>(&self, py: Python<'_>, mut ask: impl FnMut() -> PyResult<Option<T>>) -> PyResult<T> {
        loop {
            if let Waiting::InHub { thread, woken, changed, .. } = self
                && *thread != current().id()
            {
                let before = *lock(woken);
                if let Some(answer) = ask()? {
                    return Ok(answer);
                }
                py.detach(|| {
                    drop(changed.wait_while(lock(woken), |now| *now == before).unwrap_or_else(PoisonError::into_inner));
                });
                py.check_signals()?;
                continue;
            }
            let event = self.event(py)?;
            event.call_method0(pyo3::intern!(py, "clear"))?;
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            event.call_method0(pyo3::intern!(py, "wait"))?;
        }
    }

    fn event<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Waiting::InHub { class, event, .. } = self else {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("this lane has no hub"));
        };
        if let Some(event) = &*lock(event) {
            return Ok(event.bind(py).clone());
        }
        let made = class.bind(py).call0()?;
        // Another thread may have been first; then both wait for its event.
        Ok(lock(event).get_or_insert_with(|| made.unbind()).bind(py).clone())
    }

    /// Has everybody who waits ask again.
    pub(super) fn wake(&self, py: Python<'_>) {
        let Waiting::InHub { event, .. } = self else { return };
        let event = lock(event).as_ref().map(|event| event.clone_ref(py));
        self.tell(py, event);
    }

    fn tell(&self, py: Python<'_>, event: Option<Py<PyAny>>) {
        if let Waiting::InHub { woken, changed, .. } = self {
            *lock(woken) += 1;
            changed.notify_all();
        }
        if let Some(event) = event
            && let Err(error) = event.bind(py).call_method0(pyo3::intern!(py, "set"))
        {
            error.print(py);
        }
    }

    /// Wakes them for the last time: the next request has an event of its own.
    pub(super) fn end(&self, py: Python<'_>) {
        let Waiting::InHub { event, .. } = self else { return };
        let event = lock(event).take();
        self.tell(py, event);
    }
}

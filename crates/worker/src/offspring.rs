//! Processes that the application forks: they keep none of the worker's sockets and get the default signals back.
//!
//! A close in the worker would otherwise send no FIN while a child holds a duplicate. Programs that are executed lose
//! the fds by CLOEXEC; this is for os.fork() and multiprocessing without exec.

use crate::fork::FORKING;
use crate::signals;
use pyo3::prelude::*;
use std::sync::atomic::Ordering;

/// Runs in the thread that forks.
#[pyfunction]
fn before_fork() {
    if FORKING.load(Ordering::Relaxed) {
        return;
    }
    signals::hold_for_fork();
}

#[pyfunction]
fn after_fork_in_parent() {
    if FORKING.load(Ordering::Relaxed) {
        return;
    }
    signals::release_after_fork();
}

/// Runs in the child, right after the fork, in its only thread.
#[pyfunction]
fn after_fork_in_child() {
    if FORKING.load(Ordering::Relaxed) {
        return;
    }
    signals::restore_defaults();
    rgunicorn_reactor::close_in_child();
    signals::release_after_fork();
}

/// Asks the interpreter to call us in every child that it forks from now on.
///
/// # Errors
/// `os.register_at_fork` fails.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    let kwargs = pyo3::types::PyDict::new(py);
    kwargs.set_item("before", pyo3::wrap_pyfunction!(before_fork, py)?)?;
    kwargs.set_item("after_in_parent", pyo3::wrap_pyfunction!(after_fork_in_parent, py)?)?;
    kwargs.set_item("after_in_child", pyo3::wrap_pyfunction!(after_fork_in_child, py)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&kwargs))?;
    Ok(())
}

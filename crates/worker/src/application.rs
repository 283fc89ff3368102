//! The application in its interpreter: environment, sys.path, import. The Python side is `python/application.py`.

use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};
use rgunicorn_protocol::{BootFault, BootFaultKind, WorkerSettings};
use std::ffi::CString;

/// The imported callable.
pub(crate) type Application = Py<PyAny>;

/// What of a fault's texts is told.
const MESSAGE_BYTES: usize = 4000;
const TRACEBACK_BYTES: usize = 60_000;

const SOURCE: &str = include_str!("../python/application.py");

fn fault(kind: BootFaultKind, message: String) -> BootFault {
    BootFault { kind, message, traceback: None }
}

/// Python's own words for an error of ours or of its own.
fn unexpected(py: Python<'_>, error: &PyErr) -> BootFault {
    let message = format!("the worker could not be prepared: {error}");
    let traceback = error.traceback(py).and_then(|traceback| traceback.format().ok());
    bounded(BootFaultKind::Environment, message, traceback)
}

/// A fault that fits into a datagram. What matters stands at a message's beginning and at a traceback's ends.
fn bounded(kind: BootFaultKind, mut message: String, mut traceback: Option<String>) -> BootFault {
    let boundary = |text: &str, from: usize| (from..).find(|at| text.is_char_boundary(*at)).unwrap_or(from);
    if message.len() > MESSAGE_BYTES {
        message.truncate(boundary(&message, MESSAGE_BYTES));
        message.push_str("[...]");
    }
    if let Some(long) = traceback.as_mut().filter(|long| long.len() > TRACEBACK_BYTES) {
        // An exception may have a text longer than that.
        let head = boundary(long, TRACEBACK_BYTES / 4);
        let tail = boundary(long, long.len() - TRACEBACK_BYTES / 4 * 3);
        *long = format!("{}\n[...]\n{}", &long[..head], &long[tail..]);
    }
    BootFault { kind, message, traceback }
}

fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    static MODULE: pyo3::sync::PyOnceLock<Py<PyModule>> = pyo3::sync::PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || {
            let source = CString::new(SOURCE)?;
            PyModule::from_code(py, &source, c"<rgunicorn>/application.py", c"rgunicorn_application").map(Bound::unbind)
        })
        .map(|module| module.bind(py).clone())
}

/// `CPython 3.11.7 /srv/app/venv/bin/python`, for records.
pub(crate) fn interpreter(py: Python<'_>) -> String {
    let version = py.version_info();
    let executable: String = py
        .import("sys")
        .and_then(|sys| sys.getattr("executable"))
        .and_then(|executable| executable.extract())
        .unwrap_or_else(|_| "an unknown interpreter".to_owned());
    format!("CPython {}.{}.{} {executable}", version.major, version.minor, version.patch)
}

/// Sets environment, working directory and sys.path.
///
/// # Errors
/// The directory cannot be entered.
pub(crate) fn prepare(py: Python<'_>, settings: &WorkerSettings) -> Result<(), BootFault> {
    let run = || -> PyResult<()> {
        let chdir = settings.chdir.as_os_str();
        let paths: Vec<_> = settings.pythonpath.iter().map(|path| path.as_os_str()).collect();
        module(py)?.call_method1("prepare", (settings.env.clone(), chdir, paths))?;
        Ok(())
    };
    run().map_err(|error| {
        if error.is_instance_of::<pyo3::exceptions::PyOSError>(py) {
            fault(
                BootFaultKind::Environment,
                format!("chdir = {:?} cannot be entered by the workers: {}", settings.chdir, error.value(py)),
            )
        } else {
            unexpected(py, &error)
        }
    })
}

/// Imports the application.
///
/// # Errors
/// What the application did wrong, with its traceback.
pub(crate) fn load(py: Python<'_>, settings: &WorkerSettings) -> Result<Application, BootFault> {
    let module = module(py).map_err(|error| unexpected(py, &error))?;
    match module.call_method1("load", (&settings.app,)) {
        Ok(application) => Ok(application.unbind()),
        Err(error) => Err(load_fault(py, &module, &error)),
    }
}

/// Compares the application with the pool, and decides for `auto`.
///
/// # Errors
/// The application is of another kind; the message says what to set.
pub(crate) fn settle_pool(
    py: Python<'_>,
    application: &Bound<'_, PyAny>,
    settings: &mut WorkerSettings,
) -> Result<(), BootFault> {
    let found = module(py)
        .and_then(|module| module.call_method1("pool", (application, &settings.app, &settings.worker_class)))
        .and_then(|found| found.extract::<(Option<String>, Option<String>)>())
        .map_err(|error| unexpected(py, &error))?;
    match found {
        (_, Some(message)) => Err(fault(BootFaultKind::NotFound, message)),
        (Some(class), None) => {
            let class = if class == "sync" && settings.threads > 1 { "gthread" } else { &class };
            settings.worker_class = class.to_owned();
            if class == "sync"
                && let Some(timeout) = settings.timeout_if_sync
            {
                settings.timeout = timeout;
            }
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

fn load_fault(py: Python<'_>, module: &Bound<'_, PyModule>, error: &PyErr) -> BootFault {
    let value = error.value(py);
    let is_fault = module.getattr("Fault").is_ok_and(|class| value.is_instance(&class).unwrap_or(false));
    if !is_fault {
        return unexpected(py, error);
    }
    // Names of files that are no UTF-8 stand in exceptions as lone surrogates, which no Rust string has.
    let text = |name: &str| {
        let found = value.getattr(name).ok()?;
        Some(found.cast::<PyString>().ok()?.to_string_lossy().into_owned())
    };
    let kind = match text("kind").as_deref() {
        Some("not_found") => BootFaultKind::NotFound,
        _ => BootFaultKind::Import,
    };
    bounded(kind, text("message").unwrap_or_default(), text("traceback"))
}

/// Keeps the preloaded application's pages shared, and says what of it does not survive the forks.
pub(crate) fn freeze(py: Python<'_>, kept_fds: &[i32]) -> Vec<String> {
    let run = || -> PyResult<Vec<String>> {
        let module = module(py)?;
        module.call_method0("freeze")?;
        module.getattr("KEPT_FDS")?.call_method1("update", (kept_fds.to_vec(),))?;
        module.call_method0("fork_warnings")?.extract()
    };
    run().unwrap_or_else(|error| vec![format!("the preloaded application could not be looked at: {error}")])
}

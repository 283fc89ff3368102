//! WSGI, PEP 3333.

use super::Lane;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use rgunicorn_log::AccessLog;
use rgunicorn_protocol::WorkerSettings;
use rgunicorn_reactor::{Exchange, Reactor};
use std::sync::Arc;

/// What the lane does after a request.
pub(crate) enum Served {
    /// The next one.
    Continue,
    /// Leaves with this status: the application has ended the interpreter.
    #[allow(dead_code)]
    Exit(i32),
}

/// One per worker.
pub(crate) struct WsgiBridge {
    application: Py<PyAny>,
    log: slog::Logger,
}

#[pyclass]
struct StartResponse {
    status: Option<String>,
    headers: Vec<(String, String)>,
}

#[pymethods]
impl StartResponse {
    #[pyo3(signature = (status, headers, exc_info=None))]
    fn __call__(&mut self, status: String, headers: Vec<(String, String)>, exc_info: Option<Py<PyAny>>) {
        let _ = exc_info;
        self.status = Some(status);
        self.headers = headers;
    }
}

impl WsgiBridge {
    pub(crate) fn new(
        _py: Python<'_>,
        application: Py<PyAny>,
        _settings: &WorkerSettings,
        _reactor: &Arc<Reactor>,
        log: slog::Logger,
        _access: Option<Arc<AccessLog>>,
    ) -> PyResult<WsgiBridge> {
        Ok(WsgiBridge { application, log })
    }

    pub(crate) fn serve(&self, py: Python<'_>, lane: &Arc<Lane>, mut exchange: Box<Exchange>) -> Served {
        let result = self.call(py, lane, &mut exchange);
        lane.with_hands(|hands| {
            match result {
                Ok(()) => {}
                Err(error) => {
                    slog::error!(self.log, "the application raised an exception"; "error" => %error);
                    exchange.fail(500, hands);
                }
            }
            let _ = exchange.finish(hands);
        });
        Served::Continue
    }

    fn call(&self, py: Python<'_>, lane: &Arc<Lane>, exchange: &mut Exchange) -> PyResult<()> {
        let environ = PyDict::new(py);
        let bytes = exchange.bytes();
        let head = exchange.head();
        environ.set_item("REQUEST_METHOD", String::from_utf8_lossy(&head.method_name(bytes)))?;
        environ.set_item("SCRIPT_NAME", "")?;
        environ.set_item("PATH_INFO", String::from_utf8_lossy(head.path(bytes)))?;
        environ
            .set_item("QUERY_STRING", head.query.map(|q| String::from_utf8_lossy(q.of(bytes))).unwrap_or_default())?;
        environ.set_item("SERVER_PROTOCOL", "HTTP/1.1")?;
        environ.set_item("SERVER_NAME", "localhost")?;
        environ.set_item("SERVER_PORT", "8000")?;
        environ.set_item("wsgi.version", (1, 0))?;
        environ.set_item("wsgi.url_scheme", "http")?;
        environ.set_item("wsgi.multithread", false)?;
        environ.set_item("wsgi.multiprocess", true)?;
        environ.set_item("wsgi.run_once", false)?;
        environ.set_item("wsgi.errors", py.import("sys")?.getattr("stderr")?)?;
        for field in &head.fields {
            let name = String::from_utf8_lossy(field.name.of(bytes)).to_uppercase().replace('-', "_");
            let value = String::from_utf8_lossy(field.value.of(bytes));
            match name.as_str() {
                "CONTENT_TYPE" | "CONTENT_LENGTH" => environ.set_item(name, value)?,
                _ => environ.set_item(format!("HTTP_{name}"), value)?,
            }
        }
        let mut body = Vec::new();
        if let Some(mut buffered) = exchange.take_body() {
            let mut part = vec![0; 65536];
            while let Ok(n @ 1..) = buffered.read(&mut part) {
                body.extend_from_slice(&part[..n]);
            }
        }
        environ.set_item("wsgi.input", py.import("io")?.call_method1("BytesIO", (PyBytes::new(py, &body),))?)?;
        let start = Py::new(py, StartResponse { status: None, headers: Vec::new() })?;
        let result = self.application.bind(py).call1((environ, start.clone_ref(py)))?;
        let known = result.cast::<PyList>().is_ok() || result.cast::<PyTuple>().is_ok();
        let mut items = Vec::new();
        for item in result.try_iter()? {
            items.push(item?.cast_into::<PyBytes>()?);
        }
        if result.hasattr("close")? {
            result.call_method0("close")?;
        }
        let start = start.borrow(py);
        let fields: Vec<(&[u8], &[u8])> =
            start.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let length = known.then(|| items.iter().map(|item| item.as_bytes().len() as u64).sum());
        let status = start.status.clone().unwrap_or_default();
        lane.with_hands(|hands| exchange.respond(status.as_bytes(), &fields, length, hands))
            .map_err(|fault| pyo3::exceptions::PyValueError::new_err(format!("{fault:?}")))?;
        for item in &items {
            let _ = exchange.add(item.as_bytes());
        }
        Ok(())
    }
}

//! The connection scope of a request (the ASGI HTTP and WebSocket specification, version 2.5).
//!
//! Owns what is the same for all requests of a listener, and field pairs that come again and again. Knows no driver.
//! Invariants: an application may change its scope and what it finds in it without another request noticing; a value
//! that may be a secret is not kept after its request.

use super::Shared;
use crate::bridge::direct::latin1;
use crate::bridge::wsgi::fields::{forwarded, is_public};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use rgunicorn_http::{Head, IpSet, Known, Method, Version, percent_decode_into};
use rgunicorn_protocol::{ListenerAddress, WorkerSettings};
use rgunicorn_reactor::Exchange;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Version of the HTTP and WebSocket message format.
const SPEC_VERSION: &str = "2.5";
/// Positions of fields that are remembered.
const MOST_PLACES: usize = 64;
/// Bytes of a value above which a pair is not kept.
const LONGEST_VALUE: usize = 256;

/// See the module. One per worker.
pub(super) struct Scopes {
    asgi: Py<PyDict>,
    http: Py<PyDict>,
    websocket: Py<PyDict>,
    /// Extensions of a request whose client takes no trailers, and of one that does.
    extensions: [Py<PyDict>; 2],
    denial: Py<PyDict>,
    /// Without a slash at its end.
    root_path: String,
    /// By number of the listener: the scope's `server`.
    servers: Vec<Option<Py<PyAny>>>,
    places: Vec<Place>,
    decoded: Vec<u8>,
    /// Who is believed when he says whom he speaks for.
    proxies: IpSet,
    /// The last client's address: behind a proxy it is always the same.
    client: Option<(IpAddr, Py<PyString>)>,
}

/// What stood at one position of the last request.
struct Place {
    name: Vec<u8>,
    key: Py<PyBytes>,
    public: bool,
    value: Vec<u8>,
    pair: Option<Py<PyTuple>>,
}

impl Scopes {
    pub(super) fn new(py: Python<'_>, settings: &WorkerSettings) -> PyResult<Scopes> {
        let asgi = PyDict::new(py);
        asgi.set_item("version", "3.0")?;
        asgi.set_item("spec_version", SPEC_VERSION)?;
        let base = |kind: &str, scheme: &str| -> PyResult<Py<PyDict>> {
            let scope = PyDict::new(py);
            let text = |value: &str| PyString::intern(py, value);
            scope.set_item(text("type"), text(kind))?;
            scope.set_item(text("asgi"), py.None())?;
            scope.set_item(text("http_version"), text("1.1"))?;
            scope.set_item(text("server"), py.None())?;
            scope.set_item(text("client"), py.None())?;
            scope.set_item(text("scheme"), text(scheme))?;
            scope.set_item(text("method"), text("GET"))?;
            scope.set_item(text("root_path"), text(settings.root_path.trim_end_matches('/')))?;
            scope.set_item(text("path"), text("/"))?;
            scope.set_item(text("raw_path"), PyBytes::new(py, b"/"))?;
            scope.set_item(text("query_string"), PyBytes::new(py, b""))?;
            scope.set_item(text("headers"), py.None())?;
            scope.set_item(text("state"), py.None())?;
            scope.set_item(text("extensions"), py.None())?;
            Ok(scope.unbind())
        };
        let websocket = base("websocket", "ws")?;
        websocket.bind(py).del_item("method")?;
        let extensions = |trailers: bool| -> PyResult<Py<PyDict>> {
            let names = ["http.response.pathsend", "http.response.zerocopysend", "http.response.early_hint"];
            let all = PyDict::new(py);
            for name in names.iter().chain(trailers.then_some(&"http.response.trailers")) {
                all.set_item(PyString::intern(py, name), PyDict::new(py))?;
            }
            Ok(all.unbind())
        };
        let denial = PyDict::new(py);
        denial.set_item("websocket.http.response", PyDict::new(py))?;
        Ok(Scopes {
            asgi: asgi.unbind(),
            http: base("http", "http")?,
            websocket,
            extensions: [extensions(false)?, extensions(true)?],
            denial: denial.unbind(),
            root_path: settings.root_path.trim_end_matches('/').to_owned(),
            servers: Vec::new(),
            places: Vec::new(),
            decoded: Vec::new(),
            // The arbiter has checked them.
            proxies: IpSet::parse(&settings.forwarded_allow_ips).unwrap_or_default(),
            client: None,
        })
    }

    /// The scope of an HTTP request.
    pub(super) fn http<'py>(
        &mut self,
        py: Python<'py>,
        exchange: &Exchange,
        shared: &Arc<Shared>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.http.bind(py).copy()?;
        let (head, bytes) = (exchange.head(), exchange.bytes());
        if head.method != Method::Get {
            scope.set_item(pyo3::intern!(py, "method"), latin1(py, &head.method_name(bytes))?)?;
        }
        if head.https {
            scope.set_item(pyo3::intern!(py, "scheme"), pyo3::intern!(py, "https"))?;
        }
        let extensions = &self.extensions[usize::from(takes_trailers(head, bytes))];
        scope.set_item(pyo3::intern!(py, "extensions"), extensions.bind(py).copy()?)?;
        self.set_common(&scope, exchange, shared)?;
        Ok(scope)
    }

    /// The scope of a WebSocket.
    pub(super) fn websocket<'py>(
        &mut self,
        py: Python<'py>,
        exchange: &Exchange,
        subprotocols: &[String],
        shared: &Arc<Shared>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let scope = self.websocket.bind(py).copy()?;
        if exchange.head().https {
            scope.set_item(pyo3::intern!(py, "scheme"), pyo3::intern!(py, "wss"))?;
        }
        scope.set_item(pyo3::intern!(py, "subprotocols"), PyList::new(py, subprotocols)?)?;
        scope.set_item(pyo3::intern!(py, "extensions"), self.denial.bind(py).copy()?)?;
        self.set_common(&scope, exchange, shared)?;
        Ok(scope)
    }

    fn set_common(&mut self, scope: &Bound<'_, PyDict>, exchange: &Exchange, shared: &Arc<Shared>) -> PyResult<()> {
        let py = scope.py();
        let (head, bytes) = (exchange.head(), exchange.bytes());
        scope.set_item(pyo3::intern!(py, "asgi"), self.asgi.bind(py).copy()?)?;
        if head.version != Version::HTTP_11 {
            let version = format!("{}.{}", head.version.major, head.version.minor);
            scope.set_item(pyo3::intern!(py, "http_version"), version)?;
        }
        let proxied = exchange.proxied().and_then(|header| header.addresses).map(|(client, _)| client);
        let forwarded = if exchange.trust().forwarded { self.forwarded_for(head, bytes) } else { None };
        if let Some(address) = forwarded.or(proxied).or(exchange.peer()) {
            scope.set_item(pyo3::intern!(py, "client"), self.client(py, address)?)?;
        }
        scope.set_item(pyo3::intern!(py, "server"), self.server(py, exchange)?)?;
        self.set_path(scope, head, bytes)?;
        scope.set_item(pyo3::intern!(py, "headers"), self.headers(py, head, bytes)?)?;
        let state = shared.state(py);
        scope.set_item(pyo3::intern!(py, "state"), state.copy()?)?;
        Ok(())
    }

    /// The client that a believed proxy names, as uvicorn takes it.
    fn forwarded_for(&self, head: &Head, bytes: &[u8]) -> Option<SocketAddr> {
        let named = head.fields.iter().filter(|field| field.name.of(bytes).eq_ignore_ascii_case(b"x-forwarded-for"));
        self.proxies.last_stranger(named.map(|field| field.value.of(bytes)))
    }

    fn client<'py>(&mut self, py: Python<'py>, address: SocketAddr) -> PyResult<Bound<'py, PyTuple>> {
        let host = match &self.client {
            Some((ip, host)) if *ip == address.ip() => host.bind(py).clone(),
            Some(_) | None => {
                let host = PyString::new(py, &address.ip().to_string());
                self.client = Some((address.ip(), host.clone().unbind()));
                host
            }
        };
        (host, address.port()).into_pyobject(py)
    }

    /// `path`, `raw_path`, `query_string`, `root_path`. The path is that of the whole site: one that does not begin with
    /// the root path comes from a proxy that has taken it away, and gets it back.
    fn set_path(&mut self, scope: &Bound<'_, PyDict>, head: &Head, bytes: &[u8]) -> PyResult<()> {
        let py = scope.py();
        if let Some(query) = head.query
            && !query.is_empty()
        {
            scope.set_item(pyo3::intern!(py, "query_string"), PyBytes::new(py, query.of(bytes)))?;
        }
        let raw = head.path(bytes);
        let mut root = self.root_path.as_bytes();
        if head.fields.iter().any(|field| field.known == Known::Forwarder)
            && let Some(name) = forwarded(&head.fields, bytes, b"SCRIPT_NAME")
        {
            root = name.strip_suffix(b"/").unwrap_or(name);
            scope.set_item(pyo3::intern!(py, "root_path"), String::from_utf8_lossy(root))?;
        }
        if raw == b"/" && root.is_empty() {
            return Ok(());
        }
        self.decoded.clear();
        percent_decode_into(raw, &mut self.decoded);
        if !root.is_empty() && raw != b"*" && !is_below(&self.decoded, root) {
            self.decoded.splice(0..0, root.iter().copied());
            let mut whole = encoded(root);
            whole.extend_from_slice(raw);
            scope.set_item(pyo3::intern!(py, "raw_path"), PyBytes::new(py, &whole))?;
        } else {
            scope.set_item(pyo3::intern!(py, "raw_path"), PyBytes::new(py, raw))?;
        }
        // The specification leaves open what becomes of bytes that are no UTF-8. `raw_path` has them.
        let path = match std::str::from_utf8(&self.decoded) {
            Ok(path) => PyString::new(py, path),
            Err(_) => PyString::new(py, &String::from_utf8_lossy(&self.decoded)),
        };
        scope.set_item(pyo3::intern!(py, "path"), path)
    }

    /// Host and port of the listener; of a unix socket, its path and None.
    fn server<'py>(&mut self, py: Python<'py>, exchange: &Exchange) -> PyResult<Bound<'py, PyAny>> {
        let number = exchange.listener() as usize;
        if let Some(Some(server)) = self.servers.get(number) {
            return Ok(server.bind(py).clone());
        }
        let server = match exchange.listener_address() {
            Some(ListenerAddress::Tcp { address }) => host_and_port(py, address)?.into_any(),
            Some(ListenerAddress::Unix { path }) => (path, py.None()).into_pyobject(py)?.into_any(),
            None => py.None().into_bound(py),
        };
        if number >= self.servers.len() {
            self.servers.resize_with(number + 1, || None);
        }
        self.servers[number] = Some(server.clone().unbind());
        Ok(server)
    }

    /// Pairs of bytes, names in lower case. A pair that stood at the same place in the last request is that object.
    fn headers<'py>(&mut self, py: Python<'py>, head: &Head, bytes: &[u8]) -> PyResult<Bound<'py, PyList>> {
        let headers = PyList::empty(py);
        for (position, field) in head.fields.iter().enumerate() {
            let (name, value) = (field.name.of(bytes), field.value.of(bytes));
            headers.append(self.pair(py, position, name, value)?)?;
        }
        Ok(headers)
    }

    fn pair<'py>(
        &mut self,
        py: Python<'py>,
        position: usize,
        name: &[u8],
        value: &[u8],
    ) -> PyResult<Bound<'py, PyTuple>> {
        if let Some(place) = self.places.get_mut(position)
            && place.name == name
        {
            return place.pair(py, value);
        }
        let key = PyBytes::new(py, &name.to_ascii_lowercase());
        if position > self.places.len() || position >= MOST_PLACES {
            return PyTuple::new(py, [key, PyBytes::new(py, value)]);
        }
        let mut place =
            Place { name: name.to_vec(), key: key.unbind(), public: is_public(name), value: Vec::new(), pair: None };
        let pair = place.pair(py, value)?;
        match self.places.get_mut(position) {
            Some(old) => *old = place,
            None => self.places.push(place),
        }
        Ok(pair)
    }
}

impl Place {
    fn pair<'py>(&mut self, py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
        if let Some(pair) = &self.pair
            && self.value == value
        {
            return Ok(pair.bind(py).clone());
        }
        let pair = PyTuple::new(py, [self.key.bind(py).clone(), PyBytes::new(py, value)])?;
        if self.public && value.len() <= LONGEST_VALUE {
            self.value.clear();
            self.value.extend_from_slice(value);
            self.pair = Some(pair.clone().unbind());
        }
        Ok(pair)
    }
}

fn host_and_port(py: Python<'_>, address: SocketAddr) -> PyResult<Bound<'_, PyTuple>> {
    (address.ip().to_string(), address.port()).into_pyobject(py)
}

fn is_below(path: &[u8], root: &[u8]) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A path as a client would write it (RFC 3986 section 3.3).
fn encoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for byte in path {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(*byte),
            b'/' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';'
            | b'=' | b':' | b'@' => out.push(*byte),
            byte => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}

/// Whether the client has said `TE: trailers`.
pub(super) fn takes_trailers(head: &Head, bytes: &[u8]) -> bool {
    head.version >= Version::HTTP_11
        && head.fields.iter().any(|field| {
            field.name.of(bytes).eq_ignore_ascii_case(b"te")
                && field
                    .value
                    .of(bytes)
                    .split(|byte| *byte == b',')
                    .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        })
}

//! The environ of a request (PEP 3333, and what Gunicorn adds).
//!
//! Owns what is the same for all requests: a template per listener, which is copied (a copied dict keeps the hashes and
//! costs less than one that is built item by item), interned keys, strings of common values. Does not know how the
//! response is made. Invariant: an environ is a plain dict of its own, which the application may change as it likes.

use super::fields::{FieldCache, forwarded};
use super::file_wrapper::FileWrapper;
use super::input::{EmptyInput, Input};
use super::responder::Kept;
use crate::bridge::direct::latin1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use rgunicorn_http::{Framing, Head, Known, Method, Version, percent_decode_into};
use rgunicorn_protocol::{ListenerAddress, WorkerSettings};
use rgunicorn_reactor::Exchange;
use std::net::{IpAddr, SocketAddr};

/// Why no environ can be made.
#[derive(Debug)]
pub(super) enum Unmade {
    /// Python failed: memory.
    Failed(PyErr),
    /// The path is not below SCRIPT_NAME: proxy or settings are wrong.
    NotBelow {
        /// SCRIPT_NAME as the proxy or the environment gave it.
        script_name: String,
        /// The request's path.
        path: String,
    },
}

impl From<PyErr> for Unmade {
    fn from(error: PyErr) -> Unmade {
        Unmade::Failed(error)
    }
}

/// Variables that are set per request.
struct Keys {
    content_length: Py<PyString>,
    early_hints: Py<PyString>,
    input: Py<PyString>,
    path_info: Py<PyString>,
    proxy_addr: Py<PyString>,
    proxy_port: Py<PyString>,
    proxy_protocol: Py<PyString>,
    query_string: Py<PyString>,
    raw_uri: Py<PyString>,
    remote_addr: Py<PyString>,
    remote_port: Py<PyString>,
    request_method: Py<PyString>,
    script_name: Py<PyString>,
    server_name: Py<PyString>,
    server_port: Py<PyString>,
    server_protocol: Py<PyString>,
    socket: Py<PyString>,
    url_scheme: Py<PyString>,
}

/// See the module. One per worker.
pub(super) struct EnvironTemplate {
    base: Py<PyDict>,
    keys: Keys,
    /// In the order of [`METHODS`].
    methods: Vec<Py<PyString>>,
    https: Py<PyString>,
    http_10: Py<PyString>,
    /// Raw, without a slash at its end.
    script_name: Vec<u8>,
}

/// What is kept from request to request, per worker; see [`FieldCache`].
#[derive(Default)]
pub(super) struct Caches {
    fields: FieldCache,
    /// By number of the listener.
    templates: Vec<Option<ListenerTemplate>>,
    peer: Option<(IpAddr, Py<PyString>)>,
    decoded: Vec<u8>,
}

struct ListenerTemplate {
    environ: Py<PyDict>,
    /// A unix socket has no name and no port: these come from Host.
    unix: bool,
}

const METHODS: [Method; 9] = [
    Method::Get,
    Method::Head,
    Method::Post,
    Method::Put,
    Method::Delete,
    Method::Options,
    Method::Patch,
    Method::Trace,
    Method::Connect,
];

impl EnvironTemplate {
    pub(super) fn new(
        py: Python<'_>,
        settings: &WorkerSettings,
        errors: &Bound<'_, PyAny>,
    ) -> PyResult<EnvironTemplate> {
        let script_name = match settings.script_name.as_str() {
            // Gunicorn's users set it by raw_env.
            "" => py.import("os")?.getattr("environ")?.call_method1("get", ("SCRIPT_NAME", ""))?.extract::<String>()?,
            name => name.to_owned(),
        };
        let script_name = script_name.trim_end_matches('/').to_owned();
        let base = PyDict::new(py);
        let set = |key: &str, value: Bound<'_, PyAny>| base.set_item(PyString::intern(py, key), value);
        let text = |value: &str| PyString::intern(py, value).into_any();
        let truth = |value: bool| pyo3::types::PyBool::new(py, value).to_owned().into_any();
        set("REQUEST_METHOD", text("GET"))?;
        set("SCRIPT_NAME", text(&script_name))?;
        set("PATH_INFO", text("/"))?;
        set("QUERY_STRING", text(""))?;
        set("RAW_URI", text("/"))?;
        set("SERVER_PROTOCOL", text("HTTP/1.1"))?;
        set("SERVER_NAME", text(""))?;
        set("SERVER_PORT", text(""))?;
        set("REMOTE_ADDR", text(""))?;
        set("SERVER_SOFTWARE", text(concat!("rgunicorn/", env!("CARGO_PKG_VERSION"))))?;
        set("wsgi.version", PyTuple::new(py, [1, 0])?.into_any())?;
        set("wsgi.url_scheme", text("http"))?;
        set("wsgi.input", Bound::new(py, EmptyInput)?.into_any())?;
        set("wsgi.errors", errors.clone())?;
        set("wsgi.multithread", truth(settings.worker_class != "sync" || settings.threads > 1))?;
        set("wsgi.multiprocess", truth(settings.workers > 1))?;
        set("wsgi.run_once", truth(false))?;
        set("wsgi.file_wrapper", py.get_type::<FileWrapper>().into_any())?;
        set("wsgi.input_terminated", truth(true))?;
        // Placeholders, set for each request. With them the dict has room for the usual fields: its copies do not grow.
        set("wsgi.early_hints", py.None().into_bound(py))?;
        set("gunicorn.socket", py.None().into_bound(py))?;
        let methods = METHODS.iter().map(|method| intern(py, method.name().unwrap_or_default())).collect();
        Ok(EnvironTemplate {
            base: base.unbind(),
            keys: Keys::new(py),
            methods,
            https: intern(py, "https"),
            http_10: intern(py, "HTTP/1.0"),
            script_name: script_name.into_bytes(),
        })
    }

    /// The environ of the exchange's request. Takes the buffered body out of the exchange, into `wsgi.input`.
    pub(super) fn make<'py>(
        &self,
        py: Python<'py>,
        exchange: &mut Exchange,
        caches: &mut Caches,
        kept: &Kept,
    ) -> Result<(Bound<'py, PyDict>, Option<Py<Input>>), Unmade> {
        let keys = &self.keys;
        let (head, bytes) = (exchange.head(), exchange.bytes());
        let (environ, unix) = caches.copy_template(py, self, exchange)?;
        if unix {
            self.set_server(&environ, exchange)?;
        }
        if let Some(peer) = exchange.peer() {
            caches.set_remote(&environ, keys, peer)?;
        }
        if let Some((client, proxy)) = exchange.proxied().and_then(|header| header.addresses) {
            self.set_proxied(&environ, client, proxy)?;
        }

        if head.method != Method::Get {
            match METHODS.iter().position(|method| *method == head.method) {
                Some(at) => environ.set_item(&keys.request_method, &self.methods[at])?,
                None => environ.set_item(&keys.request_method, latin1(py, &head.method_name(bytes))?)?,
            }
        }
        self.set_path(&environ, head, bytes, &mut caches.decoded)?;
        if head.version != Version::HTTP_11 {
            if head.version == Version::HTTP_10 {
                environ.set_item(&keys.server_protocol, &self.http_10)?;
            } else {
                let version = format!("HTTP/{}.{}", head.version.major, head.version.minor);
                environ.set_item(&keys.server_protocol, version)?;
            }
        }
        if head.https {
            environ.set_item(&keys.url_scheme, &self.https)?;
        }
        caches.fields.set_all(&environ, &head.fields, bytes)?;

        environ.set_item(&keys.early_hints, &kept.early_hints)?;
        environ.set_item(&keys.socket, &kept.socket)?;
        let input = self.set_input(&environ, exchange, kept)?;
        Ok((environ, input))
    }

    /// PATH_INFO, SCRIPT_NAME, QUERY_STRING, RAW_URI.
    fn set_path(
        &self,
        environ: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
        decoded: &mut Vec<u8>,
    ) -> Result<(), Unmade> {
        let (py, keys) = (environ.py(), &self.keys);
        let target = head.target.of(bytes);
        let raw_uri = latin1(py, target)?;
        environ.set_item(&keys.raw_uri, &raw_uri)?;
        if let Some(query) = head.query
            && !query.is_empty()
        {
            environ.set_item(&keys.query_string, latin1(py, query.of(bytes))?)?;
        }
        let whole = head.path(bytes);
        let mut path = whole;
        let mut script_name = &self.script_name[..];
        if head.fields.iter().any(|field| field.known == Known::Forwarder)
            && let Some(name) = forwarded(&head.fields, bytes, b"SCRIPT_NAME")
        {
            script_name = name.strip_suffix(b"/").unwrap_or(name);
            environ.set_item(&keys.script_name, latin1(py, script_name)?)?;
        }
        if !script_name.is_empty() && whole != b"*" {
            path = match whole.strip_prefix(script_name) {
                Some(rest) if rest.is_empty() || rest[0] == b'/' => rest,
                Some(_) | None => {
                    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
                    return Err(Unmade::NotBelow { script_name: text(script_name), path: text(whole) });
                }
            };
        }
        if path == target {
            // The usual case, one string for both: no query, no escape, no prefix.
            if memchr::memchr(b'%', path).is_none() {
                environ.set_item(&keys.path_info, &raw_uri)?;
                return Ok(());
            }
        }
        decoded.clear();
        percent_decode_into(path, decoded);
        environ.set_item(&keys.path_info, latin1(py, decoded)?)?;
        Ok(())
    }

    /// What a PROXY header said. Gunicorn's names.
    fn set_proxied(&self, environ: &Bound<'_, PyDict>, client: SocketAddr, proxy: SocketAddr) -> PyResult<()> {
        let keys = &self.keys;
        environ.set_item(&keys.proxy_protocol, if client.is_ipv4() { "TCP4" } else { "TCP6" })?;
        environ.set_item(&keys.remote_addr, client.ip().to_string())?;
        environ.set_item(&keys.remote_port, client.port().to_string())?;
        environ.set_item(&keys.proxy_addr, proxy.ip().to_string())?;
        environ.set_item(&keys.proxy_port, proxy.port().to_string())
    }

    /// SERVER_NAME and SERVER_PORT on a unix socket, which has neither: those of Host, else the socket's path and
    /// nothing, as in Gunicorn.
    fn set_server(&self, environ: &Bound<'_, PyDict>, exchange: &Exchange) -> PyResult<()> {
        let (py, keys, head) = (environ.py(), &self.keys, exchange.head());
        let Some(host) = head.host.map(|span| exchange.text(span)).filter(|host| !host.is_empty()) else {
            if let Some(ListenerAddress::Unix { path }) = exchange.listener_address() {
                environ.set_item(&keys.server_name, path)?;
            }
            return Ok(());
        };
        let (name, port) = split_host(host);
        environ.set_item(&keys.server_name, latin1(py, name)?)?;
        let default: &[u8] = if head.https { b"443" } else { b"80" };
        environ.set_item(&keys.server_port, latin1(py, port.unwrap_or(default))?)
    }

    /// wsgi.input, and the length of a body that came in chunks: Gunicorn leaves CONTENT_LENGTH out, so Django sees no
    /// body. The body is buffered, so its length is known (RFC 3875 section 4.1.2).
    fn set_input(
        &self,
        environ: &Bound<'_, PyDict>,
        exchange: &mut Exchange,
        kept: &Kept,
    ) -> PyResult<Option<Py<Input>>> {
        let (py, keys) = (environ.py(), &self.keys);
        let length = exchange.body_length();
        let body = exchange.take_body();
        if exchange.head().framing == Framing::Chunked
            && let Some(length) = length
        {
            environ.set_item(&keys.content_length, length.to_string())?;
        }
        if length == Some(0) {
            return Ok(None);
        }
        let input = Bound::new(py, kept.input(body))?;
        environ.set_item(&keys.input, &input)?;
        Ok(Some(input.unbind()))
    }
}

impl Caches {
    /// A new environ with what is the same for all requests of the exchange's listener, and whether that is a unix
    /// socket.
    fn copy_template<'py>(
        &mut self,
        py: Python<'py>,
        environs: &EnvironTemplate,
        exchange: &Exchange,
    ) -> PyResult<(Bound<'py, PyDict>, bool)> {
        let number = exchange.listener() as usize;
        if let Some(Some(template)) = self.templates.get(number) {
            return Ok((template.environ.bind(py).copy()?, template.unix));
        }
        let environ = environs.base.bind(py).copy()?;
        let unix = match exchange.listener_address() {
            Some(ListenerAddress::Tcp { address }) => {
                environ.set_item(&environs.keys.server_name, address.ip().to_string())?;
                environ.set_item(&environs.keys.server_port, address.port().to_string())?;
                environ.set_item(&environs.keys.remote_port, "")?;
                false
            }
            Some(ListenerAddress::Unix { .. }) | None => true,
        };
        let copy = environ.copy()?;
        if number >= self.templates.len() {
            self.templates.resize_with(number + 1, || None);
        }
        self.templates[number] = Some(ListenerTemplate { environ: environ.unbind(), unix });
        Ok((copy, unix))
    }

    /// REMOTE_ADDR and REMOTE_PORT. Behind a proxy the address is always the same.
    fn set_remote(&mut self, environ: &Bound<'_, PyDict>, keys: &Keys, peer: SocketAddr) -> PyResult<()> {
        let py = environ.py();
        match &self.peer {
            Some((ip, text)) if *ip == peer.ip() => environ.set_item(&keys.remote_addr, text)?,
            Some(_) | None => {
                let text = latin1(py, peer.ip().to_string().as_bytes())?;
                environ.set_item(&keys.remote_addr, &text)?;
                self.peer = Some((peer.ip(), text.unbind()));
            }
        }
        let mut digits = [0; 5];
        environ.set_item(&keys.remote_port, latin1(py, decimal(peer.port(), &mut digits))?)
    }
}

impl Keys {
    fn new(py: Python<'_>) -> Keys {
        Keys {
            content_length: intern(py, "CONTENT_LENGTH"),
            early_hints: intern(py, "wsgi.early_hints"),
            input: intern(py, "wsgi.input"),
            path_info: intern(py, "PATH_INFO"),
            proxy_addr: intern(py, "PROXY_ADDR"),
            proxy_port: intern(py, "PROXY_PORT"),
            proxy_protocol: intern(py, "PROXY_PROTOCOL"),
            query_string: intern(py, "QUERY_STRING"),
            raw_uri: intern(py, "RAW_URI"),
            remote_addr: intern(py, "REMOTE_ADDR"),
            remote_port: intern(py, "REMOTE_PORT"),
            request_method: intern(py, "REQUEST_METHOD"),
            script_name: intern(py, "SCRIPT_NAME"),
            server_name: intern(py, "SERVER_NAME"),
            server_port: intern(py, "SERVER_PORT"),
            server_protocol: intern(py, "SERVER_PROTOCOL"),
            socket: intern(py, "gunicorn.socket"),
            url_scheme: intern(py, "wsgi.url_scheme"),
        }
    }
}

fn intern(py: Python<'_>, text: &str) -> Py<PyString> {
    PyString::intern(py, text).unbind()
}

/// Host's name and port. An IPv6 address keeps its brackets.
fn split_host(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memrchr(b':', host) {
        Some(at) if memchr::memchr(b']', &host[at..]).is_none() => {
            let port = &host[at + 1..];
            (&host[..at], Some(port).filter(|port| !port.is_empty()))
        }
        Some(_) | None => (host, None),
    }
}

fn decimal(mut number: u16, digits: &mut [u8; 5]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

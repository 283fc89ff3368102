//! The access record of a request.
//!
//! Owns what the log asks for by name: headers, variables of the environ. Only made where there is an access log.

use super::declared::Declared;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rgunicorn_http::{BodyFraming, Version};
use rgunicorn_log::{AccessLog, AccessRecord, Lookup};
use rgunicorn_reactor::Exchange;
use std::borrow::Cow;
use std::net::IpAddr;

struct Names<'a, 'py> {
    exchange: &'a Exchange,
    declared: &'a Declared,
    framing: Option<BodyFraming>,
    environ: Option<&'a Bound<'py, PyDict>>,
}

impl Lookup for Names<'_, '_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (head, bytes) = (self.exchange.head(), self.exchange.bytes());
        let named = |field: &&rgunicorn_http::Field| field.name.of(bytes).eq_ignore_ascii_case(name.as_bytes());
        head.fields.iter().rev().find(named).map(|field| Cow::Borrowed(field.value.of(bytes)))
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let named = self.declared.fields().filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).last();
        match (named, self.framing) {
            (Some((_, value)), _) => Some(Cow::Borrowed(value)),
            // The one that the engine adds.
            (None, Some(BodyFraming::Length(length))) if name == "content-length" => {
                Some(Cow::Owned(length.to_string().into_bytes()))
            }
            (None, _) => None,
        }
    }

    fn environ(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let (_, value) = self.environ?.iter().find(|(key, _)| {
            key.cast::<PyString>().is_ok_and(|key| key.to_string_lossy().eq_ignore_ascii_case(name))
        })?;
        let text = value.str().ok()?;
        Some(Cow::Owned(text.to_string_lossy().into_owned().into_bytes()))
    }
}

/// Writes the record. Before the exchange ends: it has the request's bytes.
pub(in crate::bridge) fn record(
    log: &AccessLog,
    exchange: &Exchange,
    declared: &Declared,
    framing: Option<BodyFraming>,
    environ: Option<&Bound<'_, PyDict>>,
) {
    // A process that the application has forked, and that came back, has no request.
    if rgunicorn_reactor::in_child() {
        return;
    }
    let (head, bytes) = (exchange.head(), exchange.bytes());
    let client = exchange.proxied().and_then(|header| header.addresses).map(|(client, _)| client);
    let address = client.or(exchange.peer()).map(|address| address.ip());
    let mut text = [0; 48];
    let protocol;
    let names = Names { exchange, declared, framing, environ };
    log.record(&AccessRecord {
        remote_addr: address.map_or(&[], |address| display(address, &mut text)),
        method: head.method_span.of(bytes),
        target: head.target.of(bytes),
        protocol: match head.version {
            Version::HTTP_11 => b"HTTP/1.1",
            Version::HTTP_10 => b"HTTP/1.0",
            Version { major, minor } => {
                protocol = format!("HTTP/{major}.{minor}");
                protocol.as_bytes()
            }
        },
        script_name: b"",
        status: exchange.status(),
        bytes: exchange.body_sent(),
        duration: exchange.waited() + exchange.started().elapsed(),
        queue: exchange.waited(),
        request_id: exchange.request_id().unwrap_or_default(),
        lookup: &names,
    });
}

/// The address's text, without allocating.
fn display(address: IpAddr, into: &mut [u8; 48]) -> &[u8] {
    use std::io::Write;
    let mut rest = &mut into[..];
    // The longest address has 45 characters.
    let _ = write!(rest, "{address}");
    let left = rest.len();
    &into[..48 - left]
}

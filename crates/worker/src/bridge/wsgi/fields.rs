//! Request fields as variables of the environ: `User-Agent` becomes `HTTP_USER_AGENT`.
//!
//! Owns the table of names that were seen and the values of the last request, by position. A browser sends the same
//! fields in the same order again and again: comparing bytes and using the same Python strings saves a third of the
//! instructions of a request with 25 fields (a table of values by hash costs more than it saves). Invariant: a value
//! that may be a secret is never kept: only those of fields that are known to be none are (see [`is_public`]).

use crate::bridge::direct::latin1;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rgunicorn_http::{Field, Known};
use std::collections::HashMap;
use std::sync::Arc;

/// Names kept at most, so that a client that invents names costs time only.
const MOST_NAMES: usize = 256;
/// Positions kept at most.
const MOST_PLACES: usize = 64;
/// Bytes of a value above which it is not kept.
const LONGEST_VALUE: usize = 256;

/// See the module.
#[derive(Default)]
pub(super) struct FieldCache {
    names: HashMap<Box<[u8]>, Name>,
    places: Vec<Place>,
}

struct Name {
    key: Arc<Py<PyString>>,
    public: bool,
}

/// What stood at one position of the last request.
struct Place {
    name: Vec<u8>,
    key: Arc<Py<PyString>>,
    public: bool,
    value: Vec<u8>,
    text: Option<Py<PyString>>,
}

impl FieldCache {
    /// Sets the variables of all fields.
    pub(super) fn set_all(&mut self, environ: &Bound<'_, PyDict>, fields: &[Field], bytes: &[u8]) -> PyResult<()> {
        let before = environ.len();
        for (position, field) in fields.iter().enumerate() {
            let (name, value) = (field.name.of(bytes), field.value.of(bytes));
            match self.places.get_mut(position) {
                Some(place) if place.name == name => place.set(environ, value)?,
                Some(_) | None => self.set_changed(environ, position, name, value)?,
            }
        }
        if environ.len() == before + fields.len() { Ok(()) } else { join_repeated(environ, fields, bytes) }
    }

    /// The position has another name than in the last request.
    fn set_changed(&mut self, environ: &Bound<'_, PyDict>, position: usize, name: &[u8], value: &[u8]) -> PyResult<()> {
        let py = environ.py();
        let (key, public) = match self.names.get(name) {
            Some(Name { key, public }) => (Arc::clone(key), *public),
            None => {
                let key = variable(name);
                let public = is_public(name);
                if self.names.len() >= MOST_NAMES {
                    return environ.set_item(latin1(py, &key)?, latin1(py, value)?);
                }
                // Names are tokens: ASCII. Interned, so that the application's literals are found by identity.
                let key = PyString::intern(py, &String::from_utf8_lossy(&key));
                let key = Arc::new(key.unbind());
                self.names.insert(name.into(), Name { key: Arc::clone(&key), public });
                (key, public)
            }
        };
        if position > self.places.len() || position >= MOST_PLACES {
            return environ.set_item(key.bind(py), latin1(py, value)?);
        }
        let mut place = Place { name: name.to_vec(), key, public, value: Vec::new(), text: None };
        place.set(environ, value)?;
        match self.places.get_mut(position) {
            Some(old) => *old = place,
            None => self.places.push(place),
        }
        Ok(())
    }
}

impl Place {
    fn set(&mut self, environ: &Bound<'_, PyDict>, value: &[u8]) -> PyResult<()> {
        let py = environ.py();
        if let Some(text) = &self.text
            && self.value == value
        {
            return environ.set_item(self.key.bind(py), text.bind(py));
        }
        let text = latin1(py, value)?;
        environ.set_item(self.key.bind(py), &text)?;
        if self.public && value.len() <= LONGEST_VALUE {
            self.value.clear();
            self.value.extend_from_slice(value);
            self.text = Some(text.unbind());
        }
        Ok(())
    }
}

/// The environ's name of a field.
fn variable(name: &[u8]) -> Vec<u8> {
    let shaped = name.iter().map(|&byte| if byte == b'-' { b'_' } else { byte.to_ascii_uppercase() });
    if name.eq_ignore_ascii_case(b"content-type") || name.eq_ignore_ascii_case(b"content-length") {
        shaped.collect()
    } else {
        b"HTTP_".iter().copied().chain(shaped).collect()
    }
}

/// Fields that came several times: their values in order, joined with commas (RFC 9110 section 5.2, and Gunicorn).
#[cold]
fn join_repeated(environ: &Bound<'_, PyDict>, fields: &[Field], bytes: &[u8]) -> PyResult<()> {
    let mut joined: HashMap<Vec<u8>, (usize, Vec<u8>)> = HashMap::new();
    for field in fields {
        let (times, value) = joined.entry(variable(field.name.of(bytes))).or_default();
        if *times > 0 {
            value.push(b',');
        }
        *times += 1;
        value.extend_from_slice(field.value.of(bytes));
    }
    for (key, (times, value)) in joined {
        if times > 1 {
            environ.set_item(latin1(environ.py(), &key)?, latin1(environ.py(), &value)?)?;
        }
    }
    Ok(())
}

/// Whether the values of a field say nothing that must not stay in memory: the fields that every browser and every
/// proxy sends. Cookie, Authorization, Referer, tokens under any name are not among them.
pub(in crate::bridge) fn is_public(name: &[u8]) -> bool {
    const PUBLIC: &[&[u8]] = &[
        b"accept",
        b"accept-charset",
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"content-length",
        b"content-type",
        b"dnt",
        b"forwarded",
        b"host",
        b"origin",
        b"pragma",
        b"priority",
        b"te",
        b"upgrade-insecure-requests",
        b"user-agent",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-requested-with",
        b"x-scheme",
    ];
    const PUBLIC_PREFIX: &[u8] = b"sec-";
    (name.len() > 4
        && name[..4].eq_ignore_ascii_case(PUBLIC_PREFIX)
        && !name.eq_ignore_ascii_case(b"sec-websocket-protocol"))
        || PUBLIC.iter().any(|public| public.eq_ignore_ascii_case(name))
}

/// The value of a `forwarder_headers` field that a trusted peer has set.
pub(in crate::bridge) fn forwarded<'b>(fields: &[Field], bytes: &'b [u8], name: &[u8]) -> Option<&'b [u8]> {
    fields
        .iter()
        .rev()
        .find(|field| field.known == Known::Forwarder && field.name.of(bytes).eq_ignore_ascii_case(name))
        .map(|field| field.value.of(bytes))
}

//! Events that the application sends: their keys and types, as the ASGI specification has them.
//!
//! Owns what is said about a wrong one. Knows no connection. Invariant: whoever sent it learns the event's type, the
//! key and what was expected.

use crate::bridge::wsgi::declared::kind;
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyDict, PyInt, PyString};

/// An event and its type.
pub(super) struct Event<'py> {
    pub(super) name: String,
    keys: Bound<'py, PyDict>,
}

impl<'py> Event<'py> {
    pub(super) fn of(event: &Bound<'py, PyAny>) -> PyResult<Event<'py>> {
        let Ok(keys) = event.cast::<PyDict>() else {
            return Err(PyTypeError::new_err(format!("send takes a dict, not {}", kind(event))));
        };
        let py = event.py();
        let Some(name) = keys.get_item(pyo3::intern!(py, "type"))? else {
            return Err(PyKeyError::new_err("an event that is sent needs the key 'type'"));
        };
        let Ok(name) = name.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!("an event's type is a str, not {}", kind(&name))));
        };
        Ok(Event { name: name.to_str()?.to_owned(), keys: keys.clone() })
    }

    /// A key's value; None counts as missing.
    pub(super) fn get(&self, key: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.keys.get_item(key)?.filter(|value| !value.is_none()))
    }

    pub(super) fn wrong(&self, key: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyErr {
        PyTypeError::new_err(format!("{}: {key} must be {expected}, not {}", self.name, kind(value)))
    }

    /// `status`: a number of three digits.
    pub(super) fn status(&self, py: Python<'py>) -> PyResult<u16> {
        let Some(value) = self.get(pyo3::intern!(py, "status"))? else {
            return Err(PyKeyError::new_err(format!("{}: the key 'status' is missing", self.name)));
        };
        // http.HTTPStatus is an int, too.
        if !value.is_instance_of::<PyInt>() {
            return Err(self.wrong("status", "an int", &value));
        }
        match value.extract::<u16>() {
            Ok(status @ 200..=999) => Ok(status),
            Ok(_) | Err(_) => {
                let text = value.str().map(|text| text.to_string()).unwrap_or_default();
                Err(PyValueError::new_err(format!("{}: {text} is no status of a final response", self.name)))
            }
        }
    }

    /// A switch such as `more_body`.
    pub(super) fn flag(&self, key: &Bound<'py, PyString>) -> PyResult<bool> {
        match self.keys.get_item(key)? {
            None => Ok(false),
            Some(value) => match value.cast_exact::<PyBool>() {
                Ok(value) => Ok(value.is_true()),
                Err(_) => value.is_truthy(),
            },
        }
    }

    pub(super) fn text(&self, key: &Bound<'py, PyString>) -> PyResult<Option<String>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        match value.cast::<PyString>() {
            Ok(text) => Ok(Some(text.to_str()?.to_owned())),
            Err(_) => Err(self.wrong(&key.to_string_lossy(), "a str", &value)),
        }
    }

    /// Bytes; a bytearray or a memoryview is copied.
    pub(super) fn bytes(&self, key: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        if let Ok(bytes) = value.cast::<PyBytes>() {
            return Ok(Some(bytes.clone()));
        }
        let py = value.py();
        if let Ok(array) = value.cast::<PyByteArray>() {
            return Ok(Some(PyBytes::new(py, &array.to_vec())));
        }
        if kind(&value) == "memoryview" {
            let copy = value.call_method0("tobytes")?;
            return Ok(Some(copy.cast_into::<PyBytes>()?));
        }
        Err(self.wrong(&key.to_string_lossy(), "bytes", &value))
    }

    pub(super) fn number(&self, key: &Bound<'py, PyString>) -> PyResult<Option<i64>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        if !value.is_instance_of::<PyInt>() {
            return Err(self.wrong(&key.to_string_lossy(), "an int", &value));
        }
        value.extract().map(Some)
    }
}

/// Bytes that live on without the interpreter lock.
pub(super) fn backed(bytes: Bound<'_, PyBytes>) -> PyBackedBytes {
    PyBackedBytes::from(bytes)
}

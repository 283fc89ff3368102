//! What the application has declared by `start_response`: status and fields, copied out of Python's objects.
//!
//! Owns the types that PEP 3333 demands of them (native strings that hold latin-1, a list of pairs); what they may
//! contain is judged by the engine when the head is written. Invariant: the buffers are reused, so a declaration
//! allocates nothing once a lane is warm.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

/// A response's head as declared.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Declared {
    declared: bool,
    /// The status, then names and values one behind the other.
    bytes: Vec<u8>,
    status_end: usize,
    /// Per field: end of its name, end of its value in `bytes`.
    ends: Vec<(usize, usize)>,
}

/// Fields for which no vector is allocated.
const FEW: usize = 24;

impl Declared {
    /// Nothing is declared.
    pub(in crate::bridge) fn clear(&mut self) {
        self.declared = false;
        self.bytes.clear();
        self.status_end = 0;
        self.ends.clear();
    }

    /// Whether `start_response` was called.
    pub(in crate::bridge) fn is_declared(&self) -> bool {
        self.declared
    }

    /// Takes the place of what was declared before.
    ///
    /// # Errors
    /// TypeError or ValueError for what is not as PEP 3333 demands; then nothing is declared.
    pub(in crate::bridge) fn declare(&mut self, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<()> {
        self.clear();
        let Ok(status) = status.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "start_response: the status must be a str, not {}",
                kind(status)
            )));
        };
        push_native(&mut self.bytes, status, || "start_response: the status".to_owned())?;
        self.status_end = self.bytes.len();
        self.take_fields(headers, "start_response")?;
        self.declared = true;
        Ok(())
    }

    /// As [`Declared::declare`], for ASGI: the status is a number, names and values are byte strings.
    ///
    /// # Errors
    /// TypeError for what is not as the ASGI specification demands; `event` is the message's type.
    pub(in crate::bridge) fn declare_bytes(
        &mut self,
        status: u16,
        headers: Option<&Bound<'_, PyAny>>,
        event: &str,
    ) -> PyResult<()> {
        self.clear();
        self.bytes.extend_from_slice(&[
            b'0' + (status / 100 % 10) as u8,
            b'0' + (status / 10 % 10) as u8,
            b'0' + (status % 10) as u8,
            b' ',
        ]);
        self.bytes.extend_from_slice(rgunicorn_http::phrase(status).as_bytes());
        self.status_end = self.bytes.len();
        if let Some(headers) = headers {
            self.take_byte_fields(headers, event)?;
        }
        self.declared = true;
        Ok(())
    }

    fn take_byte_fields(&mut self, headers: &Bound<'_, PyAny>, event: &str) -> PyResult<()> {
        if let Ok(list) = headers.cast_exact::<PyList>() {
            for field in list {
                self.push_byte_field(&field, event)?;
            }
            return Ok(());
        }
        let malformed = || {
            PyTypeError::new_err(format!(
                "{event}: headers must be an iterable of pairs of bytes, not {}",
                kind(headers)
            ))
        };
        if headers.is_instance_of::<PyString>() || headers.is_instance_of::<PyBytes>() {
            return Err(malformed());
        }
        for field in headers.try_iter().map_err(|_| malformed())? {
            self.push_byte_field(&field?, event)?;
        }
        Ok(())
    }

    /// Names go out in lower case, as the specification demands them; an application that forgets it is forgiven.
    fn push_byte_field(&mut self, field: &Bound<'_, PyAny>, event: &str) -> PyResult<()> {
        let malformed =
            || PyTypeError::new_err(format!("{event}: a header must be a pair of bytes, not {}", shown(field)));
        let (name, value) = if let Ok(pair) = field.cast_exact::<PyTuple>() {
            if pair.len() != 2 {
                return Err(malformed());
            }
            (pair.get_item(0)?, pair.get_item(1)?)
        } else {
            let mut items = field.try_iter().map_err(|_| malformed())?;
            match (items.next(), items.next(), items.next()) {
                (Some(name), Some(value), None) => (name?, value?),
                _ => return Err(malformed()),
            }
        };
        let (Ok(name), Ok(value)) = (name.cast::<PyBytes>(), value.cast::<PyBytes>()) else { return Err(malformed()) };
        self.bytes.extend(name.as_bytes().iter().map(u8::to_ascii_lowercase));
        let name_end = self.bytes.len();
        self.bytes.extend_from_slice(value.as_bytes());
        self.ends.push((name_end, self.bytes.len()));
        Ok(())
    }

    /// Fields without a status: trailers, or those of a WebSocket that is accepted.
    ///
    /// # Errors
    /// As [`Declared::declare_bytes`].
    pub(in crate::bridge) fn add_byte_fields(&mut self, headers: &Bound<'_, PyAny>, event: &str) -> PyResult<()> {
        self.take_byte_fields(headers, event)
    }

    /// One field more.
    pub(in crate::bridge) fn add_field(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let name_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((name_end, self.bytes.len()));
    }

    /// Fields without a status, for `wsgi.early_hints`.
    ///
    /// # Errors
    /// As [`Declared::declare`].
    pub(in crate::bridge) fn hints(headers: &Bound<'_, PyAny>) -> PyResult<Declared> {
        let mut declared = Declared::default();
        declared.take_fields(headers, "wsgi.early_hints")?;
        Ok(declared)
    }

    /// PEP 3333 demands a list of tuples of its applications. Like Gunicorn we take any iterable of pairs.
    fn take_fields(&mut self, headers: &Bound<'_, PyAny>, call: &str) -> PyResult<()> {
        if let Ok(list) = headers.cast::<PyList>() {
            for field in list {
                self.take_field(&field, call)?;
            }
            return Ok(());
        }
        let malformed =
            || PyTypeError::new_err(format!("{call}: the headers must be a list of tuples, not {}", kind(headers)));
        if headers.is_instance_of::<PyString>() {
            return Err(malformed());
        }
        for field in headers.try_iter().map_err(|_| malformed())? {
            self.take_field(&field?, call)?;
        }
        Ok(())
    }

    fn take_field(&mut self, field: &Bound<'_, PyAny>, call: &str) -> PyResult<()> {
        if let Ok(pair) = field.cast::<PyTuple>() {
            if pair.len() == 2 {
                return self.push_field(&*pair.get_borrowed_item(0)?, &*pair.get_borrowed_item(1)?, call);
            }
        } else if let Ok(pair) = field.cast::<PyList>()
            && pair.len() == 2
        {
            return self.push_field(&pair.get_item(0)?, &pair.get_item(1)?, call);
        }
        Err(PyTypeError::new_err(format!("{call}: a header must be a tuple (name, value), not {}", shown(field))))
    }

    fn push_field(&mut self, name: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>, call: &str) -> PyResult<()> {
        let Ok(name) = name.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!("{call}: a header's name must be a str, not {}", shown(name))));
        };
        let Ok(value) = value.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "{call}: the value of header {} must be a str, not {}",
                shown(name),
                kind(value)
            )));
        };
        push_native(&mut self.bytes, name, || format!("{call}: the header's name {}", shown(name)))?;
        let name_end = self.bytes.len();
        push_native(&mut self.bytes, value, || format!("{call}: the value of header {}", shown(name)))?;
        self.ends.push((name_end, self.bytes.len()));
        Ok(())
    }

    /// Calls `act` with status and fields.
    pub(in crate::bridge) fn with<T>(&self, act: impl FnOnce(&[u8], &[(&[u8], &[u8])]) -> T) -> T {
        let mut few: [(&[u8], &[u8]); FEW] = [(b"", b""); FEW];
        let status = &self.bytes[..self.status_end];
        if self.ends.len() <= FEW {
            for (place, field) in few.iter_mut().zip(self.fields()) {
                *place = field;
            }
            act(status, &few[..self.ends.len()])
        } else {
            let fields: Vec<_> = self.fields().collect();
            act(status, &fields)
        }
    }

    /// The fields in their order.
    pub(in crate::bridge) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.ends.iter().scan(self.status_end, |start, &(name_end, value_end)| {
            let name = &self.bytes[*start..name_end];
            *start = value_end;
            Some((name, &self.bytes[name_end..value_end]))
        })
    }
}

/// Appends the bytes that a native string stands for.
fn push_native(bytes: &mut Vec<u8>, text: &Bound<'_, PyString>, what: impl Fn() -> String) -> PyResult<()> {
    let refused = || PyValueError::new_err(format!("{} has characters beyond latin-1", what()));
    let text = text.to_str().map_err(|_| refused())?;
    if text.is_ascii() {
        bytes.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    for character in text.chars() {
        bytes.push(u8::try_from(character).map_err(|_| refused())?);
    }
    Ok(())
}

/// The name of an object's type.
pub(in crate::bridge) fn kind(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "an object".to_owned(), |name| name.to_string())
}

/// The object as Python shows it, cut where it is long.
pub(in crate::bridge) fn shown(object: &Bound<'_, PyAny>) -> String {
    let Ok(repr) = object.repr() else { return kind(object) };
    let text = repr.to_string_lossy();
    match text.char_indices().nth(80) {
        None => text.into_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

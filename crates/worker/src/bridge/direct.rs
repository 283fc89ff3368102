//! Direct calls into CPython, where pyo3's safe way costs more. All unsafe code of the bridges is here.
//!
//! Each function says what the safe way would be and why it is not taken. Invariant: nothing here returns without
//! having turned CPython's error indicator into a [`PyErr`].

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// A string of the bytes, each one a character (PEP 3333: a native string holds bytes as latin-1). The safe way is a
/// Rust `String` first, which is UTF-8: a copy and a check more per value.
pub(crate) fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let length = bytes.len().try_into().map_err(|_| PyOverflowError::new_err("a string is too long"))?;
    // SAFETY: pointer and length are those of a slice; a null error handler means "strict". The result is a new
    // reference to a str, or null with an exception set.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), length, std::ptr::null());
        Bound::from_owned_ptr_or_err(py, text).map(|text| text.cast_into_unchecked())
    }
}

/// `callable(first, second)`. Without a version-specific ABI, pyo3's `call1` makes a tuple for the arguments;
/// CPython's variadic call passes them on its stack (a vectorcall, PEP 590).
pub(crate) fn call2<'py>(
    callable: &Bound<'py, PyAny>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: all three are live objects and null ends the arguments. The result is a new reference, or null with an
    // exception set.
    unsafe {
        let result = ffi::PyObject_CallFunctionObjArgs(
            callable.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            std::ptr::null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// References to an object. 1: only the caller's. pyo3 has deprecated its own way to ask.
pub(crate) fn references<T>(object: &Py<T>, _py: Python<'_>) -> isize {
    // SAFETY: the object is alive and the interpreter lock is held, so nobody changes the count meanwhile.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// A duplicate of a file descriptor that a Python object has named.
///
/// # Errors
/// Those of fcntl(2), such as EBADF for a number that is no open file.
pub(crate) fn duplicate(fd: RawFd) -> std::io::Result<OwnedFd> {
    if fd < 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the borrow ends with this call, which only passes the number to fcntl(2); a number that is closed
    // meanwhile gives EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}

//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling").
//!
//! Owns the question whether a file-like object is a file whose bytes the kernel can send itself. Invariant: what is
//! sent by sendfile(2) is what iteration would have given: an object that translates what it reads (text, gzip) is
//! iterated, whatever its `fileno` says.

use crate::bridge::direct::duplicate;
use pyo3::prelude::*;
use pyo3::types::PyType;
use std::fs::File;
use std::io::Seek;
use std::os::fd::OwnedFd;

/// The type that the application finds in its environ.
#[pyclass(frozen, subclass, module = "rgunicorn")]
pub(super) struct FileWrapper {
    #[pyo3(get)]
    filelike: Py<PyAny>,
    #[pyo3(get)]
    blksize: Py<PyAny>,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize=None))]
    fn new(py: Python<'_>, filelike: Py<PyAny>, blksize: Option<Py<PyAny>>) -> PyResult<FileWrapper> {
        let blksize = match blksize {
            Some(blksize) => blksize,
            None => 8192_i32.into_pyobject(py)?.into_any().unbind(),
        };
        Ok(FileWrapper { filelike, blksize })
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let read = pyo3::intern!(py, "read");
        let block = self.filelike.bind(py).call_method1(read, (&self.blksize,))?;
        Ok(if block.is_truthy()? { Some(block) } else { None })
    }

    /// Closes the file, if it can be closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.filelike.bind(py).getattr_opt(pyo3::intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        }
    }
}

/// What is to be sent of a file.
pub(super) struct FileRange {
    pub(super) file: OwnedFd,
    /// Bytes from its beginning.
    pub(super) offset: u64,
    /// Bytes to its end.
    pub(super) length: u64,
}

/// Python's own file types: those whose descriptor has the bytes that reading gives.
pub(super) struct FileTypes {
    base: Py<PyType>,
    raw: Py<PyType>,
    buffered: [Py<PyType>; 2],
}

impl FileTypes {
    pub(super) fn new(py: Python<'_>) -> PyResult<FileTypes> {
        let io = py.import("io")?;
        let named = |name: &str| -> PyResult<Py<PyType>> { Ok(io.getattr(name)?.cast_into::<PyType>()?.unbind()) };
        Ok(FileTypes {
            base: named("IOBase")?,
            raw: named("FileIO")?,
            buffered: [named("BufferedReader")?, named("BufferedRandom")?],
        })
    }

    /// The file behind the wrapper, from where the application has left it. None: it must be iterated.
    pub(super) fn range(&self, wrapper: &Bound<'_, FileWrapper>) -> Option<FileRange> {
        let py = wrapper.py();
        let filelike = wrapper.get().filelike.bind(py);
        if !self.is_plain(filelike) {
            return None;
        }
        // What a file has in its write buffer is not in the kernel yet.
        if let Some(flush) = filelike.getattr_opt(pyo3::intern!(py, "flush")).ok()? {
            flush.call0().ok()?;
        }
        let fd = filelike.call_method0(pyo3::intern!(py, "fileno")).ok()?.extract().ok()?;
        let mut file = File::from(duplicate(fd).ok()?);
        let known = file.metadata().ok()?;
        if !known.is_file() {
            return None;
        }
        // Not where the descriptor stands: a buffered reader has read ahead.
        let offset = match filelike.getattr_opt(pyo3::intern!(py, "tell")).ok()? {
            Some(tell) => tell.call0().ok()?.extract().ok()?,
            None => file.stream_position().ok()?,
        };
        Some(FileRange { file: file.into(), offset, length: known.len().saturating_sub(offset) })
    }

    /// Whether reading the object gives the bytes of its descriptor. Of the types below io.IOBase only Python's own are
    /// known to (gzip's and bz2's have a `fileno` too); any other object answers for its `fileno` itself, as in PEP 3333.
    fn is_plain(&self, filelike: &Bound<'_, PyAny>) -> bool {
        let py = filelike.py();
        if !filelike.is_instance(self.base.bind(py)).unwrap_or(true) {
            return filelike.hasattr(pyo3::intern!(py, "fileno")).unwrap_or(false);
        }
        let kind = filelike.get_type();
        if kind.is(&self.raw) {
            return true;
        }
        self.buffered.iter().any(|buffered| kind.is(buffered))
            && filelike.getattr(pyo3::intern!(py, "raw")).is_ok_and(|raw| raw.get_type().is(&self.raw))
    }
}

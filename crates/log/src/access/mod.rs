//! The access log: one line, or one journal record, per request.
//!
//! Owns its destination and its format. Does not know where a request came from; the worker fills an [`AccessRecord`]
//! with borrowed bytes. Invariant: whatever bytes a client sends, its record is one line and its quotes are escaped.
//! A record allocates nothing: the buffer is the thread's, the time is formatted once per second.

pub(crate) mod atoms;
pub(crate) mod format;

use crate::drain::{ErrorLog, Losses, Sink, push_json_time, push_member_key};
use crate::escape::{push_decimal, push_json};
use crate::event;
use crate::journal::{Weight, push_field};
use format::AccessFormat;
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// One request and its response, as far as it is known: a request that was rejected early has empty fields.
#[derive(Clone, Copy)]
pub struct AccessRecord<'a> {
    /// The client's address without port, after trust was decided; empty on a unix socket.
    pub remote_addr: &'a [u8],
    /// As received.
    pub method: &'a [u8],
    /// The request target as received, in origin or absolute form.
    pub target: &'a [u8],
    /// `HTTP/1.1`.
    pub protocol: &'a [u8],
    /// What `%(U)s` leaves out at the beginning of the path; usually empty.
    pub script_name: &'a [u8],
    /// The status code.
    pub status: u16,
    /// Bytes of the response's body that were sent.
    pub bytes: u64,
    /// From the first byte of the request's head to the last byte of the response.
    pub duration: Duration,
    /// What of it the complete request waited for a lane.
    pub queue: Duration,
    /// The request's id, empty where it has none.
    pub request_id: &'a [u8],
    /// Headers and environ.
    pub lookup: &'a dyn Lookup,
}

/// Headers and environ by name, for the formats that want them. Names come in lower case.
pub trait Lookup {
    /// The value of a request header, the last one where it came several times.
    fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
    /// The value of a response header, the last one where it was sent several times.
    fn response_header(&self, name: &str) -> Option<Cow<'_, [u8]>>;
    /// The value of a WSGI environ variable whose name, in lower case, this is. It is asked for only where
    /// [`AccessLog::needs_environ`] says so.
    fn environ(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// For records of which no header is known.
#[derive(Debug, Clone, Copy)]
pub struct NoLookup;

impl Lookup for NoLookup {
    fn request_header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn response_header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn environ(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// The access log of a process.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessFormat,
    json: bool,
    sink: Sink,
    losses: Losses,
    errors: Arc<ErrorLog>,
}

thread_local! {
    static BUFFERS: Cell<Option<Box<Buffers>>> = const { Cell::new(None) };
}

#[derive(Default)]
struct Buffers {
    line: Vec<u8>,
    record: Vec<u8>,
}

/// Bytes of a buffer above which it is given back.
const KEPT: usize = 64 << 10;

impl AccessLog {
    pub(crate) fn new(format: AccessFormat, json: bool, sink: Sink, errors: Arc<ErrorLog>) -> Self {
        Self { format, json, sink, losses: Losses::default(), errors }
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.losses.total()
    }

    pub(crate) fn report_losses(&self) {
        self.losses.report(("access record", "access records"), &self.sink, &self.errors);
    }

    /// Whether records ask for variables of the WSGI environ: only then must [`Lookup::environ`] know them.
    pub fn needs_environ(&self) -> bool {
        !self.json && self.format.needs_environ()
    }

    /// Whether records ask for response headers.
    pub fn needs_response_headers(&self) -> bool {
        !self.json && self.format.needs_response_headers()
    }

    /// Writes the record of a request. It never waits for a reader; a record that is not taken is counted.
    pub fn record(&self, request: &AccessRecord<'_>) {
        let mut buffers = BUFFERS.try_with(Cell::take).ok().flatten().unwrap_or_default();
        let Buffers { line, record } = &mut *buffers;
        line.clear();
        if self.json {
            self.push_json_record(line, request);
        } else {
            self.format.push(line, request, self.errors.origin().pid);
        }
        let taken = match &self.sink {
            Sink::Stream(_) => {
                line.push(b'\n');
                self.sink.deliver(line, Weight::Access)
            }
            Sink::Journal(_) => {
                record.clear();
                self.push_journal_record(record, line, request);
                self.sink.deliver(record, Weight::Access)
            }
        };
        match taken {
            Ok(()) if self.losses.is_due() => self.report_losses(),
            Ok(()) => {}
            Err(_) => self.losses.count(),
        }
        if buffers.line.capacity().max(buffers.record.capacity()) <= KEPT {
            // A thread that ends keeps nothing.
            let _ = BUFFERS.try_with(|cell| cell.set(Some(buffers)));
        }
    }

    fn push_journal_record(&self, record: &mut Vec<u8>, line: &[u8], request: &AccessRecord<'_>) {
        push_field(record, "MESSAGE", line);
        record.extend_from_slice(b"PRIORITY=6\nMESSAGE_ID=");
        record.extend_from_slice(event::ACCESS.uuid.as_bytes());
        record.push(b'\n');
        record.extend_from_slice(&self.errors.origin().fields);
        for (name, value) in [
            ("RGUNICORN_REMOTE_ADDR", request.remote_addr),
            ("RGUNICORN_REQUEST_METHOD", request.method),
            ("RGUNICORN_PATH", atoms::path_and_query(request.target).0),
            ("RGUNICORN_REQUEST_ID", request.request_id),
        ] {
            if !value.is_empty() {
                push_field(record, name, value);
            }
        }
        for (name, number) in [
            (&b"RGUNICORN_STATUS="[..], u64::from(request.status)),
            (b"RGUNICORN_BYTES=", request.bytes),
            (b"RGUNICORN_DURATION_USEC=", atoms::microseconds(request.duration)),
            (b"RGUNICORN_QUEUE_USEC=", atoms::microseconds(request.queue)),
        ] {
            record.extend_from_slice(name);
            push_decimal(record, number);
            record.push(b'\n');
        }
    }

    fn push_json_record(&self, line: &mut Vec<u8>, request: &AccessRecord<'_>) {
        let (path, query) = atoms::path_and_query(request.target);
        push_json_time(line);
        line.extend_from_slice(b",\"level\":\"INFO\"");
        line.extend_from_slice(&self.errors.origin().members);
        for (key, value) in [
            ("remote_addr", request.remote_addr),
            ("request_method", request.method),
            ("path", path),
            ("query", query),
            ("protocol", request.protocol),
            ("request_id", request.request_id),
        ] {
            if !value.is_empty() {
                push_member_key(line, key);
                push_json(line, value);
            }
        }
        for (key, name) in [("referer", "referer"), ("user_agent", "user-agent")] {
            if let Some(value) = request.lookup.request_header(name) {
                push_member_key(line, key);
                push_json(line, &value);
            }
        }
        if let Some(user) = atoms::user(request) {
            push_member_key(line, "user");
            push_json(line, &user);
        }
        for (key, number) in [
            ("status", u64::from(request.status)),
            ("bytes", request.bytes),
            ("duration_usec", atoms::microseconds(request.duration)),
            ("queue_usec", atoms::microseconds(request.queue)),
        ] {
            push_member_key(line, key);
            push_decimal(line, number);
        }
        line.push(b'}');
    }
}

//! From a slog record to one line or one journal record.
//!
//! Owns the error log's destination, its level and the count of what was dropped. Does not know how a destination takes
//! bytes. Invariant: a record is delivered in one piece, or counted.

use crate::event;
use crate::journal::{Journal, Weight, push_field, push_keyed_field};
use crate::stream::Stream;
use crate::{Process, clock, escape, level};
use nix::errno::Errno;
use slog::{Drain, KV, Key, Level, OwnedKVList, Record, RecordLocation, Serializer};
use std::cell::Cell;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// The slog key whose value, a Python traceback, belongs to the message.
const TRACEBACK: &str = "traceback";

/// Where records go.
#[derive(Debug)]
pub(crate) enum Sink {
    Journal(Arc<Journal>),
    Stream(Arc<Stream>),
}

impl Sink {
    pub(crate) fn deliver(&self, record: &[u8], weight: Weight) -> Result<(), Errno> {
        match self {
            Self::Journal(journal) => journal.send(record, weight),
            Self::Stream(stream) => stream.write(record),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Journal(_) => "the journal".to_owned(),
            Self::Stream(stream) => stream.name(),
        }
    }
}

/// How lines are written. In the journal it is the form of `MESSAGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// What was dropped by one destination.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    unreported: AtomicU64,
    total: AtomicU64,
    /// The second of the last report: at most one is written per second.
    reported: AtomicI64,
}

impl Losses {
    pub(crate) fn count(&self) {
        self.unreported.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Whether a report is due after a record was taken.
    pub(crate) fn is_due(&self) -> bool {
        self.unreported.load(Ordering::Relaxed) != 0 && self.reported.load(Ordering::Relaxed) != clock::second()
    }

    /// Reports what was lost at `sink`, in the error log. `what`: what one of them is called, and several.
    pub(crate) fn report(&self, what: (&str, &str), sink: &Sink, errors: &ErrorLog) {
        let lost = self.unreported.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return;
        }
        self.reported.store(clock::second(), Ordering::Relaxed);
        let (what, were, them) = if lost == 1 { (what.0, "was", "it") } else { (what.1, "were", "them") };
        let message = format_args!("{lost} {what} {were} dropped: {} did not take {them}", sink.name());
        let taken = errors.emit(Level::Warning, &message, None, |fields| {
            fields.emit_str(event::KEY, event::RECORDS_DROPPED.uuid)?;
            fields.emit_u64("dropped", lost)
        });
        if taken.is_err() {
            self.unreported.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// The error log.
#[derive(Debug)]
pub(crate) struct ErrorLog {
    sink: Sink,
    form: Form,
    coloured: bool,
    level: AtomicUsize,
    losses: Losses,
    origin: Origin,
}

/// What every record says of the process that wrote it, encoded once.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) pid: u32,
    /// Journal fields, each with its line break.
    pub(crate) fields: Vec<u8>,
    /// JSON members, each with a comma before it.
    pub(crate) members: Vec<u8>,
}

impl Origin {
    pub(crate) fn new(process: Process, instance: &str) -> Self {
        let pid = std::process::id();
        let (mut fields, mut members) = (Vec::new(), Vec::new());
        push_field(&mut fields, "SYSLOG_IDENTIFIER", b"rgunicorn");
        members.extend_from_slice(format!(",\"pid\":{pid}").as_bytes());
        if !instance.is_empty() {
            push_keyed_field(&mut fields, "instance", instance.as_bytes());
            members.extend_from_slice(b",\"instance\":");
            escape::push_json(&mut members, instance.as_bytes());
        }
        let mut number = |key: &str, number: u32| {
            push_keyed_field(&mut fields, key, number.to_string().as_bytes());
            if key != "worker_pid" {
                members.extend_from_slice(format!(",\"{key}\":{number}").as_bytes());
            }
        };
        match process {
            Process::Arbiter => {}
            Process::Mold { generation } => number("generation", generation),
            Process::Worker { generation, slot } => {
                number("generation", generation);
                number("slot", slot);
                number("worker_pid", pid);
            }
        }
        Self { pid, fields, members }
    }
}

impl ErrorLog {
    pub(crate) fn new(sink: Sink, form: Form, level: Level, process: Process, instance: &str) -> Self {
        let coloured = match (&sink, form) {
            (Sink::Stream(stream), Form::Text) => stream.is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            (Sink::Stream(_) | Sink::Journal(_), Form::Text | Form::Json) => false,
        };
        Self {
            sink,
            form,
            coloured,
            level: AtomicUsize::new(level.as_usize()),
            losses: Losses::default(),
            origin: Origin::new(process, instance),
        }
    }

    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn set_level(&self, level: Level) {
        self.level.store(level.as_usize(), Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.losses.total()
    }

    pub(crate) fn report_losses(&self) {
        self.losses.report(("record", "records"), &self.sink, self);
    }

    fn is_enabled(&self, level: Level) -> bool {
        level.as_usize() <= self.level.load(Ordering::Relaxed)
    }

    fn record(&self, record: &Record<'_>, values: &OwnedKVList) {
        let taken = self.emit(record.level(), record.msg(), Some(record.location()), |fields| {
            // slog keeps the last pair first; the writer turns them round.
            record.kv().serialize(record, fields)?;
            values.serialize(record, fields)
        });
        match taken {
            Ok(()) if self.losses.is_due() => self.report_losses(),
            Ok(()) => {}
            Err(_) => self.losses.count(),
        }
    }

    fn emit(
        &self,
        level: Level,
        message: &fmt::Arguments<'_>,
        location: Option<&RecordLocation>,
        fill: impl FnOnce(&mut FieldWriter<'_>) -> slog::Result,
    ) -> Result<(), Errno> {
        // Taken out while it is used: a Display that logs gets a scratch of its own, and so does a thread that ends.
        let mut scratch = SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default();
        scratch.clear();
        // A Display that fails leaves its record shorter: what there is of it is still worth having.
        let _ = scratch.message.write_fmt(*message);
        let encoding = match (&self.sink, self.form) {
            (Sink::Journal(_), Form::Text | Form::Json) => Encoding::Journal,
            (Sink::Stream(_), Form::Text) => Encoding::Text { coloured: self.coloured },
            (Sink::Stream(_), Form::Json) => Encoding::Json,
        };
        let _ = fill(&mut FieldWriter { scratch: &mut scratch, encoding });
        match encoding {
            Encoding::Text { coloured } => self.lay_out_text(&mut scratch, level, coloured),
            Encoding::Json => self.lay_out_json(&mut scratch, level),
            Encoding::Journal => self.lay_out_journal(&mut scratch, level, location),
        }
        let taken = self.sink.deliver(&scratch.line, Weight::Event);
        if scratch.line.capacity() <= KEPT {
            let _ = SCRATCH.try_with(|cell| cell.set(Some(scratch)));
        }
        taken
    }

    /// `[2026-11-22 20:33:01 +0000] [pid] [INFO] message key=value`: what Gunicorn writes, and the keys.
    fn lay_out_text(&self, scratch: &mut Scratch, level: Level, coloured: bool) {
        let line = &mut scratch.line;
        line.push(b'[');
        clock::with_stamp(|stamp| line.extend_from_slice(stamp.human.as_bytes()));
        line.extend_from_slice(b"] [");
        escape::push_decimal(line, u64::from(self.origin.pid));
        line.extend_from_slice(b"] [");
        if coloured {
            line.extend_from_slice(colour(level));
        }
        line.extend_from_slice(level::name(level).as_bytes());
        if coloured {
            line.extend_from_slice(RESET);
        }
        line.extend_from_slice(b"] ");
        escape::push_lines(line, &scratch.message);
        for field in scratch.marks.in_order() {
            line.extend_from_slice(&scratch.fields[field]);
        }
        if !scratch.traceback.is_empty() {
            line.extend_from_slice(b"\n  ");
            escape::push_lines(line, &scratch.traceback);
        }
        line.push(b'\n');
    }

    fn lay_out_json(&self, scratch: &mut Scratch, level: Level) {
        let line = &mut scratch.line;
        push_json_time(line);
        line.extend_from_slice(b",\"level\":\"");
        line.extend_from_slice(level::name(level).as_bytes());
        line.push(b'"');
        line.extend_from_slice(&self.origin.members);
        line.extend_from_slice(b",\"message\":");
        escape::push_json(line, scratch.message.as_bytes());
        for field in scratch.marks.in_order() {
            line.extend_from_slice(&scratch.fields[field]);
        }
        for (key, value) in [("message_id", &scratch.id), (TRACEBACK, &scratch.traceback)] {
            if !value.is_empty() {
                push_member_key(line, key);
                escape::push_json(line, value.as_bytes());
            }
        }
        line.extend_from_slice(b"}\n");
    }

    fn lay_out_journal(&self, scratch: &mut Scratch, level: Level, location: Option<&RecordLocation>) {
        let line = &mut scratch.line;
        if !scratch.traceback.is_empty() {
            scratch.message.push('\n');
            scratch.message.push_str(scratch.traceback.trim_end());
        }
        push_field(line, "MESSAGE", scratch.message.as_bytes());
        push_field(line, "PRIORITY", &[b'0' + level::priority(level)]);
        line.extend_from_slice(&self.origin.fields);
        if !scratch.id.is_empty() {
            push_field(line, "MESSAGE_ID", scratch.id.as_bytes());
        }
        if let Some(location) = location {
            push_field(line, "CODE_FILE", location.file.as_bytes());
            push_field(line, "CODE_FUNC", location.module.as_bytes());
            line.extend_from_slice(b"CODE_LINE=");
            escape::push_decimal(line, u64::from(location.line));
            line.push(b'\n');
        }
        line.extend_from_slice(&scratch.fields);
    }
}

/// Opens a JSON object with the time as its first member.
pub(crate) fn push_json_time(line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"time\":\"");
    clock::with_stamp(|stamp| {
        line.extend_from_slice(stamp.utc.as_bytes());
        let fraction = [100, 10, 1].map(|unit| b'0' + (stamp.millisecond / unit % 10) as u8);
        line.push(b'.');
        line.extend_from_slice(&fraction);
    });
    line.extend_from_slice(b"Z\"");
}

/// A comma, the key and a colon.
pub(crate) fn push_member_key(line: &mut Vec<u8>, key: &str) {
    line.push(b',');
    escape::push_json(line, key.as_bytes());
    line.push(b':');
}

const RESET: &[u8] = b"\x1b[0m";
const DIM: &[u8] = b"\x1b[2m";

fn colour(level: Level) -> &'static [u8] {
    match level {
        Level::Critical | Level::Error => b"\x1b[31m",
        Level::Warning => b"\x1b[33m",
        Level::Info => b"\x1b[32m",
        Level::Debug | Level::Trace => b"\x1b[36m",
    }
}

/// slog's end of an error log.
#[derive(Debug)]
pub(crate) struct ErrorLogDrain(pub(crate) Arc<ErrorLog>);

impl Drain for ErrorLogDrain {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        if self.0.is_enabled(record.level()) {
            self.0.record(record, values);
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.0.is_enabled(level)
    }
}

/// Bytes of a line after which its buffers are given back.
const KEPT: usize = 64 << 10;

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

#[derive(Debug, Default)]
struct Scratch {
    message: String,
    traceback: String,
    id: String,
    value: String,
    fields: Vec<u8>,
    marks: Marks,
    line: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self) {
        let Self { message, traceback, id, value, fields, marks, line } = self;
        for text in [message, traceback, id, value] {
            text.clear();
        }
        fields.clear();
        marks.0.clear();
        line.clear();
    }
}

/// Where each field ends.
#[derive(Debug, Default)]
struct Marks(Vec<usize>);

impl Marks {
    /// The fields' places, the one that was named first in the source first.
    fn in_order(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let start = |at: usize| at.checked_sub(1).map_or(0, |before| self.0[before]);
        (0..self.0.len()).rev().map(move |at| start(at)..self.0[at])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Text { coloured: bool },
    Json,
    Journal,
}

/// Takes slog's keys and values.
struct FieldWriter<'a> {
    scratch: &'a mut Scratch,
    encoding: Encoding,
}

/// What is in the scratch's `value`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Text,
    /// A number, a truth value or null: what JSON writes without quotes.
    Bare,
}

impl FieldWriter<'_> {
    fn value(&mut self, key: Key, value: &fmt::Arguments<'_>, kind: Value) -> slog::Result {
        let scratch = &mut *self.scratch;
        let target = match key {
            event::KEY => &mut scratch.id,
            TRACEBACK => &mut scratch.traceback,
            _ => &mut scratch.value,
        };
        target.clear();
        target.write_fmt(*value)?;
        if key == event::KEY || key == TRACEBACK {
            return Ok(());
        }
        let fields = &mut scratch.fields;
        match self.encoding {
            Encoding::Text { coloured } => {
                fields.push(b' ');
                if coloured {
                    fields.extend_from_slice(DIM);
                }
                fields.extend_from_slice(key.as_bytes());
                fields.push(b'=');
                if coloured {
                    fields.extend_from_slice(RESET);
                }
                escape::push_value(fields, &scratch.value);
            }
            Encoding::Json => {
                push_member_key(fields, key);
                match kind {
                    Value::Bare => fields.extend_from_slice(scratch.value.as_bytes()),
                    Value::Text => escape::push_json(fields, scratch.value.as_bytes()),
                }
            }
            Encoding::Journal => push_keyed_field(fields, key, scratch.value.as_bytes()),
        }
        scratch.marks.0.push(fields.len());
        Ok(())
    }
}

macro_rules! bare {
    ($($method:ident $type:ty),*) => {
        $(fn $method(&mut self, key: Key, value: $type) -> slog::Result {
            self.value(key, &format_args!("{value}"), Value::Bare)
        })*
    };
}

impl Serializer for FieldWriter<'_> {
    bare!(emit_u8 u8, emit_u16 u16, emit_u32 u32, emit_u64 u64, emit_usize usize, emit_u128 u128);
    bare!(emit_i8 i8, emit_i16 i16, emit_i32 i32, emit_i64 i64, emit_isize isize, emit_i128 i128);
    bare!(emit_bool bool);

    fn emit_f64(&mut self, key: Key, value: f64) -> slog::Result {
        // JSON has neither NaN nor infinity.
        let kind = if value.is_finite() { Value::Bare } else { Value::Text };
        self.value(key, &format_args!("{value}"), kind)
    }

    fn emit_f32(&mut self, key: Key, value: f32) -> slog::Result {
        let kind = if value.is_finite() { Value::Bare } else { Value::Text };
        self.value(key, &format_args!("{value}"), kind)
    }

    fn emit_unit(&mut self, key: Key) -> slog::Result {
        self.value(key, &format_args!("null"), Value::Bare)
    }

    fn emit_none(&mut self, _key: Key) -> slog::Result {
        // A key without a value says nothing.
        Ok(())
    }

    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.value(key, value, Value::Text)
    }
}

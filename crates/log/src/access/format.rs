//! Gunicorn's access log format, read once into pieces.
//!
//! Owns the atoms, their letters and the escaping of their values. Source: Gunicorn's `access_log_format` and Python's
//! printf-style formatting. Invariants: an unknown atom is `-`; single letters keep their case, names in braces do not;
//! what an atom puts into the line has neither a line break nor an unescaped quote.

use super::{AccessRecord, atoms};
use crate::clock;
use crate::escape::{Style, push_decimal, push_escaped};
use std::fmt;

/// Gunicorn's default.
pub const DEFAULT_ACCESS_LOG_FORMAT: &str = r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#;

/// A format, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessFormat {
    pieces: Vec<Piece>,
    style: Style,
}

/// Why a format cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessFormatError {
    /// Byte in the format, from 0.
    pub at: usize,
    /// What is wrong and what is allowed, a clause.
    pub reason: &'static str,
}

impl fmt::Display for AccessFormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.reason)
    }
}

impl std::error::Error for AccessFormatError {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Atom(Atom, Layout),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Atom {
    RemoteAddress,
    User,
    Time,
    RequestLine,
    Method,
    Path,
    Query,
    Protocol,
    Status,
    Bytes,
    Referer,
    Agent,
    Seconds,
    Milliseconds,
    Microseconds,
    DecimalSeconds,
    Process,
    RequestId,
    RequestHeader(String),
    ResponseHeader(String),
    Environ(String),
    /// `%(l)s`, and every name that there is not.
    Dash,
}

/// Python's `%-10.5s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Layout {
    left: bool,
    zeroes: bool,
    width: usize,
    precision: Option<usize>,
}

impl AccessFormat {
    /// Reads a format.
    ///
    /// # Errors
    /// It is not one that Python's `%` takes with named values, or it has line breaks.
    pub fn parse(format: &str) -> Result<Self, AccessFormatError> {
        let format = format.trim_end_matches(['\r', '\n']);
        let bytes = format.as_bytes();
        if let Some(at) = bytes.iter().position(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(AccessFormatError { at, reason: "a record is one line: no control character is allowed" });
        }
        let trimmed = format.trim();
        let style = if trimmed.starts_with('{') && trimmed.ends_with('}') { Style::Json } else { Style::Hex };
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] != b'%' {
                literal.push(bytes[at]);
                at += 1;
                continue;
            }
            if bytes.get(at + 1) == Some(&b'%') {
                literal.push(b'%');
                at += 2;
                continue;
            }
            let (atom, layout, end) = parse_conversion(format, at)?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Atom(atom, layout));
            at = end;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces, style })
    }

    pub(crate) fn needs_environ(&self) -> bool {
        self.atoms().any(|atom| matches!(atom, Atom::Environ(_)))
    }

    pub(crate) fn needs_response_headers(&self) -> bool {
        self.atoms().any(|atom| matches!(atom, Atom::ResponseHeader(_)))
    }

    fn atoms(&self) -> impl Iterator<Item = &Atom> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Atom(atom, _) => Some(atom),
        })
    }

    /// Appends the line of a request, without its line break.
    pub(crate) fn push(&self, line: &mut Vec<u8>, request: &AccessRecord<'_>, pid: u32) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => line.extend_from_slice(literal),
                Piece::Atom(atom, layout) => {
                    let start = line.len();
                    push_atom(line, atom, request, pid, self.style);
                    if line.len() == start && !matches!(atom, Atom::Query) {
                        line.push(b'-');
                    }
                    if *layout != Layout::default() {
                        lay_out(line, start, *layout);
                    }
                }
            }
        }
    }
}

fn push_atom(line: &mut Vec<u8>, atom: &Atom, request: &AccessRecord<'_>, pid: u32, style: Style) {
    let micros = || atoms::microseconds(request.duration);
    let mut header = |value: Option<std::borrow::Cow<'_, [u8]>>| {
        if let Some(value) = value {
            push_escaped(line, &value, style);
        }
    };
    match atom {
        Atom::Referer => header(request.lookup.request_header("referer")),
        Atom::Agent => header(request.lookup.request_header("user-agent")),
        Atom::RequestHeader(name) => header(request.lookup.request_header(name)),
        Atom::ResponseHeader(name) => header(request.lookup.response_header(name)),
        Atom::Environ(name) => header(request.lookup.environ(name)),
        Atom::RemoteAddress => push_escaped(line, request.remote_addr, style),
        // It stands between spaces in the usual formats, and Gunicorn lets a name with spaces forge the next columns.
        Atom::User => {
            if let Some(user) = atoms::user(request) {
                let style = if style == Style::Hex { Style::HexWord } else { style };
                push_escaped(line, &user, style);
            }
        }
        Atom::Time => {
            line.push(b'[');
            clock::with_stamp(|stamp| line.extend_from_slice(stamp.common.as_bytes()));
            line.push(b']');
        }
        Atom::RequestLine => {
            if !request.method.is_empty() {
                push_escaped(line, request.method, style);
                line.push(b' ');
                push_escaped(line, request.target, style);
                line.push(b' ');
                push_escaped(line, request.protocol, style);
            }
        }
        Atom::Method => push_escaped(line, request.method, style),
        Atom::Path => atoms::path_info(request, |piece| push_escaped(line, piece, style)),
        Atom::Query => push_escaped(line, atoms::path_and_query(request.target).1, style),
        Atom::Protocol => push_escaped(line, request.protocol, style),
        Atom::Status => push_decimal(line, u64::from(request.status)),
        Atom::Bytes => push_decimal(line, request.bytes),
        Atom::Seconds => push_decimal(line, request.duration.as_secs()),
        Atom::Milliseconds => push_decimal(line, micros() / 1000),
        Atom::Microseconds => push_decimal(line, micros()),
        Atom::DecimalSeconds => {
            push_decimal(line, request.duration.as_secs());
            line.push(b'.');
            let fraction = request.duration.subsec_micros();
            // Digits are below ten.
            line.extend([100_000, 10_000, 1000, 100, 10, 1].map(|unit| b'0' + (fraction / unit % 10) as u8));
        }
        Atom::RequestId => push_escaped(line, request.request_id, style),
        Atom::Process => {
            line.push(b'<');
            push_decimal(line, u64::from(pid));
            line.push(b'>');
        }
        Atom::Dash => {}
    }
}

/// Cuts and fills what was appended since `start`. An escaped byte counts as one character and is never cut in two:
/// half of an escape could swallow the quote that follows.
fn lay_out(line: &mut Vec<u8>, start: usize, layout: Layout) {
    let mut characters = 0;
    let mut at = start;
    while at < line.len() && layout.precision.is_none_or(|most| characters < most) {
        at += match (line[at], line.get(at + 1)) {
            (b'\\', Some(b'x')) => 4,
            (b'\\', Some(b'u')) => 6,
            (b'\\', Some(_)) => 2,
            (_, _) => 1,
        };
        characters += 1;
    }
    line.truncate(at);
    let Some(missing) = layout.width.checked_sub(characters).filter(|&missing| missing > 0) else { return };
    let fill = if layout.zeroes && !layout.left { b'0' } else { b' ' };
    line.resize(line.len() + missing, fill);
    if !layout.left {
        line[start..].rotate_right(missing);
    }
}

/// Reads `%(name)-10.5s` at byte `at`; returns where it ends.
fn parse_conversion(format: &str, at: usize) -> Result<(Atom, Layout, usize), AccessFormatError> {
    /// Nobody wants wider columns, and a typing error must not cost memory per record.
    const WIDEST: usize = 1024;
    let bytes = format.as_bytes();
    let error = |reason| Err(AccessFormatError { at, reason });
    if bytes.get(at + 1) != Some(&b'(') {
        return error("% must be followed by a name in parentheses, as in %(h)s, or by another %");
    }
    let Some(length) = format[at + 2..].find(')') else {
        return error("the name has no closing parenthesis");
    };
    let name = &format[at + 2..at + 2 + length];
    let mut next = at + 2 + length + 1;
    let mut layout = Layout::default();
    while let Some(flag @ (b'-' | b'0' | b' ' | b'+' | b'#')) = bytes.get(next) {
        layout.left |= *flag == b'-';
        layout.zeroes |= *flag == b'0';
        next += 1;
    }
    (layout.width, next) = number(bytes, next);
    if layout.width > WIDEST {
        return error("no column is wider than 1024");
    }
    if bytes.get(next) == Some(&b'.') {
        let (most, end) = number(bytes, next + 1);
        layout.precision = Some(most);
        next = end;
    }
    let atom = atom(name);
    let numeric = matches!(atom, Atom::Bytes | Atom::Seconds | Atom::Milliseconds | Atom::Microseconds);
    match bytes.get(next) {
        Some(b's') => Ok((atom, layout, next + 1)),
        Some(b'd' | b'i' | b'u') if numeric => {
            // Python's precision of a number is a least, not a most.
            layout.precision = None;
            Ok((atom, layout, next + 1))
        }
        Some(b'd' | b'i' | b'u') => error("d wants a number: B, T, D or M; write s"),
        Some(_) | None => error("the conversion must be s (or d for numbers), as in %(h)s"),
    }
}

/// Reads digits, none being 0; returns where they end.
fn number(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let mut value = 0_usize;
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        value = value.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
        at += 1;
    }
    (value, at)
}

fn atom(name: &str) -> Atom {
    if let Some(braced) = name.strip_prefix('{') {
        let braced = braced.to_ascii_lowercase();
        return match braced.rsplit_once('}') {
            Some((name, "i")) => Atom::RequestHeader(name.to_owned()),
            Some((name, "o")) => Atom::ResponseHeader(name.to_owned()),
            Some((name, "e")) => Atom::Environ(name.to_owned()),
            Some(_) | None => Atom::Dash,
        };
    }
    match name {
        "h" => Atom::RemoteAddress,
        "u" => Atom::User,
        "t" => Atom::Time,
        "r" => Atom::RequestLine,
        "m" => Atom::Method,
        "U" => Atom::Path,
        "q" => Atom::Query,
        "H" => Atom::Protocol,
        "s" => Atom::Status,
        "b" | "B" => Atom::Bytes,
        "f" => Atom::Referer,
        "a" => Atom::Agent,
        "T" => Atom::Seconds,
        "M" => Atom::Milliseconds,
        "D" => Atom::Microseconds,
        "L" => Atom::DecimalSeconds,
        "p" => Atom::Process,
        "id" => Atom::RequestId,
        _ => Atom::Dash,
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;

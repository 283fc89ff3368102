//! Decodes the chunked transfer coding (RFC 9112 section 7.1) without copying: it says where the data lies.
//!
//! Framing is consumed byte by byte as it arrives: whatever is given is taken, nothing needs a buffer. Extensions are
//! checked and ignored, trailers are checked and dropped. Knows nothing of connections and time.

use crate::policy::Policy;
use crate::rules::{Rejection, Rule};
use crate::scan::is_token_byte;
use crate::target::hex_value;
use std::ops::Range;

/// How far size lines may outweigh the data, in bytes, before the sender is taken for an attacker. The measure is that
/// of Go's net/http (CVE-2023-39326): each chunk pays for 16 bytes of its line and for twice its data.
const MOST_EXCESS: u64 = 16 * 1024;

/// Where the decoder stands in the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a chunk size.
    SizeStart,
    /// After at least one digit.
    Size { size: u64 },
    /// In the rest of a size line: its extensions.
    Extension { size: u64, at: Extension },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// In chunk data.
    Data { remaining: u64 },
    /// Chunk data has ended; CR comes next.
    DataCr,
    /// LF comes next.
    DataLf,
    /// In the trailer section, behind so many trailers.
    Trailer { lines: u16, at: Trailer },
}

/// Where in `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    /// White space before `;`.
    SpaceBefore,
    /// Behind `;`, before the name.
    BeforeName,
    Name,
    /// White space behind the name.
    AfterName,
    /// Behind `=`, before the value.
    BeforeValue,
    Value,
    Quoted,
    QuotedPair,
    /// Behind a closing quote.
    AfterQuoted,
}

/// Where in `*( field-name ":" OWS field-value OWS CRLF ) CRLF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trailer {
    /// Before a line.
    Start,
    Name(Name),
    /// White space behind a name, which must not be there.
    AfterName,
    Value,
    /// After the CR of a line.
    Lf,
    /// After the CR of the empty line.
    LastLf,
}

/// A trailer's name, as far as it can be one of [`FORBIDDEN_TRAILERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    bytes: [u8; 20],
    /// Bytes in use; more than there are when the name is longer.
    len: u8,
}

impl Name {
    fn push(mut self, byte: u8) -> Name {
        if let Some(place) = self.bytes.get_mut(usize::from(self.len)) {
            *place = byte;
            self.len += 1;
        } else {
            self.len = self.bytes.len() as u8 + 1;
        }
        self
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(self.bytes.len())]
    }

    fn is_forbidden(&self) -> bool {
        usize::from(self.len) <= self.bytes.len() && is_forbidden_trailer(self.as_bytes())
    }
}

/// Whether a field of this name may not stand in a trailer section (RFC 9110 section 6.5.1).
pub(crate) fn is_forbidden_trailer(name: &[u8]) -> bool {
    FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// The decoder of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkDecoder {
    state: State,
    /// Bytes of the size line or trailer line so far.
    line: u32,
    excess: u32,
    /// Data announced by all size lines so far.
    announced: u64,
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The first `consumed` bytes are done with; more are needed.
    NeedMore { consumed: usize },
    /// Chunk data.
    Data { consumed: usize, data: Range<usize> },
    /// The body's end.
    End { consumed: usize },
}

impl ChunkDecoder {
    /// Before a body's first byte.
    pub(crate) fn new() -> ChunkDecoder {
        ChunkDecoder { state: State::SizeStart, line: 0, excess: 0, announced: 0 }
    }

    /// Goes on to the next data, to the body's end, or to the end of what has arrived.
    pub(crate) fn advance(&mut self, policy: &Policy, input: &[u8]) -> Result<Piece, Rejection> {
        let mut at = 0;
        loop {
            match self.state {
                State::Data { remaining } => {
                    let available = input.len() - at;
                    if available == 0 {
                        return Ok(Piece::NeedMore { consumed: at });
                    }
                    let len = usize::try_from(remaining).unwrap_or(usize::MAX).min(available);
                    let left = remaining - len as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { remaining: left } };
                    return Ok(Piece::Data { consumed: at + len, data: at..at + len });
                }
                State::SizeStart
                | State::Size { .. }
                | State::Extension { .. }
                | State::SizeLf { .. }
                | State::DataCr
                | State::DataLf
                | State::Trailer { .. } => {
                    let Some(&byte) = input.get(at) else {
                        return Ok(Piece::NeedMore { consumed: at });
                    };
                    at += 1;
                    match self.next(policy, byte)? {
                        Some(state) => self.state = state,
                        None => return Ok(Piece::End { consumed: at }),
                    }
                }
            }
        }
    }

    /// The state behind one byte that is not data; `None` behind the body's last byte.
    fn next(&mut self, policy: &Policy, byte: u8) -> Result<Option<State>, Rejection> {
        let refuse = |rule| Err(Rejection::showing(rule, &[byte]));
        let state = match self.state {
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::SizeStart,
            State::DataCr | State::DataLf => return refuse(Rule::ChunkEnd),
            State::SizeLf { size } if byte == b'\n' => self.end_size_line(policy, size)?,
            State::SizeLf { .. } => return refuse(Rule::BareCr),
            State::SizeStart | State::Size { .. } | State::Extension { .. } => self.next_in_size_line(policy, byte)?,
            State::Trailer { lines, at: Trailer::LastLf } if byte == b'\n' => {
                self.state = State::Trailer { lines, at: Trailer::Start };
                return Ok(None);
            }
            State::Trailer { lines, at } => self.next_in_trailers(policy, lines, at, byte)?,
            // `advance` takes data by the piece.
            State::Data { .. } => self.state,
        };
        Ok(Some(state))
    }

    fn next_in_size_line(&mut self, policy: &Policy, byte: u8) -> Result<State, Rejection> {
        let refuse = |rule| Err(Rejection::showing(rule, &[byte]));
        self.line += 1;
        if byte == b'\n' {
            return refuse(Rule::BareLf);
        }
        // With CRLF the line may have as many bytes as a field line.
        if byte != b'\r' && self.line as usize + 2 > policy.field_limit() {
            return refuse(Rule::ChunkLineTooLong);
        }
        match self.state {
            State::Size { size } => match byte {
                b'\r' => Ok(State::SizeLf { size }),
                b';' => Ok(State::Extension { size, at: Extension::BeforeName }),
                b' ' | b'\t' => Ok(State::Extension { size, at: Extension::SpaceBefore }),
                _ => match hex_value(byte) {
                    Some(digit) if size >> 60 == 0 => Ok(State::Size { size: size << 4 | u64::from(digit) }),
                    Some(_) | None => refuse(Rule::ChunkSize),
                },
            },
            State::Extension { size, at } => match at.next(byte) {
                Some(Some(at)) => Ok(State::Extension { size, at }),
                Some(None) => Ok(State::SizeLf { size }),
                None => refuse(Rule::ChunkExtension),
            },
            State::SizeStart
            | State::SizeLf { .. }
            | State::Data { .. }
            | State::DataCr
            | State::DataLf
            | State::Trailer { .. } => match hex_value(byte) {
                Some(digit) => Ok(State::Size { size: u64::from(digit) }),
                None => refuse(Rule::ChunkSize),
            },
        }
    }

    fn next_in_trailers(&mut self, policy: &Policy, lines: u16, at: Trailer, byte: u8) -> Result<State, Rejection> {
        let refuse = |rule| Err(Rejection::showing(rule, &[byte]));
        if byte == b'\n' && at != Trailer::Lf {
            return refuse(Rule::BareLf);
        }
        if byte != b'\r' && byte != b'\n' {
            self.line += 1;
            if self.line as usize + 2 > policy.field_limit() {
                return refuse(Rule::FieldTooLarge);
            }
        }
        let at = match (at, byte) {
            (Trailer::Start, b'\r') => Trailer::LastLf,
            (Trailer::Start, b' ' | b'\t') => return refuse(Rule::ObsFold),
            (Trailer::Start, _) if usize::from(lines) >= policy.fields_limit() => return refuse(Rule::TooManyFields),
            (Trailer::Start, _) if is_token_byte(byte) => Trailer::Name(Name { bytes: [0; 20], len: 0 }.push(byte)),
            (Trailer::Name(name), b':') if name.is_forbidden() => {
                return Err(Rejection::showing(Rule::TrailerForbidden, name.as_bytes()));
            }
            (Trailer::Name(_), b':') => Trailer::Value,
            (Trailer::Name(_) | Trailer::AfterName, b' ' | b'\t') => Trailer::AfterName,
            (Trailer::Name(name), _) if is_token_byte(byte) => Trailer::Name(name.push(byte)),
            (Trailer::AfterName, b':') => return refuse(Rule::SpaceBeforeColon),
            (Trailer::Start | Trailer::Name(_) | Trailer::AfterName, _) => return refuse(Rule::FieldName),
            (Trailer::Value, b'\r') => Trailer::Lf,
            (Trailer::Value, b'\t' | 0x20..=0x7e | 0x80..) => Trailer::Value,
            (Trailer::Value, _) => return refuse(Rule::FieldValue),
            (Trailer::Lf, b'\n') => {
                self.line = 0;
                return Ok(State::Trailer { lines: lines + 1, at: Trailer::Start });
            }
            (Trailer::Lf | Trailer::LastLf, _) => return refuse(Rule::BareCr),
        };
        Ok(State::Trailer { lines, at })
    }

    /// The LF of a size line has arrived.
    fn end_size_line(&mut self, policy: &Policy, size: u64) -> Result<State, Rejection> {
        let allowance = size.saturating_mul(2).saturating_add(16);
        let excess = (u64::from(self.excess) + u64::from(self.line) + 1).saturating_sub(allowance);
        if excess > MOST_EXCESS {
            return Err(Rejection::new(Rule::ChunkOverhead));
        }
        self.excess = excess as u32;
        self.line = 0;
        self.announced = self.announced.saturating_add(size);
        if policy.limit_request_body > 0 && self.announced > policy.limit_request_body {
            return Err(Rejection::new(Rule::BodyTooLarge));
        }
        Ok(if size == 0 { State::Trailer { lines: 0, at: Trailer::Start } } else { State::Data { remaining: size } })
    }
}

/// Fields whose meaning is needed before the body (RFC 9110 section 6.5.1: framing, routing, authentication, request
/// modifiers, content format). Trailers are dropped in any case; a sender of these is up to something.
const FORBIDDEN_TRAILERS: &[&[u8]] = &[
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

impl Extension {
    /// The place behind `byte`; inside, `None` when the line's CR was reached. Outside, `None` for a byte that the
    /// grammar does not allow here.
    #[expect(clippy::option_option, reason = "outer: allowed, inner: still in the extensions")]
    fn next(self, byte: u8) -> Option<Option<Extension>> {
        let space = matches!(byte, b' ' | b'\t');
        let token = is_token_byte(byte);
        let next = match (self, byte) {
            (Extension::SpaceBefore, b';') => Extension::BeforeName,
            (Extension::SpaceBefore, _) if space => Extension::SpaceBefore,
            (Extension::BeforeName, _) if space => Extension::BeforeName,
            (Extension::BeforeName | Extension::Name, _) if token => Extension::Name,
            (Extension::Name | Extension::AfterName, b'=') => Extension::BeforeValue,
            (Extension::Name | Extension::AfterName, _) if space => Extension::AfterName,
            (Extension::Name | Extension::AfterName, b';') => Extension::BeforeName,
            (Extension::BeforeValue, b'"') => Extension::Quoted,
            (Extension::BeforeValue, _) if space => Extension::BeforeValue,
            (Extension::BeforeValue | Extension::Value, _) if token => Extension::Value,
            (Extension::Quoted, b'"') => Extension::AfterQuoted,
            (Extension::Quoted, b'\\') => Extension::QuotedPair,
            (Extension::Quoted, b'\t' | 0x20..=0x7e | 0x80..) => Extension::Quoted,
            (Extension::QuotedPair, b'\t' | 0x20..=0x7e | 0x80..) => Extension::Quoted,
            (Extension::Value | Extension::AfterQuoted, b';') => Extension::BeforeName,
            (Extension::Value | Extension::AfterQuoted, _) if space => Extension::SpaceBefore,
            (Extension::Name | Extension::Value | Extension::AfterQuoted, b'\r') => return Some(None),
            (
                Extension::SpaceBefore
                | Extension::BeforeName
                | Extension::Name
                | Extension::AfterName
                | Extension::BeforeValue
                | Extension::Value
                | Extension::Quoted
                | Extension::QuotedPair
                | Extension::AfterQuoted,
                _,
            ) => return None,
        };
        Some(Some(next))
    }
}

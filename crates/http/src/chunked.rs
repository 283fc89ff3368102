//! Decodes the chunked transfer coding (RFC 9112 section 7.1) without copying: it says where the data lies.
//!
//! Size lines are consumed byte by byte as they arrive, so nothing of them needs a buffer; a trailer line stays in the
//! driver's buffer until it is complete, and is bounded like a field line. Extensions are checked and ignored, trailers
//! are checked and dropped. Knows nothing of connections and time.

use crate::head::judge_line;
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
    /// In the trailer section. The line in progress was looked at up to `scanned`.
    Trailer { scanned: u32, lines: u32 },
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

/// The decoder of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkDecoder {
    state: State,
    /// Bytes of the size line so far.
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
                State::Trailer { scanned, lines } => {
                    match self.advance_trailer(policy, &input[at..], scanned, lines)? {
                        None => return Ok(Piece::NeedMore { consumed: at }),
                        Some((consumed, false)) => at += consumed,
                        Some((consumed, true)) => return Ok(Piece::End { consumed: at + consumed }),
                    }
                }
                State::SizeStart
                | State::Size { .. }
                | State::Extension { .. }
                | State::SizeLf { .. }
                | State::DataCr
                | State::DataLf => {
                    let Some(&byte) = input.get(at) else {
                        return Ok(Piece::NeedMore { consumed: at });
                    };
                    at += 1;
                    self.state = self.next(policy, byte)?;
                }
            }
        }
    }

    /// The state behind one byte of a size line or of the CRLF behind data.
    fn next(&mut self, policy: &Policy, byte: u8) -> Result<State, Rejection> {
        let refuse = |rule| Err(Rejection::showing(rule, &[byte]));
        match self.state {
            State::DataCr => return if byte == b'\r' { Ok(State::DataLf) } else { refuse(Rule::ChunkEnd) },
            State::DataLf => return if byte == b'\n' { Ok(State::SizeStart) } else { refuse(Rule::ChunkEnd) },
            State::SizeLf { size } => {
                return if byte == b'\n' { self.end_size_line(policy, size) } else { refuse(Rule::BareCr) };
            }
            State::SizeStart | State::Size { .. } | State::Extension { .. } => {}
            // `advance` handles these two.
            State::Data { .. } | State::Trailer { .. } => return Ok(self.state),
        }
        self.line += 1;
        if byte == b'\n' {
            return refuse(Rule::BareLf);
        }
        // With CRLF the line may have as many bytes as a field line.
        if byte != b'\r' && self.line as usize + 2 > policy.field_limit() {
            return refuse(Rule::ChunkLineTooLong);
        }
        match self.state {
            State::SizeStart => match hex_value(byte) {
                Some(digit) => Ok(State::Size { size: u64::from(digit) }),
                None => refuse(Rule::ChunkSize),
            },
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
            State::SizeLf { .. } | State::Data { .. } | State::DataCr | State::DataLf | State::Trailer { .. } => {
                Ok(self.state)
            }
        }
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
        Ok(if size == 0 { State::Trailer { scanned: 0, lines: 0 } } else { State::Data { remaining: size } })
    }

    /// Takes one trailer line. `Some((consumed, last))`, or `None` when it is not complete.
    fn advance_trailer(
        &mut self,
        policy: &Policy,
        input: &[u8],
        scanned: u32,
        lines: u32,
    ) -> Result<Option<(usize, bool)>, Rejection> {
        let found = input.get(scanned as usize..).and_then(|new| memchr::memchr(b'\n', new));
        let lf = found.map(|at| at + scanned as usize);
        let line = &input[..lf.unwrap_or(input.len())];
        let content = line.strip_suffix(b"\r");
        let text = content.unwrap_or(line);
        if !text.is_empty() && text.len() + 2 > policy.field_limit() {
            return Err(Rejection::new(Rule::FieldTooLarge));
        }
        let Some(lf) = lf else {
            self.state = State::Trailer { scanned: input.len() as u32, lines };
            return Ok(None);
        };
        let Some(content) = content else {
            return Err(Rejection::new(Rule::BareLf));
        };
        if content.is_empty() {
            return Ok(Some((lf + 1, true)));
        }
        if lines as usize >= policy.fields_limit() {
            return Err(Rejection::new(Rule::TooManyFields));
        }
        judge_line(content)?;
        let name = &content[..memchr::memchr(b':', content).unwrap_or(content.len())];
        if FORBIDDEN_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
            return Err(Rejection::showing(Rule::TrailerForbidden, name));
        }
        self.state = State::Trailer { scanned: 0, lines: lines + 1 };
        Ok(Some((lf + 1, false)))
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

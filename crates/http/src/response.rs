//! What a response's head may contain, and how it is written. Everything that the application gives is checked here:
//! nothing it says can end a line early (response splitting) or frame the body differently from what we send.
//!
//! Knows nothing of connections: `connection.rs` decides whether the connection goes on, this file writes that down.

use crate::chunked::is_forbidden_trailer;
use crate::date::HttpDate;
use crate::head::{list_members, parse_decimal, trim};
use crate::scan::is_token;
use std::fmt;

/// What the application did wrong. The response was not begun; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseFault {
    /// The status is not three digits, optionally followed by a space and a reason without control characters.
    Status(Vec<u8>),
    /// A 1xx status, which cannot be a request's answer.
    Informational(Vec<u8>),
    /// A field name is not a token.
    FieldName(Vec<u8>),
    /// The value of the named field contains a control character or begins or ends a line.
    FieldValue(Vec<u8>),
    /// Content-Length is not a number, or is given twice.
    ContentLength(Vec<u8>),
    /// A response was begun before, or nothing was asked.
    OutOfTurn,
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResponseFault::Status(text) => write!(f, "malformed status \"{}\"", text.escape_ascii()),
            ResponseFault::Informational(text) => {
                write!(f, "informational status \"{}\" given as the final one", text.escape_ascii())
            }
            ResponseFault::FieldName(name) => write!(f, "malformed header name \"{}\"", name.escape_ascii()),
            ResponseFault::FieldValue(name) => {
                write!(f, "the value of header \"{}\" contains a control character", name.escape_ascii())
            }
            ResponseFault::ContentLength(text) => {
                write!(f, "malformed or repeated Content-Length \"{}\"", text.escape_ascii())
            }
            ResponseFault::OutOfTurn => f.write_str("the response was already begun"),
        }
    }
}

impl std::error::Error for ResponseFault {}

/// How a response's body is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// None is sent, whatever the application gives: HEAD, 204, 205, 304.
    None,
    /// Content-Length: so many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// To the end of the connection (HTTP/1.0).
    UntilClose,
}

/// How a response was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// How the body is delimited.
    pub framing: BodyFraming,
    /// The response says that the connection can be used again.
    pub keep_alive: bool,
    /// Fields of the application that were dropped because they belong to the connection (PEP 3333: an application may
    /// not send hop-by-hop fields), or because the status forbids Content-Length.
    pub dropped_fields: u32,
}

/// Framing around one piece of body: send `prefix`, the piece's first `take` bytes, `suffix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    prefix: [u8; 18],
    prefix_len: u8,
    /// Bytes of the piece to send.
    pub take: u64,
    /// What follows them.
    pub suffix: &'static [u8],
    /// The rest of the piece lies beyond Content-Length and is not sent: a fault of the application. (Not set where the
    /// response has no body by HEAD or by its status.)
    pub overrun: bool,
}

impl Chunk {
    /// What precedes the bytes.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_len)]
    }

    pub(crate) fn plain(take: u64, overrun: bool) -> Chunk {
        Chunk { prefix: [0; 18], prefix_len: 0, take, suffix: b"", overrun }
    }

    /// `chunk-size CRLF` and `CRLF` around `len` bytes, which must not be 0: that would be the last chunk.
    pub(crate) fn chunked(len: u64) -> Chunk {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = (16 - len.leading_zeros() / 4).max(1) as usize;
        let mut prefix = [0; 18];
        for (at, place) in prefix[..digits].iter_mut().enumerate() {
            *place = DIGITS[(len >> ((digits - 1 - at) * 4) & 0xf) as usize];
        }
        prefix[digits] = b'\r';
        prefix[digits + 1] = b'\n';
        Chunk { prefix, prefix_len: digits as u8 + 2, take: len, suffix: b"\r\n", overrun: false }
    }
}

/// The status code of a checked status text (`200 OK`).
pub(crate) fn check_status(text: &[u8]) -> Result<u16, ResponseFault> {
    let fault = || ResponseFault::Status(text.to_vec());
    let (digits, reason) = text.split_first_chunk::<3>().ok_or_else(fault)?;
    let code = parse_decimal(digits).filter(|code| *code >= 100).ok_or_else(fault)? as u16;
    if !reason.is_empty() && (reason[0] != b' ' || !is_field_text(reason)) {
        return Err(fault());
    }
    if code < 200 { Err(ResponseFault::Informational(text.to_vec())) } else { Ok(code) }
}

/// Visible characters, SP, HTAB and obs-text (RFC 9110 section 5.5).
fn is_field_text(text: &[u8]) -> bool {
    text.iter().fold(true, |fine, &b| fine & (b >= 0x20 && b != 0x7f || b == b'\t'))
}

/// What the application's fields say about framing and connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) content_length: Option<u64>,
    pub(crate) date: bool,
    pub(crate) server: bool,
    /// The application asks for the connection to be closed.
    pub(crate) close: bool,
    pub(crate) dropped: u32,
}

/// Checks the application's fields and writes those that may be sent. Content-Length is noted, not written.
pub(crate) fn write_fields<'f>(
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    out: &mut Vec<u8>,
) -> Result<Said, ResponseFault> {
    let mut said = Said::default();
    for (name, value) in fields {
        if !is_token(name) {
            return Err(ResponseFault::FieldName(name.to_vec()));
        }
        if !is_field_text(value) {
            return Err(ResponseFault::FieldValue(name.to_vec()));
        }
        match recognise(name) {
            Role::Application => {}
            Role::Date => said.date = true,
            Role::Server => said.server = true,
            Role::ContentLength => {
                let fault = || ResponseFault::ContentLength(value.to_vec());
                if said.content_length.is_some() {
                    return Err(fault());
                }
                said.content_length = Some(parse_decimal(trim(value)).ok_or_else(fault)?);
                continue;
            }
            Role::Connection => {
                said.close |= list_members(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                said.dropped += 1;
                continue;
            }
            Role::HopByHop => {
                said.dropped += 1;
                continue;
            }
        }
        write_field(name, value, out);
    }
    Ok(said)
}

pub(crate) fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// `Content-Length: <length>`.
pub(crate) fn write_content_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Who a response field belongs to.
enum Role {
    Application,
    Date,
    Server,
    ContentLength,
    Connection,
    HopByHop,
}

/// RFC 9110 section 7.6.1 and Gunicorn's list.
fn recognise(name: &[u8]) -> Role {
    let is = |text: &[u8], role| if name.eq_ignore_ascii_case(text) { role } else { Role::Application };
    match name.len() {
        2 => is(b"te", Role::HopByHop),
        4 => is(b"date", Role::Date),
        6 => is(b"server", Role::Server),
        7 => match name[0] | 0x20 {
            b'u' => is(b"upgrade", Role::HopByHop),
            _ => is(b"trailer", Role::HopByHop),
        },
        8 => is(b"trailers", Role::HopByHop),
        10 => match name[0] | 0x20 {
            b'c' => is(b"connection", Role::Connection),
            _ => is(b"keep-alive", Role::HopByHop),
        },
        14 => is(b"content-length", Role::ContentLength),
        16 => is(b"proxy-connection", Role::HopByHop),
        17 => is(b"transfer-encoding", Role::HopByHop),
        18 => is(b"proxy-authenticate", Role::HopByHop),
        19 => is(b"proxy-authorization", Role::HopByHop),
        _ => Role::Application,
    }
}

/// Appends a whole short response of our own that closes the connection: `text` and a line end as text/plain.
/// `fields` are added as they are; `without_body` leaves the body out (HEAD).
pub fn write_error(
    status: u16,
    text: &str,
    fields: &[(&[u8], &[u8])],
    server: &[u8],
    date: &HttpDate,
    without_body: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if !server.is_empty() {
        write_field(b"Server", server, out);
    }
    write_field(b"Date", date, out);
    out.extend_from_slice(b"Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n");
    for (name, value) in fields {
        write_field(name, value, out);
    }
    write_content_length(text.len() as u64 + 1, out);
    out.extend_from_slice(b"\r\n");
    if !without_body {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// The registered reason phrase of a status code (RFC 9110 section 15, and the IANA registry), or nothing.
pub fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        401 => "Unauthorized",
        402 => "Payment Required",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        418 => "I'm a Teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        451 => "Unavailable For Legal Reasons",
        506 => "Variant Also Negotiates",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        known => match reason(known) {
            "Error" => "",
            text => text,
        },
    }
}

/// Writes the fields of a trailer section (RFC 9110 section 6.5.1): those that frame the message or belong to its head
/// are left out.
pub(crate) fn write_trailers<'f>(
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    out: &mut Vec<u8>,
) -> Result<(), ResponseFault> {
    for (name, value) in fields {
        if !is_token(name) {
            return Err(ResponseFault::FieldName(name.to_vec()));
        }
        if !is_field_text(value) {
            return Err(ResponseFault::FieldValue(name.to_vec()));
        }
        if matches!(recognise(name), Role::Application) && !is_forbidden_trailer(name) {
            write_field(name, value, out);
        }
    }
    Ok(())
}

/// The reason phrase of the codes that we send ourselves.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Error",
    }
}

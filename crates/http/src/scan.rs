//! Finds a head's end as bytes arrive, and enforces what can be judged line by line: the limits, and CRLF.
//!
//! Every byte is looked at once, however the input was split: the scan remembers where it stopped. What a line says is
//! not its business (see `head.rs`). Offsets are relative to the head's first byte.

use crate::head::name_of;
use crate::policy::Policy;
use crate::rules::{Rejection, Rule};

/// Where the scan of one head stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct HeadScan {
    /// First byte of the line in progress.
    line: u32,
    /// First byte not yet looked at.
    scanned: u32,
    /// Complete lines, the request line among them.
    lines: u32,
    /// End of the request line, without its CRLF.
    request_line: u32,
}

/// A head whose last byte was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadLines {
    /// Bytes of the head, the empty line included.
    pub(crate) len: usize,
    /// Bytes of the request line, without CRLF.
    pub(crate) request_line: usize,
    /// Field lines.
    pub(crate) fields: usize,
}

impl HeadScan {
    /// Looks at the bytes that are new since the last call. `input` begins with the head's first byte. `None`: more
    /// bytes are needed.
    pub(crate) fn advance(&mut self, policy: &Policy, input: &[u8]) -> Result<Option<HeadLines>, Rejection> {
        if self.scanned == 0 {
            match input.first() {
                None => return Ok(None),
                Some(&first) if is_token_byte(first) => {}
                Some(b'\n') => return Err(Rejection::new(Rule::BareLf)),
                // The first byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
                Some(0x16) => return Err(Rejection::new(Rule::TlsHandshake)),
                Some(_) => return Err(Rejection::showing(Rule::NotHttp, &input[..input.len().min(16)])),
            }
        }
        // The limits bound a head far below 4 GiB only if they are sane; `Policy` bounds one line by 64 KiB and the
        // number of lines by 32,768, so every offset fits 32 bits.
        while let Some(at) = input.get(self.scanned as usize..).and_then(|new| memchr::memchr(b'\n', new)) {
            let start = self.line as usize;
            let lf = self.scanned as usize + at;
            let line = &input[start..lf];
            let content = line.strip_suffix(b"\r");
            self.check_length(policy, content.unwrap_or(line))?;
            let Some(content) = content else {
                return Err(Rejection::showing(Rule::BareLf, if self.lines == 0 { line } else { name_of(line) }));
            };
            self.line = (lf + 1) as u32;
            self.scanned = self.line;
            if self.lines == 0 {
                self.request_line = content.len() as u32;
            } else if content.is_empty() {
                return Ok(Some(HeadLines {
                    len: lf + 1,
                    request_line: self.request_line as usize,
                    fields: self.lines as usize - 1,
                }));
            } else if self.lines as usize > policy.fields_limit() {
                return Err(Rejection::new(Rule::TooManyFields));
            }
            self.lines += 1;
        }
        let partial = &input[self.line as usize..];
        self.scanned = input.len() as u32;
        self.check_length(policy, partial.strip_suffix(b"\r").unwrap_or(partial))?;
        Ok(None)
    }

    /// Refuses a line, complete or not, that is longer than its limit. `content` is the line without its CRLF.
    fn check_length(&self, policy: &Policy, content: &[u8]) -> Result<(), Rejection> {
        if self.lines == 0 {
            if content.len() > policy.line_limit() {
                return Err(Rejection::showing(Rule::RequestLineTooLong, content));
            }
        } else if content.len() + 2 > policy.field_limit() && !content.is_empty() {
            return Err(Rejection::showing(Rule::FieldTooLarge, name_of(content)));
        }
        Ok(())
    }
}

/// `tchar` (RFC 9110 section 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Whether `text` is a token: not empty, `tchar` only.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| is_token_byte(byte))
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

//! A second decoder of HTTP/1.1, written from the grammar of RFC 9110 and RFC 9112 and from nothing else, to hold the
//! engine against. It sees whole streams only, copies everything, and shares no line with the engine.

/// One request as the grammar frames it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) version: (u8, u8),
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// The body goes to the end of the connection.
    pub(crate) until_close: bool,
}

/// Why a stream was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ends inside a message.
    Incomplete,
    /// It is not in the grammar.
    Invalid,
}

type Parsed<T> = Result<T, Stop>;

/// The requests of a stream, and why no more were found (`None`: it ends behind the last).
pub(crate) fn decode_requests(stream: &[u8]) -> (Vec<Message>, Option<Stop>) {
    let mut cursor = Cursor { rest: stream };
    let mut messages = Vec::new();
    loop {
        // An empty line, or half of one, in front of nothing is no message that was begun.
        if b"\r\n".starts_with(cursor.rest) {
            return (messages, None);
        }
        match cursor.request() {
            Ok(message) => messages.push(message),
            Err(stop) => return (messages, Some(stop)),
        }
    }
}

/// The first response of a stream and what follows it. `to_head` tells that the request was HEAD.
pub(crate) fn decode_response(stream: &[u8], to_head: bool) -> Parsed<(Answer, &[u8])> {
    let mut cursor = Cursor { rest: stream };
    let answer = cursor.response(to_head)?;
    Ok((answer, cursor.rest))
}

struct Cursor<'b> {
    rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    fn byte(&mut self) -> Parsed<u8> {
        let (&byte, rest) = self.rest.split_first().ok_or(Stop::Incomplete)?;
        self.rest = rest;
        Ok(byte)
    }

    fn literal(&mut self, text: &[u8]) -> Parsed<()> {
        text.iter().try_for_each(|&wanted| if self.byte()? == wanted { Ok(()) } else { Err(Stop::Invalid) })
    }

    /// The longest run of bytes that `allowed` takes, at least `least` long.
    fn run(&mut self, least: usize, allowed: impl Fn(u8) -> bool) -> Parsed<&'b [u8]> {
        let len = self.rest.iter().position(|&b| !allowed(b)).unwrap_or(self.rest.len());
        if len < least {
            return Err(if self.rest.len() == len { Stop::Incomplete } else { Stop::Invalid });
        }
        let (run, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(run)
    }

    fn take(&mut self, len: u64) -> Parsed<&'b [u8]> {
        let len = usize::try_from(len).map_err(|_| Stop::Incomplete)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Stop::Incomplete)?;
        self.rest = rest;
        Ok(taken)
    }

    fn peek(&self) -> Parsed<u8> {
        self.rest.first().copied().ok_or(Stop::Incomplete)
    }

    /// token = 1*tchar
    fn token(&mut self) -> Parsed<&'b [u8]> {
        self.run(1, is_tchar)
    }

    /// request-line CRLF *( field-line CRLF ) CRLF [ message-body ], and RFC 9112 2.2: one empty line before it.
    fn request(&mut self) -> Parsed<Message> {
        if self.peek()? == b'\r' {
            self.literal(b"\r\n")?;
        }
        let method = self.token()?.to_vec();
        self.literal(b" ")?;
        let target = self.run(1, |b| b.is_ascii_graphic())?.to_vec();
        self.literal(b" HTTP/")?;
        let major = self.digit()?;
        self.literal(b".")?;
        let minor = self.digit()?;
        self.literal(b"\r\n")?;
        let fields = self.field_section()?;
        let version = (major, minor);
        if version >= (1, 1) && all(&fields, b"host").len() != 1 {
            return Err(Stop::Invalid);
        }
        let encodings = all(&fields, b"transfer-encoding");
        let lengths = all(&fields, b"content-length");
        let body = match (&encodings[..], &lengths[..]) {
            ([], []) => Vec::new(),
            ([], [length]) => {
                let length = decimal(length)?;
                self.take(length)?.to_vec()
            }
            ([coding], []) if version >= (1, 1) && coding.eq_ignore_ascii_case(b"chunked") => self.chunked_body()?,
            // RFC 9112 6.1 and 6.3: everything else has no framing that all recipients agree on.
            _ => return Err(Stop::Invalid),
        };
        Ok(Message { method, target, version, fields, body })
    }

    fn response(&mut self, to_head: bool) -> Parsed<Answer> {
        self.literal(b"HTTP/1.1 ")?;
        let status = [self.digit()?, self.digit()?, self.digit()?];
        let status = status.iter().fold(0_u16, |value, &digit| value * 10 + u16::from(digit));
        self.literal(b" ")?;
        self.run(0, |b| b == b'\t' || b == b' ' || b.is_ascii_graphic() || b >= 0x80)?;
        self.literal(b"\r\n")?;
        let fields = self.field_section()?;
        let encodings = all(&fields, b"transfer-encoding");
        let lengths = all(&fields, b"content-length");
        let (mut body, mut until_close) = (Vec::new(), false);
        if !(to_head || status < 200 || status == 204 || status == 304) {
            match (&encodings[..], &lengths[..]) {
                ([], []) => {
                    until_close = true;
                    body = std::mem::take(&mut self.rest).to_vec();
                }
                ([], [length]) => {
                    let length = decimal(length)?;
                    body = self.take(length)?.to_vec();
                }
                ([coding], []) if *coding == b"chunked" => body = self.chunked_body()?,
                _ => return Err(Stop::Invalid),
            }
        } else if (status < 200 || status == 204) && encodings.len() + lengths.len() > 0 {
            // RFC 9110 8.6, RFC 9112 6.1: neither may be sent with these.
            return Err(Stop::Invalid);
        }
        Ok(Answer { status, fields, body, until_close })
    }

    fn digit(&mut self) -> Parsed<u8> {
        let byte = self.byte()?;
        if byte.is_ascii_digit() { Ok(byte - b'0') } else { Err(Stop::Invalid) }
    }

    /// *( field-line CRLF ) CRLF, with field-line = field-name ":" OWS field-value OWS
    fn field_section(&mut self) -> Parsed<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = Vec::new();
        while self.peek()? != b'\r' {
            let name = self.token()?.to_vec();
            self.literal(b":")?;
            let raw = self.run(0, |b| b == b'\t' || b == b' ' || b.is_ascii_graphic() || b >= 0x80)?;
            self.literal(b"\r\n")?;
            fields.push((name, without_ows(raw).to_vec()));
        }
        self.literal(b"\r\n")?;
        Ok(fields)
    }

    /// *chunk last-chunk trailer-section CRLF
    fn chunked_body(&mut self) -> Parsed<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let digits = self.run(1, |b| b.is_ascii_hexdigit())?;
            let size = digits.iter().try_fold(0_u64, |value, &digit| {
                let digit = u64::from((digit as char).to_digit(16).ok_or(Stop::Invalid)?);
                value.checked_mul(16).map(|value| value + digit).ok_or(Stop::Invalid)
            })?;
            self.chunk_extensions()?;
            self.literal(b"\r\n")?;
            if size == 0 {
                let trailers = self.field_section()?;
                let forbidden: &[&[u8]] = &[b"content-length", b"transfer-encoding", b"host", b"authorization"];
                let bad = trailers.iter().any(|(name, _)| forbidden.contains(&&name.to_ascii_lowercase()[..]));
                return if bad { Err(Stop::Invalid) } else { Ok(body) };
            }
            body.extend_from_slice(self.take(size)?);
            self.literal(b"\r\n")?;
        }
    }

    /// *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
    fn chunk_extensions(&mut self) -> Parsed<()> {
        let is_ws = |b| b == b' ' || b == b'\t';
        while self.peek()? != b'\r' {
            self.run(0, is_ws)?;
            self.literal(b";")?;
            self.run(0, is_ws)?;
            self.token()?;
            let before = self.rest;
            self.run(0, is_ws)?;
            if self.peek()? != b'=' {
                // The white space belongs to the next extension, if there is one.
                self.rest = before;
                continue;
            }
            self.literal(b"=")?;
            self.run(0, is_ws)?;
            if self.peek()? != b'"' {
                self.token()?;
                continue;
            }
            self.literal(b"\"")?;
            loop {
                // qdtext = HTAB / SP / %x21 / %x23-5B / %x5D-7E / obs-text; quoted-pair = "\" ( HTAB / SP / VCHAR / obs-text )
                match self.byte()? {
                    b'"' => break,
                    b'\\' => {
                        if !matches!(self.byte()?, b'\t' | b' '..=b'~' | 0x80..) {
                            return Err(Stop::Invalid);
                        }
                    }
                    b'\t' | b' '..=b'~' | 0x80.. => {}
                    _ => return Err(Stop::Invalid),
                }
            }
        }
        Ok(())
    }
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn without_ows(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn all<'f>(fields: &'f [(Vec<u8>, Vec<u8>)], name: &[u8]) -> Vec<&'f [u8]> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..]).collect()
}

/// 1*DIGIT
fn decimal(text: &[u8]) -> Parsed<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Stop::Invalid);
    }
    String::from_utf8_lossy(text).parse().map_err(|_| Stop::Invalid)
}

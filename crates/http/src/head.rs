//! A request's head: what its complete lines say, judged by the rules of RFC 9110 and 9112 and by the policy.
//!
//! The bytes stay in the driver's buffer; a [`Head`] holds spans into it. `httparse` splits the field section, our rules
//! come after it. Which rule a malformed line breaks is worked out apart (`diagnose`), off the hot path.
//! Invariant: the spans of a filled head lie within the bytes that [`crate::Step::Request`] consumed.

use crate::policy::{HeaderMap, Policy};
use crate::rules::{Rejection, Rule};
use crate::scan::{HeadLines, is_token, is_token_byte};
use crate::target;
use crate::trust::Trust;
use std::borrow::Cow;

/// A range of a head's bytes, relative to its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes of the span; empty if `bytes` is not the head that the span belongs to.
    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the span holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    fn new(start: usize, len: usize) -> Span {
        Span { start: start as u32, end: (start + len) as u32 }
    }
}

/// Field names that the engine or a bridge treats apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Any other name.
    Other,
    /// `Host`.
    Host,
    /// `Content-Type`.
    ContentType,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Expect`.
    Expect,
    /// `Upgrade`.
    Upgrade,
    /// `Cookie`.
    Cookie,
    /// `Authorization` or `Proxy-Authorization`.
    Authorization,
    /// A name with `_` that `forwarder_headers` lists, from a trusted peer: it may set what it names (`SCRIPT_NAME`).
    Forwarder,
}

/// One field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name as sent.
    pub name: Span,
    /// The value without surrounding white space. Host's value is the target's authority if the target has one.
    pub value: Span,
    /// Which name it is.
    pub known: Known,
}

/// The method, by name where it is a common one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    /// Any other token.
    Other,
}

impl Method {
    fn recognise(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }

    /// The name of a common method.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Trace => "TRACE",
            Method::Connect => "CONNECT",
            Method::Other => return None,
        })
    }
}

/// The protocol version of a request. Compares by major, then minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1, unless `permit_unconventional_http_version`.
    pub major: u8,
    /// 0 to 9.
    pub minor: u8,
}

impl Version {
    /// HTTP/1.0.
    pub const HTTP_10: Version = Version { major: 1, minor: 0 };
    /// HTTP/1.1.
    pub const HTTP_11: Version = Version { major: 1, minor: 1 };
}

/// How a request's body is delimited (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// Neither Content-Length nor Transfer-Encoding: no body.
    #[default]
    None,
    /// Content-Length, which may be 0.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

impl Framing {
    /// Whether no body byte can follow. Then no [`crate::Step::End`] is reported either.
    pub fn is_empty(self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }
}

/// A request's head. Reused from request to request: filling it again keeps its allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The method; see [`Head::method_name`] for its text.
    pub method: Method,
    /// The method as sent.
    pub method_span: Span,
    /// The request target as sent.
    pub target: Span,
    /// The target's path, still percent-encoded; see [`Head::path`].
    pub path: Span,
    /// The target's query without the question mark.
    pub query: Option<Span>,
    /// The version that the client speaks.
    pub version: Version,
    /// The fields in their order, without those that `header_map` drops.
    pub fields: Vec<Field>,
    /// Fields that `header_map` dropped.
    pub dropped_fields: u32,
    /// How the body is delimited.
    pub framing: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client would use the connection again (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// A trusted peer says that the client came by https.
    pub https: bool,
    /// The target's authority if it has one, else the value of Host.
    pub host: Option<Span>,
    /// The value of Upgrade, if Connection lists it. An offer: it is ignored unless the driver takes it.
    pub upgrade: Option<Span>,
    casefold: bool,
}

impl Default for Head {
    fn default() -> Head {
        Head {
            method: Method::Get,
            method_span: Span::default(),
            target: Span::default(),
            path: Span::default(),
            query: None,
            version: Version::HTTP_11,
            fields: Vec::new(),
            dropped_fields: 0,
            framing: Framing::None,
            expect_continue: false,
            keep_alive: false,
            https: false,
            host: None,
            upgrade: None,
            casefold: false,
        }
    }
}

impl Head {
    /// Forgets the request, keeps the allocation.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Head { fields, ..Head::default() };
    }

    /// The method's text, in upper case if `casefold_http_method` is set. Allocates only for an uncommon method in
    /// lower case.
    pub fn method_name<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let sent = self.method_span.of(bytes);
        match self.method.name() {
            Some(name) => Cow::Borrowed(name.as_bytes()),
            None if self.casefold && sent.iter().any(u8::is_ascii_lowercase) => Cow::Owned(sent.to_ascii_uppercase()),
            None => Cow::Borrowed(sent),
        }
    }

    /// The path, still percent-encoded: `/` where an absolute-form target has none, `*` for `OPTIONS *`.
    pub fn path<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.path.is_empty() { b"/" } else { self.path.of(bytes) }
    }

    /// The first field of this name, in any case.
    pub fn field<'a>(&self, bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        self.fields.iter().find(|f| f.name.of(bytes).eq_ignore_ascii_case(name)).map(|f| f.value.of(bytes))
    }

    /// The first field that is known under this name.
    pub fn known<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        self.fields.iter().find(|f| f.known == known).map(|f| f.value.of(bytes))
    }
}

/// Fields that a head on the stack can have; more need an allocation.
const FEW_FIELDS: usize = 32;

/// Reads a complete head. `bytes` begins with its first byte; `lines` is what the scan found.
pub(crate) fn parse(
    policy: &Policy,
    trust: Trust,
    bytes: &[u8],
    lines: HeadLines,
    head: &mut Head,
) -> Result<(), Rejection> {
    head.clear();
    let bytes = &bytes[..lines.len];
    let authority = parse_request_line(policy, &bytes[..lines.request_line], head)?;
    let section = lines.request_line + 2;
    let copy;
    let source = if policy.strip_header_spaces {
        copy = move_spaces_behind_colons(bytes);
        &copy[..]
    } else {
        bytes
    };
    if lines.fields <= FEW_FIELDS {
        let mut few = [httparse::EMPTY_HEADER; FEW_FIELDS];
        parse_fields(policy, trust, source, section, &mut few, authority, head)
    } else {
        let mut many = vec![httparse::EMPTY_HEADER; lines.fields];
        parse_fields(policy, trust, source, section, &mut many, authority, head)
    }
}

/// Reads method, target and version; returns the authority of an absolute-form target.
fn parse_request_line(policy: &Policy, line: &[u8], head: &mut Head) -> Result<Option<Span>, Rejection> {
    let refuse = |rule, excerpt| {
        if line.contains(&b'\r') { Rejection::showing(Rule::BareCr, line) } else { Rejection::showing(rule, excerpt) }
    };
    let malformed = || refuse(Rule::RequestLine, line);
    let method_end = memchr::memchr(b' ', line).ok_or_else(malformed)?;
    let target_start = method_end + 1;
    let target_len = memchr::memchr(b' ', &line[target_start..]).ok_or_else(malformed)?;
    let target_end = target_start + target_len;
    let (name, target, version) = (&line[..method_end], &line[target_start..target_end], &line[target_end + 1..]);
    if target.is_empty() {
        return Err(malformed());
    }

    head.method = parse_method(policy, name).map_err(|rule| refuse(rule, name))?;
    head.casefold = policy.casefold_http_method;
    head.method_span = Span::new(0, name.len());
    head.version = parse_version(policy, version).map_err(|rule| refuse(rule, version))?;
    if head.method == Method::Connect {
        return Err(Rejection::showing(Rule::MethodConnect, target));
    }
    let parts = target::parse(target, head.method == Method::Options).map_err(|rule| {
        // What stands before the host may be a password.
        let shown = memchr::memchr(b'@', target).map_or(target, |at| &target[at..]);
        refuse(rule, shown)
    })?;
    let span = |range: std::ops::Range<usize>| Span::new(target_start + range.start, range.len());
    head.target = Span::new(target_start, target_len);
    head.path = span(parts.path);
    head.query = parts.query.map(span);
    Ok(parts.authority.map(span))
}

fn parse_method(policy: &Policy, name: &[u8]) -> Result<Method, Rule> {
    let method = Method::recognise(name);
    if method != Method::Other {
        return Ok(method);
    }
    if !is_token(name) {
        return Err(Rule::Method);
    }
    if !policy.permit_unconventional_http_method
        && (!(3..=20).contains(&name.len()) || name.iter().any(|b| b.is_ascii_lowercase() || *b == b'#'))
    {
        return Err(Rule::MethodUnconventional);
    }
    Ok(if policy.casefold_http_method { Method::recognise(&name.to_ascii_uppercase()) } else { Method::Other })
}

fn parse_version(policy: &Policy, text: &[u8]) -> Result<Version, Rule> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => {
            let version = Version { major: major - b'0', minor: minor - b'0' };
            if version.major == 1 || policy.permit_unconventional_http_version {
                Ok(version)
            } else {
                Err(Rule::VersionUnsupported)
            }
        }
        _ => Err(Rule::Version),
    }
}

/// What the fields said so far about the things that may be said once.
#[derive(Default)]
struct Seen {
    content_length: Option<u64>,
    transfer_encoding: bool,
    content_type: bool,
    host: bool,
    scheme: Option<bool>,
    close: bool,
    keep_alive: bool,
    upgrade_listed: bool,
    upgrade: Option<Span>,
}

fn parse_fields<'b>(
    policy: &Policy,
    trust: Trust,
    bytes: &'b [u8],
    section: usize,
    storage: &mut [httparse::Header<'b>],
    authority: Option<Span>,
    head: &mut Head,
) -> Result<(), Rejection> {
    let parsed = match httparse::parse_headers(&bytes[section..], storage) {
        Ok(httparse::Status::Complete((_, parsed))) => parsed,
        Ok(httparse::Status::Partial) | Err(_) => return Err(diagnose(&bytes[section..])),
    };
    let base = bytes.as_ptr().addr();
    let mut seen = Seen::default();
    head.fields.reserve(parsed.len());
    for header in parsed {
        let (name, value) = (header.name.as_bytes(), header.value);
        let mut known = recognise_field(name);
        if known == Known::Other && memchr::memchr(b'_', name).is_some() {
            if trust.forwarded && is_forwarder(policy, name) {
                known = Known::Forwarder;
            } else {
                match policy.header_map {
                    HeaderMap::Drop => {
                        head.dropped_fields += 1;
                        continue;
                    }
                    HeaderMap::Refuse => return Err(Rejection::showing(Rule::FieldUnderscore, name)),
                    HeaderMap::Dangerous => {}
                }
            }
        }
        let name_span = Span::new(name.as_ptr().addr() - base, name.len());
        // An empty value's pointer may lie anywhere: its span is put behind the name.
        let value_start = if value.is_empty() { name_span.end as usize } else { value.as_ptr().addr() - base };
        let mut value_span = Span::new(value_start, value.len());
        if known != Known::Other {
            judge_field(head, &mut seen, known, value, value_span)?;
            if known == Known::Host && authority.is_some() {
                value_span = authority.unwrap_or(value_span);
            }
        }
        if trust.forwarded {
            judge_scheme(policy, &mut seen, name, value)?;
        }
        head.fields.push(Field { name: name_span, value: value_span, known });
    }
    conclude(policy, bytes, seen, authority, head)
}

/// Reads one field that the engine acts on.
fn judge_field(head: &mut Head, seen: &mut Seen, known: Known, value: &[u8], span: Span) -> Result<(), Rejection> {
    match known {
        Known::Other | Known::Cookie | Known::Authorization | Known::Forwarder => {}
        Known::Host => {
            if seen.host {
                return Err(Rejection::showing(Rule::HostRepeated, value));
            }
            if !target::valid_host(value) {
                return Err(Rejection::showing(Rule::HostInvalid, value));
            }
            seen.host = true;
            head.host = Some(span);
        }
        Known::ContentType => {
            if seen.content_type {
                return Err(Rejection::showing(Rule::ContentTypeRepeated, value));
            }
            seen.content_type = true;
        }
        Known::ContentLength => {
            if seen.content_length.is_some() {
                return Err(Rejection::showing(Rule::ContentLengthRepeated, value));
            }
            let length = parse_decimal(value).ok_or_else(|| Rejection::showing(Rule::ContentLength, value))?;
            seen.content_length = Some(length);
        }
        Known::TransferEncoding => seen.transfer_encoding = true,
        Known::Connection => {
            for option in list_members(value) {
                seen.close |= option.eq_ignore_ascii_case(b"close");
                seen.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                seen.upgrade_listed |= option.eq_ignore_ascii_case(b"upgrade");
            }
        }
        Known::Expect => {
            // RFC 9110 section 10.1.1: an HTTP/1.0 client's 100-continue is ignored.
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Rejection::showing(Rule::Expectation, value));
            }
            head.expect_continue = head.version >= Version::HTTP_11;
        }
        Known::Upgrade => seen.upgrade = seen.upgrade.or(Some(span)),
    }
    Ok(())
}

/// `secure_scheme_headers`: each that is given must say the same.
fn judge_scheme(policy: &Policy, seen: &mut Seen, name: &[u8], value: &[u8]) -> Result<(), Rejection> {
    for (secure_name, secure_value) in &policy.secure_scheme_headers {
        if name.eq_ignore_ascii_case(secure_name) {
            let secure = value == secure_value;
            if seen.scheme.is_some_and(|before| before != secure) {
                return Err(Rejection::showing(Rule::SchemeContradiction, name));
            }
            seen.scheme = Some(secure);
        }
    }
    Ok(())
}

/// The rules that need the whole field section.
fn conclude(
    policy: &Policy,
    bytes: &[u8],
    seen: Seen,
    authority: Option<Span>,
    head: &mut Head,
) -> Result<(), Rejection> {
    let speaks_11 = head.version >= Version::HTTP_11;
    if !seen.host && speaks_11 {
        return Err(Rejection::new(Rule::HostMissing));
    }
    // RFC 9112 section 3.2.2: the target's authority replaces what Host says.
    head.host = authority.or(head.host);
    head.framing = if seen.transfer_encoding {
        judge_transfer_encoding(bytes, &seen, head)?;
        Framing::Chunked
    } else {
        seen.content_length.map_or(Framing::None, Framing::Length)
    };
    if let Framing::Length(length) = head.framing
        && policy.limit_request_body > 0
        && length > policy.limit_request_body
    {
        return Err(Rejection::showing(
            Rule::BodyTooLarge,
            head.known(bytes, Known::ContentLength).unwrap_or_default(),
        ));
    }
    head.expect_continue &= !head.framing.is_empty();
    head.keep_alive = !seen.close && (speaks_11 || seen.keep_alive);
    head.https = seen.scheme == Some(true);
    // RFC 9110 section 7.8: Upgrade in an HTTP/1.0 request is ignored.
    head.upgrade = seen.upgrade.filter(|_| seen.upgrade_listed && speaks_11);
    Ok(())
}

/// RFC 9112 sections 6.1 and 6.3: `chunked`, once, alone, in HTTP/1.1, without Content-Length.
fn judge_transfer_encoding(bytes: &[u8], seen: &Seen, head: &Head) -> Result<(), Rejection> {
    let values = || head.fields.iter().filter(|f| f.known == Known::TransferEncoding).map(|f| f.value.of(bytes));
    let refuse = |rule| Err(Rejection::showing(rule, values().next().unwrap_or_default()));
    if head.version < Version::HTTP_11 {
        return refuse(Rule::EncodingOnHttp10);
    }
    if seen.content_length.is_some() {
        return refuse(Rule::LengthAndEncoding);
    }
    let (mut chunked, mut others) = (0_usize, 0_usize);
    for coding in values().flat_map(|value| value.split(|&b| b == b',')).map(trim) {
        if chunked > 0 {
            return refuse(Rule::ChunkedNotLast);
        }
        if coding.eq_ignore_ascii_case(b"chunked") {
            chunked += 1;
        } else if is_token(coding) {
            others += 1;
        } else {
            // Also parameters, of which chunked has none (section 7.1) and which nothing else that we know has.
            return refuse(Rule::TransferEncoding);
        }
    }
    if others > 0 { refuse(Rule::TransferCoding) } else { Ok(()) }
}

/// Which name it is, in any case.
fn recognise_field(name: &[u8]) -> Known {
    let is = |text: &[u8], known| if name.eq_ignore_ascii_case(text) { known } else { Known::Other };
    match name.len() {
        4 => is(b"host", Known::Host),
        6 => match name[0] | 0x20 {
            b'c' => is(b"cookie", Known::Cookie),
            _ => is(b"expect", Known::Expect),
        },
        7 => is(b"upgrade", Known::Upgrade),
        10 => is(b"connection", Known::Connection),
        12 => is(b"content-type", Known::ContentType),
        13 => is(b"authorization", Known::Authorization),
        14 => is(b"content-length", Known::ContentLength),
        17 => is(b"transfer-encoding", Known::TransferEncoding),
        19 => is(b"proxy-authorization", Known::Authorization),
        _ => Known::Other,
    }
}

fn is_forwarder(policy: &Policy, name: &[u8]) -> bool {
    policy.forwarder_headers.iter().any(|allowed| allowed == b"*" || allowed.eq_ignore_ascii_case(name))
}

/// `1*DIGIT` that fits 64 bits.
pub(crate) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, &digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// The members of a comma-separated list, without empty ones (RFC 9110 section 5.6.1.2).
pub(crate) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim).filter(|member| !member.is_empty())
}

/// Without surrounding SP and HTAB.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |at| at + 1);
    &text[start..end]
}

/// `strip_header_spaces`: in a copy, `Name  : value` becomes `Name:   value`, so that every other offset stays.
fn move_spaces_behind_colons(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for line in copy.split_mut(|&b| b == b'\n').skip(1) {
        if let Some(colon) = memchr::memchr(b':', line) {
            let name = line[..colon].iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |at| at + 1);
            if name > 0 && name < colon {
                line.swap(name, colon);
            }
        }
    }
    copy
}

/// The rule that a field line breaks, without its CRLF.
fn judge_line(line: &[u8]) -> Result<(), Rejection> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Rejection::new(Rule::ObsFold));
    }
    if memchr::memchr(b'\r', line).is_some() {
        return Err(Rejection::new(Rule::BareCr));
    }
    let Some(colon) = memchr::memchr(b':', line) else {
        return Err(Rejection::showing(Rule::FieldName, name_of(line)));
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        let trimmed = trim(name);
        let rule =
            if trimmed.len() < name.len() && is_token(trimmed) { Rule::SpaceBeforeColon } else { Rule::FieldName };
        return Err(Rejection::showing(rule, name_of(name)));
    }
    if value.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(Rejection::showing(Rule::FieldValue, name));
    }
    Ok(())
}

/// As much of a field line as may be logged: its name, as far as it is one, and the byte behind it. The rest may be a
/// secret.
pub(crate) fn name_of(line: &[u8]) -> &[u8] {
    let len = line.iter().position(|&b| !is_token_byte(b)).unwrap_or(line.len());
    &line[..line.len().min(len + 1)]
}

/// Why a field section was not accepted.
#[cold]
fn diagnose(section: &[u8]) -> Rejection {
    section
        .split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .find_map(|line| judge_line(line).err())
        .unwrap_or_else(|| Rejection::new(Rule::FieldName))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;

    proptest! {
        #[test]
        fn a_line_breaks_a_rule_exactly_when_httparse_refuses_it(
            line in prop::collection::vec(prop_oneof![4 => select(&b"aZ9-_ \t:::,"[..]), 1 => any::<u8>()], 1..12)
        ) {
            prop_assume!(!line.contains(&b'\n') && !line.ends_with(b"\r"));
            let section = [&line[..], b"\r\n\r\n"].concat();
            let mut storage = [httparse::EMPTY_HEADER; 2];
            let accepted = httparse::parse_headers(&section, &mut storage).is_ok();
            prop_assert_eq!(judge_line(&line).is_ok(), accepted, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn spaces_move_behind_the_colon_and_nothing_else_moves() {
        let moved = move_spaces_behind_colons(b"GET / HTTP/1.1\r\nA \t : b\r\nC:d\r\n : e\r\nnone\r\n\r\n");
        assert_eq!(moved, b"GET / HTTP/1.1\r\nA:\t   b\r\nC:d\r\n : e\r\nnone\r\n\r\n");
    }

    #[test]
    fn decimals_are_digits_that_fit() {
        assert_eq!(parse_decimal(b"18446744073709551615"), Some(u64::MAX));
        for wrong in ["", "18446744073709551616", "+1", "-1", "1 ", "0x1", "1_0", "\u{661}"] {
            assert_eq!(parse_decimal(wrong.as_bytes()), None, "{wrong}");
        }
    }
}

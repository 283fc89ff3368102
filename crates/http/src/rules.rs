//! Every rule by which a request can be refused: one table of id, source, status and text.
//!
//! A [`Rejection`] is the client's fault. It names its rule, and carries a few bytes of what broke it for the log; the
//! client is told the rule's text, never its own bytes. Each rule has an accepting and a refusing transcript under
//! `tests/transcripts/`, which the suite checks.

use std::fmt;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $source:literal, $status:literal, $text:literal;)*) => {
        /// A rule that a request can break.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Rule {
            $($(#[$doc])* #[doc = ""] #[doc = $text] #[doc = concat!("(", $source, ")")] $name,)*
        }

        impl Rule {
            /// All rules, in the table's order.
            pub const ALL: &'static [Rule] = &[$(Rule::$name),*];

            /// The rule's name in records, transcripts and documentation.
            pub const fn id(self) -> &'static str {
                match self { $(Rule::$name => $id,)* }
            }

            /// Where the rule comes from: RFC number and section, or the setting that makes it.
            pub const fn source(self) -> &'static str {
                match self { $(Rule::$name => $source,)* }
            }

            /// The status code of the answer.
            pub const fn status(self) -> u16 {
                match self { $(Rule::$name => $status,)* }
            }

            /// What is wrong with the request, for the client and for the log.
            pub const fn text(self) -> &'static str {
                match self { $(Rule::$name => $text,)* }
            }
        }
    };
}

rules! {
    // The head's lines.
    BareLf = "bare-lf", "RFC 9112 2.2", 400, "a line ends in LF without CR";
    BareCr = "bare-cr", "RFC 9112 2.2", 400, "a CR is not followed by LF";
    NotHttp = "not-http", "RFC 9112 3", 400, "the first byte cannot begin a method";
    TlsHandshake = "tls-handshake", "RFC 9112 3", 400, "a TLS handshake on a port that speaks plain HTTP";
    RequestLine = "request-line", "RFC 9112 3", 400, "the request line is not method, target and version, one space apart";
    RequestLineTooLong = "limit-request-line", "limit_request_line, RFC 9110 15.5.15", 414, "the request line is too long";
    HeadTruncated = "head-truncated", "RFC 9112 8", 400, "the client closed the connection inside the request head";
    HeadTimeout = "header-timeout", "header_timeout, RFC 9110 15.5.9", 408, "the request head took too long";
    // Method, target, version.
    Method = "method", "RFC 9110 9.1", 400, "the method is not a token";
    MethodUnconventional = "method-unconventional", "permit_unconventional_http_method", 400, "the method is not 3 to 20 upper-case characters";
    MethodConnect = "method-connect", "RFC 9110 9.3.6", 501, "CONNECT is not implemented";
    TargetCharacter = "target-character", "RFC 9112 3.2", 400, "the request target contains a character that is not visible ASCII";
    TargetFragment = "target-fragment", "RFC 9112 3.2", 400, "the request target contains a fragment";
    TargetForm = "target-form", "RFC 9112 3.2", 400, "the request target has a form that the method does not allow";
    TargetAuthority = "target-authority", "RFC 9112 3.2.2", 400, "the authority of the request target is not a host with an optional port";
    Version = "version", "RFC 9112 2.3", 400, "the protocol version is malformed";
    VersionUnsupported = "version-unsupported", "RFC 9110 15.6.6", 505, "the protocol version is not HTTP/1.x";
    // Fields.
    FieldName = "field-name", "RFC 9112 5", 400, "a field name is not a token";
    SpaceBeforeColon = "space-before-colon", "RFC 9112 5.1", 400, "white space between field name and colon";
    ObsFold = "obs-fold", "RFC 9112 5.2", 400, "a field line begins with white space";
    FieldValue = "field-value", "RFC 9110 5.5", 400, "a field value contains a control character";
    FieldTooLarge = "limit-request-field-size", "limit_request_field_size, RFC 6585 5", 431, "a field line is too long";
    TooManyFields = "limit-request-fields", "limit_request_fields, RFC 6585 5", 431, "there are too many fields";
    FieldUnderscore = "field-underscore", "header_map", 400, "a field name contains an underscore";
    HostMissing = "host-missing", "RFC 9112 3.2", 400, "an HTTP/1.1 request without Host";
    HostRepeated = "host-repeated", "RFC 9112 3.2", 400, "Host is given more than once";
    HostInvalid = "host-invalid", "RFC 9112 3.2", 400, "the value of Host is not a host with an optional port";
    ContentTypeRepeated = "content-type-repeated", "RFC 9110 5.3", 400, "Content-Type is given more than once";
    SchemeContradiction = "scheme-contradiction", "secure_scheme_headers", 400, "fields contradict each other about the scheme";
    Expectation = "expectation", "RFC 9110 10.1.1", 417, "an expectation other than 100-continue";
    // Framing.
    ContentLength = "content-length", "RFC 9112 6.3", 400, "the value of Content-Length is not a number";
    ContentLengthRepeated = "content-length-repeated", "RFC 9112 6.3", 400, "Content-Length is given more than once";
    LengthAndEncoding = "length-and-encoding", "RFC 9112 6.1", 400, "both Content-Length and Transfer-Encoding are given";
    EncodingOnHttp10 = "encoding-on-http10", "RFC 9112 6.1", 400, "Transfer-Encoding in an HTTP/1.0 request";
    TransferEncoding = "transfer-encoding", "RFC 9112 6.1", 400, "the value of Transfer-Encoding is malformed";
    TransferCoding = "transfer-coding", "RFC 9112 6.1", 501, "a transfer coding other than chunked";
    ChunkedNotLast = "chunked-not-last", "RFC 9112 6.3", 400, "chunked is not the last transfer coding, or is repeated";
    // Bodies.
    BodyTooLarge = "limit-request-body", "limit_request_body, RFC 9110 15.5.14", 413, "the request body is too large";
    ChunkSize = "chunk-size", "RFC 9112 7.1", 400, "a chunk size is malformed";
    ChunkExtension = "chunk-extension", "RFC 9112 7.1.1", 400, "a chunk extension is malformed";
    ChunkLineTooLong = "chunk-line-too-long", "RFC 9112 7.1.1", 400, "a chunk-size line is too long";
    ChunkOverhead = "chunk-overhead", "RFC 9112 7.1.1", 400, "chunk-size lines outweigh the data by more than 16 KiB";
    ChunkEnd = "chunk-end", "RFC 9112 7.1", 400, "chunk data is not followed by CRLF";
    TrailerForbidden = "trailer-forbidden", "RFC 9110 6.5.1", 400, "a field that may not be sent as a trailer";
    BodyTruncated = "body-truncated", "RFC 9112 8", 400, "the client closed the connection inside the request body";
    BodyTimeout = "body-timeout", "body_timeout, RFC 9110 15.5.9", 408, "the request body made no progress";
    // PROXY.
    ProxyUntrusted = "proxy-untrusted", "proxy_allow_ips", 403, "a PROXY header from a peer that may not send one";
    ProxyMalformed = "proxy-malformed", "PROXY protocol 2", 400, "the PROXY header is malformed";
}

/// The first bytes of what broke a rule, for the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    len: u8,
    cut: bool,
    bytes: [u8; Excerpt::MOST],
}

impl Excerpt {
    /// Bytes kept.
    const MOST: usize = 46;

    fn of(bytes: &[u8]) -> Excerpt {
        let len = bytes.len().min(Excerpt::MOST);
        let mut excerpt = Excerpt { len: len as u8, cut: bytes.len() > len, bytes: [0; Excerpt::MOST] };
        excerpt.bytes[..len].copy_from_slice(&bytes[..len]);
        excerpt
    }

    /// The bytes, not escaped.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Excerpt {
    /// Printable ASCII, everything else escaped: fit for a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"{}", self.as_bytes().escape_ascii(), if self.cut { "..." } else { "" })
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A request that is refused, and why. `Display` is the line for the log: `bare-lf (RFC 9112 2.2): a line ..: "GET /"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The rule that was broken.
    pub rule: Rule,
    /// What broke it; may be a credential's field name, never a field's value other than Host, Expect and the framing
    /// fields. Empty where nothing can be shown.
    pub excerpt: Excerpt,
}

impl Rejection {
    pub(crate) fn new(rule: Rule) -> Rejection {
        Rejection::showing(rule, b"")
    }

    pub(crate) fn showing(rule: Rule, bytes: &[u8]) -> Rejection {
        Rejection { rule, excerpt: Excerpt::of(bytes) }
    }

    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        self.rule.status()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.rule.id(), self.rule.source(), self.rule.text())?;
        if self.excerpt.len > 0 { write!(f, ": {}", self.excerpt) } else { Ok(()) }
    }
}

impl std::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_statuses_are_client_errors_or_not_implemented() {
        let ids: HashSet<_> = Rule::ALL.iter().map(|rule| rule.id()).collect();
        assert_eq!(ids.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert!(matches!(rule.status(), 400..=431 | 501 | 505), "{}", rule.id());
        }
    }

    #[test]
    fn a_rejection_prints_rule_source_text_and_an_escaped_excerpt() {
        let rejection = Rejection::showing(Rule::BareLf, b"GET /\x1b[31m\n");
        assert_eq!(rejection.to_string(), r#"bare-lf (RFC 9112 2.2): a line ends in LF without CR: "GET /\x1b[31m\n""#);
        let long = Rejection::showing(Rule::BareLf, &[b'x'; 100]).to_string();
        assert!(long.ends_with("xxx\"..."), "{long}");
    }
}

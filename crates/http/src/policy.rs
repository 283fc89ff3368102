//! What the operator decided about HTTP: limits, timeouts and Gunicorn's policies, resolved to numbers.
//!
//! Knows nothing of where settings come from. One `Policy` is shared by all connections of a worker and never changes
//! under them.

use std::time::Duration;

/// The longest request line and the longest field line that any policy permits, in bytes. It is what `0` ("no limit")
/// means: a head is kept in memory until it is complete, so something must bound it.
pub(crate) const LARGEST_LINE: usize = 65_536;
/// The most fields that any policy permits (Gunicorn's own maximum).
pub(crate) const MOST_FIELDS: usize = 32_768;

/// What happens to a field whose name contains `_`, which CGI names cannot tell from `-` (Gunicorn's `header_map`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderMap {
    /// The field is left out, as though it had not been sent; it counts against the limits.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
    /// The field is passed on.
    Dangerous,
}

/// Which PROXY header may precede the first request (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProxyProtocol {
    /// None: the bytes are parsed as HTTP.
    #[default]
    Off,
    /// The text form.
    V1,
    /// The binary form.
    V2,
    /// Either.
    Auto,
}

impl ProxyProtocol {
    /// Whether the text form is looked for.
    pub(crate) const fn wants_v1(self) -> bool {
        matches!(self, ProxyProtocol::V1 | ProxyProtocol::Auto)
    }

    /// Whether the binary form is looked for.
    pub(crate) const fn wants_v2(self) -> bool {
        matches!(self, ProxyProtocol::V2 | ProxyProtocol::Auto)
    }
}

/// The settings that the engine obeys. Names are Gunicorn's where Gunicorn has the setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Bytes of the request line without its CRLF (414). 0, and anything above 65,536, means 65,536.
    pub limit_request_line: usize,
    /// Fields in a head, and again in a trailer section (431). 0, and anything above 32,768, means 32,768.
    pub limit_request_fields: usize,
    /// Bytes of one field line with its CRLF (431); also bounds a chunk-size line and a trailer line. 0, and anything
    /// above 65,536, means 65,536.
    pub limit_request_field_size: usize,
    /// Bytes of a request body (413). 0: no limit.
    pub limit_request_body: u64,
    /// Fields whose name contains `_`.
    pub header_map: HeaderMap,
    /// Names with `_` that a peer trusted by `forwarded_allow_ips` may send, in any case; `*` stands for all.
    pub forwarder_headers: Vec<Vec<u8>>,
    /// Field name (any case) and exact value by which a trusted peer says that the client came by https.
    pub secure_scheme_headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Accept any token as the method; otherwise 3 to 20 characters, no lower case, no `#`.
    pub permit_unconventional_http_method: bool,
    /// Accept any `HTTP/d.d`; otherwise 1.x.
    pub permit_unconventional_http_version: bool,
    /// Give the method in upper case to the application (after the check above, as Gunicorn does).
    pub casefold_http_method: bool,
    /// Accept white space between field name and colon. Unsafe: RFC 9112 section 5.1 has it refused because parties
    /// that read such a line differently can be made to frame different messages.
    pub strip_header_spaces: bool,
    /// Time from a head's first byte to its last (408); a new connection that stays silent for so long is closed
    /// without an answer. Zero: no limit.
    pub header_timeout: Duration,
    /// Time without progress while a body is received (408). Zero: no limit.
    pub body_timeout: Duration,
    /// Time that an idle connection is kept between requests. Zero: no keep-alive.
    pub keepalive: Duration,
    /// Which PROXY header is understood.
    pub proxy_protocol: ProxyProtocol,
    /// Value of the `Server` field when the application gives none; empty: no such field.
    pub server_header: Vec<u8>,
}

impl Default for Policy {
    /// The defaults of the settings table: Gunicorn's, but for `keepalive` (75 s).
    fn default() -> Policy {
        Policy {
            limit_request_line: 4094,
            limit_request_fields: 100,
            limit_request_field_size: 8190,
            limit_request_body: 0,
            header_map: HeaderMap::Drop,
            forwarder_headers: vec![b"SCRIPT_NAME".to_vec(), b"PATH_INFO".to_vec()],
            secure_scheme_headers: vec![
                (b"X-FORWARDED-PROTOCOL".to_vec(), b"ssl".to_vec()),
                (b"X-FORWARDED-PROTO".to_vec(), b"https".to_vec()),
                (b"X-FORWARDED-SSL".to_vec(), b"on".to_vec()),
            ],
            permit_unconventional_http_method: false,
            permit_unconventional_http_version: false,
            casefold_http_method: false,
            strip_header_spaces: false,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            keepalive: Duration::from_secs(75),
            proxy_protocol: ProxyProtocol::Off,
            server_header: b"rgunicorn".to_vec(),
        }
    }
}

impl Policy {
    /// The request line's limit in bytes, without CRLF.
    pub(crate) fn line_limit(&self) -> usize {
        bounded(self.limit_request_line, LARGEST_LINE)
    }

    /// The most fields of a head or of a trailer section.
    pub(crate) fn fields_limit(&self) -> usize {
        bounded(self.limit_request_fields, MOST_FIELDS)
    }

    /// A field line's limit in bytes, with CRLF.
    pub(crate) fn field_limit(&self) -> usize {
        bounded(self.limit_request_field_size, LARGEST_LINE)
    }

    /// The most bytes that a driver ever has to hold for one head, from its first byte to the empty line: what the
    /// limits above add up to.
    pub fn largest_head(&self) -> usize {
        self.line_limit() + 4 + self.fields_limit() * self.field_limit()
    }
}

/// `limit`, or `most` where `limit` is 0 or larger than it.
fn bounded(limit: usize, most: usize) -> usize {
    if limit == 0 { most } else { limit.min(most) }
}

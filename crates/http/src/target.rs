//! Request targets and authorities (RFC 9112 section 3.2, RFC 3986): which form, which part is the path.
//!
//! Percent-encoding is not judged: the raw target is kept as it came, a `%` that begins no escape stays a `%`, `%00`
//! and `%2F` are the application's business. Refusing them would break clients that Gunicorn serves (nginx refuses `%00`
//! and broken escapes in front of us), and none of them changes where a request ends.

use crate::rules::Rule;
use std::net::Ipv6Addr;
use std::ops::Range;

/// Decodes `%xx` escapes and appends the result to `out`; a `%` that is not followed by two hexadecimal digits is
/// copied as it stands (what `urllib.parse.unquote_to_bytes` does).
pub fn percent_decode_into(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        let escape = match rest[at + 1..] {
            [high, low, ..] => hex_value(high).zip(hex_value(low)),
            _ => None,
        };
        match escape {
            Some((high, low)) => {
                out.push(high << 4 | low);
                rest = &rest[at + 3..];
            }
            None => {
                out.push(b'%');
                rest = &rest[at + 1..];
            }
        }
    }
    out.extend_from_slice(rest);
}

/// The value of a hexadecimal digit.
pub(crate) const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Whether `host` is `uri-host [ ":" port ]` (RFC 9110 section 7.2); the empty value is one.
pub fn valid_host(host: &[u8]) -> bool {
    let (name_is_valid, port) = if let Some(literal) = host.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', literal) else { return false };
        let address = std::str::from_utf8(&literal[..end]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
        (address.is_some(), &literal[end + 1..])
    } else {
        let end = memchr::memchr(b':', host).unwrap_or(host.len());
        (valid_reg_name(&host[..end]), &host[end..])
    };
    name_is_valid && (port.is_empty() || port.strip_prefix(b":").is_some_and(valid_port))
}

/// RFC 3986 section 3.2.2: unreserved, percent escapes and sub-delims.
fn valid_reg_name(name: &[u8]) -> bool {
    if name.iter().all(|&b| REG_NAME[usize::from(b)]) {
        return true;
    }
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            _ if REG_NAME[usize::from(first)] => tail,
            _ => return false,
        };
    }
    true
}

/// `*DIGIT`, and a number that a port can have.
fn valid_port(port: &[u8]) -> bool {
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0')) <= u32::from(u16::MAX)
}

const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

/// The parts of a request target, as offsets into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Of an absolute-form target.
    pub(crate) authority: Option<Range<usize>>,
    /// Empty where an absolute-form target has no path.
    pub(crate) path: Range<usize>,
    /// Without the question mark.
    pub(crate) query: Option<Range<usize>>,
}

/// Takes a target apart. `options` tells that the method is OPTIONS, which alone may ask for `*`. The authority-form
/// belongs to CONNECT, which is refused earlier.
pub(crate) fn parse(target: &[u8], options: bool) -> Result<Target, Rule> {
    if !target.iter().fold(true, |visible, &b| visible & b.is_ascii_graphic()) {
        return Err(Rule::TargetCharacter);
    }
    if memchr::memchr(b'#', target).is_some() {
        return Err(Rule::TargetFragment);
    }
    if target.first() == Some(&b'/') {
        return Ok(split_path(target, 0, None));
    }
    if target == b"*" && options {
        return Ok(Target { authority: None, path: 0..1, query: None });
    }
    let Some(start) = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))
        .map(<[u8]>::len)
    else {
        return Err(Rule::TargetForm);
    };
    let end = memchr::memchr2(b'/', b'?', &target[start..]).map_or(target.len(), |at| start + at);
    let authority = &target[start..end];
    // RFC 9110 section 4.2: an http URI without a host is invalid, and so (4.2.4) is user information in a request.
    if authority.is_empty() || authority[0] == b':' || !valid_host(authority) {
        return Err(Rule::TargetAuthority);
    }
    Ok(split_path(target, end, Some(start..end)))
}

fn split_path(target: &[u8], start: usize, authority: Option<Range<usize>>) -> Target {
    match memchr::memchr(b'?', &target[start..]) {
        None => Target { authority, path: start..target.len(), query: None },
        Some(at) => Target { authority, path: start..start + at, query: Some(start + at + 1..target.len()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_with_an_optional_port_are_hosts() {
        for valid in [
            "",
            "localhost",
            "example.com:",
            "example.com:80",
            "a_b.example",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:8000",
            "[::ffff:1.2.3.4]:",
            "%41.example",
            "a,b",
            ":80",
        ] {
            assert!(valid_host(valid.as_bytes()), "{valid}");
        }
        for invalid in [
            "a b",
            "user@host",
            "host/path",
            "host:80:80",
            "host:-1",
            "host:65536",
            "host:000080",
            "[::1",
            "[::g]",
            "[::1]x",
            "%4.example",
            "%zz",
            "h\u{e9}",
            "a?b",
            "a#b",
            "[::1%eth0]",
        ] {
            assert!(!valid_host(invalid.as_bytes()), "{invalid}");
        }
    }

    #[test]
    fn escapes_are_decoded_and_stray_percent_signs_kept() {
        for (raw, decoded) in [
            ("/plain", "/plain"),
            ("/%41%62%2F%00", "/Ab/\0"),
            ("/100%", "/100%"),
            ("/%4", "/%4"),
            ("/%zz%41", "/%zzA"),
            ("%%41", "%A"),
        ] {
            let mut out = Vec::new();
            percent_decode_into(raw.as_bytes(), &mut out);
            assert_eq!(out, decoded.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn targets_come_apart_into_authority_path_and_query() {
        for (text, authority, path, query) in [
            ("/", None, "/", None),
            ("//double//slash?a?b", None, "//double//slash", Some("a?b")),
            ("/?", None, "/", Some("")),
            ("HTTP://Example.com:80/x?y", Some("Example.com:80"), "/x", Some("y")),
            ("https://[::1]", Some("[::1]"), "", None),
            ("http://a?q", Some("a"), "", Some("q")),
        ] {
            let target = parse(text.as_bytes(), false).unwrap();
            assert_eq!(target.authority.map(|range| &text[range]), authority, "{text}");
            assert_eq!(&text[target.path], path, "{text}");
            assert_eq!(target.query.map(|range| &text[range]), query, "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused_by_the_rule_that_they_break() {
        for (text, rule) in [
            ("*", Rule::TargetForm),
            ("example.com:80", Rule::TargetForm),
            ("ftp://example.com/", Rule::TargetForm),
            ("", Rule::TargetForm),
            ("/a\u{80}", Rule::TargetCharacter),
            ("/a\0", Rule::TargetCharacter),
            ("/a#b", Rule::TargetFragment),
            ("http:///x", Rule::TargetAuthority),
            ("http://:80/x", Rule::TargetAuthority),
            ("http://user@host/", Rule::TargetAuthority),
        ] {
            assert_eq!(parse(text.as_bytes(), false), Err(rule), "{text}");
        }
        assert!(parse(b"*", true).is_ok());
    }
}

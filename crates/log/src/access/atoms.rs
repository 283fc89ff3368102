//! The values of the access log's atoms that are not simply a field of the record.

use super::AccessRecord;
use std::time::Duration;

/// Microseconds, all days included (Gunicorn's `%(D)s` drops them).
pub(crate) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Path and query of a request target in origin or absolute form, both as received, without the `?`.
pub(crate) fn path_and_query(target: &[u8]) -> (&[u8], &[u8]) {
    let target = match target.first() {
        Some(b'/') | None => target,
        Some(_) => after_authority(target),
    };
    match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

fn after_authority(target: &[u8]) -> &[u8] {
    let Some(scheme) = target.windows(3).position(|window| window == b"://") else { return target };
    let rest = &target[scheme + 3..];
    rest.iter().position(|&byte| byte == b'/' || byte == b'?').map_or(&b"/"[..], |at| &rest[at..])
}

/// The path of `%(U)s`, PATH_INFO: percent-decoded, without SCRIPT_NAME. Calls `take` with its bytes, piece by piece.
pub(crate) fn path_info<'a>(request: &AccessRecord<'a>, mut take: impl FnMut(&[u8])) {
    let (path, _) = path_and_query(request.target);
    let mut rest: &'a [u8] = path.strip_prefix(request.script_name).unwrap_or(path);
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        take(&rest[..at]);
        match hex_pair(&rest[at + 1..]) {
            Some(byte) => {
                take(&[byte]);
                rest = &rest[at + 3..];
            }
            None => {
                take(b"%");
                rest = &rest[at + 1..];
            }
        }
    }
    take(rest);
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// The user's name of basic authentication (RFC 7617); the password is not decoded into anything that is kept.
pub(crate) fn user(request: &AccessRecord<'_>) -> Option<Vec<u8>> {
    const SCHEME: usize = "basic ".len();
    let header = request.lookup.request_header("authorization")?;
    let scheme = header.get(..SCHEME)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut user = Vec::new();
    let mut bits = 0_u32;
    let mut count = 0;
    for &byte in header[SCHEME..].trim_ascii() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            // The lowest eight of the bits that remain.
            let decoded = (bits >> count) as u8;
            if decoded == b':' {
                break;
            }
            user.push(decoded);
        }
    }
    (!user.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Lookup;
    use std::borrow::Cow;

    struct Authorization(&'static [u8]);

    impl Lookup for Authorization {
        fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            (name == "authorization").then_some(Cow::Borrowed(self.0))
        }

        fn response_header(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
            None
        }

        fn environ(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
            None
        }
    }

    fn request<'a>(target: &'a [u8], script_name: &'a [u8], lookup: &'a dyn Lookup) -> AccessRecord<'a> {
        AccessRecord {
            remote_addr: b"",
            method: b"GET",
            target,
            protocol: b"HTTP/1.1",
            script_name,
            status: 200,
            bytes: 0,
            duration: Duration::ZERO,
            queue: Duration::ZERO,
            request_id: b"",
            lookup,
        }
    }

    #[test]
    fn a_target_is_taken_apart_in_all_its_forms() {
        assert_eq!(path_and_query(b"/a?b?c"), (&b"/a"[..], &b"b?c"[..]));
        assert_eq!(path_and_query(b"http://host:80/a?b"), (&b"/a"[..], &b"b"[..]));
        assert_eq!(path_and_query(b"http://host"), (&b"/"[..], &b""[..]));
        assert_eq!(path_and_query(b"*"), (&b"*"[..], &b""[..]));
        assert_eq!(path_and_query(b""), (&b""[..], &b""[..]));
    }

    #[test]
    fn path_info_is_decoded_and_without_the_script_name() {
        let shown = |target, script| {
            let mut path = Vec::new();
            path_info(&request(target, script, &crate::NoLookup), |piece| path.extend_from_slice(piece));
            path
        };
        assert_eq!(shown(b"/app/a%20b%zz%4?q", b"/app"), b"/a b%zz%4");
        assert_eq!(shown(b"/%0A", b""), b"/\n");
    }

    #[test]
    fn the_user_is_decoded_and_the_password_is_not() {
        let shown = |header| user(&request(b"/", b"", &Authorization(header)));
        assert_eq!(shown(b"Basic dXNlcjpzZWNyZXQ=").as_deref(), Some(&b"user"[..]));
        assert_eq!(shown(b"basic dXNlcg==").as_deref(), Some(&b"user"[..]));
        assert_eq!(shown(b"Bearer dXNlcg=="), None);
        assert_eq!(shown(b"Basic d\"\n"), None);
        assert_eq!(shown(b"Basic Og=="), None);
    }
}

//! Reads transcript files.

use rgunicorn_http::{HeaderMap, Policy, ProxyProtocol, Trust};
use std::time::Duration;

/// One conversation.
pub(crate) struct Case {
    /// File and sentence.
    pub(crate) title: String,
    pub(crate) accepts: Vec<String>,
    pub(crate) refuses: Vec<String>,
    pub(crate) policy: Policy,
    pub(crate) trust: Trust,
    pub(crate) lines: Vec<Line>,
    /// Whether `field` events are compared.
    pub(crate) lists_fields: bool,
}

/// What happens, in order; expectations of events are collected in `Expect`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    Arrive(Vec<u8>),
    Fin,
    Clock(Duration),
    Order(String),
    Ask(String),
    Expect(String),
    Sent(Vec<u8>),
}

/// The settings of a transcript that says nothing.
pub(crate) fn test_policy() -> Policy {
    Policy {
        header_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(20),
        keepalive: Duration::from_secs(5),
        server_header: Vec::new(),
        ..Policy::default()
    }
}

/// All cases of a file.
pub(crate) fn parse_file(name: &str, text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            cases.push(Case {
                title: format!("{place}: {title}"),
                accepts: Vec::new(),
                refuses: Vec::new(),
                policy: test_policy(),
                trust: Trust::default(),
                lines: Vec::new(),
                lists_fields: false,
            });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("{place}: a line before the first case"));
        parse_line(&place, line, case);
    }
    cases
}

fn parse_line(place: &str, line: &str, case: &mut Case) {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if let Some(rest) = line.strip_prefix("accepts:") {
        case.accepts.extend(words(rest));
    } else if let Some(rest) = line.strip_prefix("refuses:") {
        case.refuses.extend(words(rest));
    } else if let Some(rest) = line.strip_prefix("policy:") {
        for word in rest.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, "true"));
            set_policy(place, &mut case.policy, name, value);
        }
    } else if let Some(rest) = line.strip_prefix("trust:") {
        case.trust.forwarded |= rest.contains("forwarded");
        case.trust.proxy |= rest.contains("proxy");
    } else if line == "> FIN" {
        case.lines.push(Line::Fin);
    } else if let Some(rest) = line.strip_prefix("> ") {
        let bytes = unescape(place, rest);
        match case.lines.last_mut() {
            Some(Line::Arrive(before)) => before.extend(bytes),
            _ => case.lines.push(Line::Arrive(bytes)),
        }
    } else if let Some(rest) = line.strip_prefix("< ") {
        let bytes = unescape(place, rest);
        match case.lines.last_mut() {
            Some(Line::Sent(before)) => before.extend(bytes),
            _ => case.lines.push(Line::Sent(bytes)),
        }
    } else if line == "<" {
        case.lines.push(Line::Sent(Vec::new()));
    } else if let Some(rest) = line.strip_prefix("+ ") {
        case.lines.push(Line::Clock(parse_duration(place, rest)));
    } else if let Some(rest) = line.strip_prefix("! ") {
        case.lines.push(Line::Order(rest.to_owned()));
    } else if let Some(rest) = line.strip_prefix("? ") {
        case.lines.push(Line::Ask(rest.to_owned()));
    } else if let Some(rest) = line.strip_prefix("= ") {
        case.lists_fields |= rest.starts_with("field ");
        let event = match rest.strip_prefix("body ") {
            Some(text) => format!("body {}", unescape(place, text).escape_ascii()),
            None => rest.to_owned(),
        };
        case.lines.push(Line::Expect(event));
    } else {
        panic!("{place}: not a transcript line: {line}");
    }
}

fn set_policy(place: &str, policy: &mut Policy, name: &str, value: &str) {
    let number = || value.parse::<usize>().unwrap_or_else(|_| panic!("{place}: {name} wants a number"));
    match name {
        "limit_request_line" => policy.limit_request_line = number(),
        "limit_request_fields" => policy.limit_request_fields = number(),
        "limit_request_field_size" => policy.limit_request_field_size = number(),
        "limit_request_body" => policy.limit_request_body = number() as u64,
        "header_map" => {
            policy.header_map = match value {
                "drop" => HeaderMap::Drop,
                "refuse" => HeaderMap::Refuse,
                "dangerous" => HeaderMap::Dangerous,
                _ => panic!("{place}: header_map={value}"),
            }
        }
        "forwarder_headers" => policy.forwarder_headers = value.split(',').map(|n| n.as_bytes().to_vec()).collect(),
        "permit_unconventional_http_method" => policy.permit_unconventional_http_method = true,
        "permit_unconventional_http_version" => policy.permit_unconventional_http_version = true,
        "casefold_http_method" => policy.casefold_http_method = true,
        "strip_header_spaces" => policy.strip_header_spaces = true,
        "header_timeout" => policy.header_timeout = parse_duration(place, value),
        "body_timeout" => policy.body_timeout = parse_duration(place, value),
        "keepalive" => policy.keepalive = parse_duration(place, value),
        "proxy_protocol" => {
            policy.proxy_protocol = match value {
                "off" => ProxyProtocol::Off,
                "v1" => ProxyProtocol::V1,
                "v2" => ProxyProtocol::V2,
                "auto" => ProxyProtocol::Auto,
                _ => panic!("{place}: proxy_protocol={value}"),
            }
        }
        "server_header" => policy.server_header = value.as_bytes().to_vec(),
        _ => panic!("{place}: no setting {name}"),
    }
}

fn parse_duration(place: &str, text: &str) -> Duration {
    let parse = |number: &str| number.parse::<u64>().unwrap_or_else(|_| panic!("{place}: not a duration: {text}"));
    match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(parse(number)),
        None => Duration::from_secs(parse(text.strip_suffix('s').unwrap_or(text))),
    }
}

/// The bytes that a line stands for.
pub(crate) fn unescape(place: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            out.push(byte);
            rest = tail;
            continue;
        }
        let (&kind, tail) = tail.split_first().unwrap_or_else(|| panic!("{place}: a lone backslash"));
        rest = tail;
        match kind {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(&tail[..2]).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{place}: \\x{digits}")));
                rest = &tail[2..];
            }
            b'{' => {
                let end = tail.iter().position(|&b| b == b'}').unwrap_or_else(|| panic!("{place}: no closing brace"));
                let inside = std::str::from_utf8(&tail[..end]).unwrap();
                let (piece, times) = inside.rsplit_once('*').unwrap_or_else(|| panic!("{place}: {inside}"));
                let piece = unescape(place, piece);
                for _ in 0..times.parse::<usize>().unwrap_or_else(|_| panic!("{place}: {inside}")) {
                    out.extend_from_slice(&piece);
                }
                rest = &tail[end + 1..];
            }
            other => panic!("{place}: unknown escape \\{}", other as char),
        }
    }
    out
}

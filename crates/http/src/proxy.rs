//! The PROXY header, text and binary form: who the client is, as told by a load balancer that does not speak HTTP.
//!
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, sections 2.1 and 2.2. Looks at bytes only;
//! whether the peer is believed is decided by [`crate::Trust::proxy`].

use crate::policy::ProxyProtocol;
use crate::rules::{Rejection, Rule};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a PROXY header says about its connection; it holds for all requests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// 1 or 2.
    pub version: u8,
    /// Source (the client) and destination (where it connected to). `None` for v1 `UNKNOWN`, v2 `LOCAL` and families
    /// without IP addresses: the connection's own addresses hold.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// What the bytes before the first request are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sniffed {
    /// May still become a PROXY header.
    NeedMore,
    /// No PROXY header; HTTP begins at the first byte.
    Absent,
    /// A header of so many bytes.
    Header { consumed: usize, header: ProxyHeader },
    /// The beginning of a header that breaks a rule.
    Rejected(Rejection),
}

const V1_PREFIX: &[u8] = b"PROXY ";
/// The longest v1 line, CRLF included (section 2.1).
const V1_LONGEST: usize = 107;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;
/// The longest v2 address block that we take, in bytes. The format permits 65,535; certificates in TLVs stay far below.
const V2_LONGEST: usize = 4096;

/// Looks for a PROXY header at the beginning of a connection.
pub(crate) fn sniff(wanted: ProxyProtocol, trusted: bool, input: &[u8]) -> Sniffed {
    let (v1, v2) = (wanted.wants_v1(), wanted.wants_v2());
    let is_v1 = v1 && begins(input, V1_PREFIX);
    let is_v2 = v2 && begins(input, V2_SIGNATURE);
    if !is_v1 && !is_v2 {
        return Sniffed::Absent;
    }
    let recognised = if is_v1 { input.len() >= V1_PREFIX.len() } else { input.len() >= V2_SIGNATURE.len() };
    if !recognised {
        return Sniffed::NeedMore;
    }
    if !trusted {
        return Sniffed::Rejected(Rejection::new(Rule::ProxyUntrusted));
    }
    if is_v1 { parse_v1(input) } else { parse_v2(input) }
}

/// Whether `input` begins with `prefix`, or is a beginning of it.
fn begins(input: &[u8], prefix: &[u8]) -> bool {
    let common = input.len().min(prefix.len());
    input[..common] == prefix[..common]
}

fn parse_v1(input: &[u8]) -> Sniffed {
    let window = &input[..input.len().min(V1_LONGEST)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        if window.len() < V1_LONGEST {
            return Sniffed::NeedMore;
        }
        return Sniffed::Rejected(Rejection::showing(Rule::ProxyMalformed, window));
    };
    match window[..end].strip_suffix(b"\r").and_then(parse_v1_line) {
        Some(addresses) => Sniffed::Header { consumed: end + 1, header: ProxyHeader { version: 1, addresses } },
        None => Sniffed::Rejected(Rejection::showing(Rule::ProxyMalformed, &window[..end])),
    }
}

/// The addresses of a line without its CRLF; `None` for a malformed one.
#[expect(clippy::option_option, reason = "outer: well-formed, inner: gives addresses")]
fn parse_v1_line(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Section 2.1: the receiver must ignore anything that follows.
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (IpAddr::V4(source.parse().ok()?), IpAddr::V4(destination.parse().ok()?)),
        "TCP6" => (IpAddr::V6(source.parse().ok()?), IpAddr::V6(destination.parse().ok()?)),
        _ => return None,
    };
    let (source_port, destination_port) = (parse_port(words.next()?)?, parse_port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Some((SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))))
}

/// A decimal port without sign and without leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

fn parse_v2(input: &[u8]) -> Sniffed {
    let malformed = || Sniffed::Rejected(Rejection::showing(Rule::ProxyMalformed, &input[..input.len().min(V2_FIXED)]));
    let &[version_command, family_protocol, high, low, ..] = &input[V2_SIGNATURE.len()..] else {
        return Sniffed::NeedMore;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 || length > V2_LONGEST {
        return malformed();
    }
    let Some(block) = input.get(V2_FIXED..V2_FIXED + length) else {
        // Malformed headers are refused at once, not after their last byte.
        return match (version_command & 0xf, family_protocol) {
            (0, _) | (1, 0x00 | 0x11 | 0x21 | 0x31) => Sniffed::NeedMore,
            _ => malformed(),
        };
    };
    let addresses = match (version_command & 0xf, family_protocol) {
        // LOCAL (a health check), UNSPEC and unix streams: the connection's own addresses hold.
        (0, _) | (1, 0x00 | 0x31) => Some(None),
        (1, 0x11) => parse_v2_inet(block).map(Some),
        (1, 0x21) => parse_v2_inet6(block).map(Some),
        _ => None,
    };
    match addresses {
        Some(addresses) => {
            Sniffed::Header { consumed: V2_FIXED + length, header: ProxyHeader { version: 2, addresses } }
        }
        None => malformed(),
    }
}

fn parse_v2_inet(block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (&source, rest) = block.split_first_chunk::<4>()?;
    let (&destination, rest) = rest.split_first_chunk::<4>()?;
    let (source_port, destination_port) = parse_v2_ports(rest)?;
    Some((
        SocketAddr::new(Ipv4Addr::from(source).into(), source_port),
        SocketAddr::new(Ipv4Addr::from(destination).into(), destination_port),
    ))
}

fn parse_v2_inet6(block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (&source, rest) = block.split_first_chunk::<16>()?;
    let (&destination, rest) = rest.split_first_chunk::<16>()?;
    let (source_port, destination_port) = parse_v2_ports(rest)?;
    Some((
        SocketAddr::new(Ipv6Addr::from(source).into(), source_port),
        SocketAddr::new(Ipv6Addr::from(destination).into(), destination_port),
    ))
}

fn parse_v2_ports(rest: &[u8]) -> Option<(u16, u16)> {
    let (&[a, b, c, d], _tlvs) = rest.split_first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

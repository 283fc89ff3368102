//! Who is believed: sets of addresses (`forwarded_allow_ips`, `proxy_allow_ips`) and what they grant one connection.
//!
//! Knows nothing of sockets: the reactor asks with the peer's address and passes the answer to the engine.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What the peer of one connection may tell us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trust {
    /// `secure_scheme_headers` and `forwarder_headers` are believed (`forwarded_allow_ips`).
    pub forwarded: bool,
    /// A PROXY header is believed (`proxy_allow_ips`).
    pub proxy: bool,
}

/// Addresses and networks, or everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpSet {
    everybody: bool,
    /// Network and prefix length; IPv4 as IPv4-mapped IPv6.
    networks: Vec<(u128, u8)>,
}

/// An entry that is neither an address, nor a network, nor `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpSetError {
    /// The entry as it was given.
    pub entry: String,
    /// What is wrong with it, for the operator.
    pub reason: &'static str,
}

impl fmt::Display for IpSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.entry, self.reason)
    }
}

impl std::error::Error for IpSetError {}

impl IpSet {
    /// Reads entries such as `127.0.0.1`, `10.0.0.0/8`, `fd00::/8` and `*`. Empty entries are passed over.
    ///
    /// # Errors
    /// The first entry that is not an address, a network or `*`, or whose address has bits beyond its prefix.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<IpSet, IpSetError> {
        let mut set = IpSet::default();
        for entry in entries {
            let entry = entry.as_ref().trim();
            match entry {
                "" => {}
                "*" => set.everybody = true,
                _ => set
                    .networks
                    .push(parse_network(entry).map_err(|reason| IpSetError { entry: entry.to_owned(), reason })?),
            }
        }
        Ok(set)
    }

    /// Whether the address belongs to the set. An IPv4-mapped IPv6 address is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = to_bits(address);
        self.everybody || self.networks.iter().any(|&(network, prefix)| bits & mask(prefix) == network)
    }

    /// Whether a connection's peer is trusted; a peer on a unix socket (`None`) always is, since the socket's mode has
    /// already decided who may connect.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|address| self.contains(address))
    }

    /// The client that X-Forwarded-For names, if these addresses are the proxies': each of them adds its peer at the end,
    /// so it is the last address that is none of them; where all are, the first. `values` are the field's lines in their
    /// order. None: there is none, or what had to be looked at is no address. A port is rarely given, and is 0 then.
    pub fn last_stranger<'v>(&self, values: impl DoubleEndedIterator<Item = &'v [u8]>) -> Option<SocketAddr> {
        let mut first = None;
        for member in values.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
            let address = parse_address(std::str::from_utf8(member).ok()?.trim())?;
            if !self.contains(address.ip()) {
                return Some(address);
            }
            first = Some(address);
        }
        first
    }
}

/// `203.0.113.9`, `203.0.113.9:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, 0)),
        Err(_) => text.parse().ok(),
    }
}

fn parse_network(entry: &str) -> Result<(u128, u8), &'static str> {
    let (address, prefix) = match entry.split_once('/') {
        None => (entry, None),
        Some((address, prefix)) => (address, Some(prefix)),
    };
    let address: IpAddr = address.parse().map_err(|_| "not an IP address, a network (address/prefix) or *")?;
    let widest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => widest,
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok().filter(|&p| p <= widest).ok_or("the prefix is longer than the address")?
        }
        Some(_) => return Err("the prefix is not a number"),
    };
    let prefix = prefix + (128 - widest);
    let bits = to_bits(address);
    if bits & mask(prefix) != bits {
        return Err("the address has bits set beyond its prefix");
    }
    Ok((bits, prefix))
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
    }
}

fn mask(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(prefix)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> IpSet {
        IpSet::parse(text.split(',')).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_networks_and_mapped_addresses_belong_to_the_set() {
        let set = set("127.0.0.1, ::1,10.0.0.0/8,fd00::/8");
        for inside in ["127.0.0.1", "::1", "10.255.0.1", "::ffff:10.1.2.3", "fdab::1"] {
            assert!(set.contains(ip(inside)), "{inside}");
        }
        for outside in ["127.0.0.2", "11.0.0.0", "::2", "fe80::1", "::10.0.0.1"] {
            assert!(!set.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn a_star_means_everybody_and_an_empty_set_nobody_but_unix_peers() {
        assert!(set("*").contains(ip("203.0.113.9")));
        assert!(!set("").contains(ip("127.0.0.1")));
        assert!(set("").trusts(None));
        assert!(set("0.0.0.0/0").contains(ip("203.0.113.9")));
        assert!(!set("0.0.0.0/0").contains(ip("2001:db8::1")));
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_proxys() {
        let client = |proxies: &str, values: &[&str]| {
            let values = values.iter().map(|value| value.as_bytes());
            set(proxies).last_stranger(values).map(|address| address.to_string())
        };
        let of = |values: &[&str]| client("10.0.0.0/8", values);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["203.0.113.9"]).as_deref(), Some("203.0.113.9:0"));
        assert_eq!(
            of(&["198.51.100.1, 203.0.113.9 , 10.1.1.1"]).as_deref(),
            Some("203.0.113.9:0"),
            "the first may lie"
        );
        assert_eq!(of(&["198.51.100.1", "203.0.113.9,10.1.1.1", "10.2.2.2"]).as_deref(), Some("203.0.113.9:0"));
        assert_eq!(of(&["10.3.3.3, 10.1.1.1"]).as_deref(), Some("10.3.3.3:0"), "all of them are ours");
        assert_eq!(of(&["203.0.113.9:4711"]).as_deref(), Some("203.0.113.9:4711"));
        assert_eq!(of(&["[2001:db8::1]"]).as_deref(), Some("[2001:db8::1]:0"));
        assert_eq!(of(&["2001:db8::1"]).as_deref(), Some("[2001:db8::1]:0"));
        assert_eq!(of(&["[2001:db8::1]:80"]).as_deref(), Some("[2001:db8::1]:80"));
        assert_eq!(of(&["198.51.100.1, unknown, 10.1.1.1"]), None, "nothing before what is no address is believed");
        assert_eq!(client("*", &["198.51.100.1, 203.0.113.9"]).as_deref(), Some("198.51.100.1:0"));
    }

    #[test]
    fn a_wrong_entry_is_named_with_its_reason() {
        for (entry, reason) in [
            ("localhost", "not an IP"),
            ("10.0.0.1/8", "beyond its prefix"),
            ("10.0.0.0/33", "longer than"),
            ("10.0.0.0/", "not a number"),
            ("10.0.0.0/+8", "not a number"),
            ("::/129", "longer than"),
        ] {
            let error = IpSet::parse([entry]).unwrap_err();
            assert_eq!(error.entry, entry);
            assert!(error.reason.contains(reason), "{entry}: {}", error.reason);
        }
    }
}

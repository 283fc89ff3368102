//! The opening handshake's rules (RFC 6455 sections 4.1 and 4.2).
//!
//! Owns what a request must be to become a WebSocket, and the answer's fields. Knows no connection: the engine writes
//! the 101. Invariant: an [`Offer`] can be accepted.

use rgunicorn_http::{Head, Method, Version};
use tungstenite::handshake::derive_accept_key;

/// Why a request that asks for a WebSocket cannot become one. `Display` is for the client and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Section 4.1, 2: the method must be GET.
    Method,
    /// A body is announced.
    Body,
    /// Section 4.1, 9: a version other than 13.
    Version,
    /// Section 4.1, 7: the key is missing, given twice, or not the base64 of 16 bytes.
    Key,
}

impl Refusal {
    /// The answer's status.
    pub fn status(self) -> u16 {
        match self {
            Refusal::Method | Refusal::Body | Refusal::Key => 400,
            Refusal::Version => 426,
        }
    }

    /// Fields of the answer beside those that every one has.
    pub fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Refusal::Version => &[("Sec-WebSocket-Version", "13")],
            Refusal::Method | Refusal::Body | Refusal::Key => &[],
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Refusal::Method => "a WebSocket handshake must be a GET request",
            Refusal::Body => "a WebSocket handshake has no body",
            Refusal::Version => "only version 13 of the WebSocket protocol is spoken",
            Refusal::Key => "Sec-WebSocket-Key must be given once and be the base64 of 16 bytes",
        })
    }
}

/// A client's valid wish for a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    accept: String,
    /// What it proposes to speak, in its order of preference.
    pub subprotocols: Vec<String>,
}

/// Whether the request asks for a WebSocket. The engine has seen to it that Connection lists the upgrade and that the
/// version is HTTP/1.1.
pub fn is_offered(head: &Head, bytes: &[u8]) -> bool {
    head.upgrade.is_some_and(|span| members(span.of(bytes)).any(|name| name.eq_ignore_ascii_case(b"websocket")))
}

impl Offer {
    /// Judges a request for which [`is_offered`] is true.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn of(head: &Head, bytes: &[u8]) -> Result<Offer, Refusal> {
        if head.method != Method::Get || head.version < Version::HTTP_11 {
            return Err(Refusal::Method);
        }
        if !head.framing.is_empty() {
            return Err(Refusal::Body);
        }
        let values = |name: &'static [u8]| {
            head.fields
                .iter()
                .filter(move |field| field.name.of(bytes).eq_ignore_ascii_case(name))
                .map(|field| field.value.of(bytes))
        };
        let mut versions = values(b"sec-websocket-version");
        if versions.next() != Some(b"13") || versions.next().is_some() {
            return Err(Refusal::Version);
        }
        let mut keys = values(b"sec-websocket-key");
        let key = keys.next().filter(|key| is_key(key)).ok_or(Refusal::Key)?;
        if keys.next().is_some() {
            return Err(Refusal::Key);
        }
        let subprotocols = values(b"sec-websocket-protocol")
            .flat_map(members)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        Ok(Offer { accept: derive_accept_key(key), subprotocols })
    }

    /// The value of Sec-WebSocket-Accept.
    pub fn accept(&self) -> &str {
        &self.accept
    }
}

/// The members of a comma-separated list.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// The base64 of 16 bytes: 22 digits and two pads. (The last digit's unused bits are not looked at, as by everybody.)
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22].iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rgunicorn_http::{Connection, Policy, Step, Trust};
    use std::time::Instant;

    const GOOD: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn judge(request: &str) -> Option<Result<Offer, Refusal>> {
        let (policy, now, mut head) = (Policy::default(), Instant::now(), Head::default());
        let bytes = format!("{request}\r\n").into_bytes();
        let step = Connection::new(&policy, now).handle_input(&policy, Trust::default(), &bytes, &mut head, now);
        assert!(matches!(step, Step::Request { .. }), "{step:?}");
        is_offered(&head, &bytes).then(|| Offer::of(&head, &bytes))
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let offer = judge(&format!("{GOOD}Sec-WebSocket-Protocol: chat , superchat\r\n")).unwrap().unwrap();
        assert_eq!(offer.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(offer.subprotocols, ["chat", "superchat"]);
    }

    #[test]
    fn other_upgrades_and_none_are_no_offers() {
        assert_eq!(judge(&GOOD.replace("Upgrade: websocket", "Upgrade: h2c")), None);
        assert_eq!(judge(&GOOD.replace("keep-alive, Upgrade", "keep-alive")), None);
        assert!(judge(&GOOD.replace("Upgrade: websocket", "Upgrade: h2c, WebSocket")).is_some());
    }

    #[test]
    fn every_rule_of_the_handshake_is_kept() {
        let refused = |from: &str, to: &str| judge(&GOOD.replace(from, to)).unwrap().unwrap_err();
        assert_eq!(refused("GET", "POST"), Refusal::Method);
        assert_eq!(refused("Version: 13", "Version: 8"), Refusal::Version);
        assert_eq!(refused("Sec-WebSocket-Version: 13\r\n", ""), Refusal::Version);
        assert_eq!(refused("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), Refusal::Key);
        assert_eq!(refused("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"), Refusal::Key);
        assert_eq!(refused("dGhlIHNhbXBsZSBub25jZQ==", "dGhl!HNhbXBsZSBub25jZQ=="), Refusal::Key);
        assert_eq!(refused("Host: a", "Host: a\r\nContent-Length: 1"), Refusal::Body);
        let twice = format!("{GOOD}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        assert_eq!(judge(&twice).unwrap().unwrap_err(), Refusal::Key);
    }
}

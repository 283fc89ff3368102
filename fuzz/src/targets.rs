//! The targets: one sentence of invariant each.

use crate::wire::agree;
use crate::wire::text::test_policy;
use nix::sys::socket::{MsgFlags, send};
use rgunicorn_http::{HeaderMap, Policy, ProxyProtocol, Trust};
use rgunicorn_protocol::{Channel, FromWorker, Received, ToWorker};
use std::os::fd::{AsFd, AsRawFd};

/// A target and its name, which is also its folder under `corpus/`.
pub struct Target {
    /// Name.
    pub name: &'static str,
    /// What to run; panics when the invariant does not hold.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "any_bytes", run: any_bytes },
    Target { name: "split_anywhere", run: split_anywhere },
    Target { name: "orders", run: orders },
    Target { name: "responses", run: responses },
    Target { name: "datagrams", run: datagrams },
];

/// Whatever a client sends, what the engine accepts is framed alike by a decoder written from the grammar, and what it
/// refuses is not in the grammar or is refused by a policy.
pub fn any_bytes(data: &[u8]) {
    hold(agree::framing(data));
}

/// However a stream is split, the same comes of it, and never more than a head has to be kept. (The first byte chooses
/// the policy, the second the cuts.)
pub fn split_anywhere(data: &[u8]) {
    let &[choice, cuts, ref stream @ ..] = data else { return };
    let (policy, trust) = policy_of(choice);
    let mut pieces = Vec::new();
    let mut rest = stream;
    let mut state = u32::from(cuts) * 2 + 1;
    while !rest.is_empty() {
        state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let (piece, tail) = rest.split_at((1 + (state >> 27) as usize).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    hold(agree::splitting(&policy, trust, choice & 0x80 != 0, stream, &pieces));
}

/// Whatever a driver orders in whatever order, what is sent is a sequence of responses, at most one per request, the
/// last one perhaps cut short, and nothing after the connection's end.
pub fn orders(data: &[u8]) {
    hold(agree::orders(data));
}

/// A response that the engine begins parses as exactly what the application said, with nothing that it did not say; or
/// the application is told its fault, and nothing is sent.
pub fn responses(data: &[u8]) {
    let &[flags, length, ref rest @ ..] = data else { return };
    let mut parts = rest.split(|&b| b == 0xff);
    let status = parts.next().unwrap_or_default();
    let mut fields = Vec::new();
    for _ in 0..flags >> 4 {
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            fields.push((name.to_vec(), value.to_vec()));
        }
    }
    let pieces: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    let length = (length < 128).then_some(u64::from(length));
    hold(agree::response(flags & 1 != 0, flags & 2 != 0, status, &fields, length, &pieces));
}

/// A datagram on a channel is a message that can be sent again as it is, or it is reported as unreadable.
pub fn datagrams(data: &[u8]) {
    if data.is_empty() || data.len() > 64 * 1024 {
        return;
    }
    let Ok((ours, theirs)) = Channel::pair() else { return };
    let deliver = || send(theirs.as_fd().as_raw_fd(), data, MsgFlags::MSG_DONTWAIT).is_ok();
    if deliver()
        && let Ok(Received::Message(message, _)) = ours.receive::<ToWorker>()
    {
        hold(resend::<ToWorker>(&ours, &theirs, &message));
    }
    if deliver()
        && let Ok(Received::Message(message, _)) = ours.receive::<FromWorker>()
    {
        hold(resend::<FromWorker>(&ours, &theirs, &message));
    }
}

fn resend<M>(ours: &Channel, theirs: &Channel, message: &M) -> Result<(), String>
where
    M: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    ours.send(message, &[]).map_err(|e| format!("{message:?} cannot be sent: {e}"))?;
    match theirs.receive::<M>() {
        Ok(Received::Message(again, _)) if again == *message => Ok(()),
        other => Err(format!("{message:?} came back as {other:?}")),
    }
}

fn policy_of(choice: u8) -> (Policy, Trust) {
    let mut policy = test_policy();
    if choice & 1 != 0 {
        policy.proxy_protocol = ProxyProtocol::Auto;
    }
    policy.strip_header_spaces = choice & 2 != 0;
    policy.permit_unconventional_http_method = choice & 4 != 0;
    policy.header_map = if choice & 8 != 0 { HeaderMap::Refuse } else { HeaderMap::Drop };
    if choice & 16 != 0 {
        (policy.limit_request_line, policy.limit_request_field_size) = (40, 40);
        (policy.limit_request_fields, policy.limit_request_body) = (4, 20);
    }
    (policy, Trust { forwarded: choice & 32 != 0, proxy: choice & 64 != 0 })
}

#[expect(clippy::panic, reason = "a target tells by panicking")]
fn hold(result: Result<(), String>) {
    if let Err(difference) = result {
        panic!("{difference}");
    }
}

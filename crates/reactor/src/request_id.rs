//! The id of a request, by which its records here, in the application and in the proxy are found: taken over from the
//! `X-Request-ID` of a peer that may speak for its clients, or made.
//!
//! The id becomes the one such field of the head, so every bridge passes it on like any field, and its own response
//! field unless the application gives one. Owns what an id may consist of and how one is made. Invariants: two workers
//! never make the same id, though they were forked from the same memory; nobody can guess an id from others; making one
//! asks nothing of the kernel.
//!
//! A made id has 128 bits: SipHash of a counter under a key from the kernel. `RandomState` has such a key, which a mold
//! may have drawn before its workers were forked; so each worker hashes a salt of its own, too.

use rgunicorn_http::{Field, Head, Known, Span};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Request and response field.
pub(crate) const NAME: &[u8] = b"X-Request-ID";
/// The longest id that is taken over, in bytes. A UUID has 36, a traceparent 55.
const LONGEST: usize = 128;
/// Digits of an id that is made here.
const MADE: usize = 32;

/// Makes the ids of one worker. Made after the fork.
#[derive(Debug)]
pub(crate) struct RequestIds {
    key: RandomState,
    salt: [u64; 2],
    made: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        let mut salt = [0_u8; 16];
        // SAFETY: the buffer is ours and as long as is said.
        let filled = unsafe { libc::getrandom(salt.as_mut_ptr().cast(), salt.len(), 0) };
        if filled != salt.len() as isize {
            // A kernel without getrandom(2). Process id and time tell workers apart; the key is still a secret.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            salt = ((u128::from(std::process::id()) << 96) ^ now.as_nanos()).to_ne_bytes();
        }
        let salt = u128::from_ne_bytes(salt);
        RequestIds { key: RandomState::new(), salt: [salt as u64, (salt >> 64) as u64], made: AtomicU64::new(0) }
    }

    fn make(&self) -> [u8; MADE] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let half = |which: u64| self.key.hash_one((self.salt, number, which));
        let id = (u128::from(half(0)) << 64 | u128::from(half(1))).to_be_bytes();
        let mut text = [0; MADE];
        for (pair, byte) in text.chunks_exact_mut(2).zip(id) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        text
    }

    /// Gives the request its id: afterwards the head has exactly one field of this name. `bytes` are the head's, to
    /// which an id that is made is appended; `believed`: the peer may speak for its clients.
    pub(crate) fn give(&self, head: &mut Head, bytes: &mut Vec<u8>, believed: bool) -> Span {
        let mut named = head.fields.iter().enumerate().filter(|(_, field)| is_name(field.name.of(bytes)));
        let (first, more) = (named.next().map(|(at, _)| at), named.next().is_some());
        if let Some(at) = first
            && !more
            && believed
            && is_id(head.fields[at].value.of(bytes))
        {
            return head.fields[at].value;
        }
        let value = append(bytes, &self.make());
        match first {
            Some(at) => {
                head.fields[at].value = value;
                if more {
                    let mut place = 0;
                    head.fields.retain(|field| {
                        place += 1;
                        place <= at + 1 || !is_name(field.name.of(bytes))
                    });
                }
            }
            None => {
                let name = append(bytes, NAME);
                head.fields.push(Field { name, value, known: Known::Other });
            }
        }
        value
    }
}

fn append(bytes: &mut Vec<u8>, text: &[u8]) -> Span {
    let start = bytes.len() as u32;
    bytes.extend_from_slice(text);
    Span { start, end: bytes.len() as u32 }
}

/// Whether a field is an id's. With header_map = "dangerous" a name with `_` becomes the same variable.
pub(crate) fn is_name(name: &[u8]) -> bool {
    name.len() == NAME.len()
        && name.iter().zip(NAME).all(|(have, want)| have.eq_ignore_ascii_case(want) || (*want == b'-' && *have == b'_'))
}

/// What may be taken over: letters, digits and what UUIDs, traces and base64 consist of. It goes into records, into the
/// application's own log and into a response field.
fn is_id(value: &[u8]) -> bool {
    (1..=LONGEST).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:=+/@~".contains(byte))
}

/// An id that outlives its request's head, for whoever reports the request from another thread.
#[derive(Clone, Copy)]
pub(crate) struct IdText {
    length: u8,
    bytes: [u8; LONGEST],
}

impl IdText {
    /// Of an id that [`RequestIds::give`] has given.
    pub(crate) fn new(id: &[u8]) -> IdText {
        let length = id.len().min(LONGEST);
        let mut bytes = [0; LONGEST];
        bytes[..length].copy_from_slice(&id[..length]);
        IdText { length: length as u8, bytes }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Display for IdText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl std::fmt::Debug for IdText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn head(fields: &[(&str, &str)]) -> (Head, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut head = Head::default();
        for (name, value) in fields {
            let name = append(&mut bytes, name.as_bytes());
            let value = append(&mut bytes, value.as_bytes());
            head.fields.push(Field { name, value, known: Known::Other });
        }
        (head, bytes)
    }

    fn given(fields: &[(&str, &str)], believed: bool) -> (String, Vec<(String, String)>) {
        let (mut head, mut bytes) = head(fields);
        let id = RequestIds::new().give(&mut head, &mut bytes, believed);
        let text = |span: Span| String::from_utf8_lossy(span.of(&bytes)).into_owned();
        (text(id), head.fields.iter().map(|field| (text(field.name), text(field.value))).collect())
    }

    #[test]
    fn a_good_id_of_a_believed_peer_is_taken_over() {
        let long = "a".repeat(LONGEST);
        for id in ["0b7c7d4e-6a37-4d3f-8c3a-0d4b1f5a1c11", "x", "A_b.c:d=e+f/g@h~", &long] {
            let (taken, fields) = given(&[("Host", "a"), ("x-request-id", id), ("Accept", "*/*")], true);
            assert_eq!((taken.as_str(), fields.len(), fields[1].1.as_str()), (id, 3, id));
        }
    }

    #[test]
    fn a_bad_id_a_strangers_id_and_a_repeated_id_are_replaced_where_they_stood() {
        let long = "a".repeat(LONGEST + 1);
        let cases = [
            ("", true),
            ("a b", true),
            ("a\"b", true),
            ("a,b", true),
            ("\u{e9}", true),
            (&long, true),
            ("good", false),
        ];
        for (id, believed) in cases {
            let (made, fields) = given(&[("X-Request-Id", id), ("Host", "a")], believed);
            assert_eq!((made.len(), fields.len()), (MADE, 2), "{id:?}");
            assert_eq!(fields[0], ("X-Request-Id".to_owned(), made));
        }
        let twice = [("X-Request-ID", "one"), ("Host", "a"), ("X-Request-ID", "two"), ("X_Request_ID", "three")];
        let (made, fields) = given(&twice, true);
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[0].1, made);
        assert_eq!(fields[1].0, "Host");
    }

    #[test]
    fn ids_are_hexadecimal_and_differ_also_between_workers_with_the_same_key() {
        let ids = RequestIds::new();
        let twin = RequestIds { key: ids.key.clone(), ..RequestIds::new() };
        let made: HashSet<_> = (0..1000).flat_map(|_| [ids.make(), twin.make()]).collect();
        assert_eq!(made.len(), 2000);
        assert!(made.iter().flatten().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit)));
    }
}

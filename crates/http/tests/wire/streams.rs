//! Generates what clients send: well-formed requests, requests that bend one rule, and both with bytes knocked about.

use proptest::prelude::*;
use proptest::sample::select;

/// A stream of up to four requests, in pieces that are mostly well-formed.
pub(crate) fn stream() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(request(), 1..4), prop_oneof![4 => Just(Vec::new()), 1 => mutations()]).prop_map(
        |(requests, mutations)| {
            let mut stream = requests.concat();
            for (place, mutation) in mutations {
                mutate(&mut stream, place, mutation);
            }
            stream
        },
    )
}

/// Well-formed requests only, each with its body.
pub(crate) fn valid_request() -> impl Strategy<Value = Vec<u8>> {
    (select(&["GET", "POST", "PUT", "DELETE", "PURGE"][..]), select(&["/", "/a?b", "http://h/x"][..]), body()).prop_map(
        |(method, target, body)| {
            let mut request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n").into_bytes();
            request.extend_from_slice(&body);
            request
        },
    )
}

/// What follows the last field of ours: framing fields, the empty line, a body.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(b"\r\n".to_vec()),
        2 => prop::collection::vec(any::<u8>(), 0..50).prop_map(|body| {
            let mut text = format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes();
            text.extend(body);
            text
        }),
        2 => chunked(select(GOOD_EXTENSIONS), select(GOOD_TRAILERS)),
    ]
}

/// A chunked body with its field.
pub(crate) fn chunked(
    extension: impl Strategy<Value = &'static str>,
    trailers: impl Strategy<Value = &'static str>,
) -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), extension), 0..4), trailers, any::<bool>())
        .prop_map(|(chunks, trailers, upper)| {
            let mut text = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
            for (data, extension) in chunks {
                let size = if upper { format!("{:X}", data.len()) } else { format!("0{:x}", data.len()) };
                text.extend(format!("{size}{extension}\r\n").into_bytes());
                text.extend(data);
                text.extend_from_slice(b"\r\n");
            }
            text.extend(format!("0\r\n{trailers}\r\n").into_bytes());
            text
        })
}

const GOOD_EXTENSIONS: &[&str] = &["", "", ";a", ";a=b", " ; a = \"b\\\"\t;\" ;c"];
const GOOD_TRAILERS: &[&str] = &["", "", "X: y\r\n", "X:\r\nY: \tz \r\n"];
const EXTENSIONS: &[&str] =
    &["", "", "", ";a", " ", ";", ";=", ";a=", ";a=\"", ";a b", ";a=\"\\", "\t;a", "g", ";\u{e9}"];
const TRAILERS: &[&str] =
    &["", "", "", "X: y\r\n", "Host: a\r\n", " X: y\r\n", "X\r\n", "X: y\n", ": y\r\n", "X: \u{1}\r\n", "X : y\r\n"];

/// A request that may bend a rule in any of its parts.
fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![2 => valid_request(), 3 => bent_request()]
}

fn bent_request() -> impl Strategy<Value = Vec<u8>> {
    let line = (
        select(&["", "", "", "", "\r\n", "\n", "\r", " "][..]),
        select(&["GET", "POST", "HEAD", "GET", "POST", "OPTIONS", "get", "G", "CONNECT", "G\u{0}T", "GE(T", ""][..]),
        select(&[" ", " ", " ", " ", " ", "  ", "\t", ""][..]),
        select(
            &["/", "/", "/a?b=%20", "*", "http://h:80/a", "http://u@h/", "/#f", "/\u{e9}", "x", "", "/a b", "/\u{7f}"]
                [..],
        ),
        select(&[" ", " ", " ", " ", "  ", ""][..]),
        select(
            &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", ""][..],
        ),
        line_end(),
    )
        .prop_map(|(a, b, c, d, e, f, g)| [a, b, c, d, e, f, g].concat().into_bytes());
    let fields = prop::collection::vec((select(FIELDS), line_end()), 0..5)
        .prop_map(|fields| fields.iter().map(|(field, end)| [*field, *end].concat()).collect::<String>().into_bytes());
    let host = select(&["Host: h\r\n", "Host: h\r\n", "Host: h\r\n", ""][..]).prop_map(|host| host.as_bytes().to_vec());
    let bodies = prop_oneof![
        3 => body(),
        1 => chunked(select(EXTENSIONS), select(TRAILERS)),
        1 => select(
            &["\n", "\r\n\r\n", "Content-Length: 5\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", ""][..]
        )
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    (line, host, fields, bodies).prop_map(|(a, b, c, d)| [a, b, c, d].concat())
}

fn line_end() -> impl Strategy<Value = &'static str> {
    select(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\r\n"][..])
}

const FIELDS: &[&str] = &[
    "Accept: */*",
    "X-Empty:",
    "X: \t a  b \t",
    "X_Y: z",
    "Connection: close",
    "Connection: keep-alive, x",
    "Expect: 100-continue",
    "Expect: x",
    "Content-Type: a/b",
    "Host: other",
    "Host: a/b",
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: 3, 3",
    "Content-Length: +3",
    "Content-Length: 99999999999999999999",
    "Content-Length : 3",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: Chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding:",
    "Transfer-Encoding: \u{b}chunked",
    "Transfer-Encoding : chunked",
    " folded",
    "no colon",
    ": nameless",
    "X: \u{0}",
    "X: \u{7f}",
    "X: a\rb",
    "X\u{e9}: y",
    "X: \u{e9}",
];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Mutation {
    Replace(u8),
    Insert(u8),
    Remove,
    CutHere,
}

fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, Mutation)>> {
    let byte = || prop_oneof![select(&b"\r\n \t\0:;,0\x7f"[..]), any::<u8>()];
    let mutation = prop_oneof![
        4 => byte().prop_map(Mutation::Replace),
        4 => byte().prop_map(Mutation::Insert),
        4 => Just(Mutation::Remove),
        1 => Just(Mutation::CutHere),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), mutation), 1..4)
}

fn mutate(stream: &mut Vec<u8>, place: prop::sample::Index, mutation: Mutation) {
    if stream.is_empty() {
        return;
    }
    let at = place.index(stream.len());
    match mutation {
        Mutation::Replace(byte) => stream[at] = byte,
        Mutation::Insert(byte) => stream.insert(at, byte),
        Mutation::Remove => drop(stream.remove(at)),
        Mutation::CutHere => stream.truncate(at),
    }
}

//! The invariants that the properties and the fuzz targets share. `Err` says what does not hold.

use super::drive::{Answering, Seen, drive};
use super::play::date;
use super::strict::{Stop, decode_requests, decode_response};
use super::text::test_policy;
use rgunicorn_http::{BodyFraming, Connection, End, Expired, Head, HeaderMap, Method, Policy, Rule, Step, Trust};
use std::time::{Duration, Instant};

type Held = Result<(), String>;

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// Rules that the grammar does not know: limits, policies, and what the standards leave to the recipient.
fn is_stricter_than_the_grammar(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::MethodUnconventional
            | Rule::MethodConnect
            | Rule::TargetFragment
            | Rule::TargetForm
            | Rule::TargetAuthority
            | Rule::VersionUnsupported
            | Rule::HostRepeated
            | Rule::HostInvalid
            | Rule::ContentTypeRepeated
            | Rule::Expectation
            | Rule::TrailerForbidden
            | Rule::ChunkLineTooLong
            | Rule::ChunkOverhead
            | Rule::RequestLineTooLong
            | Rule::FieldTooLarge
            | Rule::TooManyFields
            | Rule::BodyTooLarge
    )
}

/// What the engine accepts, the second decoder frames alike; what it refuses is not in the grammar, or is refused by a
/// policy.
pub(crate) fn framing(stream: &[u8]) -> Held {
    // Dropped fields would be a difference without meaning.
    let policy = Policy { header_map: HeaderMap::Dangerous, ..test_policy() };
    let seen = drive(&policy, Trust::default(), Answering::Complete, [stream]);
    let (mut messages, stop) = decode_requests(stream);
    for message in &mut messages {
        replace_host(message);
    }
    let differ = || format!("engine: {seen:#?}\nsecond decoder: {messages:#?}, {stop:?}");
    ensure(messages.len() >= seen.messages.len() && messages[..seen.messages.len()] == seen.messages[..], differ)?;
    match seen.refused {
        None => ensure(seen.closed || stop.is_none(), differ),
        Some(rule) if is_stricter_than_the_grammar(rule) => Ok(()),
        Some(_) => ensure(messages.len() == seen.messages.len() && stop.is_some(), differ),
    }
}

/// RFC 9112 3.2.2: the target's authority replaces Host.
fn replace_host(message: &mut super::strict::Message) {
    let Some(colon) = message.target.iter().position(|&b| b == b':') else { return };
    let Some(rest) = message.target[colon..].strip_prefix(b"://") else { return };
    if message.target[0] == b'/' {
        return;
    }
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    for (name, value) in &mut message.fields {
        if name.eq_ignore_ascii_case(b"host") {
            *value = rest[..end].to_vec();
        }
    }
}

/// However a stream is split, the same comes of it, and never more than a head has to be kept.
pub(crate) fn splitting(policy: &Policy, trust: Trust, early: bool, stream: &[u8], pieces: &[&[u8]]) -> Held {
    let answering = if early { Answering::Early } else { Answering::Complete };
    let run = |pieces: &[&[u8]]| {
        let seen = drive(policy, trust, answering, pieces.iter().copied());
        // A v2 PROXY header has its own bound.
        ensure(seen.most_kept <= policy.largest_head().max(16 + 4096), || format!("{} kept", seen.most_kept))?;
        // What is kept depends on the split; and a client that does not wait for 100 Continue is not told.
        let sent = String::from_utf8_lossy(&seen.sent).replace("HTTP/1.1 100 Continue\r\n\r\n", "").into_bytes();
        Ok::<Seen, String>(Seen { most_kept: 0, sent, ..seen })
    };
    let at_once = run(&[stream])?;
    let split = run(pieces)?;
    let by_bytes = run(&stream.chunks(1).collect::<Vec<_>>())?;
    ensure(at_once == split, || format!("at once {at_once:#?}\nsplit {split:#?}"))?;
    ensure(at_once == by_bytes, || format!("at once {at_once:#?}\nbyte by byte {by_bytes:#?}"))
}

/// A response that is begun parses as exactly what was said, or the fault is told and nothing is sent.
pub(crate) fn response(
    to_head: bool,
    http10: bool,
    status: &[u8],
    fields: &[(Vec<u8>, Vec<u8>)],
    length: Option<u64>,
    pieces: &[Vec<u8>],
) -> Held {
    let policy = test_policy();
    let now = Instant::now();
    let (mut connection, mut head) = (Connection::new(&policy, now), Head::default());
    let request = format!(
        "{} / HTTP/1.{}\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
        if to_head { "HEAD" } else { "GET" },
        if http10 { 0 } else { 1 }
    );
    let step = connection.handle_input(&policy, Trust::default(), request.as_bytes(), &mut head, now);
    ensure(matches!(step, Step::Request { .. }), || format!("{step:?}"))?;
    let mut out = b"before".to_vec();
    let given = fields.iter().map(|(name, value)| (&name[..], &value[..]));
    let Ok(started) = connection.start_response(&policy, status, given, length, &date(), &mut out) else {
        return ensure(out == b"before", || "a fault, and something was sent".to_owned());
    };
    let mut cut = false;
    for piece in pieces {
        cut |= connection.append_data(piece, &mut out);
    }
    let end = connection.end_response(&policy, now, &mut out);
    let sent = &out[b"before".len()..];
    let decoded = decode_response(sent, to_head);
    let differ = || format!("sent {}\nstarted {started:?}, ended {end:?}", sent.escape_ascii());
    if let End::CloseShort { missing } = end {
        return ensure(missing > 0 && decoded == Err(Stop::Incomplete), differ);
    }
    let Ok((answer, rest)) = decoded else { return Err(differ()) };
    ensure(rest.is_empty(), differ)?;
    ensure(answer.status.to_string().as_bytes() == &status[..3], differ)?;
    ensure(answer.until_close == (started.framing == BodyFraming::UntilClose), differ)?;
    let ours: &[&[u8]] = &[b"date", b"content-length", b"transfer-encoding", b"connection"];
    for (name, value) in &answer.fields {
        let said = fields.iter().any(|(n, v)| n == name && trim_ows(v) == &value[..]);
        ensure(said || ours.contains(&&name.to_ascii_lowercase()[..]), differ)?;
    }
    let closes = answer.fields.iter().any(|(n, v)| n == b"Connection" && v == b"close");
    ensure(closes != started.keep_alive, differ)?;
    ensure(end == if started.keep_alive { End::KeepAlive } else { End::Close }, differ)?;
    let whole = pieces.concat();
    let right = match started.framing {
        BodyFraming::None => answer.body.is_empty(),
        BodyFraming::Length(length) => answer.body == whole[..length as usize] && cut == (whole.len() as u64 > length),
        BodyFraming::Chunked | BodyFraming::UntilClose => answer.body == whole,
    };
    ensure(right, differ)
}

fn trim_ows(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whatever is ordered in whatever order, what is sent is a sequence of responses, at most one per request, the last
/// one perhaps cut short, and nothing after the connection's end. `script`: orders, two bytes each.
pub(crate) fn orders(script: &[u8]) -> Held {
    const STREAM: &[u8] = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
        HEAD /2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        GET /3 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\
        GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
        POST /5 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc\
        GET /6 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let policy = test_policy();
    let mut now = Instant::now();
    let mut connection = Connection::new(&policy, now);
    let (mut head, mut out, mut input) = (Head::default(), Vec::new(), Vec::new());
    let mut rest = STREAM;
    // Whether each request so far was HEAD.
    let mut asked = Vec::new();
    let (mut input_ended, mut output_ended) = (false, false);
    for order in script.chunks_exact(2) {
        let number = usize::from(order[1]);
        let before = out.len();
        let had_ended = output_ended;
        match order[0] % 16 {
            0..=3 => {
                let (piece, tail) = rest.split_at(number.min(rest.len()));
                input.extend_from_slice(piece);
                rest = tail;
                let step = connection.handle_input(&policy, Trust::default(), &input, &mut head, now);
                ensure(!input_ended || step == Step::Closed || step == Step::Switched, || {
                    format!("{step:?} after the end")
                })?;
                match step {
                    Step::Request { consumed } => {
                        asked.push(head.method == Method::Head);
                        input.drain(..consumed);
                    }
                    Step::Skip { consumed }
                    | Step::Data { consumed, .. }
                    | Step::End { consumed }
                    | Step::Proxied { consumed, .. } => drop(input.drain(..consumed)),
                    Step::Rejected(rejection) => return Err(format!("{rejection}")),
                    Step::Closed => input_ended = true,
                    Step::NeedMore | Step::Wait | Step::Switched => {}
                }
            }
            4 => drop(connection.start_response(&policy, b"200 OK", [], Some(number as u64), &date(), &mut out)),
            5 => drop(connection.start_response(&policy, b"200 OK", [], None, &date(), &mut out)),
            6 => drop(connection.start_response(&policy, b"304 Not Modified", [], None, &date(), &mut out)),
            7 => drop(connection.append_data(&vec![b'x'; number], &mut out)),
            8 => output_ended |= connection.end_response(&policy, now, &mut out) != End::KeepAlive,
            9 => connection.send_continue(&mut out),
            10 => drop(connection.early_hints([(&b"Link"[..], &b"x"[..])], &mut out)),
            11 => {
                connection.error_response(&policy, 500, "x", &[], &date(), &mut out);
                output_ended = true;
            }
            12 => now += Duration::from_millis(number as u64 * 20),
            13 => input_ended |= connection.handle_timeout(now) != Expired::NotYet,
            14 => connection.close_after_response(),
            _ => {
                connection.abort_response();
                output_ended = true;
            }
        }
        ensure(!had_ended || out.len() == before, || format!("order {} sent after the end", order[0] % 16))?;
    }
    let mut left = &out[..];
    let mut answers = asked.into_iter();
    while !left.is_empty() {
        let interim = left.starts_with(b"HTTP/1.1 1");
        // An error may be sent where nothing was asked.
        let to_head = if interim { false } else { answers.next().unwrap_or(false) };
        match decode_response(left, to_head) {
            Ok((_, behind)) => left = behind,
            Err(Stop::Incomplete) => return Ok(()),
            Err(Stop::Invalid) => return Err(format!("sent {}", out.escape_ascii())),
        }
    }
    Ok(())
}

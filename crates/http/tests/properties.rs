//! What holds for every stream and every order: properties, on generated streams.
//!
//! `PROPTEST_CASES` sets how many are tried.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod wire;

use proptest::prelude::*;
use rgunicorn_http::{BodyFraming, Connection, End, Head, Policy, Rule, Step, Trust};
use std::time::Instant;
use wire::drive::{Answering, Seen, drive};
use wire::play::date;
use wire::streams::{chunked, stream, valid_request};
use wire::strict::{Stop, decode_requests, decode_response};
use wire::text::test_policy;

fn whole(policy: &Policy, stream: &[u8]) -> Seen {
    drive(policy, Trust::default(), Answering::Complete, [stream])
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

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(1000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_a_stream_is_split_changes_nothing(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        early in any::<bool>(),
        proxy in any::<bool>(),
    ) {
        let answering = if early { Answering::Early } else { Answering::Complete };
        let mut policy = test_policy();
        if proxy {
            policy.proxy_protocol = rgunicorn_http::ProxyProtocol::Auto;
        }
        let trust = Trust { forwarded: proxy, proxy };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut start = 0;
        for cut in cuts {
            pieces.push(&stream[start..cut]);
            start = cut;
        }
        pieces.push(&stream[start..]);
        let forget_kept = |mut seen: Seen| { seen.most_kept = 0; seen };
        // A client that does not wait for 100 Continue is not told, so that what is sent may differ in this alone.
        let forget_continue = |mut seen: Seen| {
            let text = String::from_utf8_lossy(&seen.sent).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
            seen.sent = text.into_bytes();
            forget_kept(seen)
        };
        let at_once = forget_continue(drive(&policy, trust, answering, [&stream[..]]));
        let split = forget_continue(drive(&policy, trust, answering, pieces));
        let by_bytes = forget_continue(drive(&policy, trust, answering, stream.chunks(1)));
        prop_assert_eq!(&at_once, &split);
        prop_assert_eq!(&at_once, &by_bytes);
    }

    #[test]
    fn what_is_accepted_is_framed_alike_by_a_second_decoder(stream in stream()) {
        // Dropped fields would be a difference without meaning.
        let policy = Policy { header_map: rgunicorn_http::HeaderMap::Dangerous, ..test_policy() };
        let seen = whole(&policy, &stream);
        let (mut messages, stop) = decode_requests(&stream);
        // RFC 9112 3.2.2: the engine replaces Host by the target's authority.
        for message in &mut messages {
            if let Some(rest) = message.target.strip_prefix(b"http://") {
                let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
                let authority = rest[..end].to_vec();
                for (name, value) in &mut message.fields {
                    if name.eq_ignore_ascii_case(b"host") {
                        value.clone_from(&authority);
                    }
                }
            }
        }
        prop_assert!(messages.len() >= seen.messages.len(), "accepted more: {:?}", seen);
        prop_assert_eq!(&messages[..seen.messages.len()], &seen.messages[..]);
        // And what is refused is refused for a reason.
        match seen.refused {
            None => {
                prop_assert!(seen.closed || stop.is_none(), "accepted what is {:?}", stop);
            }
            Some(Rule::HeadTruncated | Rule::BodyTruncated) => {
                prop_assert_eq!(messages.len(), seen.messages.len());
                // The second decoder may find the end of a broken line before a fault that the engine has seen.
                prop_assert!(stop.is_some());
            }
            Some(rule) if is_stricter_than_the_grammar(rule) => {}
            Some(rule) => {
                prop_assert_eq!(messages.len(), seen.messages.len(), "{} refused a valid message", rule.id());
                prop_assert!(stop.is_some(), "{} refused a valid stream", rule.id());
            }
        }
    }

    #[test]
    fn pipelined_requests_are_the_requests_one_by_one(requests in prop::collection::vec(valid_request(), 1..6)) {
        let policy = test_policy();
        let pipelined = whole(&policy, &requests.concat());
        prop_assert_eq!(pipelined.refused, None);
        let mut messages = Vec::new();
        let mut sent = Vec::new();
        for request in &requests {
            let alone = whole(&policy, request);
            messages.extend(alone.messages);
            sent.extend(alone.sent);
        }
        prop_assert_eq!(pipelined.messages, messages);
        prop_assert_eq!(pipelined.sent, sent);
    }

    #[test]
    fn an_early_answer_keeps_the_requests_behind_a_drained_body(requests in prop::collection::vec(valid_request(), 1..6)) {
        let policy = test_policy();
        let early = drive(&policy, Trust::default(), Answering::Early, [&requests.concat()[..]]);
        prop_assert_eq!(early.refused, None);
        prop_assert_eq!(early.messages.len(), requests.len());
    }

    #[test]
    fn the_bytes_of_a_body_come_out_as_they_went_in(
        data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 0..6),
        cut in 1_usize..4000,
    ) {
        let policy = test_policy();
        let wanted = data.concat();
        let mut by_length = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", wanted.len()).into_bytes();
        by_length.extend(&wanted);
        let mut by_chunks = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in &data {
            by_chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            by_chunks.extend(chunk);
            by_chunks.extend(b"\r\n");
        }
        by_chunks.extend(b"0\r\n\r\n");
        for stream in [by_length, by_chunks] {
            let seen = drive(&policy, Trust::default(), Answering::Complete, stream.chunks(cut));
            prop_assert_eq!(seen.refused, None);
            prop_assert_eq!(&seen.messages[0].body, &wanted);
        }
    }

    #[test]
    fn what_has_to_be_kept_is_bounded(
        stream in prop::collection::vec(stream(), 1..40),
        filler in prop::collection::vec(prop::sample::select(&b"aA:; \r\n0"[..]), 0..3000),
    ) {
        let policy = Policy {
            limit_request_line: 100,
            limit_request_field_size: 60,
            limit_request_fields: 8,
            ..test_policy()
        };
        let stream = [stream.concat(), filler].concat();
        let seen = drive(&policy, Trust::default(), Answering::Complete, stream.chunks(7));
        prop_assert!(seen.most_kept <= policy.largest_head(), "{} kept", seen.most_kept);
        for message in &seen.messages {
            prop_assert!(message.fields.len() <= 8);
        }
    }

    #[test]
    fn a_response_is_what_the_application_said_or_is_refused(
        to_head in any::<bool>(),
        http10 in any::<bool>(),
        status in prop_oneof![
            prop::sample::select(&["200 OK", "204 No Content", "304 Not Modified", "404 Not Found", "205 Reset", "599"][..])
                .prop_map(|s| s.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..12),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(|tail| [b"200 ".to_vec(), tail].concat()),
        ],
        fields in prop::collection::vec((field_name(), field_value()), 0..6),
        length in prop::option::of(0_u64..40),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..4),
    ) {
        let policy = test_policy();
        let (mut connection, mut head, now) = (Connection::new(&policy, Instant::now()), Head::default(), Instant::now());
        let request = format!(
            "{} / HTTP/1.{}\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
            if to_head { "HEAD" } else { "GET" },
            if http10 { 0 } else { 1 }
        );
        let step = connection.handle_input(&policy, Trust::default(), request.as_bytes(), &mut head, now);
        let is_request = matches!(step, Step::Request { .. });
        prop_assert!(is_request);
        let mut out = b"before".to_vec();
        let given = fields.iter().map(|(name, value)| (&name[..], &value[..]));
        let Ok(started) = connection.start_response(&policy, &status, given, length, &date(), &mut out) else {
            prop_assert_eq!(&out[..], b"before");
            return Ok(());
        };
        let mut cut = false;
        for piece in &pieces {
            cut |= connection.append_data(piece, &mut out);
        }
        let end = connection.end_response(&policy, now, &mut out);
        let sent = &out[b"before".len()..];
        let decoded = decode_response(sent, to_head);
        if let End::CloseShort { missing } = end {
            prop_assert!(missing > 0);
            prop_assert_eq!(decoded.err(), Some(Stop::Incomplete));
            return Ok(());
        }
        let (answer, rest) = decoded.expect("what we send parses");
        prop_assert_eq!(rest, b"");
        prop_assert_eq!(&answer.status.to_string().into_bytes()[..], &status[..3]);
        prop_assert_eq!(answer.until_close, started.framing == BodyFraming::UntilClose);
        // Nothing appears that nobody said: every field is the application's or one of ours.
        let ours: &[&[u8]] = &[b"date", b"content-length", b"transfer-encoding", b"connection"];
        for (name, value) in &answer.fields {
            let said = fields.iter().any(|(n, v)| n == name && trimmed(v) == &value[..]);
            prop_assert!(said || ours.contains(&&name.to_ascii_lowercase()[..]), "{:?}", name.escape_ascii().to_string());
        }
        let closes = answer.fields.iter().any(|(n, v)| n == b"Connection" && v == b"close");
        prop_assert_eq!(closes, !started.keep_alive);
        prop_assert_eq!(end, if started.keep_alive { End::KeepAlive } else { End::Close });
        let whole = pieces.concat();
        match started.framing {
            BodyFraming::None => prop_assert!(answer.body.is_empty()),
            BodyFraming::Length(length) => {
                prop_assert_eq!(&answer.body[..], &whole[..length as usize]);
                prop_assert_eq!(cut, whole.len() as u64 > length);
            }
            BodyFraming::Chunked | BodyFraming::UntilClose => prop_assert_eq!(&answer.body, &whole),
        }
    }

    #[test]
    fn orders_in_any_order_do_no_harm(orders in prop::collection::vec((0_u8..12, 0_usize..200), 0..30), stream in stream()) {
        let policy = test_policy();
        let mut now = Instant::now();
        let mut connection = Connection::new(&policy, now);
        let (mut head, mut out, mut input) = (Head::default(), Vec::new(), Vec::new());
        let mut rest = &stream[..];
        let mut closed = false;
        for (order, number) in orders {
            let before = out.len();
            match order {
                0 | 1 => {
                    let (piece, tail) = rest.split_at(number.min(rest.len()));
                    input.extend_from_slice(piece);
                    rest = tail;
                    let step = connection.handle_input(&policy, Trust::default(), &input, &mut head, now);
                    prop_assert!(!closed || step == Step::Closed, "{:?} after the end", step);
                    match step {
                        Step::Skip { consumed }
                        | Step::Request { consumed }
                        | Step::Data { consumed, .. }
                        | Step::End { consumed }
                        | Step::Proxied { consumed, .. } => drop(input.drain(..consumed)),
                        Step::Closed | Step::Rejected(_) => closed = true,
                        Step::NeedMore | Step::Wait | Step::Switched => {}
                    }
                }
                2 => drop(connection.start_response(&policy, b"200 OK", [], Some(number as u64), &date(), &mut out)),
                3 => drop(connection.start_response(&policy, b"200 OK", [], None, &date(), &mut out)),
                4 => drop(connection.append_data(&vec![b'x'; number], &mut out)),
                5 => closed |= connection.end_response(&policy, now, &mut out) != End::KeepAlive,
                6 => connection.send_continue(&mut out),
                7 => drop(connection.early_hints([(&b"Link"[..], &b"x"[..])], &mut out)),
                8 => {
                    connection.error_response(&policy, 500, "x", None, &date(), &mut out);
                    closed = true;
                }
                9 => now += std::time::Duration::from_secs(number as u64 / 40),
                10 => closed |= connection.handle_timeout(now) != rgunicorn_http::Expired::NotYet,
                11 => connection.close_after_response(),
                _ => unreachable!(),
            }
            // Whatever is sent begins with a status line or continues a body: never a second head inside one.
            prop_assert!(out.len() >= before);
        }
    }

    #[test]
    fn a_bent_chunked_body_never_gives_more_than_was_sent(
        body in chunked(prop::sample::select(&["", ";", ";a=\"", " ;b"][..]), prop::sample::select(&["", "X: y\r\n", "X\r\n"][..])),
    ) {
        let stream = [b"POST / HTTP/1.1\r\nHost: h\r\n".to_vec(), body].concat();
        let seen = whole(&test_policy(), &stream);
        prop_assert!(seen.messages.iter().map(|m| m.body.len()).sum::<usize>() <= stream.len());
    }
}

fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn trimmed(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

fn field_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(&["X-A", "Content-Type", "Content-Length", "Connection", "Set-Cookie", "Date", "Server",
            "Transfer-Encoding", "Upgrade", "Keep-Alive"][..]).prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

fn field_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => prop::sample::select(&["", "x", "5", "0", "a, b", "close", "chunked", " x "][..]).prop_map(|v| v.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

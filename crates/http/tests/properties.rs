//! What holds for every stream and every order: properties, on generated streams.
//!
//! `PROPTEST_CASES` sets how many are tried.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod wire;

use proptest::prelude::*;
use rgunicorn_http::{Policy, ProxyProtocol, Trust};
use wire::agree;
use wire::drive::{Answering, Seen, drive};
use wire::streams::{chunked, stream, valid_request};
use wire::text::test_policy;

fn whole(policy: &Policy, stream: &[u8]) -> Seen {
    drive(policy, Trust::default(), Answering::Complete, [stream])
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
        let mut policy = test_policy();
        if proxy {
            policy.proxy_protocol = ProxyProtocol::Auto;
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
        prop_assert_eq!(agree::splitting(&policy, trust, early, &stream, &pieces), Ok(()));
    }

    #[test]
    fn what_is_accepted_is_framed_alike_by_a_second_decoder(stream in stream()) {
        prop_assert_eq!(agree::framing(&stream), Ok(()));
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
        prop_assert_eq!(agree::response(to_head, http10, &status, &fields, length, &pieces), Ok(()));
    }

    #[test]
    fn orders_in_any_order_send_a_sequence_of_responses(script in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert_eq!(agree::orders(&script), Ok(()));
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

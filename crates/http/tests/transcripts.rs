//! Plays every transcript under `tests/transcripts/` whole, byte by byte and split at random places, and checks that
//! every rule is shown accepting and refusing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
mod wire;

use rgunicorn_http::Rule;
use std::collections::HashSet;
use wire::play::{Split, play};
use wire::text::{Case, parse_file};

fn all_cases() -> Vec<Case> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .flat_map(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            parse_file(&name, &std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// A small generator of numbers (xorshift64*), seeded by the case: a failure repeats.
fn lengths(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |most| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let number = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        // Short pieces find more than long ones.
        1 + (number as usize) % most.min(1 + (number >> 20) as usize % 64)
    }
}

fn play_all(how: &str, mut play_one: impl FnMut(usize, &Case) -> Result<Vec<String>, String>) {
    let mut failures = String::new();
    for (number, case) in all_cases().iter().enumerate() {
        if let Err(difference) = play_one(number, case) {
            failures += &format!("{} ({how})\n{difference}\n\n", case.title);
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn every_transcript_holds_when_arrivals_are_whole() {
    play_all("whole", |_, case| play(case, Split::Whole));
}

#[test]
fn every_transcript_holds_when_each_byte_arrives_alone() {
    play_all("byte by byte", |_, case| play(case, Split::Bytes));
}

#[test]
fn every_transcript_holds_when_arrivals_are_split_at_random() {
    for round in 0..40 {
        play_all("random", |number, case| {
            play(case, Split::Random(&mut lengths(round * 1000 + number as u64)))
                .map_err(|e| format!("round {round}: {e}"))
        });
    }
}

#[test]
fn every_rule_has_an_accepting_and_a_refusing_transcript() {
    let known: HashSet<&str> = Rule::ALL.iter().map(|rule| rule.id()).collect();
    let (mut accepted, mut refused) = (HashSet::new(), HashSet::new());
    for case in all_cases() {
        let log = play(&case, Split::Whole).unwrap_or_default();
        let rejections: HashSet<String> =
            log.iter().filter_map(|event| event.split_once("rejected ")).map(|(_, id)| id.to_owned()).collect();
        for id in &case.accepts {
            assert!(known.contains(id.as_str()), "{}: no rule {id}", case.title);
            assert!(rejections.is_empty(), "{}: says that it is accepted", case.title);
            accepted.insert(id.clone());
        }
        for id in &case.refuses {
            assert!(rejections.contains(id), "{}: is not refused by {id}", case.title);
            refused.insert(id.clone());
        }
        for id in rejections {
            assert!(case.refuses.contains(&id), "{}: does not say that it is refused by {id}", case.title);
        }
    }
    let missing = |shown: &HashSet<String>| {
        Rule::ALL.iter().map(|rule| rule.id()).filter(|id| !shown.contains(*id)).collect::<Vec<_>>()
    };
    assert_eq!(missing(&accepted), Vec::<&str>::new(), "rules without an accepting transcript");
    assert_eq!(missing(&refused), Vec::<&str>::new(), "rules without a refusing transcript");
}

#[test]
fn a_rejection_tells_the_log_no_secret() {
    let policy = wire::text::test_policy();
    let now = std::time::Instant::now();
    for stream in [
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: s3cret\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: s3cret\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie: s3cret\u{1}\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization s3cret\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization s3cret: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAuthorization : s3cret\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nCookie:\r\n s3cret\r\n\r\n",
        "GET http://u:s3cret@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        &format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: s3cret{}\r\n\r\n", "x".repeat(9000)),
        &format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: s3cret{}", "x".repeat(9000)),
    ] {
        let mut connection = rgunicorn_http::Connection::new(&policy, now);
        let mut head = rgunicorn_http::Head::default();
        let step = connection.handle_input(&policy, Default::default(), stream.as_bytes(), &mut head, now);
        let rgunicorn_http::Step::Rejected(rejection) = step else { panic!("{step:?}") };
        assert!(!rejection.to_string().contains("s3cret"), "{rejection}");
    }
}

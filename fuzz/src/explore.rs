//! A loop that knocks known inputs about, by a generator of numbers that repeats from its seed. It sees no coverage, so
//! it relies on good seeds (the transcripts, the corpus) and on a dictionary of what matters in HTTP.

use crate::corpus::{LONGEST, seeds};
use crate::targets::Target;
use std::time::{Duration, Instant};

const DICTIONARY: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\"",
    b"\0",
    b"\x7f",
    b"\xff",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"Host: b\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\n",
    b"X_Y: z\r\n",
    b"http://a/",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
    b";a=\"b\"",
    b"ffffffffffffffff",
    b"18446744073709551615",
    b"{\"type\":\"",
    b"\"}",
    b"null",
];

/// xorshift64*
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }
}

/// Runs the seeds, then changed seeds for `time`. Returns how many inputs were run. An input that breaks the invariant
/// is printed, escaped, before the panic goes on.
///
/// # Errors
/// A seed that cannot be read.
pub fn explore(target: &Target, seed: u64, time: Duration) -> std::io::Result<u64> {
    let seeds = seeds(target)?;
    for input in &seeds {
        run(target, input);
    }
    let mut runs = seeds.len() as u64;
    let mut numbers = Numbers(seed | 1);
    let end = Instant::now() + time;
    while Instant::now() < end {
        for _ in 0..100 {
            let mut input = seeds[numbers.below(seeds.len())].clone();
            for _ in 0..1 + numbers.below(6) {
                change(&mut input, &mut numbers, &seeds);
            }
            input.truncate(LONGEST);
            run(target, &input);
            runs += 1;
        }
    }
    Ok(runs)
}

fn run(target: &Target, input: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| (target.run)(input)) {
        eprintln!("{}: broken by b\"{}\"", target.name, input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

fn change(input: &mut Vec<u8>, numbers: &mut Numbers, seeds: &[Vec<u8>]) {
    let at = numbers.below(input.len() + 1);
    let len = numbers.below(input.len() - at + 1);
    match numbers.below(7) {
        0 if at < input.len() => input[at] = numbers.below(256) as u8,
        1 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        2 => input.insert(at, numbers.below(256) as u8),
        3 => drop(input.drain(at..at + len.min(1 + numbers.below(8)))),
        4 => {
            let copy = input[at..at + len.min(64)].to_vec();
            let place = numbers.below(input.len() + 1);
            input.splice(place..place, copy);
        }
        5 => {
            let other = &seeds[numbers.below(seeds.len())];
            let start = numbers.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[start..]);
        }
        _ => {
            let word = DICTIONARY[numbers.below(DICTIONARY.len())];
            input.splice(at..at, word.iter().copied());
        }
    }
}

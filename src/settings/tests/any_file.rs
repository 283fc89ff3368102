//! The fuzz target of the settings file: whatever a file holds, it is read, or each fault names the file. Runs for a
//! second; `RGUNICORN_FUZZ_SECONDS=600 cargo test --release -p rgunicorn any_file` for longer, `RGUNICORN_FUZZ_SEED`
//! repeats a run.

use crate::settings::layers::Layers;
use crate::settings::table::SETTINGS;
use crate::settings::toml_file::parse;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a TOML parser has to tell apart, beside names of settings.
const PIECES: &[&str] = &[
    "=",
    " = ",
    "\n",
    "[",
    "]",
    "[[",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "\"\"\"",
    "#",
    ".",
    "-",
    "+",
    "_",
    "0x",
    "1e999",
    "nan",
    "inf",
    "true",
    "9223372036854775808",
    "2026-01-01T00:00:00Z",
    "\\u0000",
    "\\",
    "\t",
    "\r\n",
    "\u{feff}",
    "é",
    "\0",
];

struct Dice(u64);

impl Dice {
    /// xorshift64: any seed but 0.
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most.max(1) as u64) as usize
    }
}

fn mutate(text: &mut String, dice: &mut Dice) {
    let boundary = |text: &str, mut at: usize| {
        while !text.is_char_boundary(at) {
            at += 1;
        }
        at
    };
    let at = boundary(text, dice.below(text.len() + 1));
    match dice.below(4) {
        0 => {
            let end = boundary(text, (at + dice.below(40)).min(text.len()));
            text.replace_range(at..end, "");
        }
        1 => text.insert_str(at, PIECES[dice.below(PIECES.len())]),
        2 => text.insert_str(at, SETTINGS[dice.below(SETTINGS.len())].name),
        _ => {
            let end = boundary(text, (at + dice.below(60)).min(text.len()));
            let copy = text[at..end].to_owned();
            let to = boundary(text, dice.below(text.len() + 1));
            text.insert_str(to, &copy);
        }
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn any_file_is_read_or_each_of_its_faults_names_it() {
    let seed = number("RGUNICORN_FUZZ_SEED", u64::from(std::process::id()) << 20 | 1);
    println!("RGUNICORN_FUZZ_SEED={seed}");
    let until = Instant::now() + Duration::from_secs(number("RGUNICORN_FUZZ_SECONDS", 1));
    let mut dice = Dice(seed);
    let example = include_str!("../../../examples/etc/example.toml").replace("\n#", "\n");
    let file = Path::new("/etc/rgunicorn/app.toml");
    while Instant::now() < until {
        let mut text = example.clone();
        for _ in 0..1 + dice.below(12) {
            mutate(&mut text, &mut dice);
        }
        let faults = match parse(&text, file) {
            Ok(givens) => Layers::new(givens).1,
            Err(faults) => faults,
        };
        for fault in faults {
            let told = fault.to_string();
            assert!(told.starts_with("/etc/rgunicorn/app.toml"), "{told}\n---\n{text}");
            assert!(!told.contains('\n') || told.lines().count() < 10, "{told}\n---\n{text}");
        }
    }
}

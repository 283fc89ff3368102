//! The inputs that a run begins with: the committed corpus, one file per target and one escaped input per line, so that
//! a change of it can be read; and the bytes of every transcript.

use crate::targets::Target;
use crate::wire::text::{Line, parse_file};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

/// Longest input that is kept, in bytes.
pub const LONGEST: usize = 4096;
/// Longest input in the committed corpus, and how many of them there are.
const SMALL: (usize, usize) = (400, 300);

/// The project's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file(target: &Target) -> PathBuf {
    root().join("fuzz/corpus").join(target.name).with_extension("txt")
}

/// What to begin with: the target's corpus, and every transcript's bytes.
///
/// # Errors
/// A file that cannot be read.
pub fn seeds(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut seeds = BTreeSet::from([Vec::new()]);
    match std::fs::read_to_string(file(target)) {
        Ok(text) => seeds.extend(text.lines().map(unescape)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for entry in std::fs::read_dir(root().join("crates/http/tests/transcripts"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|ending| ending != "txt") {
            continue;
        }
        for case in parse_file(&path.to_string_lossy(), &std::fs::read_to_string(&path)?) {
            let arrivals = case
                .lines
                .iter()
                .filter_map(|line| if let Line::Arrive(bytes) = line { Some(&bytes[..]) } else { None });
            let stream = arrivals.collect::<Vec<_>>().concat();
            if stream.len() <= LONGEST {
                seeds.insert(stream);
            }
        }
    }
    Ok(seeds.into_iter().collect())
}

/// Writes the seeds into a folder, one file each, as libFuzzer wants them.
///
/// # Errors
/// A file that cannot be read or written.
pub fn unpack(target: &Target, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, seed) in seeds(target)?.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number:05}")), seed)?;
    }
    Ok(())
}

/// Makes the committed corpus from a folder: of its short inputs some of every length.
///
/// # Errors
/// A file that cannot be read or written.
pub fn pack(target: &Target, folder: &Path) -> io::Result<()> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        inputs.push(std::fs::read(entry?.path())?);
    }
    inputs.retain(|input| input.len() <= SMALL.0);
    inputs.sort_by_key(Vec::len);
    let all = inputs.len();
    let mut number = 0;
    inputs.retain(|_| {
        number += 1;
        // Every n-th, so that as many are left as there may be.
        all <= SMALL.1 || number * SMALL.1 / all > (number - 1) * SMALL.1 / all
    });
    inputs.sort();
    let mut text = String::new();
    for input in inputs {
        let _ = writeln!(text, "{}", input.escape_ascii());
    }
    std::fs::write(file(target), text)
}

/// The reverse of `escape_ascii`.
fn unescape(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'x') => {
                    let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).unwrap_or_default() as u8;
                    digit() << 4 | digit()
                }
                Some(other) => other,
                None => byte,
            },
            _ => byte,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_corpus_file() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&all.escape_ascii().to_string()), all);
    }
}

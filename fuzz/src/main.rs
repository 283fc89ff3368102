//! Unpacks a target's seeds into a folder, or packs a folder's inputs into the committed corpus: `rgunicorn-fuzz
//! unpack|pack TARGET FOLDER`. Used by `fuzz/run`.

use rgunicorn_fuzz::corpus::{pack, unpack};
use rgunicorn_fuzz::targets::TARGETS;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [verb @ ("pack" | "unpack"), name, folder] => match TARGETS.iter().find(|target| target.name == *name) {
            Some(target) if *verb == "pack" => pack(target, Path::new(folder)),
            Some(target) => unpack(target, Path::new(folder)),
            None => Err(std::io::Error::other(format!("no target {name}"))),
        },
        _ => Err(std::io::Error::other("rgunicorn-fuzz unpack|pack TARGET FOLDER")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

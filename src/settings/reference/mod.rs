//! Reference pages and completions, made from the table and compared with what is in the tree.
//!
//! Compiled for the tests alone: `make reference` writes the files, every other test run only reads them. Owns what lies
//! between the lines `begin made: NAME` and `end made: NAME` of the files in [`FILES`]; the rest of them is written by
//! hand and kept as it is. Invariant: what is committed says what the table says.

mod completion;
mod manual;
mod markdown;

use super::setting::{Setting, Status};
use super::table::SETTINGS;
use std::path::Path;

/// Every file with such regions, from the checkout's root.
const FILES: [&str; 8] = [
    "man/rgunicorn.1",
    "man/rgunicorn.toml.5",
    "man/rgunicorn-systemd.7",
    "docs/settings.md",
    "docs/refusals.md",
    "completions/rgunicorn.bash",
    "completions/_rgunicorn",
    "completions/rgunicorn.fish",
];

/// The text of a region, ending in a line break.
fn region(file: &str, name: &str) -> Option<String> {
    Some(match (file, name) {
        ("man/rgunicorn.1", "options") => manual::options(),
        ("man/rgunicorn.1", "exit status") => manual::exit_status(),
        ("man/rgunicorn.toml.5", "settings") => manual::settings(),
        ("man/rgunicorn-systemd.7", "events") => manual::events(),
        ("docs/settings.md", "settings") => markdown::settings(),
        ("docs/settings.md", "contents") => markdown::contents(),
        ("docs/refusals.md", "refused") => markdown::refused(),
        ("docs/refusals.md", "without effect") => markdown::without_effect(),
        ("docs/refusals.md", "not yet") => markdown::not_yet(),
        ("completions/rgunicorn.bash", "options") => completion::bash(),
        ("completions/_rgunicorn", "options") => completion::zsh(),
        ("completions/rgunicorn.fish", "options") => completion::fish(),
        _ => return None,
    })
}

/// The settings that do something, in the table's order.
fn built() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.status == Status::Built)
}

/// `text` with every region made anew.
fn renewed(file: &str, text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut inside: Option<&str> = None;
    for line in text.lines() {
        let mark = |what: &str| line.split_once(what).map(|(_, name)| name.trim_end_matches("-->").trim());
        match (inside, mark("begin made: "), mark("end made: ")) {
            (None, Some(name), _) => {
                let made = region(file, name).ok_or_else(|| format!("{file}: nothing makes \"{name}\""))?;
                out.push_str(line);
                out.push('\n');
                out.push_str(&made);
                inside = Some(name);
            }
            (Some(name), _, Some(end)) if name == end => {
                out.push_str(line);
                out.push('\n');
                inside = None;
            }
            (Some(_), _, _) => {}
            (None, None, _) => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    match inside {
        Some(name) => Err(format!("{file}: \"{name}\" does not end")),
        None => Ok(out),
    }
}

/// How a language shows an example.
struct Examples<Line: Fn(&str) -> String> {
    begin: &'static str,
    end: &'static str,
    /// Before the text that goes on.
    then: &'static str,
    line: Line,
}

/// Running text, formed by `prose`; lines that begin with spaces are examples.
fn paragraphs(text: &str, prose: impl Fn(&str) -> String, examples: Examples<impl Fn(&str) -> String>) -> String {
    let mut out = String::new();
    let mut in_example = false;
    for line in text.split('\n') {
        let example = line.starts_with(' ');
        match (in_example, example) {
            (false, true) => out.push_str(examples.begin),
            (true, false) => out.extend([examples.end, examples.then]),
            (true, true) | (false, false) => {}
        }
        in_example = example;
        if example {
            out.push_str(&(examples.line)(line.trim_start()));
            out.push('\n');
        } else {
            out.push_str(&prose(line));
        }
    }
    if in_example {
        out.push_str(examples.end);
    }
    out
}

#[test]
fn pages_and_completions_say_what_the_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stale = Vec::new();
    for file in FILES {
        let path = root.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let new = renewed(file, &text).unwrap();
        assert!(new.contains("begin made: "), "{file} has no region");
        if new != text {
            if std::env::var_os("RGUNICORN_WRITE_DOCS").is_some() {
                std::fs::write(&path, new).unwrap();
            } else {
                stale.push(file);
            }
        }
    }
    assert!(stale.is_empty(), "run `make reference`; older than src/settings/table.rs: {}", stale.join(", "));
}

#[test]
fn a_region_is_made_anew_and_the_rest_is_kept() {
    let text = "before\n# begin made: options\nold\n# end made: options\nafter\n";
    let new = renewed("completions/rgunicorn.bash", text).unwrap();
    assert!(new.starts_with("before\n# begin made: options\n") && new.ends_with("# end made: options\nafter\n"));
    assert!(!new.contains("\nold\n") && new.contains("--workers"));
    assert!(renewed("man/rgunicorn.1", "begin made: nonsense\n").unwrap_err().contains("nonsense"));
    assert!(renewed("man/rgunicorn.1", "begin made: options\n").unwrap_err().contains("does not end"));
}

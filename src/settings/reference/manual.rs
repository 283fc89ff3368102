//! The regions of the manual pages, in mdoc(7).
//!
//! Text out of the table, formed so that `mandoc -Tlint` has nothing to say: a sentence begins a line, lines have at most
//! 80 bytes, and no word of ours is taken for a macro.

use super::super::command_line::placeholder;
use super::super::explain::filled;
use super::super::setting::{Default, FlagForm, OnReload, Setting};
use super::super::value::allowed;
use super::{Examples, built};
use crate::exit::Exit;
use std::fmt::Write as _;

const WIDTH: usize = 78;

/// The options of rgunicorn(1): flags and one line each.
pub(super) fn options() -> String {
    let mut out = String::new();
    let mut section = None;
    for setting in built().filter(|setting| !setting.flags.is_empty()) {
        if section != Some(setting.section) {
            if section.is_some() {
                out.push_str(".El\n");
            }
            let _ = write!(out, ".Ss {}\n.Bl -tag -width Ds\n", setting.section.title());
            section = Some(setting.section);
        }
        let _ = writeln!(out, ".It {}", flags(setting));
        let help = match setting.form {
            FlagForm::Switch(false) => format!("Turn {} off: {}.", setting.name, lower(setting.help)),
            FlagForm::Switch(true) | FlagForm::Value | FlagForm::Repeated | FlagForm::Optional(_) => {
                format!("{}.", setting.help)
            }
        };
        out.push_str(&paragraphs(&help));
    }
    out.push_str(".El\n");
    out
}

/// The numbers of rgunicorn(1)'s EXIT STATUS.
pub(super) fn exit_status() -> String {
    let mut out = String::from(".Bl -tag -width Ds\n");
    for exit in Exit::ALL {
        let _ = writeln!(out, ".It {}", exit.code());
        out.push_str(&paragraphs(exit.meaning()));
    }
    out.push_str(".El\n");
    out
}

/// All that rgunicorn.toml(5) says of each setting.
pub(super) fn settings() -> String {
    let mut out = String::new();
    let mut section = None;
    for setting in built() {
        if section != Some(setting.section) {
            if section.is_some() {
                out.push_str(".El\n");
            }
            let _ = write!(out, ".Ss {}\n.Bl -tag -width Ds\n", setting.section.title());
            section = Some(setting.section);
        }
        let _ = writeln!(out, ".It Sy {}", setting.name);
        out.push_str(&paragraphs(&format!("{}.\n{}", setting.help, setting.doc)));
        out.push_str(".Pp\n");
        out.push_str(&paragraphs(&format!("Takes {}.", allowed(setting.kind))));
        let default = match setting.default {
            Default::Unset => "Unset by default.".to_owned(),
            Default::Is("") => "Empty by default.".to_owned(),
            Default::Is(text) | Default::Computed(text) => format!("The default is {text}."),
        };
        out.push_str(&paragraphs(&default));
        if !setting.aliases.is_empty() {
            out.push_str(&paragraphs(&format!("Also called {}.", setting.aliases.join(", "))));
        }
        if !setting.flags.is_empty() {
            let _ = write!(out, "On the command line:\n.{} .\n", flags(setting));
        }
        for variable in setting.env {
            let _ = write!(out, "Gunicorn's variable\n.Ev {variable}\nranks just above the default.\n");
        }
        match setting.on_reload {
            OnReload::Applies => {}
            OnReload::Restart(reason) => {
                out.push_str(&paragraphs(&format!("A new value needs a restart: {reason}.")));
            }
            OnReload::Start => out.push_str("It is looked at when the program starts.\n"),
        }
    }
    out.push_str(".El\n");
    out
}

/// The events of rgunicorn-systemd(7): ids and what they mean.
pub(super) fn events() -> String {
    let mut out = String::from(".Bl -tag -width Ds\n");
    for event in rgunicorn_log::event::ALL {
        let subject = event.subject.replace("@RGUNICORN_INSTANCE@", "INSTANCE").replace("@RGUNICORN_GENERATION@", "N");
        let _ = writeln!(out, ".It Li {}", event.uuid);
        out.push_str(&paragraphs(&format!("{subject}.")));
    }
    out.push_str(".El\n");
    out
}

/// `Fl w , Fl -workers Ar NUMBER`.
fn flags(setting: &Setting) -> String {
    let value = match setting.form {
        FlagForm::Switch(_) => String::new(),
        FlagForm::Optional(_) => format!(" Op Ar {}", placeholder(setting.kind)),
        FlagForm::Value | FlagForm::Repeated => format!(" Ar {}", placeholder(setting.kind)),
    };
    let flags: Vec<String> =
        setting.flags.iter().map(|flag| format!("Fl {}", flag.strip_prefix('-').unwrap_or(flag))).collect();
    format!("{}{value}", flags.join(" , "))
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn paragraphs(text: &str) -> String {
    let examples = Examples { begin: ".Bd -literal -offset indent\n", end: ".Ed\n", then: ".Pp\n", line: escaped };
    super::paragraphs(text, sentences, examples)
}

/// Each begins a line.
fn sentences(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(escaped).collect();
    let ends = |word: &String| word.trim_end_matches([')', '"']).ends_with(['.', '!', '?']);
    words.split_inclusive(ends).map(|sentence| filled(sentence, WIDTH)).collect()
}

/// As roff(7) needs it: a backslash doubled, a minus that is none of a hyphen's, nothing at the start that makes a request.
fn escaped(word: &str) -> String {
    let mut out = String::new();
    if word.starts_with(['.', '\'']) {
        out.push_str("\\&");
    }
    let mut before = ' ';
    for letter in word.chars() {
        match letter {
            '\\' => out.push_str("\\e"),
            '-' if !before.is_alphanumeric() => out.push_str("\\-"),
            _ => out.push(letter),
        }
        before = letter;
    }
    out
}

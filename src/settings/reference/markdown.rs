//! The regions of the pages in docs/, in Markdown.
//!
//! Text out of the table; knows nothing of the pages around it.

use super::super::explain::filled;
use super::super::setting::{Default, FlagForm, OnReload, Section, Setting, Status};
use super::super::table::SETTINGS;
use super::super::value::allowed;
use super::{Examples, built};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: usize = 118;

/// A line for each section, with links to its settings.
pub(super) fn contents() -> String {
    let mut sections: BTreeMap<Section, Vec<String>> = BTreeMap::new();
    for setting in built() {
        sections.entry(setting.section).or_default().push(format!("[{0}](#{0})", setting.name));
    }
    sections.iter().map(|(section, links)| format!("- **{}**: {}\n", section.title(), links.join(", "))).collect()
}

/// All that the reference says of each setting.
pub(super) fn settings() -> String {
    let mut out = String::new();
    let mut section = None;
    for setting in built() {
        if section != Some(setting.section) {
            let _ = write!(out, "\n## {}\n", setting.section.title());
            section = Some(setting.section);
        }
        let _ = write!(out, "\n### {}\n\n{}.\n\n", setting.name, prose(setting.help));
        let mut row = |what: &str, text: &str| {
            let _ = writeln!(out, "- {what}: {text}");
        };
        if !setting.aliases.is_empty() {
            row("Also called", &code(setting.aliases));
        }
        if !setting.flags.is_empty() {
            let flags = match setting.form {
                FlagForm::Switch(value) => format!("{} (means {value})", code(setting.flags)),
                FlagForm::Value | FlagForm::Repeated | FlagForm::Optional(_) => code(setting.flags),
            };
            row("Flags", &flags);
        }
        row("Environment", &code(&[&[setting.variable().as_str()], setting.env].concat()));
        row("Default", &default(setting));
        row("Takes", &prose(&allowed(setting.kind)));
        match setting.on_reload {
            OnReload::Applies => {}
            OnReload::Restart(reason) => row("Reload", &format!("needs a restart: {}", prose(reason))),
            OnReload::Start => row("Reload", "looked at when the program starts"),
        }
        if !setting.doc.is_empty() {
            out.push('\n');
            out.push_str(&paragraphs(setting.doc));
        }
    }
    out
}

/// Settings that are refused, by reason.
pub(super) fn refused() -> String {
    by_reason(|setting| match setting.status {
        Status::Refused(reason) => Some(reason),
        Status::Built | Status::NotYet | Status::NoEffect(_) => None,
    })
}

/// Settings that are taken and do nothing, by reason.
pub(super) fn without_effect() -> String {
    by_reason(|setting| match setting.status {
        Status::NoEffect(reason) => Some(reason),
        Status::Built | Status::NotYet | Status::Refused(_) => None,
    })
}

/// Settings that are planned.
pub(super) fn not_yet() -> String {
    let names: Vec<&str> =
        SETTINGS.iter().filter(|setting| setting.status == Status::NotYet).map(|setting| setting.name).collect();
    if names.is_empty() { "None.\n".to_owned() } else { format!("{}.\n", code(&names)) }
}

fn by_reason(reason: impl Fn(&Setting) -> Option<&'static str>) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for setting in SETTINGS {
        if let Some(why) = reason(setting) {
            match groups.iter_mut().find(|(known, _)| *known == why) {
                Some((_, names)) => names.push(setting.name),
                None => groups.push((why, vec![setting.name])),
            }
        }
    }
    groups.iter().map(|(why, names)| format!("- {}: {}.\n", code(names), prose(why))).collect()
}

fn default(setting: &Setting) -> String {
    match setting.default {
        Default::Unset => "unset".to_owned(),
        Default::Is("") => "empty".to_owned(),
        Default::Is(text) => format!("`{}`", text),
        Default::Computed(how) => prose(how),
    }
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Running text: what Markdown would take for its own is escaped.
fn prose(text: &str) -> String {
    text.replace('\\', "\\\\").replace('*', "\\*").replace('<', "&lt;").replace('`', "\\`")
}

fn paragraphs(text: &str) -> String {
    let prose = |line: &str| filled(prose(line).split_whitespace(), WIDTH);
    super::paragraphs(text, prose, Examples { begin: "```toml\n", end: "```\n", then: "", line: str::to_owned })
}

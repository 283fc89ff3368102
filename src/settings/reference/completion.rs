//! What the completions of bash, zsh and fish know of the flags: the regions between their hand-written parts.
//!
//! Flags of settings that do something, with the words that they take. The functions that complete instances, paths and
//! the questions (`explain`, `exec`) are in the files themselves.

use super::super::command_line::placeholder;
use super::super::setting::{FlagForm, Kind, Setting};
use super::super::table::{POOLS, SETTINGS};
use super::built;
use std::fmt::Write as _;

/// What may follow a flag.
enum Follows {
    Nothing,
    Words(Vec<&'static str>),
    File,
    Folder,
    Instance,
    Anything,
}

/// Flags that are questions, not settings.
const QUESTIONS: [(char, &str, &str); 2] = [('h', "help", "Print the options"), ('v', "version", "Print the version")];

fn follows(setting: &Setting) -> Follows {
    match setting.form {
        FlagForm::Switch(_) => return Follows::Nothing,
        FlagForm::Value | FlagForm::Repeated | FlagForm::Optional(_) => {}
    }
    match setting.kind {
        Kind::Choice(words) => Follows::Words(words.to_vec()),
        Kind::ChoiceOrSwitch { choices, .. } => Follows::Words(choices.to_vec()),
        Kind::Pool => Follows::Words(POOLS.iter().map(|pool| pool.name()).collect()),
        Kind::Path { .. } if setting.name == "chdir" => Follows::Folder,
        Kind::Path { .. } => Follows::File,
        Kind::List if setting.name == "env_file" => Follows::File,
        Kind::Text if setting.name == "instance" => Follows::Instance,
        Kind::Text
        | Kind::Integer { .. }
        | Kind::Size
        | Kind::Seconds { .. }
        | Kind::Mode
        | Kind::Switch
        | Kind::Addresses
        | Kind::List
        | Kind::Networks
        | Kind::Pairs
        | Kind::Headers
        | Kind::LogTemplate
        | Kind::UrlPath
        | Kind::Hook
        | Kind::Table => Follows::Anything,
    }
}

fn flagged() -> impl Iterator<Item = &'static Setting> {
    built().filter(|setting| !setting.flags.is_empty())
}

/// Names that `explain` explains: every setting, also one that is refused.
fn explained() -> String {
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).chain(["exec", "exit"]).collect();
    names.join(" ")
}

/// Variables and a `case` that sets `follows` and `words`.
pub(super) fn bash() -> String {
    let mut long: Vec<String> = flagged().flat_map(Setting::long).map(|flag| format!("--{flag}")).collect();
    long.extend(QUESTIONS.iter().map(|(_, flag, _)| format!("--{flag}")));
    let mut out = format!("_rgunicorn_flags='{}'\n_rgunicorn_explained='{}'\n", long.join(" "), explained());
    out.push_str("_rgunicorn_follows() {\n    words=\n    case $1 in\n");
    for setting in flagged() {
        let (what, words) = match follows(setting) {
            Follows::Nothing => continue,
            Follows::Words(words) => ("words", format!(" words='{}'", words.join(" "))),
            Follows::File => ("file", String::new()),
            Follows::Folder => ("folder", String::new()),
            Follows::Instance => ("instance", String::new()),
            Follows::Anything => ("anything", String::new()),
        };
        let _ = writeln!(out, "        {}) follows={what}{words} ;;", setting.flags.join(" | "));
    }
    out.push_str("        *) follows=nothing ;;\n    esac\n}\n");
    out
}

/// The specifications of `_arguments`.
pub(super) fn zsh() -> String {
    let mut out = format!("explained=({})\noptions=(\n", explained());
    for setting in flagged() {
        let value = placeholder(setting.kind);
        let action = match follows(setting) {
            Follows::Nothing => String::new(),
            Follows::Words(words) => format!(":{value}:({})", words.join(" ")),
            Follows::File => format!(":{value}:_files"),
            Follows::Folder => format!(":{value}:_files -/"),
            Follows::Instance => format!(":{value}:_rgunicorn_instances"),
            Follows::Anything => format!(":{value}: "),
        };
        let action = match setting.form {
            FlagForm::Optional(_) => format!(":{action}"),
            FlagForm::Switch(_) | FlagForm::Value | FlagForm::Repeated => action,
        };
        let again = matches!(setting.form, FlagForm::Repeated);
        for flag in setting.flags {
            let before = if again { "*".to_owned() } else { format!("({})", setting.flags.join(" ")) };
            let help = setting.help.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
            let _ = writeln!(out, "    '{before}{flag}[{help}]{action}'");
        }
    }
    for (short, long, help) in QUESTIONS {
        let _ = write!(out, "    '(- *)-{short}[{help}]'\n    '(- *)--{long}[{help}]'\n");
    }
    out.push_str(")\n");
    out
}

/// A `complete` command for each setting.
pub(super) fn fish() -> String {
    let mut out = format!("set -g __rgunicorn_explained {}\n", explained());
    for setting in flagged() {
        let mut line = "complete -c rgunicorn".to_owned();
        if let Some(letter) = setting.short() {
            let _ = write!(line, " -s {letter}");
        }
        for flag in setting.long() {
            let _ = write!(line, " -l {flag}");
        }
        match follows(setting) {
            Follows::Nothing => {}
            Follows::Words(words) => {
                let _ = write!(line, " -xa '{}'", words.join(" "));
            }
            Follows::File => line.push_str(" -rF"),
            Follows::Folder => line.push_str(" -xa '(__fish_complete_directories)'"),
            Follows::Instance => line.push_str(" -xa '(__rgunicorn_instances)'"),
            Follows::Anything => line.push_str(" -x"),
        }
        let _ = writeln!(out, "{line} -d '{}'", setting.help.replace('\'', "\\'"));
    }
    for (short, long, help) in QUESTIONS {
        let _ = writeln!(out, "complete -c rgunicorn -s {short} -l {long} -d '{help}'");
    }
    out
}

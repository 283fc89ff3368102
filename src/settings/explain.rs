//! Answers about settings: `--help`, `rgunicorn explain SETTING`, and the list of `--print-config`.
//!
//! Text out of the table; reads nothing else.

use super::command_line::{meant, placeholder};
use super::fault::{Fault, Origin, did_you_mean};
use super::setting::{Default, FlagForm, OnReload, Setting, Status};
use super::table::SETTINGS;
use super::value::allowed;
use super::{Answer, Settings};
use crate::exit::Exit;
use std::fmt::Write as _;

const WIDTH: usize = 88;

const EXEC: &str = "\
rgunicorn exec INSTANCE -- COMMAND [ARGUMENTS]

Runs a command as the instance runs its application: with its user and groups, in its folder, with the environment of
env_file and raw_env, with its interpreter: `python` is that interpreter, and its folder is first on PATH.

  sudo rgunicorn exec shop -- python manage.py migrate

Run by root while rgunicorn@INSTANCE.service is running, the command also gets the service's environment and its view of
the file system (private /tmp, state folder); its user may then be a dynamic one. While it is not running, a dynamic
user does not exist: start the instance first, or set User= to a user that exists. RGUNICORN_ variables and
GUNICORN_CMD_ARGS of the caller do not count. The exit status is the command's; 126 and 127 as in the shell.
";

const HEAD: &str = "\
Serves Python web applications (WSGI and ASGI) from systemd's sockets or its own.

Usage: rgunicorn [OPTIONS] [MODULE[:VARIABLE]]
       rgunicorn explain SETTING|exec|exit
       rgunicorn exec INSTANCE -- COMMAND [ARGUMENTS]
";

const FOOT: &str = "
Other:
  -h, --help                         Print this help
  -v, --version                      Print the version

Settings come, from the lowest rank to the highest, from the defaults, a TOML file (-c, --instance),
RGUNICORN_NAME in the environment, GUNICORN_CMD_ARGS and the command line. All options of Gunicorn are
understood; those that are not listed do nothing yet or never will, and say why.
";

/// The text of `--help`: what is built, by section, a line each.
pub(crate) fn help() -> String {
    let mut out = HEAD.to_owned();
    let mut section = None;
    for setting in SETTINGS.iter().filter(|setting| setting.status == Status::Built) {
        let Some(long) = setting.long().next() else { continue };
        if section != Some(setting.section) {
            let _ = write!(out, "\n{}:\n", setting.section.title());
            section = Some(setting.section);
        }
        let short = setting.short().map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        let (value, help) = match setting.form {
            FlagForm::Switch(true) => (String::new(), setting.help.to_owned()),
            FlagForm::Switch(false) => (String::new(), format!("Turn off {}", setting.name)),
            FlagForm::Optional(_) => (format!(" [{}]", placeholder(setting.kind)), setting.help.to_owned()),
            FlagForm::Value | FlagForm::Repeated => {
                (format!(" {}", placeholder(setting.kind)), setting.help.to_owned())
            }
        };
        let flags = format!("  {short}--{long}{value}");
        if flags.len() > 36 {
            let _ = write!(out, "{flags}\n{:37}{help}\n", "");
        } else {
            let _ = writeln!(out, "{flags:<37}{help}");
        }
    }
    out.push_str(FOOT);
    out
}

/// The text about a setting (by name, flag or variable), about `exec`, or about the `exit` status.
pub(crate) fn explain(word: &str) -> Result<String, Fault> {
    if word == "exec" {
        return Ok(EXEC.to_owned());
    }
    if word == "exit" {
        let lines = Exit::ALL.iter().map(|exit| format!("  {:>3}  {}\n", exit.code(), exit.meaning()));
        return Ok(format!("The exit status of rgunicorn:\n\n{}", lines.collect::<String>()));
    }
    let Some(setting) = meant(word) else {
        let names = SETTINGS.iter().flat_map(|setting| {
            [setting.name].into_iter().chain(setting.long()).map(|spelling| (spelling, setting.name))
        });
        let like = did_you_mean(word.trim_start_matches('-'), names);
        return Err(Fault::new(Origin::CommandLine("explain".to_owned()), format!("{word} is not a setting{like}")));
    };
    Ok(text(setting))
}

fn text(setting: &Setting) -> String {
    let mut out = format!("{}: {}\n\n", setting.name, setting.help);
    let mut row = |what: &str, text: &str| {
        let _ = writeln!(out, "  {what:<12} {text}");
    };
    if !setting.aliases.is_empty() {
        row("also called", &setting.aliases.join(", "));
    }
    if !setting.flags.is_empty() {
        row("flags", &setting.flags.join(", "));
    }
    let own = setting.variable();
    row("environment", &[own.as_str()].into_iter().chain(setting.env.iter().copied()).collect::<Vec<_>>().join(", "));
    row(
        "default",
        match setting.default {
            Default::Unset => "unset",
            Default::Is("") => "empty",
            Default::Is(text) | Default::Computed(text) => text,
        },
    );
    row("allowed", &allowed(setting.kind));
    let reload = match setting.on_reload {
        OnReload::Applies => "takes effect with the new generation".to_owned(),
        OnReload::Restart(reason) => format!("needs a restart: {reason}"),
        OnReload::Start => "looked at when the program starts".to_owned(),
    };
    row("reload", &reload);
    match setting.status {
        Status::Built => {}
        Status::NotYet => row("status", "not supported yet: only the default is accepted"),
        Status::Refused(reason) => {
            out.push_str(&wrapped(&format!("\nNot supported: {reason}.")));
        }
        Status::NoEffect(reason) => out.push_str(&wrapped(&format!("\nAccepted without effect: {reason}."))),
    }
    if !setting.doc.is_empty() {
        out.push('\n');
        out.push_str(&wrapped(setting.doc));
    }
    out
}

/// Breaks lines that are too long; indented lines stay as they are.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    for line in text.split('\n') {
        if line.starts_with(' ') {
            out.push_str(line);
            out.push('\n');
        } else {
            out.push_str(&filled(line.split_whitespace(), WIDTH));
        }
    }
    out
}

/// The words in lines of at most `width` letters, the last one ended, too.
pub(super) fn filled<Word: AsRef<str>>(words: impl IntoIterator<Item = Word>, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in words {
        let letters = word.as_ref().chars().count();
        if column > 0 && column + 1 + letters > width {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word.as_ref());
        column += letters;
    }
    out.push('\n');
    out
}

/// `--print-config`: a TOML file that says where each value comes from. Settings that do nothing are listed only where
/// somebody set them.
pub(crate) fn listing(settings: &Settings) -> String {
    let mut out = String::new();
    for answer in &settings.answers {
        let Answer { setting, value, origin } = answer;
        if setting.status != Status::Built && origin == "default" {
            continue;
        }
        // Where the file is cannot stand in the file.
        let comment = setting.on_reload == OnReload::Start;
        let line = match value {
            Some(value) if comment => format!("# {} = {value}", setting.name),
            Some(value) => format!("{} = {value}", setting.name),
            None => format!("# {} is unset", setting.name),
        };
        let why = match setting.default {
            Default::Computed(how) if origin == "default" => match setting.name {
                "workers" => format!("default: {}", settings.workers_origin),
                "python" => format!("default: {}", settings.python_origin),
                _ => format!("default: {how}"),
            },
            Default::Unset | Default::Is(_) | Default::Computed(_) => origin.clone(),
        };
        let _ = writeln!(out, "{line:<40} # {why}");
    }
    out
}

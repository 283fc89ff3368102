//! The command line, by clap, made from the table. GUNICORN_CMD_ARGS is read by the same parser.
//!
//! Reads only; what help says is in `explain`. Also tells the questions from serving: `--help`, `--version`, `explain SETTING`, `exec INSTANCE -- COMMAND`.
//! Invariant: values are not looked at here; what a flag gives goes on as text.

use super::fault::{Fault, Origin, did_you_mean};
use super::layers::Given;
use super::setting::{FlagForm, Kind, Setting};
use super::table::{SETTINGS, find};
use super::value::Raw;
use clap::builder::ValueParser;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::{OsStr, OsString};

/// What the program is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// `explain SETTING`.
    Explain(String),
    /// `exec INSTANCE -- COMMAND...`.
    Exec {
        /// The instance.
        instance: String,
        /// Program and arguments, at least one.
        command: Vec<OsString>,
    },
    /// `--upgrade-check`: a running arbiter asks whether this program can take over.
    UpgradeCheck,
    /// Serve, or check or print the settings: the settings say which.
    Serve,
}

/// Which parser reads: only the origin of what it gives differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// The command line.
    Command,
    /// GUNICORN_CMD_ARGS.
    CmdArgs,
}

impl Line {
    fn origin(self, flag: &str) -> Origin {
        match self {
            Self::Command => Origin::CommandLine(flag.to_owned()),
            Self::CmdArgs => Origin::CmdArgs(flag.to_owned()),
        }
    }
}

const EXEC_USAGE: &str = "rgunicorn exec INSTANCE -- COMMAND [ARGUMENTS]";

/// What is asked. An application may be called `explain` or `exec`: only with what must follow are they questions.
pub(crate) fn question(arguments: &[OsString]) -> Result<Question, Fault> {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        ["explain", name] if !name.starts_with('-') => return Ok(Question::Explain((*name).to_owned())),
        ["explain", name] if SETTINGS.iter().any(|setting| setting.flags.contains(name)) => {
            return Ok(Question::Explain((*name).to_owned()));
        }
        ["--upgrade-check"] => return Ok(Question::UpgradeCheck),
        ["exec", "-h" | "--help", ..] => return Ok(Question::Explain("exec".to_owned())),
        ["exec", instance, rest @ ..] if !instance.starts_with('-') => {
            return match rest {
                ["--", _, ..] => {
                    Ok(Question::Exec { instance: (*instance).to_owned(), command: arguments[3..].to_vec() })
                }
                [] | ["--"] => Err(Fault::new(
                    Origin::CommandLine(String::new()),
                    format!("exec: the command is missing. Usage: {EXEC_USAGE}"),
                )),
                [_, ..] => Err(Fault::new(
                    Origin::CommandLine(String::new()),
                    format!("exec: a -- must stand before the command. Usage: {EXEC_USAGE}"),
                )),
            };
        }
        _ => {}
    }
    let matches = matches(arguments, Line::Command)?;
    if matches.get_flag("help") {
        Ok(Question::Help)
    } else if matches.get_flag("version") {
        Ok(Question::Version)
    } else {
        Ok(Question::Serve)
    }
}

/// What the line gives.
pub(crate) fn read(arguments: &[OsString], line: Line) -> Result<Vec<Given>, Vec<Fault>> {
    let matches = matches(arguments, line).map_err(|fault| vec![fault])?;
    let (mut givens, mut faults) = (Vec::new(), Vec::new());
    for setting in SETTINGS {
        let given = if setting.name == "app" {
            matches.try_get_many::<OsString>("app").ok().flatten()
        } else if setting.flags.is_empty() || matches.value_source(setting.name).is_none() {
            None
        } else {
            matches.try_get_many::<OsString>(setting.name).ok().flatten()
        };
        let origin = line.origin(&spelled(setting, arguments));
        match given {
            Some(values) => {
                let texts: Option<Vec<Raw>> =
                    values.map(|value| value.to_str().map(|text| Raw::Text(text.to_owned()))).collect();
                match (texts, setting.form) {
                    (None, _) => {
                        faults.push(Fault::new(origin, format!("the value of {} is not UTF-8", setting.name)));
                    }
                    (Some(texts), FlagForm::Repeated) => {
                        givens.push(Given { setting, origin, raw: Raw::List(texts) });
                    }
                    (Some(mut texts), FlagForm::Value | FlagForm::Optional(_) | FlagForm::Switch(_)) => {
                        givens.extend(texts.pop().map(|raw| Given { setting, origin, raw }));
                    }
                }
            }
            None => {
                if let FlagForm::Switch(value) = setting.form
                    && !setting.flags.is_empty()
                    && matches.get_flag(setting.name)
                {
                    givens.push(Given { setting, origin, raw: Raw::Bool(value) });
                }
            }
        }
    }
    if line == Line::Command && matches.get_flag("upgrade-check") {
        faults.push(Fault::new(
            line.origin("--upgrade-check"),
            "it stands alone: a running rgunicorn asks a new one so before it is replaced",
        ));
    }
    if faults.is_empty() { Ok(givens) } else { Err(faults) }
}

fn matches(arguments: &[OsString], line: Line) -> Result<ArgMatches, Fault> {
    command().try_get_matches_from(arguments).map_err(|error| translate(&error, line))
}

/// The flag as it was typed, for the origin: `-w`, `--workers`, also abbreviated. clap does not keep it.
fn spelled(setting: &Setting, arguments: &[OsString]) -> String {
    let typed = arguments.iter().rev().filter_map(|argument| argument.to_str()).find_map(|argument| {
        let word = argument.split_once('=').map_or(argument, |(word, _)| word);
        if let Some(exact) = setting.flags.iter().find(|flag| **flag == word) {
            return Some(*exact);
        }
        if word.starts_with("--") {
            return setting.flags.iter().copied().find(|flag| word.len() > 3 && flag.starts_with(word));
        }
        // -w4
        setting.flags.iter().copied().find(|flag| flag.len() == 2 && argument.starts_with(flag))
    });
    typed.or_else(|| setting.flags.last().copied()).unwrap_or_default().to_owned()
}

fn command() -> Command {
    let mut command = Command::new("rgunicorn")
        .no_binary_name(true)
        // As Python's argparse: long flags may be abbreviated, the last of a repeated flag wins.
        .infer_long_args(true)
        .args_override_self(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .override_usage("rgunicorn [OPTIONS] [MODULE[:VARIABLE]]")
        .arg(Arg::new("app").value_parser(ValueParser::os_string()));
    for setting in SETTINGS {
        if !setting.flags.is_empty() {
            command = command.arg(argument(setting));
        }
    }
    command
        .arg(flag("help").short('h').long("help"))
        .arg(flag("version").short('v').long("version"))
        .arg(flag("upgrade-check").long("upgrade-check"))
}

fn flag(name: &'static str) -> Arg {
    Arg::new(name).action(ArgAction::SetTrue)
}

fn argument(setting: &'static Setting) -> Arg {
    let mut argument = Arg::new(setting.name);
    if let Some(letter) = setting.short() {
        argument = argument.short(letter);
    }
    let mut long = setting.long();
    if let Some(first) = long.next() {
        argument = argument.long(first).aliases(long.collect::<Vec<_>>());
    }
    let value = ValueParser::os_string();
    match setting.form {
        FlagForm::Switch(_) => argument.action(ArgAction::SetTrue),
        FlagForm::Value => argument.action(ArgAction::Set).value_parser(value).allow_negative_numbers(true),
        FlagForm::Repeated => argument.action(ArgAction::Append).value_parser(value),
        FlagForm::Optional(meant) => {
            argument.action(ArgAction::Set).value_parser(value).num_args(0..=1).default_missing_value(OsStr::new(meant))
        }
    }
}

/// The word for a flag's value in help texts.
pub(crate) const fn placeholder(kind: Kind) -> &'static str {
    match kind {
        Kind::Path { .. } | Kind::UrlPath => "PATH",
        Kind::Integer { .. } => "NUMBER",
        Kind::Size => "BYTES",
        Kind::Seconds { .. } => "SECONDS",
        Kind::Mode => "MODE",
        Kind::Choice(_) | Kind::ChoiceOrSwitch { .. } => "WORD",
        Kind::Pool => "POOL",
        Kind::Addresses => "ADDRESS",
        Kind::List => "LIST",
        Kind::Networks => "IPS",
        Kind::Pairs => "NAME=VALUE",
        Kind::LogTemplate => "TEMPLATE",
        Kind::Text | Kind::Switch | Kind::Headers | Kind::Hook | Kind::Table => "TEXT",
    }
}

/// clap's complaint as one line.
fn translate(error: &clap::Error, line: Line) -> Fault {
    let word = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let argument = word(ContextKind::InvalidArg);
    // "--workers <NUMBER>" or "-w": the first word is the flag.
    let flag = argument.split([' ', '=']).next().unwrap_or_default().to_owned();
    let message = match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            let longs =
                SETTINGS.iter().flat_map(|setting| setting.flags).map(|flag| (flag.trim_start_matches('-'), *flag));
            let meant = did_you_mean(flag.trim_start_matches('-'), longs.filter(|(name, _)| name.len() > 1));
            if flag.starts_with("--") && !meant.is_empty() {
                format!("{flag} is not an option{meant}")
            } else {
                format!("{flag} is not an option. All are listed by --help")
            }
        }
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => {
            format!("\"{flag}\" is one argument too many: there is one application, MODULE:VARIABLE")
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            format!("{flag} needs a value")
        }
        // clap's list of kinds is open; its own first line says what is wrong.
        _ => error.render().to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    };
    Fault::new(line.origin(""), message)
}

/// The setting that a word means: a name, an alias, a flag or a variable.
pub(crate) fn meant(word: &str) -> Option<&'static Setting> {
    find(word).or_else(|| {
        let dashed = word.trim_start_matches('-');
        SETTINGS.iter().find(|setting| {
            setting.flags.contains(&word)
                || setting.env.contains(&word)
                || setting.variable() == word
                || setting.long().any(|long| long == dashed || long.replace('-', "_") == word)
        })
    })
}

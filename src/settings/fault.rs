//! What is wrong with the settings, said so that the operator can mend it: where it stands, the setting, the value, why
//! it is wrong, what is allowed, where to read more.
//!
//! One fault is one line, and begins with its source, as compilers begin theirs.

use super::setting::Setting;
use super::value::{Raw, allowed};
use crate::exit::Exit;
use std::fmt;
use std::path::PathBuf;

/// Where a value comes from, from the lowest rank to the highest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The table.
    Default,
    /// One of Gunicorn's own variables (PORT, WEB_CONCURRENCY, ...), which in Gunicorn replace defaults.
    GunicornEnvironment(String),
    /// A TOML file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line, from 1; none where it is about the file as a whole.
        line: Option<usize>,
    },
    /// A variable that begins with RGUNICORN_.
    Environment(String),
    /// A flag (or, empty, none) in GUNICORN_CMD_ARGS.
    CmdArgs(String),
    /// A flag (or, empty, none) on the command line.
    CommandLine(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::GunicornEnvironment(name) | Self::Environment(name) => write!(out, "environment {name}"),
            Self::File { path, line: Some(line) } => write!(out, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(out, "{}", path.display()),
            Self::CmdArgs(flag) if flag.is_empty() => out.write_str("GUNICORN_CMD_ARGS"),
            Self::CmdArgs(flag) => write!(out, "GUNICORN_CMD_ARGS {flag}"),
            Self::CommandLine(flag) if flag.is_empty() => out.write_str("command line"),
            Self::CommandLine(flag) => write!(out, "command line {flag}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where it stands.
    pub(crate) origin: Origin,
    /// What it is.
    pub(crate) message: String,
    /// Whether the words themselves are wrong; false where the machine refuses what they ask for.
    usage: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => out.write_str(&self.message),
            origin @ (Origin::GunicornEnvironment(_)
            | Origin::File { .. }
            | Origin::Environment(_)
            | Origin::CmdArgs(_)
            | Origin::CommandLine(_)) => write!(out, "{origin}: {}", self.message),
        }
    }
}

impl Fault {
    /// A fault that is told by its message alone.
    pub(crate) fn new(origin: Origin, message: impl Into<String>) -> Self {
        Self { usage: matches!(origin, Origin::CommandLine(_)), origin, message: message.into() }
    }

    /// A fault of words that are right in themselves and that this machine cannot follow: no such user, no such folder.
    pub(crate) fn of_machine(origin: Origin, message: impl Into<String>) -> Self {
        Self { usage: false, origin, message: message.into() }
    }

    /// A value that is not of the setting's kind. `problem` follows the value: `is not a whole number`.
    pub(crate) fn wrong_value(origin: Origin, setting: &Setting, value: &Raw, problem: &str) -> Self {
        let name = setting.name;
        let value = if hidden(setting) { "(hidden)".to_owned() } else { value.to_string() };
        let allowed = allowed(setting.kind);
        Self::new(origin, format!("{name} = {value} {problem}. Allowed: {allowed}. More: rgunicorn explain {name}"))
    }

    /// A value that is of the right kind and cannot be had. `reason` says why and what to do.
    pub(crate) fn refused(origin: Origin, setting: &Setting, value: &Raw, reason: &str) -> Self {
        let name = setting.name;
        let value = if hidden(setting) { "(hidden)".to_owned() } else { value.to_string() };
        Self::new(origin, format!("{name} = {value} is not supported: {reason}"))
    }
}

/// Whether the setting's values may be secrets.
pub(crate) fn hidden(setting: &Setting) -> bool {
    setting.name == "raw_env"
}

/// Why no settings could be had: every fault that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettingsError {
    /// At least one.
    pub(crate) faults: Vec<Fault>,
}

impl SettingsError {
    /// How the program ends by it: 2 if the words of the command line alone are wrong, else 1.
    pub(crate) fn exit(&self) -> Exit {
        if self.faults.iter().all(|fault| fault.usage) { Exit::Usage } else { Exit::Failure }
    }
}

impl From<Fault> for SettingsError {
    fn from(fault: Fault) -> Self {
        Self { faults: vec![fault] }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            write!(out, "{}{fault}", if index == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// `. Did you mean NAME?` for the candidate that is most like `word`, or nothing.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl Iterator<Item = (&'c str, &'c str)>) -> String {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let best = candidates
        .map(|(spelling, meant)| (strsim::jaro_winkler(&word, &spelling.replace('-', "_")), meant))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match best {
        Some((_, meant)) => format!(". Did you mean {meant}?"),
        None => String::new(),
    }
}

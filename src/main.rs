//! The daemon's front door: an exit-code adapter around `run`, which is a table of contents.
//!
//! Owns stdout and stderr until the log is open. Knows no setting by name but those that are questions.

mod control;
mod exec;
mod exit;
mod fds;
mod listeners;
mod settings;
mod socket_file;
mod supervisor;
mod systemd;
mod trouble;

use exit::Exit;
use rgunicorn_log::{Log, LogSettings, Process, event};
use settings::command_line::{self, Question};
use settings::{Invocation, NO_APP, Settings, explain};
use slog::error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use systemd::notify::Notifier;
use trouble::Trouble;

/// Where `--instance NAME` finds its settings.
const CONFIGURATION: &str = "/etc/rgunicorn";

/// What ends the program before its time.
struct Failure {
    exit: Exit,
    /// Whether a service fails to start by it; else it answers somebody.
    service: bool,
    /// A line for each thing that is wrong.
    message: Trouble,
}

impl From<settings::SettingsError> for Failure {
    fn from(error: settings::SettingsError) -> Self {
        Self { exit: error.exit(), service: true, message: error.to_string().into() }
    }
}

impl From<settings::Fault> for Failure {
    fn from(fault: settings::Fault) -> Self {
        settings::SettingsError::from(fault).into()
    }
}

fn main() -> ExitCode {
    match run(&invocation()) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            tell(&failure);
            if failure.service {
                // Whoever is no service's main process is not believed.
                Notifier::from_environment().fails(failure.exit.code(), &failure.message);
            }
            failure.exit.into()
        }
    }
}

/// A service that cannot start leaves a record, in the journal with its priority and catalog entry; who typed something
/// wrong gets a plain line.
fn tell(failure: &Failure) {
    let record = failure.service && (failure.exit != Exit::Usage || libsystemd::logging::connected_to_journal());
    let settings = LogSettings { errorlog: "-".to_owned(), ..LogSettings::default() };
    let log = if record { Log::open(&settings, Process::Arbiter).ok() } else { None };
    for line in failure.message.to_string().lines() {
        match &log {
            Some(log) => error!(log.logger(), "{}", line; event::START_FAILED),
            // Nothing can be done for a stderr that is gone.
            None => drop(writeln!(std::io::stderr(), "rgunicorn: {line}")),
        }
    }
}

fn run(invocation: &Invocation) -> Result<Exit, Failure> {
    match command_line::question(&invocation.arguments)? {
        Question::Help => return Ok(answer(&explain::help())),
        Question::Version => return Ok(answer(&format!("rgunicorn {}\n", rgunicorn_protocol::VERSION))),
        Question::Explain(word) => return Ok(answer(&explain::explain(&word)?)),
        Question::Exec { instance, command } => {
            let refusal = exec::exec(invocation, &instance, &command);
            return Err(Failure { exit: refusal.exit, service: false, message: refusal.message.into() });
        }
        Question::UpgradeCheck => {
            let refuse = |message: String| Failure { exit: Exit::Usage, service: false, message: message.into() };
            return supervisor::answer_upgrade_check().map(|text| answer(&text)).map_err(refuse);
        }
        Question::Serve => {}
    }
    let fail = |message: Trouble| Failure { exit: Exit::Failure, service: true, message };
    if let Some(number) = supervisor::passed() {
        return supervisor::resume(invocation, number).map_err(fail);
    }
    let settings = Settings::read(invocation)?;
    if settings.print_config {
        answer(&explain::listing(&settings));
    }
    if settings.app.is_empty() {
        return Err(Failure { exit: Exit::Usage, service: true, message: NO_APP.into() });
    }
    if settings.check_config || settings.print_config {
        return supervisor::check(&settings).map_err(fail);
    }
    supervisor::run(invocation, settings).map_err(fail)
}

fn invocation() -> Invocation {
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let program = std::env::current_exe().unwrap_or_default();
    Invocation {
        arguments: std::env::args_os().skip(1).collect(),
        environment: std::env::vars_os().collect(),
        started_as: supervisor::started_as(std::env::args_os().next(), &program, &directory),
        directory,
        program,
        configuration: PathBuf::from(CONFIGURATION),
    }
}

/// Prints; a reader that has left (`| head`) is no failure.
fn answer(text: &str) -> Exit {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Exit::Success
}

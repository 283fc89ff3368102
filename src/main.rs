//! The daemon's front door: an exit-code adapter around `run`.

mod exit;
mod listeners;
mod settings;
mod supervisor;
mod systemd;

use exit::Exit;
use settings::{Invocation, Settings};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Invocation::default()) {
        Ok(exit) => exit.into(),
        Err(message) => {
            eprintln!("rgunicorn: {message}");
            Exit::Failure.into()
        }
    }
}

fn run(invocation: &Invocation) -> Result<Exit, String> {
    let settings = Settings::read(invocation).map_err(|error| error.faults.join("\n"))?;
    if settings.check_config {
        return supervisor::check(&settings);
    }
    supervisor::run(invocation, settings)
}

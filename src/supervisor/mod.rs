//! The arbiter: supervises the generations of one instance.

mod action;
mod backoff;
mod decide;
mod event;
mod generation;
mod process;
mod record;
mod slot;
mod status;

use crate::exit::Exit;
use crate::settings::{Invocation, Settings};

/// Serves until it is told to stop. `settings` is the first reading; a reload asks `invocation` for the next one.
pub(crate) fn run(_invocation: &Invocation, settings: Settings) -> Result<Exit, String> {
    Err(format!("cannot serve {} yet", settings.app))
}

/// `--check-config`: imports the application in its own interpreter and says what is wrong.
pub(crate) fn check(settings: &Settings) -> Result<Exit, String> {
    Err(format!("cannot check {} yet", settings.app))
}

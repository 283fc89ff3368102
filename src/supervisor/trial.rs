//! Whether an interpreter becomes a mold with this program's worker module: asked before an upgrade, whose reload would
//! fail otherwise.
//!
//! Owns one process, which is gone when the answer is there. Invariant: what it prints goes nowhere.

use super::spawn;
use crate::settings::Settings;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use rgunicorn_log::JournalStreams;
use rgunicorn_protocol::{Channel, FromWorker, Received, VERSION};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the interpreter may take to load the module. One that is slower is left to the reload to judge.
const WITHIN: Duration = Duration::from_secs(6);

/// Starts the interpreter of these settings with the module. One that is not there is not asked: newer settings may name
/// another.
///
/// # Errors
/// A sentence: the module cannot be loaded, or is of another version.
pub(super) fn of(settings: &Settings, module: &Path) -> Result<(), String> {
    if !settings.python.is_file() {
        return Ok(());
    }
    let failed = |error: std::io::Error| format!("the worker module cannot be tried: {error}");
    let (ours, theirs) = Channel::pair().map_err(failed)?;
    let nowhere = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let streams = JournalStreams { stdout: true, stderr: true };
    let mold = spawn::spawn_mold(settings, module, theirs, Some((nowhere.as_fd(), streams)))?;
    let answer = first_words(&ours);
    // It waits for its settings, which never come.
    let _ = kill(mold, Signal::SIGKILL);
    let _ = waitpid(mold, None);
    answer
}

fn first_words(channel: &Channel) -> Result<(), String> {
    let until = Instant::now() + WITHIN;
    loop {
        match channel.receive::<FromWorker>() {
            Ok(Received::Message(FromWorker::Hello { version, .. }, _)) if version == VERSION => return Ok(()),
            Ok(Received::Message(FromWorker::Hello { version, .. }, _)) => {
                return Err(format!("the worker module beside rgunicorn {VERSION} is version {version}"));
            }
            Ok(Received::Message(FromWorker::BootFault(fault), _)) => return Err(fault.message),
            Ok(Received::Ended) => return Err("the interpreter ends when it loads the worker module".into()),
            Ok(Received::Message(_, _) | Received::Unreadable(_)) => {
                return Err(format!("the worker module does not speak the language of rgunicorn {VERSION}"));
            }
            Ok(Received::Empty) => {}
            Err(error) => return Err(format!("the worker module cannot be tried: {error}")),
        }
        let Some(left) = until.checked_duration_since(Instant::now()) else { return Ok(()) };
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // A signal or a lack of memory only has it look earlier.
        let _ = poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], left);
    }
}

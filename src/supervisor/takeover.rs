//! One program takes over from another in the same process: asks it first, hands everything over, executes it; and in the
//! new one, takes everything up.
//!
//! Owns the system calls of the upgrade; what is decided about it is [`super::upgrade`], what travels is
//! [`super::snapshot`]. Knows no policy. Invariant: until execve(2) succeeds nothing has changed.
//!
//! The races, and why they are none:
//! - A worker dies, stops or speaks between the snapshot and the execution: its end stays a zombie that nobody else reaps,
//!   its words stay in its channel, SIGCHLD stays pending, for blocked signals and children survive execve(2).
//! - A signal for the arbiter comes meanwhile: it is blocked, stays pending, and is read from the new program's signalfd.
//! - A child of the mold that is to become a worker is ours, as the subreaper, before and after.
//! - The program is replaced between question and execution: whatever is executed has read the same form of the state or
//!   says so and ends, and systemd starts the service again.
//! - Somebody else executes meanwhile and inherits the fds: there is one thread, and it is here.

use super::event::Event;
use super::output::{self, Output};
use super::perform::{Passed, Peer, Performer, Prepared, Source, watch};
use super::reap::PidFd;
use super::report::History;
use super::snapshot::{self, Preface, Snapshot};
use super::spawn;
use super::token::Token;
use super::trial;
use super::{State, pidfile::PidFile};
use crate::control::Control;
use crate::fds;
use crate::listeners::{Listener, Listeners};
use crate::settings::Settings;
use crate::systemd::fdstore::{Returned, SCOREBOARD};
use nix::sys::epoll::EpollFlags;
use nix::sys::memfd::{MFdFlags, memfd_create};
use rgunicorn_protocol::{Channel, Scoreboard, VERSION};
use slog::warn;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;

/// Names the fd of the state to the program that takes over, or is asked whether it can.
pub(crate) const VARIABLE: &str = "_RGUNICORN_STATE";
/// Bytes of what a program says that are read.
const MOST_SAID: u64 = 4096;
/// How long the journal may take for the last records of this program.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(100);
/// How the answer of a program that can take over ends.
const CAN: &str = "can take over";

/// The fd that [`VARIABLE`] names.
pub(crate) fn passed() -> Option<RawFd> {
    std::env::var(VARIABLE).ok()?.parse().ok().filter(|number| *number > 2)
}

/// `--upgrade-check`: whether this program could take over, as a line for the one who asks.
///
/// # Errors
/// A sentence: why it could not.
pub(crate) fn answer() -> Result<String, String> {
    let number = passed().ok_or(
        "--upgrade-check is asked by a running rgunicorn that is about to be replaced, not by hand; \
                                 rgunicornctl upgrade, or SIGUSR2, does that",
    )?;
    let state =
        fds::adopt(number).map_err(|error| format!("the state of the running rgunicorn is not there: {error}"))?;
    let snapshot = Snapshot::read(state)?;
    // The module is asked for here, where a missing or a wrong one refuses the upgrade; later it would fail the reload.
    let module = spawn::worker_module(&std::env::current_exe().unwrap_or_default())?;
    if let Some(settings) = settings_of(&snapshot.state, &snapshot.generations) {
        trial::of(settings, &module)?;
    }
    Ok(format!("rgunicorn {VERSION} {CAN}\n"))
}

/// A program that is asked whether it can take over.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) pid: i32,
    said: OwnedFd,
}

impl Check {
    /// It has ended: its version if it said that it can take over, or why it cannot.
    fn conclude(self, exit: super::event::Exit) -> Result<String, String> {
        let mut said = String::new();
        let mut file = File::from(self.said);
        let _ = file.rewind().and_then(|()| file.take(MOST_SAID).read_to_string(&mut said));
        let said = said.trim();
        let version = said.strip_prefix("rgunicorn ").and_then(|rest| rest.strip_suffix(CAN)).map(str::trim);
        match (exit, version) {
            (super::event::Exit::Code(0), Some(version)) => Ok(version.to_owned()),
            (_, _) if said.is_empty() => Err(format!("asked whether it can take over, it {exit} and said nothing")),
            (_, _) => Err(said.strip_prefix("rgunicorn: ").unwrap_or(said).to_owned()),
        }
    }
}

impl Performer<'_> {
    /// Asks the program that would be executed; its end is the answer.
    pub(super) fn check_upgrade(&mut self, state: &State) {
        match self.ask(state) {
            Ok(check) => self.check = Some(check),
            Err(reason) => self.events.push_back(Event::UpgradeChecked(Err(reason))),
        }
    }

    fn ask(&self, state: &State) -> Result<Check, String> {
        let failed = |error: nix::errno::Errno| format!("it cannot be asked: {error}");
        let program = self.successor()?;
        let memory = self.snapshot(state).write()?;
        let said = memfd_create(c"rgunicorn-answer", MFdFlags::MFD_CLOEXEC).map_err(failed)?;
        let pid = spawn::spawn_check(program, VARIABLE, &memory, &said)?;
        Ok(Check { pid: pid.as_raw(), said })
    }

    /// The answer is no longer wanted.
    pub(super) fn abandon_upgrade(&mut self) {
        if let Some(check) = self.check.take() {
            // What it is now is an orphan's end.
            if let Err(error) = PidFd::open(check.pid).and_then(|process| process.kill()) {
                warn!(self.logger, "The program that was asked (pid {}) could not be killed: {}", check.pid, error;
                    rgunicorn_log::event::FAILURE);
            }
        }
    }

    /// Whether it was the program that was asked which has ended.
    pub(super) fn conclude_check(&mut self, pid: i32, exit: super::event::Exit) -> bool {
        let Some(check) = self.check.take_if(|check| check.pid == pid) else { return false };
        self.events.push_back(Event::UpgradeChecked(check.conclude(exit)));
        true
    }

    fn successor(&self) -> Result<&Path, String> {
        match &self.source {
            Source::Serve { invocation, .. } => Ok(&invocation.started_as),
            Source::Check { .. } => Err("a check is no instance".into()),
        }
    }

    fn snapshot(&self, state: &State) -> Snapshot {
        let listeners = self.listeners.all();
        let place = |wanted: &Rc<Listener>| listeners.iter().position(|listener| Rc::ptr_eq(listener, wanted));
        Snapshot {
            preface: Preface::ours(),
            state: state.clone(),
            listeners: listeners.iter().map(|listener| listener.pack()).collect(),
            generations: self
                .generations
                .iter()
                .map(|(number, prepared)| snapshot::Generation {
                    number: *number,
                    settings: Rc::clone(&prepared.settings),
                    module: prepared.module.clone(),
                    listeners: prepared.listeners.iter().filter_map(place).collect(),
                })
                .collect(),
            peers: self
                .peers
                .iter()
                .map(|(serial, peer)| snapshot::Peer {
                    serial: *serial,
                    channel: peer.channel.as_raw_fd(),
                    ended: peer.ended,
                    pid: peer.pid,
                    slot: peer.slot,
                    generation: peer.generation,
                    sheet: peer.sheet.as_ref().map(rgunicorn_protocol::Sheet::at),
                })
                .collect(),
            handoff: (self.handoff.0.as_raw_fd(), self.handoff.1.as_raw_fd()),
            scoreboard: self
                .scoreboard
                .as_ref()
                .map(|board| snapshot::Scoreboard { fd: board.as_fd().as_raw_fd(), free: board.free().to_vec() }),
            output: self.output.as_ref().map(Output::pack),
            control: self.control.pack(),
            past: self.history.past.clone(),
            pidfile: self.pidfile.as_ref().map(|pidfile| pidfile.path().to_owned()),
            in_force: self.in_force.clone(),
        }
    }

    /// Executes the new program. Returns only if that fails, with the reason; then everything is as before.
    pub(super) fn execute_upgrade(&mut self, state: &State) -> String {
        match self.prepare_execution(state) {
            Err(reason) => reason,
            Ok((program, memory, fds)) => {
                // What the journal does not take goes with this program.
                self.log.finish(LAST_WORDS);
                let kept = fds.iter().try_for_each(|fd| fds::keep(*fd, true));
                let reason = match kept {
                    Err(error) => format!("a file descriptor cannot be kept open: {error}"),
                    Ok(()) => {
                        let errno = spawn::execute_successor(&program, VARIABLE, memory.as_raw_fd());
                        format!("{} cannot be executed: {errno}", program.display())
                    }
                };
                for fd in fds {
                    // It was open a moment ago.
                    let _ = fds::keep(fd, false);
                }
                reason
            }
        }
    }

    fn prepare_execution(&self, state: &State) -> Result<(std::path::PathBuf, OwnedFd, Vec<RawFd>), String> {
        let program = self.successor()?.to_owned();
        let snapshot = self.snapshot(state);
        let memory = snapshot.write()?;
        let mut fds = snapshot.fds();
        fds.push(memory.as_raw_fd());
        Ok((program, memory, fds))
    }

    /// Takes up what the program before has left to this one.
    ///
    /// # Errors
    /// An fd is not open.
    pub(super) fn take_up(&mut self, estate: Estate, instance: &str) -> io::Result<()> {
        for generation in estate.generations {
            let listeners =
                generation.listeners.iter().filter_map(|place| estate.listeners.get(*place).cloned()).collect();
            let prepared = Prepared { settings: generation.settings, module: generation.module, listeners };
            self.generations.insert(generation.number, prepared);
        }
        self.listeners = Listeners::of(&estate.listeners);
        for carried in estate.peers {
            let channel = Channel::adopt(fds::adopt(carried.channel)?);
            if !carried.ended {
                watch(&self.epoll, &channel, EpollFlags::EPOLLIN, Token::Channel(carried.serial));
            }
            let process = carried.pid.and_then(|pid| PidFd::open(pid).ok());
            if let Some(process) = &process {
                watch(&self.epoll, process, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Process(carried.serial));
            }
            let sheet = carried.sheet.and_then(|at| self.scoreboard.as_ref()?.reopen(at).ok());
            let snapshot::Peer { serial, ended, pid, slot, generation, .. } = carried;
            self.peers.insert(serial, Peer { channel, ended, pid, slot, process, generation, sheet, stack: None });
        }
        self.output = match estate.output {
            Some(carried) => Some(Output::unpack(carried, instance)?),
            None => Output::open(instance)?,
        };
        if let Some(output) = &self.output {
            for (whose, reader) in output.readers() {
                watch(&self.epoll, reader, EpollFlags::EPOLLIN, Token::Output(whose));
            }
        }
        self.history = History::of(estate.past);
        // The fd store has them already; the books of what it has are ours.
        self.keep_listeners();
        // Also where the reload that follows fails, and commits to nothing.
        if let Some(serving) = estate.state.serving() {
            self.watch_idleness(serving.number);
        }
        self.control.watch_clients(&self.epoll, |client| Token::Control(client).to_u64());
        self.pidfile = estate.pidfile;
        self.in_force = estate.in_force;
        // SIGCHLD stays pending over execve(2); whoever could not be found by its pid then is found by this.
        self.handle_deaths();
        self.handle_pauses();
        Ok(())
    }
}

/// What a program leaves to the next, its fds adopted as far as they have owners already.
pub(super) struct Estate {
    /// Of the program before.
    pub(super) version: String,
    pub(super) state: State,
    listeners: Vec<Rc<Listener>>,
    generations: Vec<snapshot::Generation>,
    peers: Vec<snapshot::Peer>,
    output: Option<output::Carried>,
    past: super::report::Past,
    pidfile: Option<PidFile>,
    in_force: Option<Rc<Settings>>,
}

impl Estate {
    /// Reads what the fd says, and adopts listeners, handoff, scoreboard and control socket. Both the handoff and the
    /// scoreboard come in the form of what systemd has kept, since it goes on keeping them.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn open(number: RawFd) -> Result<(Estate, Passed, Control), String> {
        let failed = |error: io::Error| format!("what the arbiter before this one had open is not there: {error}");
        let snapshot = Snapshot::read(fds::adopt(number).map_err(failed)?)?;
        let listeners = snapshot.listeners.into_iter().map(|carried| Listener::unpack(carried).map(Rc::new));
        let listeners = listeners.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        let control = Control::unpack(snapshot.control).map_err(failed)?;
        let handoff = fds::adopt(snapshot.handoff.0).and_then(|receive| Ok((receive, fds::adopt(snapshot.handoff.1)?)));
        let mut returned = Returned { handoff: Some(handoff.map_err(failed)?), ..Returned::default() };
        if let Some(carried) = snapshot.scoreboard {
            match fds::adopt(carried.fd).and_then(Scoreboard::adopt) {
                Ok(board) => returned.scoreboard = Some(board.with_free(carried.free)),
                // Empty figures are bad, but no reason to end.
                Err(error) => {
                    returned.refused.push((SCOREBOARD.to_owned(), format!("the figures begin anew: {error}")))
                }
            }
        }
        let estate = Estate {
            version: snapshot.preface.version,
            state: snapshot.state,
            listeners,
            generations: snapshot.generations,
            peers: snapshot.peers,
            output: snapshot.output,
            past: snapshot.past,
            pidfile: snapshot.pidfile.map(PidFile::adopt),
            in_force: snapshot.in_force,
        };
        Ok((estate, Passed { returned, ..Passed::default() }, control))
    }

    /// The settings by which the instance lives.
    pub(super) fn settings(&self) -> Option<Rc<Settings>> {
        settings_of(&self.state, &self.generations).cloned()
    }
}

/// Those of the generation that serves.
fn settings_of<'a>(state: &State, generations: &'a [snapshot::Generation]) -> Option<&'a Rc<Settings>> {
    let serving = state.serving()?.number;
    generations.iter().find(|generation| generation.number == serving).map(|found| &found.settings)
}

/// The program as it was started: the path in argv\[0\], looked for on PATH, as long as it is the program that runs. A link
/// in it stays one, so that an upgrade follows it.
pub(crate) fn started_as(argument: Option<OsString>, program: &Path, directory: &Path) -> std::path::PathBuf {
    let same = |path: &Path| path.canonicalize().is_ok_and(|found| found == program);
    let argument = argument.map(std::path::PathBuf::from).unwrap_or_default();
    let candidates = if argument.components().count() > 1 {
        vec![directory.join(&argument)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| directory.join(folder).join(&argument)).collect()
    };
    candidates.into_iter().find(|path| same(path)).unwrap_or_else(|| program.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn said(exit: super::super::event::Exit, words: &str) -> Result<String, String> {
        use std::io::Write;
        let mut file = File::from(memfd_create(c"said", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(words.as_bytes()).unwrap();
        Check { pid: 1, said: file.into() }.conclude(exit)
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        use super::super::event::Exit;
        assert_eq!(said(Exit::Code(0), "rgunicorn 1.2.3 can take over\n"), Ok("1.2.3".into()));
        assert_eq!(said(Exit::Code(2), "rgunicorn: unknown option\n"), Err("unknown option".into()));
        assert!(said(Exit::Code(0), "").unwrap_err().contains("exited with status 0 and said nothing"));
        assert!(said(Exit::Code(1), "rgunicorn 1.2.3 can take over\n").is_err());
        assert!(said(Exit::Signal { signal: libc::SIGSEGV, core: true }, "").unwrap_err().contains("SIGSEGV"));
    }

    #[test]
    fn a_program_is_started_again_as_it_was_started_through_links_and_path() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        fs::create_dir(base.join("1")).unwrap();
        let program = base.join("1/rgunicorn");
        fs::write(&program, "").unwrap();
        symlink("1", base.join("current")).unwrap();
        let link = base.join("current/rgunicorn");
        assert_eq!(started_as(Some(link.clone().into()), &program, Path::new("/")), link);
        assert_eq!(started_as(Some("current/rgunicorn".into()), &program, &base), link);
        assert_eq!(started_as(Some("./current/rgunicorn".into()), &program, &base), base.join("./current/rgunicorn"));
        // argv[0] may be anything (exec -a).
        for other in [Some("/nonexistent/x".into()), Some("sh".into()), Some("".into()), None] {
            assert_eq!(started_as(other, &program, &base), program);
        }
    }
}

//! Carries the supervisor's actions out.
//!
//! Owns everything that the decisions do not touch: channels, pidfds, listeners, settings, logs, the words to systemd.
//! Decides nothing: what fails becomes an event in [`Performer::events`]. Invariant: nothing here waits for another
//! process.

mod children;
mod generations;
mod printing;

use super::action::{Action, Notice, Outcome};
use super::decide::{Life, State};
use super::event::{Event, Serial};
use super::idle::Idleness;
use super::memory::OomCounter;
use super::output::Output;
use super::pidfile::PidFile;
use super::reap::PidFd;
use super::report::{History, LateReady};
use super::takeover::Check;
use super::token::Token;
use crate::control::{ClientId, Control};
use crate::listeners::{Listener, Listeners};
use crate::settings::{Invocation, Settings};
use crate::systemd::activation::Activated;
use crate::systemd::fdstore::{FdStore, Returned};
use crate::systemd::notify::Notifier;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{self, MsgFlags, sockopt};
use rgunicorn_log::{Log, Process, event};
use rgunicorn_protocol::{Channel, FromWorker, Scoreboard, Sheet};
use slog::{Logger, debug, warn};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How soon the journal is asked again for what it did not take.
const LOG_RETRY: Duration = Duration::from_millis(5);

/// A mold or a worker that was ordered and is not gone.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) channel: Channel,
    /// The channel's end has been reported.
    pub(super) ended: bool,
    pub(super) pid: Option<i32>,
    /// A worker's place.
    pub(super) slot: Option<u32>,
    /// `None` before the pid is known, or where the machine lacks fds.
    pub(super) process: Option<PidFd>,
    pub(super) generation: u32,
    /// A worker's part of the scoreboard.
    pub(super) sheet: Option<Sheet>,
    /// While it imports the application: where its stack will stand if that takes too long.
    pub(super) stack: Option<File>,
}

/// What one reading of the settings amounts to.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) settings: Rc<Settings>,
    pub(super) module: PathBuf,
    pub(super) listeners: Vec<Rc<Listener>>,
}

/// Where settings come from.
pub(super) enum Source<'a> {
    /// `settings` first, then a new reading of the invocation for each reload.
    Serve { invocation: &'a Invocation, first: Option<Box<Settings>> },
    /// These, and no listeners (--check-config).
    Check { settings: Box<Settings> },
}

/// What systemd passed.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) activated: Vec<Activated>,
    pub(super) returned: Returned,
}

/// See the file's header.
pub(super) struct Performer<'a> {
    pub(super) events: VecDeque<Event>,
    pub(super) outcome: Option<Outcome>,
    pub(super) notifier: Notifier,
    pub(super) epoll: Epoll,
    pub(super) control: Control,
    pub(super) history: History,
    pub(super) late_ready: LateReady,
    /// Clients that wait until the log files have been opened anew.
    pub(super) reopening: Vec<ClientId>,
    pub(super) idle: Idleness,
    pub(super) source: Source<'a>,
    program: PathBuf,
    pub(super) log: Log,
    pub(super) logger: Logger,
    pub(super) listeners: Listeners,
    store: FdStore,
    /// Receiving and sending end of what workers hand each other.
    pub(super) handoff: (OwnedFd, OwnedFd),
    /// `None` where the machine lacks memory or fds; then there are no figures.
    pub(super) scoreboard: Option<Scoreboard>,
    pub(super) generations: BTreeMap<u32, Prepared>,
    pub(super) peers: BTreeMap<Serial, Peer>,
    oom_kills: OomCounter,
    /// What the application prints, if that goes to the journal.
    pub(super) output: Option<Output>,
    /// The program that is asked whether it can take over.
    pub(super) check: Option<Check>,
    /// It is to be executed once all events are dealt with.
    pub(super) upgrades: bool,
    pub(super) pidfile: Option<PidFile>,
    /// The first settings, of which those that wait for a restart are in force.
    pub(super) in_force: Option<Rc<Settings>>,
}

impl<'a> Performer<'a> {
    /// # Errors
    /// The process has no fds left.
    pub(super) fn new(
        source: Source<'a>,
        program: PathBuf,
        log: Log,
        passed: Passed,
        control: Control,
        epoll: Epoll,
    ) -> io::Result<Performer<'a>> {
        let logger = log.logger();
        let (mut notifier, mut store) = match source {
            Source::Serve { .. } => (Notifier::from_environment(), FdStore::from_environment()),
            Source::Check { .. } => (Notifier::default(), FdStore::default()),
        };
        let Passed { activated, returned } = passed;
        for (name, reason) in returned.refused {
            warn!(logger, "systemd had kept {} for this instance; it is closed: {}", name, reason; event::FD_REFUSED);
            store.remove(&name, &mut notifier);
        }
        let scoreboard = returned.scoreboard.map_or_else(Scoreboard::create, Ok);
        let scoreboard = scoreboard
            .inspect_err(|error| {
                warn!(logger, "There are no figures, as their memory cannot be made: {}", error;
                event::FAILURE)
            })
            .ok();
        let handoff = returned.handoff.map_or_else(handoff, Ok)?;
        store.keep_handoff(&handoff, &mut notifier);
        if let Some(board) = &scoreboard {
            store.keep_scoreboard(board, &mut notifier);
        }
        control.watch(&epoll, Token::Control(0).to_u64());
        let output = match &source {
            Source::Serve { first: Some(settings), .. } => Output::open(&settings.log.instance)?,
            Source::Serve { first: None, .. } | Source::Check { .. } => None,
        };
        if let Some(output) = &output {
            for (whose, reader) in output.readers() {
                epoll.add(reader, EpollEvent::new(EpollFlags::EPOLLIN, Token::Output(whose).to_u64()))?;
            }
        }
        Ok(Performer {
            events: VecDeque::new(),
            outcome: None,
            notifier,
            epoll,
            control,
            history: History::default(),
            late_ready: LateReady::default(),
            reopening: Vec::new(),
            idle: Idleness::default(),
            source,
            program,
            log,
            logger,
            listeners: Listeners::adopt(activated, returned.listeners),
            store,
            handoff,
            scoreboard,
            generations: BTreeMap::new(),
            peers: BTreeMap::new(),
            oom_kills: OomCounter::new(),
            output,
            check: None,
            upgrades: false,
            pidfile: None,
            in_force: None,
        })
    }

    pub(super) fn logger(&self) -> &Logger {
        &self.logger
    }

    /// Sends the journal what it did not take before; when to try again, if something still waits.
    pub(super) fn log_deadline(&self, now: Instant) -> Option<Instant> {
        let printed = self.output.as_ref().is_none_or(|output| output.flush(&self.log));
        (!self.log.flush() || !printed).then(|| now + LOG_RETRY)
    }

    /// Carries one action out.
    pub(super) fn perform(&mut self, action: Action, state: &State) {
        match action {
            Action::Prepare { generation } => {
                let plan = self.prepare(generation);
                self.events.push_back(Event::Prepared { generation, plan });
            }
            Action::Inherit { generation, from } => {
                let inherited = self.generations.get(&from).map(|prepared| Prepared {
                    settings: Rc::clone(&prepared.settings),
                    module: prepared.module.clone(),
                    listeners: prepared.listeners.clone(),
                });
                let plan = inherited.ok_or_else(|| format!("generation {from} is gone").into()).map(|prepared| {
                    let plan = generations::plan(&prepared.settings, &prepared.listeners);
                    self.generations.insert(generation, prepared);
                    plan
                });
                self.events.push_back(Event::Prepared { generation, plan });
            }
            Action::SpawnMold { generation, mold } => match self.spawn_mold(generation, mold) {
                Ok(pid) => self.events.push_back(Event::Spawned { mold, pid }),
                Err(reason) => {
                    self.forget(mold);
                    self.events.push_back(Event::SpawnFailed { mold, reason });
                }
            },
            Action::Fork { mold, worker, slot, occasion } => {
                if let Err(reason) = self.fork(mold, worker, slot, occasion) {
                    self.forget(worker);
                    let message = FromWorker::ForkFailed { worker: worker.0, reason };
                    self.events.push_back(Event::Message { from: mold, message });
                }
            }
            Action::Send { to, message } => {
                if let Err(reason) = self.send(to, &message, &[]) {
                    warn!(self.logger, "A message to {} could not be sent: {}", to, reason; event::FAILURE);
                }
            }
            Action::Kill { whom } => self.kill(whom),
            Action::Abandon { whom } => self.forget(whom),
            Action::Commit { generation } => self.commit(generation),
            Action::Withdraw { generation } => self.withdraw(generation),
            Action::Drop { generation } => {
                if matches!(state.life, Life::Stopping { .. } | Life::Over) {
                    // What systemd keeps lives on: it knows whether the service starts again, we do not.
                    self.leave_files();
                    self.generations.remove(&generation);
                } else {
                    self.generations.remove(&generation);
                    self.keep_listeners();
                }
                debug!(self.logger, "Generation {} is gone", generation;
                    event::GENERATION_GONE, "generation" => generation);
            }
            Action::ReopenLogs => self.reopen_logs(state),
            Action::CheckUpgrade => self.check_upgrade(state),
            Action::AbandonUpgrade => self.abandon_upgrade(),
            Action::Upgrade => self.upgrades = true,
            Action::Notify(notice) => match notice {
                Notice::Ready => self.say_ready(state.status()),
                Notice::Reloading => {
                    self.say_late_ready();
                    self.notifier.reloading();
                }
                Notice::Stopping => {
                    self.say_late_ready();
                    self.notifier.stopping();
                    self.close_listeners();
                }
                Notice::Extend(time) => self.notifier.extend(time),
            },
            Action::Record(mut record) => {
                self.add_stack(&mut record);
                let victim = record.victim().and_then(|tags| tags.pid);
                let evidence = victim.map(|pid| self.examine(pid)).unwrap_or_default();
                record.write(&self.logger, &evidence);
                self.history.note(&record, &evidence);
            }
            Action::Exit(outcome) => self.outcome = Some(outcome),
        }
    }

    /// Whether connections wait in the handoff.
    pub(super) fn handoff_is_used(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        socket::recv(self.handoff.0.as_raw_fd(), &mut [0], flags).is_ok()
    }
}

/// Opens the arbiter's logs; files are given to the user that the workers become.
pub(super) fn open_log(settings: &Settings) -> io::Result<Log> {
    let log = Log::open(&settings.log, Process::Arbiter)?;
    if settings.uid.is_some() || settings.gid.is_some() {
        log.give_files_to(settings.uid, settings.gid)?;
    }
    Ok(log)
}

/// The pair that workers hand connections over with. A larger buffer holds more of them; the kernel grants what
/// net.core.wmem_max allows.
fn handoff() -> io::Result<(OwnedFd, OwnedFd)> {
    let (receive, send) = Channel::pair()?;
    let (receive, send) = (receive.into_fd(), send.into_fd());
    let _ = socket::setsockopt(&send, sockopt::SndBuf, &(8 << 20));
    Ok((receive, send))
}

pub(super) fn watch<Fd: AsFd>(epoll: &Epoll, fd: Fd, flags: EpollFlags, token: Token) {
    // It fails only where the kernel has no memory left, or fs.epoll.max_user_watches is reached; then the process is
    // found through SIGCHLD and its deadline.
    let _ = epoll.add(fd, EpollEvent::new(flags, token.to_u64()));
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}

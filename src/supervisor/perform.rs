//! Carries the supervisor's actions out.
//!
//! Owns everything that the decisions do not touch: channels, pidfds, listeners, settings, logs, the words to systemd.
//! Decides nothing: what fails becomes an event in [`Performer::events`]. Invariant: nothing here waits for another
//! process.

use super::action::{Action, Notice, Outcome};
use super::decide::{Life, State};
use super::event::{Event, Exit, Findings, Plan, Serial};
use super::evidence;
use super::idle::Idleness;
use super::memory::OomCounter;
use super::output::{self, Output};
use super::pidfile::PidFile;
use super::reap::{self, Pause, PidFd};
use super::record::Record;
use super::report::{History, LateReady};
use super::spawn;
use super::takeover::Check;
use crate::control::{ClientId, Control};
use crate::listeners::{Listener, Listeners};
use crate::settings::{Invocation, Settings};
use crate::systemd::activation::Activated;
use crate::systemd::fdstore::{FdStore, Returned};
use crate::systemd::notify::Notifier;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{self, MsgFlags, sockopt};
use rgunicorn_log::{Log, Printer, Process, event};
use rgunicorn_protocol::scoreboard::Owner;
use rgunicorn_protocol::{Channel, FromWorker, Received, Scoreboard, Sheet, ToWorker};
use slog::{Level, Logger, debug, error, info, warn};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How soon the journal is asked again for what it did not take.
const LOG_RETRY: Duration = Duration::from_millis(5);

/// Messages taken from one channel per turn of the loop, so that one that floods starves nobody.
const TURN: usize = 64;

/// How far up the tree of processes is looked for the worker that a process belongs to.
const GENERATIONS_OF_CHILDREN: usize = 8;

/// What a ready fd means; the epoll data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signals,
    Channel(Serial),
    Process(Serial),
    /// A client of the control socket, or with 0 the socket.
    Control(ClientId),
    /// Somebody has printed something.
    Output,
}

impl Token {
    pub(super) fn to_u64(self) -> u64 {
        match self {
            Token::Signals => 0,
            Token::Output => 4,
            Token::Channel(Serial(serial)) => serial << 2 | 1,
            Token::Process(Serial(serial)) => serial << 2 | 2,
            Token::Control(client) => client << 2 | 3,
        }
    }

    pub(super) fn from_u64(data: u64) -> Option<Token> {
        match data & 3 {
            0 => match data {
                0 => Some(Token::Signals),
                4 => Some(Token::Output),
                _ => None,
            },
            1 => Some(Token::Channel(Serial(data >> 2))),
            2 => Some(Token::Process(Serial(data >> 2))),
            _ => Some(Token::Control(data >> 2)),
        }
    }
}

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
            epoll.add(output, EpollEvent::new(EpollFlags::EPOLLIN, Token::Output.to_u64()))?;
        }
        Ok(Performer {
            events: VecDeque::new(),
            outcome: None,
            notifier,
            epoll,
            control,
            history: History::default(),
            late_ready: LateReady::default(),
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
                let plan = inherited.ok_or_else(|| format!("generation {from} is gone")).map(|prepared| {
                    let plan = plan(&prepared.settings, &prepared.listeners);
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
            Action::Fork { mold, worker, slot, check } => {
                if let Err(reason) = self.fork(mold, worker, slot, check) {
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
            Action::ReopenLogs => match self.log.reopen() {
                Ok(()) => info!(self.logger, "The log files were opened anew"; event::LOGS_REOPENED),
                Err(error) => error!(self.logger, "The log files cannot be opened anew: {}", error; event::FAILURE),
            },
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

    /// Reads up to a turn's worth of messages.
    pub(super) fn handle_channel(&mut self, serial: Serial) {
        self.read(serial, TURN);
    }

    /// Records what has been printed, a turn's worth of it.
    pub(super) fn handle_output(&mut self) {
        self.with_output(|output, who| {
            output.read(who);
            if output.is_crowded() {
                output.end_all(who);
            }
        });
    }

    /// At the end: records everything that was printed.
    pub(super) fn finish_output(&mut self) {
        if let Some(mut output) = self.output.take() {
            output.finish(&|pid| self.printer(pid), &self.log);
        }
    }

    fn with_output(&mut self, act: impl FnOnce(&mut Output, &dyn Fn(i32) -> Printer)) {
        if let Some(mut output) = self.output.take() {
            act(&mut output, &|pid| self.printer(pid));
            self.output = Some(output);
        }
    }

    /// Which mold or worker a process is or descends from.
    fn printer(&self, pid: i32) -> Printer {
        let mut ancestor = pid;
        for _ in 0..GENERATIONS_OF_CHILDREN {
            if let Some(peer) = self.serial_of(ancestor).and_then(|serial| self.peers.get(&serial)) {
                let generation = peer.generation;
                return match peer.slot {
                    Some(slot) => Printer { pid, process: Process::Worker { generation, slot }, worker: ancestor },
                    None => Printer { pid, process: Process::Mold { generation }, worker: 0 },
                };
            }
            match output::parent(ancestor) {
                Some(parent) => ancestor = parent,
                None => break,
            }
        }
        Printer { pid, process: Process::Arbiter, worker: 0 }
    }

    /// Reaps every child that has ended. Of molds and workers the last words are delivered first.
    pub(super) fn handle_deaths(&mut self) {
        while let Some(pid) = reap::poll_dead() {
            let known = self.find(pid);
            if let Some(serial) = known {
                self.read(serial, usize::MAX);
            }
            self.with_output(|output, who| {
                output.read(who);
                output.end(pid, who);
            });
            let Some(exit) = reap::reap(pid) else { return };
            match known {
                Some(serial) => {
                    let findings = self.find_remains(serial, exit);
                    self.forget(serial);
                    self.events.push_back(Event::Exited { from: serial, exit, findings });
                }
                None if self.conclude_check(pid, exit) => {}
                None => debug!(self.logger, "An orphan (pid {}) {}", pid, exit),
            }
        }
    }

    /// Notices every child that was stopped or continued.
    pub(super) fn handle_pauses(&mut self) {
        while let Some(pause) = reap::poll_paused() {
            match pause {
                Pause::Stopped { pid, signal } => {
                    if let Some(from) = self.find(pid) {
                        self.events.push_back(Event::Halted { from, signal });
                    }
                }
                Pause::Continued { pid } => {
                    if let Some(from) = self.find(pid) {
                        self.events.push_back(Event::Continued { from });
                    }
                }
            }
        }
    }

    /// What a process that has died was doing, and whether the kernel says why it died.
    fn find_remains(&mut self, serial: Serial, exit: Exit) -> Findings {
        let killed = matches!(exit, Exit::Signal { signal: libc::SIGKILL, .. });
        Findings {
            requests: self.requests_of(serial),
            out_of_memory: killed && self.oom_kills.has_grown(),
            threads: Vec::new(),
        }
    }

    /// A process that did not boot in time has left its stack where we can read it.
    fn add_stack(&self, record: &mut Record) {
        let (Record::NotStarted { tags, fault }
        | Record::ReloadFailed { tags, fault, .. }
        | Record::BootFailed { tags, fault, .. }) = record
        else {
            return;
        };
        if fault.kind.is_none() && fault.traceback.is_none() {
            let peer = tags.pid.and_then(|pid| self.serial_of(pid)).and_then(|serial| self.peers.get(&serial));
            fault.traceback = peer.and_then(|peer| peer.stack.as_ref()).and_then(evidence::stack);
        }
    }

    /// What a process that is about to be killed does.
    fn examine(&self, pid: i32) -> Findings {
        let requests = self.serial_of(pid).map(|serial| self.requests_of(serial)).unwrap_or_default();
        Findings { requests, out_of_memory: false, threads: evidence::threads(pid) }
    }

    fn requests_of(&self, serial: Serial) -> Vec<String> {
        let sheet = self.peers.get(&serial).and_then(|peer| peer.sheet.as_ref());
        sheet.map(evidence::requests).unwrap_or_default()
    }

    /// Whose pid this is. A worker may not have been heard yet, so those are listened to first.
    fn find(&mut self, pid: i32) -> Option<Serial> {
        if let Some(known) = self.serial_of(pid) {
            return Some(known);
        }
        let silent: Vec<Serial> =
            self.peers.iter().filter(|(_, peer)| peer.pid.is_none()).map(|(serial, _)| *serial).collect();
        for serial in silent {
            self.read(serial, usize::MAX);
        }
        self.serial_of(pid)
    }

    fn serial_of(&self, pid: i32) -> Option<Serial> {
        self.peers.iter().find(|(_, peer)| peer.pid == Some(pid)).map(|(serial, _)| *serial)
    }

    fn read(&mut self, from: Serial, most: usize) {
        for _ in 0..most {
            let Some(peer) = self.peers.get_mut(&from) else { return };
            if peer.ended {
                return;
            }
            match peer.channel.receive::<FromWorker>() {
                Ok(Received::Message(message, mut fds)) => {
                    if let FromWorker::Importing = message {
                        peer.stack = fds.pop().map(File::from);
                    } else if let FromWorker::Ready { .. } = message {
                        peer.stack = None;
                    } else if let FromWorker::Hello { pid, .. } = message {
                        self.meet(from, pid);
                    }
                    self.events.push_back(Event::Message { from, message });
                }
                Ok(Received::Unreadable(what)) => self.events.push_back(Event::Garbage { from, what }),
                Ok(Received::Empty) => return,
                Ok(Received::Ended) => return self.end(from),
                Err(error) => {
                    warn!(self.logger, "The channel of {} cannot be read: {}", from, error; event::WORKER_ODD);
                    return self.end(from);
                }
            }
        }
    }

    fn end(&mut self, from: Serial) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.ended = true;
        // An end stays readable; without this the loop would spin until the process is gone.
        let _ = self.epoll.delete(&peer.channel);
        self.events.push_back(Event::Ended { from });
    }

    /// A worker says which process it is.
    fn meet(&mut self, serial: Serial, pid: i32) {
        let Some(peer) = self.peers.get_mut(&serial) else { return };
        if peer.pid.is_some() || pid <= 1 {
            return;
        }
        peer.pid = Some(pid);
        match PidFd::open(pid) {
            Ok(process) => {
                watch(&self.epoll, &process, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Process(serial));
                peer.process = Some(process);
            }
            Err(error) => {
                warn!(self.logger, "Worker {} (pid {}) cannot be watched: {}", serial, pid, error; event::FAILURE)
            }
        }
    }

    fn prepare(&mut self, generation: u32) -> Result<Plan, String> {
        let module = spawn::worker_module(&self.program)?;
        let (settings, serves) = match &mut self.source {
            Source::Serve { first, invocation } => match first.take() {
                Some(settings) => (settings, true),
                None => (Box::new(Settings::read(invocation).map_err(|error| error.to_string())?), true),
            },
            Source::Check { settings } => (settings.clone(), false),
        };
        let settings: Rc<Settings> = Rc::from(settings);
        let mut listeners = Vec::new();
        if serves {
            for warning in &settings.warnings {
                warn!(self.logger, "{}", warning; event::SETTINGS_WARNING);
                self.history.hear(Level::Warning, warning.clone());
            }
            if let Some((_, serving)) = self.generations.last_key_value() {
                for name in settings.waiting_for_restart(&serving.settings) {
                    let text = format!("A new value of {name} waits for a restart");
                    warn!(self.logger, "{}", text; event::SETTINGS_WARNING);
                    self.history.hear(Level::Warning, text);
                }
            }
            let opened = self.listeners.open(&settings)?;
            for remark in opened.remarks {
                info!(self.logger, "{}", remark; event::LISTENING);
                self.history.hear(Level::Info, remark);
            }
            listeners = opened.listeners;
            if let Some(reason) = cannot_rest(&settings, &listeners) {
                warn!(self.logger, "idle_timeout has no effect: {}", reason; event::SETTINGS_WARNING);
            }
            let news = if generation == 1 { &listeners } else { &opened.new };
            for listener in news {
                info!(self.logger, "Listening on {}", listener; event::LISTENING);
                self.history.hear(Level::Info, format!("Listening on {listener}"));
            }
        }
        let plan = plan(&settings, &listeners);
        self.generations.insert(generation, Prepared { settings, module, listeners });
        self.keep_listeners();
        for (name, reason) in self.listeners.close_unwanted() {
            info!(self.logger, "A listener that systemd had kept is closed: {}", reason; event::LISTENER_CLOSED);
            self.store.remove(&name, &mut self.notifier);
        }
        Ok(plan)
    }

    /// Has the listeners of all generations kept in the fd store, and no others.
    pub(super) fn keep_listeners(&mut self) {
        let all = self.generations.values().flat_map(|prepared| &prepared.listeners);
        let kept: Vec<_> = all.filter_map(|listener| Some((listener.name_in_store()?, listener.as_fd()))).collect();
        self.store.keep_listeners(&kept, &mut self.notifier);
    }

    /// The process is about to end: the files of sockets that systemd keeps stay.
    fn leave_files(&self) {
        if self.store.is_available() {
            let all = self.generations.values().flat_map(|prepared| &prepared.listeners);
            all.for_each(|listener| listener.leave_file());
        }
    }

    fn spawn_mold(&mut self, generation: u32, mold: Serial) -> Result<i32, String> {
        let prepared = self.generations.get(&generation).ok_or("its generation was not prepared")?;
        let settings = Rc::clone(&prepared.settings);
        let listeners = prepared.listeners.clone();
        let (ours, theirs) = Channel::pair().map_err(|error| format!("no channel can be made: {error}"))?;
        let output = self.output.as_ref().map(Output::lend);
        let pid = spawn::spawn_mold(&settings, &prepared.module, theirs, output)?.as_raw();
        let process = match PidFd::open(pid) {
            Ok(process) => {
                watch(&self.epoll, &process, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Token::Process(mold));
                Some(process)
            }
            Err(error) => {
                warn!(self.logger, "The mold (pid {}) cannot be watched: {}", pid, error; event::FAILURE);
                None
            }
        };
        watch(&self.epoll, &ours, EpollFlags::EPOLLIN, Token::Channel(mold));
        self.peers.insert(
            mold,
            Peer {
                channel: ours,
                ended: false,
                pid: Some(pid),
                slot: None,
                process,
                generation,
                sheet: None,
                stack: None,
            },
        );

        let addresses = listeners.iter().map(|listener| listener.address.clone()).collect();
        let mut configuration = settings.worker_settings(generation, addresses);
        configuration.handoff = true;
        let relayed = output.map(|(_, streams)| streams).unwrap_or_default();
        configuration.log.stdout_is_relayed = relayed.stdout;
        configuration.log.stderr_is_relayed = relayed.stderr;
        configuration.parks = self.store.is_available();
        configuration.scoreboard = self.scoreboard.is_some();
        let lent: Vec<BorrowedFd<'_>> = listeners
            .iter()
            .map(|listener| listener.as_fd())
            .chain([self.handoff.0.as_fd(), self.handoff.1.as_fd()])
            .chain(self.scoreboard.as_ref().map(AsFd::as_fd))
            .collect();
        let message = ToWorker::Configure(Box::new(configuration));
        match self.peers.get(&mold).map(|peer| peer.channel.send(&message, &lent)) {
            None | Some(Ok(())) => {}
            // It is gone already, or could not execute: its exit or its own word of it follows.
            Some(Err(error)) if is_gone(&error) => {}
            Some(Err(error)) => {
                // Without its settings the mold waits for ever: it is killed at the end of its boot_timeout.
                error!(self.logger, "The mold (pid {}) cannot be configured: {}", pid, error; event::FAILURE);
            }
        }
        Ok(pid)
    }

    fn fork(&mut self, mold: Serial, worker: Serial, slot: u32, check: bool) -> Result<(), String> {
        let (ours, theirs) = Channel::pair().map_err(|error| format!("no channel can be made: {error}"))?;
        watch(&self.epoll, &ours, EpollFlags::EPOLLIN, Token::Channel(worker));
        let generation = self.peers.get(&mold).map_or(0, |mold| mold.generation);
        let sheet = self.issue_sheet(Owner { worker: worker.0, generation, slot });
        let at = sheet.as_ref().map(Sheet::at);
        self.peers.insert(
            worker,
            Peer {
                channel: ours,
                ended: false,
                pid: None,
                slot: Some(slot),
                process: None,
                generation,
                sheet,
                stack: None,
            },
        );
        self.send(mold, &ToWorker::Fork { slot, worker: worker.0, sheet: at, check }, &[theirs.as_fd()])
    }

    fn issue_sheet(&mut self, owner: Owner) -> Option<Sheet> {
        let lanes = self.generations.get(&owner.generation)?.settings.lanes();
        match self.scoreboard.as_mut()?.issue(lanes, owner) {
            Ok(sheet) => Some(sheet),
            Err(error) => {
                warn!(self.logger, "Worker {} is missing from the figures: {}", Serial(owner.worker), error;
                    event::FAILURE);
                None
            }
        }
    }

    /// Sends; that the receiver is gone or does not read is no error here but an event, now or soon.
    fn send(&mut self, to: Serial, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let Some(peer) = self.peers.get(&to) else { return Ok(()) };
        match peer.channel.send(message, fds) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.events.push_back(Event::Unresponsive { to });
                Ok(())
            }
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn kill(&mut self, whom: Serial) {
        let Some(peer) = self.peers.get(&whom) else { return };
        let killed = match (&peer.process, peer.pid) {
            (Some(process), _) => process.kill(),
            (None, Some(pid)) => PidFd::open(pid).and_then(|process| process.kill()),
            (None, None) => Ok(()),
        };
        if let Err(error) = killed {
            warn!(self.logger, "Process {} ({:?}) could not be killed: {}", whom, peer.pid, error; event::FAILURE);
        }
    }

    /// The generation's settings are the instance's from now on.
    fn commit(&mut self, generation: u32) {
        let Some(prepared) = self.generations.get(&generation) else { return };
        let settings = Rc::clone(&prepared.settings);
        let kept = prepared.listeners.clone();
        let mut drains = Vec::new();
        for (number, older) in self.generations.range_mut(..generation) {
            let mut ending = Vec::new();
            for (n, listener) in (0..).zip(std::mem::take(&mut older.listeners)) {
                if kept.iter().any(|other| Rc::ptr_eq(other, &listener)) {
                    continue;
                }
                if listener.is_own() {
                    listener.let_nobody_in();
                    ending.push(n);
                }
                // The last reference closes it; an older generation than this one may hold it, too.
                if Rc::strong_count(&listener) == 1 {
                    let text = format!("No longer listening on {listener}");
                    info!(self.logger, "{}", text; event::LISTENER_CLOSED);
                    self.history.hear(Level::Info, text);
                }
            }
            if !ending.is_empty() {
                drains.extend(
                    self.peers
                        .iter()
                        .filter(|(_, peer)| peer.generation == *number)
                        .map(|(serial, _)| (*serial, ToWorker::Drain { listeners: ending.clone() })),
                );
            }
        }
        for (to, message) in drains {
            if let Err(reason) = self.send(to, &message, &[]) {
                warn!(self.logger, "{} does not hear that a listener ends: {}", to, reason; event::FAILURE);
            }
        }
        self.keep_listeners();
        self.watch_idleness(generation);
        if generation > 1 {
            match open_log(&settings) {
                Ok(log) => {
                    self.logger = log.logger();
                    self.log = log;
                }
                Err(error) => error!(self.logger, "The logs stay as they were: {}", error; event::FAILURE),
            }
        }
    }

    /// Obeys the idle_timeout of the generation that serves.
    pub(super) fn watch_idleness(&mut self, generation: u32) {
        let Some(Prepared { settings, listeners, .. }) = self.generations.get(&generation) else { return };
        let idle_timeout = Some(settings.idle_timeout).filter(|_| cannot_rest(settings, listeners).is_none());
        self.idle.set(idle_timeout.filter(|timeout| !timeout.is_zero()), Instant::now());
    }

    /// Whether connections wait in the handoff.
    pub(super) fn handoff_is_used(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        socket::recv(self.handoff.0.as_raw_fd(), &mut [0], flags).is_ok()
    }

    fn forget(&mut self, serial: Serial) {
        if let Some(mut peer) = self.peers.remove(&serial) {
            if let (Some(sheet), Some(scoreboard)) = (peer.sheet.take(), &mut self.scoreboard) {
                scoreboard.reclaim(sheet);
            }
            // Closing removes an fd from the epoll set only if no duplicate is open, and forks in flight may hold one.
            let _ = self.epoll.delete(&peer.channel);
            if let Some(process) = &peer.process {
                let _ = self.epoll.delete(process);
            }
        }
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

/// Why idle_timeout cannot be obeyed, if it is set.
fn cannot_rest(settings: &Settings, listeners: &[Rc<Listener>]) -> Option<String> {
    if settings.idle_timeout.is_zero() {
        return None;
    }
    let own = listeners.iter().find(|listener| listener.is_own())?;
    Some(format!(
        "{own} is the instance's own, and nobody would listen there or start the instance again; let a systemd socket unit \
         own it (rgunicorn@NAME.socket), or remove idle_timeout"
    ))
}

/// What the decisions need to know.
fn plan(settings: &Settings, listeners: &[Rc<Listener>]) -> Plan {
    Plan {
        workers: settings.workers,
        preload: settings.preload_app,
        boot_timeout: (!settings.boot_timeout.is_zero()).then_some(settings.boot_timeout),
        graceful_timeout: settings.graceful_timeout,
        lifetime: (!settings.max_worker_lifetime.is_zero()).then_some(settings.max_worker_lifetime),
        drain_listeners: listeners.iter().any(|listener| listener.is_own()),
    }
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

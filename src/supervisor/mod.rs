//! The arbiter: supervises the generations of one instance.
//!
//! Owns the only loop of the process: it waits in one epoll_wait(2) for signals, channels, the ends of processes and
//! the next known deadline, turns what it finds into events, lets [`decide`] decide and [`perform`] carry out. Knows no
//! HTTP and no Python. Invariants: it never waits for a child; with nothing to do it sleeps without limit; one thread,
//! for ever.

mod action;
mod backoff;
mod decide;
#[cfg(test)]
mod decide_tests;
mod event;
mod evidence;
mod generation;
mod idle;
mod memory;
mod moment;
mod output;
mod perform;
mod pidfile;
mod process;
mod proof;
mod reap;
mod record;
mod report;
#[cfg(test)]
mod rolling_tests;
mod signals;
mod slot;
mod snapshot;
mod spawn;
mod status;
mod takeover;
mod token;
mod trial;
mod upgrade;
mod vigil;
#[cfg(test)]
mod vigil_tests;
#[cfg(test)]
mod world;

use crate::control::Control;
use crate::exit::Exit;
use crate::settings::{Invocation, Settings};
use crate::systemd;
use crate::systemd::notify::Notifier;
use crate::systemd::watchdog::Watchdog;
use crate::trouble::Trouble;
pub(crate) use takeover::{VARIABLE as STATE_VARIABLE, answer as answer_upgrade_check, passed, started_as};

use action::{Action, Outcome};
use decide::{Purpose, State};
use event::{Event, Order};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use perform::{Passed, Performer, Source};
use pidfile::PidFile;
use rgunicorn_log::{Log, LogSettings, Process, event as id};
use rgunicorn_protocol::control::userless;
use rgunicorn_protocol::{BootFaultKind, CHANNEL_FD};
use signals::{Sender, Sent, Signals};
use slog::{error, info, warn};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use takeover::Estate;
use token::Token;

/// For how long what the application left behind is killed at the end.
const ORPHAN_TIME: Duration = Duration::from_secs(2);

/// Serves until it is told to stop. `settings` is the first reading; a reload asks `invocation` for the next one.
///
/// # Errors
/// What no log could tell: the logs cannot be opened, or the machine refuses the arbiter its first file descriptors.
pub(crate) fn run(invocation: &Invocation, settings: Settings) -> Result<Exit, Trouble> {
    signals::ignore_meaningless();
    let log = perform::open_log(&settings)?;
    let logger = log.logger();
    info!(
        logger, "rgunicorn {} starts: {} worker{} ({}), {}{}, application {}",
        rgunicorn_protocol::VERSION, settings.workers, if settings.workers == 1 { "" } else { "s" }, settings.workers_origin, settings.python.display(),
        in_brackets(&settings.python_origin), settings.app;
        id::STARTING
    );
    let started = raise_fd_limit().and_then(|()| systemd::activation::adopt()).map_err(Trouble::from);
    let started = started.and_then(|activated| {
        let pidfile = settings.pidfile.as_deref().map(PidFile::write).transpose()?;
        Ok((activated, pidfile))
    });
    let ((activated, stored), pidfile) = match started {
        Ok(started) => started,
        Err(reason) => {
            error!(logger, "{}", reason; id::START_FAILED);
            Notifier::from_environment().fails(Exit::Failure.code(), &reason);
            return Ok(Exit::Failure);
        }
    };
    let control = Control::open(&settings, &logger);
    // A reload may open other logs; nothing here keeps the first ones open.
    drop(logger);
    let passed = Passed { activated, returned: systemd::fdstore::examine(stored) };
    let source = Source::Serve { invocation, first: Some(Box::new(settings)) };
    let mut performer = performer(source, invocation.program.clone(), log, passed, control)?;
    performer.pidfile = pidfile;
    supervise(State::begin(Purpose::Serve, Instant::now()), performer)
}

/// Goes on where another program of this process has stopped: `number` is the fd of what it has left (SIGUSR2).
///
/// # Errors
/// As [`run`], or the state cannot be taken over: the workers then find their channels closed and leave, and systemd
/// starts the service again.
pub(crate) fn resume(invocation: &Invocation, number: RawFd) -> Result<Exit, Trouble> {
    signals::ignore_meaningless();
    let (estate, passed, control) = Estate::open(number)?;
    let settings = estate.settings().ok_or("the arbiter before this one has left no settings")?;
    let (log, trouble) = open_log_or_stderr(&settings)?;
    let (mut state, from) = (estate.state.clone(), estate.version.clone());
    let source = Source::Serve { invocation, first: None };
    let mut performer = performer(source, invocation.program.clone(), log, passed, control)?;
    if let Some(trouble) = trouble {
        error!(performer.logger(), "The logs go to stderr, as they cannot be opened: {}", trouble; id::FAILURE);
    }
    performer
        .take_up(estate, &settings.log.instance)
        .map_err(|error| Trouble::by_io(&error, format!("what the arbiter before had open is not there: {error}")))?;
    let first = state.resume(from, Instant::now());
    supervise((state, first), performer)
}

/// A log that cannot be opened any more ends no service that runs; the second part says why.
fn open_log_or_stderr(settings: &Settings) -> Result<(Log, Option<String>), Trouble> {
    match perform::open_log(settings) {
        Ok(log) => Ok((log, None)),
        Err(trouble) => {
            let log = LogSettings { errorlog: "-".into(), accesslog: None, ..settings.log.clone() };
            let log = Log::open(&log, Process::Arbiter)?;
            Ok((log, Some(trouble.to_string())))
        }
    }
}

/// `--check-config`: imports the application in its own interpreter and says what is wrong.
///
/// # Errors
/// As [`run`].
pub(crate) fn check(settings: &Settings) -> Result<Exit, Trouble> {
    raise_fd_limit()?;
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut settings = settings.clone();
    // The answer is for the one who asks.
    settings.log = LogSettings { errorlog: "-".into(), accesslog: None, ..settings.log };
    let userless = Some(settings.instance.as_str()).filter(|name| !name.is_empty()).and_then(userless);
    settings.warnings.extend(
        userless.map(|why| format!("instance = {:?}: unless its unit has User= already, {why}", settings.instance)),
    );
    let log = perform::open_log(&settings)?;
    let source = Source::Check { settings: Box::new(settings) };
    let performer = performer(source, program, log, Passed::default(), Control::default())?;
    supervise(State::begin(Purpose::Check, Instant::now()), performer)
}

fn failed(what: &str, error: impl Into<Trouble>) -> Trouble {
    error.into().said(|error| format!("the arbiter cannot {what}: {error}"))
}

fn performer<'a>(
    source: Source<'a>,
    program: PathBuf,
    log: Log,
    passed: Passed,
    control: Control,
) -> Result<Performer<'a>, Trouble> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| failed("wait", error))?;
    Performer::new(source, program, log, passed, control, epoll).map_err(|error| failed("begin", error))
}

/// Supervises from a state on, whose first actions are not carried out yet.
fn supervise((state, first): (State, Vec<Action>), mut performer: Performer<'_>) -> Result<Exit, Trouble> {
    let purpose = state.purpose;
    let mut signals = Signals::take().map_err(|error| failed("take its signals", error))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| failed("become the reaper of its workers", error))?;
    performer
        .epoll
        .add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, Token::Signals.to_u64()))
        .map_err(|error| failed("wait for signals", error))?;

    let (outcome, status) = turn(state, first, &mut signals, &mut performer)?;

    if !systemd::is_our_parent() {
        let killed = reap::kill_orphans(ORPHAN_TIME);
        if killed > 0 {
            warn!(performer.logger(), "Killed what the application had left behind: {} of its processes", killed;
                id::ORPHANS_KILLED);
        }
    }
    performer.finish_output();
    let exit = exit_of(outcome);
    if purpose == Purpose::Serve {
        let errno = match outcome {
            Outcome::Failure { errno } => errno,
            Outcome::Clean | Outcome::Fault(_) => None,
        };
        performer.notifier.ends(exit.code(), &status, errno);
    }
    Ok(exit)
}

/// The loop, up to the outcome and the last STATUS.
fn turn(
    mut state: State,
    first: Vec<Action>,
    signals: &mut Signals,
    performer: &mut Performer<'_>,
) -> Result<(Outcome, String), Trouble> {
    let mut watchdog = Watchdog::from_environment(Instant::now());
    for action in first {
        performer.perform(action, &state);
    }
    let mut ready = [EpollEvent::empty(); 32];
    loop {
        while let Some(event) = performer.events.pop_front() {
            for action in state.handle_event(event, Instant::now()) {
                performer.perform(action, &state);
            }
        }
        if let Some(outcome) = performer.outcome {
            return Ok((outcome, state.status()));
        }
        performer.report_progress(&state);
        if !performer.events.is_empty() {
            // A client that had waited has ordered something else.
            continue;
        }
        if std::mem::take(&mut performer.upgrades) && state.executes() {
            let reason = performer.execute_upgrade(&state);
            performer.events.push_back(Event::UpgradeChecked(Err(reason)));
            continue;
        }
        performer.notifier.status(state.status());
        let now = Instant::now();
        if watchdog.poll_due(now) {
            feed(&mut watchdog, performer, &state, now);
        }
        if performer.idle.is_due(now) {
            let seen = performer.look_for_activity(&state);
            if let Some(after) = performer.idle.handle_look(seen, now) {
                performer.events.push_back(Event::Order(Order::Rest(after)));
                continue;
            }
        }
        performer.poll_ready(now);
        performer.notifier.poll_again(now);
        performer.control.poll_again(&performer.epoll, Token::Control(0).to_u64(), now);
        let deadline = state.deadline(now);
        let wake = [
            deadline,
            watchdog.deadline(),
            performer.notifier.deadline(),
            performer.log_deadline(now),
            performer.control.deadline(),
            performer.idle.deadline(),
            performer.ready_deadline(),
        ];
        let wake = wake.into_iter().flatten().min();
        let found = match performer.epoll.wait(&mut ready, timeout(wake, now)) {
            Ok(found) => found,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(failed("wait", errno)),
        };
        if ready.iter().take(found).any(|event| matches!(Token::from_u64(event.data()), Some(Token::Control(_)))) {
            // systemd sends SIGHUP and then starts the helper that asks how it went: the signal comes first.
            handle_signals(signals, performer);
        }
        for event in ready.iter().take(found) {
            match Token::from_u64(event.data()) {
                Some(Token::Signals) => handle_signals(signals, performer),
                Some(Token::Channel(serial)) => performer.handle_channel(serial),
                Some(Token::Process(_)) => performer.handle_deaths(),
                Some(Token::Control(client)) => performer.handle_control(client, &state),
                Some(Token::Output(whose)) => performer.handle_output(whose),
                None => {}
            }
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            performer.events.push_back(Event::Timer);
        }
    }
}

/// Feeds the watchdog, if the instance does its work.
fn feed(watchdog: &mut Watchdog, performer: &mut Performer<'_>, state: &State, now: Instant) {
    match performer.poll_fault(state, now) {
        None => {
            performer.notifier.watchdog();
            if let Some(time) = watchdog.feed(now) {
                info!(performer.logger(), "The watchdog is fed again after {}", record::seconds(time));
            }
        }
        Some(reason) => {
            if let Some(left) = watchdog.withhold(now) {
                error!(
                    performer.logger(), "The watchdog is not fed, and systemd starts the service again in {}: {}. {}",
                    record::seconds(left), reason, performer.account(state); id::WATCHDOG_MISSED
                );
            }
        }
    }
}

fn handle_signals(signals: &mut Signals, performer: &mut Performer<'_>) {
    loop {
        match signals.poll_sent(Instant::now()) {
            Ok(Some((Sent::Child, _))) => {
                performer.handle_deaths();
                performer.handle_pauses();
            }
            Ok(Some((Sent::Order(order), sender))) => {
                if (order, sender) == (Order::Reload, Sender::Parent) {
                    performer.history.note_signal(Instant::now());
                }
                performer.events.push_back(Event::Order(order));
            }
            Ok(Some((Sent::Stray(stray), _))) => {
                warn!(performer.logger(), "Ignored what means nothing here: {}", stray; id::SIGNAL_IGNORED);
            }
            Ok(Some((Sent::Known, _))) => {}
            Ok(None) => return,
            Err(error) => {
                warn!(performer.logger(), "Signals cannot be read: {}", error; id::FAILURE);
                return;
            }
        }
    }
}

/// How long to sleep: up to the millisecond after the deadline, since one before it would be a turn for nothing.
fn timeout(wake: Option<Instant>, now: Instant) -> EpollTimeout {
    let Some(wake) = wake else { return EpollTimeout::NONE };
    let milliseconds = wake.saturating_duration_since(now).as_micros().div_ceil(1000);
    let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
    EpollTimeout::try_from(milliseconds).unwrap_or(EpollTimeout::ZERO)
}

fn exit_of(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Clean => Exit::Success,
        Outcome::Failure { .. } | Outcome::Fault(BootFaultKind::Environment) => Exit::Failure,
        Outcome::Fault(BootFaultKind::NotFound) => Exit::AppNotFound,
        Outcome::Fault(
            BootFaultKind::Interpreter | BootFaultKind::Import | BootFaultKind::Version | BootFaultKind::Check,
        ) => Exit::BootFault,
    }
}

/// Every connection that waits in the handoff counts against the sender's soft limit (unix(7), ETOOMANYREFS), and
/// workers inherit the limit.
///
/// # Errors
/// Not even the mold's channel would have a number.
fn raise_fd_limit() -> Result<(), String> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    if soft < hard {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let least = u64::try_from(CHANNEL_FD).unwrap_or_default() + 1;
    if hard < least {
        return Err(format!(
            "a process may have {hard} file descriptors here, and rgunicorn needs {least}, beside one for each connection: \
             raise the limit (LimitNOFILE= of the unit, `ulimit -Hn` in a shell)"
        ));
    }
    Ok(())
}

fn in_brackets(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// Whether a process of this pid exists and has not ended, as far as this user may know.
fn is_alive(pid: i32) -> bool {
    // proc_pid_stat(5): the state stands behind the name, which may have anything in it.
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    state.is_some_and(|state| !matches!(state, b'Z' | b'X'))
}

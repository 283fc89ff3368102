//! The worker process, from the fork to the exit.

use crate::bridge::wsgi::WsgiBridge;
use crate::drivers::{asyncio, gevent};
use crate::mold::{Mold, say_hello};
use crate::{application, drivers, identity, output, reload_check, signals, stacks};
use pyo3::prelude::*;
use rgunicorn_log::event;
use rgunicorn_log::{Log, LogSettings, Process};
use rgunicorn_protocol::scoreboard::Pool;
use rgunicorn_protocol::{BootFault, BootFaultKind, Channel, FromWorker, Occasion, Sheet, SheetAt, WorkerSettings};
use rgunicorn_reactor::{Hooks, Inheritance, Mark, Reactor, ReactorSettings, seconds};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// Exit status of a worker that could not boot; the reason went to the arbiter before.
const CANNOT_BOOT: i32 = 3;

/// What the arbiter says of a worker when it orders the fork.
pub(crate) struct Place {
    /// The slot that the worker fills.
    pub(crate) slot: u32,
    /// Its serial number.
    pub(crate) worker: u64,
    /// Its part of the scoreboard.
    pub(crate) sheet: Option<SheetAt>,
    /// What it is for.
    pub(crate) occasion: Occasion,
}

/// Runs a freshly forked worker to its end. Returns the exit status.
pub(crate) fn run(py: Python<'_>, mold: Mold, channel: Channel, place: Place) -> i32 {
    let since = Instant::now();
    identity::set_title(&mold.settings, "worker");
    say_hello(py, &channel, place.worker);
    match boot(py, mold, channel, &place) {
        Ok(booted) => booted.serve(py, place.occasion, since),
        Err((channel, fault)) => {
            let _ = channel.send(&FromWorker::BootFault(fault), &[]);
            CANNOT_BOOT
        }
    }
}

struct Booted {
    reactor: Arc<Reactor>,
    application: Served,
    settings: WorkerSettings,
}

/// The application, and what serves it.
enum Served {
    Wsgi(Box<WsgiBridge>),
    Asgi(asyncio::Parts),
}

fn machine_fault(message: String) -> BootFault {
    BootFault { kind: BootFaultKind::Environment, message, traceback: None }
}

/// The log of a worker that replaces another one, if the log files cannot be opened any more: a folder that is gone takes no
/// service away. A start and a reload fail by it.
fn log_to_stderr(
    settings: &WorkerSettings,
    process: Process,
    occasion: Occasion,
    error: &std::io::Error,
) -> Option<Log> {
    if occasion != Occasion::Replacement {
        return None;
    }
    let bare = LogSettings { errorlog: "-".to_owned(), accesslog: None, ..settings.log.clone() };
    let log = Log::open(&bare, process).ok()?;
    slog::error!(log.logger(), "The worker's logs cannot be opened and go to stderr until a reload, its access log nowhere: {}",
        error; event::FAILURE);
    Some(log)
}

fn boot(py: Python<'_>, mold: Mold, channel: Channel, place: &Place) -> Result<Booted, (Channel, BootFault)> {
    let Mold { mut settings, fds, application } = mold;
    if place.occasion == Occasion::Reload && settings.max_requests > 0 {
        settings.max_requests += settings.reload_check.len() as u64;
    }
    let process = Process::Worker { generation: settings.generation, slot: place.slot };
    let log = match Log::open(&settings.log, process) {
        Ok(log) => Arc::new(log),
        Err(error) => match log_to_stderr(&settings, process, place.occasion, &error) {
            Some(log) => Arc::new(log),
            None => return Err((channel, machine_fault(format!("the worker cannot log: {error}")))),
        },
    };
    if let Err(error) = output::capture(&settings) {
        let reason = format!("capture_output: {} cannot be opened: {error}", settings.log.errorlog);
        if place.occasion != Occasion::Replacement {
            return Err((channel, machine_fault(reason)));
        }
        slog::error!(log.logger(), "{}; what the application prints goes to stderr", reason; event::FAILURE);
    }
    if settings.worker_class == "gevent"
        && let Err(fault) = gevent::after_fork(py)
    {
        return Err((channel, fault));
    }
    // Until the reactor has them: an application may fork while it is imported.
    let marks = Mark::all(&fds, &channel);
    let load = || stacks::watched(py, &channel, settings.boot_timeout, || application::load(py, &settings));
    let application = match application.map_or_else(load, Ok) {
        Ok(application) => application,
        Err(fault) => return Err((channel, fault)),
    };
    let is_open = settings.worker_class == "auto";
    if let Err(fault) = application::settle_pool(py, application.bind(py), &mut settings) {
        return Err((channel, fault));
    }
    if is_open {
        slog::debug!(
            log.logger(),
            "worker_class = \"auto\" means {} for this application; timeout = {} s",
            settings.worker_class,
            settings.timeout
        );
    }
    let mut fds = fds.into_iter();
    // The addresses first: a zip that ends with its second half would have taken one fd too many.
    let addresses = settings.listeners.iter().cloned();
    let listeners = addresses.zip(fds.by_ref()).map(|(address, fd)| (fd, address)).collect();
    let handoff = if settings.handoff { fds.next().zip(fds.next()) } else { None };
    let scoreboard = if settings.scoreboard { fds.next() } else { None };
    let lanes = drivers::lanes(&settings);
    let sheet = match open_sheet(scoreboard, place, &settings, lanes, &log) {
        Ok(sheet) => Arc::new(sheet),
        Err(error) => return Err((channel, machine_fault(format!("the worker cannot map its memory: {error}")))),
    };
    let reactor_settings = match ReactorSettings::new(&settings, &sheet) {
        Ok(reactor_settings) => reactor_settings,
        Err(message) => return Err((channel, machine_fault(message))),
    };
    let reopened = Arc::clone(&log);
    let captured = settings.clone();
    let reopen = Box::new(move || {
        if let Err(error) = output::capture(&captured) {
            slog::error!(reopened.logger(), "errorlog could not be reopened for what the application prints, which goes on \
                to the old file"; event::FAILURE, "error" => %error);
        }
        if let Err(error) = reopened.reopen() {
            slog::error!(reopened.logger(), "the log files could not be reopened; records go on to the old ones";
                event::FAILURE,
                "error" => %error);
        }
    });
    let flushed = Arc::clone(&log);
    let flush_log = Box::new(move || flushed.is_waiting() && !flushed.flush());
    let logger = log.logger();
    drop(marks);
    let reactor = Reactor::new(
        reactor_settings,
        Inheritance { listeners, handoff, channel, sheet },
        lanes,
        seconds(settings.graceful_timeout),
        Hooks { reopen, stack: stacks::taker(py), flush_log },
        logger.clone(),
    )
    .map_err(|(channel, error)| (channel, machine_fault(format!("the worker cannot make its event loop: {error}"))))?;
    if settings.worker_class == "asgi" {
        let application = Served::Asgi(asyncio::Parts { application, log: logger, access: log.access() });
        return Ok(Booted { reactor, application, settings });
    }
    let application = match WsgiBridge::new(py, application, &settings, logger, log.access()) {
        Ok(bridge) => Served::Wsgi(Box::new(bridge)),
        Err(error) => {
            reactor.tell(&FromWorker::BootFault(machine_fault(format!("the WSGI bridge cannot be made: {error}"))));
            std::process::exit(CANNOT_BOOT);
        }
    };
    Ok(Booted { reactor, application, settings })
}

/// The worker's sheet of the scoreboard. One that cannot be had is replaced by memory that nobody else sees: the worker
/// serves, and its figures are missing.
fn open_sheet(
    scoreboard: Option<OwnedFd>,
    place: &Place,
    settings: &WorkerSettings,
    lanes: usize,
    log: &Log,
) -> std::io::Result<Sheet> {
    let lanes = u32::try_from(lanes).unwrap_or(1);
    let sheet = match scoreboard.zip(place.sheet).map(|(file, at)| Sheet::open(file.as_fd(), at)) {
        Some(Ok(sheet)) => sheet,
        Some(Err(error)) => {
            slog::warn!(log.logger(), "the scoreboard cannot be mapped; this worker is missing from the figures";
                event::FAILURE,
                "error" => %error);
            Sheet::private(lanes)?
        }
        None => Sheet::private(lanes)?,
    };
    sheet.sign(Pool::by_name(&settings.worker_class), lanes);
    Ok(sheet)
}

impl Booted {
    fn serve(self, py: Python<'_>, occasion: Occasion, since: Instant) -> i32 {
        let Booted { reactor, application, settings } = self;
        if let Err(error) = signals::without_signals(|| reactor.start_standby()) {
            slog::crit!(reactor.log, "the worker cannot start its standby thread; raise TasksMax= of the unit or \
                ulimit -u"; event::FAILURE, "error" => %error);
            let message = format!(
                "the worker cannot start its standby thread: {error}; raise TasksMax= of the unit or ulimit -u"
            );
            reactor.tell(&FromWorker::BootFault(machine_fault(message)));
            return CANNOT_BOOT;
        }
        let ready = || {
            if occasion != Occasion::Reload || settings.reload_check.is_empty() {
                reactor.tell(&FromWorker::Ready { warnings: Vec::new() });
            } else if let Err(error) = signals::without_signals(|| reload_check::start(&reactor, &settings, since)) {
                let message =
                    format!("reload_check cannot have its thread: {error}; raise TasksMax= of the unit or ulimit -u");
                reactor.tell(&FromWorker::BootFault(machine_fault(message)));
                reactor.finish();
            }
        };
        let refuse = |fault| {
            reactor.tell(&FromWorker::BootFault(fault));
            reactor.finish();
            CANNOT_BOOT
        };
        match application {
            Served::Wsgi(bridge) if settings.worker_class == "gevent" => {
                match gevent::start(py, &reactor, *bridge, &settings) {
                    Ok(started) => {
                        ready();
                        started.serve(py)
                    }
                    Err(fault) => refuse(fault),
                }
            }
            Served::Wsgi(bridge) => drivers::threads::run(py, &reactor, *bridge, &settings, ready),
            Served::Asgi(parts) => match asyncio::start(py, &reactor, parts, &settings, since) {
                Ok(Some(started)) => {
                    ready();
                    started.serve(py)
                }
                Ok(None) => 0,
                Err(fault) => refuse(fault),
            },
        }
    }
}

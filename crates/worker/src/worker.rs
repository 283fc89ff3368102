//! The worker process, from the fork to the exit.

use crate::bridge::wsgi::WsgiBridge;
use crate::mold::{Mold, say_hello};
use crate::{application, drivers, identity, offspring, signals};
use pyo3::prelude::*;
use rgunicorn_log::{Log, Process};
use rgunicorn_protocol::{BootFault, BootFaultKind, Channel, FromWorker};
use rgunicorn_reactor::{Inheritance, Reactor, ReactorSettings, seconds};
use std::sync::Arc;

/// Exit status of a worker that could not boot; the reason went to the arbiter before.
const CANNOT_BOOT: i32 = 3;

/// Runs a freshly forked worker to its end. Returns the exit status.
pub(crate) fn run(py: Python<'_>, mold: Mold, channel: Channel, slot: u32, worker: u64) -> i32 {
    identity::set_title(&mold.settings, "worker");
    say_hello(py, &channel, worker);
    match boot(py, mold, channel, slot) {
        Ok(booted) => booted.serve(py),
        Err((channel, fault)) => {
            let _ = channel.send(&FromWorker::BootFault(fault), &[]);
            CANNOT_BOOT
        }
    }
}

struct Booted {
    reactor: Arc<Reactor>,
    bridge: WsgiBridge,
    settings: rgunicorn_protocol::WorkerSettings,
}

fn machine_fault(message: String) -> BootFault {
    BootFault { kind: BootFaultKind::Environment, message, traceback: None }
}

fn boot(py: Python<'_>, mold: Mold, channel: Channel, slot: u32) -> Result<Booted, (Channel, BootFault)> {
    let Mold { settings, fds, application } = mold;
    let process = Process::Worker { generation: settings.generation, slot };
    let log = match Log::open(&settings.log, process) {
        Ok(log) => Arc::new(log),
        Err(error) => return Err((channel, machine_fault(format!("the worker cannot log: {error}")))),
    };
    let application = match application.map_or_else(|| application::load(py, &settings), Ok) {
        Ok(application) => application,
        Err(fault) => return Err((channel, fault)),
    };
    let reactor_settings = match ReactorSettings::new(&settings) {
        Ok(reactor_settings) => reactor_settings,
        Err(message) => return Err((channel, machine_fault(message))),
    };
    let mut fds = fds.into_iter();
    // The addresses first: a zip that ends with its second half would have taken one fd too many.
    let addresses = settings.listeners.iter().cloned();
    let listeners = addresses.zip(fds.by_ref()).map(|(address, fd)| (fd, address)).collect();
    let handoff = if settings.handoff { fds.next().zip(fds.next()) } else { None };
    let reopened = Arc::clone(&log);
    let reopen = Box::new(move || {
        if let Err(error) = reopened.reopen() {
            slog::error!(reopened.logger(), "the log files could not be reopened; records go on to the old ones";
                "error" => %error);
        }
    });
    let logger = log.logger();
    let reactor = Reactor::new(
        reactor_settings,
        Inheritance { listeners, handoff, channel },
        drivers::threads::lanes(&settings),
        seconds(settings.graceful_timeout),
        reopen,
        logger.clone(),
    )
    .map_err(|(channel, error)| (channel, machine_fault(format!("the worker cannot make its event loop: {error}"))))?;
    let bridge = match WsgiBridge::new(py, application, &settings, logger, log.access()) {
        Ok(bridge) => bridge,
        Err(error) => {
            reactor.tell(&FromWorker::BootFault(machine_fault(format!("the WSGI bridge cannot be made: {error}"))));
            std::process::exit(CANNOT_BOOT);
        }
    };
    Ok(Booted { reactor, bridge, settings })
}

impl Booted {
    fn serve(self, py: Python<'_>) -> i32 {
        let Booted { reactor, bridge, settings } = self;
        if let Err(error) = offspring::register(py) {
            slog::error!(reactor.log, "children of the application will keep the worker's sockets"; "error" => %error);
        }
        if let Err(error) = signals::without_signals(|| reactor.start_standby()) {
            slog::crit!(reactor.log, "the worker cannot start its standby thread; raise TasksMax= of the unit or \
                ulimit -u"; "error" => %error);
            return CANNOT_BOOT;
        }
        reactor.tell(&FromWorker::Ready { warnings: Vec::new() });
        drivers::threads::run(py, &reactor, bridge, &settings)
    }
}

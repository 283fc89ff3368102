//! What a generation is made of outside of the decisions: settings, worker module, listeners, logs.
//!
//! Owns the reading of settings and the opening and closing of listeners for a generation, and what its promotion means for
//! both. Invariant: a listener is closed only when no generation uses it.

use super::super::event::{Plan, Serial};
use super::super::spawn;
use super::super::token::Token;
use super::{Performer, Prepared, Source, open_log};
use crate::listeners::Listener;
use crate::settings::Settings;
use crate::trouble::Trouble;
use rgunicorn_log::event;
use rgunicorn_protocol::ToWorker;
use slog::{Level, error, info, warn};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Instant;

impl Performer<'_> {
    pub(super) fn prepare(&mut self, generation: u32) -> Result<Plan, Trouble> {
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
        for warning in &settings.warnings {
            warn!(self.logger, "{}", warning; event::SETTINGS_WARNING);
            self.history.hear(Level::Warning, warning.clone());
        }
        if serves {
            let in_force = self.in_force.get_or_insert_with(|| Rc::clone(&settings));
            for name in settings.waiting_for_restart(in_force) {
                let text = format!("A new value of {name} waits for a restart");
                warn!(self.logger, "{}", text; event::SETTINGS_WARNING);
                self.history.hear(Level::Warning, text);
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
            let others = || self.generations.values().flat_map(|other| &other.listeners);
            for listener in listeners.iter().filter(|listener| !others().any(|other| Rc::ptr_eq(listener, other))) {
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
    pub(in crate::supervisor) fn keep_listeners(&mut self) {
        let all = self.generations.values().flat_map(|prepared| &prepared.listeners);
        let kept: Vec<_> = all.filter_map(|listener| Some((listener.name_in_store()?, listener.as_fd()))).collect();
        self.store.keep_listeners(&kept, &mut self.notifier);
    }

    /// The process is about to end: the files of sockets that systemd keeps stay.
    pub(super) fn leave_files(&self) {
        if self.store.is_available() {
            let all = self.generations.values().flat_map(|prepared| &prepared.listeners);
            all.for_each(|listener| listener.leave_file());
        }
    }

    /// The instance stops, and nobody keeps its own listeners: lets nobody in any more, so that who comes is refused at once
    /// and does not wait for an end that resets it. What waits already is accepted by the workers, whose the listeners are
    /// from now on.
    pub(super) fn close_listeners(&mut self) {
        if self.store.is_available() {
            return;
        }
        for prepared in self.generations.values_mut() {
            let (own, kept) =
                std::mem::take(&mut prepared.listeners).into_iter().partition(|listener| listener.is_bound());
            prepared.listeners = kept;
            let own: Vec<Rc<Listener>> = own;
            own.iter().for_each(|listener| listener.let_nobody_in());
        }
    }

    /// The generation's settings are the instance's from now on.
    pub(super) fn commit(&mut self, generation: u32) {
        let Some(prepared) = self.generations.get(&generation) else { return };
        let settings = Rc::clone(&prepared.settings);
        let kept = prepared.listeners.clone();
        self.listeners.settle(&kept);
        for wrong in kept.iter().filter_map(|listener| listener.follow(&settings).err()) {
            warn!(self.logger, "{}", wrong; event::FAILURE);
            self.history.hear(Level::Warning, wrong);
        }
        let mut ends = Vec::new();
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
            ends.push((*number, ending));
        }
        for (number, ending) in ends {
            self.tell_of_ending(number, &ending);
        }
        self.keep_listeners();
        self.control.restore(&self.epoll, Token::Control(0).to_u64(), &self.logger);
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

    /// The generation has failed after some of it had served: its listeners that nobody else has end.
    pub(super) fn withdraw(&mut self, generation: u32) {
        let other = self.generations.iter().filter(|(number, _)| **number != generation);
        let others: Vec<Rc<Listener>> = other.flat_map(|(_, other)| other.listeners.iter().cloned()).collect();
        let Some(prepared) = self.generations.get_mut(&generation) else { return };
        let (mut ending, mut kept) = (Vec::new(), Vec::new());
        for (n, listener) in (0..).zip(std::mem::take(&mut prepared.listeners)) {
            if !listener.is_own() || others.iter().any(|other| Rc::ptr_eq(other, &listener)) {
                kept.push(listener);
                continue;
            }
            listener.let_nobody_in();
            ending.push(n);
            let text = format!("No longer listening on {listener}");
            info!(self.logger, "{}", text; event::LISTENER_CLOSED);
            self.history.hear(Level::Info, text);
        }
        // What ends is closed here now: a reload that wants the address again must not find a socket that lets nobody in.
        prepared.listeners = kept;
        self.tell_of_ending(generation, &ending);
        self.keep_listeners();
    }

    /// Has the workers of a generation answer what waits at these of its listeners, at which nobody is let in any more.
    fn tell_of_ending(&mut self, generation: u32, listeners: &[u32]) {
        if listeners.is_empty() {
            return;
        }
        let peers = self.peers.iter().filter(|(_, peer)| peer.generation == generation);
        let serials: Vec<Serial> = peers.map(|(serial, _)| *serial).collect();
        for to in serials {
            let message = ToWorker::Drain { listeners: listeners.to_vec() };
            if let Err(reason) = self.send(to, &message, &[]) {
                warn!(self.logger, "{} does not hear that a listener ends: {}", to, reason; event::FAILURE);
            }
        }
    }

    /// Obeys the idle_timeout of the generation that serves.
    pub(in crate::supervisor) fn watch_idleness(&mut self, generation: u32) {
        let Some(Prepared { settings, listeners, .. }) = self.generations.get(&generation) else { return };
        let idle_timeout = Some(settings.idle_timeout).filter(|_| cannot_rest(settings, listeners).is_none());
        self.idle.set(idle_timeout.filter(|timeout| !timeout.is_zero()), Instant::now());
    }
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
pub(super) fn plan(settings: &Settings, listeners: &[Rc<Listener>]) -> Plan {
    Plan {
        workers: settings.workers,
        preload: settings.preload_app,
        boot_timeout: (!settings.boot_timeout.is_zero()).then_some(settings.boot_timeout),
        graceful_timeout: settings.graceful_timeout,
        rolling: settings.reload_strategy == "rolling",
        lifetime: (!settings.max_worker_lifetime.is_zero()).then_some(settings.max_worker_lifetime),
        drain_listeners: listeners.iter().any(|listener| listener.is_own()),
    }
}

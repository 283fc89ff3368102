//! Finding processes that live and do nothing: stopped ones, dead-locked ones; and workers that have lived for long.
//!
//! Owns the questions to idle workers, what their silence means, and the arbiter's doubt in itself: if it comes to a
//! deadline far too late (it was stopped, the machine or its container was frozen, nothing could run), its clock says
//! nothing about others, and everybody gets time anew. A suspended machine needs no such care, as CLOCK_MONOTONIC does
//! not run meanwhile. Touches no fd, no clock. Invariant: nobody is killed for a silence that the arbiter may have
//! caused.

use super::action::Action;
use super::decide::{Life, State};
use super::event::Serial;
use super::process::{Halt, Killed, Phase};
use super::record::{Fault, Record, seconds};
use rgunicorn_protocol::ToWorker;
use std::time::{Duration, Instant};

/// How often molds and workers are asked whether they live. The only thing that wakes an instance at rest.
pub(super) const PING_EVERY: Duration = Duration::from_secs(30);

/// From the question to the verdict. The answer needs neither the interpreter lock nor a lane.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(20);

/// How long a process may be stopped before it is given up.
pub(super) const HALT_TIME: Duration = Duration::from_secs(10);

/// The arbiter that comes to a deadline so late was not running.
const LATE: Duration = Duration::from_secs(1);

/// What everybody gets at least when that has happened.
const GRACE: Duration = Duration::from_secs(5);

impl State {
    /// To be called before each event: whether the arbiter is later than it meant to be at the latest.
    pub(super) fn settle_lateness(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(by) = self.due.map(|due| now.saturating_duration_since(due)).filter(|by| *by >= LATE) else { return };
        actions.push(Action::Record(Record::WasLate { by }));
        for process in self.generations.iter_mut().flat_map(|generation| generation.processes.values_mut()) {
            process.forgive(GRACE, now);
        }
    }

    /// A process was stopped by a signal.
    pub(super) fn handle_halted(&mut self, from: Serial, signal: i32, now: Instant, actions: &mut Vec<Action>) {
        let Some(tags) = self.tags_of(from) else { return };
        let Some(process) = self.process(from) else { return };
        if process.halted.is_none() {
            process.halted = Some(Halt { since: now, signal });
            let killed_in = process.given_up().map(|_| HALT_TIME);
            actions.push(Action::Record(Record::Halted { tags, signal, killed_in }));
        }
    }

    /// A stopped process goes on.
    pub(super) fn handle_continued(&mut self, from: Serial, now: Instant, actions: &mut Vec<Action>) {
        let Some(tags) = self.tags_of(from) else { return };
        let Some(process) = self.process(from) else { return };
        let Some(halt) = process.halted.take() else { return };
        let after = now.saturating_duration_since(halt.since);
        // What it was to do meanwhile it does now.
        process.forgive(GRACE, now);
        if let Phase::Booting { deadline: Some(deadline), .. } = &mut process.phase {
            *deadline += after;
        }
        actions.push(Action::Record(Record::Continued { tags, after }));
    }

    /// A process has been stopped or silent for too long: it is killed and replaced.
    pub(super) fn give_up(&mut self, serial: Serial, why: Killed, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.process(serial) else { return };
        if matches!(process.phase, Phase::Booting { .. }) {
            let message =
                format!("it was stopped while it booted, and nobody continued it within {}", seconds(HALT_TIME));
            self.handle_boot_failure(serial, Fault { kind: None, message, traceback: None }, now, actions);
        }
        self.kill(serial, why, now, actions);
    }

    /// Asks everybody who should be able to answer.
    pub(super) fn settle_pings(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let asks = match self.life {
            Life::Starting | Life::Serving => self.serving().is_some(),
            Life::Stopping { .. } | Life::Over => false,
        };
        if !asks {
            self.ping_at = None;
            return;
        }
        let at = *self.ping_at.get_or_insert(now + PING_EVERY);
        if at > now {
            return;
        }
        self.ping_at = Some(now + PING_EVERY);
        for process in self.generations.iter_mut().flat_map(|generation| generation.processes.values_mut()) {
            match process.phase {
                Phase::Ready | Phase::Serving { .. } if process.asked.is_none() && process.halted.is_none() => {
                    process.asked = Some(now);
                    let message = ToWorker::Ping { id: process.serial.0 };
                    actions.push(Action::Send { to: process.serial, message });
                }
                Phase::Ready
                | Phase::Serving { .. }
                | Phase::Booting { .. }
                | Phase::Faulted { .. }
                | Phase::Retiring { .. }
                | Phase::Stopping { .. }
                | Phase::Killed { .. } => {}
            }
        }
    }

    /// Workers that have served for `max_worker_lifetime` want to be replaced, as if they had said so.
    pub(super) fn settle_lifetimes(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for generation in &mut self.generations {
            let Some(lifetime) = generation.plan.lifetime else { continue };
            let old: Vec<Serial> = generation
                .slots
                .iter()
                .filter(|slot| slot.recycle.is_none())
                .filter_map(|slot| slot.incumbent)
                .collect();
            for serial in old {
                if generation
                    .processes
                    .get(&serial)
                    .and_then(|worker| worker.old_at(lifetime))
                    .is_some_and(|at| at <= now)
                {
                    let reason = format!("it has served for {} (max_worker_lifetime)", seconds(lifetime));
                    generation.recycle(serial, reason, actions);
                }
            }
        }
    }
}

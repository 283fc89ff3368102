//! What must be true for the watchdog to be fed: that the instance does its work, as far as the arbiter can tell.
//!
//! Owns the judgement and the account of what is known when it goes against us. That the loop turns is proved by asking at
//! all; the rest is looked at here, only where systemd has set a watchdog and only when it is about to be fed. What the
//! arbiter deals with by itself is no fault: a worker that does not answer is killed and replaced (vigil.rs), a request
//! that hangs is ended by its worker, one without a timeout may take for ever. A fault is what is left when that has not
//! worked: nobody serves and nobody is on the way, or a request has outlived every limit that its worker should have kept.
//! Then systemd starts the service again. Decides nothing else, and waits for nothing.

use super::decide::{Life, State};
use super::evidence;
use super::perform::Performer;
use super::process::{Phase, Seat};
use super::record::{Tags, seconds};
use rgunicorn_protocol::scoreboard::{LaneState, monotonic_us};
use std::time::{Duration, Instant};

/// How much longer than its limits a request may take before somebody is at fault: what ends it may itself wait for a
/// processor.
const SLACK: Duration = Duration::from_secs(5);

impl State {
    /// Whether nobody serves and nobody is on the way.
    pub(super) fn is_deserted(&self, now: Instant) -> bool {
        let Some(serving) = self.serving().filter(|_| self.life == Life::Serving) else { return false };
        let works = serving.processes.values().any(|process| match (process.seat, &process.phase) {
            (Seat::Slot(_), Phase::Serving { .. } | Phase::Ready) => true,
            // A boot has its own limit.
            (_, Phase::Booting { .. }) => true,
            (Seat::Mold, Phase::Ready | Phase::Serving { .. }) => false,
            (_, Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. }) => {
                false
            }
        });
        let tries_later = serving.backoff.retry_at().is_some_and(|at| at > now);
        !works && !tries_later && self.incoming().is_none()
    }
}

impl Performer<'_> {
    /// Why the watchdog must not be fed, if it must not.
    pub(super) fn poll_fault(&self, state: &State, now: Instant) -> Option<String> {
        if state.is_deserted(now) {
            return Some("no worker serves, none boots and none is about to".to_owned());
        }
        let now = monotonic_us();
        let generations = state.generations.iter().filter(|_| state.life == Life::Serving);
        for generation in generations {
            let Some(prepared) = self.generations.get(&generation.number) else { continue };
            let timeout = prepared.settings.timeout;
            if timeout.is_zero() {
                continue;
            }
            let limit = timeout + prepared.settings.graceful_timeout + SLACK;
            for process in generation.processes.values() {
                // One that leaves is being dealt with.
                let Phase::Serving { .. } = process.phase else { continue };
                let Some(sheet) = self.sheet(process.serial) else { continue };
                let outlived = sheet.lanes().iter().filter_map(|lane| lane.glance()).any(|glance| {
                    glance.state == LaneState::Application
                        && now.saturating_sub(glance.progress.max(glance.since)) > limit.as_micros() as u64
                });
                if outlived {
                    return Some(format!(
                        "a request of {} has been in the application for more than {} (timeout and graceful_timeout), and \
                         the worker has not ended it",
                        generation.tags(process),
                        seconds(limit)
                    ));
                }
            }
        }
        None
    }

    /// What is known of every mold and worker, one line each.
    pub(super) fn account(&self, state: &State) -> String {
        let mut lines = vec![state.status()];
        for generation in &state.generations {
            for process in generation.processes.values() {
                let tags: Tags = generation.tags(process);
                let requests = self.sheet(process.serial).map(evidence::requests).unwrap_or_default();
                let requests: Vec<String> = requests.iter().map(ToString::to_string).collect();
                let threads = process.pid.map(evidence::threads).unwrap_or_default();
                let part = |what: &str, list: &[String]| {
                    if list.is_empty() { String::new() } else { format!("; {what}: {}", list.join(", ")) }
                };
                lines.push(format!(
                    "{tags} {}{}{}",
                    process.phase.name(),
                    part("requests", &requests),
                    part("threads", &threads)
                ));
            }
        }
        lines.join("\n")
    }
}

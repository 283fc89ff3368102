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
use super::generation::Role;
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
        let staying = self.generations.iter().filter(|generation| generation.role != Role::Leaving);
        let works = staying.flat_map(|generation| generation.processes.values()).any(|process| {
            match (process.seat, &process.phase) {
                (Seat::Slot(_), Phase::Serving { .. } | Phase::Ready) => true,
                // A boot has its own limit.
                (_, Phase::Booting { .. }) => true,
                (Seat::Mold, Phase::Ready | Phase::Serving { .. }) => false,
                (_, Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. }) => {
                    false
                }
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

#[cfg(test)]
mod tests {
    use super::super::event::Order;
    use super::super::process::STOP_TIME;
    use super::super::world::{World, plan};
    use super::*;
    use crate::supervisor::decide::Purpose;

    fn deserted(world: &World) -> bool {
        world.state.is_deserted(world.now)
    }

    /// As if everybody who could serve had got lost on a way that nobody has thought of.
    fn lose_everybody(world: &mut World) {
        world.state.generations[0].processes.clear();
    }

    #[test]
    fn an_instance_is_deserted_only_if_nobody_serves_and_nobody_is_on_the_way() {
        let mut world = World::serving(plan(2));
        assert!(!deserted(&world));
        lose_everybody(&mut world);
        assert!(deserted(&world));
        // The next event settles what is missing: those who boot have their own limit.
        world.order(Order::ReopenLogs);
        world.state.generations[0].mold = None;
        world.order(Order::ReopenLogs);
        assert!(!deserted(&world));
    }

    #[test]
    fn one_worker_that_serves_or_boots_is_enough_and_one_that_leaves_or_the_mold_alone_is_none() {
        let mut world = World::serving(plan(1));
        let serial = world.serve()[0];
        let set = |world: &mut World, phase: Phase| {
            world.state.generations[0].processes.get_mut(&serial).unwrap().phase = phase;
        };
        let (now, kill_at) = (world.now, world.now + STOP_TIME);
        for (phase, expected) in [
            (Phase::Ready, false),
            (Phase::Booting { since: now, deadline: None }, false),
            (Phase::Serving { since: now }, false),
            (Phase::Retiring { kill_at }, true),
            (Phase::Stopping { kill_at, booting: false }, true),
            (Phase::Faulted { kill_at }, true),
        ] {
            set(&mut world, phase.clone());
            assert_eq!(deserted(&world), expected, "{phase:?}");
        }
    }

    #[test]
    fn an_instance_that_starts_stops_tries_later_or_boots_a_new_generation_is_not_deserted() {
        let starting = World::begin(Purpose::Serve, plan(1));
        assert!(!deserted(&starting));

        let mut stopping = World::serving(plan(1));
        stopping.order(Order::Stop);
        lose_everybody(&mut stopping);
        assert!(!deserted(&stopping));

        let mut later = World::serving(plan(1));
        lose_everybody(&mut later);
        for _ in 0..3 {
            let now = later.now;
            later.state.generations[0].backoff.fail("it died".into(), now);
        }
        assert!(!deserted(&later));
        later.now += Duration::from_secs(60);
        assert!(deserted(&later), "it has not tried");

        let mut reloading = World::serving(plan(1));
        reloading.order(Order::Reload);
        lose_everybody(&mut reloading);
        assert!(!deserted(&reloading));
    }
}

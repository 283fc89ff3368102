//! All decisions of the supervisor: a state, an event and the time in; actions out.
//!
//! Owns the life of the instance. Touches no fd, no clock, no process. How it works: an event changes what is known
//! (`handle_*`), then [`State::settle`] compares what is with what is wanted and orders the difference. So a lost race
//! cannot leave anything undone: whatever happened in whatever order, the next event settles it. What operators order
//! stands in orders.rs, what processes do in processes.rs, the course of a reload in reload.rs and of one
//! that replaces worker by worker in rolling.rs.
//!
//! Invariants, held by the properties below: a generation is promoted whole or not at all, and the old one is sent away only
//! together with the promotion of the new one (rolling: both hold for each slot, and in the end for all); after an order to stop the end comes, whatever processes do; nothing is
//! said to a process that is gone.

mod orders;
mod processes;
mod reload;
mod rolling;

use super::action::{Action, Notice, Outcome};
use super::event::{Event, Serial};
use super::generation::{Generation, Role};
use super::process::{Killed, Process};
use super::record::{Fault, Record, Tags};
use super::upgrade::Upgrade;
use rgunicorn_protocol::BootFaultKind;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How often systemd is told that a boot or a stop goes on, and how much longer it may take each time.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_BY: Duration = Duration::from_secs(30);
/// How much longer than its last process a stop may take: one that is killed then takes its time to die, and what the
/// application has left behind is looked for.
const EXTEND_PAST: Duration = Duration::from_secs(10);

/// What the instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// Serve until told to stop.
    Serve,
    /// Boot one worker, say whether that worked, stop (--check-config).
    Check,
}

/// Where the instance is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Life {
    /// The first generation boots.
    Starting,
    /// A generation serves.
    Serving,
    /// Everything leaves.
    Stopping { manner: Manner, outcome: Outcome },
    /// Everything has left.
    Over,
}

/// How the instance stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Manner {
    /// Requests in flight finish.
    Graceful,
    /// They do not.
    Quick,
}

/// A reload that is running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reload {
    generation: u32,
    /// Another one was ordered meanwhile.
    again: bool,
}

/// See the file's header.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(super) purpose: Purpose,
    pub(super) life: Life,
    /// In order of their numbers.
    pub(super) generations: Vec<Generation>,
    /// Why the latest reload failed, if it did; for STATUS.
    pub(super) reload_failure: Option<String>,
    /// Why the instance could not start, if it could not; for STATUS.
    pub(super) start_failure: Option<String>,
    pub(super) reload: Option<Reload>,
    pub(super) upgrade: Option<Upgrade>,
    /// A reload that was ordered before the first generation served, or when the next program was about to be executed.
    pub(super) reload_wanted: bool,
    serials: u64,
    numbers: u32,
    #[serde(with = "super::moment::option")]
    extend_at: Option<Instant>,
    /// When everybody is asked next whether they live.
    #[serde(with = "super::moment::option")]
    pub(super) ping_at: Option<Instant>,
    /// When the next event was to come at the latest.
    #[serde(with = "super::moment::option")]
    pub(super) due: Option<Instant>,
}

impl State {
    /// An instance that has not begun, and what begins it.
    pub(crate) fn begin(purpose: Purpose, now: Instant) -> (State, Vec<Action>) {
        let state = State {
            purpose,
            life: Life::Starting,
            generations: Vec::new(),
            reload_failure: None,
            start_failure: None,
            reload: None,
            upgrade: None,
            reload_wanted: false,
            serials: 0,
            numbers: 1,
            extend_at: Some(now),
            ping_at: None,
            due: None,
        };
        (state, vec![Action::Prepare { generation: 1 }])
    }

    /// Something happened at `now`.
    pub(crate) fn handle_event(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        self.settle_lateness(now, &mut actions);
        match event {
            Event::Order(order) => self.handle_order(order, now, &mut actions),
            Event::Spawned { mold, pid } => {
                if let Some(process) = self.process(mold) {
                    process.pid = Some(pid);
                }
            }
            Event::SpawnFailed { mold, reason } => {
                let fault = Fault { kind: Some(BootFaultKind::Interpreter), message: reason, traceback: None };
                self.handle_boot_failure(mold, fault, now, &mut actions);
                self.remove(mold);
            }
            Event::Message { from, message } => self.handle_message(from, message, now, &mut actions),
            Event::Garbage { from, what } => self.handle_garbage(from, what, now, &mut actions),
            Event::Ended { from } => self.handle_ended(from, now, &mut actions),
            Event::Exited { from, exit, findings } => self.handle_exited(from, exit, findings, now, &mut actions),
            Event::Halted { from, signal } => self.handle_halted(from, signal, now, &mut actions),
            Event::Continued { from } => self.handle_continued(from, now, &mut actions),
            Event::Unresponsive { to } => self.handle_unresponsive(to, now, &mut actions),
            Event::Prepared { generation, plan } => self.handle_prepared(generation, plan, now, &mut actions),
            Event::UpgradeChecked(answer) => self.handle_upgrade_checked(answer, &mut actions),
            Event::Timer => {}
        }
        self.settle(now, &mut actions);
        self.due = self.deadline(now);
        actions
    }

    /// When [`Event::Timer`] must be delivered if nothing happens before; `None`: never.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let generations = self.generations.iter().filter_map(|generation| match self.life {
            Life::Starting | Life::Serving => generation.deadline(now),
            Life::Stopping { .. } => generation.processes.values().filter_map(Process::deadline).min(),
            Life::Over => None,
        });
        generations.chain(self.extend_at).chain(self.ping_at).chain(self.upgrade_deadline()).min()
    }

    /// The generation that serves, if one does.
    pub(super) fn serving(&self) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.role == Role::Serving)
    }

    /// The generation that boots, if one does.
    pub(super) fn incoming(&self) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.role == Role::Incoming)
    }

    /// The generation that has this process in its books; 0 if none has.
    #[cfg(test)]
    pub(super) fn generation_of(&self, serial: Serial) -> u32 {
        let home = self.generations.iter().find(|generation| generation.processes.contains_key(&serial));
        home.map_or(0, |generation| generation.number)
    }

    /// Brings what is towards what is wanted.
    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.settle_overdue(now, actions);
        match self.life {
            Life::Starting | Life::Serving => {
                self.settle_lifetimes(now, actions);
                loop {
                    self.settle_turns(now, actions);
                    let replaces = !self.rolls();
                    let mut promoted = Vec::new();
                    for generation in &mut self.generations {
                        generation.poll_fill(&mut self.serials, replaces, now, actions);
                        if generation.role == Role::Serving || generation.rolls() {
                            let slots = generation.poll_promote(now, actions);
                            promoted.extend(slots.into_iter().map(|slot| (generation.number, slot)));
                        }
                    }
                    if promoted.is_empty() {
                        break;
                    }
                    self.settle_commit(actions);
                    for (number, slot) in promoted {
                        self.hand_over(number, slot, now, actions);
                    }
                }
                self.settle_incoming(now, actions);
                self.settle_mold_death(now, actions);
            }
            Life::Stopping { .. } | Life::Over => {}
        }
        self.generations.retain(|generation| {
            let gone = generation.role == Role::Leaving && generation.processes.is_empty();
            if gone {
                actions.push(Action::Drop { generation: generation.number });
            }
            !gone
        });
        if let Life::Stopping { outcome, .. } = self.life
            && self.generations.is_empty()
        {
            self.life = Life::Over;
            if self.purpose == Purpose::Serve && outcome == Outcome::Clean {
                actions.push(Action::Record(Record::Stopped));
            }
            actions.push(Action::Exit(outcome));
        }
        self.settle_upgrade(now, actions);
        self.settle_extension(now, actions);
        self.settle_pings(now, actions);
    }

    /// Tells systemd from time to time that a boot or a stop goes on: TimeoutStartSec= and TimeoutStopSec= shorter than
    /// boot_timeout and graceful_timeout then end nothing that is within its time. A boot is bounded by its processes'
    /// deadlines, and so is a stop: no extension reaches beyond the last of them by more than [`EXTEND_PAST`].
    fn settle_extension(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let time = match self.life {
            Life::Starting => Some(EXTEND_BY),
            Life::Serving => (self.incoming().is_some() || self.rolls()).then_some(EXTEND_BY),
            Life::Stopping { .. } => {
                let processes = self.generations.iter().flat_map(|generation| generation.processes.values());
                let last = processes.filter_map(Process::deadline).max();
                last.map(|at| EXTEND_BY.min(at.saturating_duration_since(now) + EXTEND_PAST))
            }
            Life::Over => None,
        };
        let Some(time) = time else {
            self.extend_at = None;
            return;
        };
        if self.extend_at.is_none_or(|at| at <= now) {
            actions.push(Action::Notify(Notice::Extend(time)));
            self.extend_at = Some(now + EXTEND_EVERY);
        }
    }

    pub(super) fn kill(&mut self, serial: Serial, why: Killed, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.home(serial) else { return };
        let tags = tags(generation, serial);
        actions.push(Action::Record(Record::Killed { tags, why, graceful: generation.plan.graceful_timeout }));
        generation.kill(serial, why, now, actions);
    }

    fn remove(&mut self, serial: Serial) {
        if let Some(generation) = self.home(serial) {
            generation.unseat(serial);
            generation.processes.remove(&serial);
        }
    }

    fn next_number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|generation| generation.number == number)
    }

    /// The generation that has this process in its books.
    fn home(&mut self, serial: Serial) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|generation| generation.processes.contains_key(&serial))
    }

    /// What records about this process carry.
    pub(super) fn tags_of(&mut self, serial: Serial) -> Option<Tags> {
        self.home(serial).map(|generation| tags(generation, serial))
    }

    pub(super) fn process(&mut self, serial: Serial) -> Option<&mut Process> {
        self.generations.iter_mut().find_map(|generation| generation.processes.get_mut(&serial))
    }
}

fn tags(generation: &Generation, serial: Serial) -> Tags {
    match generation.processes.get(&serial) {
        Some(process) => generation.tags(process),
        None => Tags { generation: generation.number, slot: None, pid: None },
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

//! All decisions of the supervisor: a state, an event and the time in; actions out.
//!
//! Owns the life of the instance. Touches no fd, no clock, no process. How it works: an event changes what is known
//! (`handle_*`), then [`State::settle`] compares what is with what is wanted and orders the difference. So a lost race
//! cannot leave anything undone: whatever happened in whatever order, the next event settles it.
//!
//! Invariants, held by the properties below: a generation is promoted whole or not at all; the old one is sent away only
//! together with the promotion of the new one; after an order to stop the end comes, whatever processes do; nothing is
//! said to a process that is gone.

use super::action::{Action, Notice, Outcome};
use super::event::{Event, Exit, Findings, Order, Plan, Serial};
use super::generation::{Generation, Role, STEADY};
use super::process::{Killed, Phase, Process, Seat};
use super::record::{Fault, OUT_OF_MEMORY, Record, Tags, seconds};
use super::upgrade::Upgrade;
use rgunicorn_protocol::{BootFault, BootFaultKind, FromWorker, ToWorker, VERSION};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How often systemd is told that a boot goes on, and how much longer it may take each time.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
const EXTEND_BY: Duration = Duration::from_secs(30);

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

/// A number of workers that was ordered by hand, and the setting that it deviates from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Scale {
    setting: u32,
    workers: u32,
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
    pub(super) reload: Option<Reload>,
    pub(super) upgrade: Option<Upgrade>,
    /// A reload that was ordered before the first generation served.
    reload_wanted: bool,
    scale: Option<Scale>,
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
            reload: None,
            upgrade: None,
            reload_wanted: false,
            scale: None,
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

    // What happened.

    pub(super) fn handle_order(&mut self, order: Order, now: Instant, actions: &mut Vec<Action>) {
        match (order, &self.life) {
            (_, Life::Over) => {}
            (Order::Stop, Life::Starting | Life::Serving) => {
                self.stop(Manner::Graceful, Outcome::Clean, now, actions);
            }
            (Order::Rest(after), Life::Serving) if self.reload.is_none() => {
                actions.push(Action::Record(Record::Idle { after }));
                self.stop(Manner::Graceful, Outcome::Clean, now, actions);
            }
            (Order::Rest(_), Life::Starting | Life::Serving | Life::Stopping { .. }) => {}
            (Order::StopNow, Life::Starting | Life::Serving) => {
                self.stop(Manner::Quick, Outcome::Clean, now, actions);
            }
            (Order::Stop | Order::StopNow, Life::Stopping { manner, outcome }) => {
                let (manner, outcome) = (*manner, *outcome);
                self.hasten(manner, outcome, now, actions);
            }
            (Order::Reload, Life::Starting) => self.reload_wanted = true,
            (Order::Reload, Life::Serving) => self.order_reload(actions),
            (Order::Reload, Life::Stopping { .. }) => {
                actions
                    .push(Action::Record(Record::OrderIgnored { order: "The reload", because: "the instance stops" }));
            }
            (Order::ReopenLogs, Life::Starting | Life::Serving | Life::Stopping { .. }) => {
                actions.push(Action::ReopenLogs);
                for generation in &self.generations {
                    generation.tell_all(&ToWorker::ReopenLogs, actions);
                }
            }
            (Order::Upgrade, Life::Starting | Life::Serving) => self.order_upgrade(actions),
            (Order::Upgrade, Life::Stopping { .. }) => {
                let because = "the instance stops";
                actions.push(Action::Record(Record::OrderIgnored { order: "The upgrade", because }));
            }
            (Order::More, Life::Starting | Life::Serving) => self.scale_by(1, now, actions),
            (Order::Fewer, Life::Starting | Life::Serving) => self.scale_by(-1, now, actions),
            (Order::Scale(workers), Life::Starting | Life::Serving) => self.scale_to(workers, now, actions),
            (Order::Replace(slot), Life::Starting | Life::Serving) => self.order_replacement(slot, actions),
            (Order::More | Order::Fewer | Order::Scale(_) | Order::Replace(_), Life::Stopping { .. }) => {}
        }
    }

    fn handle_prepared(&mut self, number: u32, plan: Result<Plan, String>, now: Instant, actions: &mut Vec<Action>) {
        match (plan, &self.life) {
            (Ok(plan), Life::Starting | Life::Serving) => {
                let workers = match (self.purpose, self.scale) {
                    (Purpose::Check, _) => 1,
                    (Purpose::Serve, Some(scale)) if scale.setting == plan.workers => scale.workers,
                    (Purpose::Serve, _) => {
                        self.scale = None;
                        plan.workers
                    }
                };
                self.generations.push(Generation::new(number, plan, workers, now));
            }
            (Ok(_), Life::Stopping { .. } | Life::Over) => actions.push(Action::Drop { generation: number }),
            (Err(reason), Life::Starting) => {
                actions.push(Action::Record(Record::NotPrepared { reason }));
                self.stop(Manner::Quick, Outcome::Failure, now, actions);
            }
            (Err(reason), Life::Serving) => {
                let serving = self.serving().map_or(0, |generation| generation.number);
                self.note_reload_failure(first_line(&reason), now);
                actions.push(Action::Record(Record::ReloadNotPrepared { generation: number, serving, reason }));
                self.end_reload(actions);
            }
            (Err(_), Life::Stopping { .. } | Life::Over) => {}
        }
    }

    fn handle_message(&mut self, from: Serial, message: FromWorker, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.home(from) else { return };
        match message {
            FromWorker::Hello { pid, version, interpreter, .. } => {
                if let Some(process) = generation.processes.get_mut(&from) {
                    process.pid = process.pid.or(Some(pid));
                    if process.seat == Seat::Mold {
                        generation.interpreter = interpreter;
                        generation.module = version.clone();
                    }
                }
                // Workers have the module of their mold, which may be that of the arbiter before an upgrade.
                let wanted = if generation.mold == Some(from) { VERSION } else { &generation.module };
                if version != wanted {
                    let message = format!(
                        "the worker module is version {version}, this arbiter is version {VERSION}; rgunicornctl upgrade \
                         (or SIGUSR2) puts the installed version in its place, and nothing is interrupted"
                    );
                    let fault = BootFault { kind: BootFaultKind::Version, message, traceback: None };
                    self.handle_boot_fault(from, fault, now, actions);
                }
            }
            FromWorker::Ready { warnings } => {
                let Some(process) = generation.processes.get_mut(&from) else { return };
                let Phase::Booting { since, .. } = process.phase else { return };
                process.phase = Phase::Ready;
                let tags = tags(generation, from);
                actions.extend(warnings.into_iter().map(|text| Action::Record(Record::Warning { tags, text })));
                let after = now.saturating_duration_since(since);
                actions.push(Action::Record(Record::WorkerReady { tags, after }));
            }
            // The stack that it may leave is evidence, not a decision.
            FromWorker::Importing => {}
            FromWorker::BootFault(fault) => self.handle_boot_fault(from, fault, now, actions),
            FromWorker::ForkFailed { worker, reason } => {
                let worker = Serial(worker);
                let tags = tags(generation, worker);
                actions.push(Action::Record(Record::ForkFailed { tags, reason: reason.clone() }));
                let fault = Fault { kind: Some(BootFaultKind::Environment), message: reason, traceback: None };
                self.handle_boot_failure(worker, fault, now, actions);
                if self.process(worker).is_some() {
                    self.remove(worker);
                    actions.push(Action::Abandon { whom: worker });
                }
            }
            FromWorker::Pong { .. } => {
                if let Some(process) = generation.processes.get_mut(&from) {
                    process.asked = None;
                }
            }
            FromWorker::Recycle { reason } => {
                generation.recycle(from, reason, actions);
            }
            // Its replacement is not waited for: it may never come back, and what it cannot serve goes to the handoff.
            FromWorker::Stuck { reason } => {
                let tags = tags(generation, from);
                if matches!(generation.processes.get(&from).map(|p| &p.phase), Some(Phase::Serving { .. })) {
                    actions.push(Action::Record(Record::Recycles { tags, reason }));
                    generation.retire(from, true, now, actions);
                }
            }
            FromWorker::Overgrown { .. } => match generation.processes.get(&from).map(|process| &process.phase) {
                Some(Phase::Serving { .. } | Phase::Retiring { .. }) => {
                    self.kill(from, Killed::Overgrown, now, actions)
                }
                Some(
                    Phase::Booting { .. }
                    | Phase::Ready
                    | Phase::Faulted { .. }
                    | Phase::Stopping { .. }
                    | Phase::Killed { .. },
                )
                | None => {}
            },
            FromWorker::Draining { running } => {
                let tags = tags(generation, from);
                actions.push(Action::Record(Record::Drains { tags, running }));
            }
        }
    }

    /// The process said why it cannot boot; its exit follows.
    fn handle_boot_fault(&mut self, from: Serial, fault: BootFault, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.process(from) else { return };
        match process.phase {
            Phase::Booting { .. } | Phase::Ready => {
                process.phase = Phase::Faulted { kill_at: now + super::process::STOP_TIME };
                self.handle_boot_failure(from, fault.into(), now, actions);
            }
            Phase::Serving { .. }
            | Phase::Faulted { .. }
            | Phase::Retiring { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => {}
        }
    }

    fn handle_garbage(&mut self, from: Serial, what: String, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.home(from) else { return };
        let Some(process) = generation.processes.get(&from) else { return };
        match process.phase {
            Phase::Booting { .. } | Phase::Ready => {
                let message = format!("it sent what is no message of version {VERSION}: {what}");
                let fault = Fault { kind: Some(BootFaultKind::Version), message, traceback: None };
                self.handle_boot_failure(from, fault, now, actions);
                self.kill(from, Killed::Garbage, now, actions);
            }
            // A worker that serves is not killed for one odd word.
            Phase::Serving { .. } => {
                actions.push(Action::Record(Record::Unreadable { tags: tags(generation, from), what }));
            }
            Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => {}
        }
    }

    /// A channel ended. Of a process whose pid is known the exit follows; otherwise this is all that will be heard.
    fn handle_ended(&mut self, from: Serial, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.process(from) else { return };
        if process.pid.is_some() {
            process.lost = process.lost.or(Some(now));
        } else {
            self.handle_exited(from, Exit::Unknown, Findings::default(), now, actions);
            actions.push(Action::Abandon { whom: from });
        }
    }

    fn handle_exited(&mut self, from: Serial, exit: Exit, findings: Findings, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.home(from) else { return };
        let Some(process) = generation.processes.get(&from) else { return };
        let (phase, seat) = (process.phase.clone(), process.seat);
        let (role, preload) = (generation.role, generation.plan.preload);
        let never_spoke = generation.interpreter.is_empty();
        let tags = tags(generation, from);
        match (phase, seat) {
            // `systemctl kill -s HUP` and Ctrl-C reach an interpreter that does not know yet that it must not obey.
            (Phase::Booting { .. }, Seat::Mold) if exit.is_broadcast() && !generation.backoff.cautious() => {
                generation.note_failure(format!("the interpreter {exit}"), now);
                actions.push(Action::Record(Record::Left { tags }));
            }
            (Phase::Booting { .. }, seat) => {
                let what = match seat {
                    Seat::Mold => "the interpreter",
                    Seat::Slot(_) => "the worker",
                };
                let why = if findings.out_of_memory { OUT_OF_MEMORY } else { "" };
                let hint = match (seat, exit) {
                    (Seat::Mold, Exit::Code(_)) if never_spoke => {
                        "; it never reached rgunicorn's worker module: is `python` a working CPython?"
                    }
                    (Seat::Mold | Seat::Slot(_), Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown) => "",
                };
                let message = format!("{what} {exit}{why} before it was ready{hint}");
                self.handle_boot_failure(from, Fault { kind: None, message, traceback: None }, now, actions);
            }
            (Phase::Ready, Seat::Mold) => {
                if role == Role::Incoming {
                    let message = format!("the mold {exit}");
                    self.handle_boot_failure(from, Fault { kind: None, message, traceback: None }, now, actions);
                } else {
                    generation.note_failure(format!("the mold {exit}"), now);
                    actions.push(Action::Record(Record::MoldDied { tags, exit, preload, findings }));
                }
            }
            (Phase::Ready, Seat::Slot(_)) => {
                generation.note_failure(format!("a worker {exit}"), now);
                if role == Role::Incoming && generation.backoff.cautious() {
                    let message = format!("the worker {exit} while it waited for its promotion");
                    self.handle_boot_failure(from, Fault { kind: None, message, traceback: None }, now, actions);
                } else {
                    let retry = generation.backoff.delay();
                    actions.push(Action::Record(Record::WorkerDied { tags, exit, served: None, retry, findings }));
                }
            }
            (Phase::Serving { since }, _) => {
                let served = now.saturating_duration_since(since);
                if served < STEADY {
                    generation.note_failure(format!("a worker {exit} after {}", seconds(served)), now);
                }
                let retry = generation.backoff.delay();
                actions.push(Action::Record(Record::WorkerDied { tags, exit, served: Some(served), retry, findings }));
            }
            (Phase::Stopping { booting: true, .. }, _) => actions.push(Action::Record(Record::Left { tags })),
            (Phase::Retiring { .. } | Phase::Stopping { .. }, _) => match exit {
                Exit::Code(0) | Exit::Unknown => actions.push(Action::Record(Record::Left { tags })),
                Exit::Code(_) | Exit::Signal { .. } => {
                    actions.push(Action::Record(Record::LeftBadly { tags, exit, findings }));
                }
            },
            (Phase::Faulted { .. } | Phase::Killed { .. }, _) => actions.push(Action::Record(Record::Left { tags })),
        }
        self.remove(from);
    }

    fn handle_unresponsive(&mut self, to: Serial, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.process(to) else { return };
        match process.phase {
            Phase::Booting { .. } | Phase::Ready | Phase::Serving { .. } => {
                self.kill(to, Killed::Unresponsive, now, actions);
            }
            // It is killed at its deadline anyway.
            Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => {}
        }
    }

    /// A mold or a worker did not become ready. What follows depends on whom it was to serve.
    pub(super) fn handle_boot_failure(&mut self, whom: Serial, fault: Fault, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.home(whom) else { return };
        let (number, role) = (generation.number, generation.role);
        let tags = tags(generation, whom);
        generation.unseat(whom);
        match (role, &self.life) {
            (Role::Incoming, Life::Starting) => {
                let outcome = Outcome::Fault(fault.kind.unwrap_or(BootFaultKind::Import));
                actions.push(Action::Record(Record::NotStarted { tags, fault }));
                self.stop(Manner::Quick, outcome, now, actions);
            }
            (Role::Incoming, Life::Serving) => {
                let serving = self.serving().map_or(0, |generation| generation.number);
                self.note_reload_failure(first_line(&fault.message), now);
                actions.push(Action::Record(Record::ReloadFailed { tags, serving, fault }));
                if let Some(generation) = self.generation(number) {
                    generation.quit(now, actions);
                }
                self.end_reload(actions);
            }
            (Role::Serving, Life::Serving) => {
                if let Some(generation) = self.generation(number) {
                    generation.note_failure(first_line(&fault.message), now);
                    let retry = generation.backoff.delay();
                    actions.push(Action::Record(Record::BootFailed { tags, fault, retry }));
                }
            }
            // One reason was told already; the rest of a generation that is thrown away fails for the same.
            (Role::Leaving, _) | (_, Life::Stopping { .. } | Life::Over) | (Role::Serving, Life::Starting) => {}
        }
    }

    // What follows.

    /// Brings what is towards what is wanted.
    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.settle_overdue(now, actions);
        match self.life {
            Life::Starting | Life::Serving => {
                self.settle_lifetimes(now, actions);
                let mut serials = self.serials;
                for generation in &mut self.generations {
                    generation.poll_fill(&mut serials, now, actions);
                    if generation.role == Role::Serving {
                        generation.poll_promote(now, actions);
                    }
                }
                self.serials = serials;
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

    /// Acts on every deadline that has passed.
    fn settle_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let overdue: Vec<Serial> = self
            .generations
            .iter()
            .flat_map(|generation| generation.processes.values())
            .filter(|process| process.deadline().is_some_and(|at| at <= now))
            .map(|process| process.serial)
            .collect();
        for serial in overdue {
            let Some(generation) = self.home(serial) else { continue };
            let graceful = generation.plan.graceful_timeout;
            let tags = tags(generation, serial);
            let Some(process) = generation.processes.get_mut(&serial) else { continue };
            if let Some((at, why)) = process.given_up()
                && at <= now
            {
                self.give_up(serial, why, now, actions);
                continue;
            }
            match process.phase {
                Phase::Booting { since, deadline } if deadline.is_some_and(|at| at <= now) => {
                    let message =
                        format!("not ready after {} (boot_timeout)", seconds(now.saturating_duration_since(since)));
                    self.handle_boot_failure(serial, Fault { kind: None, message, traceback: None }, now, actions);
                    self.kill(serial, Killed::BootTimeout, now, actions);
                }
                Phase::Serving { .. } => {
                    // A worker whose channel ended drains by itself.
                    process.phase = Phase::Retiring { kill_at: now + graceful + super::process::MARGIN };
                    generation.unseat(serial);
                    actions.push(Action::Record(Record::ChannelClosed { tags }));
                }
                Phase::Booting { .. } | Phase::Ready => {
                    let fault = Fault { kind: None, message: "its channel ended".into(), traceback: None };
                    self.handle_boot_failure(serial, fault, now, actions);
                    self.kill(serial, Killed::Lost, now, actions);
                }
                Phase::Retiring { .. } => self.kill(serial, Killed::Overdue, now, actions),
                Phase::Stopping { booting: true, .. } => self.kill(serial, Killed::Unwanted, now, actions),
                Phase::Stopping { .. } | Phase::Faulted { .. } => self.kill(serial, Killed::NotStopped, now, actions),
                Phase::Killed { .. } => {
                    actions.push(Action::Record(Record::Undead { tags }));
                    actions.push(Action::Abandon { whom: serial });
                    self.remove(serial);
                }
            }
        }
    }

    /// Promotes the incoming generation once all of it is ready, and sends the old one away in the same breath.
    fn settle_incoming(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(number) = self.incoming().filter(|incoming| incoming.complete()).map(|incoming| incoming.number)
        else {
            return;
        };
        if self.purpose == Purpose::Check {
            let interpreter = self.incoming().map(|incoming| incoming.interpreter.clone()).unwrap_or_default();
            actions.push(Action::Record(Record::Checked { interpreter }));
            self.stop(Manner::Quick, Outcome::Clean, now, actions);
            return;
        }
        for generation in &mut self.generations {
            if generation.number == number {
                generation.role = Role::Serving;
                generation.poll_promote(now, actions);
                actions.push(Action::Commit { generation: number });
                actions.push(Action::Record(Record::Serves {
                    generation: number,
                    workers: generation.counts().serving,
                    interpreter: generation.interpreter.clone(),
                    after: now.saturating_duration_since(generation.born),
                }));
            }
        }
        for generation in &mut self.generations {
            if generation.role == Role::Serving && generation.number != number {
                generation.leave(true, now, actions);
            }
        }
        self.reload_failure = None;
        if self.life == Life::Starting {
            self.life = Life::Serving;
            actions.push(Action::Notify(Notice::Ready));
            if std::mem::take(&mut self.reload_wanted) {
                self.order_reload(actions);
            }
        } else {
            self.end_reload(actions);
        }
    }

    /// A dead preloading mold is replaced together with its generation, for all workers must run the same code.
    fn settle_mold_death(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.reload.is_some() || self.life != Life::Serving || self.executes() {
            return;
        }
        let Some(serving) = self.serving().filter(|serving| serving.mold_is_irreplaceable()) else { return };
        if !serving.backoff.permits(now) {
            return;
        }
        let from = serving.number;
        let generation = self.next_number();
        self.reload = Some(Reload { generation, again: false });
        actions.push(Action::Record(Record::ReloadBegins { generation, after_mold_died: true }));
        actions.push(Action::Inherit { generation, from });
    }

    /// Tells systemd from time to time that a boot goes on; never when nothing boots.
    fn settle_extension(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let boots = match self.life {
            Life::Starting => true,
            Life::Serving => self.incoming().is_some(),
            Life::Stopping { .. } | Life::Over => false,
        };
        if !boots {
            self.extend_at = None;
        } else if self.extend_at.is_none_or(|at| at <= now) {
            actions.push(Action::Notify(Notice::Extend(EXTEND_BY)));
            self.extend_at = Some(now + EXTEND_EVERY);
        }
    }

    fn stop(&mut self, manner: Manner, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        self.life = Life::Stopping { manner, outcome };
        self.reload = None;
        let graceful = self.generations.iter().map(|generation| generation.plan.graceful_timeout).max();
        let graceful = graceful.unwrap_or_default();
        if outcome == Outcome::Clean && self.purpose == Purpose::Serve {
            let graceful = (manner == Manner::Graceful).then_some(graceful);
            actions.push(Action::Record(Record::Stops { graceful }));
        }
        actions.push(Action::Notify(Notice::Stopping));
        match manner {
            Manner::Graceful => {
                actions.push(Action::Notify(Notice::Extend(graceful + EXTEND_BY)));
                for generation in &mut self.generations {
                    generation.leave(false, now, actions);
                }
            }
            Manner::Quick => {
                for generation in &mut self.generations {
                    generation.quit(now, actions);
                }
            }
        }
    }

    /// Told again while stopping: from graceful to quick, from quick to SIGKILL.
    fn hasten(&mut self, manner: Manner, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        actions.push(Action::Record(Record::Hastens));
        match manner {
            Manner::Graceful => {
                self.life = Life::Stopping { manner: Manner::Quick, outcome };
                for generation in &mut self.generations {
                    generation.quit(now, actions);
                }
            }
            Manner::Quick => {
                for generation in &mut self.generations {
                    for process in generation.processes.values_mut() {
                        match &mut process.phase {
                            Phase::Stopping { kill_at, .. }
                            | Phase::Retiring { kill_at }
                            | Phase::Faulted { kill_at } => *kill_at = now,
                            Phase::Booting { .. } | Phase::Ready | Phase::Serving { .. } | Phase::Killed { .. } => {}
                        }
                    }
                }
                self.settle_overdue(now, actions);
            }
        }
    }

    fn order_reload(&mut self, actions: &mut Vec<Action>) {
        if self.executes() {
            // The next program begins with a reload.
            return;
        }
        if let Some(reload) = &mut self.reload {
            reload.again = true;
            let generation = reload.generation;
            actions.push(Action::Record(Record::ReloadFolded { generation }));
            return;
        }
        let generation = self.next_number();
        self.reload = Some(Reload { generation, again: false });
        actions.push(Action::Notify(Notice::Reloading));
        actions.push(Action::Record(Record::ReloadBegins { generation, after_mold_died: false }));
        actions.push(Action::Prepare { generation });
    }

    /// The running reload is over, well or not; a folded one follows.
    fn end_reload(&mut self, actions: &mut Vec<Action>) {
        actions.push(Action::Notify(Notice::Ready));
        if let Some(reload) = self.reload.take()
            && reload.again
        {
            self.order_reload(actions);
        }
    }

    fn note_reload_failure(&mut self, reason: String, now: Instant) {
        if let Some(serving) = self.generations.iter_mut().find(|generation| generation.mold_is_irreplaceable()) {
            // This reload stood in for a mold; the next one waits.
            serving.note_failure(reason.clone(), now);
        }
        self.reload_failure = Some(reason);
    }

    fn order_replacement(&mut self, slot: u32, actions: &mut Vec<Action>) {
        let serving = self.generations.iter_mut().find(|generation| generation.role == Role::Serving);
        let Some(generation) = serving else { return };
        let incumbent = generation.slots.iter().find(|place| place.number == slot).and_then(|place| place.incumbent);
        if let Some(incumbent) = incumbent {
            generation.recycle(incumbent, "it was ordered by rgunicornctl".into(), actions);
        }
    }

    fn scale_by(&mut self, difference: i32, now: Instant, actions: &mut Vec<Action>) {
        let Some(newest) = self.generations.iter().rfind(|generation| generation.role != Role::Leaving) else { return };
        let have = u32::try_from(newest.slots.len()).unwrap_or(u32::MAX);
        self.scale_to(have.saturating_add_signed(difference), now, actions);
    }

    fn scale_to(&mut self, wanted: u32, now: Instant, actions: &mut Vec<Action>) {
        let Some(newest) = self.generations.iter().rfind(|generation| generation.role != Role::Leaving) else { return };
        let (setting, have) = (newest.plan.workers, newest.slots.len());
        if wanted == 0 {
            actions.push(Action::Record(Record::NotScaled));
            return;
        }
        self.scale = Some(Scale { setting, workers: wanted });
        actions.push(Action::Record(Record::Scaled { from: have, to: wanted }));
        for generation in self.generations.iter_mut().filter(|generation| generation.role != Role::Leaving) {
            generation.resize(wanted, now, actions);
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

//! What molds and workers do: they speak, boot, fall silent, die, or let a deadline pass.
//!
//! Owns what each of these means in each phase of a process. What a boot that fails means for its generation is decided in
//! reload.rs. Invariant: every event about a process that is not in the books any more is ignored.

use super::super::action::Action;
use super::super::event::{Exit, Findings, Serial};
use super::super::generation::{Role, STEADY};
use super::super::process::{Killed, MARGIN, Phase, STOP_TIME, Seat};
use super::super::record::{Fault, OUT_OF_MEMORY, Record, seconds};
use super::{State, tags};
use rgunicorn_protocol::{BootFault, BootFaultKind, FromWorker, VERSION};
use std::time::Instant;

impl State {
    pub(super) fn handle_message(
        &mut self,
        from: Serial,
        message: FromWorker,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
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
                process.phase = Phase::Faulted { kill_at: now + STOP_TIME };
                self.handle_boot_failure(from, fault.into(), now, actions);
            }
            Phase::Serving { .. }
            | Phase::Faulted { .. }
            | Phase::Retiring { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => {}
        }
    }

    pub(super) fn handle_garbage(&mut self, from: Serial, what: String, now: Instant, actions: &mut Vec<Action>) {
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
    pub(super) fn handle_ended(&mut self, from: Serial, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.process(from) else { return };
        if process.pid.is_some() {
            process.lost = process.lost.or(Some(now));
        } else {
            self.handle_exited(from, Exit::Unknown, Findings::default(), now, actions);
            actions.push(Action::Abandon { whom: from });
        }
    }

    pub(super) fn handle_exited(
        &mut self,
        from: Serial,
        exit: Exit,
        findings: Findings,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
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
                    let reason = format!("a worker {exit} after {}", seconds(served));
                    match findings.requests.is_empty() {
                        true => generation.note_failure(reason, now),
                        false => generation.note_death_in_request(reason, now),
                    }
                    if role == Role::Incoming && generation.backoff.cautious() {
                        let message =
                            format!("the worker {exit} after it served for {}, as others before", seconds(served));
                        self.handle_boot_failure(from, Fault { kind: None, message, traceback: None }, now, actions);
                        self.remove(from);
                        return;
                    }
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

    pub(super) fn handle_unresponsive(&mut self, to: Serial, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.process(to) else { return };
        match process.phase {
            Phase::Booting { .. } | Phase::Ready | Phase::Serving { .. } => {
                self.kill(to, Killed::Unresponsive, now, actions);
            }
            // It is killed at its deadline anyway.
            Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => {}
        }
    }

    /// Acts on every deadline that has passed.
    pub(super) fn settle_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
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
                    process.phase = Phase::Retiring { kill_at: now + graceful + MARGIN };
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
}

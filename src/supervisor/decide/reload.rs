//! A reload: a new generation is prepared and boots while the old one serves, then it is promoted or thrown away.
//!
//! Owns the course of the transaction and what the failure of a boot means in it. Invariant: until its end, which is a
//! promotion or a reason, nothing of the generation that serves is touched.

use super::super::action::{Action, Notice, Outcome};
use super::super::event::{Plan, Serial};
use super::super::generation::{Generation, Role};
use super::super::record::{Fault, Record};
use super::{Life, Manner, Purpose, Reload, State, first_line, tags};
use crate::trouble::Trouble;
use rgunicorn_protocol::BootFaultKind;
use std::time::Instant;

impl State {
    pub(super) fn handle_prepared(
        &mut self,
        number: u32,
        plan: Result<Plan, Trouble>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match (plan, &self.life) {
            (Ok(plan), Life::Starting | Life::Serving) => {
                let workers = match (self.purpose, self.serving()) {
                    (Purpose::Check, _) => 1,
                    // What was ordered by hand is kept.
                    (Purpose::Serve, Some(serving)) if serving.plan.workers == plan.workers => serving.size(),
                    (Purpose::Serve, _) => plan.workers,
                };
                self.generations.push(Generation::new(number, plan, workers, now));
                self.begin_rolling();
            }
            (Ok(_), Life::Stopping { .. } | Life::Over) => actions.push(Action::Drop { generation: number }),
            (Err(trouble), Life::Starting) => {
                let (reason, errno) = (trouble.to_string(), trouble.errno());
                self.start_failure = Some(first_line(&reason));
                actions.push(Action::Record(Record::NotPrepared { reason }));
                self.stop(Manner::Quick, Outcome::Failure { errno }, now, actions);
            }
            (Err(trouble), Life::Serving) => {
                let reason = trouble.to_string();
                let serving = self.serving().map_or(0, |generation| generation.number);
                self.note_reload_failure(first_line(&reason), now);
                actions.push(Action::Record(Record::ReloadNotPrepared { generation: number, serving, reason }));
                self.end_reload(actions);
            }
            (Err(_), Life::Stopping { .. } | Life::Over) => {}
        }
    }

    /// A mold or a worker did not become ready. What follows depends on whom it was to serve.
    pub(in crate::supervisor) fn handle_boot_failure(
        &mut self,
        whom: Serial,
        fault: Fault,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(generation) = self.home(whom) else { return };
        let (number, role) = (generation.number, generation.role);
        let tags = tags(generation, whom);
        generation.unseat(whom);
        match (role, &self.life) {
            (Role::Incoming, Life::Starting) => {
                let outcome = Outcome::Fault(fault.kind.unwrap_or(BootFaultKind::Import));
                self.start_failure = Some(first_line(&fault.message));
                actions.push(Action::Record(Record::NotStarted { tags, fault }));
                self.stop(Manner::Quick, outcome, now, actions);
            }
            (Role::Incoming, Life::Serving) => {
                let serving = self.serving().map_or(0, |generation| generation.number);
                self.note_reload_failure(first_line(&fault.message), now);
                let back = self.places_to_take_back(number);
                actions.push(Action::Record(Record::ReloadFailed { tags, serving, fault, back }));
                if back > 0 || self.generation(number).is_some_and(|generation| generation.has_served()) {
                    self.begin_rollback(number, now, actions);
                    return;
                }
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
                self.handle_failed_rollback(actions);
            }
            // One reason was told already; the rest of a generation that is thrown away fails for the same.
            (Role::Leaving | Role::Receding, _)
            | (_, Life::Stopping { .. } | Life::Over)
            | (Role::Serving, Life::Starting) => {}
        }
    }

    /// Promotes the incoming generation once all of it is ready, and sends the old one away in the same breath.
    pub(super) fn settle_incoming(&mut self, now: Instant, actions: &mut Vec<Action>) {
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
                commit(number, actions);
                actions.push(Action::Record(Record::Serves {
                    generation: number,
                    workers: generation.counts().serving,
                    interpreter: generation.interpreter.clone(),
                    after: now.saturating_duration_since(generation.born),
                }));
            }
        }
        for generation in &mut self.generations {
            let before = matches!(generation.role, Role::Serving | Role::Receding);
            if before && generation.number != number {
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
    pub(super) fn settle_mold_death(&mut self, now: Instant, actions: &mut Vec<Action>) {
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

    pub(in crate::supervisor) fn order_reload(&mut self, actions: &mut Vec<Action>) {
        if self.executes() {
            // The next program begins with a reload; if there is none after all it follows then.
            self.reload_wanted = true;
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
    pub(super) fn end_reload(&mut self, actions: &mut Vec<Action>) {
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
}

/// The generation's settings and listeners are those of the instance from now on. Once in a breath is enough.
pub(super) fn commit(generation: u32, actions: &mut Vec<Action>) {
    let commits = |action: &Action| matches!(action, Action::Commit { generation: number } if *number == generation);
    if !actions.iter().any(commits) {
        actions.push(Action::Commit { generation });
    }
}

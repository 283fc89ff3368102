//! What an operator orders, by signal or over the control socket, and how the instance stops.
//!
//! Owns what each order means in each state of the instance's life. Touches no process: what it wants done becomes actions,
//! or a wish that [`State::settle`] fulfils. Invariant: an order to stop is obeyed at once, whatever is going on.

use super::super::action::{Action, Notice, Outcome};
use super::super::event::Order;
use super::super::generation::Role;
use super::super::process::Phase;
use super::super::record::Record;
use super::{Life, Manner, Purpose, State};
use rgunicorn_protocol::ToWorker;
use std::collections::BTreeSet;
use std::time::Instant;

impl State {
    pub(in crate::supervisor) fn handle_order(&mut self, order: Order, now: Instant, actions: &mut Vec<Action>) {
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
            (Order::Scale(workers), Life::Starting | Life::Serving) => self.scale(|_| workers, now, actions),
            (Order::ScaleBy(difference), Life::Starting | Life::Serving) => {
                self.scale(|have| have.saturating_add_signed(difference), now, actions);
            }
            (Order::Replace(slot), Life::Starting | Life::Serving) => self.order_replacement(slot, actions),
            (Order::Scale(_) | Order::ScaleBy(_) | Order::Replace(_), Life::Stopping { .. }) => {}
        }
    }

    pub(super) fn stop(&mut self, manner: Manner, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        self.life = Life::Stopping { manner, outcome };
        self.reload = None;
        self.extend_at = None;
        let graceful = self.generations.iter().map(|generation| generation.plan.graceful_timeout).max();
        let graceful = graceful.unwrap_or_default();
        if outcome == Outcome::Clean && self.purpose == Purpose::Serve {
            let graceful = (manner == Manner::Graceful).then_some(graceful);
            actions.push(Action::Record(Record::Stops { graceful }));
        }
        actions.push(Action::Notify(Notice::Stopping));
        match manner {
            Manner::Graceful => {
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

    fn order_replacement(&mut self, slot: u32, actions: &mut Vec<Action>) {
        let holder = self.generations.iter_mut().find(|generation| generation.serves_at(slot));
        let Some(generation) = holder else { return };
        let incumbent = generation.slots.iter().find(|place| place.number == slot).and_then(|place| place.incumbent);
        if let Some(incumbent) = incumbent {
            generation.recycle(incumbent, "it was ordered by rgunicornctl".into(), actions);
        }
    }

    /// `change` makes of a generation's number of workers the one that is wanted.
    fn scale(&mut self, change: impl Fn(u32) -> u32, now: Instant, actions: &mut Vec<Action>) {
        let Some(newest) = self.incoming().or(self.serving()) else { return };
        let have = newest.size();
        let wanted = change(have);
        if wanted == 0 {
            actions.push(Action::Record(Record::NotScaled));
            return;
        }
        actions.push(Action::Record(Record::Scaled { from: have, to: wanted }));
        // A place that is new is the serving generation's first, as nobody has to make room for it. Only those that a
        // rolling reload, which may want more places than there were, has filled already are not.
        let mut filled = BTreeSet::new();
        for generation in self.generations.iter_mut().filter(|generation| generation.rolls()) {
            generation.resize(wanted, |_| true, now, actions);
            filled.extend(generation.slots.iter().filter(|slot| !slot.foreign).map(|slot| slot.number));
        }
        // It may have filled all that are left.
        self.settle_commit(actions);
        // The places of a rolling reload are both generations'. Otherwise each has its own number: one that serves while a
        // reload boots fewer workers does not have as few before that has succeeded.
        let shared = self.generations.iter().any(|generation| generation.rolls() || generation.role == Role::Receding);
        for generation in self.generations.iter_mut().filter(|generation| !generation.rolls()) {
            match generation.role {
                Role::Incoming | Role::Serving => {
                    let wanted = if shared { wanted } else { change(generation.size()).max(1) };
                    generation.resize(wanted, |slot| filled.contains(&slot), now, actions);
                }
                Role::Receding => generation.resize(wanted, |_| true, now, actions),
                Role::Leaving => {}
            }
        }
    }
}

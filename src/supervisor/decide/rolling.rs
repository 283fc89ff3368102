//! A rolling reload (`reload_strategy = "rolling"`): the new generation takes the place of the old one worker by worker,
//! for machines whose memory does not hold two generations; and its way back.
//!
//! Owns whose turn it is. Each slot has a number in every generation, and is `foreign` in all generations but the one that
//! fills it. The new generation begins with foreign slots only. On its turn a slot becomes its own, a worker boots there,
//! and once that is ready (and has passed `reload_check`) it is promoted and the slot becomes foreign to the old generation,
//! whose worker retires. The next turn comes when that worker is gone. When the last slot is taken the generation is
//! committed, and what is left of the old one, its mold, leaves. Touches no process and no clock.
//!
//! When a boot of the new generation fails, or its workers die young again and again, before the end:
//! - before its first worker was promoted, it is thrown away as in any reload: nobody else was touched.
//! - after that (also if only places that the old generation does not want were filled: they may have requests), it recedes: it starts nobody any more; the serving generation, whose mold is still there, takes back slot
//!   by slot, by turns as before, and a receding worker retires when the one in its place is promoted.
//!
//! What may happen meanwhile:
//! - TERM, INT: all generations leave at once; there are no turns in an instance that stops.
//! - TTIN, TTOU, scale: all generations get as many slots. One that is new is filled by the serving generation at once and
//!   has its turn later, unless the new generation, whose `workers` may be more, is there already; a worker on one that is
//!   gone retires, whosoever it is.
//! - HUP: folded into one more reload after this one, or after its rollback.
//! - USR2: the upgrade waits until the reload, or its rollback, is over.
//! - A worker of the old generation dies: its mold forks another at once, and its slot has the next turn.
//! - A worker of the new generation dies: its mold forks another at once, before any other turn; a failure of that boot is
//!   a failure of the reload.
//! - A receding worker dies: nobody holds its slot, which the serving generation takes back at once.
//! - A worker wants to be replaced (max_requests, memory, age): in the old generation its slot has the next turn; elsewhere
//!   it waits for the end.
//! - The new mold dies: the reload has failed. The old one dies: another is started, unless it had preloaded. Then there is
//!   no way back any more, and a reload that fails leaves both kinds of workers serving until the generation that replaces a
//!   dead preloading mold is there.
//! - The serving generation cannot boot a worker on the way back (without `preload_app` a worker imports what is on the disk,
//!   which may be the broken release): the reload is over and has failed, the receding workers stay, and it is tried again
//!   as any boot is, ever more slowly. The next reload, of either kind, takes the places of both.
//!
//! Invariants: somebody was promoted in a slot before anybody there retires; a turn begins only while there are no more
//! workers than are wanted, those that leave counted, so there is at most one more; nothing waits without a process that
//! has a deadline.

use super::super::action::Action;
use super::super::generation::{Generation, Role};
use super::super::record::Record;
use super::reload::commit;
use super::{Life, State};
use std::collections::BTreeSet;
use std::time::Instant;

impl State {
    /// Whether a rolling reload runs, or its way back.
    pub(in crate::supervisor) fn rolls(&self) -> bool {
        let rolls = |generation: &Generation| generation.rolls() || generation.role == Role::Receding;
        self.reload.is_some() && self.generations.iter().any(rolls)
    }

    /// A generation was prepared. If it is to come worker by worker, all places are still others'.
    pub(super) fn begin_rolling(&mut self) {
        let Some(newest) = self.generations.last_mut().filter(|newest| newest.rolls()) else { return };
        for slot in &mut newest.slots {
            slot.foreign = true;
        }
    }

    /// The places that the serving generation has lost to this one or to one that recedes.
    pub(super) fn places_to_take_back(&self, number: u32) -> usize {
        let rolls = self.generations.iter().any(|generation| generation.number == number && generation.rolls());
        let Some(serving) = self.serving().filter(|_| rolls) else { return 0 };
        serving.slots.iter().filter(|slot| slot.foreign).count()
    }

    /// The generation that comes worker by worker has all places: its settings are in force. To be called before the last
    /// worker of the old one retires, which is to answer what waits at listeners that end.
    pub(super) fn settle_commit(&self, actions: &mut Vec<Action>) {
        if let Some(incoming) = self.incoming().filter(|incoming| incoming.rolls() && incoming.complete()) {
            commit(incoming.number, actions);
        }
    }

    /// The rolling reload to this generation has failed after it had promoted somebody.
    pub(super) fn begin_rollback(&mut self, number: u32, now: Instant, actions: &mut Vec<Action>) {
        if let Some(generation) = self.generation(number) {
            generation.recede(now, actions);
            actions.push(Action::Withdraw { generation: number });
        }
    }

    /// The serving generation could not boot a worker. If that was to undo a reload, the reload is over all the same.
    pub(super) fn handle_failed_rollback(&mut self, actions: &mut Vec<Action>) {
        if self.reload.is_some() && self.incoming().is_none() && self.recedes() {
            self.end_rollback("a worker of the generation in service could not be booted", actions);
        }
    }

    /// Gives the next turn to whom it belongs.
    pub(super) fn settle_turns(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.life != Life::Serving {
            return;
        }
        match self.incoming().map(Generation::rolls) {
            Some(true) => self.settle_turn_forth(),
            Some(false) => self.settle_turn_back(false, now, actions),
            None => self.settle_turn_back(true, now, actions),
        }
    }

    /// Whether one more worker may boot: there are no more than are wanted, with those that leave and those that are
    /// about to be started where somebody has died.
    fn has_room(&self) -> bool {
        let places = |generation: &Generation| match generation.role {
            Role::Incoming | Role::Serving => generation.slots.len(),
            Role::Receding | Role::Leaving => 0,
        };
        let missing = |generation: &Generation| match generation.role {
            Role::Incoming | Role::Serving => generation.slots.iter().filter(|s| !s.foreign && s.vacant()).count(),
            Role::Receding | Role::Leaving => 0,
        };
        let present: usize = self.generations.iter().map(|generation| generation.workers() + missing(generation)).sum();
        present <= self.generations.iter().map(places).max().unwrap_or_default()
    }

    /// The next slot for the generation that comes: one where nobody serves, then one whose worker wants to be replaced.
    fn settle_turn_forth(&mut self) {
        // Where an earlier way back has not come to its end, it is this generation's turn now, also if the serving one was
        // about to try again and could not.
        let held = self.held_back();
        for slot in self.serving_slots() {
            slot.foreign |= slot.vacant() && held.contains(&slot.number);
        }
        let Some(incoming) = self.incoming() else { return };
        let own = incoming.slots.iter().filter(|slot| !slot.foreign).count();
        if !self.has_room() || incoming.ready_mold().is_none() || incoming.served().count() < own {
            return;
        }
        let (mut served, mut tired) = (BTreeSet::new(), BTreeSet::new());
        for generation in self.generations.iter().filter(|g| matches!(g.role, Role::Serving | Role::Receding)) {
            served.extend(generation.served());
            tired.extend(generation.slots.iter().filter(|slot| slot.recycle.is_some()).map(|slot| slot.number));
        }
        let (number, foreign) = (incoming.number, incoming.slots.iter().filter(|slot| slot.foreign));
        let order = |slot: u32| (served.contains(&slot), !tired.contains(&slot), slot);
        let next = foreign.map(|slot| slot.number).min_by_key(|slot| order(*slot));
        if let Some(generation) = self.generation(number)
            && let Some(slot) = generation.slots.iter_mut().find(|slot| Some(slot.number) == next)
        {
            slot.foreign = false;
        }
    }

    /// What a failed reload still holds goes back: at once where nobody serves, else slot by slot.
    fn settle_turn_back(&mut self, turns: bool, now: Instant, actions: &mut Vec<Action>) {
        if !self.recedes() {
            return;
        }
        let last = self.serving().map_or(0, |serving| serving.slots.len());
        for generation in self.generations.iter_mut().filter(|generation| generation.role == Role::Receding) {
            // Places that only the failed generation had wanted.
            let surplus: Vec<u32> = generation.served().filter(|slot| *slot as usize > last).collect();
            for slot in surplus {
                generation.cede(slot, now, actions);
            }
        }
        let held = self.held_back();
        let mut taken = false;
        for slot in self.serving_slots() {
            slot.foreign &= held.contains(&slot.number);
            taken |= !slot.foreign && held.contains(&slot.number);
        }
        if turns
            && !taken
            && self.has_room()
            && let Some(slot) = self.serving_slots().find(|slot| slot.foreign)
        {
            slot.foreign = false;
        }
        if held.is_empty() {
            for generation in self.generations.iter_mut().filter(|generation| generation.role == Role::Receding) {
                generation.leave(true, now, actions);
            }
            if self.reload.is_some() && self.incoming().is_none() {
                let serving = self.serving().map_or(0, |serving| serving.number);
                actions.push(Action::Record(Record::RolledBack { serving }));
                self.end_reload(actions);
            }
        } else if self.reload.is_some()
            && self.incoming().is_none()
            && self.serving().is_some_and(Generation::mold_is_irreplaceable)
        {
            self.end_rollback("the preloading mold of the generation in service is gone", actions);
        }
    }

    /// Somebody was promoted: whoever was in this slot before retires.
    pub(super) fn hand_over(&mut self, number: u32, slot: u32, now: Instant, actions: &mut Vec<Action>) {
        let Some(role) = self.generation(number).map(|generation| generation.role) else { return };
        let mut taken_back = false;
        for other in self.generations.iter_mut().filter(|other| other.number != number) {
            match (role, other.role) {
                (Role::Incoming, Role::Serving | Role::Receding) => {
                    other.cede(slot, now, actions);
                }
                (Role::Serving, Role::Receding) => taken_back |= other.cede(slot, now, actions),
                (Role::Serving | Role::Incoming | Role::Receding | Role::Leaving, _) => {}
            }
        }
        if role == Role::Incoming
            && let Some(generation) = self.generation(number)
        {
            let (done, of) = (generation.served().count(), generation.slots.len());
            actions.push(Action::Record(Record::Rolled { generation: number, slot, done, of }));
        }
        if taken_back {
            let left = self.held_back().len();
            actions.push(Action::Record(Record::TookBack { generation: number, slot, left }));
        }
    }

    fn end_rollback(&mut self, because: &'static str, actions: &mut Vec<Action>) {
        let serving = self.serving().map_or(0, |serving| serving.number);
        let left = self.held_back().len();
        actions.push(Action::Record(Record::NotRolledBack { serving, left, because }));
        self.end_reload(actions);
    }

    fn recedes(&self) -> bool {
        self.generations.iter().any(|generation| generation.role == Role::Receding)
    }

    /// The slots that receding workers hold.
    fn held_back(&self) -> BTreeSet<u32> {
        let receding = self.generations.iter().filter(|generation| generation.role == Role::Receding);
        receding.flat_map(Generation::served).collect()
    }

    fn serving_slots(&mut self) -> impl Iterator<Item = &mut super::super::slot::Slot> {
        let serving = self.generations.iter_mut().filter(|generation| generation.role == Role::Serving);
        serving.flat_map(|generation| &mut generation.slots)
    }
}

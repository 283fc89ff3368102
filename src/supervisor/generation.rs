//! A generation: the workers born of one reading of settings and code, and the mold that forks them.
//!
//! Owns its processes and slots and brings them towards what is wanted ([`Generation::poll_fill`]). Knows nothing of
//! other generations. Invariant: nothing is forked from a mold that is not ready, and every process that was ever
//! ordered stays in the books until it is gone.

use super::action::Action;
use super::backoff::Backoff;
use super::event::{Plan, Serial};
use super::process::{CANCEL_TIME, Killed, MARGIN, Phase, Process, STOP_TIME, Seat};
use super::record::{Record, Tags};
use super::slot::Slot;
use rgunicorn_protocol::{Occasion, ToWorker};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A worker that served so long has proved that workers of its generation can live.
pub(crate) const STEADY: Duration = Duration::from_secs(1);
/// Workers that boot at once. The channel to the mold holds about 280 orders (net.core.wmem_default), and a mold that
/// does not take one counts as stuck; a processor is busy with far fewer. Those whose boot was called off count until
/// they are gone: their orders may still be unread.
pub(crate) const MOST_BOOTING: usize = 64;

/// What a generation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// It boots; nothing of it is promoted before all of it is ready, unless it replaces worker by worker.
    Incoming,
    /// It serves.
    Serving,
    /// A rolling reload to it has failed: what it has promoted serves until the generation in service has its place back.
    Receding,
    /// It was replaced, thrown away or stopped; it ends when its last process is gone.
    Leaving,
}

/// See the file's header.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) number: u32,
    pub(crate) plan: Plan,
    pub(crate) role: Role,
    #[serde(with = "super::moment")]
    pub(crate) born: Instant,
    /// The version of the worker module that its mold has loaded, empty until the mold says so.
    pub(crate) module: String,
    /// The interpreter as the mold names it, empty until then.
    pub(crate) interpreter: String,
    pub(crate) mold: Option<Serial>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) processes: BTreeMap<Serial, Process>,
    pub(crate) backoff: Backoff,
}

/// The workers of a generation, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) booting: usize,
    pub(crate) ready: usize,
    pub(crate) serving: usize,
    pub(crate) leaving: usize,
}

impl Generation {
    /// A generation with nothing in it yet that wants `workers`.
    pub(crate) fn new(number: u32, plan: Plan, workers: u32, now: Instant) -> Generation {
        Generation {
            number,
            plan,
            role: Role::Incoming,
            born: now,
            module: String::new(),
            interpreter: String::new(),
            mold: None,
            slots: (1..=workers.max(1)).map(Slot::new).collect(),
            processes: BTreeMap::new(),
            backoff: Backoff::default(),
        }
    }

    /// The tags that records about this process carry.
    pub(crate) fn tags(&self, process: &Process) -> Tags {
        let slot = match process.seat {
            Seat::Mold => None,
            Seat::Slot(number) => Some(number),
        };
        Tags { generation: self.number, slot, pid: process.pid }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for process in self.processes.values().filter(|process| process.seat != Seat::Mold) {
            match process.phase {
                Phase::Booting { .. } => counts.booting += 1,
                Phase::Ready => counts.ready += 1,
                Phase::Serving { .. } => counts.serving += 1,
                Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => {
                    counts.leaving += 1;
                }
            }
        }
        counts
    }

    /// Every slot is held by a worker that can serve.
    pub(crate) fn complete(&self) -> bool {
        self.slots.iter().all(|slot| {
            slot.incumbent.and_then(|serial| self.processes.get(&serial)).is_some_and(|worker| match worker.phase {
                Phase::Ready | Phase::Serving { .. } => true,
                Phase::Booting { .. }
                | Phase::Faulted { .. }
                | Phase::Retiring { .. }
                | Phase::Stopping { .. }
                | Phase::Killed { .. } => false,
            })
        })
    }

    /// It comes into service worker by worker.
    pub(crate) fn rolls(&self) -> bool {
        self.role == Role::Incoming && self.plan.rolling && self.number > 1
    }

    /// How many workers it is to have.
    pub(super) fn size(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Its workers, those that leave with them: each takes memory.
    pub(crate) fn workers(&self) -> usize {
        self.processes.values().filter(|process| process.seat != Seat::Mold).count()
    }

    /// The mold, if it can fork.
    pub(super) fn ready_mold(&self) -> Option<Serial> {
        self.mold.filter(|serial| self.processes.get(serial).is_some_and(|mold| mold.phase == Phase::Ready))
    }

    /// A preloading mold that once served is gone: what a new one would import may be newer code.
    pub(crate) fn mold_is_irreplaceable(&self) -> bool {
        self.plan.preload && self.role == Role::Serving && self.mold.is_none()
    }

    /// Takes a process off its place; it stays in the books.
    pub(crate) fn unseat(&mut self, serial: Serial) {
        if self.mold == Some(serial) {
            self.mold = None;
        }
        for slot in &mut self.slots {
            slot.vacate(serial);
        }
    }

    /// A failure is remembered, unless others have shown since the latest one that workers can live.
    pub(crate) fn note_failure(&mut self, reason: String, now: Instant) {
        self.note(reason, Backoff::fail, now);
    }

    /// The same for a worker that died with requests in its lanes, which may have killed it.
    pub(crate) fn note_death_in_request(&mut self, reason: String, now: Instant) {
        self.note(reason, Backoff::fail_in_request, now);
    }

    fn note(&mut self, reason: String, fail: impl Fn(&mut Backoff, String, Instant), now: Instant) {
        let latest = self.backoff.latest();
        let proved = self.processes.values().any(|process| match process.phase {
            Phase::Serving { since } => {
                now.saturating_duration_since(since) >= STEADY && latest.is_some_and(|latest| since > latest)
            }
            Phase::Booting { .. }
            | Phase::Faulted { .. }
            | Phase::Ready
            | Phase::Retiring { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. } => false,
        });
        if proved {
            self.backoff.forget();
        }
        fail(&mut self.backoff, reason, now);
    }

    /// Whether a promoted worker holds this slot.
    pub(crate) fn serves_at(&self, slot: u32) -> bool {
        let incumbent = self.slots.iter().find(|place| place.number == slot).and_then(|place| place.incumbent);
        incumbent.is_some_and(|serial| self.is_serving(serial))
    }

    fn is_serving(&self, serial: Serial) -> bool {
        matches!(self.processes.get(&serial).map(|process| &process.phase), Some(Phase::Serving { .. }))
    }

    /// A worker that serves is to be replaced; another boots in its place first.
    pub(crate) fn recycle(&mut self, serial: Serial, reason: String, actions: &mut Vec<Action>) {
        let Some(tags) = self.processes.get(&serial).map(|process| self.tags(process)) else { return };
        let serves = self.is_serving(serial);
        if serves
            && let Some(slot) = self.slots.iter_mut().find(|slot| slot.incumbent == Some(serial))
            && slot.recycle.is_none()
        {
            slot.recycle = Some(reason.clone());
            actions.push(Action::Record(Record::Recycles { tags, reason }));
        }
    }

    /// Whether a worker of it has been promoted and is not gone: it may have requests.
    pub(crate) fn has_served(&self) -> bool {
        self.processes.values().any(|process| matches!(process.phase, Phase::Serving { .. } | Phase::Retiring { .. }))
    }

    /// The slots that a promoted worker holds.
    pub(crate) fn served(&self) -> impl Iterator<Item = u32> + '_ {
        let serves = |slot: &&Slot| slot.incumbent.is_some_and(|serial| self.is_serving(serial));
        self.slots.iter().filter(serves).map(|slot| slot.number)
    }

    /// Another generation serves in this slot from now on; whether somebody was there.
    pub(crate) fn cede(&mut self, slot: u32, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(place) = self.slots.iter_mut().find(|place| place.number == slot) else { return false };
        place.foreign = true;
        let held = [place.incumbent, place.replacement];
        for serial in held.into_iter().flatten() {
            self.retire(serial, true, now, actions);
        }
        held.iter().any(Option::is_some)
    }

    /// The rolling reload to it has failed: only what it has promoted stays for a while.
    pub(crate) fn recede(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.role = Role::Receding;
        for serial in self.serials() {
            if !self.is_serving(serial) {
                let retires = matches!(self.processes.get(&serial).map(|p| &p.phase), Some(Phase::Retiring { .. }));
                if !retires {
                    self.stop(serial, now, actions);
                }
            }
        }
    }

    /// Changes the number of slots. Workers on places that are no more leave; new places are another's where it says so.
    pub(crate) fn resize(
        &mut self,
        workers: u32,
        foreign: impl Fn(u32) -> bool,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let workers = workers.max(1);
        while self.slots.len() > workers as usize {
            if let Some(slot) = self.slots.pop() {
                for serial in [slot.incumbent, slot.replacement].into_iter().flatten() {
                    self.retire(serial, true, now, actions);
                }
            }
        }
        let have = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.extend((have + 1..=workers).map(|number| Slot { foreign: foreign(number), ..Slot::new(number) }));
        for process in self.processes.values().filter(|process| matches!(process.phase, Phase::Serving { .. })) {
            let message = ToWorker::Workers { count: workers };
            actions.push(Action::Send { to: process.serial, message });
        }
    }

    /// Starts what is missing: the mold, workers for vacant slots, one replacement at a time if any.
    pub(crate) fn poll_fill(&mut self, serials: &mut u64, replaces: bool, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.role, Role::Leaving | Role::Receding) || !self.backoff.permits(now) {
            return;
        }
        if self.mold.is_none() && !self.mold_is_irreplaceable() {
            let mold = next(serials);
            self.mold = Some(mold);
            self.processes.insert(mold, Process::ordered(mold, Seat::Mold, self.plan.boot_timeout, now));
            actions.push(Action::SpawnMold { generation: self.number, mold });
        }
        let Some(mold) = self.ready_mold() else { return };
        let mut booting = self.counts().booting;
        let called_off = self
            .processes
            .values()
            .filter(|process| matches!(process.phase, Phase::Stopping { booting: true, .. }))
            .count();
        let occasion = match self.role {
            Role::Incoming if self.number > 1 => Occasion::Reload,
            Role::Incoming => Occasion::Start,
            Role::Serving | Role::Receding | Role::Leaving => Occasion::Replacement,
        };
        let one_replaced = self.slots.iter().any(|slot| slot.incumbent.is_some() && slot.replacement.is_some());
        // A worker that leaves takes memory until its last request is done, which may be long: no more leave than serve.
        let leaves = |process: &&Process| {
            matches!(process.seat, Seat::Slot(_))
                && matches!(process.phase, Phase::Retiring { .. } | Phase::Stopping { .. })
        };
        let crowded = self.processes.values().filter(leaves).count() >= self.slots.len();
        let mut may_replace = replaces && self.role == Role::Serving && !one_replaced && !crowded;
        for slot in &mut self.slots {
            if self.backoff.cautious() && booting > 0 {
                return;
            }
            let vacant = slot.vacant();
            let replace = may_replace && slot.recycle.is_some() && slot.replacement.is_none();
            if slot.foreign || (!vacant && !replace) {
                continue;
            }
            if booting + called_off >= MOST_BOOTING {
                return;
            }
            let worker = next(serials);
            if vacant {
                slot.incumbent = Some(worker);
            } else {
                slot.replacement = Some(worker);
                may_replace = false;
            }
            booting += 1;
            let seat = Seat::Slot(slot.number);
            self.processes.insert(worker, Process::ordered(worker, seat, self.plan.boot_timeout, now));
            actions.push(Action::Fork { mold, worker, slot: slot.number, occasion });
        }
    }

    /// Promotes what is ready: in these slots. A replacement that is promoted sends its predecessor away.
    pub(crate) fn poll_promote(&mut self, now: Instant, actions: &mut Vec<Action>) -> Vec<u32> {
        let (mut leavers, mut promoted) = (Vec::new(), Vec::new());
        let count = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        for slot in &mut self.slots {
            let ready = |serial: Option<Serial>| {
                serial.filter(|serial| self.processes.get(serial).is_some_and(|worker| worker.phase == Phase::Ready))
            };
            let (incumbent, replacement) = (ready(slot.incumbent), ready(slot.replacement));
            if replacement.is_some() {
                leavers.extend(slot.succeed());
            }
            for serial in [incumbent, replacement].into_iter().flatten() {
                if let Some(worker) = self.processes.get_mut(&serial) {
                    worker.phase = Phase::Serving { since: now };
                    promoted.push(slot.number);
                    actions.push(Action::Send { to: serial, message: ToWorker::Promote });
                    if count != self.plan.workers {
                        // Its settings are those of the mold, which has heard of no change.
                        actions.push(Action::Send { to: serial, message: ToWorker::Workers { count } });
                    }
                }
            }
        }
        for serial in leavers {
            self.retire(serial, true, now, actions);
        }
        promoted
    }

    /// Sends one process away: a serving worker retires gracefully, everything else stops.
    pub(crate) fn retire(&mut self, serial: Serial, successors: bool, now: Instant, actions: &mut Vec<Action>) {
        let graceful = self.plan.graceful_timeout;
        let drain_listeners = !successors && self.plan.drain_listeners;
        let Some(process) = self.processes.get_mut(&serial) else { return };
        match process.phase {
            Phase::Serving { .. } => {
                process.phase = Phase::Retiring { kill_at: now + graceful + MARGIN };
                let deadline_ms = u64::try_from(graceful.as_millis()).unwrap_or(u64::MAX);
                let message = ToWorker::Retire { deadline_ms, successors, drain_listeners };
                actions.push(Action::Send { to: serial, message });
                self.unseat(serial);
            }
            Phase::Booting { .. } | Phase::Ready => {
                self.stop(serial, now, actions);
                // Nothing waits for the mold, and hundreds of workers that end may leave it no processor time.
                if let Some(Process { seat: Seat::Mold, phase: Phase::Stopping { kill_at, booting: false }, .. }) =
                    self.processes.get_mut(&serial)
                {
                    *kill_at = now + graceful.max(STOP_TIME) + MARGIN;
                }
            }
            // Those who were to take over what it cannot answer leave, too. Its deadline stays.
            Phase::Retiring { kill_at } if !successors => {
                let left = kill_at.saturating_duration_since(now + MARGIN);
                let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                let message = ToWorker::Retire { deadline_ms, successors, drain_listeners: false };
                actions.push(Action::Send { to: serial, message });
            }
            Phase::Faulted { .. } | Phase::Retiring { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => {}
        }
    }

    /// Tells one process to leave at once, whatever it does.
    pub(crate) fn stop(&mut self, serial: Serial, now: Instant, actions: &mut Vec<Action>) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        match process.phase {
            Phase::Booting { .. } | Phase::Ready | Phase::Serving { .. } | Phase::Retiring { .. } => {
                let booting = matches!(process.phase, Phase::Booting { .. });
                let time = if booting { CANCEL_TIME } else { STOP_TIME };
                process.phase = Phase::Stopping { kill_at: now + time, booting };
                actions.push(Action::Send { to: serial, message: ToWorker::Stop });
                self.unseat(serial);
            }
            Phase::Faulted { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => self.unseat(serial),
        }
    }

    /// Kills one process. One whose pid is not known cannot be killed; its channel is closed instead, which it (or the
    /// mold that has not read the order yet) finds when it comes to life.
    pub(crate) fn kill(&mut self, serial: Serial, why: Killed, now: Instant, actions: &mut Vec<Action>) {
        self.unseat(serial);
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.pid.is_some() {
            process.phase = Phase::Killed { why, forget_at: now + super::process::DEATH_TIME };
            actions.push(Action::Kill { whom: serial });
        } else {
            self.processes.remove(&serial);
            actions.push(Action::Abandon { whom: serial });
        }
    }

    /// The whole generation leaves. Workers that serve retire; the mold and what still boots stop.
    pub(crate) fn leave(&mut self, successors: bool, now: Instant, actions: &mut Vec<Action>) {
        self.role = Role::Leaving;
        for serial in self.serials() {
            self.retire(serial, successors, now, actions);
        }
    }

    /// The whole generation stops at once.
    pub(crate) fn quit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.role = Role::Leaving;
        for serial in self.serials() {
            self.stop(serial, now, actions);
        }
    }

    /// Sends a message to every process that may read it.
    pub(crate) fn tell_all(&self, message: &ToWorker, actions: &mut Vec<Action>) {
        for process in self.processes.values() {
            match process.phase {
                Phase::Booting { .. } | Phase::Ready | Phase::Serving { .. } | Phase::Retiring { .. } => {
                    actions.push(Action::Send { to: process.serial, message: message.clone() });
                }
                Phase::Faulted { .. } | Phase::Stopping { .. } | Phase::Killed { .. } => {}
            }
        }
    }

    /// When something must be done if nothing happens before.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let processes = self.processes.values().filter_map(Process::deadline).min();
        let wants =
            |slot: &Slot| !slot.foreign && (slot.vacant() || (slot.recycle.is_some() && slot.replacement.is_none()));
        let fills = !matches!(self.role, Role::Leaving | Role::Receding);
        let waits_to_fill = fills && (self.mold.is_none() || self.slots.iter().any(wants));
        let retry = if waits_to_fill { self.backoff.retry_at().filter(|at| *at > now) } else { None };
        processes.into_iter().chain(retry).chain(self.next_old(now)).min()
    }

    /// When the next worker has served for `max_worker_lifetime`.
    fn next_old(&self, now: Instant) -> Option<Instant> {
        let lifetime = self.plan.lifetime.filter(|_| self.role != Role::Leaving)?;
        let young = self.slots.iter().filter(|slot| slot.recycle.is_none()).filter_map(|slot| slot.incumbent);
        young.filter_map(|serial| self.processes.get(&serial)?.old_at(lifetime)).filter(|at| *at > now).min()
    }

    fn serials(&self) -> Vec<Serial> {
        self.processes.keys().copied().collect()
    }
}

fn next(serials: &mut u64) -> Serial {
    *serials += 1;
    Serial(*serials)
}

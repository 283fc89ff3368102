//! A world without processes for the tests of [`super::decide`]: it does what actions say, ages, and answers as molds
//! and workers do, well or badly, in an order that a script or a generator chooses.

use super::action::{Action, Notice, Outcome};
use super::decide::{Life, Purpose, State};
use super::event::{Event, Exit, Findings, Order, Plan, Serial};
use super::generation::Generation;
use super::record::Record;
use crate::trouble::Trouble;
use rgunicorn_protocol::{BootFault, BootFaultKind, FromWorker, ToWorker, VERSION};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a process of the fake world is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// Ordered; says hello next.
    Born,
    /// Said hello; gets ready next.
    Importing,
    Ready,
    Promoted,
    /// Was told to leave.
    Leaving,
    /// Was sent SIGKILL.
    Killed,
}

#[derive(Debug, Clone)]
pub(super) struct Fake {
    pub(super) mold: Option<Serial>,
    pub(super) generation: u32,
    pub(super) slot: u32,
    pub(super) doing: Doing,
    pub(super) deaf: bool,
    /// It reads and does not answer.
    pub(super) silent: bool,
    /// It was promoted at some time, so it may have a request.
    served: bool,
}

/// See the file's header.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Instant,
    pub(super) processes: BTreeMap<Serial, Fake>,
    pub(super) records: Vec<Record>,
    pub(super) notices: Vec<Notice>,
    pub(super) outcome: Option<Outcome>,
    /// The next program is executed once all events are dealt with.
    executes: bool,
    /// What the next reading of the settings gives.
    pub(super) plan: Result<Plan, Trouble>,
    /// The settings say so at the start: the old workers go one by one.
    rolling: bool,
    gone: BTreeSet<Serial>,
    promoted: BTreeSet<u32>,
    /// The generation whose settings and listeners are the instance's.
    committed: u32,
}

pub(super) fn plan(workers: u32) -> Plan {
    Plan {
        workers,
        preload: false,
        boot_timeout: Some(Duration::from_secs(60)),
        graceful_timeout: Duration::from_secs(30),
        drain_listeners: true,
        lifetime: None,
        rolling: false,
    }
}

impl World {
    pub(super) fn begin(purpose: Purpose, plan: Plan) -> World {
        let now = Instant::now();
        let (state, actions) = State::begin(purpose, now);
        let mut world = World {
            state,
            now,
            processes: BTreeMap::new(),
            records: Vec::new(),
            notices: Vec::new(),
            outcome: None,
            executes: false,
            rolling: plan.rolling,
            plan: Ok(plan),
            gone: BTreeSet::new(),
            promoted: BTreeSet::new(),
            committed: 0,
        };
        world.perform(actions);
        world
    }

    /// A world whose first generation serves.
    pub(super) fn serving(plan: Plan) -> World {
        let mut world = World::begin(Purpose::Serve, plan);
        world.run();
        assert!(world.notices.contains(&Notice::Ready), "{:?}", world.records);
        world
    }

    pub(super) fn order(&mut self, order: Order) {
        self.happen(Event::Order(order));
    }

    pub(super) fn say(&mut self, from: Serial, message: FromWorker) {
        self.happen(Event::Message { from, message });
    }

    /// The process ends, as the arbiter sees it.
    pub(super) fn die(&mut self, serial: Serial, exit: Exit) {
        let known = self.processes.remove(&serial).is_some_and(|fake| fake.mold.is_none() || fake.doing != Doing::Born);
        self.gone.insert(serial);
        self.happen(Event::Ended { from: serial });
        if known {
            self.happen(Event::Exited { from: serial, exit, findings: Findings::default() });
        }
        // A worker that was not forked yet dies with its mold.
        let unborn = |fake: &Fake| fake.mold == Some(serial) && fake.doing == Doing::Born;
        let unborn: Vec<Serial> = self.processes.iter().filter(|(_, f)| unborn(f)).map(|(s, _)| *s).collect();
        for worker in unborn {
            self.die(worker, Exit::Unknown);
        }
    }

    pub(super) fn fault(&mut self, serial: Serial) {
        let fault =
            BootFault { kind: BootFaultKind::Import, message: "no".into(), traceback: Some("Traceback".into()) };
        self.say(serial, FromWorker::BootFault(fault));
        self.die(serial, Exit::Code(1));
    }

    /// One step of one process that behaves well; whether there was one to take.
    pub(super) fn step(&mut self, serial: Serial) -> bool {
        let Some(fake) = self.processes.get_mut(&serial) else { return false };
        match fake.doing {
            Doing::Born => {
                let mold = fake.mold;
                if mold.is_some_and(|mold| !self.processes.contains_key(&mold)) {
                    self.die(serial, Exit::Unknown);
                    return true;
                }
                if let Some(fake) = self.processes.get_mut(&serial) {
                    fake.doing = Doing::Importing;
                }
                let pid = 1000 + i32::try_from(serial.0).unwrap();
                let worker = mold.map_or(0, |_| serial.0);
                let hello = FromWorker::Hello { worker, pid, version: VERSION.into(), interpreter: "CPython".into() };
                self.say(serial, hello);
            }
            Doing::Importing => {
                fake.doing = Doing::Ready;
                self.say(serial, FromWorker::Ready { warnings: Vec::new() });
            }
            Doing::Leaving => self.die(serial, Exit::Code(0)),
            Doing::Killed => self.die(serial, Exit::Signal { signal: 9, core: false }),
            Doing::Ready | Doing::Promoted => return false,
        }
        true
    }

    /// Lets all processes behave well until nothing moves any more.
    pub(super) fn run(&mut self) {
        loop {
            let all: Vec<Serial> = self.processes.keys().copied().collect();
            let mut moved = false;
            for serial in all {
                moved |= self.step(serial);
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass up to the state's next deadline; false if it has none.
    pub(super) fn wait(&mut self) -> bool {
        match self.state.deadline(self.now) {
            Some(at) => {
                self.now = self.now.max(at);
                self.happen(Event::Timer);
                true
            }
            None => false,
        }
    }

    /// Lets time pass; every deadline in it is kept.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.state.deadline(self.now).is_some_and(|at| at <= end) {
            self.wait();
        }
        self.sleep(end - self.now);
    }

    /// Lets time pass in which the arbiter does not run.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.now += time;
        self.happen(Event::Timer);
    }

    /// Workers that were promoted and not sent away.
    pub(super) fn serve(&self) -> Vec<Serial> {
        self.workers(|fake| fake.doing == Doing::Promoted)
    }

    pub(super) fn workers(&self, wanted: impl Fn(&Fake) -> bool) -> Vec<Serial> {
        self.processes
            .iter()
            .filter(|(_, fake)| fake.mold.is_some() && wanted(fake))
            .map(|(serial, _)| *serial)
            .collect()
    }

    pub(super) fn mold(&self) -> Serial {
        let molds = self.processes.iter().filter(|(_, fake)| fake.mold.is_none() && fake.doing == Doing::Ready);
        molds.map(|(serial, _)| *serial).next_back().unwrap()
    }

    pub(super) fn happen(&mut self, event: Event) {
        // A deaf worker cannot be sent away by words; it is killed in time.
        let hearing = |world: &World| world.workers(|fake| fake.doing == Doing::Promoted && !fake.deaf);
        let serving_before = hearing(self);
        let actions = self.state.handle_event(event.clone(), self.now);
        let retires = actions
            .iter()
            .any(|action| matches!(action, Action::Send { message: ToWorker::Retire { successors: true, .. }, .. }));
        let commits = actions.iter().any(|action| matches!(action, Action::Commit { .. }));
        self.perform(actions);
        self.assert_order();
        if commits && !serving_before.is_empty() {
            assert!(retires || self.rolling, "the old generation goes in the same breath as the new one is promoted");
            let serving = hearing(self);
            let newest = serving.iter().map(|serial| self.processes[serial].generation).max();
            assert!(serving.iter().all(|serial| Some(self.processes[serial].generation) == newest));
        }
    }

    /// What holds after each event.
    fn assert_order(&self) {
        if let Some(serving) = self.state.serving() {
            assert_eq!(self.committed, serving.number, "the generation that serves has its settings in force");
        }
        let mut slots = BTreeSet::new();
        for slot in self.state.generations.iter().flat_map(Generation::served) {
            assert!(slots.insert(slot), "two serve in slot {slot}: {:?}", self.processes);
        }
    }

    /// The next program is executed: the state is written down and read, and goes on.
    fn execute(&mut self) {
        let written = serde_json::to_string(&self.state).unwrap();
        self.state = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&self.state).unwrap(), written);
        let actions = self.state.resume("0.0.1".into(), self.now);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut replies = Vec::new();
        for action in actions {
            assert_eq!(self.outcome, None, "nothing follows the end, but: {action:?}");
            match action {
                Action::Prepare { generation } => replies.push(Event::Prepared { generation, plan: self.plan.clone() }),
                Action::Inherit { generation, .. } => {
                    replies.push(Event::Prepared { generation, plan: self.plan.clone() });
                }
                Action::SpawnMold { generation, mold } => {
                    let fake = Fake {
                        mold: None,
                        generation,
                        slot: 0,
                        doing: Doing::Born,
                        deaf: false,
                        silent: false,
                        served: false,
                    };
                    assert!(self.processes.insert(mold, fake).is_none());
                    let pid = 1000 + i32::try_from(mold.0).unwrap();
                    replies.push(Event::Spawned { mold, pid });
                }
                Action::Fork { mold, worker, slot, .. } => {
                    // A mold that died may be ordered to fork until its end has been noticed.
                    assert!(self.gone.contains(&mold) || self.processes[&mold].doing == Doing::Ready);
                    let generation = self.state.generation_of(worker);
                    let fake = Fake {
                        mold: Some(mold),
                        generation,
                        slot,
                        doing: Doing::Born,
                        deaf: false,
                        silent: false,
                        served: false,
                    };
                    assert!(self.processes.insert(worker, fake).is_none());
                    if self.processes.get(&mold).is_none_or(|mold| mold.deaf) {
                        replies.push(Event::Unresponsive { to: mold });
                        replies.push(Event::Ended { from: worker });
                        self.processes.remove(&worker);
                    }
                }
                Action::Send { to, message } => {
                    let Some(fake) = self.processes.get_mut(&to) else { continue };
                    if message == ToWorker::Promote {
                        self.promoted.insert(fake.generation);
                    }
                    if fake.deaf {
                        replies.push(Event::Unresponsive { to });
                        continue;
                    }
                    match message {
                        ToWorker::Promote => {
                            assert_eq!(fake.doing, Doing::Ready, "only what is ready is promoted, and once");
                            fake.doing = Doing::Promoted;
                            fake.served = true;
                        }
                        ToWorker::Stop if fake.served => {
                            let stops = matches!(self.state.life, Life::Stopping { .. });
                            assert!(
                                stops,
                                "a worker that may have requests is not stopped at once: {:?}",
                                self.records
                            );
                            fake.doing = Doing::Leaving;
                        }
                        ToWorker::Retire { .. } | ToWorker::Stop => fake.doing = Doing::Leaving,
                        ToWorker::Ping { id } if !fake.silent => {
                            replies.push(Event::Message { from: to, message: FromWorker::Pong { id } });
                        }
                        ToWorker::ReopenLogs
                        | ToWorker::Workers { .. }
                        | ToWorker::Ping { .. }
                        | ToWorker::Fork { .. }
                        | ToWorker::Configure(_)
                        | ToWorker::Drain { .. } => {}
                    }
                }
                Action::Kill { whom } => {
                    if let Some(fake) = self.processes.get_mut(&whom) {
                        fake.doing = Doing::Killed;
                    }
                }
                Action::Abandon { whom } => {
                    self.processes.remove(&whom);
                }
                Action::Commit { generation } => {
                    assert!(self.promoted.contains(&generation));
                    self.committed = generation;
                }
                Action::Withdraw { .. }
                | Action::Drop { .. }
                | Action::ReopenLogs
                | Action::CheckUpgrade
                | Action::AbandonUpgrade => {}
                Action::Upgrade => self.executes = true,
                Action::Notify(notice) => self.notices.push(notice),
                Action::Record(record) => self.records.push(record),
                Action::Exit(outcome) => self.outcome = Some(outcome),
            }
        }
        let executes = std::mem::take(&mut self.executes);
        for reply in replies {
            self.happen(reply);
        }
        if executes && self.state.executes() {
            self.execute();
        }
    }
}

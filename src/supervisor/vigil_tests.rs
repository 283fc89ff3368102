//! Silence, stops, old age and an arbiter that did not run, told as stories.

use super::decide::Purpose;
use super::event::{Event, Exit, Findings, InFlight, Order, Plan};
use super::process::Killed;
use super::record::Record;
use super::vigil::{ANSWER_TIME, HALT_TIME, PING_EVERY};
use super::world::{Doing, World, plan};
use rgunicorn_protocol::FromWorker;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn killed(world: &World) -> Vec<Killed> {
    let why = |record: &Record| match record {
        Record::Killed { why, .. } => Some(*why),
        _ => None,
    };
    world.records.iter().filter_map(why).collect()
}

#[test]
fn whoever_answers_lives_for_ever() {
    let mut world = World::serving(plan(2));
    let before = world.serve();
    for _ in 0..100 {
        world.pass(PING_EVERY);
    }
    assert_eq!(world.serve(), before);
    assert_eq!(killed(&world), []);
}

#[test]
fn a_worker_or_a_mold_that_does_not_answer_is_killed_and_replaced() {
    let mut world = World::serving(plan(2));
    let (silent, mold) = (world.serve()[0], world.mold());
    for serial in [silent, mold] {
        world.processes.get_mut(&serial).unwrap().silent = true;
    }
    world.pass(PING_EVERY + ANSWER_TIME);
    assert_eq!(killed(&world), [Killed::Silent, Killed::Silent]);
    world.run();
    assert_eq!(world.serve().len(), 2);
    assert!(!world.serve().contains(&silent) && world.mold() != mold);
}

#[test]
fn a_stopped_worker_is_named_at_once_and_replaced_if_nobody_continues_it() {
    let mut world = World::serving(plan(2));
    let stopped = world.serve()[1];
    world.happen(Event::Halted { from: stopped, signal: 19 });
    assert!(matches!(world.records.last(), Some(Record::Halted { signal: 19, killed_in: Some(HALT_TIME), .. })));
    world.pass(HALT_TIME - SECOND);
    assert_eq!(killed(&world), []);
    world.pass(SECOND);
    assert_eq!(killed(&world), [Killed::Halted]);
    world.run();
    assert_eq!(world.serve().len(), 2);
}

#[test]
fn a_stopped_mold_that_leaves_is_not_waited_for_as_long_as_its_workers() {
    let mut world = World::serving(Plan { graceful_timeout: 300 * SECOND, ..plan(1) });
    let (mold, worker) = (world.mold(), world.serve()[0]);
    world.happen(Event::Halted { from: mold, signal: 19 });
    world.order(Order::Stop);
    world.pass(HALT_TIME);
    assert_eq!(killed(&world), [Killed::NotStopped]);
    assert!(world.processes.contains_key(&worker), "it has its time");
}

#[test]
fn a_worker_that_is_continued_in_time_is_not_killed_then_or_later() {
    let mut world = World::serving(plan(1));
    let worker = world.serve()[0];
    // Asked before it was stopped: the answer comes when it goes on.
    world.processes.get_mut(&worker).unwrap().silent = true;
    world.pass(PING_EVERY);
    world.pass(ANSWER_TIME - 2 * SECOND);
    world.happen(Event::Halted { from: worker, signal: 19 });
    world.pass(HALT_TIME - SECOND);
    world.happen(Event::Continued { from: worker });
    world.processes.get_mut(&worker).unwrap().silent = false;
    world.say(worker, FromWorker::Pong { id: worker.0 });
    world.pass(10 * PING_EVERY);
    assert_eq!((world.serve(), killed(&world)), (vec![worker], vec![]));
}

#[test]
fn a_worker_that_is_stopped_while_it_boots_fails_the_boot() {
    let mut world = World::begin(Purpose::Serve, plan(1));
    world.step(world.workers(|_| true).first().copied().unwrap_or(super::event::Serial(1)));
    world.step(super::event::Serial(1));
    let worker = world.workers(|fake| fake.doing == Doing::Born)[0];
    world.step(worker);
    world.happen(Event::Halted { from: worker, signal: 20 });
    world.pass(HALT_TIME);
    world.run();
    let fault = world.records.iter().find_map(|record| match record {
        Record::NotStarted { fault, .. } => Some(fault.message.clone()),
        _ => None,
    });
    assert!(fault.unwrap().contains("was stopped while it booted"));
}

#[test]
fn an_arbiter_that_did_not_run_kills_nobody_for_what_it_missed() {
    let mut world = World::serving(plan(3));
    for worker in world.serve() {
        world.processes.get_mut(&worker).unwrap().silent = true;
    }
    let before = world.serve();
    world.pass(PING_EVERY);
    // All answers are in the channels when it goes on, and are read one by one.
    world.sleep(1000 * SECOND);
    for worker in &before {
        world.processes.get_mut(worker).unwrap().silent = false;
        world.say(*worker, FromWorker::Pong { id: worker.0 });
    }
    world.pass(10 * PING_EVERY);
    assert_eq!((world.serve(), killed(&world)), (before, vec![]));
    assert!(world.records.iter().any(|record| matches!(record, Record::WasLate { by } if by.as_secs() == 980)));
}

#[test]
fn a_retirement_and_a_boot_that_the_arbiter_slept_through_are_not_overdue() {
    let mut world = World::serving(plan(1));
    world.order(Order::Reload);
    world.step(world.mold());
    world.sleep(1000 * SECOND);
    assert_eq!(killed(&world), []);
    world.run();
    assert!(world.records.iter().any(|record| matches!(record, Record::Serves { generation: 2, .. })));
    world.order(Order::Stop);
    world.sleep(1000 * SECOND);
    world.run();
    assert_eq!(killed(&world), []);
}

#[test]
fn workers_are_replaced_when_they_are_old_one_at_a_time_and_before_they_leave() {
    let lifetime = 600 * SECOND;
    let mut world = World::serving(Plan { lifetime: Some(lifetime), ..plan(3) });
    let first = world.serve();
    world.pass(lifetime - SECOND);
    assert_eq!(world.serve(), first);
    world.pass(lifetime / 10 + 2 * SECOND);
    assert_eq!(world.workers(|fake| fake.doing < Doing::Ready).len(), 1, "one at a time");
    assert_eq!(world.serve(), first, "and its predecessor serves until it is ready");
    world.run();
    assert_eq!(world.serve().len(), 3);
    assert!(world.serve().iter().all(|worker| !first.contains(worker)));
    assert_eq!(killed(&world), []);
}

#[test]
fn an_overgrown_worker_is_killed_at_once() {
    let mut world = World::serving(plan(2));
    let worker = world.serve()[0];
    world.say(worker, FromWorker::Overgrown { bytes: 1 << 40 });
    assert_eq!(killed(&world), [Killed::Overgrown]);
    world.run();
    assert_eq!(world.serve().len(), 2);
}

#[test]
fn a_death_is_recorded_with_what_was_found() {
    let mut world = World::serving(plan(1));
    let from = world.serve()[0];
    let findings = Findings {
        requests: vec![InFlight { text: "GET /x for 1.0 s".into(), id: String::new() }],
        connections: 1,
        out_of_memory: true,
        threads: Vec::new(),
    };
    let exit = Exit::Signal { signal: 9, core: false };
    world.processes.remove(&from);
    world.happen(Event::Exited { from, exit, findings: findings.clone() });
    let told =
        world.records.iter().any(|record| matches!(record, Record::WorkerDied { findings: f, .. } if *f == findings));
    assert!(told);
}

//! The decisions, told as stories in a world without processes, and held against whatever that world does.

use super::action::{Notice, Outcome};
use super::decide::{Life, Purpose};
use super::event::{Event, Exit, Order, Plan, Serial};
use super::generation::MOST_BOOTING;
use super::record::Record;
use super::world::{Doing, World, plan};
use proptest::prelude::*;
use rgunicorn_protocol::{BootFaultKind, FromWorker};
use std::time::Duration;

const KILLED: Exit = Exit::Signal { signal: 9, core: false };

fn generations(world: &World) -> Vec<u32> {
    world.serve().iter().map(|serial| world.processes[serial].generation).collect()
}

fn count(world: &World, wanted: impl Fn(&Record) -> bool) -> usize {
    world.records.iter().filter(|record| wanted(record)).count()
}

#[test]
fn ready_is_said_once_and_only_when_all_workers_serve() {
    let mut world = World::begin(Purpose::Serve, plan(3));
    while !world.notices.contains(&Notice::Ready) {
        assert!(world.serve().is_empty(), "nothing is promoted before all are ready");
        let serial = *world.processes.iter().find(|(_, f)| f.doing < Doing::Ready).unwrap().0;
        world.step(serial);
    }
    assert_eq!(world.serve().len(), 3);
    assert_eq!(
        world.state.deadline(world.now),
        world.state.ping_at,
        "an instance at rest wakes up for its pings alone"
    );
    assert_eq!(world.state.status(), "Generation 1 serves with 3 workers");
}

#[test]
fn recycling_waits_while_as_many_workers_leave_as_serve() {
    let mut world = World::serving(plan(2));
    let mut leaving = Vec::new();
    for _ in 0..10 {
        let Some(oldest) = world.serve().first().copied() else { break };
        world.say(oldest, FromWorker::Recycle { reason: "it is old".into() });
        // Nobody who leaves gets to its end.
        for _ in 0..20 {
            let next = world.processes.iter().find(|(_, fake)| fake.mold.is_some() && fake.doing < Doing::Promoted);
            let Some(serial) = next.map(|(serial, _)| *serial) else { break };
            world.step(serial);
        }
        leaving.push(world.processes.len());
    }
    assert_eq!(leaving.iter().max(), Some(&5), "the mold, two that serve, two that leave");
}

#[test]
fn many_workers_boot_a_few_at_a_time_so_that_their_orders_fit_into_the_channel() {
    let mut world = World::begin(Purpose::Serve, plan(500));
    let mut most = 0;
    while !world.notices.contains(&Notice::Ready) {
        let booting = |world: &World| world.processes.values().filter(|fake| fake.doing < Doing::Ready).count();
        most = most.max(booting(&world));
        let serial = *world.processes.iter().find(|(_, f)| f.doing < Doing::Ready).unwrap().0;
        world.step(serial);
    }
    assert_eq!(world.serve().len(), 500);
    assert_eq!(most, MOST_BOOTING);
}

#[test]
fn workers_whose_boot_was_called_off_keep_their_room_in_the_channel_until_they_are_gone() {
    let mut world = World::serving(plan(1));
    for _ in 0..10 {
        world.order(Order::Scale(200));
        world.order(Order::Scale(1));
    }
    assert_eq!(world.processes.len(), 2 + MOST_BOOTING, "the mold, the worker that serves, and those");
    world.order(Order::Scale(200));
    world.run();
    assert_eq!(world.serve().len(), 200);
}

#[test]
fn an_application_that_cannot_boot_ends_the_instance_with_one_record() {
    let mut world = World::begin(Purpose::Serve, plan(3));
    world.step(Serial(1));
    world.step(Serial(1));
    let workers = world.workers(|_| true);
    for worker in &workers {
        world.step(*worker);
    }
    for worker in workers {
        world.fault(worker);
    }
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Fault(BootFaultKind::Import)));
    assert_eq!(count(&world, |record| matches!(record, Record::NotStarted { .. })), 1);
    assert!(world.processes.is_empty());
}

#[test]
fn settings_or_listeners_that_fail_end_the_instance_before_anything_runs() {
    let mut world = World::begin(Purpose::Serve, plan(1));
    assert_eq!(world.outcome, None);
    let mut failing = World::begin(Purpose::Serve, plan(1));
    failing.order(Order::StopNow);
    failing.run();
    assert_eq!(failing.outcome, Some(Outcome::Clean));
    world.order(Order::Stop);
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Clean));
}

#[test]
fn a_worker_that_dies_is_replaced_at_once_and_nobody_else_notices() {
    let mut world = World::serving(plan(3));
    world.pass(Duration::from_secs(5));
    let before = world.serve();
    world.die(before[1], KILLED);
    world.run();
    let after = world.serve();
    assert_eq!(after.len(), 3);
    assert_eq!((after[0], after[1]), (before[0], before[2]));
    assert_eq!(world.processes[&after[2]].slot, 2);
}

#[test]
fn workers_that_boot_and_die_at_once_are_tried_ever_more_slowly_and_status_says_so() {
    let mut world = World::serving(plan(1));
    let start = world.now;
    for _ in 0..12 {
        let worker = loop {
            world.run();
            match world.serve().first() {
                Some(worker) => break *worker,
                None => assert!(world.wait()),
            }
        };
        world.die(worker, KILLED);
    }
    assert!(world.now - start > Duration::from_secs(60), "{:?}", world.now - start);
    assert!(world.state.status().contains("failures in a row"), "{}", world.state.status());
}

#[test]
fn one_worker_at_a_time_is_tried_while_boots_fail() {
    let mut world = World::serving(plan(4));
    for worker in world.serve() {
        world.die(worker, KILLED);
    }
    for _ in 0..10 {
        world.wait();
        for worker in world.workers(|fake| fake.doing == Doing::Born) {
            world.step(worker);
            world.fault(worker);
        }
    }
    world.wait();
    assert_eq!(world.workers(|_| true).len(), 1);
    world.run();
    assert_eq!(world.serve().len(), 4, "the first that succeeds lets the others follow");
}

#[test]
fn a_reload_promotes_the_new_generation_whole_and_retires_the_old() {
    let mut world = World::serving(plan(2));
    world.order(Order::Reload);
    assert_eq!(generations(&world), [1, 1]);
    world.run();
    assert_eq!(generations(&world), [2, 2]);
    assert_eq!(world.notices.iter().filter(|notice| **notice != Notice::Extend(Duration::from_secs(30))).count(), 3);
    assert_eq!(world.state.deadline(world.now), world.state.ping_at);
}

#[test]
fn a_reload_that_fails_in_any_way_leaves_the_old_generation_alone() {
    type Failure = (&'static str, fn(&mut World));
    let failures: [Failure; 5] = [
        ("settings", |world| {
            world.plan = Err("workers: \"x\" is not a number".into());
            world.order(Order::Reload);
            world.plan = Ok(plan(2));
        }),
        ("import", |world| {
            world.order(Order::Reload);
            world.step(Serial(4));
            world.step(Serial(4));
            world.step(Serial(5));
            world.fault(Serial(5));
        }),
        ("mold", |world| {
            world.order(Order::Reload);
            world.fault(Serial(4));
        }),
        ("exit", |world| {
            world.order(Order::Reload);
            world.step(Serial(4));
            world.step(Serial(4));
            world.step(Serial(5));
            world.die(Serial(5), Exit::Code(7));
        }),
        ("hang", |world| {
            world.order(Order::Reload);
            world.step(Serial(4));
            world.step(Serial(4));
            world.step(Serial(5));
            world.pass(Duration::from_secs(61));
        }),
    ];
    for ((name, fail), rolling) in failures.into_iter().flat_map(|failure| [(failure, false), (failure, true)]) {
        let mut world = World::serving(Plan { rolling, ..plan(2) });
        let before = world.serve();
        fail(&mut world);
        world.run();
        assert_eq!(world.serve(), before, "{name}");
        assert_eq!(world.processes.len(), 3, "{name}: nothing is left of the new generation");
        assert!(world.state.status().starts_with("Reload failed: "), "{name}");
        assert!(world.state.status().ends_with("; generation 1 still serves with 2 workers"), "{name}");
        assert_eq!(world.notices.last(), Some(&Notice::Ready), "{name}");
        world.order(Order::Reload);
        world.run();
        assert_eq!(world.serve().len(), 2, "{name}");
        assert!(!world.state.status().contains("failed"), "{name}");
    }
}

#[test]
fn reloads_during_a_reload_are_folded_into_one_more() {
    let mut world = World::serving(plan(1));
    for _ in 0..5 {
        world.order(Order::Reload);
    }
    world.run();
    assert_eq!(generations(&world), [3]);
}

#[test]
fn a_stop_during_a_reload_is_obeyed_at_once() {
    let mut world = World::serving(plan(2));
    world.order(Order::Reload);
    world.step(Serial(4));
    world.order(Order::Stop);
    assert_eq!(world.workers(|fake| fake.doing == Doing::Leaving).len(), 2);
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Clean));
}

#[test]
fn a_graceful_stop_kills_whoever_outlives_its_time_and_a_second_order_hastens() {
    let mut world = World::serving(plan(1));
    let begin = world.now;
    world.order(Order::Stop);
    let stuck = world.workers(|fake| fake.doing == Doing::Leaving);
    while world.workers(|fake| fake.doing == Doing::Killed).is_empty() {
        assert!(world.wait());
    }
    let took = world.now - begin;
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(33), "{took:?}");
    world.die(stuck[0], KILLED);
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Clean));

    let mut world = World::serving(plan(1));
    let begin = world.now;
    world.order(Order::Stop);
    world.order(Order::Stop);
    while world.workers(|fake| fake.doing == Doing::Killed).is_empty() {
        assert!(world.wait());
    }
    assert!(world.now - begin <= Duration::from_secs(2));
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Clean));
}

#[test]
fn in_a_graceful_stop_the_mold_has_as_much_time_as_the_workers() {
    let mut world = World::serving(plan(1));
    let (mold, begin) = (world.mold(), world.now);
    world.order(Order::Stop);
    // Hundreds of workers that end may leave it no processor time.
    while world.processes[&mold].doing != Doing::Killed {
        assert!(world.wait());
    }
    let took = world.now - begin;
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(33), "{took:?}");
}

#[test]
fn an_interpreter_that_ends_before_it_has_spoken_may_be_no_python() {
    for (hello, hint) in [(false, true), (true, false)] {
        let mut world = World::begin(Purpose::Serve, plan(1));
        let mold = *world.processes.keys().next().unwrap();
        if hello {
            world.step(mold);
        }
        world.die(mold, Exit::Code(0));
        let told = world.records.iter().find_map(|record| match record {
            Record::NotStarted { fault, .. } => Some(fault.message.clone()),
            _ => None,
        });
        assert_eq!(told.is_some_and(|message| message.contains("is `python` a working CPython?")), hint);
    }
}

#[test]
fn the_number_of_workers_survives_a_reload_unless_the_setting_changed() {
    let mut world = World::serving(plan(2));
    world.order(Order::ScaleBy(1));
    world.order(Order::ScaleBy(1));
    world.run();
    assert_eq!(world.serve().len(), 4);
    world.order(Order::Reload);
    world.run();
    assert_eq!(world.serve().len(), 4);
    world.plan = Ok(plan(3));
    world.order(Order::Reload);
    let mold = world.processes.iter().find(|(_, fake)| fake.generation == 3 && fake.mold.is_none());
    let mold = *mold.unwrap().0;
    world.fault(mold);
    world.plan = Ok(plan(2));
    world.order(Order::Reload);
    world.run();
    assert_eq!(world.serve().len(), 4, "a reload that has failed has changed nothing");
    world.plan = Ok(plan(3));
    world.order(Order::Reload);
    world.run();
    assert_eq!(world.serve().len(), 3);
    for _ in 0..5 {
        world.order(Order::ScaleBy(-1));
    }
    world.run();
    assert_eq!(world.serve().len(), 1);
    assert_eq!(count(&world, |record| *record == Record::NotScaled), 3);
}

#[test]
fn an_order_for_more_during_a_reload_with_fewer_workers_takes_none_from_the_generation_that_serves() {
    let mut world = World::serving(plan(4));
    world.plan = Ok(plan(2));
    world.order(Order::Reload);
    world.order(Order::ScaleBy(1));
    let mold = world.processes.iter().find(|(_, fake)| fake.generation == 2 && fake.mold.is_none());
    let mold = *mold.unwrap().0;
    assert_eq!(world.serve().len(), 4);
    world.fault(mold);
    world.run();
    assert_eq!(world.serve().len(), 5, "what was ordered holds although the reload has failed");
    world.order(Order::Reload);
    world.order(Order::ScaleBy(1));
    world.run();
    assert_eq!(world.serve().len(), 3);
}

#[test]
fn recycling_is_one_at_a_time_and_the_replacement_serves_before_the_old_worker_goes() {
    let mut world = World::serving(plan(3));
    let before = world.serve();
    for worker in &before {
        world.say(*worker, FromWorker::Recycle { reason: "it is old".into() });
    }
    while before.iter().any(|worker| world.processes.contains_key(worker)) {
        assert!(world.serve().len() >= 3);
        assert!(world.workers(|fake| fake.doing < Doing::Promoted).len() <= 1);
        let next = world
            .processes
            .iter()
            .find(|(_, f)| f.doing != Doing::Promoted && (f.mold.is_some() || f.doing != Doing::Ready));
        let next = *next.unwrap().0;
        world.step(next);
    }
    world.run();
    let slots: Vec<u32> = world.serve().iter().map(|serial| world.processes[serial].slot).collect();
    assert_eq!(slots, [1, 2, 3]);
}

#[test]
fn a_dead_mold_is_replaced_in_its_generation() {
    let mut world = World::serving(plan(2));
    world.pass(Duration::from_secs(5));
    let before = world.serve();
    world.die(world.mold(), KILLED);
    world.die(before[0], KILLED);
    world.run();
    assert_eq!(generations(&world), [1, 1]);
    assert!(world.serve().contains(&before[1]));
}

#[test]
fn a_dead_preloading_mold_is_replaced_with_its_whole_generation() {
    let preload = Plan { preload: true, ..plan(2) };
    let mut world = World::serving(preload);
    world.die(world.mold(), KILLED);
    world.run();
    assert_eq!(generations(&world), [2, 2], "all workers run the same code");
}

#[test]
fn a_dead_preloading_mold_whose_code_is_broken_now_leaves_its_workers_serving() {
    let mut world = World::serving(Plan { preload: true, ..plan(2) });
    let before = world.serve();
    world.die(world.mold(), KILLED);
    let begin = world.now;
    for _ in 0..10 {
        let molds: Vec<Serial> =
            world.processes.iter().filter(|(_, f)| f.mold.is_none()).map(|(serial, _)| *serial).collect();
        for mold in molds {
            world.fault(mold);
        }
        assert!(world.wait());
    }
    assert_eq!(world.serve(), before);
    assert!(world.now - begin > Duration::from_secs(20), "it is tried ever more slowly");
}

#[test]
fn an_interpreter_that_is_hit_by_a_signal_meant_for_all_is_started_again() {
    let mut world = World::begin(Purpose::Serve, plan(1));
    world.die(Serial(1), Exit::Signal { signal: 1, core: false });
    world.run();
    assert_eq!(world.serve().len(), 1);
    let mut world = World::begin(Purpose::Serve, plan(1));
    for _ in 0..4 {
        if let Some(mold) = world.processes.keys().next_back().copied() {
            world.die(mold, Exit::Signal { signal: 1, core: false });
        }
        world.wait();
    }
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Fault(BootFaultKind::Import)), "but not for ever");
}

#[test]
fn a_check_boots_one_worker_and_promotes_nothing() {
    let mut world = World::begin(Purpose::Check, plan(4));
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Clean));
    assert_eq!(count(&world, |record| matches!(record, Record::Checked { .. })), 1);
    assert!(!world.notices.contains(&Notice::Ready));
}

#[test]
fn a_worker_that_does_not_read_is_killed_and_replaced() {
    let mut world = World::serving(plan(1));
    world.pass(Duration::from_secs(5));
    let deaf = world.serve()[0];
    world.processes.get_mut(&deaf).unwrap().deaf = true;
    world.order(Order::ReopenLogs);
    world.run();
    assert_eq!(world.serve().len(), 1);
    assert!(!world.serve().contains(&deaf));
}

#[test]
fn a_worker_whose_channel_ended_is_replaced_while_it_drains() {
    let mut world = World::serving(plan(1));
    let lost = world.serve()[0];
    world.happen(Event::Ended { from: lost });
    assert!(world.wait());
    world.run();
    assert_eq!(count(&world, |record| matches!(record, Record::ChannelClosed { .. })), 1);
    assert!(world.serve().iter().any(|serial| *serial != lost));
}

#[test]
fn a_boot_that_takes_long_is_reported_to_systemd_from_time_to_time() {
    let mut world = World::begin(Purpose::Serve, plan(1));
    for _ in 0..5 {
        world.wait();
    }
    let extensions = world.notices.iter().filter(|notice| matches!(notice, Notice::Extend(_))).count();
    assert!((4..=7).contains(&extensions), "{extensions}");
}

#[test]
fn a_stop_that_takes_long_is_reported_to_systemd_again_and_again_and_never_far_beyond_its_end() {
    let graceful_timeout = Duration::from_secs(120);
    let mut world = World::serving(Plan { graceful_timeout, ..plan(1) });
    world.notices.clear();
    world.order(Order::Stop);
    let end = world.now + graceful_timeout + super::process::MARGIN + super::process::DEATH_TIME;
    let mut covered = world.now;
    let mut told = 0;
    while world.outcome.is_none() {
        assert!(world.now <= covered || told == 0, "systemd would have killed it");
        for notice in std::mem::take(&mut world.notices) {
            if let Notice::Extend(time) = notice {
                told += 1;
                covered = covered.max(world.now + time);
                assert!(covered <= end + Duration::from_secs(10), "{told}");
            }
        }
        assert!(world.now <= end, "it does not end");
        world.wait();
    }
    assert!((12..=16).contains(&told), "{told}");
}

#[test]
fn an_upgrade_asks_first_then_the_next_program_goes_on_and_replaces_the_workers() {
    let mut world = World::serving(plan(2));
    world.order(Order::Upgrade);
    assert_eq!(count(&world, |record| matches!(record, Record::UpgradeBegins)), 1);
    assert_eq!(generations(&world), [1, 1], "nothing else happens until the answer comes");
    world.happen(Event::UpgradeChecked(Ok("0.0.2".into())));
    assert_eq!(count(&world, |record| matches!(record, Record::Upgraded { .. })), 1);
    assert_eq!(generations(&world), [1, 1], "workers serve on");
    world.run();
    assert_eq!(generations(&world), [2, 2]);
    assert_eq!(count(&world, |record| matches!(record, Record::WorkerDied { .. })), 0);
}

#[test]
fn a_program_that_cannot_take_over_or_does_not_answer_is_not_executed() {
    let mut world = World::serving(plan(2));
    world.order(Order::Upgrade);
    world.happen(Event::UpgradeChecked(Err("it exited with status 1".into())));
    world.order(Order::Upgrade);
    world.wait();
    world.happen(Event::UpgradeChecked(Ok("too late".into())));
    world.run();
    assert_eq!(count(&world, |record| matches!(record, Record::UpgradeRefused { .. })), 2);
    assert_eq!(count(&world, |record| matches!(record, Record::Upgraded { .. })), 0);
    assert_eq!(generations(&world), [1, 1]);
}

#[test]
fn a_reload_that_was_ordered_just_before_the_next_program_could_not_be_executed_is_not_forgotten() {
    let mut world = World::serving(plan(2));
    world.order(Order::Upgrade);
    let _ = world.state.handle_event(Event::UpgradeChecked(Ok("0.0.2".into())), world.now);
    world.order(Order::Reload);
    assert_eq!(count(&world, |record| matches!(record, Record::ReloadBegins { .. })), 0);
    world.happen(Event::UpgradeChecked(Err("it is gone".into())));
    world.run();
    assert_eq!(generations(&world), [2, 2]);
}

#[test]
fn an_upgrade_waits_for_the_end_of_a_reload_and_a_stop_ends_it() {
    let mut world = World::serving(plan(2));
    world.order(Order::Reload);
    world.order(Order::Upgrade);
    assert_eq!(count(&world, |record| matches!(record, Record::UpgradeBegins)), 0);
    world.run();
    assert_eq!(generations(&world), [2, 2]);
    assert_eq!(count(&world, |record| matches!(record, Record::UpgradeBegins)), 1);
    world.order(Order::Stop);
    world.happen(Event::UpgradeChecked(Ok("0.0.2".into())));
    world.run();
    assert_eq!(world.outcome, Some(Outcome::Clean));
    assert_eq!(count(&world, |record| matches!(record, Record::Upgraded { .. })), 0);
}

#[test]
fn workers_of_the_module_before_the_upgrade_are_still_forked_by_their_mold() {
    let mut world = World::serving(plan(1));
    world.order(Order::Upgrade);
    world.plan = Err("broken settings".into());
    world.happen(Event::UpgradeChecked(Ok("0.0.2".into())));
    let worker = world.serve()[0];
    world.die(worker, KILLED);
    world.run();
    assert_eq!(generations(&world), [1], "the reload has failed, the old mold goes on");
}

/// Something that the world does.
#[derive(Debug, Clone)]
enum Deed {
    Order(Order),
    /// So many workers, or a mistake.
    Settings(Option<u32>),
    Step(usize),
    Fault(usize),
    Die(usize),
    Deafen(usize),
    Lose(usize),
    Recycle(usize),
    Halt(usize),
    Continue(usize),
    Sleep,
    Wait,
    /// The program that was asked whether it can take over.
    Answer(bool),
}

fn deed() -> impl Strategy<Value = Deed> {
    let order = prop_oneof![
        Just(Order::Reload),
        Just(Order::ReopenLogs),
        Just(Order::ScaleBy(1)),
        Just(Order::ScaleBy(-1)),
        Just(Order::Upgrade),
    ];
    prop_oneof![
        2 => order.prop_map(Deed::Order),
        1 => proptest::option::of(1..=5_u32).prop_map(Deed::Settings),
        20 => any::<usize>().prop_map(Deed::Step),
        1 => any::<usize>().prop_map(Deed::Fault),
        2 => any::<usize>().prop_map(Deed::Die),
        1 => any::<usize>().prop_map(Deed::Deafen),
        1 => any::<usize>().prop_map(Deed::Lose),
        2 => any::<usize>().prop_map(Deed::Recycle),
        1 => any::<usize>().prop_map(Deed::Halt),
        1 => any::<usize>().prop_map(Deed::Continue),
        1 => Just(Deed::Sleep),
        3 => Just(Deed::Wait),
        2 => any::<bool>().prop_map(Deed::Answer),
    ]
}

fn pick(world: &World, index: usize) -> Option<Serial> {
    let all: Vec<Serial> = world.processes.keys().copied().collect();
    (!all.is_empty()).then(|| all[index % all.len()])
}

fn act(world: &mut World, deed: &Deed, usual: &Plan) {
    match deed {
        Deed::Order(order) => world.order(*order),
        Deed::Settings(workers) => {
            let plan = workers.map(|workers| Plan { workers, ..usual.clone() });
            world.plan = plan.ok_or_else(|| "no".into());
        }
        Deed::Wait => {
            world.wait();
        }
        Deed::Answer(can) => {
            let answer = if *can { Ok("0.0.2".into()) } else { Err("no".into()) };
            world.happen(Event::UpgradeChecked(answer));
        }
        Deed::Sleep => world.sleep(Duration::from_secs(100)),
        Deed::Step(index)
        | Deed::Halt(index)
        | Deed::Continue(index)
        | Deed::Fault(index)
        | Deed::Die(index)
        | Deed::Deafen(index)
        | Deed::Lose(index)
        | Deed::Recycle(index) => {
            let Some(serial) = pick(world, *index) else { return };
            let doing = world.processes[&serial].doing;
            match deed {
                Deed::Step(_) => {
                    world.step(serial);
                }
                Deed::Fault(_) if matches!(doing, Doing::Importing) => world.fault(serial),
                Deed::Die(_) => world.die(serial, KILLED),
                Deed::Deafen(_) => world.processes.get_mut(&serial).unwrap().deaf = true,
                Deed::Lose(_) if doing != Doing::Born => {
                    world.processes.get_mut(&serial).unwrap().deaf = true;
                    world.happen(Event::Ended { from: serial });
                }
                Deed::Halt(_) => world.happen(Event::Halted { from: serial, signal: 19 }),
                Deed::Continue(_) => world.happen(Event::Continued { from: serial }),
                Deed::Recycle(_) => world.say(serial, FromWorker::Recycle { reason: "it is old".into() }),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The world asserts what must hold at each step; here is what must hold in the end.
    #[test]
    fn whatever_happens_the_instance_recovers_and_whatever_happens_it_stops(
        preload: bool,
        rolling: bool,
        deeds in proptest::collection::vec(deed(), 0..120),
        quick: bool,
    ) {
        let usual = Plan { preload, rolling, ..plan(3) };
        let mut world = World::begin(Purpose::Serve, usual.clone());
        for deed in &deeds {
            if world.outcome.is_some() {
                break;
            }
            act(&mut world, deed, &usual);
        }
        world.plan = Ok(usual);
        if world.outcome.is_none() {
            // From now on everything behaves well: in the end all slots serve, and nothing else is left.
            for _ in 0..200 {
                world.run();
                if world.outcome.is_some() || !world.wait() {
                    break;
                }
            }
            if world.outcome.is_none() {
                prop_assert_eq!(world.state.deadline(world.now), world.state.ping_at);
                prop_assert_eq!(&world.state.life, &Life::Serving);
                let slots = world.state.generations[0].slots.len();
                prop_assert_eq!(world.serve().len(), slots);
                prop_assert_eq!(world.state.generations.len(), 1);
                prop_assert_eq!(world.processes.len(), slots + 1);
            }
        }
        if world.outcome.is_none() {
            // Even if no process ever reacts again the end comes.
            world.order(if quick { Order::StopNow } else { Order::Stop });
            for _ in 0..50 {
                if world.outcome.is_some() {
                    break;
                }
                world.wait();
            }
        }
        prop_assert!(world.outcome.is_some());
    }

    /// Whoever waits for the end of a reload is told, also where the old generation cannot boot either.
    #[test]
    fn every_reload_ends_even_if_soon_no_worker_can_boot_any_more(
        preload: bool,
        rolling: bool,
        deeds in proptest::collection::vec(deed(), 0..40),
        boots in proptest::collection::vec(any::<bool>(), 0..12),
    ) {
        let usual = Plan { preload, rolling, ..plan(3) };
        let mut world = World::serving(usual.clone());
        for deed in &deeds {
            act(&mut world, deed, &usual);
        }
        let mut boots = boots.into_iter();
        // One that stands in for a dead mold is followed by another.
        let ends = |world: &World| world.notices.iter().filter(|notice| **notice == Notice::Ready).count();
        for _ in 0..6 {
            let before = ends(&world);
            world.order(Order::Reload);
            for _ in 0..200 {
                if world.state.reload.is_none() || ends(&world) > before {
                    break;
                }
                let mut moved = false;
                for serial in world.processes.keys().copied().collect::<Vec<Serial>>() {
                    let Some(fake) = world.processes.get(&serial) else { continue };
                    if fake.mold.is_some() && fake.doing == Doing::Importing && !boots.next().unwrap_or(false) {
                        world.fault(serial);
                        moved = true;
                    } else {
                        moved |= world.step(serial);
                    }
                }
                if !moved {
                    world.wait();
                }
            }
            prop_assert!(world.state.reload.is_none() || ends(&world) > before, "{:?}", world.state);
        }
    }
}

//! Rolling reloads, told as stories: worker by worker, and back.

use super::action::{Notice, Outcome};
use super::event::{Event, Exit, Order, Plan, Serial};
use super::record::Record;
use super::world::{Doing, World, plan};
use rgunicorn_protocol::FromWorker;
use std::time::Duration;

const KILLED: Exit = Exit::Signal { signal: 9, core: false };

fn rolling(workers: u32) -> Plan {
    Plan { rolling: true, ..plan(workers) }
}

/// An instance of so many workers that has served for a while.
fn serving(workers: u32) -> World {
    let mut world = World::serving(rolling(workers));
    world.pass(Duration::from_secs(5));
    world
}

fn count(world: &World, wanted: impl Fn(&Record) -> bool) -> usize {
    world.records.iter().filter(|record| wanted(record)).count()
}

/// The generation of who serves in each slot.
fn generations(world: &World) -> Vec<u32> {
    let mut held: Vec<(u32, u32)> =
        world.serve().iter().map(|serial| (world.processes[serial].slot, world.processes[serial].generation)).collect();
    held.sort_unstable();
    let slots: Vec<u32> = held.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots, (1..=u32::try_from(slots.len()).unwrap()).collect::<Vec<u32>>(), "one worker in each slot");
    held.iter().map(|(_, generation)| *generation).collect()
}

/// The next process that has something to do does it.
fn step(world: &mut World) -> bool {
    let moves = |doing: Doing| !matches!(doing, Doing::Ready | Doing::Promoted);
    let next = world.processes.iter().find(|(_, fake)| moves(fake.doing)).map(|(serial, _)| *serial);
    next.is_some_and(|serial| world.step(serial))
}

/// Lets everything behave well until nothing moves, with at least so many in service and at most one more alive.
fn roll(world: &mut World, workers: usize) {
    roll_between(world, workers, workers);
}

fn roll_between(world: &mut World, least: usize, most: usize) {
    while step(world) {
        assert!(world.serve().len() >= least, "{:?}", world.processes);
        assert!(world.workers(|_| true).len() <= most + 1, "{:?}", world.processes);
    }
}

/// Steps until so many workers of this generation serve.
fn until_served(world: &mut World, generation: u32, workers: usize) {
    while world.serve().iter().filter(|serial| world.processes[serial].generation == generation).count() < workers {
        assert!(step(world), "{:?}", world.records);
    }
}

/// The worker of this generation that boots.
fn booting(world: &mut World, generation: u32) -> Serial {
    loop {
        let found = world.workers(|fake| fake.generation == generation && fake.doing == Doing::Importing);
        match found.first() {
            Some(serial) => return *serial,
            None => assert!(step(world), "{:?}", world.records),
        }
    }
}

/// Four workers whose reload has failed at the third, and whose old generation imports the same broken release.
fn barred() -> World {
    let mut world = halfway();
    let again = booting(&mut world, 1);
    world.fault(again);
    world
}

/// Four workers whose reload has failed at the third.
fn halfway() -> World {
    let mut world = serving(4);
    world.order(Order::Reload);
    until_served(&mut world, 2, 2);
    let third = booting(&mut world, 2);
    world.fault(third);
    world
}

#[test]
fn worker_by_worker_the_new_generation_takes_over_and_there_is_never_more_than_one_more() {
    let mut world = serving(4);
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    assert_eq!(generations(&world), [2, 1, 1, 1]);
    assert_eq!(
        world.state.status(),
        "Generation 1 serves with 3 workers; generation 2 takes over, 1 of 4 workers so far"
    );
    roll(&mut world, 4);
    assert_eq!(generations(&world), [2, 2, 2, 2]);
    assert_eq!(world.processes.len(), 5, "four workers and one mold");
    assert_eq!(world.state.status(), "Generation 2 serves with 4 workers");
    assert_eq!(count(&world, |record| matches!(record, Record::Serves { generation: 2, .. })), 1);
    assert_eq!(count(&world, |record| matches!(record, Record::Rolled { .. })), 4);
    assert_eq!(world.notices.last(), Some(&Notice::Ready));
}

#[test]
fn a_new_worker_waits_until_the_old_one_is_gone_and_not_only_sent_away() {
    let mut world = serving(3);
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    let leaver = world.workers(|fake| fake.doing == Doing::Leaving)[0];
    world.pass(Duration::from_secs(20));
    assert_eq!(world.workers(|fake| fake.doing < Doing::Promoted).len(), 0, "it finishes what it has begun");
    world.die(leaver, Exit::Code(0));
    assert_eq!(world.workers(|fake| fake.doing < Doing::Promoted).len(), 1);
    roll(&mut world, 3);
    assert_eq!(generations(&world), [2, 2, 2]);
}

#[test]
fn a_failure_at_the_third_worker_brings_the_old_generation_back_and_nobody_is_missed() {
    let mut world = halfway();
    assert_eq!(count(&world, |record| matches!(record, Record::ReloadFailed { back: 2, .. })), 1);
    assert!(
        world.state.status().ends_with(
            "; generation 1 still serves with 2 of 3 workers; 2 workers of generation 2 serve until their places are taken back"
        ),
        "{}",
        world.state.status()
    );
    world.order(Order::Upgrade);
    assert_ne!(world.notices.last(), Some(&Notice::Ready), "the reload is over when it is undone");
    roll(&mut world, 4);
    assert_eq!(generations(&world), [1, 1, 1, 1]);
    assert_eq!(count(&world, |record| matches!(record, Record::RolledBack { serving: 1 })), 1);
    assert_eq!(count(&world, |record| matches!(record, Record::WorkerDied { .. } | Record::Killed { .. })), 0);
    assert_eq!(world.notices.last(), Some(&Notice::Ready));
    assert!(world.state.status().ends_with("; generation 1 still serves with 4 workers"), "{}", world.state.status());
    assert_eq!(count(&world, |record| matches!(record, Record::UpgradeBegins)), 1, "the upgrade has waited");
    assert_eq!(world.processes.len(), 5);
}

#[test]
fn new_workers_that_die_young_again_and_again_bring_the_old_generation_back() {
    let mut world = serving(2);
    world.order(Order::Reload);
    while count(&world, |record| matches!(record, Record::ReloadFailed { .. })) == 0 {
        match world.serve().iter().find(|serial| world.processes[serial].generation == 2) {
            Some(young) => {
                let young = *young;
                world.die(young, KILLED);
            }
            None => assert!(step(&mut world) || world.wait()),
        }
    }
    world.run();
    assert_eq!(generations(&world), [1, 1]);
}

#[test]
fn a_stop_in_the_middle_or_on_the_way_back_is_obeyed_at_once() {
    for fails in [false, true] {
        for order in [Order::Stop, Order::StopNow] {
            let mut world = serving(4);
            world.order(Order::Reload);
            until_served(&mut world, 2, 2);
            if fails {
                let third = booting(&mut world, 2);
                world.fault(third);
            }
            world.order(order);
            assert!(world.serve().is_empty());
            world.run();
            assert_eq!(world.outcome, Some(Outcome::Clean));
        }
    }
}

#[test]
fn the_number_of_workers_may_change_in_the_middle_and_on_the_way_back() {
    for (order, workers) in
        [(Order::ScaleBy(1), 5), (Order::ScaleBy(-1), 3), (Order::Scale(1), 1), (Order::Scale(7), 7)]
    {
        for (fails, generation) in [(false, 2), (true, 1)] {
            let mut world = serving(4);
            world.order(Order::Reload);
            until_served(&mut world, 2, 2);
            if fails {
                let third = booting(&mut world, 2);
                world.fault(third);
            }
            world.order(order);
            world.run();
            assert_eq!(generations(&world), vec![generation; workers]);
            assert_eq!(world.processes.len(), workers + 1);
        }
    }
}

#[test]
fn another_number_of_workers_in_the_settings_is_taken_up_and_undone() {
    for workers in [1, 2, 6] {
        let mut world = serving(4);
        world.plan = Ok(rolling(workers));
        world.order(Order::Reload);
        roll_between(&mut world, 4.min(workers as usize), 4.max(workers as usize));
        assert_eq!(generations(&world), vec![2; workers as usize]);

        let mut world = serving(4);
        world.plan = Ok(rolling(workers));
        world.order(Order::Reload);
        until_served(&mut world, 2, workers as usize - 1);
        let last = booting(&mut world, 2);
        world.fault(last);
        world.run();
        assert_eq!(generations(&world), [1, 1, 1, 1]);
        assert_eq!(world.processes.len(), 5);
    }
}

#[test]
fn places_that_only_the_new_generation_wants_are_given_up_without_cutting_a_request() {
    let mut world = serving(4);
    world.plan = Ok(rolling(6));
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    assert_eq!(generations(&world), [1, 1, 1, 1, 2]);
    let next = booting(&mut world, 2);
    world.fault(next);
    let surplus = world.workers(|fake| fake.generation == 2 && fake.doing == Doing::Leaving);
    assert_eq!(surplus.len(), 1);
    world.pass(Duration::from_secs(20));
    assert!(world.processes.contains_key(&surplus[0]), "it may finish what it has begun");
    world.run();
    assert_eq!(generations(&world), [1, 1, 1, 1]);
    assert_eq!(world.processes.len(), 5);
    assert_eq!(world.notices.last(), Some(&Notice::Ready));
}

#[test]
fn a_new_worker_that_leaves_for_another_reason_may_finish_when_the_reload_fails() {
    let mut world = serving(4);
    world.plan = Ok(rolling(6));
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    let new = world.serve().pop().unwrap();
    world.order(Order::Scale(4));
    assert_eq!(world.processes[&new].doing, Doing::Leaving);
    let mold = *world.processes.iter().find(|(_, fake)| fake.mold.is_none() && fake.generation == 2).unwrap().0;
    world.die(mold, KILLED);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.processes[&new].doing, Doing::Leaving, "it may finish what it has begun");
    world.run();
    assert_eq!(generations(&world), [1, 1, 1, 1]);
}

#[test]
fn while_the_setting_changes_another_order_counts_no_place_twice() {
    for (setting, order, workers) in [
        (6, Order::ScaleBy(1), 7),
        (6, Order::ScaleBy(-1), 5),
        (2, Order::ScaleBy(1), 3),
        (2, Order::ScaleBy(-1), 1),
        (6, Order::Scale(4), 4),
    ] {
        for served in 1..=workers.min(2) {
            for (fails, generation) in [(false, 2), (true, 1)] {
                let mut world = serving(4);
                world.plan = Ok(rolling(setting));
                world.order(Order::Reload);
                until_served(&mut world, 2, served.min(setting as usize - 1));
                while !world.workers(|fake| fake.doing == Doing::Leaving).is_empty() {
                    step(&mut world);
                }
                world.order(order);
                while world.workers(|_| true).len() > workers + 1 {
                    assert!(step(&mut world));
                }
                if fails && world.state.incoming().is_some() {
                    let next = booting(&mut world, 2);
                    world.fault(next);
                }
                roll_between(&mut world, workers.min(4), workers);
                if !fails || world.state.serving().unwrap().number == 1 {
                    assert_eq!(generations(&world), vec![generation; workers]);
                }
                assert_eq!(world.processes.len(), workers + 1);
            }
        }
    }
}

#[test]
fn a_reload_in_the_middle_follows_this_one_or_its_way_back() {
    for (fails, generation) in [(false, 3), (true, 3)] {
        let mut world = serving(3);
        world.order(Order::Reload);
        until_served(&mut world, 2, 1);
        world.order(Order::Reload);
        if fails {
            let second = booting(&mut world, 2);
            world.fault(second);
            world.order(Order::Reload);
        }
        roll(&mut world, 3);
        assert_eq!(generations(&world), [generation; 3]);
        assert!(!world.state.status().contains("failed"), "{}", world.state.status());
    }
}

#[test]
fn workers_that_die_in_the_middle_are_replaced_in_their_generation_and_the_reload_goes_on() {
    for victim in [1, 2] {
        let mut world = serving(4);
        world.order(Order::Reload);
        until_served(&mut world, 2, 2);
        world.pass(Duration::from_secs(2));
        let dead = world.serve().into_iter().rfind(|serial| world.processes[serial].generation == victim).unwrap();
        world.die(dead, KILLED);
        let next = world.workers(|fake| fake.doing < Doing::Promoted && fake.generation == victim);
        assert!(!next.is_empty(), "its mold forks another at once");
        world.run();
        assert_eq!(generations(&world), [2, 2, 2, 2]);
    }
}

#[test]
fn a_place_that_a_death_has_left_counts_as_held_before_the_next_turn() {
    let mut world = serving(4);
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    let old = *world.serve().iter().find(|serial| world.processes[serial].generation == 1).unwrap();
    world.die(old, KILLED);
    assert_eq!(world.workers(|_| true).len(), 5, "one that leaves and one that boots: {:?}", world.processes);
    roll_between(&mut world, 3, 4);
    assert_eq!(generations(&world), [2, 2, 2, 2]);

    let mut world = serving(4);
    world.order(Order::Reload);
    until_served(&mut world, 2, 3);
    world.die(world.serve().pop().unwrap(), KILLED);
    let again = booting(&mut world, 2);
    world.fault(again);
    roll_between(&mut world, 3, 4);
    assert_eq!(generations(&world), [1, 1, 1, 1]);
}

#[test]
fn a_receding_worker_that_dies_is_replaced_at_once_by_the_old_generation() {
    let mut world = serving(4);
    world.order(Order::Reload);
    until_served(&mut world, 2, 3);
    let fourth = booting(&mut world, 2);
    world.fault(fourth);
    for dead in world.serve() {
        if world.processes[&dead].generation == 2 {
            world.die(dead, KILLED);
        }
    }
    world.run();
    assert_eq!(generations(&world), [1, 1, 1, 1]);
    assert_eq!(world.notices.last(), Some(&Notice::Ready));
}

#[test]
fn an_old_worker_that_wants_to_be_replaced_has_the_next_turn() {
    let mut world = serving(4);
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    let third = world.serve().into_iter().find(|serial| world.processes[serial].slot == 3).unwrap();
    world.say(third, FromWorker::Recycle { reason: "it is old".into() });
    until_served(&mut world, 2, 2);
    assert_eq!(generations(&world), [2, 1, 2, 1]);
    roll(&mut world, 4);
    assert_eq!(generations(&world), [2, 2, 2, 2]);
}

#[test]
fn the_death_of_the_new_mold_in_the_middle_ends_the_reload_and_that_of_the_old_one_does_not() {
    for (generation, end) in [(2, 1), (1, 2)] {
        let mut world = serving(3);
        world.order(Order::Reload);
        until_served(&mut world, 2, 1);
        let molds = world.processes.iter().filter(|(_, fake)| fake.mold.is_none() && fake.generation == generation);
        let mold = *molds.map(|(serial, _)| serial).next().unwrap();
        world.die(mold, KILLED);
        world.run();
        assert_eq!(generations(&world), [end; 3]);
    }
}

#[test]
fn a_way_back_that_is_barred_ends_the_reload_and_the_next_one_takes_all_places() {
    for next in [rolling(4), plan(4)] {
        let mut world = barred();
        assert_eq!(count(&world, |record| matches!(record, Record::NotRolledBack { left: 2, .. })), 1);
        assert_eq!(world.notices.last(), Some(&Notice::Ready), "the reload is over");
        assert_eq!(world.serve().len(), 4, "two of each");
        for _ in 0..5 {
            world.wait();
            let again = booting(&mut world, 1);
            world.fault(again);
            assert_eq!(world.serve().len(), 4, "two of each");
        }
        world.plan = Ok(next);
        world.order(Order::Reload);
        world.run();
        assert_eq!(generations(&world), [3, 3, 3, 3]);
        assert_eq!(world.processes.len(), 5);
    }
}

#[test]
fn a_reload_during_a_try_to_go_back_goes_on_when_that_fails_too() {
    let mut world = barred();
    let again = booting(&mut world, 1);
    world.order(Order::Reload);
    world.fault(again);
    roll(&mut world, 4);
    assert_eq!(generations(&world), [3, 3, 3, 3]);
    assert_eq!(world.notices.last(), Some(&Notice::Ready));
}

#[test]
fn a_way_back_that_was_barred_is_gone_once_the_old_generation_can_boot() {
    let mut world = barred();
    while generations(&world) != [1, 1, 1, 1] {
        roll(&mut world, 4);
        assert!(world.wait());
    }
    assert_eq!(world.state.generations.len(), 1);
}

#[test]
fn a_reload_that_fails_without_its_old_preloading_mold_ends_in_one_generation() {
    let mut world = World::serving(Plan { preload: true, ..rolling(3) });
    let old = world.mold();
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    world.die(old, KILLED);
    let second = booting(&mut world, 2);
    world.fault(second);
    for _ in 0..20 {
        world.run();
        assert_eq!(world.serve().len(), 3);
        world.wait();
    }
    assert_eq!(count(&world, |record| matches!(record, Record::NotRolledBack { .. })), 1);
    assert_eq!(generations(&world), [3, 3, 3]);
    assert_eq!(world.processes.len(), 4);
}

#[test]
fn an_upgrade_waits_for_the_end_and_its_reload_rolls_too() {
    let mut world = serving(3);
    world.order(Order::Reload);
    until_served(&mut world, 2, 1);
    world.order(Order::Upgrade);
    roll(&mut world, 3);
    assert_eq!(generations(&world), [2, 2, 2]);
    world.happen(Event::UpgradeChecked(Ok("0.0.2".into())));
    roll(&mut world, 3);
    assert_eq!(generations(&world), [3, 3, 3]);
}

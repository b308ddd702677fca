//! Repair: one step at a time, each followed by a retest, and a human when none is left.

use reeve_lifecycle::input::{Reason, VmInput};
use reeve_lifecycle::operation::Operation;
use reeve_lifecycle::policy::{ProbeKind, RepairPolicy, RepairStep};
use reeve_lifecycle::record::{Health, Hold};
use reeve_lifecycle::{Done, Effect, Outcome, ProbeVerdict};
use reeve_protocol::command::{CommandKind, RefusalCode, Switch};
use reeve_protocol::event::Alert;
use reeve_protocol::observation::VmState;

use crate::common::*;

fn hang(world: &mut World) {
    world.guest_is_up = false;
    for _ in 0..3 {
        world.probe(false);
    }
}

fn hung(repair: RepairPolicy) -> World {
    let mut world = World::created(with_repair(repair));
    hang(&mut world);
    world
}

fn ladder() -> RepairPolicy {
    RepairPolicy { ladder: vec![RepairStep::HardReboot, RepairStep::Relaunch], ..RepairPolicy::default() }
}

fn reboots(world: &World) -> usize {
    world.times(|effect| *effect == Effect::HardReboot)
}

#[test]
fn a_vm_that_is_down_is_rebooted_then_given_time_to_boot_then_the_probe_that_failed_is_asked_again() {
    let mut world = hung(RepairPolicy::default());
    assert_eq!(world.effect(), Effect::HardReboot);
    world.done();
    let since = world.now;
    assert!(world.work().is_none());
    assert_eq!((world.wake(), world.now), (Reason::Retest, since + secs(60)));
    assert_eq!(world.effect(), Effect::Retest { probe: ProbeKind::GuestAgent, timeout: secs(5) });
    world.guest_is_up = true;
    world.done();
    assert_eq!((world.rec.health.clone(), world.count("repair.succeeded")), (Health::Up, 1));
    assert_eq!(world.rec.repairs.boot_time, secs(60));
}

#[test]
fn a_boot_is_waited_for_no_longer_than_the_policy_says_then_a_human_is_told_once() {
    let mut world = hung(RepairPolicy::default());
    let since = world.now;
    world.finish();
    assert!(world.now.since(since) >= secs(600).duration() && world.now.since(since) < secs(700).duration());
    assert!(matches!(world.rec.health, Health::NeedsOperator { .. }));
    assert_eq!((world.raised(Alert::RepairExhausted), reboots(&world)), (1, 1));
    for _ in 0..5 {
        world.pass(hours(1));
        hang(&mut world);
    }
    assert_eq!((world.raised(Alert::RepairExhausted), reboots(&world)), (1, 1));
    world.probe(true);
    world.probe(true);
    assert!(world.rec.alerts.is_empty());
}

#[test]
fn the_next_step_is_the_next_of_the_ladder_and_relaunch_uses_the_latest_verified_backup() {
    let mut world = World::created(with_repair(ladder()));
    world.back_up();
    world.pass(secs(60));
    let backup = world.back_up();
    hang(&mut world);
    world.done_until(|effect| matches!(effect, Effect::RestoreInPlace { .. }));
    assert_eq!(world.effect(), Effect::RestoreInPlace { backup });
    world.guest_is_up = true;
    world.finish();
    assert_eq!((world.count("repair.succeeded"), world.count("repair.step-finished")), (1, 2));
}

#[test]
fn a_step_that_cannot_be_tried_is_passed_over() {
    let mut world = hung(ladder());
    world.finish();
    assert_eq!((world.count("repair.step-started"), world.count("repair.exhausted")), (1, 1));
}

#[test]
fn every_step_is_followed_by_a_retest_even_one_that_had_no_effect_or_no_answer() {
    for outcome in [Outcome::NotApplied { reason: "no".into() }, Outcome::Unknown { reason: "timed out".into() }] {
        let mut world = hung(RepairPolicy::default());
        world.answer(outcome);
        if world.work().is_none() {
            world.wake();
        }
        assert!(matches!(world.effect(), Effect::Retest { .. }));
        assert_eq!(reboots(&world), 1);
    }
}

#[test]
fn a_retest_without_judgement_fails_no_step() {
    let mut world = hung(RepairPolicy::default());
    world.done();
    for _ in 0..50 {
        world.wake();
        world.answer(Outcome::Done(Done::Probed(ProbeVerdict::Inconclusive { why: "network".into() })));
    }
    assert_eq!(world.count("repair.exhausted"), 0);
    world.guest_is_up = true;
    world.finish();
    assert_eq!(world.rec.health, Health::Up);
}

#[test]
fn between_two_episodes_there_is_a_cool_down_and_the_second_hang_is_repaired_too() {
    let mut world = hung(RepairPolicy::default());
    world.guest_is_up = true;
    world.finish();
    let ended = world.now;
    hang(&mut world);
    assert!(world.work().is_none());
    assert_eq!((world.wake(), world.now), (Reason::RepairDue, ended + secs(600)));
    assert_eq!(world.effect(), Effect::HardReboot);
}

#[test]
fn a_clock_set_back_does_not_lengthen_the_cool_down() {
    let mut world = hung(RepairPolicy::default());
    world.guest_is_up = true;
    world.finish();
    world.now = world.now - days(300);
    hang(&mut world);
    assert_eq!(world.effect(), Effect::HardReboot);
}

#[test]
fn episodes_are_capped_per_day_and_a_human_is_told() {
    let mut world =
        World::created(with_repair(RepairPolicy { max_per_day: 2, cooldown: secs(1), ..RepairPolicy::default() }));
    for _ in 0..3 {
        world.pass(secs(60));
        hang(&mut world);
        world.guest_is_up = true;
        world.finish();
    }
    assert_eq!((reboots(&world), world.raised(Alert::RepairHeld)), (2, 1));
    world.pass(days(1));
    world.probe(false);
    assert_eq!(reboots(&world), 3);
}

#[test]
fn a_vm_that_may_not_be_repaired_is_told_of_once() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::RepairSuspend(Switch::On)).unwrap();
    hang(&mut world);
    world.pass(hours(1));
    assert_eq!((reboots(&world), world.raised(Alert::RepairHeld)), (0, 1));
    world.ask(user("alice"), CommandKind::RepairSuspend(Switch::Off)).unwrap();
    assert_eq!((reboots(&world), world.rec.alerts.len()), (1, 0));
}

#[test]
fn a_held_vm_is_not_repaired_and_a_hold_in_the_middle_stops_the_next_step() {
    let mut world = World::created(with_repair(ladder()));
    world.back_up();
    world.input(VmInput::HoldRaised(Hold::CloudUnreadable));
    hang(&mut world);
    assert_eq!(reboots(&world), 0);
    world.input(VmInput::HoldLifted(Hold::CloudUnreadable));
    assert_eq!(world.effect(), Effect::HardReboot);
    world.done();
    world.input(VmInput::HoldRaised(Hold::CloudUnreadable));
    world.finish();
    assert_eq!(world.times(|effect| matches!(effect, Effect::RestoreInPlace { .. })), 0);
    world.input(VmInput::HoldLifted(Hold::CloudUnreadable));
    world.wake();
    assert_eq!(reboots(&world), 2, "still down: another episode");
}

#[test]
fn a_repair_gives_way_to_an_owner_who_stops_or_soft_deletes_the_vm() {
    for state in [VmState::Stopped, VmState::SoftDeleted] {
        let mut world = World::created(with_repair(ladder()));
        world.back_up();
        hang(&mut world);
        world.done();
        world.becomes(state);
        world.finish();
        world.pass(hours(2));
        assert_eq!(world.times(|effect| matches!(effect, Effect::RestoreInPlace { .. })), 0);
        assert_eq!((reboots(&world), world.count("alert.raised")), (1, 0), "{state:?}");
    }
}

#[test]
fn a_vm_that_its_owner_deletes_in_the_middle_of_a_repair_is_repaired_no_more() {
    for done in 0..3 {
        let mut world = hung(RepairPolicy::default());
        for _ in 0..done {
            if world.work().is_none() {
                world.wake();
            }
            world.done();
        }
        world.vanish();
        assert!(world.rec.operation.is_none() && world.work().is_none());
        assert!(world.rec.alerts.is_empty());
    }
}

#[test]
fn a_repair_survives_a_crash_and_reboots_once() {
    let mut world = hung(RepairPolicy::default());
    let key = world.work().unwrap().key;
    world.crash();
    assert_eq!(world.work().unwrap().key, key);
    world.done();
    world.crash();
    assert!(world.work().is_none());
    world.wake();
    world.crash();
    world.guest_is_up = true;
    world.finish();
    assert_eq!((reboots(&world), world.rec.health.clone()), (1, Health::Up));
}

#[test]
fn a_repair_on_request_is_for_a_vm_that_is_meant_to_run_and_waits_for_nobody_elses_operation() {
    let mut world = World::created(policy());
    world.becomes(VmState::Stopped);
    assert_eq!(world.ask(user("alice"), CommandKind::RepairRun).unwrap_err().code, RefusalCode::Conflict);
    world.becomes(VmState::Active);
    world.ask(user("alice"), CommandKind::RepairRun).unwrap();
    assert!(matches!(world.rec.operation, Some(Operation::Repair(_))));
    assert_eq!(world.ask(user("alice"), CommandKind::RepairRun).unwrap_err().code, RefusalCode::Conflict);
}

//! Holds: what makes the end wait, without losing it.

use reeve_lifecycle::input::VmInput;
use reeve_lifecycle::operation::{EndingNext, EndingStep, Operation};
use reeve_lifecycle::policy::LeasePolicy;
use reeve_lifecycle::record::{Hold, Lease, LeasePhase};
use reeve_lifecycle::{Effect, Outcome, Policy, next_deadline};
use reeve_protocol::command::{CommandKind, Switch};
use reeve_protocol::observation::{Phase, VmChange, VmFacts, VmState};

use crate::common::*;

fn hold(world: &mut World, hold: Hold, on: bool) {
    match hold {
        Hold::Locked => {
            world.now = world.now + secs(1);
            let facts = VmFacts { locked: Some(on), ..facts(world.rec.facts.state) };
            world.notify(VmChange::Update, Phase::Whole, facts);
        }
        Hold::Maintenance => {
            let switch = if on { Switch::On } else { Switch::Off };
            world.ask(operator(), CommandKind::VmMaintenance(switch)).unwrap();
        }
        Hold::ClockUntrusted | Hold::CloudUnreadable => {
            world.input(if on { VmInput::HoldRaised(hold) } else { VmInput::HoldLifted(hold) });
        }
    }
}

const ALL: [Hold; 4] = [Hold::Locked, Hold::Maintenance, Hold::ClockUntrusted, Hold::CloudUnreadable];

#[test]
fn a_held_end_waits_says_so_once_and_goes_on_by_itself() {
    for which in ALL {
        let mut world = World::created(policy());
        world.go(T0 + days(1));
        hold(&mut world, which, true);
        assert_eq!(world.count("lease.held"), 0, "nothing is due yet");
        world.go(T0 + days(30));
        world.pass(days(1));
        world.pass(days(1));
        assert_eq!(world.count("lease.held"), 1, "{which:?}");
        assert!(world.work().is_none());
        assert_eq!(world.count("lease.expired"), 0);
        assert_eq!(next_deadline(&world.rec), None, "only the lifting counts");
        hold(&mut world, which, false);
        assert_eq!(world.count("lease.released"), 1);
        assert_eq!(world.effect(), Effect::Stop, "{which:?}");
    }
}

#[test]
fn a_held_end_of_a_grace_waits_too() {
    let mut world = World::created(with_lease(LeasePolicy { grace: hours(48), ..LeasePolicy::default() }));
    world.go(T0 + days(30));
    hold(&mut world, Hold::Maintenance, true);
    world.wake();
    assert!(matches!(world.phase(), LeasePhase::Grace { .. }));
    assert_eq!(world.count("lease.held"), 1);
    hold(&mut world, Hold::Maintenance, false);
    assert_eq!(world.effect(), Effect::Stop);
}

#[test]
fn the_end_goes_on_only_when_the_last_hold_is_lifted() {
    let mut world = World::created(policy());
    for which in ALL {
        hold(&mut world, which, true);
    }
    world.go(T0 + days(30));
    for which in ALL {
        assert!(world.work().is_none(), "before {which:?} is lifted");
        hold(&mut world, which, false);
    }
    assert_eq!(world.effect(), Effect::Stop);
    assert_eq!((world.count("lease.held"), world.count("lease.released")), (1, 1));
}

#[test]
fn a_hold_that_is_over_before_the_end_changes_nothing() {
    let mut world = World::created(policy());
    hold(&mut world, Hold::Maintenance, true);
    hold(&mut world, Hold::Maintenance, false);
    assert_eq!(world.count("lease.held") + world.count("lease.released"), 0);
    assert_eq!(world.term().ends_at, T0 + days(30));
}

#[test]
fn a_held_end_that_is_extended_says_the_hold_anew_when_the_new_end_comes() {
    let mut world = World::created(policy());
    hold(&mut world, Hold::Maintenance, true);
    world.go(T0 + days(30));
    world.ask(user("alice"), CommandKind::LeaseExtend { by: Some(days(1)) }).unwrap();
    world.wake();
    assert_eq!(world.count("lease.held"), 2);
}

#[test]
fn a_hold_in_the_middle_of_an_ending_stops_it_before_the_next_step_that_destroys() {
    let at_delete = |effect: &Effect| matches!(effect, Effect::VerifyBackup { .. });
    let mut world = World::ending(policy());
    world.done_until(at_delete);
    hold(&mut world, Hold::ClockUntrusted, true);
    world.done();
    let Some(Operation::Ending(run)) = &world.rec.operation else { panic!("{:?}", world.rec.operation) };
    assert_eq!(run.step, EndingStep::Ready(EndingNext::DeleteServer));
    assert_eq!(world.count("lease.held"), 1);
    world.pass(days(1));
    assert_eq!(world.times(|effect| *effect == Effect::DeleteServer), 0);
    hold(&mut world, Hold::ClockUntrusted, false);
    assert_eq!(world.effect(), Effect::DeleteServer);
}

#[test]
fn a_destructive_step_that_failed_is_not_tried_again_while_the_vm_is_held() {
    let mut world = World::ending(policy());
    world.done_until(|effect| *effect == Effect::DeleteServer);
    world.fail(1);
    hold(&mut world, Hold::Maintenance, true);
    world.pass(days(1));
    assert!(world.work().is_none());
    hold(&mut world, Hold::Maintenance, false);
    assert_eq!(world.effect(), Effect::DeleteServer);
}

#[test]
fn a_held_final_backup_is_not_tried_again_until_the_hold_is_lifted() {
    let mut world = World::ending(policy());
    world.done_until(|effect| *effect == Effect::TakeInventory);
    world.answer(Outcome::NotApplied { reason: "no".into() });
    hold(&mut world, Hold::CloudUnreadable, true);
    world.pass(days(1));
    assert!(world.work().is_none());
    hold(&mut world, Hold::CloudUnreadable, false);
    assert_eq!(world.effect(), Effect::TakeInventory);
}

#[test]
fn a_lock_on_a_vm_that_its_owner_deletes_does_not_keep_its_ending_from_clearing_up() {
    let mut world = World::ending(policy());
    world.done_until(|effect| *effect == Effect::DeleteServer);
    world.fail(1);
    hold(&mut world, Hold::Locked, true);
    world.vanish();
    world.pass(hours(1));
    assert_eq!(world.effect(), Effect::DeleteServer);
    world.finish();
    assert!(world.rec.operation.is_none() && world.rec.holds.is_empty());
}

#[test]
fn nothing_is_destroyed_by_a_clock_that_cannot_be_trusted_even_of_a_vm_that_is_gone() {
    let mut world = World::destroyed(policy());
    hold(&mut world, Hold::ClockUntrusted, true);
    world.pass(days(4000));
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 0);
    assert_eq!(next_deadline(&world.rec), None);
    hold(&mut world, Hold::ClockUntrusted, false);
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 1);
}

#[test]
fn a_held_vm_is_touched_by_no_command_but_may_still_be_extended() {
    for which in ALL {
        let mut world = World::created(policy());
        hold(&mut world, which, true);
        for kind in [
            CommandKind::VmStop,
            CommandKind::VmReboot,
            CommandKind::RepairRun,
            CommandKind::BackupRun,
            CommandKind::LeaseEnd,
            CommandKind::VmDelete { backup: reeve_protocol::command::BackupFirst::No },
        ] {
            let refusal = world.ask(operator(), kind.clone()).expect_err("the VM is held");
            assert!(refusal.message.contains(which.name()), "{kind:?}: {refusal}");
        }
        assert!(world.issued.iter().all(|pending| is_notice(&pending.effect)));
        world.ask(user("alice"), CommandKind::LeaseExtend { by: None }).unwrap();
    }
}

const fn is_notice(effect: &Effect) -> bool {
    matches!(effect, Effect::Notify { .. })
}

#[test]
fn an_owner_cannot_hold_the_end_by_maintenance() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::VmMaintenance(Switch::On)).unwrap_err();
    assert!(world.rec.holds.is_empty());
}

#[test]
fn a_longer_policy_spares_a_vm_whose_end_has_begun_and_deleted_nothing() {
    let longer = with_lease(LeasePolicy { duration: days(60), ..LeasePolicy::default() });
    let mut world = World::ending(policy());
    world.done_until(|effect| matches!(effect, Effect::StoreDisk { .. }));
    world.assign(longer);
    assert_eq!(world.phase(), LeasePhase::Active);
    assert_eq!(world.term().ends_at, T0 + days(60));
    assert_eq!(world.effect(), Effect::Start, "the end had stopped it");
    world.finish();
    assert_eq!(world.times(|effect| *effect == Effect::DeleteServer), 0);
}

#[test]
fn a_policy_that_excludes_the_vm_spares_it_though_its_end_has_begun() {
    let mut world = World::ending(policy());
    world.done();
    world.assign(Policy { exempt: true, ..policy() });
    assert_eq!(world.rec.lease, Lease::Exempt);
    world.finish();
    world.pass(days(100));
    assert!(!world.rec.is_gone() && world.work().is_none());
}

#[test]
fn an_operator_may_exempt_a_vm_until_its_deletion_is_issued() {
    let mut world = World::ending(policy());
    world.done();
    world.ask(operator(), CommandKind::LeaseExempt(Switch::On)).unwrap();
    assert_eq!(world.rec.lease, Lease::Exempt);
    let mut late = World::ending(policy());
    late.done_until(|effect| *effect == Effect::DeleteServer);
    late.ask(operator(), CommandKind::LeaseExempt(Switch::On)).unwrap_err();
}

#[test]
fn another_policy_that_is_no_longer_changes_nothing_about_an_end_that_has_begun() {
    let mut world = World::ending(policy());
    let effect = world.effect();
    world.assign(with_lease(LeasePolicy { max_extensions: 9, ..LeasePolicy::default() }));
    assert_eq!(world.effect(), effect);
    world.finish();
    assert!(world.rec.is_gone());
}

#[test]
fn a_longer_policy_does_not_take_back_a_deletion_that_the_owner_asked_for() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::VmDelete { backup: reeve_protocol::command::BackupFirst::No }).unwrap();
    world.assign(with_lease(LeasePolicy { duration: days(60), ..LeasePolicy::default() }));
    world.finish();
    assert!(world.rec.is_gone());
}

#[test]
fn the_cloud_at_work_on_the_vm_makes_the_end_wait_without_losing_it() {
    let mut world = World::created(policy());
    world.cloud_does(Some("migrating"));
    world.go(T0 + days(30));
    assert!(world.work().is_none());
    assert!(matches!(world.phase(), LeasePhase::Ending { .. }));
    world.cloud_does(None);
    assert_eq!(world.effect(), Effect::Stop);
}

#[test]
fn a_vm_locked_when_it_is_found_is_held_from_the_start() {
    let mut world = World::unseen(policy());
    world.list(VmFacts { locked: Some(true), ..facts(VmState::Active) });
    world.pass(days(31));
    assert!(world.work().is_none());
    assert_eq!(world.rec.holds, [Hold::Locked]);
}

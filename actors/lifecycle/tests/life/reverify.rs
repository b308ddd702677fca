//! Backups that are read back again by schedule.

use reeve_lifecycle::input::Reason;
use reeve_lifecycle::operation::{BackupStep, Operation};
use reeve_lifecycle::policy::BackupPolicy;
use reeve_lifecycle::record::{BackupState, Hold};
use reeve_lifecycle::{Done, Effect, Outcome, Policy, VmInput, next_deadline};
use reeve_protocol::event::Alert;
use reeve_protocol::{BackupId, Timestamp};

use crate::common::*;

/// Read back every 10 days; no backups by schedule, and no lease.
fn reading() -> Policy {
    let backup = BackupPolicy { reverify: days(10), ..policy().backup };
    Policy { exempt: true, ..with_backup(backup) }
}

fn verified_at(world: &World, id: BackupId) -> Timestamp {
    match world.rec.backup(id).unwrap().state {
        BackupState::Verified { at, .. } => at,
        other @ (BackupState::Running | BackupState::Failed | BackupState::Damaged | BackupState::Deleting) => {
            panic!("{other:?}")
        }
    }
}

/// A VM with a backup, at the moment at which it is read back again.
fn due() -> (World, BackupId) {
    let mut world = World::created(reading());
    let id = world.back_up();
    let at = verified_at(&world, id);
    assert_eq!((world.wake(), world.now), (Reason::ReverifyDue, at + days(10)));
    assert_eq!(world.effect(), Effect::VerifyBackup { backup: id });
    (world, id)
}

#[test]
fn a_backup_is_read_back_again_so_long_after_it_was_verified_and_again_after_that() {
    let (mut world, id) = due();
    world.done();
    assert_eq!(verified_at(&world, id), world.now);
    let before = world.now;
    assert_eq!((world.wake(), world.now), (Reason::ReverifyDue, before + days(10)));
    world.crash();
    assert_eq!(world.effect(), Effect::VerifyBackup { backup: id });
    world.finish();
    assert_eq!(world.times(|effect| matches!(effect, Effect::VerifyBackup { .. })), 3);
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 0);
}

#[test]
fn without_a_time_for_it_nothing_is_read_back_again() {
    let mut world = World::created(Policy { exempt: true, ..policy() });
    world.back_up();
    assert_eq!(next_deadline(&world.rec), None);
    world.pass(days(400));
    assert!(world.rec.operation.is_none());
}

#[test]
fn the_one_that_was_verified_longest_ago_comes_first_and_one_at_a_time() {
    let mut world = World::created(reading());
    let first = world.back_up();
    world.pass(days(3));
    let second = world.back_up();
    world.go(world.now + days(30));
    for id in [first, second] {
        assert_eq!(world.effect(), Effect::VerifyBackup { backup: id });
        world.done();
    }
    assert!(world.rec.operation.is_none());
}

#[test]
fn damage_is_told_removes_nothing_and_makes_the_next_backup_due_at_once() {
    let backup = BackupPolicy { reverify: days(10), every: days(30), ..BackupPolicy::default() };
    let mut world = World::created(Policy { exempt: true, ..with_backup(backup) });
    let other = [world.back_up(), world.back_up()][1];
    let rotten = loop {
        match &world.rec.operation {
            Some(Operation::Backup(run)) if run.step == (BackupStep::Verify { again: true }) => break run.id,
            Some(_) => drop(world.done()),
            None => drop(world.wake()),
        }
    };
    let (begun, due_at) = (world.count("backup.started"), world.rec.schedule.next_at.unwrap());
    assert!(due_at > world.now);
    world.answer(Outcome::Done(Done::Damaged { what: "root: blake3 differs".into() }));
    assert_eq!(world.rec.backup(rotten).unwrap().state, BackupState::Damaged);
    assert_eq!(world.raised(Alert::BackupDamaged), 1);
    assert_eq!(world.count("backup.started"), begun + 1, "the next backup begins at once");
    world.finish();
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 0);
    assert_eq!(world.rec.backup(rotten).unwrap().state, BackupState::Damaged);
    verified_at(&world, other);
}

#[test]
fn what_cannot_be_read_stays_verified_and_is_tried_again_a_day_later() {
    let (mut world, id) = due();
    let at = verified_at(&world, id);
    world.fail(4);
    assert!(world.rec.operation.is_none());
    assert_eq!(verified_at(&world, id), at);
    assert_eq!((world.raised(Alert::BackupDamaged), world.raised(Alert::BackupFailed)), (0, 1));
    let failed_at = world.now;
    assert_eq!((world.wake(), world.now), (Reason::ReverifyDue, failed_at + days(1)));
    world.done();
    assert_eq!(verified_at(&world, id), world.now);
    assert!(world.rec.alerts.is_empty());
}

#[test]
fn it_waits_while_the_vm_is_held_or_something_else_is_under_way() {
    let mut world = World::created(reading());
    let id = world.back_up();
    world.input(VmInput::HoldRaised(Hold::CloudUnreadable));
    world.pass(days(11));
    assert!(world.rec.operation.is_none());
    world.input(VmInput::HoldLifted(Hold::CloudUnreadable));
    assert_eq!(world.effect(), Effect::VerifyBackup { backup: id });
    assert!(matches!(world.rec.operation, Some(Operation::Backup(_))));
}

#[test]
fn the_backups_of_a_vm_that_is_gone_are_read_back_and_expire_only_when_nobody_reads_them() {
    let backup = BackupPolicy { reverify: days(40), keep_final: days(90), ..policy().backup };
    let mut world = World::destroyed(with_backup(backup));
    let gone_at = world.now;
    let id = world.rec.backups[0].id;
    for _ in 0..2 {
        while world.rec.operation.is_none() {
            world.wake();
        }
        assert_eq!(world.effect(), Effect::VerifyBackup { backup: id });
        if world.times(|effect| matches!(effect, Effect::VerifyBackup { .. })) < 3 {
            world.done();
        }
    }
    world.go(gone_at + days(95));
    assert!(matches!(world.rec.backup(id).unwrap().state, BackupState::Verified { .. }), "it is being read");
    world.done();
    assert_eq!(world.rec.backup(id).unwrap().state, BackupState::Deleting);
    world.background();
    assert!(world.rec.backups.is_empty());
}

#[test]
fn what_is_overdue_under_a_new_policy_is_spread_over_the_window() {
    let mut world = World::created(Policy { exempt: true, ..policy() });
    world.back_up();
    world.pass(days(300));
    let backup = BackupPolicy { reverify: days(10), every: days(30), window: hours(4), ..BackupPolicy::default() };
    let now = world.now;
    world.assign(Policy { exempt: true, ..with_backup(backup) });
    let not_before = world.rec.schedule.reverify_at.unwrap();
    assert!(now <= not_before && not_before <= now + hours(4));
    assert!(world.rec.operation.is_none() || not_before == now);
}

//! Retention: counts verified backups only, and never removes the last.

use reeve_lifecycle::input::Reason;
use reeve_lifecycle::policy::BackupPolicy;
use reeve_lifecycle::record::BackupState;
use reeve_lifecycle::{Done, Effect, Outcome, Policy, next_deadline};
use reeve_protocol::Span;
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::event::BackupPurpose;

use crate::common::*;

fn keeping(backup: BackupPolicy) -> Policy {
    Policy { exempt: true, ..with_backup(backup) }
}

/// Runs so many scheduled backups.
fn run(world: &mut World, runs: usize) {
    for _ in 0..runs {
        while world.wake() != Reason::BackupDue {}
        world.finish();
        world.background();
    }
}

const NONE: BackupPolicy = BackupPolicy {
    every: days(1),
    window: hours(4),
    keep_last: 1,
    daily: 0,
    weekly: 0,
    monthly: 0,
    keep_manual: 1,
    keep_final: days(90),
    reverify: Span::ZERO,
};

#[test]
fn keep_last_keeps_the_newest() {
    let mut world = World::created(keeping(BackupPolicy { keep_last: 3, ..NONE }));
    run(&mut world, 10);
    let ages: Vec<u64> = world.rec.backups.iter().map(|entry| world.now.since(entry.at).as_secs() / 86_400).collect();
    assert_eq!(ages, [2, 1, 0]);
    assert_eq!(world.count("backup.deleted"), 7);
}

#[test]
fn daily_weekly_and_monthly_keep_the_newest_of_each_period() {
    let mut world = World::created(keeping(BackupPolicy { daily: 3, ..NONE }));
    run(&mut world, 10);
    assert_eq!(world.rec.backups.len(), 3);
    let mut weekly = World::created(keeping(BackupPolicy { weekly: 3, ..NONE }));
    run(&mut weekly, 40);
    assert_eq!(weekly.rec.backups.len(), 3);
    let apart: Vec<u64> =
        weekly.rec.backups.windows(2).map(|pair| pair[1].at.since(pair[0].at).as_secs() / 86_400).collect();
    assert_eq!(apart[0], 7, "the last of each week: {apart:?}");
    let mut monthly = World::created(keeping(BackupPolicy { monthly: 2, ..NONE }));
    run(&mut monthly, 100);
    assert_eq!(monthly.rec.backups.len(), 2);
}

#[test]
fn several_runs_in_a_day_keep_the_newest_of_the_day() {
    let hourly = BackupPolicy { every: hours(1), window: hours(1), daily: 2, ..NONE };
    let mut world = World::created(keeping(hourly));
    run(&mut world, 60);
    assert_eq!(world.rec.backups.len(), 2);
}

#[test]
fn what_is_not_verified_counts_for_nothing() {
    let mut world = World::created(keeping(BackupPolicy { keep_last: 2, ..NONE }));
    run(&mut world, 2);
    while world.wake() != Reason::BackupDue {}
    world.answer(Outcome::NotApplied { reason: "no".into() });
    world.background();
    let verified = |world: &World| {
        world.rec.backups.iter().filter(|entry| matches!(entry.state, BackupState::Verified { .. })).count()
    };
    assert_eq!(verified(&world), 2);
}

#[test]
fn manual_backups_have_a_count_of_their_own() {
    let mut world = World::created(keeping(BackupPolicy { keep_manual: 2, ..NONE }));
    run(&mut world, 1);
    for _ in 0..4 {
        world.pass(secs(60));
        world.back_up();
        world.background();
    }
    let of = |purpose| world.rec.backups.iter().filter(|entry| entry.purpose == purpose).count();
    assert_eq!((of(BackupPurpose::Manual), of(BackupPurpose::Scheduled)), (2, 1));
}

#[test]
fn the_last_verified_backup_of_a_living_vm_is_never_removed_by_retention() {
    let mut world = World::created(keeping(BackupPolicy { keep_manual: 0, ..NONE }));
    let id = world.back_up();
    world.background();
    for _ in 0..3 {
        world.pass(secs(60));
        world.tick();
    }
    assert!(matches!(world.rec.backup(id).unwrap().state, BackupState::Verified { .. }));
}

#[test]
fn a_final_backup_is_kept_for_its_time_from_when_the_vm_went_then_removed() {
    let mut world = World::destroyed(policy());
    let gone_at = world.now;
    assert_eq!((world.wake(), world.now), (Reason::Retention, gone_at + days(90)));
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 1);
    world.background();
    assert!(world.rec.backups.is_empty());
    assert!(world.purged || next_deadline(&world.rec).is_some());
}

#[test]
fn the_final_backup_of_an_end_that_was_cancelled_is_kept_for_its_time_and_as_long_as_it_is_the_last() {
    let mut world = World::ending(policy());
    world.done_until(|effect| matches!(effect, Effect::VerifyBackup { .. }));
    world.input(reeve_lifecycle::VmInput::HoldRaised(reeve_lifecycle::record::Hold::CloudUnreadable));
    world.done();
    let id = world.rec.backups[0].id;
    world.ask(operator(), CommandKind::LeaseExempt(reeve_protocol::command::Switch::On)).unwrap();
    world.input(reeve_lifecycle::VmInput::HoldLifted(reeve_lifecycle::record::Hold::CloudUnreadable));
    world.finish();
    world.pass(days(200));
    assert!(world.rec.backup(id).is_some(), "it is the last verified one");
    let newer = world.back_up();
    world.background();
    assert_eq!(world.rec.backups.iter().map(|entry| entry.id).collect::<Vec<_>>(), [newer]);
}

#[test]
fn all_backups_of_a_vm_that_its_owner_deleted_are_kept_for_the_time_of_final_ones() {
    let mut world = World::created(policy());
    world.back_up();
    world.pass(days(3));
    world.vanish();
    let gone_at = world.now;
    assert_eq!(world.wake(), Reason::Retention);
    assert_eq!(world.now, gone_at + days(90));
}

#[test]
fn a_damaged_backup_of_a_vm_that_is_gone_goes_too_so_that_its_record_can() {
    let mut world = World::destroyed(policy());
    world.ask(operator(), CommandKind::BackupVerify { backup: None }).unwrap();
    world.answer(Outcome::Done(Done::Damaged { what: "root".into() }));
    assert_eq!(world.wake(), Reason::Retention);
    world.background();
    assert_eq!(world.wake(), Reason::Purge);
    assert!(world.purged);
}

#[test]
fn a_backup_is_not_removed_under_a_revival_that_reads_it() {
    let mut world = World::destroyed(policy());
    world.ask(operator(), CommandKind::VmRevive { backup: None, name: None }).unwrap();
    world.pass(days(400));
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 0);
    world.finish();
    world.tick();
    assert_eq!(world.times(|effect| matches!(effect, Effect::DeleteBackup { .. })), 1);
}

#[test]
fn a_backup_is_deleted_on_request_by_who_may_and_not_while_it_may_be_read() {
    let mut world = World::created(policy());
    let id = world.back_up();
    let delete = CommandKind::BackupDelete { backup: id };
    assert_eq!(world.ask(user("eve"), delete.clone()).unwrap_err().code, RefusalCode::Denied);
    world.ask(user("alice"), CommandKind::BackupVerify { backup: None }).unwrap();
    assert_eq!(world.ask(user("alice"), delete.clone()).unwrap_err().code, RefusalCode::Conflict);
    world.finish();
    world.ask(user("alice"), delete.clone()).unwrap();
    assert_eq!(world.ask(user("alice"), delete.clone()).unwrap_err().code, RefusalCode::Conflict);
    world.background();
    assert_eq!(world.ask(user("alice"), delete).unwrap_err().code, RefusalCode::NotFound);
}

#[test]
fn the_removal_of_a_backup_is_tried_until_it_succeeds() {
    let mut world = World::created(policy());
    let id = world.back_up();
    world.background();
    world.ask(user("alice"), CommandKind::BackupDelete { backup: id }).unwrap();
    for _ in 0..30 {
        let running = world.running.pop().unwrap();
        world.input(reeve_lifecycle::VmInput::EffectDone {
            key: running.key,
            outcome: Outcome::Unknown { reason: "timed out".into() },
        });
        assert_eq!(world.wake(), Reason::Retry);
    }
    world.background();
    assert_eq!(world.count("backup.deleted"), 1);
}

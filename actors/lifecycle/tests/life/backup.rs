//! Backups: one at a time, all disks, verified or failed, by schedule and on request.

use reeve_lifecycle::effect::Disk;
use reeve_lifecycle::input::Reason;
use reeve_lifecycle::operation::Operation;
use reeve_lifecycle::policy::BackupPolicy;
use reeve_lifecycle::record::{BackupState, Hold, MAX_BACKUPS};
use reeve_lifecycle::{Done, Effect, Outcome, Policy, VmInput, next_deadline};
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::event::{Alert, BackupPurpose, EventKind};
use reeve_protocol::observation::{VmFacts, VmState};

use crate::common::*;

fn daily() -> Policy {
    with_backup(BackupPolicy::default())
}

/// A world at the moment its first scheduled backup begins.
fn due() -> World {
    let mut world = World::created(daily());
    assert_eq!(world.wake(), Reason::BackupDue);
    assert!(matches!(world.rec.operation, Some(Operation::Backup(_))));
    world
}

#[test]
fn a_backup_snapshots_every_disk_before_it_stores_the_first_then_seals_and_verifies() {
    let mut world = World::created(policy());
    world.back_up();
    let of =
        |wanted: &dyn Fn(&Effect) -> bool| world.issued.iter().position(|pending| wanted(&pending.effect)).unwrap();
    let disks: Vec<Disk> = world
        .issued
        .iter()
        .filter_map(|pending| match &pending.effect {
            Effect::SnapshotDisk { disk, .. } => Some(disk.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(disks, [Disk::Root, Disk::Volume("v-own".into()), Disk::Volume("v-shared".into())]);
    let last_snapshot = world.issued.iter().rposition(|pending| matches!(pending.effect, Effect::SnapshotDisk { .. }));
    assert!(last_snapshot.unwrap() < of(&|effect| matches!(effect, Effect::StoreDisk { .. })));
    let sealed = |effect: &Effect| matches!(effect, Effect::SealBackup { disks, .. } if disks.len() == 3);
    assert!(of(&sealed) < of(&|effect| matches!(effect, Effect::VerifyBackup { .. })));
    assert_eq!(
        world.times(|effect| matches!(effect, Effect::DropSnapshots { snapshots, .. } if snapshots.len() == 3)),
        1
    );
}

#[test]
fn a_backup_is_verified_only_when_it_was_read_back_and_is_equal() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    world.done_until(|effect| matches!(effect, Effect::VerifyBackup { .. }));
    assert_eq!(world.rec.backups[0].state, BackupState::Running);
    assert_eq!(world.count("backup.verified"), 0);
    world.done();
    assert!(matches!(world.rec.backups[0].state, BackupState::Verified { bytes, .. } if bytes == 3 << 30));
    assert_eq!(world.count("backup.verified"), 1);
}

#[test]
fn a_failed_backup_leaves_nothing_behind() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    world.done_until(|effect| matches!(effect, Effect::SealBackup { .. }));
    world.answer(Outcome::NotApplied { reason: "vault full".into() });
    assert!(world.rec.operation.is_none());
    assert_eq!(
        world.times(|effect| matches!(effect, Effect::DropSnapshots { snapshots, .. } if snapshots.len() == 3)),
        1
    );
    world.background();
    assert!(world.rec.backups.is_empty() && world.rec.effects.is_empty());
    assert_eq!((world.count("backup.failed"), world.raised(Alert::BackupFailed)), (1, 1));
}

#[test]
fn a_lost_or_busy_answer_is_tried_again_under_the_same_key_before_the_backup_fails() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    let key = world.work().unwrap().key;
    for _ in 0..3 {
        world.answer(Outcome::Unknown { reason: "timed out".into() });
        world.wake();
        assert_eq!(world.work().unwrap().key, key);
    }
    world.answer(Outcome::Unknown { reason: "timed out".into() });
    assert!(world.rec.operation.is_none());
    assert_eq!(world.count("backup.failed"), 1);
}

#[test]
fn a_backup_waits_while_another_operation_runs_and_one_runs_at_a_time() {
    let mut world = World::created(policy());
    world.ask(operator(), CommandKind::VmReboot).unwrap();
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    assert_eq!(world.effect(), Effect::HardReboot);
    assert_eq!(world.ask(user("alice"), CommandKind::BackupRun).unwrap_err().code, RefusalCode::Conflict);
    world.done();
    assert_eq!(world.effect(), Effect::TakeInventory);
}

#[test]
fn the_next_run_is_kept_in_the_record_and_a_fleet_spreads_over_the_window() {
    let slots: std::collections::BTreeSet<i64> = (0..200u64)
        .map(|n| {
            let mut world = World::unseen(daily());
            world.rec.vm = format!("{:08x}-0000-4000-8000-{n:012x}", n * 7_919).parse().unwrap();
            world.list(VmFacts { vm: world.rec.vm, ..facts(VmState::Active) });
            world.rec.schedule.next_at.unwrap().as_millis().rem_euclid(86_400_000)
        })
        .collect();
    assert!(slots.len() > 190, "{} different slots", slots.len());
    assert!(slots.iter().all(|slot| (0..4 * 3_600_000).contains(slot)), "within the window");
}

#[test]
fn a_scheduled_backup_runs_every_period_at_the_same_offset() {
    let mut world = due();
    let first = world.now;
    world.finish();
    assert_eq!((world.wake(), world.now), (Reason::BackupDue, first + days(1)));
}

#[test]
fn a_run_that_was_missed_gives_one_catch_up_run_marked_late() {
    let mut world = World::created(daily());
    let due_at = world.rec.schedule.next_at.unwrap();
    world.go(due_at + days(5));
    let reason = "nobody attended to the VM".to_owned();
    assert_eq!(*world.last("backup.missed"), EventKind::BackupWindowMissed { due_at, reason });
    assert!(matches!(world.last("backup.started"), EventKind::BackupStarted { late: true, .. }));
    world.finish();
    assert_eq!((world.count("backup.started"), world.count("backup.missed")), (1, 1));
    assert!(world.rec.schedule.next_at.unwrap() > world.now);
}

#[test]
fn a_run_in_time_is_not_late() {
    let world = due();
    assert!(matches!(world.last("backup.started"), EventKind::BackupStarted { late: false, .. }));
    assert_eq!(world.count("backup.missed"), 0);
}

#[test]
fn a_failed_run_is_retried_with_back_off_within_the_window_then_a_human_is_told_and_the_schedule_goes_on() {
    let mut world = due();
    let due_at = world.now;
    let mut tries = 0;
    while world.count("backup.failed") == 0 {
        tries += 1;
        world.answer(Outcome::NotApplied { reason: "no".into() });
        world.background();
        if world.count("backup.failed") == 0 {
            assert_eq!(world.wake(), Reason::BackupDue);
            assert!(world.now.since(due_at) < hours(4).duration(), "retried outside the window");
        }
    }
    assert!(tries > 3, "{tries} tries");
    assert_eq!((world.raised(Alert::BackupFailed), world.rec.operation.is_none()), (1, true));
    assert_eq!((world.wake(), world.now), (Reason::BackupDue, due_at + days(1)));
    world.finish();
    assert_eq!(world.count("alert.cleared"), 1);
}

#[test]
fn a_run_whose_tries_are_slow_is_given_up_at_the_end_of_its_window() {
    let mut world = due();
    let due_at = world.now;
    for _ in 0..8 {
        if world.rec.operation.is_none() {
            break;
        }
        world.now = world.now + hours(1);
        world.answer(Outcome::NotApplied { reason: "no".into() });
        world.background();
        if world.count("backup.failed") == 0 {
            world.wake();
        }
    }
    assert_eq!(world.count("backup.failed"), 1);
    assert!(world.now.since(due_at) <= hours(5).duration(), "given up at {}", world.now);
}

#[test]
fn a_late_run_has_a_window_of_its_own() {
    let mut world = World::created(daily());
    world.go(world.rec.schedule.next_at.unwrap() + hours(20));
    world.answer(Outcome::NotApplied { reason: "no".into() });
    assert_eq!(world.count("backup.failed"), 0);
    world.wake();
    assert!(world.rec.operation.is_some(), "tried again");
}

#[test]
fn two_failing_runs_in_a_row_are_one_episode_for_the_human() {
    let mut world = due();
    for _ in 0..40 {
        if world.work().is_some() {
            world.answer(Outcome::NotApplied { reason: "no".into() });
        } else {
            world.wake();
        }
        world.background();
    }
    assert!(world.count("backup.failed") >= 2);
    assert_eq!(world.raised(Alert::BackupFailed), 1);
}

#[test]
fn a_vm_that_its_owner_deletes_in_the_middle_of_a_backup_leaves_nothing_behind() {
    for done in 0..9 {
        let mut world = World::created(policy());
        world.ask(user("alice"), CommandKind::BackupRun).unwrap();
        for _ in 0..done {
            world.done();
        }
        world.vanish();
        assert!(world.rec.operation.is_none());
        world.background();
        assert!(world.rec.backups.is_empty() && world.rec.effects.is_empty(), "after {done} steps");
        assert_eq!((world.count("backup.failed"), world.raised(Alert::BackupFailed)), (1, 0));
    }
}

#[test]
fn a_verified_backup_can_be_read_back_again_and_damage_is_told() {
    let mut world = World::created(policy());
    let id = world.back_up();
    world.ask(user("alice"), CommandKind::BackupVerify { backup: None }).unwrap();
    assert_eq!(world.effect(), Effect::VerifyBackup { backup: id });
    world.done();
    assert!(matches!(world.rec.backup(id).unwrap().state, BackupState::Verified { .. }));
    world.ask(user("alice"), CommandKind::BackupVerify { backup: Some(id) }).unwrap();
    world.answer(Outcome::Done(Done::Damaged { what: "root".into() }));
    assert_eq!(world.rec.backup(id).unwrap().state, BackupState::Damaged);
    assert_eq!(world.raised(Alert::BackupDamaged), 1);
    assert_eq!((world.count("backup.verify-started"), world.count("backup.verify-failed")), (2, 1));
    world.ask(user("alice"), CommandKind::BackupDelete { backup: id }).unwrap();
    world.background();
    assert!(world.rec.alerts.is_empty(), "no damaged backup is left");
}

#[test]
fn a_vault_that_does_not_answer_proves_no_damage() {
    let mut world = World::created(policy());
    let id = world.back_up();
    world.ask(user("alice"), CommandKind::BackupVerify { backup: None }).unwrap();
    world.fail(4);
    assert!(world.rec.operation.is_none());
    assert!(matches!(world.rec.backup(id).unwrap().state, BackupState::Verified { .. }));
    assert_eq!((world.raised(Alert::BackupDamaged), world.raised(Alert::BackupFailed)), (0, 1));
}

#[test]
fn a_vm_that_is_down_or_not_in_a_state_to_be_backed_up_is_not_backed_up() {
    for state in [VmState::Building, VmState::Error, VmState::Rescued, VmState::ShelvedOffloaded, VmState::SoftDeleted]
    {
        let mut world = World::created(daily());
        world.becomes(state);
        world.pass(days(3));
        assert!(world.rec.backups.is_empty(), "{state:?}");
    }
    let mut down = World::created(Policy {
        repair: reeve_lifecycle::policy::RepairPolicy { enabled: false, ..Default::default() },
        ..daily()
    });
    for _ in 0..3 {
        down.probe(false);
    }
    down.pass(days(3));
    assert!(down.rec.backups.is_empty());
}

#[test]
fn without_a_schedule_no_backup_is_due() {
    let world = World::created(policy());
    assert_eq!(world.rec.schedule.next_at, None);
}

#[test]
fn another_schedule_counts_at_once() {
    let mut world = World::created(with_backup(BackupPolicy { every: days(30), ..BackupPolicy::default() }));
    world.assign(with_backup(BackupPolicy { every: hours(1), window: hours(1), ..BackupPolicy::default() }));
    assert!(world.rec.schedule.next_at.unwrap() <= world.now + hours(1));
}

#[test]
fn a_record_full_of_backups_makes_no_more_and_a_human_is_told_once() {
    let many = BackupPolicy { keep_last: 500, ..BackupPolicy::default() };
    let mut world = World::created(Policy { exempt: true, ..with_backup(many) });
    for _ in 0..MAX_BACKUPS {
        assert_eq!(world.wake(), Reason::BackupDue);
        world.finish();
    }
    assert_eq!(world.wake(), Reason::BackupWindowOver);
    assert_eq!((next_deadline(&world.rec), world.count("backup.missed")), (None, 1));
    world.pass(days(3));
    world.pass(days(3));
    assert_eq!(world.rec.backups.len(), MAX_BACKUPS);
    assert_eq!(world.raised(Alert::BackupFailed), 1);
    let id = world.rec.backups[0].id;
    world.ask(operator(), CommandKind::BackupDelete { backup: id }).unwrap();
    world.background();
    world.tick();
    world.finish();
    assert!(world.rec.alerts.is_empty());
}

#[test]
fn a_backup_survives_a_crash_after_every_commit() {
    let mut world = due();
    while world.rec.operation.is_some() {
        let before = world.effect();
        world.crash();
        assert_eq!(world.effect(), before);
        world.done();
    }
    assert_eq!((world.count("backup.verified"), world.count("backup.started")), (1, 1));
    assert_eq!(world.times(|effect| matches!(effect, Effect::SnapshotDisk { .. })), 3);
}

#[test]
fn the_purposes_are_told_apart() {
    let mut world = due();
    world.finish();
    world.back_up();
    world.go(T0 + days(30));
    world.finish();
    let purposes: Vec<_> = world.rec.backups.iter().map(|entry| entry.purpose).collect();
    for purpose in [BackupPurpose::Scheduled, BackupPurpose::Manual, BackupPurpose::Final] {
        assert!(purposes.contains(&purpose), "{purposes:?}");
    }
}

/// What a missed window was told with.
fn told_why(world: &World) -> &str {
    match world.last("backup.missed") {
        EventKind::BackupWindowMissed { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_window_that_passes_without_a_run_is_told_when_it_ends_with_what_was_in_the_way_and_once() {
    type Hindrance = fn(&mut World);
    let hindrances: [(Hindrance, &str); 4] = [
        (|world| drop(world.input(VmInput::HoldRaised(Hold::CloudUnreadable))), "the VM is held: cloud_unreadable"),
        (|world| drop(world.ask(operator(), CommandKind::VmReboot)), "another operation was under way: reboot"),
        (|world| world.cloud_does(Some("migrating")), "the cloud is busy with the VM: migrating"),
        (|world| world.becomes(VmState::Error), "the VM is error"),
    ];
    for (hinder, why) in hindrances {
        let mut world = World::created(Policy { exempt: true, ..daily() });
        let due_at = world.rec.schedule.next_at.unwrap();
        hinder(&mut world);
        assert_eq!((world.wake(), world.now), (Reason::BackupWindowOver, due_at + hours(4)), "{why}");
        assert_eq!(told_why(&world), why);
        world.go(due_at + days(9));
        assert_eq!((world.count("backup.missed"), world.count("backup.started")), (1, 0), "{why}");
    }
}

#[test]
fn the_run_after_a_missed_window_is_late_and_the_next_window_is_told_anew() {
    let mut world = World::created(Policy { exempt: true, ..daily() });
    for missed in 1..4 {
        world.input(VmInput::HoldRaised(Hold::Maintenance));
        assert_eq!(world.wake(), Reason::BackupWindowOver);
        world.input(VmInput::HoldLifted(Hold::Maintenance));
        assert!(matches!(world.last("backup.started"), EventKind::BackupStarted { late: true, .. }));
        world.finish();
        assert_eq!((world.count("backup.missed"), world.count("backup.verified")), (missed, missed));
    }
}

#[test]
fn a_run_that_takes_longer_than_its_window_or_fails_in_it_has_missed_nothing() {
    let mut slow = due();
    slow.pass(hours(5));
    slow.finish();
    assert_eq!((slow.count("backup.missed"), slow.count("backup.verified")), (0, 1));
    let mut failing = due();
    while failing.count("backup.failed") == 0 {
        if failing.work().is_some() {
            failing.answer(Outcome::NotApplied { reason: "no".into() });
        } else {
            failing.wake();
        }
        failing.background();
    }
    assert_eq!(failing.count("backup.missed"), 0);
}

#[test]
fn a_run_that_failed_and_whose_vm_is_held_until_its_window_is_over_is_told_to_be_missed() {
    let mut world = due();
    world.answer(Outcome::NotApplied { reason: "no".into() });
    world.background();
    world.input(VmInput::HoldRaised(Hold::Locked));
    assert_eq!(world.wake(), Reason::BackupWindowOver);
    assert_eq!(told_why(&world), "the VM is held: locked");
}

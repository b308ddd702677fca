//! One operation at a time, in the order of their weight.

use reeve_lifecycle::Effect;
use reeve_lifecycle::operation::Operation;
use reeve_lifecycle::policy::BackupPolicy;
use reeve_protocol::command::{CommandKind, RefusalCode};

use crate::common::*;

#[test]
fn whoever_asks_while_an_operation_runs_is_told_what_is_in_the_way() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    for kind in [CommandKind::VmStop, CommandKind::RepairRun, CommandKind::BackupVerify { backup: None }] {
        let refusal = world.ask(operator(), kind).unwrap_err();
        assert_eq!((refusal.code, refusal.message.contains("backup")), (RefusalCode::Conflict, true), "{refusal}");
    }
}

#[test]
fn an_end_that_comes_while_a_backup_runs_waits_for_it_and_is_not_lost() {
    let mut world = World::created(policy());
    world.now = T0 + days(30) - secs(1);
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    world.pass(secs(2));
    assert!(matches!(world.rec.operation, Some(Operation::Backup(_))));
    world.done_until(|effect| matches!(effect, Effect::VerifyBackup { .. }));
    world.done();
    assert_eq!(world.effect(), Effect::Stop);
}

#[test]
fn ending_comes_before_repair_and_repair_before_backup() {
    let mut world = World::created(with_backup(BackupPolicy::default()));
    world.ask(operator(), CommandKind::VmReboot).unwrap();
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    world.rec.repairs.requested = true;
    world.go(T0 + days(30));
    world.done();
    assert!(matches!(world.rec.operation, Some(Operation::Ending(_))));
    let mut other = World::created(policy());
    other.ask(operator(), CommandKind::VmReboot).unwrap();
    other.ask(user("alice"), CommandKind::BackupRun).unwrap();
    other.rec.repairs.requested = true;
    other.done();
    assert!(matches!(other.rec.operation, Some(Operation::Repair(_))));
    assert_eq!(other.count("backup.started"), 0);
    other.done_until(|effect| *effect == Effect::TakeInventory);
    assert_eq!(other.count("repair.succeeded"), 1);
}

#[test]
fn what_the_cloud_does_with_the_vm_counts_as_an_operation() {
    let mut world = World::created(policy());
    world.cloud_does(Some("resizing"));
    let refusal = world.ask(user("alice"), CommandKind::VmStop).unwrap_err();
    assert!(refusal.message.contains("resizing"), "{refusal}");
    world.ask(user("alice"), CommandKind::BackupRun).unwrap();
    assert!(world.work().is_none());
    world.cloud_does(None);
    assert_eq!(world.effect(), Effect::TakeInventory);
}

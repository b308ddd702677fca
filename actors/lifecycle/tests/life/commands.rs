//! Commands: acknowledged once, answered the same again, and refused with a reason.

use reeve_lifecycle::input::{Ignored, VmInput};
use reeve_lifecycle::record::{Health, MAX_ANSWERS, PauseReason};
use reeve_lifecycle::{Effect, Outcome, Verdict};
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::event::Alert;
use reeve_protocol::observation::VmState;

use crate::common::*;

fn told(world: &mut World, id: &str, kind: CommandKind) -> Verdict {
    world.input(VmInput::Commanded { command: command(id, user("alice"), kind), policy: None })
}

#[test]
fn the_same_command_twice_gets_the_same_answer_and_changes_nothing() {
    let mut world = World::created(policy());
    for kind in [CommandKind::LeaseExtend { by: Some(days(1)) }, CommandKind::LeaseExtend { by: Some(days(99)) }] {
        let id = format!("{kind:?}");
        let (Verdict::Accepted(Some(answer)) | Verdict::Denied(answer)) = told(&mut world, &id, kind.clone()) else {
            panic!("no answer")
        };
        let before = world.rec.clone();
        assert_eq!(told(&mut world, &id, kind), Verdict::Ignored(Ignored::Duplicate(Some(answer))));
        assert_eq!(world.rec, before);
    }
}

#[test]
fn answers_are_kept_with_a_bound() {
    let mut world = World::created(policy());
    for n in 0..100 {
        told(&mut world, &format!("c{n}"), CommandKind::VmAdopt);
    }
    assert_eq!(world.rec.answers.len(), MAX_ANSWERS);
}

#[test]
fn a_command_for_a_vm_that_nobody_knows_is_refused_and_not_remembered() {
    let mut world = World::unseen(policy());
    let Verdict::Denied(Err(refusal)) = told(&mut world, "c", CommandKind::VmStop) else { panic!("accepted") };
    assert_eq!(refusal.code, RefusalCode::NotFound);
    world.list(facts(VmState::Active));
    assert!(matches!(told(&mut world, "c", CommandKind::VmStop), Verdict::Accepted(_)));
}

#[test]
fn an_action_is_done_once_by_who_may_and_its_end_is_told() {
    let cases = [
        (CommandKind::VmStart, Effect::Start),
        (CommandKind::VmStop, Effect::Stop),
        (CommandKind::VmReboot, Effect::HardReboot),
        (CommandKind::VmSuspend, Effect::Suspend),
        (CommandKind::VmResume, Effect::Resume),
    ];
    for (kind, effect) in cases {
        let mut world = World::created(policy());
        assert_eq!(world.ask(user("eve"), kind.clone()).unwrap_err().code, RefusalCode::Denied);
        world.ask(user("alice"), kind).unwrap();
        assert_eq!((world.effect(), world.count("action.started"), world.count("action.done")), (effect.clone(), 1, 0));
        world.done();
        assert_eq!((world.count("action.done"), world.times(|issued| *issued == effect)), (1, 1));
    }
}

#[test]
fn an_action_that_does_not_get_done_is_given_up_and_a_human_told() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::VmStop).unwrap();
    world.fail(5);
    assert_eq!((world.count("action.started"), world.count("action.failed")), (1, 1));
    assert!(
        world.rec.operation.is_none()
            && world.rec.effects.iter().all(|kept| matches!(kept.effect, Effect::Notify { .. }))
    );
    assert_eq!(world.raised(Alert::ActionStuck), 1);
    let mut refused = World::created(policy());
    refused.ask(user("alice"), CommandKind::VmStop).unwrap();
    refused.answer(Outcome::NotApplied { reason: "locked".into() });
    assert_eq!((refused.raised(Alert::ActionStuck), refused.rec.operation.is_none()), (1, true));
}

#[test]
fn a_vm_is_put_back_to_a_verified_backup_and_to_no_other() {
    let mut world = World::created(policy());
    let restore = CommandKind::BackupRestore { backup: None };
    assert_eq!(world.ask(user("alice"), restore.clone()).unwrap_err().code, RefusalCode::NotFound);
    let backup = world.back_up();
    world.ask(user("alice"), restore).unwrap();
    assert_eq!(world.effect(), Effect::RestoreInPlace { backup });
    world.done();
    assert_eq!(world.count("backup.restored"), 1);
}

#[test]
fn a_vm_that_its_owner_stopped_is_put_back_to_a_backup_and_stays_stopped() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::VmStop).unwrap();
    world.done();
    world.becomes(VmState::Stopped);
    let backup = world.back_up();
    world.ask(user("alice"), CommandKind::BackupRestore { backup: None }).unwrap();
    assert_eq!(world.effect(), Effect::RestoreInPlace { backup });
    // A cloud builds a VM that is off anew under a task of its own, and leaves it off.
    world.cloud_does(Some("rebuilding"));
    world.cloud_does(None);
    world.done();
    assert_eq!((world.count("backup.restored"), world.raised(Alert::ActionStuck)), (1, 0));
    world.pass(days(1));
    assert_eq!(world.times(|issued| matches!(issued, Effect::Start | Effect::HardReboot)), 0, "nobody starts it");
    assert_eq!(world.rec.health, Health::Paused { reason: PauseReason::NotRunning }, "nor is it down");
}

#[test]
fn nothing_is_done_for_a_vm_that_is_gone() {
    let mut world = World::created(policy());
    world.vanish();
    for kind in [
        CommandKind::VmStart,
        CommandKind::BackupRun,
        CommandKind::RepairRun,
        CommandKind::LeaseEnd,
        CommandKind::VmAdopt,
    ] {
        assert_eq!(world.ask(operator(), kind).unwrap_err().code, RefusalCode::Conflict);
    }
}

#[test]
fn a_policy_that_does_not_exist_cannot_be_put_in_charge_nor_by_anybody_but_an_operator() {
    let mut world = World::created(policy());
    let kind = CommandKind::LeaseSetPolicy { policy: "gold".into() };
    assert_eq!(world.ask(operator(), kind.clone()).unwrap_err().code, RefusalCode::NotFound);
    assert_eq!(world.ask(user("alice"), kind).unwrap_err().code, RefusalCode::Denied);
}

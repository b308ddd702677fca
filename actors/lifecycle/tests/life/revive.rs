//! Revival: a VM that is gone lives again, once per request.

use reeve_lifecycle::input::{Ignored, VmInput};
use reeve_lifecycle::record::Lease;
use reeve_lifecycle::{Done, Effect, Outcome, Verdict};
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::event::{Alert, EventKind, Origin};
use reeve_protocol::observation::VmState;

use crate::common::*;

const REVIVE: CommandKind = CommandKind::VmRevive { backup: None, name: None };

fn launches(world: &World) -> usize {
    world.times(|effect| matches!(effect, Effect::Launch { .. }))
}

#[test]
fn a_vm_that_was_destroyed_lives_again_from_its_final_backup_under_its_name() {
    let mut world = World::destroyed(policy());
    let backup = world.rec.backups[0].id;
    assert_eq!(world.ask(user("alice"), REVIVE).unwrap().backup, Some(backup));
    assert_eq!(world.effect(), Effect::Launch { backup, name: "web-1".into() });
    world.done();
    assert_eq!(world.effect(), Effect::Introduce { new_vm: other_vm() });
    world.done();
    assert_eq!(*world.last("vm.revived"), EventKind::VmRevived { new_vm: other_vm(), backup });
    assert!(world.rec.is_gone() && world.rec.operation.is_none());
}

#[test]
fn the_new_vm_remembers_its_ancestor_and_has_a_new_lease() {
    let mut world = World::unseen(policy());
    world.now = T0 + secs(30);
    world.input(VmInput::Introduced {
        revived_from: Some(other_vm()),
        facts: facts(VmState::Active),
        said: asked(world.now),
    });
    assert_eq!(world.rec.revived_from, Some(other_vm()));
    assert_eq!(world.term().ends_at, T0 + days(30));
    assert!(
        matches!(world.last("vm.discovered"), EventKind::VmDiscovered { origin: Origin::Revived { from }, .. } if *from == other_vm())
    );
    let before = world.rec.clone();
    world.input(VmInput::Introduced {
        revived_from: Some(other_vm()),
        facts: facts(VmState::Active),
        said: asked(world.now),
    });
    assert_eq!(world.rec, before, "told twice");
}

#[test]
fn a_vm_that_exists_cannot_be_revived() {
    let mut world = World::created(policy());
    world.back_up();
    assert_eq!(world.ask(user("alice"), REVIVE).unwrap_err().code, RefusalCode::Conflict);
}

#[test]
fn without_a_verified_backup_there_is_nothing_to_revive_from() {
    let mut world = World::created(policy());
    world.vanish();
    assert_eq!(world.ask(user("alice"), REVIVE).unwrap_err().code, RefusalCode::NotFound);
}

#[test]
fn who_neither_owned_the_vm_nor_operates_may_not_revive_it() {
    let mut world = World::destroyed(policy());
    assert_eq!(world.ask(user("eve"), REVIVE).unwrap_err().code, RefusalCode::Denied);
}

#[test]
fn the_same_request_twice_makes_one_vm_and_gets_one_answer() {
    let mut world = World::destroyed(policy());
    let first = world.ask_as("r", user("alice"), REVIVE);
    let again = VmInput::Commanded { command: command("r", user("alice"), REVIVE), policy: None };
    assert_eq!(world.input(again.clone()), Verdict::Ignored(Ignored::Duplicate(Some(first.clone()))));
    assert_eq!(world.ask(user("alice"), REVIVE).unwrap_err().code, RefusalCode::Conflict);
    world.finish();
    assert_eq!(world.input(again), Verdict::Ignored(Ignored::Duplicate(Some(first))));
    assert_eq!(launches(&world), 1);
}

#[test]
fn a_launch_whose_answer_was_lost_is_asked_again_under_the_same_key() {
    let mut world = World::destroyed(policy());
    world.ask(user("alice"), REVIVE).unwrap();
    let key = world.work().unwrap().key;
    for _ in 0..10 {
        world.answer(Outcome::Unknown { reason: "timed out".into() });
        world.wake();
        assert_eq!(world.work().unwrap().key, key);
    }
    assert_eq!(world.raised(Alert::ReviveStuck), 1);
    world.crash();
    world.finish();
    assert_eq!(world.count("vm.revived"), 1);
    assert!(world.rec.alerts.is_empty());
}

#[test]
fn a_new_vm_that_went_before_it_was_introduced_ends_the_revival_and_a_human_is_told() {
    let mut world = World::destroyed(policy());
    world.ask(user("alice"), REVIVE).unwrap();
    world.answer(Outcome::Done(Done::Launched { new_vm: other_vm() }));
    for _ in 0..5 {
        if world.work().is_none() {
            world.wake();
        }
        world.answer(Outcome::NotApplied { reason: "the new VM is gone".into() });
    }
    assert!(world.rec.operation.is_none());
    assert_eq!((world.raised(Alert::ReviveStuck), launches(&world)), (1, 1));
    assert_eq!((world.count("vm.revive-started"), world.count("vm.revive-failed")), (1, 1));
}

#[test]
fn a_revival_that_the_cloud_refuses_is_given_up_and_a_human_told() {
    let mut world = World::destroyed(policy());
    world.ask(user("alice"), REVIVE).unwrap();
    for _ in 0..5 {
        if world.work().is_none() {
            world.wake();
        }
        world.answer(Outcome::NotApplied { reason: "quota".into() });
    }
    assert!(world.rec.operation.is_none());
    assert_eq!(world.raised(Alert::ReviveStuck), 1);
    assert!(matches!(world.rec.lease, Lease::Ended { .. }));
}

//! The end of a VM: in order, never past a failure, and cancelled or overtaken at each step.

use reeve_lifecycle::operation::Operation;
use reeve_lifecycle::policy::{LeasePolicy, OnEnd};
use reeve_lifecycle::record::{BackupState, Hold, Lease, LeasePhase, MAX_BACKUPS, Presence};
use reeve_lifecycle::{Effect, Outcome, Policy, VmInput};
use reeve_protocol::Span;
use reeve_protocol::command::{BackupFirst, CommandKind, RefusalCode};
use reeve_protocol::event::{Alert, LeaseEndReason};
use reeve_protocol::observation::VmState;

use crate::common::*;

fn on_end(on_end: OnEnd) -> Policy {
    with_lease(LeasePolicy { on_end, ..LeasePolicy::default() })
}

/// The effects of an operation in order, by name.
fn steps(world: &World) -> Vec<String> {
    let word = |effect: &Effect| format!("{effect:?}").split([' ', '{']).next().unwrap_or_default().to_owned();
    world
        .issued
        .iter()
        .map(|pending| word(&pending.effect))
        .filter(|name| name != "Notify" && name != "DropSnapshots")
        .collect()
}

const WHOLE: [&str; 13] = [
    "Stop",
    "TakeInventory",
    "SnapshotDisk",
    "SnapshotDisk",
    "SnapshotDisk",
    "StoreDisk",
    "StoreDisk",
    "StoreDisk",
    "SealBackup",
    "VerifyBackup",
    "DeleteServer",
    "DeleteVolume",
    "ReleaseAddress",
];

#[test]
fn backup_and_delete_stops_backs_up_verifies_and_destroys_server_own_volumes_and_addresses_in_this_order() {
    let mut world = World::ending(policy());
    world.finish();
    assert_eq!(steps(&world), WHOLE);
    assert_eq!(world.times(|effect| *effect == Effect::DeleteVolume { volume: "v-own".into() }), 1);
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::Destroyed, .. }));
    assert!(matches!(world.rec.backups[..], [ref entry] if matches!(entry.state, BackupState::Verified { .. })));
    for kind in ["vm.terminating", "vm.terminated", "lease.expired", "lease.ended", "backup.verified"] {
        assert_eq!(world.count(kind), 1, "{kind}");
    }
}

#[test]
fn a_vm_that_is_off_already_is_not_stopped_before_its_backup() {
    let mut world = World::created(policy());
    world.becomes(VmState::Stopped);
    world.go(T0 + days(30));
    assert_eq!(world.effect(), Effect::TakeInventory);
}

#[test]
fn on_end_delete_destroys_without_a_backup() {
    let mut world = World::ending(on_end(OnEnd::Delete));
    world.finish();
    assert_eq!(steps(&world), ["TakeInventory", "DeleteServer", "DeleteVolume", "ReleaseAddress"]);
    assert!(world.rec.is_gone() && world.rec.backups.is_empty());
}

#[test]
fn on_end_stop_and_suspend_end_the_lease_and_keep_the_vm() {
    for (terms, effect, reason) in [
        (OnEnd::Stop, Effect::Stop, LeaseEndReason::Stopped),
        (OnEnd::Suspend, Effect::Suspend, LeaseEndReason::Suspended),
    ] {
        let mut world = World::ending(on_end(terms));
        assert_eq!(world.effect(), effect);
        world.finish();
        assert!(matches!(world.rec.lease, Lease::Ended { reason: ended, .. } if ended == reason));
        assert!(matches!(world.rec.presence, Presence::Present { .. }));
        assert_eq!(world.issued.iter().filter(|pending| pending.effect.is_destructive()).count(), 1);
    }
}

#[test]
fn no_step_is_passed_that_failed_it_is_retried_with_back_off_and_a_human_told_once() {
    let retried: [fn(&Effect) -> bool; 4] = [
        |effect| *effect == Effect::Stop,
        |effect| *effect == Effect::DeleteServer,
        |effect| matches!(effect, Effect::DeleteVolume { .. }),
        |effect| matches!(effect, Effect::ReleaseAddress { .. }),
    ];
    for step in retried {
        let mut world = World::ending(policy());
        world.done_until(step);
        let (effect, key) = (world.effect(), world.work().unwrap().key);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let failed_at = world.now;
            world.answer(Outcome::NotApplied { reason: "quota".into() });
            world.wake();
            assert_eq!((world.effect(), world.work().unwrap().key), (effect.clone(), key), "the same key again");
            pauses.push(world.now.since(failed_at));
        }
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1]), "{effect:?}: {pauses:?}");
        assert_eq!(world.raised(Alert::EndingStuck), 1, "{effect:?}");
        world.finish();
        assert!(world.rec.is_gone() && world.rec.alerts.is_empty());
        assert_eq!(world.count("alert.cleared"), 1);
    }
}

#[test]
fn an_unknown_outcome_is_looked_into_under_the_same_key() {
    let mut world = World::ending(policy());
    world.done_until(|effect| *effect == Effect::DeleteServer);
    let key = world.work().unwrap().key;
    world.answer(Outcome::Unknown { reason: "timed out".into() });
    world.wake();
    assert_eq!((world.work().unwrap().key, world.work().unwrap().failures), (key, 1));
    world.finish();
    assert!(world.rec.is_gone());
}

#[test]
fn a_final_backup_that_fails_is_tried_for_ever_and_nothing_is_destroyed_meanwhile() {
    let mut world = World::ending(policy());
    world.done();
    for _ in 0..50 {
        if world.work().is_none() {
            world.wake();
        }
        assert_eq!(world.effect(), Effect::TakeInventory);
        world.answer(Outcome::NotApplied { reason: "vault full".into() });
        world.background();
    }
    assert_eq!(world.raised(Alert::EndingStuck), 1);
    assert_eq!(world.count("backup.failed"), 50);
    assert_eq!(world.times(|effect| *effect == Effect::DeleteServer), 0);
    world.finish();
    assert!(world.rec.is_gone() && world.rec.alerts.is_empty());
}

#[test]
fn a_damaged_final_backup_destroys_nothing() {
    let mut world = World::ending(policy());
    world.done_until(|effect| matches!(effect, Effect::VerifyBackup { .. }));
    world.answer(Outcome::Done(reeve_lifecycle::Done::Damaged { what: "root differs".into() }));
    assert!(matches!(world.rec.operation, Some(Operation::Ending(_))));
    assert_eq!(world.times(|effect| *effect == Effect::DeleteServer), 0);
    world.wake();
    assert_eq!(world.effect(), Effect::TakeInventory, "a new backup is made");
}

#[test]
fn with_too_many_backups_the_ending_waits_tells_a_human_and_goes_on_when_there_is_room() {
    let mut world = World::ending(policy());
    world.done();
    for _ in 0..2 * MAX_BACKUPS {
        if world.work().is_none() {
            world.wake();
        }
        if world.work().is_some() {
            world.answer(Outcome::NotApplied { reason: "vault away".into() });
        }
    }
    assert!(world.rec.backups.len() <= MAX_BACKUPS, "what failed could not be removed");
    world.wake();
    assert!(world.work().is_none());
    assert_eq!(world.raised(Alert::EndingStuck), 1);
    world.finish();
    assert!(world.rec.is_gone());
}

/// Every point of a whole ending: so many effects answered.
fn at_each_step(mut check: impl FnMut(World, usize)) {
    for done in 0..WHOLE.len() {
        let mut world = World::ending(policy());
        for _ in 0..done {
            world.done();
        }
        check(world, done);
    }
}

const DELETE_SERVER: usize = 10;

#[test]
fn an_end_can_be_cancelled_in_each_step_before_the_deletion_is_issued_and_not_after() {
    at_each_step(|mut world, done| {
        let answer = world.ask(operator(), CommandKind::LeaseCancelEnd);
        if done >= DELETE_SERVER {
            assert_eq!(answer.unwrap_err().code, RefusalCode::Conflict, "{}", WHOLE[done]);
            world.finish();
            assert!(world.rec.is_gone());
            return;
        }
        answer.unwrap();
        assert_eq!(world.phase(), LeasePhase::Active);
        assert_eq!(world.term().ends_at, world.now + hours(24));
        assert_eq!(world.effect(), Effect::Start, "{}", WHOLE[done]);
        world.finish();
        assert!(world.rec.effects.is_empty() && world.rec.alerts.is_empty());
        assert_eq!(world.times(|effect| *effect == Effect::DeleteServer), 0);
        world.go(world.term().ends_at);
        world.finish();
        assert!(world.rec.is_gone(), "the end comes again");
    });
}

#[test]
fn a_cancelled_end_does_not_start_a_vm_that_its_owner_had_stopped() {
    let mut world = World::created(policy());
    world.becomes(VmState::Stopped);
    world.go(T0 + days(30));
    world.done();
    world.ask(operator(), CommandKind::LeaseCancelEnd).unwrap();
    assert!(world.work().is_none());
}

#[test]
fn a_cancelled_suspension_is_resumed() {
    let mut world = World::ending(on_end(OnEnd::Suspend));
    world.ask(operator(), CommandKind::LeaseCancelEnd).unwrap();
    assert_eq!(world.effect(), Effect::Resume);
}

#[test]
fn an_end_that_waits_for_its_turn_can_be_cancelled() {
    let mut world = World::created(policy());
    world.cloud_does(Some("resizing"));
    world.go(T0 + days(30));
    world.ask(operator(), CommandKind::LeaseCancelEnd).unwrap();
    world.cloud_does(None);
    assert!(world.work().is_none());
    assert_eq!(world.phase(), LeasePhase::Active);
}

#[test]
fn only_an_operator_may_cancel_an_end_and_only_one_that_there_is() {
    let mut world = World::ending(policy());
    assert_eq!(world.ask(user("alice"), CommandKind::LeaseCancelEnd).unwrap_err().code, RefusalCode::Denied);
    let mut idle = World::created(policy());
    assert_eq!(idle.ask(operator(), CommandKind::LeaseCancelEnd).unwrap_err().code, RefusalCode::Conflict);
}

#[test]
fn a_vm_that_its_owner_deletes_in_any_step_ends_gone_and_only_what_the_ending_began_to_delete_goes_with_it() {
    at_each_step(|mut world, done| {
        world.vanish();
        world.finish();
        world.background();
        assert!(world.rec.is_gone());
        let expected = if done >= DELETE_SERVER { LeaseEndReason::Destroyed } else { LeaseEndReason::VmGone };
        assert!(matches!(world.rec.lease, Lease::Ended { reason, .. } if reason == expected), "{}", WHOLE[done]);
        let volumes = world.times(|effect| matches!(effect, Effect::DeleteVolume { .. }));
        assert_eq!(volumes, usize::from(done >= DELETE_SERVER));
        assert_eq!((world.count("lease.ended"), world.count("vm.terminated")), (1, 1), "{}", WHOLE[done]);
        assert!(world.rec.effects.is_empty());
    });
}

#[test]
fn a_soft_delete_parks_the_lease_in_each_step_before_the_deletion_and_a_restore_resumes_it() {
    at_each_step(|mut world, done| {
        world.becomes(VmState::SoftDeleted);
        if done >= DELETE_SERVER {
            world.finish();
            assert!(world.rec.is_gone());
            return;
        }
        assert!(matches!(world.rec.lease, Lease::Parked { .. }), "{}", WHOLE[done]);
        world.background();
        world.pass(days(3));
        assert!(world.work().is_none(), "nothing touches a soft-deleted VM");
        world.becomes(VmState::Active);
        assert_eq!(world.phase(), LeasePhase::Active);
        assert_eq!(world.term().ends_at, world.now + hours(24));
    });
}

#[test]
fn a_crash_between_the_commit_and_the_effect_loses_nothing_in_any_step() {
    at_each_step(|mut world, done| {
        let (key, effect) = (world.work().unwrap().key, world.effect());
        world.crash();
        assert_eq!((world.work().unwrap().key, world.effect()), (key, effect), "{}", WHOLE[done]);
        world.finish();
        let mut keys: Vec<_> = world.issued.iter().map(|pending| pending.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), world.issued.len(), "no effect was issued twice");
        assert!(world.rec.is_gone());
    });
}

#[test]
fn the_answer_of_an_abandoned_step_is_over_and_changes_nothing() {
    at_each_step(|mut world, done| {
        if done >= DELETE_SERVER {
            return;
        }
        let key = world.work().unwrap().key;
        let answer = Outcome::Done(world.natural(&world.effect()));
        world.ask(operator(), CommandKind::LeaseCancelEnd).unwrap();
        let before = world.rec.clone();
        let verdict = world.input(VmInput::EffectDone { key, outcome: answer });
        assert_eq!(verdict, reeve_lifecycle::Verdict::Ignored(reeve_lifecycle::Ignored::Over));
        assert_eq!(world.rec, before);
    });
}

#[test]
fn an_answer_that_comes_twice_counts_once() {
    at_each_step(|mut world, _| {
        let key = world.work().unwrap().key;
        let answer = Outcome::Done(world.natural(&world.effect()));
        world.answer(answer.clone());
        let before = world.rec.clone();
        world.input(VmInput::EffectDone { key, outcome: answer });
        assert_eq!(world.rec, before);
    });
}

#[test]
fn the_end_on_request_comes_now_as_the_policy_says() {
    let mut world = World::created(policy());
    world.ask(user("alice"), CommandKind::LeaseEnd).unwrap();
    world.finish();
    assert_eq!(steps(&world), WHOLE);
    let mut again = World::ending(policy());
    assert_eq!(again.ask(operator(), CommandKind::LeaseEnd).unwrap_err().code, RefusalCode::Conflict);
}

#[test]
fn a_deletion_on_request_backs_up_as_the_policy_says_unless_the_requester_refuses_it() {
    let mut kept = World::created(on_end(OnEnd::Stop));
    kept.ask(user("alice"), CommandKind::VmDelete { backup: BackupFirst::AsPolicy }).unwrap();
    kept.finish();
    assert_eq!(steps(&kept), WHOLE);
    let mut bare = World::created(policy());
    bare.ask(user("alice"), CommandKind::VmDelete { backup: BackupFirst::No }).unwrap();
    bare.finish();
    assert!(bare.rec.is_gone() && bare.rec.backups.is_empty());
    let mut strangers = World::created(policy());
    let refused = strangers.ask(user("eve"), CommandKind::VmDelete { backup: BackupFirst::No });
    assert_eq!(refused.unwrap_err().code, RefusalCode::Denied);
}

#[test]
fn a_vm_deleted_before_its_launch_was_heard_of_has_no_running_lease_once_it_is_gone() {
    let mut world = World::unseen(policy());
    world.list(facts(VmState::Building));
    world.ask(operator(), CommandKind::VmDelete { backup: BackupFirst::No }).unwrap();
    world.now = world.now + secs(1);
    world.list(facts(VmState::Active));
    world.finish();
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::Destroyed, .. }));
}

#[test]
fn a_soft_deleted_vm_that_is_being_deleted_on_request_has_a_lease_that_ends_though_it_is_restored() {
    let mut world = World::created(policy());
    world.becomes(VmState::SoftDeleted);
    world.ask(operator(), CommandKind::VmDelete { backup: BackupFirst::No }).unwrap();
    world.becomes(VmState::Active);
    assert!(matches!(world.phase(), LeasePhase::Ending { .. }));
    world.finish();
    assert!(matches!(world.rec.lease, Lease::Ended { reason: LeaseEndReason::Destroyed, .. }));
}

#[test]
fn failures_of_a_scheduled_backup_do_not_count_against_the_final_one() {
    let mut world = World::created(policy());
    world.rec.schedule.failures = 7;
    world.go(T0 + days(30));
    world.done();
    world.answer(Outcome::NotApplied { reason: "no".into() });
    assert_eq!(world.raised(Alert::EndingStuck), 0);
}

#[test]
fn a_final_backup_that_may_be_kept_for_no_time_is_kept_until_everything_is_destroyed() {
    let mut policy = policy();
    policy.backup.keep_final = Span::ZERO;
    let mut world = World::ending(policy);
    world.done_until(|effect| matches!(effect, Effect::ReleaseAddress { .. }));
    assert!(matches!(world.rec.backups[0].state, BackupState::Verified { .. }));
}

#[test]
fn a_vm_that_was_started_after_its_final_backup_is_stopped_and_backed_up_again_before_it_is_destroyed() {
    let mut world = World::ending(policy());
    world.done_until(|effect| matches!(effect, Effect::VerifyBackup { .. }));
    world.input(VmInput::HoldRaised(Hold::CloudUnreadable));
    world.done();
    world.pass(secs(5));
    world.becomes(VmState::Active);
    world.input(VmInput::HoldLifted(Hold::CloudUnreadable));
    let pending = |world: &World, wanted: fn(&Effect) -> bool| world.rec.effects.iter().any(|p| wanted(&p.effect));
    assert!(pending(&world, |effect| matches!(effect, Effect::Stop)), "{:?}", world.rec.effects);
    assert!(!pending(&world, |effect| matches!(effect, Effect::DeleteServer)));
}

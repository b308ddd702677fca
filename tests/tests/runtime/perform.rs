//! Effects against a cloud that fails: each is failed, repeated, cut off and robbed of its answer, and the audit shows
//! that what changes something was done exactly once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_lifecycle::effect::Disk;
use reeve_lifecycle::{Done, Effect, Outcome, PendingEffect};
use reeve_ports::Cloud;
use reeve_protocol::Span;

use crate::perform_bench::Bench;

/// The effects that change something in the cloud.
const FAMILIES: [CallKind; 12] = [
    CallKind::Start,
    CallKind::Resume,
    CallKind::Stop,
    CallKind::Suspend,
    CallKind::HardReboot,
    CallKind::DeleteServer,
    CallKind::DeleteVolume,
    CallKind::ReleaseAddress,
    CallKind::Snapshot,
    CallKind::DeleteSnapshot,
    CallKind::RestoreInPlace,
    CallKind::Launch,
];

/// A bench, and the effect that leads to one call of this kind.
async fn prepared(family: CallKind) -> (Bench, PendingEffect) {
    let mut bench = Bench::new();
    let vm = bench.vm;
    let truth = bench.sim.ground_truth(vm).unwrap();
    let effect = match family {
        CallKind::Start => {
            bench.beforehand(Effect::Stop).await;
            Effect::Start
        }
        CallKind::Resume => {
            bench.beforehand(Effect::Suspend).await;
            Effect::Resume
        }
        CallKind::Stop => Effect::Stop,
        CallKind::Suspend => Effect::Suspend,
        CallKind::HardReboot => Effect::HardReboot,
        CallKind::DeleteServer => Effect::DeleteServer,
        CallKind::DeleteVolume => {
            bench.beforehand(Effect::DeleteServer).await;
            Effect::DeleteVolume { volume: truth.volumes[0].clone() }
        }
        CallKind::ReleaseAddress => Effect::ReleaseAddress { address: truth.addresses[0].clone() },
        CallKind::Snapshot => {
            let inventory = bench.sim.inventory(vm).await.unwrap();
            let backup = bench.list_backup(inventory);
            Effect::SnapshotDisk { backup, disk: Disk::Root }
        }
        CallKind::DeleteSnapshot => {
            let backup = bench.list_backup(reeve_lifecycle::effect::Inventory::default());
            bench.beforehand(Effect::SnapshotDisk { backup, disk: Disk::Root }).await;
            Effect::DropSnapshots { backup, snapshots: Vec::new() }
        }
        CallKind::RestoreInPlace => Effect::RestoreInPlace { backup: bench.back_up().await },
        CallKind::Launch => Effect::Launch { backup: bench.back_up().await, name: "again".to_owned() },
        other => panic!("{other:?} is no family"),
    };
    bench.mark();
    let pending = bench.decide(effect);
    (bench, pending)
}

/// Performs until done and then twice more, as after crashes that lost the outcome: one call had an effect.
async fn done_once(bench: &Bench, pending: &PendingEffect, family: CallKind, told: &str) {
    let first = bench.until_done(pending).await;
    for _ in 0..2 {
        assert_eq!(bench.until_done(pending).await, first, "{family:?}, {told}: the same again is the same");
    }
    assert_eq!(bench.applied(family), 1, "{family:?}, {told}");
}

#[tokio::test]
async fn a_call_that_fails_or_loses_its_answer_is_applied_exactly_once() {
    for family in FAMILIES {
        for fault in [
            FaultKind::Error,
            FaultKind::TimeoutBefore,
            FaultKind::TimeoutAfter,
            FaultKind::Slow(Span::from_secs(1)),
            FaultKind::Hang,
            FaultKind::Refused,
            FaultKind::Quota,
        ] {
            let (bench, pending) = prepared(family).await;
            bench.sim.inject(Fault::next(family, fault)).unwrap();
            let first = bench.attempt(&pending).await;
            let expected = match fault {
                FaultKind::Error => matches!(first, Outcome::Retryable { .. }),
                FaultKind::TimeoutBefore | FaultKind::TimeoutAfter | FaultKind::Hang => {
                    matches!(first, Outcome::Unknown { .. })
                }
                FaultKind::Refused | FaultKind::Quota => {
                    matches!(first, Outcome::NotApplied { .. } | Outcome::Retryable { .. })
                }
                FaultKind::Slow(_) => matches!(first, Outcome::Done(_)),
                other => panic!("{other:?} is not injected here"),
            };
            assert!(expected, "{family:?} with {fault:?} comes to {first:?}");
            assert_eq!(bench.sim.faults_ordered(), 0, "{family:?} met {fault:?}");
            done_once(&bench, &pending, family, &format!("{fault:?}")).await;
        }
    }
}

#[tokio::test]
async fn a_look_that_fails_before_or_after_the_call_changes_nothing_about_it() {
    for family in FAMILIES {
        let look = match family {
            CallKind::DeleteVolume => CallKind::VolumeExists,
            CallKind::ReleaseAddress => CallKind::AddressHeld,
            CallKind::Snapshot | CallKind::DeleteSnapshot => CallKind::FindSnapshots,
            _ => CallKind::Show,
        };
        for skip in [0, 1] {
            for fault in [FaultKind::Error, FaultKind::Hang] {
                let (bench, pending) = prepared(family).await;
                bench.sim.inject(Fault::next(look, fault).after(skip)).unwrap();
                let first = bench.attempt(&pending).await;
                assert!(
                    matches!(first, Outcome::Retryable { .. } | Outcome::Done(_)),
                    "{family:?}, look {skip} with {fault:?}: looking changes nothing, {first:?}"
                );
                done_once(&bench, &pending, family, &format!("look {skip} with {fault:?}")).await;
            }
        }
    }
}

#[tokio::test]
async fn an_attempt_cut_off_at_any_moment_is_continued_and_not_begun_again() {
    for family in FAMILIES {
        for after_ms in [0, 20, 60, 110, 200] {
            let (bench, pending) = prepared(family).await;
            let cut = bench.clock.clone();
            let after = Duration::from_millis(after_ms);
            tokio::select! {
                biased;
                _ = bench.attempt(&pending) => {}
                () = reeve_ports::Clock::sleep(cut.as_ref(), after) => {}
            }
            done_once(&bench, &pending, family, &format!("cut off after {after_ms} ms")).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_destroyed_or_replaced_when_the_term_is_over() {
    for family in FAMILIES {
        let (bench, pending) = prepared(family).await;
        if !pending.effect.is_destructive() {
            continue;
        }
        bench.term.is_over.store(true, Ordering::SeqCst);
        let outcome = bench.attempt(&pending).await;
        assert!(matches!(outcome, Outcome::Retryable { .. }), "{family:?}: {outcome:?}");
        assert_eq!(bench.changes(), 0, "{family:?}");
    }
}

#[tokio::test]
async fn a_locked_vm_is_not_touched_although_an_administrator_could() {
    let touching =
        [CallKind::Stop, CallKind::Suspend, CallKind::HardReboot, CallKind::DeleteServer, CallKind::RestoreInPlace];
    for family in touching {
        let (mut bench, pending) = prepared(family).await;
        bench.sim.lock_vm(bench.vm).unwrap();
        bench.mark();
        let outcome = bench.attempt(&pending).await;
        assert!(matches!(&outcome, Outcome::NotApplied { reason } if reason.contains("locked")), "{outcome:?}");
        let asked = bench.sim.audit().into_iter().filter(|entry| entry.call == family);
        assert_eq!(asked.count(), 0, "{family:?} is not even asked for");
        bench.sim.unlock_vm(bench.vm).unwrap();
        bench.mark();
        done_once(&bench, &pending, family, "unlocked").await;
    }
}

#[tokio::test]
async fn a_failed_snapshot_is_removed_and_taken_again() {
    let (bench, pending) = prepared(CallKind::Snapshot).await;
    bench.sim.inject(Fault::next(CallKind::Snapshot, FaultKind::FailedSnapshot)).unwrap();
    let first = bench.attempt(&pending).await;
    assert!(matches!(first, Outcome::Retryable { .. }), "{first:?}");
    let done = bench.until_done(&pending).await;
    assert_eq!(bench.until_done(&pending).await, done);
    assert_eq!(bench.applied(CallKind::Snapshot), 2);
    assert_eq!(bench.applied(CallKind::DeleteSnapshot), 1, "what failed is gone, what is ready stays");
}

#[tokio::test]
async fn a_truncated_snapshot_is_never_taken_for_a_stored_disk() {
    let (bench, pending) = prepared(CallKind::Snapshot).await;
    bench.sim.inject(Fault::next(CallKind::Snapshot, FaultKind::TruncatedSnapshot)).unwrap();
    let Done::Snapshot(snapshot) = bench.until_done(&pending).await else { panic!("no snapshot") };
    let Effect::SnapshotDisk { backup, .. } = pending.effect else { panic!("another effect") };
    let store = bench.decide(Effect::StoreDisk { backup, snapshot });
    for _ in 0..3 {
        let outcome = bench.attempt(&store).await;
        assert!(matches!(&outcome, Outcome::Retryable { reason } if reason.contains("short read")), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_read_that_fails_is_made_again_from_its_beginning() {
    let (bench, pending) = prepared(CallKind::Snapshot).await;
    let Done::Snapshot(snapshot) = bench.until_done(&pending).await else { panic!("no snapshot") };
    let Effect::SnapshotDisk { backup, .. } = pending.effect else { panic!("another effect") };
    let store = bench.decide(Effect::StoreDisk { backup, snapshot });
    let whole = bench.until_done(&store).await;
    for fault in [FaultKind::Error, FaultKind::BrokenStream, FaultKind::TimeoutAfter, FaultKind::Hang] {
        bench.sim.inject(Fault::next(CallKind::ReadSnapshot, fault)).unwrap();
        let outcome = bench.attempt(&store).await;
        assert!(matches!(outcome, Outcome::Retryable { .. }), "{fault:?}: {outcome:?}");
        assert_eq!(bench.until_done(&store).await, whole);
    }
}

#[tokio::test]
async fn a_backup_is_sealed_verified_and_removed_any_number_of_times() {
    let mut bench = Bench::new();
    let backup = bench.back_up().await;
    for _ in 0..3 {
        let verified = bench.attempt(&bench.decide(Effect::VerifyBackup { backup })).await;
        assert!(matches!(verified, Outcome::Done(Done::Verified { .. })), "{verified:?}");
    }
    bench.term.is_over.store(true, Ordering::SeqCst);
    let refused = bench.attempt(&bench.decide(Effect::DeleteBackup { backup })).await;
    assert!(matches!(refused, Outcome::Retryable { .. }), "{refused:?}");
    bench.term.is_over.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        let deleted = bench.attempt(&bench.decide(Effect::DeleteBackup { backup })).await;
        assert!(matches!(deleted, Outcome::Done(Done::Plain)), "{deleted:?}");
    }
    let verified = bench.attempt(&bench.decide(Effect::VerifyBackup { backup })).await;
    assert!(matches!(verified, Outcome::Done(Done::Damaged { .. })), "{verified:?}");
}

#[tokio::test]
async fn a_vm_that_failed_to_be_built_is_removed_with_all_that_was_made_for_it_and_made_again() {
    let (bench, pending) = prepared(CallKind::Launch).await;
    bench.builder.fails.store(2, Ordering::SeqCst);
    for _ in 0..2 {
        let outcome = bench.attempt(&pending).await;
        assert!(matches!(&outcome, Outcome::NotApplied { reason } if reason.contains("removed")), "{outcome:?}");
    }
    let Done::Launched { new_vm } = bench.until_done(&pending).await else { panic!("not launched") };
    let broken = bench.builder.broken.lock().unwrap().clone();
    assert_eq!(broken.len(), 2);
    for failed in &broken {
        let truth = bench.sim.ground_truth(*failed).unwrap();
        assert!(truth.gone && truth.volumes.is_empty() && truth.addresses.is_empty(), "{truth:?}");
        assert_eq!(bench.sim.times_applied(CallKind::DeleteServer, *failed), 1);
    }
    assert_eq!(bench.applied(CallKind::Launch), 3);
    for kept in [bench.vm, new_vm] {
        let truth = bench.sim.ground_truth(kept).unwrap();
        assert!(!truth.gone && truth.volumes.len() == 1 && truth.addresses.len() == 1, "{truth:?}");
    }
}

#[tokio::test]
async fn a_failed_vm_left_by_an_interrupted_attempt_is_removed_by_the_next() {
    let (bench, pending) = prepared(CallKind::Launch).await;
    bench.builder.fails.store(1, Ordering::SeqCst);
    bench.sim.inject(Fault::next(CallKind::DeleteServer, FaultKind::TimeoutBefore)).unwrap();
    let outcome = bench.attempt(&pending).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    let Done::Launched { new_vm } = bench.until_done(&pending).await else { panic!("not launched") };
    assert_eq!(bench.applied(CallKind::Launch), 2);
    assert_eq!(bench.applied(CallKind::DeleteServer), 1);
    assert_eq!(bench.until_done(&pending).await, Done::Launched { new_vm });
}

#[tokio::test]
async fn a_vm_that_ran_once_is_never_removed_by_its_launch() {
    let (bench, pending) = prepared(CallKind::Launch).await;
    bench.builder.after_launch.store(true, Ordering::SeqCst);
    bench.builder.fails.store(1, Ordering::SeqCst);
    for _ in 0..3 {
        let outcome = bench.attempt(&pending).await;
        assert!(matches!(&outcome, Outcome::NotApplied { reason } if reason.contains("state error")), "{outcome:?}");
    }
    assert_eq!(bench.applied(CallKind::Launch), 1);
    assert_eq!(bench.applied(CallKind::DeleteServer), 0);
}

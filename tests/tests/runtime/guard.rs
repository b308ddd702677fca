//! A call that is under way when the right to act ends: it is dropped, and nobody claims to know what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_lifecycle::effect::{Disk, Snapshot, StoredDisk};
use reeve_lifecycle::{Done, Effect, Outcome, PendingEffect};
use reeve_ports::vault::{BackupPath, Manifest, Verification};
use reeve_ports::{Clock, Cloud, Vault, VaultError};
use reeve_protocol::{BackupId, CloudName, Generation, Span, VmId};

use crate::perform_bench::{Bench, Term};
use crate::world::until;

/// How the right to act ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The node may not act, and the claim lasts.
    Lapsed,
    /// The claim is over.
    Lost,
}

impl End {
    const ALL: [Self; 2] = [Self::Lapsed, Self::Lost];

    fn flag(self, term: &Term) -> &AtomicBool {
        match self {
            Self::Lapsed => &term.is_lapsed,
            Self::Lost => &term.is_lost,
        }
    }
}

/// What an attempt comes to whose right ends once its call is under way.
async fn cut(bench: &Bench, pending: &PendingEffect, end: End, under_way: impl Fn() -> bool) -> Outcome {
    let ends = async {
        until("the call is under way", || async { under_way().then_some(()) }).await;
        end.flag(&bench.term).store(true, Ordering::SeqCst);
    };
    let (outcome, ()) = tokio::join!(bench.attempt(pending), ends);
    end.flag(&bench.term).store(false, Ordering::SeqCst);
    outcome
}

fn assert_cut(outcome: &Outcome, told: &str) {
    let is_cut = matches!(outcome, Outcome::Unknown { reason } if reason.contains("right to act has ended"));
    assert!(is_cut, "{told}: {outcome:?}");
}

#[tokio::test]
async fn a_call_under_way_is_dropped_when_the_right_to_act_ends_and_its_outcome_is_unknown() {
    for family in [CallKind::Stop, CallKind::Snapshot, CallKind::RestoreInPlace, CallKind::Launch] {
        for end in End::ALL {
            let told = format!("{family:?}, {end:?}");
            let mut bench = Bench::new();
            let backup = bench.back_up().await;
            let pending = bench.decide(match family {
                CallKind::Snapshot => {
                    Effect::SnapshotDisk { backup: BackupId::of(bench.vm, Generation(6)), disk: Disk::Root }
                }
                CallKind::RestoreInPlace => Effect::RestoreInPlace { backup },
                CallKind::Launch => Effect::Launch { backup, name: "again".to_owned() },
                _ => Effect::Stop,
            });
            bench.mark();
            // It would be carried out after this, if whoever sent it waited.
            bench.sim.inject(Fault::next(family, FaultKind::Slow(Span::from_secs(60)))).unwrap();
            let outcome = cut(&bench, &pending, end, || bench.sim.faults_ordered() == 0).await;
            assert_cut(&outcome, &told);
            assert_eq!(bench.applied(family), 0, "{told}: nothing more is sent");
            bench.until_done(&pending).await;
            assert_eq!(bench.applied(family), 1, "{told}: who looks first does it once");
        }
    }
}

/// A vault whose content stops coming after the first chunk.
struct Stalling {
    inner: Arc<dyn Vault>,
    reading: Arc<AtomicBool>,
}

/// Says whether a stream is being read.
struct Reading(Arc<AtomicBool>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Vault for Stalling {
    async fn store(
        &self,
        path: &BackupPath,
        disk: &Disk,
        content: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<StoredDisk, VaultError> {
        let reading = Reading(Arc::clone(&self.reading));
        let stalled = futures::stream::poll_fn(move |_| {
            reading.0.store(true, Ordering::SeqCst);
            std::task::Poll::Pending
        });
        self.inner.store(path, disk, content.take(1).chain(stalled).boxed()).await
    }

    async fn seal(&self, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError> {
        self.inner.seal(path, manifest).await
    }

    async fn manifest(&self, path: &BackupPath) -> Result<Manifest, VaultError> {
        self.inner.manifest(path).await
    }

    async fn verify(&self, path: &BackupPath) -> Result<Verification, VaultError> {
        self.inner.verify(path).await
    }

    async fn read(
        &self,
        path: &BackupPath,
        name: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, VaultError> {
        self.inner.read(path, name).await
    }

    async fn delete(&self, path: &BackupPath) -> Result<(), VaultError> {
        self.inner.delete(path).await
    }

    async fn list(&self, cloud: &CloudName, vm: VmId) -> Result<Vec<BackupId>, VaultError> {
        self.inner.list(cloud, vm).await
    }
}

/// A backup whose disks are snapshotted, and those snapshots.
async fn snapshotted(bench: &mut Bench) -> (BackupId, Vec<Snapshot>) {
    let inventory = bench.sim.inventory(bench.vm).await.unwrap();
    let volumes: Vec<Disk> = inventory.volumes.iter().map(|volume| Disk::Volume(volume.id.clone())).collect();
    let backup = bench.list_backup(inventory);
    let mut snapshots = Vec::new();
    for disk in std::iter::once(Disk::Root).chain(volumes) {
        let taken = bench.beforehand(Effect::SnapshotDisk { backup, disk }).await;
        let Done::Snapshot(snapshot) = taken else { panic!("no snapshot: {taken:?}") };
        snapshots.push(snapshot);
    }
    bench.mark();
    (backup, snapshots)
}

#[tokio::test]
async fn a_disk_on_its_way_into_the_vault_is_read_no_further_when_the_right_to_act_ends() {
    for end in End::ALL {
        let mut bench = Bench::new();
        let (backup, snapshots) = snapshotted(&mut bench).await;
        let whole = Arc::clone(&bench.ports.vault);
        let reading = Arc::new(AtomicBool::default());
        bench.ports.timeouts.transfer = Duration::from_secs(60);
        bench.ports.vault = Arc::new(Stalling { inner: Arc::clone(&whole), reading: Arc::clone(&reading) });
        let pending = bench.decide(Effect::StoreDisk { backup, snapshot: snapshots[0].clone() });
        let outcome = cut(&bench, &pending, end, || reading.load(Ordering::SeqCst)).await;
        assert_cut(&outcome, &format!("{end:?}"));
        assert!(!reading.load(Ordering::SeqCst), "{end:?}: nobody reads it any more");
        bench.ports.vault = whole;
        assert!(matches!(bench.until_done(&pending).await, Done::Stored(_)));
    }
}

#[tokio::test]
async fn nothing_is_sent_while_the_right_to_act_has_lapsed() {
    let bench = Bench::new();
    bench.term.is_lapsed.store(true, Ordering::SeqCst);
    let outcome = bench.attempt(&bench.decide(Effect::Stop)).await;
    assert!(matches!(outcome, Outcome::Retryable { .. }), "{outcome:?}");
    assert_eq!(bench.changes(), 0);
}

#[tokio::test]
async fn snapshots_are_removed_only_by_who_owns_the_vm_and_that_is_confirmed_once_for_all_of_them() {
    let mut bench = Bench::new();
    let (backup, snapshots) = snapshotted(&mut bench).await;
    assert_eq!(snapshots.len(), 2);
    let pending = bench.decide(Effect::DropSnapshots { backup, snapshots });
    bench.term.is_over.store(true, Ordering::SeqCst);
    let outcome = bench.attempt(&pending).await;
    assert!(matches!(outcome, Outcome::Retryable { .. }), "{outcome:?}");
    assert_eq!(bench.changes(), 0);
    bench.term.is_over.store(false, Ordering::SeqCst);
    let before = bench.term.confirmed.load(Ordering::SeqCst);
    bench.until_done(&pending).await;
    assert_eq!(bench.applied(CallKind::DeleteSnapshot), 2);
    assert_eq!(bench.term.confirmed.load(Ordering::SeqCst) - before, 1);
}

#[tokio::test]
async fn a_failed_snapshot_is_left_alone_by_who_may_not_own_the_vm() {
    let mut bench = Bench::new();
    let backup = bench.list_backup(reeve_lifecycle::effect::Inventory::default());
    bench.sim.inject(Fault::next(CallKind::Snapshot, FaultKind::FailedSnapshot)).unwrap();
    let name = reeve_ports::cloud::snapshot_name(backup, &Disk::Root);
    bench.sim.snapshot(bench.vm, &Disk::Root, &name).await.unwrap();
    bench.clock.sleep(Duration::from_secs(1)).await;
    bench.term.is_over.store(true, Ordering::SeqCst);
    let outcome = bench.attempt(&bench.decide(Effect::SnapshotDisk { backup, disk: Disk::Root })).await;
    assert!(matches!(&outcome, Outcome::Retryable { reason } if reason.contains("not confirmed")), "{outcome:?}");
    assert_eq!(bench.applied(CallKind::DeleteSnapshot), 0);
}

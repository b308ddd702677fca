//! Inventory, snapshots, the way into the vault, and out of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::TryStreamExt;
use reeve_lifecycle::effect::{Disk, Snapshot, StoredDisk};
use reeve_lifecycle::{Done, Outcome};
use reeve_ports::cloud::{CloudSnapshot, SnapshotState, snapshot_name};
use reeve_ports::vault::{Manifest, ManifestObject, Verification};
use reeve_ports::{CloudError, VaultError};
use reeve_protocol::BackupId;
use reeve_protocol::event::BackupPurpose;

use super::wait::Patience;
use super::{Attempt, act_failed, look_failed, not_applied, retryable, unknown, vault_failed};

/// Looks what the VM consists of.
pub(super) async fn take_inventory(attempt: Attempt<'_>) -> Outcome {
    match attempt.cloud.inventory(attempt.vm.vm).await {
        Ok(inventory) => Outcome::Done(Done::Inventory(inventory)),
        Err(error) => look_failed(&error),
    }
}

/// Snapshots one disk, unless a snapshot of this name is there.
pub(super) async fn snapshot_disk(attempt: Attempt<'_>, backup: BackupId, disk: &Disk) -> Outcome {
    try_snapshot(attempt, backup, disk).await.unwrap_or_else(|outcome| outcome)
}

async fn try_snapshot(attempt: Attempt<'_>, backup: BackupId, disk: &Disk) -> Result<Outcome, Outcome> {
    let vm = attempt.vm.vm;
    let name = snapshot_name(backup, disk);
    let patience = Patience::new(attempt.clock(), attempt.timeouts().snapshot, attempt.timeouts().look_every);
    let mut begun = false;
    loop {
        let found = attempt.cloud.find_snapshots(vm, &name).await.map_err(|error| look_failed(&error))?;
        if let Some(kept) = found.iter().find(|one| matches!(one.state, SnapshotState::Ready { .. })) {
            // More than one: the answer to an earlier attempt was lost.
            let others: Vec<&str> = found.iter().map(|one| one.id.as_str()).filter(|id| *id != kept.id).collect();
            delete_snapshots(attempt, &others).await?;
            return Ok(Outcome::Done(Done::Snapshot(Snapshot { disk: disk.clone(), id: kept.id.clone() })));
        }
        let pending = found.iter().any(|one| one.state == SnapshotState::Pending);
        let failed: Vec<(&CloudSnapshot, &str)> = found.iter().filter_map(failure).collect();
        let ids: Vec<&str> = failed.iter().map(|(one, _)| one.id.as_str()).collect();
        delete_snapshots(attempt, &ids).await?;
        if let Some((_, why)) = failed.first().filter(|_| begun && !pending) {
            return Ok(retryable(format!("the snapshot failed: {why}")));
        }
        if !pending && !begun {
            attempt.cloud.snapshot(vm, disk, &name).await.map_err(|error| act_failed(&error))?;
            begun = true;
        }
        if !patience.again().await {
            return Ok(unknown("the snapshot is not ready"));
        }
    }
}

fn failure(snapshot: &CloudSnapshot) -> Option<(&CloudSnapshot, &str)> {
    match &snapshot.state {
        SnapshotState::Failed(why) => Some((snapshot, why)),
        SnapshotState::Pending | SnapshotState::Ready { .. } => None,
    }
}

/// Removes snapshots. Ownership is confirmed once for all of them, right before the first.
async fn delete_snapshots(attempt: Attempt<'_>, ids: &[&str]) -> Result<(), Outcome> {
    if !ids.is_empty() {
        attempt.confirm().await?;
    }
    for id in ids {
        delete_snapshot(attempt, id).await?;
    }
    Ok(())
}

async fn delete_snapshot(attempt: Attempt<'_>, id: &str) -> Result<(), Outcome> {
    match attempt.cloud.delete_snapshot(attempt.vm.vm, id).await {
        Ok(()) | Err(CloudError::NotFound(_)) => Ok(()),
        // A snapshot that is still being made cannot be removed yet.
        Err(error @ CloudError::Refused(_)) => Err(retryable(error.to_string())),
        Err(error) => Err(act_failed(&error)),
    }
}

/// Copies a snapshot into the vault.
pub(super) async fn store_disk(attempt: Attempt<'_>, backup: BackupId, snapshot: &Snapshot) -> Outcome {
    try_store(attempt, backup, snapshot).await.unwrap_or_else(|outcome| outcome)
}

async fn try_store(attempt: Attempt<'_>, backup: BackupId, snapshot: &Snapshot) -> Result<Outcome, Outcome> {
    let vm = attempt.vm.vm;
    let name = snapshot_name(backup, &snapshot.disk);
    let found = attempt.cloud.find_snapshots(vm, &name).await.map_err(|error| look_failed(&error))?;
    let expected = match found.iter().find(|one| one.id == snapshot.id).map(|one| &one.state) {
        Some(SnapshotState::Ready { bytes }) => *bytes,
        Some(SnapshotState::Pending) => return Ok(retryable("the snapshot is not ready")),
        Some(SnapshotState::Failed(why)) => return Ok(not_applied(format!("the snapshot failed: {why}"))),
        None => return Ok(not_applied(format!("snapshot {} is gone", snapshot.id))),
    };
    let content = attempt.cloud.read_snapshot(vm, &snapshot.id).await.map_err(|error| look_failed(&error))?;
    let moved = Arc::clone(&attempt.vm.moved);
    let counted = content.inspect_ok(move |bytes| {
        moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    let path = attempt.vm.path(backup);
    let stored = attempt.vault.store(&path, &snapshot.disk, Box::pin(counted)).await.map_err(|e| vault_failed(&e))?;
    // A stream that ends early is no error to whoever reads it; the size is.
    if stored.bytes != expected {
        return Ok(retryable(format!("short read: {} of {expected} bytes", stored.bytes)));
    }
    Ok(Outcome::Done(Done::Stored(stored)))
}

/// Writes the manifest.
pub(super) async fn seal(
    attempt: Attempt<'_>,
    backup: BackupId,
    purpose: BackupPurpose,
    disks: &[StoredDisk],
) -> Outcome {
    let path = attempt.vm.path(backup);
    let objects: Vec<ManifestObject> = disks.iter().map(object).collect();
    if matches!(attempt.vault.manifest(&path).await, Ok(sealed) if sealed.objects == objects) {
        return Outcome::Done(Done::Plain);
    }
    let vm = attempt.vm.vm;
    let sealed_at = attempt.clock().now();
    let manifest = Manifest { backup, vm, purpose, sealed_at, objects };
    match attempt.vault.seal(&path, &manifest).await {
        Ok(()) => Outcome::Done(Done::Plain),
        Err(error) => vault_failed(&error),
    }
}

fn object(stored: &StoredDisk) -> ManifestObject {
    ManifestObject {
        name: stored.disk.object_name(),
        disk: stored.disk.clone(),
        bytes: stored.bytes,
        blake3: hex(&stored.blake3),
        sha256: hex(&stored.sha256),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String never fails");
        text
    })
}

/// Reads every object back and compares.
pub(super) async fn verify(attempt: Attempt<'_>, backup: BackupId) -> Outcome {
    match attempt.vault.verify(&attempt.vm.path(backup)).await {
        Ok(Verification::Equal { bytes }) => Outcome::Done(Done::Verified { bytes }),
        Ok(Verification::Damaged { at, damage }) => Outcome::Done(Done::Damaged { what: format!("{at}: {damage}") }),
        Err(error @ (VaultError::NotFound(_) | VaultError::Damaged(_))) => {
            Outcome::Done(Done::Damaged { what: error.to_string() })
        }
        Err(
            // Without its key a backup is not seen; it may be as good as it was.
            error @ (VaultError::NotWritable(_)
            | VaultError::Unavailable(_)
            | VaultError::Unknown(_)
            | VaultError::Key(_)
            | VaultError::Source(_)),
        ) => retryable(error.to_string()),
    }
}

/// Removes every snapshot of a backup from the cloud: those known, and those whose making was never answered.
pub(super) async fn drop_all(attempt: Attempt<'_>, backup: BackupId, snapshots: &[Snapshot]) -> Outcome {
    try_drop(attempt, backup, snapshots).await.unwrap_or_else(|outcome| outcome)
}

async fn try_drop(attempt: Attempt<'_>, backup: BackupId, snapshots: &[Snapshot]) -> Result<Outcome, Outcome> {
    let mut ids: BTreeSet<String> = snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    let disks: BTreeSet<Disk> = attempt.vm.disks().chain(snapshots.iter().map(|one| one.disk.clone())).collect();
    for disk in &disks {
        match attempt.cloud.find_snapshots(attempt.vm.vm, &snapshot_name(backup, disk)).await {
            Ok(found) => ids.extend(found.into_iter().map(|one| one.id)),
            Err(CloudError::NotFound(_)) => {}
            Err(error) => return Err(look_failed(&error)),
        }
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    delete_snapshots(attempt, &ids).await?;
    Ok(Outcome::Done(Done::Plain))
}

/// Removes a backup from the vault.
pub(super) async fn delete(attempt: Attempt<'_>, backup: BackupId) -> Outcome {
    if let Err(outcome) = attempt.confirm().await {
        return outcome;
    }
    match attempt.vault.delete(&attempt.vm.path(backup)).await {
        Ok(()) | Err(VaultError::NotFound(_)) => Outcome::Done(Done::Plain),
        Err(error) => vault_failed(&error),
    }
}

//! A backup from inventory to verification, for the schedule, on request and at the end of a lease.
//!
//! ```text
//! Inventory ─► Snapshot(disk)… ─► Store(disk)… ─► Seal ─► Verify ─► verified
//!      any failure past its tries ─► failed; snapshots and objects are removed in the background
//! ```
//!
//! All disks are snapshotted before the first is stored, so that they are as close in time as the cloud allows.

use reeve_protocol::event::{BackupPurpose, EventKind};
use reeve_protocol::{BackupId, Generation};

use crate::draft::Draft;
use crate::effect::{Disk, Done, Effect, EffectKey, Inventory, Outcome};
use crate::operation::{BackupRun, BackupStep, Operation};
use crate::record::{BackupEntry, BackupState};
use crate::{backup_schedule, retention};

/// How often a step that had no effect, or no answer, is tried before the backup fails.
const MAX_TRIES: u32 = 4;

/// What came of a step of a backup.
pub(crate) enum Progress {
    /// It goes on.
    Goes,
    /// It is in the vault, read back and equal.
    Verified,
    /// It failed.
    Failed(String),
}

/// Begins a backup.
pub(crate) fn begin(d: &mut Draft, purpose: BackupPurpose, late: bool) -> BackupRun {
    let key = d.issue(Effect::TakeInventory);
    // Several backups of one decision cannot be: the operation is exclusive. So the generation names it.
    let id = BackupId::of(d.rec.vm, Generation(key.generation.0));
    d.rec.backups.push(BackupEntry {
        id,
        purpose,
        at: d.now,
        state: BackupState::Running,
        inventory: Inventory::default(),
    });
    d.emit(EventKind::BackupStarted { backup: id, purpose, late });
    BackupRun {
        id,
        purpose,
        inventory: Inventory::default(),
        snapshots: Vec::new(),
        stored: Vec::new(),
        step: BackupStep::Inventory,
        waits_for: key,
    }
}

/// Begins to read a finished backup back again.
pub(crate) fn begin_again(d: &mut Draft, id: BackupId, purpose: BackupPurpose) -> BackupRun {
    let waits_for = d.issue(Effect::VerifyBackup { backup: id });
    BackupRun {
        id,
        purpose,
        inventory: Inventory::default(),
        snapshots: Vec::new(),
        stored: Vec::new(),
        step: BackupStep::Verify { again: true },
        waits_for,
    }
}

/// The disks of a backup, in its order.
fn disk(inventory: &Inventory, at: usize) -> Option<Disk> {
    match at {
        0 => Some(Disk::Root),
        _ => inventory.volumes.get(at - 1).map(|volume| Disk::Volume(volume.id.clone())),
    }
}

/// A worker answered to the effect that the backup waits for.
pub(crate) fn effect_done(d: &mut Draft, run: &mut BackupRun, key: EffectKey, outcome: Outcome) -> Progress {
    let done = match outcome {
        Outcome::Done(done) => done,
        Outcome::NotApplied { reason } => return fail(d, run, reason),
        Outcome::Retryable { reason } | Outcome::Unknown { reason } => {
            if d.pending(key).is_some_and(|pending| pending.failures + 1 >= MAX_TRIES) {
                return fail(d, run, reason);
            }
            d.put_off(key);
            return Progress::Goes;
        }
    };
    d.forget(key);
    match (&run.step, done) {
        (BackupStep::Inventory, Done::Inventory(inventory)) => {
            if let Some(entry) = d.rec.backups.iter_mut().find(|entry| entry.id == run.id) {
                entry.inventory = inventory.clone();
            }
            run.inventory = inventory;
        }
        (BackupStep::Snapshot, Done::Snapshot(snapshot)) => run.snapshots.push(snapshot),
        (BackupStep::Store, Done::Stored(disk)) => run.stored.push(disk),
        (BackupStep::Seal, Done::Plain) => {}
        (BackupStep::Verify { again }, Done::Verified { bytes }) => {
            let again = *again;
            return verified(d, run, bytes, again);
        }
        (BackupStep::Verify { again }, Done::Damaged { what }) => {
            if *again && let Some(entry) = d.rec.backups.iter_mut().find(|entry| entry.id == run.id) {
                entry.state = BackupState::Damaged;
            }
            return fail(d, run, format!("damaged: {what}"));
        }
        (_, done) => return fail(d, run, format!("the worker answered with {done:?}")),
    }
    next(d, run);
    Progress::Goes
}

/// Issues the next step of a backup.
fn next(d: &mut Draft, run: &mut BackupRun) {
    let backup = run.id;
    let (step, effect) = if let Some(disk) = disk(&run.inventory, run.snapshots.len()) {
        (BackupStep::Snapshot, Effect::SnapshotDisk { backup, disk })
    } else if let Some(snapshot) = run.snapshots.get(run.stored.len()) {
        (BackupStep::Store, Effect::StoreDisk { backup, snapshot: snapshot.clone() })
    } else if run.step == BackupStep::Seal {
        (BackupStep::Verify { again: false }, Effect::VerifyBackup { backup })
    } else {
        let effect = Effect::SealBackup { backup, purpose: run.purpose, disks: run.stored.clone() };
        (BackupStep::Seal, effect)
    };
    run.step = step;
    run.waits_for = d.issue(effect);
}

fn verified(d: &mut Draft, run: &BackupRun, bytes: u64, again: bool) -> Progress {
    let at = d.now;
    if let Some(entry) = d.rec.backups.iter_mut().find(|entry| entry.id == run.id) {
        entry.state = BackupState::Verified { bytes, at };
    }
    if !again {
        d.issue(Effect::DropSnapshots { backup: run.id, snapshots: run.snapshots.clone() });
    }
    d.emit(EventKind::BackupVerified { backup: run.id, bytes });
    retention::apply(d);
    Progress::Verified
}

fn fail(d: &mut Draft, run: &BackupRun, reason: String) -> Progress {
    discard(d, run);
    Progress::Failed(reason)
}

/// Gives a backup up: whatever there is of it goes, in the background.
pub(crate) fn discard(d: &mut Draft, run: &BackupRun) {
    d.forget(run.waits_for);
    if run.step == (BackupStep::Verify { again: true }) {
        // A finished backup that could not be read this time may be as good as it was.
        return;
    }
    let Some(entry) = d.rec.backups.iter_mut().find(|entry| entry.id == run.id) else { return };
    entry.state = BackupState::Failed;
    d.issue(Effect::DropSnapshots { backup: run.id, snapshots: run.snapshots.clone() });
    d.issue(Effect::DeleteBackup { backup: run.id });
}

/// Ends the backup operation because the VM is gone.
pub(crate) fn abandon_operation(d: &mut Draft, why: &str) {
    let Some(Operation::Backup(run)) = d.rec.operation.take() else { return };
    if run.step == (BackupStep::Verify { again: true }) {
        d.forget(run.waits_for);
    } else {
        discard(d, &run);
        d.emit(EventKind::BackupFailed { backup: run.id, reason: why.to_owned() });
    }
    d.rec.schedule = crate::record::BackupSchedule::default();
}

/// A worker answered to the backup operation.
pub(crate) fn operation_done(d: &mut Draft, mut run: BackupRun, key: EffectKey, outcome: Outcome) {
    match effect_done(d, &mut run, key, outcome) {
        Progress::Goes => d.rec.operation = Some(Operation::Backup(run)),
        Progress::Verified => {
            d.rec.operation = None;
            backup_schedule::succeeded(d, &run);
        }
        Progress::Failed(reason) => {
            d.rec.operation = None;
            backup_schedule::failed(d, &run, reason);
        }
    }
}

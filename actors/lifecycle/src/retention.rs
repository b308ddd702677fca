//! How long backups are kept. Only verified ones count, and the last is never removed while the VM lives.
//!
//! Scheduled ones: the newest `keep_last`, and the newest of each of the last days, weeks and months that the policy
//! names. Manual ones: the newest `keep_manual`. Final ones, and all backups of a VM that is gone: `keep_final` from
//! when they were made or the VM went.

use std::collections::BTreeSet;

use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode, Requester};
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, Span, Timestamp};

use crate::draft::Draft;
use crate::effect::Effect;
use crate::input::Reason;
use crate::operation::Operation;
use crate::record::{BackupEntry, BackupState, Hold, Presence, VmRecord};
use crate::reverify;

fn is_verified(entry: &BackupEntry) -> bool {
    matches!(entry.state, BackupState::Verified { .. })
}

/// Whether retention removes this one day: damaged ones wait for a human while the VM lives.
fn may_expire(record: &VmRecord, entry: &BackupEntry) -> bool {
    is_verified(entry) || (record.is_gone() && entry.state == BackupState::Damaged)
}

/// Removes what need not be kept; nothing by a clock that cannot be trusted.
pub(crate) fn apply(d: &mut Draft) {
    if d.rec.holds.contains(&Hold::ClockUntrusted) {
        return;
    }
    let keep = kept(&d.rec, d.now);
    let superfluous: Vec<BackupId> = d
        .rec
        .backups
        .iter()
        .filter(|entry| may_expire(&d.rec, entry) && !keep.contains(&entry.id))
        .map(|e| e.id)
        .collect();
    for id in superfluous {
        remove(d, id);
    }
}

fn remove(d: &mut Draft, id: BackupId) {
    if let Some(entry) = d.rec.backups.iter_mut().find(|entry| entry.id == id) {
        entry.state = BackupState::Deleting;
        d.issue(Effect::DeleteBackup { backup: id });
    }
}

/// When a backup that is kept for a time may go.
fn expires_at(record: &VmRecord, entry: &BackupEntry) -> Option<Timestamp> {
    let keep = record.policy.terms.backup.keep_final;
    match (record.presence, entry.purpose) {
        (Presence::Gone { at }, _) => Some(at.max(entry.at) + keep),
        (_, BackupPurpose::Final) => Some(entry.at + keep),
        (_, BackupPurpose::Scheduled | BackupPurpose::Manual) => None,
    }
}

fn kept(record: &VmRecord, now: Timestamp) -> BTreeSet<BackupId> {
    let policy = &record.policy.terms.backup;
    let verified: Vec<&BackupEntry> = record.backups.iter().rev().filter(|entry| is_verified(entry)).collect();
    let mut keep = BTreeSet::new();
    // What an operation reads, or relies on, is not removed under it.
    keep.extend(in_use(record));
    let timed = |entry: &&&BackupEntry| expires_at(record, entry).is_some_and(|at| at > now);
    let listed: Vec<&BackupEntry> = record.backups.iter().collect();
    keep.extend(listed.iter().filter(timed).map(|entry| entry.id));
    if record.is_gone() {
        return keep;
    }
    let of = |purpose| verified.iter().filter(move |entry| entry.purpose == purpose);
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    keep.extend(of(BackupPurpose::Manual).take(count(policy.keep_manual)).map(|entry| entry.id));
    keep.extend(of(BackupPurpose::Scheduled).take(count(policy.keep_last)).map(|entry| entry.id));
    // 1970-01-05 was a Monday.
    let monday = Span::from_days(4);
    for (buckets, length, shift) in [
        (policy.daily, Span::from_days(1), Span::ZERO),
        (policy.weekly, Span::from_days(7), monday),
        (policy.monthly, Span::from_days(30), Span::ZERO),
    ] {
        let mut seen = BTreeSet::new();
        for entry in of(BackupPurpose::Scheduled) {
            let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
            let bucket = (entry.at - shift).as_millis().div_euclid(length);
            if seen.len() < count(buckets) && seen.insert(bucket) {
                keep.insert(entry.id);
            }
        }
    }
    keep.extend(verified.first().map(|entry| entry.id));
    keep
}

/// The backup that the operation under way reads or relies on.
fn in_use(record: &VmRecord) -> Option<BackupId> {
    match &record.operation {
        Some(Operation::Revive(run)) => Some(run.backup),
        Some(Operation::Ending(run)) => run.backup,
        Some(Operation::Backup(run)) => reverify::read(run),
        Some(Operation::Repair(_) | Operation::Action(_) | Operation::Provision(_)) | None => None,
    }
}

/// When the next backup that is kept for a time may go.
pub(crate) fn deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    let living = !record.is_gone();
    let newest = record.latest_verified().map(|entry| entry.id);
    let read = in_use(record);
    if record.holds.contains(&Hold::ClockUntrusted) {
        return None;
    }
    record
        .backups
        .iter()
        .filter(|entry| may_expire(record, entry) && Some(entry.id) != read && !(living && Some(entry.id) == newest))
        .filter_map(|entry| expires_at(record, entry))
        .min()
        .map(|at| (at, Reason::Retention))
}

/// `backup.delete`.
pub(crate) fn delete(d: &mut Draft, by: &Requester, backup: BackupId) -> Answer {
    if !crate::extend::is_owner(&d.rec, by) {
        return Err(Refusal::new(RefusalCode::Denied, format!("{by} is neither the owner of this VM nor an operator")));
    }
    let Some(entry) = d.rec.backup(backup) else {
        return Err(Refusal::new(RefusalCode::NotFound, format!("this VM has no backup {backup}")));
    };
    match entry.state {
        BackupState::Verified { .. } | BackupState::Damaged => {}
        BackupState::Running | BackupState::Failed | BackupState::Deleting => {
            return Err(Refusal::new(RefusalCode::Conflict, "the backup is being made or removed"));
        }
    }
    if let Some(operation) = &d.rec.operation {
        let message = format!("in the way: {}, which may read the backup", operation.name());
        return Err(Refusal::new(RefusalCode::Conflict, message));
    }
    remove(d, backup);
    Ok(Accepted { vm: d.rec.vm, message: "the backup is removed".into(), ends_at: None, backup: Some(backup) })
}

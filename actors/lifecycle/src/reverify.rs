//! Backups that are read back again by schedule: what was equal once may rot, and is best known to be damaged while there
//! is still a VM to back up.
//!
//! ```text
//! verified ─ `reverify` later, and nothing else to do ─► read back ─ equal ─► verified (anew)
//!                                                          ├─ damaged ─► damaged: told; the next backup is due at once
//!                                                          └─ not readable ─► verified still: told; again a day later
//! ```
//!
//! The one that was verified longest ago comes first, one at a time. Nothing is removed because of what is found: a damaged
//! backup waits for a human and counts for nothing in retention, so that the others are kept for longer. Backups of a VM
//! that is gone are read back, too: they are all that is left of it.

use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, Span, Timestamp};

use crate::backup;
use crate::draft::Draft;
use crate::input::Reason;
use crate::operation::{BackupRun, BackupStep, Operation};
use crate::record::{BackupState, VmRecord};

/// How long after one that could not be read the next is tried.
const AGAIN_AFTER: Span = Span::from_days(1);

/// What is read back next, and when.
fn next(record: &VmRecord) -> Option<(Timestamp, BackupId, BackupPurpose)> {
    let every = record.policy.terms.backup.reverify;
    if every.is_zero() {
        return None;
    }
    let verified = record.backups.iter().filter_map(|entry| match entry.state {
        BackupState::Verified { at, .. } => Some((at + every, entry.id, entry.purpose)),
        BackupState::Running | BackupState::Failed | BackupState::Damaged | BackupState::Deleting => None,
    });
    let (at, id, purpose) = verified.min_by_key(|(at, id, _)| (*at, *id))?;
    Some((record.schedule.reverify_at.map_or(at, |not_before| at.max(not_before)), id, purpose))
}

/// When a backup is to be read back again. Nothing is while something holds the VM or another operation is under way.
pub(crate) fn deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    if record.operation.is_some() || !record.holds.is_empty() {
        return None;
    }
    next(record).map(|(at, _, _)| (at, Reason::ReverifyDue))
}

/// Begins to read a backup back again if one is due; says whether it did.
pub(crate) fn begin_if_due(d: &mut Draft) -> bool {
    let due = deadline(&d.rec).is_some_and(|(at, _)| at <= d.now);
    let Some((_, id, purpose)) = next(&d.rec).filter(|_| due) else { return false };
    let run = backup::begin_again(d, id, purpose);
    d.rec.operation = Some(Operation::Backup(run));
    true
}

/// What is overdue under a new policy is spread over the window: a whole fleet may be.
pub(crate) fn reschedule(d: &mut Draft, offset: Span) {
    d.rec.schedule.reverify_at = Some(d.now + offset);
}

/// A backup was read back again and is equal.
pub(crate) fn succeeded(d: &mut Draft) {
    d.rec.schedule.reverify_at = None;
}

/// A backup could not be read back.
pub(crate) fn failed(d: &mut Draft) {
    d.rec.schedule.reverify_at = Some(d.now + AGAIN_AFTER);
}

/// The backup that is being read back again.
pub(crate) fn read(run: &BackupRun) -> Option<BackupId> {
    matches!(run.step, BackupStep::Verify { again: true }).then_some(run.id)
}

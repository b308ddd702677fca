//! What workers answer, brought to the operation that waits for it. Background effects are kept until they succeed.

use reeve_protocol::BackupId;
use reeve_protocol::event::{Alert, EventKind};

use crate::draft::Draft;
use crate::effect::{Effect, EffectKey, Outcome, PendingEffect};
use crate::input::{Ignored, Verdict};
use crate::operation::{EndingRun, EndingStep, Operation, RepairRun, RepairStage, ReviveStep};
use crate::record::BackupState;
use crate::{action, backup, ending, provision, repair, revive};

/// After so many failures, within about five minutes, the operators are told that a notice does not get through: over every
/// channel, so over those that work.
const TELL_OTHERS_AFTER: u32 = 8;
/// After so many failures, in about a day, a notice is dropped; its event has told whoever listens.
const MAX_NOTICE_TRIES: u32 = 100;

/// A worker answers.
pub(crate) fn effect_done(d: &mut Draft, key: EffectKey, outcome: Outcome) -> Verdict {
    if d.pending(key).is_none() {
        return Verdict::Ignored(Ignored::Over);
    }
    match d.rec.operation.take() {
        Some(Operation::Backup(run)) if run.waits_for == key => backup::operation_done(d, run, key, outcome),
        Some(Operation::Repair(run)) if repair_waits_for(&run) == Some(key) => {
            repair::effect_done(d, run, key, outcome);
        }
        Some(Operation::Ending(run)) if ending_waits_for(&run) == Some(key) => {
            ending::effect_done(d, run, key, outcome);
        }
        Some(Operation::Revive(run)) if revive_waits_for(&run.step) == key => {
            revive::effect_done(d, run, key, outcome);
        }
        Some(Operation::Provision(run)) if run.step.key() == key => provision::effect_done(d, run, key, outcome),
        Some(Operation::Action(run)) if run.key == key => action::effect_done(d, run, key, outcome),
        other => {
            d.rec.operation = other;
            background_done(d, key, outcome);
        }
    }
    Verdict::Accepted(None)
}

fn repair_waits_for(run: &RepairRun) -> Option<EffectKey> {
    match &run.step {
        RepairStage::Acting(key) | RepairStage::Retesting { key, .. } => Some(*key),
        RepairStage::Booting { .. } => None,
    }
}

fn ending_waits_for(run: &EndingRun) -> Option<EffectKey> {
    match &run.step {
        EndingStep::BackUp(run) => Some(run.waits_for),
        EndingStep::Halt(key)
        | EndingStep::Inventory(key)
        | EndingStep::DeleteServer(key)
        | EndingStep::DeleteVolume { key, .. }
        | EndingStep::ReleaseAddress { key, .. } => Some(*key),
        EndingStep::Ready(_) | EndingStep::BackUpAgain { .. } => None,
    }
}

fn revive_waits_for(step: &ReviveStep) -> EffectKey {
    match step {
        ReviveStep::Launching(key) | ReviveStep::Introducing { key, .. } => *key,
    }
}

/// The effect that the operation waits for, if it waits for one.
pub(crate) fn waited_for(operation: &Operation) -> Option<EffectKey> {
    match operation {
        Operation::Backup(run) => Some(run.waits_for),
        Operation::Repair(run) => repair_waits_for(run),
        Operation::Ending(run) => ending_waits_for(run),
        Operation::Revive(run) => Some(revive_waits_for(&run.step)),
        Operation::Action(run) => Some(run.key),
        Operation::Provision(run) => Some(run.step.key()),
    }
}

/// An effect that nothing waits for: a notice, the removal of a snapshot or a backup.
fn background_done(d: &mut Draft, key: EffectKey, outcome: Outcome) {
    let effect = d.pending(key).map(|pending| pending.effect.clone());
    let is_notice = matches!(effect, Some(Effect::Notify { .. } | Effect::Report { .. }));
    match outcome {
        Outcome::Done(_) => {
            d.forget(key);
            if is_notice {
                gets_through(d);
            }
            if let Some(Effect::DeleteBackup { backup } | Effect::DropSnapshots { backup, .. }) = effect {
                removed_in_part(d, backup);
            }
        }
        // Nobody to tell: the event stays.
        Outcome::NotApplied { .. } if is_notice => d.forget(key),
        Outcome::NotApplied { reason } | Outcome::Retryable { reason } | Outcome::Unknown { reason } => {
            let failures = d.put_off(key);
            if let Some(Effect::Notify { notice, .. }) = effect
                && failures >= TELL_OTHERS_AFTER
            {
                let name = notice.name();
                d.alert(Alert::NoticeUndelivered, format!("a notice ({name}) does not get through: {reason}"));
            }
            if is_notice && failures >= MAX_NOTICE_TRIES {
                d.forget(key);
            }
        }
    }
}

/// A notice was delivered over every channel: the alert that some were not is over when none is stuck any more.
fn gets_through(d: &mut Draft) {
    let is_stuck = |pending: &PendingEffect| {
        pending.failures >= TELL_OTHERS_AFTER && matches!(pending.effect, Effect::Notify { .. })
    };
    if !d.rec.effects.iter().any(is_stuck) {
        d.clear(Alert::NoticeUndelivered);
    }
}

/// A part of a backup that goes is removed: the entry goes with the last part, because it says which disks there were.
fn removed_in_part(d: &mut Draft, backup: BackupId) {
    let is_left = |effect: &Effect| {
        matches!(effect, Effect::DeleteBackup { .. } | Effect::DropSnapshots { .. }) && effect.backup() == Some(backup)
    };
    if d.rec.effects.iter().any(|pending| is_left(&pending.effect)) {
        return;
    }
    let state = d.rec.backup(backup).map(|entry| entry.state);
    match state {
        // Never finished: nobody was told that there is one.
        Some(BackupState::Failed) => d.rec.backups.retain(|entry| entry.id != backup),
        Some(BackupState::Deleting) => {
            d.rec.backups.retain(|entry| entry.id != backup);
            d.emit(EventKind::BackupDeleted { backup });
        }
        Some(BackupState::Running | BackupState::Verified { .. } | BackupState::Damaged) | None => return,
    }
    if d.rec.backups.iter().all(|entry| entry.state != BackupState::Damaged) {
        d.clear(Alert::BackupDamaged);
    }
}

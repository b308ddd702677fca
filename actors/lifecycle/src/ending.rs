//! The end of a VM, step by step; never past a step that failed, never past a hold.
//!
//! ```text
//! Halt ─► BackUp ─► DeleteServer ─► DeleteVolume… ─► ReleaseAddress… ─► destroyed
//!   │        └── failed: again after a pause, for ever; a human is told once
//!   └─ (plan Stop, Suspend) ─► kept
//! ```
//!
//! It never destroys before every disk is verified in the vault, where the plan backs up.

use reeve_protocol::event::{Alert, BackupPurpose, EventKind, LeaseEndReason};
use reeve_protocol::observation::VmState;

use crate::backup::{self, Progress};
use crate::draft::Draft;
use crate::effect::{Done, Effect, EffectKey, Inventory, Outcome};
use crate::operation::{EndPlan, EndingNext, EndingRun, EndingStep, Operation};
use crate::record::{BackupState, VmRecord};
use crate::{backup_schedule, lease, observe, retention};

/// After so many failures of one step a human is told.
const ALERT_AFTER: u32 = 3;

/// Begins the end that is wanted, if nothing holds it; says whether it did.
pub(crate) fn begin_if_wanted(d: &mut Draft) -> bool {
    if d.rec.end_request.is_none() || lease::held(d) || d.rec.facts.task.is_some() {
        return false;
    }
    let Some(request) = d.rec.end_request.take() else { return false };
    let destroys = matches!(request.plan, EndPlan::BackupAndDelete | EndPlan::Delete);
    if destroys {
        d.emit(EventKind::VmTerminating { by: request.by.clone() });
    }
    let next = match request.plan {
        EndPlan::Delete => EndingNext::Inventory,
        EndPlan::BackupAndDelete if is_off(d.rec.facts.state) => EndingNext::BackUp,
        EndPlan::BackupAndDelete | EndPlan::Stop | EndPlan::Suspend => EndingNext::Halt,
    };
    // Failures of a scheduled run say nothing about the final one.
    d.rec.schedule.failures = 0;
    d.rec.operation = Some(Operation::Ending(EndingRun {
        plan: request.plan,
        by: request.by,
        halted: next == EndingNext::Halt,
        inventory: Inventory::default(),
        backup: None,
        step: EndingStep::Ready(next),
    }));
    advance(d);
    true
}

/// Whether a VM in this state runs nothing that would have to be stopped before a backup.
const fn is_off(state: VmState) -> bool {
    match state {
        VmState::Stopped
        | VmState::Suspended
        | VmState::Shelved
        | VmState::ShelvedOffloaded
        | VmState::SoftDeleted
        | VmState::Deleted => true,
        VmState::Building
        | VmState::Active
        | VmState::Paused
        | VmState::Rescued
        | VmState::Resized
        | VmState::Error
        | VmState::Unknown => false,
    }
}

/// Whether the VM is being ended, or waits for that.
pub(crate) const fn is_wanted(record: &VmRecord) -> bool {
    record.end_request.is_some() || matches!(record.operation, Some(Operation::Ending(_)))
}

/// Whether the VM is being ended because its lease is over, and not because somebody asked for its deletion.
pub(crate) fn is_by_lease(record: &VmRecord) -> bool {
    let by = match (&record.end_request, &record.operation) {
        (Some(request), _) => &request.by,
        (None, Some(Operation::Ending(run))) => &run.by,
        (None, _) => return false,
    };
    by == lease::BY_LEASE
}

/// Whether something was asked to be destroyed already.
pub(crate) const fn has_begun_to_delete(run: &EndingRun) -> bool {
    match &run.step {
        EndingStep::DeleteServer(_) | EndingStep::DeleteVolume { .. } | EndingStep::ReleaseAddress { .. } => true,
        EndingStep::Ready(next) => {
            matches!(next, EndingNext::DeleteVolume(_) | EndingNext::ReleaseAddress(_))
        }
        EndingStep::Halt(_) | EndingStep::BackUp(_) | EndingStep::BackUpAgain { .. } | EndingStep::Inventory(_) => {
            false
        }
    }
}

/// Does what is due: the next step once nothing holds the VM, the next try of a failed backup.
pub(crate) fn advance(d: &mut Draft) {
    let Some(Operation::Ending(run)) = &d.rec.operation else { return };
    let next = match run.step {
        EndingStep::Ready(next) => next,
        EndingStep::BackUpAgain { at, .. } if at <= d.now => EndingNext::BackUp,
        EndingStep::BackUpAgain { .. }
        | EndingStep::Halt(_)
        | EndingStep::BackUp(_)
        | EndingStep::Inventory(_)
        | EndingStep::DeleteServer(_)
        | EndingStep::DeleteVolume { .. }
        | EndingStep::ReleaseAddress { .. } => return,
    };
    let mut run = run.clone();
    if lease::held(d) {
        return;
    }
    issue(d, &mut run, next);
    d.rec.operation = Some(Operation::Ending(run));
}

fn issue(d: &mut Draft, run: &mut EndingRun, next: EndingNext) {
    run.step = match next {
        EndingNext::Halt => {
            let effect = if run.plan == EndPlan::Suspend { Effect::Suspend } else { Effect::Stop };
            EndingStep::Halt(d.issue(effect))
        }
        EndingNext::BackUp if backup_schedule::is_full(&d.rec) => {
            d.alert(Alert::EndingStuck, "the VM has too many backups, or too much to clear up, for another");
            EndingStep::BackUpAgain { at: backup_schedule::final_retry(d, 10), failures: 10 }
        }
        EndingNext::BackUp => EndingStep::BackUp(backup::begin(d, BackupPurpose::Final, false)),
        EndingNext::Inventory => EndingStep::Inventory(d.issue(Effect::TakeInventory)),
        // What it wrote since would be lost.
        EndingNext::DeleteServer if runs_again(d, run) => {
            run.backup = None;
            run.halted = true;
            EndingStep::Halt(d.issue(Effect::Stop))
        }
        EndingNext::DeleteServer => {
            assert!(may_destroy(d, run), "the plan's backup is verified before anything is destroyed");
            EndingStep::DeleteServer(d.issue(Effect::DeleteServer))
        }
        EndingNext::DeleteVolume(index) => {
            let volume = run.inventory.volumes[index].id.clone();
            EndingStep::DeleteVolume { index, key: d.issue(Effect::DeleteVolume { volume }) }
        }
        EndingNext::ReleaseAddress(index) => {
            let address = run.inventory.addresses[index].clone();
            EndingStep::ReleaseAddress { index, key: d.issue(Effect::ReleaseAddress { address }) }
        }
    };
}

/// Whether the cloud says that somebody started the VM after its final backup had begun.
fn runs_again(d: &Draft, run: &EndingRun) -> bool {
    let begun_at = run.backup.and_then(|id| d.rec.backup(id)).map(|entry| entry.at);
    run.plan == EndPlan::BackupAndDelete
        && !is_off(d.rec.facts.state)
        && begun_at.is_some_and(|begun_at| d.rec.facts.said.at() > begun_at)
}

/// Safety rule 1: destroyed only after a verified backup, where the plan backs up.
fn may_destroy(d: &Draft, run: &EndingRun) -> bool {
    match run.plan {
        EndPlan::Delete => true,
        EndPlan::BackupAndDelete => run
            .backup
            .and_then(|id| d.rec.backup(id))
            .is_some_and(|entry| matches!(entry.state, BackupState::Verified { .. })),
        EndPlan::Stop | EndPlan::Suspend => false,
    }
}

/// A worker answered to the effect that the ending waits for.
pub(crate) fn effect_done(d: &mut Draft, mut run: EndingRun, key: EffectKey, outcome: Outcome) {
    if let EndingStep::BackUp(backup_run) = &mut run.step {
        let mut backup_run = backup_run.clone();
        match backup::effect_done(d, &mut backup_run, key, outcome) {
            Progress::Goes => run.step = EndingStep::BackUp(backup_run),
            Progress::Verified => {
                run.backup = Some(backup_run.id);
                run.inventory = backup_run.inventory;
                d.clear(Alert::EndingStuck);
                run.step = EndingStep::Ready(EndingNext::DeleteServer);
            }
            Progress::Failed(reason) => backup_failed(d, &mut run, &backup_run, reason),
        }
        d.rec.operation = Some(Operation::Ending(run));
        return;
    }
    let done = match outcome {
        Outcome::Done(done) => done,
        Outcome::NotApplied { reason } | Outcome::Retryable { reason } | Outcome::Unknown { reason } => {
            if d.put_off(key) >= ALERT_AFTER {
                d.alert(Alert::EndingStuck, format!("the end does not get past a step: {reason}"));
            }
            d.rec.operation = Some(Operation::Ending(run));
            return;
        }
    };
    d.forget(key);
    d.clear(Alert::EndingStuck);
    step_done(d, run, done);
}

fn backup_failed(d: &mut Draft, run: &mut EndingRun, backup_run: &crate::operation::BackupRun, reason: String) {
    let failures = d.rec.schedule.failures + 1;
    d.rec.schedule.failures = failures;
    d.emit(EventKind::BackupFailed { backup: backup_run.id, reason: reason.clone() });
    if failures >= ALERT_AFTER {
        d.alert(Alert::EndingStuck, format!("the final backup fails: {reason}"));
    }
    run.step = EndingStep::BackUpAgain { at: backup_schedule::final_retry(d, failures), failures };
}

fn step_done(d: &mut Draft, mut run: EndingRun, done: Done) {
    let next = match &run.step {
        EndingStep::Halt(_) => match run.plan {
            EndPlan::BackupAndDelete => EndingNext::BackUp,
            EndPlan::Stop => return kept(d, LeaseEndReason::Stopped),
            EndPlan::Suspend => return kept(d, LeaseEndReason::Suspended),
            EndPlan::Delete => EndingNext::Inventory,
        },
        EndingStep::Inventory(_) => {
            if let Done::Inventory(inventory) = done {
                run.inventory = inventory;
            }
            EndingNext::DeleteServer
        }
        EndingStep::DeleteServer(_) => {
            if !d.rec.is_gone() {
                observe::mark_gone(d, d.now);
            }
            match after_volume(&run, 0) {
                Some(next) => next,
                None => return destroyed(d),
            }
        }
        EndingStep::DeleteVolume { index, .. } => match after_volume(&run, index + 1) {
            Some(next) => next,
            None => return destroyed(d),
        },
        EndingStep::ReleaseAddress { index, .. } => {
            if index + 1 >= run.inventory.addresses.len() {
                return destroyed(d);
            }
            EndingNext::ReleaseAddress(index + 1)
        }
        EndingStep::Ready(_) | EndingStep::BackUp(_) | EndingStep::BackUpAgain { .. } => {
            unreachable!("these steps wait for no effect of their own")
        }
    };
    run.step = EndingStep::Ready(next);
    d.rec.operation = Some(Operation::Ending(run));
}

/// What comes after the volumes before `index`: the next own volume, else the first address, else nothing.
fn after_volume(run: &EndingRun, index: usize) -> Option<EndingNext> {
    let own = run.inventory.volumes.iter().enumerate().skip(index).find(|(_, volume)| volume.own);
    match own {
        Some((index, _)) => Some(EndingNext::DeleteVolume(index)),
        None if run.inventory.addresses.is_empty() => None,
        None => Some(EndingNext::ReleaseAddress(0)),
    }
}

fn kept(d: &mut Draft, reason: LeaseEndReason) {
    d.rec.operation = None;
    lease::end(d, reason);
}

fn destroyed(d: &mut Draft) {
    d.rec.operation = None;
    d.emit(EventKind::VmTerminated);
    lease::end(d, LeaseEndReason::Destroyed);
    for alert in d.rec.alerts.clone() {
        d.clear(alert);
    }
    retention::apply(d);
}

/// Gives up an ending that has destroyed nothing.
pub(crate) fn abandon(d: &mut Draft) {
    let Some(Operation::Ending(run)) = d.rec.operation.take_if(|known| matches!(known, Operation::Ending(_))) else {
        return;
    };
    d.rec.schedule.failures = 0;
    match run.step {
        EndingStep::BackUp(backup_run) => {
            backup::discard(d, &backup_run);
            d.emit(EventKind::BackupFailed { backup: backup_run.id, reason: "the end was given up".into() });
        }
        EndingStep::Halt(key) | EndingStep::Inventory(key) => d.forget(key),
        EndingStep::Ready(_)
        | EndingStep::BackUpAgain { .. }
        | EndingStep::DeleteServer(_)
        | EndingStep::DeleteVolume { .. }
        | EndingStep::ReleaseAddress { .. } => {}
    }
}

//! `vm.revive`: a VM that is gone lives again from a backup, under a new id and with a new lease.
//!
//! ```text
//! Launching ─► Introducing(new VM) ─► revived
//! ```

use reeve_protocol::BackupId;
use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode, Requester};
use reeve_protocol::event::{Alert, EventKind};

use crate::backup_schedule::verified_entry;
use crate::draft::Draft;
use crate::effect::{Done, Effect, EffectKey, Notice, Outcome};
use crate::extend::is_owner;
use crate::lease_commands::untouched;
use crate::operation::{Operation, ReviveRun, ReviveStep};

/// After so many failures of one step a human is told.
const ALERT_AFTER: u32 = 3;
/// After so many refusals the revival is given up; nothing was made, because each try looked first.
const MAX_REFUSALS: u32 = 5;

/// Begins a revival.
pub(crate) fn begin(d: &mut Draft, by: &Requester, backup: Option<BackupId>, name: Option<String>) -> Answer {
    if !is_owner(&d.rec, by) {
        return Err(Refusal::new(
            RefusalCode::Denied,
            format!("{by} was neither the owner of this VM nor an operator"),
        ));
    }
    if !d.rec.is_gone() {
        return Err(Refusal::new(RefusalCode::Conflict, "the VM still exists; backup.restore puts it back in place"));
    }
    if let Some(operation) = &d.rec.operation {
        return Err(Refusal::new(RefusalCode::Conflict, format!("in the way: {}", operation.name())));
    }
    untouched(d)?;
    let (backup, _) = verified_entry(d, backup)?;
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| d.rec.facts.name.clone());
    let key = d.issue(Effect::Launch { backup, name });
    d.emit(EventKind::VmReviveStarted { backup, by: by.to_string() });
    let run = ReviveRun { backup, by: by.to_string(), step: ReviveStep::Launching(key) };
    d.rec.operation = Some(Operation::Revive(run));
    Ok(Accepted { vm: d.rec.vm, message: "the VM is being revived".into(), ends_at: None, backup: Some(backup) })
}

/// A worker answered to the effect that the revival waits for.
pub(crate) fn effect_done(d: &mut Draft, mut run: ReviveRun, key: EffectKey, outcome: Outcome) {
    let done = match outcome {
        Outcome::Done(done) => done,
        Outcome::NotApplied { reason } => {
            if d.put_off(key) >= MAX_REFUSALS {
                d.forget(key);
                d.rec.operation = None;
                d.emit(EventKind::VmReviveFailed { backup: run.backup, reason: reason.clone() });
                d.alert(Alert::ReviveStuck, format!("the revival was refused and is given up: {reason}"));
                return;
            }
            d.rec.operation = Some(Operation::Revive(run));
            return;
        }
        Outcome::Retryable { reason } | Outcome::Unknown { reason } => {
            if d.put_off(key) >= ALERT_AFTER {
                d.alert(Alert::ReviveStuck, format!("the revival does not get past a step: {reason}"));
            }
            d.rec.operation = Some(Operation::Revive(run));
            return;
        }
    };
    d.forget(key);
    match (&run.step, done) {
        (ReviveStep::Launching(_), Done::Launched { new_vm }) => {
            let key = d.issue(Effect::Introduce { new_vm });
            run.step = ReviveStep::Introducing { new_vm, key };
            d.rec.operation = Some(Operation::Revive(run));
        }
        (ReviveStep::Introducing { new_vm, .. }, _) => {
            let new_vm = *new_vm;
            d.rec.operation = None;
            d.clear(Alert::ReviveStuck);
            d.emit(EventKind::VmRevived { new_vm, backup: run.backup });
            d.tell_owner(Notice::Revived { new_vm });
        }
        (ReviveStep::Launching(_), done) => {
            d.rec.operation = None;
            let reason = format!("the worker answered with {done:?}");
            d.emit(EventKind::VmReviveFailed { backup: run.backup, reason: reason.clone() });
            d.alert(Alert::ReviveStuck, reason);
        }
    }
}

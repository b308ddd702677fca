//! Single actions on request: start, stop, reboot, suspend, resume, restore in place.

use reeve_protocol::BackupId;
use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode, Requester};
use reeve_protocol::event::{Alert, EventKind};

use crate::backup_schedule::verified_entry;
use crate::draft::Draft;
use crate::effect::{Effect, EffectKey, Outcome};
use crate::lease_commands::{owner_of_living, untouched};
use crate::operation::{Action, ActionRun, Operation, RepairStage};

/// How often an action is tried before a human is told and it is given up.
const MAX_TRIES: u32 = 5;

/// Begins an action that somebody asks for.
pub(crate) fn begin(d: &mut Draft, by: &Requester, action: Action) -> Answer {
    owner_of_living(d, by)?;
    untouched(d)?;
    if let Some(operation) = &d.rec.operation {
        return Err(Refusal::new(RefusalCode::Conflict, format!("in the way: {}", operation.name())));
    }
    if d.rec.end_request.is_some() {
        return Err(Refusal::new(RefusalCode::Conflict, "in the way: the VM is being ended"));
    }
    if let Some(task) = &d.rec.facts.task {
        return Err(Refusal::new(RefusalCode::Conflict, format!("in the way: the cloud is {task} it")));
    }
    run(d, action, by.to_string());
    let backup = match action {
        Action::Restore(id) => Some(id),
        Action::Start | Action::Stop | Action::Reboot | Action::Suspend | Action::Resume => None,
    };
    Ok(Accepted { vm: d.rec.vm, message: format!("{} begins", action.name()), ends_at: None, backup })
}

/// `backup.restore`.
pub(crate) fn restore(d: &mut Draft, by: &Requester, backup: Option<BackupId>) -> Answer {
    owner_of_living(d, by)?;
    let (backup, _) = verified_entry(d, backup)?;
    begin(d, by, Action::Restore(backup))
}

/// Begins an action of our own, if nothing is in its way.
pub(crate) fn wake(d: &mut Draft, action: Action, by: String) {
    if d.rec.operation.is_none() {
        run(d, action, by);
    }
}

fn run(d: &mut Draft, action: Action, by: String) {
    let key = d.issue(match action {
        Action::Start => Effect::Start,
        Action::Stop => Effect::Stop,
        Action::Reboot => Effect::HardReboot,
        Action::Suspend => Effect::Suspend,
        Action::Resume => Effect::Resume,
        Action::Restore(backup) => Effect::RestoreInPlace { backup },
    });
    d.emit(EventKind::ActionStarted { action: action.name().to_owned(), by: by.clone() });
    d.rec.operation = Some(Operation::Action(ActionRun { action, by, key }));
}

/// A worker answered to the effect that the action waits for.
pub(crate) fn effect_done(d: &mut Draft, run: ActionRun, key: EffectKey, outcome: Outcome) {
    match outcome {
        Outcome::Done(_) => {
            d.forget(key);
            d.rec.operation = None;
            d.clear(Alert::ActionStuck);
            d.emit(match run.action {
                Action::Restore(backup) => EventKind::BackupRestored { backup },
                Action::Start | Action::Stop | Action::Reboot | Action::Suspend | Action::Resume => {
                    EventKind::ActionDone { action: run.action.name().to_owned() }
                }
            });
        }
        Outcome::NotApplied { reason } => give_up(d, &run, key, &reason),
        Outcome::Retryable { reason } | Outcome::Unknown { reason } => {
            if d.put_off(key) >= MAX_TRIES {
                give_up(d, &run, key, &reason);
            } else {
                d.rec.operation = Some(Operation::Action(run));
            }
        }
    }
}

fn give_up(d: &mut Draft, run: &ActionRun, key: EffectKey, reason: &str) {
    d.forget(key);
    d.rec.operation = None;
    d.emit(EventKind::ActionFailed { action: run.action.name().to_owned(), reason: reason.to_owned() });
    d.alert(Alert::ActionStuck, format!("{} asked for by {} failed: {reason}", run.action.name(), run.by));
}

/// Gives up a repair or an action because the VM is gone.
pub(crate) fn abandon(d: &mut Draft) {
    let key = match d.rec.operation.take() {
        Some(Operation::Action(run)) => {
            let action = run.action.name().to_owned();
            d.emit(EventKind::ActionFailed { action, reason: "the VM is gone".into() });
            Some(run.key)
        }
        Some(Operation::Repair(run)) => {
            d.emit(EventKind::RepairAbandoned { reason: "the VM is gone".into() });
            match run.step {
                RepairStage::Acting(key) | RepairStage::Retesting { key, .. } => Some(key),
                RepairStage::Booting { .. } => None,
            }
        }
        Some(Operation::Backup(_) | Operation::Ending(_) | Operation::Revive(_) | Operation::Provision(_)) | None => {
            None
        }
    };
    if let Some(key) = key {
        d.forget(key);
    }
}

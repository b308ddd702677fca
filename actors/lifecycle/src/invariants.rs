//! The safety rules, checked after every step in tests and simulations.
//!
//! What a single record shows is checked by [`check`]; what only the step from one record to the next shows, by
//! [`check_step`].

use std::collections::BTreeSet;

use reeve_protocol::Timestamp;
use reeve_protocol::event::{EventKind, LeaseEndReason};

use crate::effect::Effect;
use crate::input::Step;
use crate::operation::{EndPlan, EndingStep, Operation};
use crate::outcome::waited_for;
use crate::record::{
    BackupState, Lease, LeasePhase, MAX_ANSWERS, MAX_BACKUPS, MAX_HISTORY, MAX_SEEN, Presence, VmRecord,
};
use crate::step::next_deadline;

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

macro_rules! rule {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($why)+)));
        }
    };
}

/// Checks one record.
///
/// # Errors
/// [`Broken`] names the first rule that does not hold.
pub fn check(record: &VmRecord) -> Result<(), Broken> {
    bounds(record)?;
    effects(record)?;
    destruction(record)?;
    requests(record)?;
    let sequences: Vec<u64> = record.outbox.iter().map(|event| event.sequence).collect();
    rule!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "the outbox has a gap: {sequences:?}");
    rule!(
        sequences.last().is_none_or(|last| *last == record.sequence),
        "the outbox ends at {sequences:?}, the record at {}",
        record.sequence
    );
    if record.is_gone() {
        rule!(
            !matches!(
                record.lease,
                Lease::Running { phase: LeasePhase::Active | LeasePhase::Warned | LeasePhase::Grace { .. }, .. }
            ),
            "a VM that is gone has a running lease"
        );
    }
    Ok(())
}

fn bounds(record: &VmRecord) -> Result<(), Broken> {
    rule!(record.seen.len() <= MAX_SEEN, "{} seen ids", record.seen.len());
    rule!(record.answers.len() <= MAX_ANSWERS, "{} answers", record.answers.len());
    rule!(record.history.len() <= MAX_HISTORY, "{} history lines", record.history.len());
    rule!(record.backups.len() <= MAX_BACKUPS, "{} backups", record.backups.len());
    let holds = record.holds.windows(2).all(|pair| pair[0] < pair[1]);
    rule!(holds, "holds are not sorted: {:?}", record.holds);
    Ok(())
}

fn effects(record: &VmRecord) -> Result<(), Broken> {
    let keys: BTreeSet<_> = record.effects.iter().map(|pending| pending.key).collect();
    rule!(keys.len() == record.effects.len(), "an effect key stands twice");
    if let Some(key) = record.operation.as_ref().and_then(waited_for) {
        rule!(keys.contains(&key), "the operation waits for effect {key}, which is not pending");
    }
    let running = record.backups.iter().filter(|entry| entry.state == BackupState::Running).count();
    rule!(running <= 1, "{running} backups run at once");
    // One exclusive operation at a time: of the effects that only an operation may ask for, one is pending.
    let exclusive = record
        .effects
        .iter()
        .filter(|pending| {
            !matches!(
                pending.effect,
                Effect::Notify { .. }
                    | Effect::Report { .. }
                    | Effect::DropSnapshots { .. }
                    | Effect::DeleteBackup { .. }
            )
        })
        .count();
    rule!(exclusive <= 1, "{exclusive} exclusive effects are pending");
    Ok(())
}

/// Rule 1: nothing is destroyed before every disk is verified, where the plan backs up.
fn destruction(record: &VmRecord) -> Result<(), Broken> {
    let destroys = record.effects.iter().any(|pending| {
        matches!(pending.effect, Effect::DeleteServer | Effect::DeleteVolume { .. } | Effect::ReleaseAddress { .. })
    });
    let Some(Operation::Ending(run)) = &record.operation else {
        rule!(!destroys, "something is destroyed without an ending");
        return Ok(());
    };
    if destroys && run.plan == EndPlan::BackupAndDelete {
        let verified = run
            .backup
            .and_then(|id| record.backup(id))
            .is_some_and(|entry| matches!(entry.state, BackupState::Verified { .. }));
        rule!(verified, "the VM is destroyed before its backup is verified");
    }
    rule!(
        !destroys || matches!(run.plan, EndPlan::BackupAndDelete | EndPlan::Delete),
        "a plan that keeps the VM destroys it"
    );
    Ok(())
}

/// A request for a VM has no lease and ends nothing, and whatever is made or taken back is made for one.
fn requests(record: &VmRecord) -> Result<(), Broken> {
    let is_provision = matches!(record.operation, Some(Operation::Provision(_)));
    rule!(
        is_provision == matches!(record.presence, Presence::Requested { .. }),
        "a request is {:?} under {:?}",
        record.presence,
        record.operation
    );
    rule!(
        !record.presence.is_request() || matches!(record.lease, Lease::None),
        "a request has a lease: {:?}",
        record.lease
    );
    let makes = record.effects.iter().any(|pending| {
        matches!(
            pending.effect,
            Effect::CheckPlan | Effect::MakePart { .. } | Effect::AwaitReady { .. } | Effect::TakeBack
        )
    });
    rule!(is_provision || !makes, "something is made for no request");
    Ok(())
}

/// Checks a step from one record to the next.
///
/// # Errors
/// [`Broken`] names the first rule that does not hold.
pub fn check_step(before: &VmRecord, step: &Step, now: Timestamp) -> Result<(), Broken> {
    let after = &step.record;
    check(after)?;
    rule!(step.changed || before == after, "an unchanged step changed the record");
    let next = if step.changed { before.generation.next() } else { before.generation };
    rule!(after.generation == next, "generation {} follows {}", after.generation, before.generation);
    rule!(
        !matches!(
            (before.presence, after.presence),
            (
                Presence::Gone { .. },
                Presence::Present { .. } | Presence::SoftDeleted { .. } | Presence::Unseen | Presence::Requested { .. }
            )
        ),
        "a VM came back from the dead"
    );
    rule!(!before.presence.is_request() || after.presence.is_request(), "a request became {:?}", after.presence);
    rule!(
        !matches!(before.presence, Presence::Closed { .. }) || after.presence == before.presence,
        "a request was settled twice: {:?}, {:?}",
        before.presence,
        after.presence
    );
    leases(before, step, now)?;
    if let Some((at, reason)) = next_deadline(after)
        && !matches!(step.verdict, crate::input::Verdict::Busy)
        && !step.purge
    {
        rule!(at > now, "the deadline {at} ({reason:?}) is not after now, {now}");
    }
    let raised = |alert| after.alerts.contains(&alert);
    for event in &step.events {
        if let EventKind::AlertRaised { alert, .. } = &event.kind {
            rule!(
                !before.alerts.contains(alert) || !raised(*alert) || was_cleared(step, *alert),
                "{alert:?} raised twice"
            );
        }
    }
    for pending in &step.effects {
        rule!(after.effects.contains(pending), "effect {} is issued and not kept", pending.key);
        let touches = pending.effect.is_destructive() && !matches!(pending.effect, Effect::DeleteBackup { .. });
        rule!(
            !touches || after.holds.is_empty(),
            "{:?} is issued while the VM is held by {:?}",
            pending.effect,
            after.holds
        );
    }
    Ok(())
}

fn was_cleared(step: &Step, alert: reeve_protocol::event::Alert) -> bool {
    step.events.iter().any(|event| event.kind == EventKind::AlertCleared { alert })
}

/// Rule 2: no lease ends early, none is lost, none is extended beyond its caps.
fn leases(before: &VmRecord, step: &Step, now: Timestamp) -> Result<(), Broken> {
    let after = &step.record;
    let had = before.term().is_some();
    let exempted = matches!(after.lease, Lease::Exempt);
    rule!(!had || after.term().is_some() || exempted, "the lease was lost: {:?}", before.lease);
    for event in &step.events {
        match &event.kind {
            EventKind::LeaseExtended { ends_at, extensions, .. } => {
                let policy = &after.policy.terms.lease;
                let term = after.term().ok_or_else(|| Broken("an extension without a lease".into()))?;
                rule!(*extensions <= policy.max_extensions, "{extensions} extensions");
                rule!(*ends_at <= term.started_at + policy.max_total, "extended beyond the total: {ends_at}");
            }
            EventKind::LeaseExpired { ends_at, .. } => rule!(*ends_at <= now, "the lease ended early: {ends_at}"),
            EventKind::LeaseEnded { reason: LeaseEndReason::Destroyed } => {
                let deleted = matches!(
                    &before.operation,
                    Some(Operation::Ending(run)) if matches!(
                        run.step,
                        EndingStep::DeleteServer(_) | EndingStep::DeleteVolume { .. } | EndingStep::ReleaseAddress { .. }
                    )
                );
                rule!(deleted, "a lease ended as destroyed without a destruction");
            }
            _ => {}
        }
    }
    Ok(())
}

//! Dispatch: one input, then everything that is due, then what has been waiting for its turn.
//!
//! ```text
//! input ─► its own rule ─► settle: retries ─► lease ─► pauses ─► operation ─► next operation ─► retention ─► purge
//! ```
//!
//! Every input ends in `settle`, so a deadline that passed while nobody was running fires with whatever comes first.

use reeve_protocol::event::{Alert, EventKind};
use reeve_protocol::{Span, Timestamp};

use crate::draft::Draft;
use crate::effect::PendingEffect;
use crate::input::{Ignored, Reason, Step, Verdict, VmInput};
use crate::operation::{EndingStep, Operation};
use crate::record::{MAX_OUTBOX, Presence, VmRecord};
use crate::{
    backup_schedule, command, ending, health, lease, lease_commands, observe, outcome, provision, repair, retention,
    reverify,
};

/// A tombstone is kept at least so long, so that late messages find it.
pub const TOMBSTONE_FOR: Span = Span::from_days(7);

/// Decides: what the record becomes by this input at this time, and what that asks for.
#[must_use]
pub fn step(record: &VmRecord, input: VmInput, now: Timestamp) -> Step {
    let mut d = Draft::new(record, now);
    let confirms = matches!(input, VmInput::Published { .. });
    if record.outbox.len() >= MAX_OUTBOX && !confirms {
        return d.finish(record, Verdict::Busy);
    }
    let verdict = dispatch(&mut d, input);
    if d.rec.presence != Presence::Unseen {
        settle(&mut d);
    }
    d.finish(record, verdict)
}

fn dispatch(d: &mut Draft, input: VmInput) -> Verdict {
    match input {
        VmInput::Notified(notification) => observe::notified(d, notification),
        VmInput::Listed { facts, said } => observe::listed(d, facts, said),
        VmInput::Missing { asked_at } => observe::missing(d, asked_at),
        VmInput::Introduced { revived_from, facts, said } => observe::introduced(d, revived_from, facts, said),
        VmInput::Probed { probe, verdict } => health::probed(d, probe, verdict),
        VmInput::Commanded { command, policy } => command::commanded(d, command, policy),
        VmInput::EffectDone { key, outcome } => outcome::effect_done(d, key, outcome),
        VmInput::Published { through } => published(d, through),
        VmInput::PolicyAssigned { policy, unknown } => policy_assigned(d, policy, unknown),
        VmInput::HoldRaised(hold) => {
            lease::set_hold(d, hold, true);
            Verdict::Accepted(None)
        }
        VmInput::HoldLifted(hold) => {
            lease::set_hold(d, hold, false);
            Verdict::Accepted(None)
        }
        VmInput::ChildExhausted(child) => {
            if !d.rec.alerts.contains(&Alert::SupervisionExhausted) {
                d.emit(EventKind::SupervisionExhausted { child });
                d.alert(Alert::SupervisionExhausted, format!("{child:?} keeps failing; it is tried on"));
            }
            Verdict::Accepted(None)
        }
        VmInput::ChildRecovered(_) => {
            d.clear(Alert::SupervisionExhausted);
            Verdict::Accepted(None)
        }
        VmInput::Asked { command, admission, reply } => provision::asked(d, command, admission, reply),
        VmInput::Tick => Verdict::Ignored(Ignored::Nothing),
    }
}

/// Takes the events up to this sequence out of the outbox, because the bus has confirmed them; true if there was one.
///
/// Whoever keeps the record may do so before it is written: what is decided then is what would be decided after
/// [`VmInput::Published`], and its commit writes both. Lost with the keeper, they are in the stored outbox still, and are
/// published again.
pub fn confirm(record: &mut VmRecord, through: u64) -> bool {
    let before = record.outbox.len();
    record.outbox.retain(|event| event.sequence > through);
    record.outbox.len() < before
}

/// The last event that the bus has confirmed, as far as the record at hand knows: the one before the first of its outbox.
pub fn confirmed(record: &VmRecord) -> u64 {
    record.outbox.first().map_or(record.sequence, |event| event.sequence - 1)
}

fn published(d: &mut Draft, through: u64) -> Verdict {
    if d.rec.presence == Presence::Unseen {
        return Verdict::Ignored(Ignored::Over);
    }
    confirm(&mut d.rec, through);
    // The outbox at hand may have lacked them already; the stored one has them.
    d.restate();
    Verdict::Accepted(None)
}

fn policy_assigned(d: &mut Draft, policy: crate::policy::NamedPolicy, unknown: Option<String>) -> Verdict {
    match unknown {
        Some(name) => d.alert(Alert::UnknownPolicy, format!("the VM asks for policy {name:?}, which does not exist")),
        None => d.clear(Alert::UnknownPolicy),
    }
    if !d.rec.is_gone() {
        lease_commands::assign_policy(d, policy);
    }
    Verdict::Accepted(None)
}

/// Does everything that is due.
fn settle(d: &mut Draft) {
    if d.rec.presence.is_request() {
        // Nothing else is ever due: there is no VM.
        provision::advance(d);
        d.reissue_due();
        return purge_if_due(d);
    }
    d.reissue_due();
    lease::advance(d);
    health::refresh_pause(d);
    backup_schedule::refresh(d);
    backup_schedule::tell_missed(d);
    match &d.rec.operation {
        Some(Operation::Ending(_)) => ending::advance(d),
        Some(Operation::Repair(_)) => repair::advance(d),
        Some(Operation::Backup(_) | Operation::Revive(_) | Operation::Action(_) | Operation::Provision(_)) | None => {}
    }
    if d.rec.operation.is_none() {
        begin_next(d);
    }
    if matches!(d.rec.operation, None | Some(Operation::Ending(_))) || d.rec.is_gone() {
        retention_due(d);
    }
    purge_if_due(d);
}

fn purge_if_due(d: &mut Draft) {
    if let Some(at) = purge_at(&d.rec)
        && at <= d.now
    {
        d.purge = true;
    }
}

fn retention_due(d: &mut Draft) {
    if retention::deadline(&d.rec).is_some_and(|(at, _)| at <= d.now) {
        retention::apply(d);
    }
}

/// Begins what has been waiting for its turn: ending before repair before backup before reading back.
fn begin_next(d: &mut Draft) {
    if d.rec.is_gone() {
        // Its backups are all that is left of it.
        reverify::begin_if_due(d);
        return;
    }
    let begun = ending::begin_if_wanted(d)
        || repair::begin_if_wanted(d)
        || backup_schedule::begin_if_due(d)
        || reverify::begin_if_due(d);
    if begun {
        health::refresh_pause(d);
    }
}

/// When the tombstone may go: late messages have come by then, no backup is left, nothing waits.
fn purge_at(record: &VmRecord) -> Option<Timestamp> {
    let (Presence::Gone { at } | Presence::Closed { at, .. }) = record.presence else { return None };
    let idle = record.operation.is_none()
        && record.effects.is_empty()
        && record.outbox.is_empty()
        && record.backups.is_empty();
    // A deletion may be heard of late: late messages are counted from then.
    let heard_at = record.history.last().map_or(at, |entry| entry.at.max(at));
    idle.then_some(heard_at + TOMBSTONE_FOR)
}

/// The effects to perform again after a crash: all that were being tried. Whoever performs them looks first.
#[must_use]
pub fn recover(record: &VmRecord, _now: Timestamp) -> Vec<PendingEffect> {
    record.effects.iter().filter(|pending| pending.retry_at.is_none()).cloned().collect()
}

/// When to wake the record next, and why. A wake-up that comes too early or twice is a no-op.
///
/// `None` while nothing is due by time alone. What waits for a hold to be lifted, for the cloud or for a worker has no
/// deadline.
#[must_use]
pub fn next_deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    if record.presence == Presence::Unseen || record.outbox.len() >= MAX_OUTBOX {
        return None;
    }
    let held = !record.holds.is_empty();
    let retries = record
        .effects
        .iter()
        .filter(|pending| !(held && pending.effect.is_destructive()))
        .filter_map(|pending| pending.retry_at)
        .min()
        .map(|at| (at, Reason::Retry));
    let final_backup = match &record.operation {
        Some(Operation::Ending(run)) => match run.step {
            EndingStep::BackUpAgain { at, .. } if !held => Some((at, Reason::FinalBackupRetry)),
            _ => None,
        },
        Some(_) | None => None,
    };
    // Retention and purge wait while another operation might read what they remove.
    let quiet = matches!(record.operation, None | Some(Operation::Ending(_))) || record.is_gone();
    let retention = retention::deadline(record).filter(|_| quiet);
    [
        retries,
        lease::deadline(record),
        repair::deadline(record),
        backup_schedule::deadline(record),
        reverify::deadline(record),
        final_backup,
        retention,
        purge_at(record).map(|at| (at, Reason::Purge)),
    ]
    .into_iter()
    .flatten()
    .min()
}

//! When a VM is backed up: by schedule, spread over a window by the VM's id; missed runs are caught up once; failed runs
//! are tried again within the window.
//!
//! A window that passes without a run is told when it ends, with what was in the way, and once until a run is done: whoever
//! is held for weeks is one matter, not one a day.

use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode, Requester};
use reeve_protocol::event::{Alert, BackupPurpose, EventKind};
use reeve_protocol::observation::VmState;
use reeve_protocol::{BackupId, Span, Timestamp};

use crate::draft::{Draft, backoff};
use crate::input::Reason;
use crate::lease_commands::{owner_of_living, untouched};
use crate::operation::{BackupRun, BackupStep, Operation};
use crate::record::{BackupState, Health, MAX_BACKUPS, MAX_EFFECTS, Presence, VmRecord};
use crate::{backup, reverify};

/// Where this VM's runs lie within the window.
fn offset(record: &VmRecord) -> i64 {
    let policy = &record.policy.terms.backup;
    let window = policy.window.min(policy.every).as_millis().max(1);
    let (high, low) = record.vm.uuid().as_u64_pair();
    i64::try_from((high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) % window).unwrap_or(0)
}

/// What is to be read back again under a new policy is spread as backups are.
pub(crate) fn spread_reverify(d: &mut Draft) {
    let offset = Span::from_millis(u64::try_from(offset(&d.rec)).unwrap_or(0));
    reverify::reschedule(d, offset);
}

/// The first slot of the schedule after `after`; `None` without a schedule.
fn next_slot(record: &VmRecord, after: Timestamp) -> Option<Timestamp> {
    let every = i64::try_from(record.policy.terms.backup.every.as_millis()).unwrap_or(i64::MAX);
    if every == 0 {
        return None;
    }
    let offset = offset(record);
    let slots = (after.as_millis() - offset).div_euclid(every) + 1;
    Some(Timestamp::from_millis(slots.saturating_mul(every).saturating_add(offset)))
}

/// Keeps the schedule in step with the VM: set once it is launched, none once it is gone or without a policy for it.
pub(crate) fn refresh(d: &mut Draft) {
    let living = matches!(d.rec.presence, Presence::Present { .. }) && d.rec.facts.launched_at.is_some();
    if !living || d.rec.policy.terms.backup.every.is_zero() {
        d.rec.schedule.next_at = None;
        d.rec.schedule.due_at = None;
        d.rec.schedule.window_from = None;
        d.rec.schedule.retry_at = None;
    } else if d.rec.schedule.next_at.is_none() {
        d.rec.schedule.next_at = next_slot(&d.rec, d.now);
    }
}

/// How long after a run was due it is late.
fn window(record: &VmRecord) -> Span {
    record.policy.terms.backup.window.max(Span::from_millis(1))
}

/// When a run was due that is not under way, and when its window ends.
fn open_window(record: &VmRecord) -> Option<(Timestamp, Timestamp)> {
    let schedule = &record.schedule;
    let is_under_way = matches!(
        &record.operation,
        Some(Operation::Backup(run)) if run.purpose == BackupPurpose::Scheduled && reverify::read(run).is_none()
    );
    let due_at = schedule.due_at.or(schedule.next_at).filter(|_| !is_under_way)?;
    let from = schedule.due_at.and(schedule.window_from).unwrap_or(due_at);
    (schedule.missed != Some(due_at)).then(|| (due_at, from + window(record)))
}

/// Tells of a window that ended without a run, once.
pub(crate) fn tell_missed(d: &mut Draft) {
    let Some((due_at, _)) = open_window(&d.rec).filter(|(_, until)| *until <= d.now) else { return };
    let reason = in_the_way(&d.rec);
    d.rec.schedule.missed = Some(due_at);
    d.emit(EventKind::BackupWindowMissed { due_at, reason });
}

/// What keeps a backup from being begun.
fn in_the_way(record: &VmRecord) -> String {
    if let Some(operation) = &record.operation {
        return format!("another operation was under way: {}", operation.name());
    }
    if let Some(hold) = record.holds.first() {
        return format!("the VM is held: {}", hold.name());
    }
    if let Some(task) = &record.facts.task {
        return format!("the cloud is busy with the VM: {task}");
    }
    if matches!(record.health, Health::Down { .. }) {
        return "the VM is down".to_owned();
    }
    if !can_run(record) {
        return format!("the VM is {}", record.facts.state.as_nova());
    }
    if is_full(record) {
        return "the record has no room for another backup".to_owned();
    }
    "nobody attended to the VM".to_owned()
}

fn can_run(record: &VmRecord) -> bool {
    matches!(record.presence, Presence::Present { .. })
        && record.facts.task.is_none()
        && record.holds.is_empty()
        && !matches!(record.health, Health::Down { .. })
        && matches!(
            record.facts.state,
            VmState::Active | VmState::Stopped | VmState::Paused | VmState::Suspended | VmState::Resized
        )
}

/// Whether the record has no room for another backup, or for what it leaves to be done in the background.
pub(crate) fn is_full(record: &VmRecord) -> bool {
    record.backups.len() >= MAX_BACKUPS || record.effects.len() >= MAX_EFFECTS
}

/// Begins a backup if one is due; says whether it did.
pub(crate) fn begin_if_due(d: &mut Draft) -> bool {
    if !can_run(&d.rec) {
        return false;
    }
    if is_full(&d.rec) {
        let schedule = &d.rec.schedule;
        if schedule.manual || schedule.retry_at.or(schedule.next_at).is_some_and(|at| at <= d.now) {
            let counts = (d.rec.backups.len(), d.rec.effects.len());
            d.alert(
                Alert::BackupFailed,
                format!("{} backups and {} tasks are too many for another", counts.0, counts.1),
            );
        }
        return false;
    }
    if d.rec.schedule.manual {
        d.rec.schedule.manual = false;
        let run = backup::begin(d, BackupPurpose::Manual, false);
        d.rec.operation = Some(Operation::Backup(run));
        return true;
    }
    let schedule = &d.rec.schedule;
    let retry = schedule.due_at.filter(|_| schedule.retry_at.is_some_and(|at| at <= d.now));
    let fresh = schedule.next_at.filter(|at| schedule.due_at.is_none() && *at <= d.now);
    let Some(due_at) = retry.or(fresh) else { return false };
    let late = due_at + window(&d.rec) <= d.now;
    if retry.is_none() {
        d.rec.schedule.window_from = Some(if late { d.now } else { due_at });
    }
    d.rec.schedule.due_at = Some(due_at);
    d.rec.schedule.retry_at = None;
    let run = backup::begin(d, BackupPurpose::Scheduled, late);
    d.rec.operation = Some(Operation::Backup(run));
    true
}

fn settle_slot(d: &mut Draft) {
    d.rec.schedule.due_at = None;
    d.rec.schedule.window_from = None;
    d.rec.schedule.retry_at = None;
    d.rec.schedule.failures = 0;
    // One catch-up run covers every slot that passed.
    d.rec.schedule.next_at = next_slot(&d.rec, d.now);
}

/// A backup of the backup operation is verified.
pub(crate) fn succeeded(d: &mut Draft, run: &BackupRun) {
    if reverify::read(run).is_some() {
        reverify::succeeded(d);
    }
    d.clear(Alert::BackupFailed);
    if run.step != (BackupStep::Verify { again: true }) && run.purpose == BackupPurpose::Scheduled {
        settle_slot(d);
    }
}

/// A backup of the backup operation failed: it is tried again within its window, then given up and a human told.
pub(crate) fn failed(d: &mut Draft, run: &BackupRun, reason: String) {
    if run.step == (BackupStep::Verify { again: true }) {
        d.emit(EventKind::BackupVerifyFailed { backup: run.id, reason: reason.clone() });
        if d.rec.backup(run.id).is_some_and(|entry| entry.state == BackupState::Damaged) {
            d.alert(Alert::BackupDamaged, format!("backup {} is damaged: {reason}", run.id));
            // What the VM could have been put back to is one less: the next comes at once.
            if let Some(next_at) = &mut d.rec.schedule.next_at {
                *next_at = d.now.min(*next_at);
            }
        } else {
            reverify::failed(d);
            d.alert(Alert::BackupFailed, format!("backup {} could not be read back: {reason}", run.id));
        }
        return;
    }
    if run.purpose == BackupPurpose::Scheduled
        && let Some(due_at) = d.rec.schedule.due_at
    {
        d.rec.schedule.failures += 1;
        let retry_at = d.now + backoff(d.rec.schedule.failures + 3, run.id.uuid().as_u64_pair().0);
        // A late run has a window of its own, from its first attempt on.
        let from = d.rec.schedule.window_from.unwrap_or(due_at);
        if d.rec.schedule.failures < 8 && retry_at.since(from) < d.rec.policy.terms.backup.window.duration() {
            d.rec.schedule.retry_at = Some(retry_at);
            return;
        }
        settle_slot(d);
    }
    d.emit(EventKind::BackupFailed { backup: run.id, reason: reason.clone() });
    d.alert(Alert::BackupFailed, format!("backup {} failed: {reason}", run.id));
}

/// When a backup is due.
pub(crate) fn deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    if record.operation.is_some() || !can_run(record) || is_full(record) {
        return open_window(record).map(|(_, until)| (until, Reason::BackupWindowOver));
    }
    let schedule = &record.schedule;
    let at = if schedule.due_at.is_some() { schedule.retry_at } else { schedule.next_at };
    at.map(|at| (at, Reason::BackupDue))
}

fn accepted(d: &Draft, message: &str, backup: Option<BackupId>) -> Answer {
    Ok(Accepted { vm: d.rec.vm, message: message.into(), ends_at: None, backup })
}

/// `backup.run`.
pub(crate) fn run_now(d: &mut Draft, by: &Requester) -> Answer {
    owner_of_living(d, by)?;
    untouched(d)?;
    if d.rec.schedule.manual {
        return Err(Refusal::new(RefusalCode::Conflict, "a manual backup is waiting already"));
    }
    d.rec.schedule.manual = true;
    accepted(d, "a backup begins as soon as nothing is in its way", None)
}

/// `backup.verify`.
pub(crate) fn verify_now(d: &mut Draft, by: &Requester, backup: Option<BackupId>) -> Answer {
    if !crate::extend::is_owner(&d.rec, by) {
        return Err(Refusal::new(RefusalCode::Denied, format!("{by} is neither the owner of this VM nor an operator")));
    }
    if let Some(operation) = &d.rec.operation {
        return Err(Refusal::new(RefusalCode::Conflict, format!("in the way: {}", operation.name())));
    }
    let entry = verified_entry(d, backup)?;
    let (id, purpose) = (entry.0, entry.1);
    d.emit(EventKind::BackupVerifyStarted { backup: id });
    let run = backup::begin_again(d, id, purpose);
    d.rec.operation = Some(Operation::Backup(run));
    accepted(d, "the backup is read back", Some(id))
}

/// The verified backup that a command names, or the latest.
pub(crate) fn verified_entry(d: &Draft, backup: Option<BackupId>) -> Result<(BackupId, BackupPurpose), Refusal> {
    let refuse = |message: String| Refusal::new(RefusalCode::NotFound, message);
    let entry = match backup {
        Some(id) => d.rec.backup(id).ok_or_else(|| refuse(format!("this VM has no backup {id}")))?,
        None => d.rec.latest_verified().ok_or_else(|| refuse("this VM has no verified backup".into()))?,
    };
    match entry.state {
        BackupState::Verified { .. } => Ok((entry.id, entry.purpose)),
        BackupState::Running | BackupState::Failed | BackupState::Damaged | BackupState::Deleting => {
            Err(Refusal::new(RefusalCode::Conflict, format!("backup {} is not verified", entry.id)))
        }
    }
}

/// The pause before a failed final backup is tried again.
pub(crate) fn final_retry(d: &Draft, failures: u32) -> Timestamp {
    let spread: Span = backoff(failures + 2, d.rec.vm.uuid().as_u64_pair().1);
    d.now + spread
}

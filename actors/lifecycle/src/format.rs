//! The stored forms of a record. This is the one place that knows more than the newest.
//!
//! | format | since then |
//! |---|---|
//! | 1 | the first |
//! | 2 | a policy says when backups are read back again (`backup.reverify`); the schedule of backups remembers which window was told to be missed, and when a backup may next be read back again |
//!
//! A record is written in the newest format with the next decision about its VM, never for its own sake. Whoever adds to
//! what is stored before a release has this format adds to it; afterwards the next format is opened: what stood before is
//! copied to a struct here with a `From`, [`decode`] gets an arm, and `tests/golden` another file. New variants at the end
//! of an enum need no format of their own, but an older version cannot read them.

use reeve_protocol::codec::{self, CodecError};
use reeve_protocol::event::{Alert, Event};
use reeve_protocol::{CloudName, Generation, Span, Timestamp, UserId, VmId};
use serde::Deserialize;

use crate::effect::PendingEffect;
use crate::operation::Operation;
use crate::policy::{BackupPolicy, HealthPolicy, LeasePolicy, NamedPolicy, Policy, RepairPolicy};
use crate::record::{
    Answered, BackupEntry, BackupSchedule, EndRequest, Facts, Health, HistoryEntry, Hold, Lease, Presence,
    RECORD_FORMAT, RepairMemory, VmRecord,
};

/// Writes a record in the newest format.
///
/// # Errors
/// [`CodecError`] when it is too large.
pub fn encode(record: &VmRecord) -> Result<Vec<u8>, CodecError> {
    codec::encode(RECORD_FORMAT, record)
}

/// Reads a record of any format up to the newest.
///
/// # Errors
/// [`CodecError`] when it is of a newer format, or none.
pub fn decode(bytes: &[u8]) -> Result<Box<VmRecord>, CodecError> {
    match bytes.first() {
        Some(1) => codec::decode::<Box<First>>(1, bytes).map(|(_, first)| Box::new((*first).into())),
        Some(_) | None => codec::decode(RECORD_FORMAT, bytes).map(|(_, record)| record),
    }
}

/// A record of format 1.
#[derive(Deserialize)]
struct First {
    vm: VmId,
    cloud: CloudName,
    generation: Generation,
    presence: Presence,
    facts: Facts,
    policy: FirstNamedPolicy,
    lease: Lease,
    delegates: Vec<UserId>,
    holds: Vec<Hold>,
    hold_said: bool,
    health: Health,
    repairs: RepairMemory,
    schedule: FirstSchedule,
    backups: Vec<BackupEntry>,
    operation: Option<Operation>,
    effects: Vec<PendingEffect>,
    outbox: Vec<Event>,
    sequence: u64,
    seen: Vec<u64>,
    answers: Vec<Answered>,
    alerts: Vec<Alert>,
    history: Vec<HistoryEntry>,
    revived_from: Option<VmId>,
    created_seen: bool,
    end_request: Option<EndRequest>,
}

#[derive(Deserialize)]
struct FirstNamedPolicy {
    name: String,
    terms: FirstPolicy,
}

#[derive(Deserialize)]
struct FirstPolicy {
    lease: LeasePolicy,
    exempt: bool,
    health: HealthPolicy,
    repair: RepairPolicy,
    backup: FirstBackupPolicy,
    projects: Vec<String>,
}

#[derive(Deserialize)]
struct FirstBackupPolicy {
    every: Span,
    window: Span,
    keep_last: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    keep_manual: u32,
    keep_final: Span,
}

#[derive(Deserialize)]
struct FirstSchedule {
    next_at: Option<Timestamp>,
    due_at: Option<Timestamp>,
    window_from: Option<Timestamp>,
    retry_at: Option<Timestamp>,
    failures: u32,
    manual: bool,
}

impl From<First> for VmRecord {
    fn from(first: First) -> Self {
        Self {
            vm: first.vm,
            cloud: first.cloud,
            generation: first.generation,
            presence: first.presence,
            facts: first.facts,
            policy: first.policy.into(),
            lease: first.lease,
            delegates: first.delegates,
            holds: first.holds,
            hold_said: first.hold_said,
            health: first.health,
            repairs: first.repairs,
            schedule: first.schedule.into(),
            backups: first.backups,
            operation: first.operation,
            effects: first.effects,
            outbox: first.outbox,
            sequence: first.sequence,
            seen: first.seen,
            answers: first.answers,
            alerts: first.alerts,
            history: first.history,
            revived_from: first.revived_from,
            created_seen: first.created_seen,
            end_request: first.end_request,
        }
    }
}

impl From<FirstNamedPolicy> for NamedPolicy {
    fn from(first: FirstNamedPolicy) -> Self {
        let FirstNamedPolicy { name, terms } = first;
        let FirstPolicy { lease, exempt, health, repair, backup, projects } = terms;
        Self { name, terms: Policy { lease, exempt, health, repair, backup: backup.into(), projects } }
    }
}

impl From<FirstBackupPolicy> for BackupPolicy {
    fn from(first: FirstBackupPolicy) -> Self {
        let FirstBackupPolicy { every, window, keep_last, daily, weekly, monthly, keep_manual, keep_final } = first;
        let reverify = Span::ZERO;
        Self { every, window, keep_last, daily, weekly, monthly, keep_manual, keep_final, reverify }
    }
}

impl From<FirstSchedule> for BackupSchedule {
    fn from(first: FirstSchedule) -> Self {
        let FirstSchedule { next_at, due_at, window_from, retry_at, failures, manual } = first;
        Self { next_at, due_at, window_from, retry_at, failures, manual, missed: None, reverify_at: None }
    }
}

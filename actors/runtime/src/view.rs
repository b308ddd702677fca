//! Records as administrators see them. The only place that translates.

use reeve_lifecycle::VmRecord;
use reeve_lifecycle::operation::{BackupRun, BackupStep, EndingStep, Operation};
use reeve_lifecycle::record::{BackupEntry, BackupState, Health, Lease, LeasePhase, Presence};
use reeve_protocol::admin::{BackupView, HistoryView, LeaseView, VmView};
use reeve_protocol::event::LeaseEndReason;
use reeve_protocol::observation::VmState;
use reeve_protocol::{CloudName, Generation, NodeId, ShardId, VmId};

/// A VM. `moved` is how many bytes of the disk that is being stored are on their way, if one is.
#[must_use]
pub fn vm(record: &VmRecord, shard: ShardId, node: &NodeId, moved: Option<u64>) -> VmView {
    VmView {
        id: record.vm,
        name: record.facts.name.clone(),
        project: record.facts.project.clone(),
        user: record.facts.user.clone(),
        cloud: record.cloud.clone(),
        host: record.facts.host.clone(),
        state: state(record).to_owned(),
        task: record.facts.task.clone(),
        health: health(record),
        policy: record.policy.name.clone(),
        shard,
        node: node.clone(),
        locked: record.facts.locked,
        lease: lease(record),
        backups: backups(record, moved),
        operation: record.operation.as_ref().map(|operation| under_way(operation, moved)),
        holds: record.holds.iter().map(|hold| hold.name().to_owned()).collect(),
        alerts: record.alerts.clone(),
        revived_from: record.revived_from,
        generation: record.generation,
    }
}

/// A VM whose stored record cannot be read: its id is all that is known of it.
#[must_use]
pub fn parked(vm: VmId, shard: ShardId, node: &NodeId) -> VmView {
    VmView {
        id: vm,
        name: String::new(),
        project: None,
        user: None,
        cloud: CloudName::new("unknown").expect("a constant that is a cloud name"),
        host: None,
        state: "parked".to_owned(),
        task: None,
        health: "unknown".to_owned(),
        policy: String::new(),
        shard,
        node: node.clone(),
        locked: false,
        lease: LeaseView {
            state: "none".to_owned(),
            started_at: None,
            ends_at: None,
            extensions: 0,
            max_extensions: 0,
            delegates: Vec::new(),
            ended: None,
        },
        backups: Vec::new(),
        operation: None,
        holds: vec!["unreadable_record".to_owned()],
        alerts: Vec::new(),
        revived_from: None,
        generation: Generation::default(),
    }
}

/// The lease state's name.
#[must_use]
pub const fn lease_state(lease: &Lease) -> &'static str {
    match lease {
        Lease::None => "none",
        Lease::Exempt => "exempt",
        Lease::Running { phase, .. } => match phase {
            LeasePhase::Active => "active",
            LeasePhase::Warned => "warned",
            LeasePhase::Grace { .. } => "grace",
            LeasePhase::Ending { .. } => "ending",
        },
        Lease::Parked { .. } => "parked",
        Lease::Ended { .. } => "ended",
    }
}

/// The backups of a VM, oldest first; `moved` as in [`vm`].
#[must_use]
pub fn backups(record: &VmRecord, moved: Option<u64>) -> Vec<BackupView> {
    let run = record.operation.as_ref().and_then(backup_run);
    let so_far = run.map(|run| run.stored.iter().map(|disk| disk.bytes).sum::<u64>() + moved.unwrap_or(0));
    record.backups.iter().map(|entry| backup(record.vm, entry, so_far)).collect()
}

/// The backup that an operation is, or is about.
fn backup_run(operation: &Operation) -> Option<&BackupRun> {
    match operation {
        Operation::Backup(run) => Some(run),
        Operation::Ending(run) => match &run.step {
            EndingStep::BackUp(run) => Some(run),
            EndingStep::Ready(_)
            | EndingStep::Halt(_)
            | EndingStep::BackUpAgain { .. }
            | EndingStep::Inventory(_)
            | EndingStep::DeleteServer(_)
            | EndingStep::DeleteVolume { .. }
            | EndingStep::ReleaseAddress { .. } => None,
        },
        Operation::Repair(_) | Operation::Revive(_) | Operation::Action(_) | Operation::Provision(_) => None,
    }
}

/// The operation's name, and of a backup how far it is.
fn under_way(operation: &Operation, moved: Option<u64>) -> String {
    let name = operation.name();
    backup_run(operation).map_or_else(|| name.to_owned(), |run| format!("{name}: {}", progress(run, moved)))
}

fn progress(run: &BackupRun, moved: Option<u64>) -> String {
    let disks = run.inventory.volumes.len() + 1;
    match run.step {
        BackupStep::Inventory => "looking what there is".to_owned(),
        BackupStep::Snapshot => format!("snapshot of disk {} of {disks}", run.snapshots.len() + 1),
        BackupStep::Store => {
            let bytes = moved.map_or_else(String::new, |moved| format!(", {moved} bytes so far"));
            format!("storing disk {} of {disks}{bytes}", run.stored.len() + 1)
        }
        BackupStep::Seal => "sealing".to_owned(),
        BackupStep::Verify { .. } => "reading back".to_owned(),
    }
}

/// What happened to a VM, oldest first.
#[must_use]
pub fn history(record: &VmRecord) -> Vec<HistoryView> {
    record.history.iter().map(|entry| HistoryView { at: entry.at, what: entry.what.clone() }).collect()
}

fn state(record: &VmRecord) -> &'static str {
    match record.presence {
        Presence::Gone { .. } => VmState::Deleted.as_nova(),
        Presence::SoftDeleted { .. } => VmState::SoftDeleted.as_nova(),
        Presence::Unseen | Presence::Present { .. } => record.facts.state.as_nova(),
        Presence::Requested { .. } => "requested",
        Presence::Closed { vm: Some(_), .. } => "delivered",
        Presence::Closed { vm: None, .. } => "failed",
    }
}

fn health(record: &VmRecord) -> String {
    if matches!(record.operation, Some(Operation::Repair(_))) {
        return "repairing".to_owned();
    }
    match &record.health {
        Health::Unknown { .. } => "unknown".to_owned(),
        Health::Up => "up".to_owned(),
        Health::Suspect { misses } => format!("suspect({misses})"),
        Health::Down { .. } => "down".to_owned(),
        Health::NeedsOperator { .. } => "needs_operator".to_owned(),
        Health::Paused { reason } => format!("paused({})", reason.name()),
    }
}

fn lease(record: &VmRecord) -> LeaseView {
    let term = record.term();
    let ended = match &record.lease {
        Lease::Ended { reason, .. } => Some(end_reason(*reason).to_owned()),
        Lease::None | Lease::Exempt | Lease::Running { .. } | Lease::Parked { .. } => None,
    };
    LeaseView {
        state: lease_state(&record.lease).to_owned(),
        started_at: term.map(|term| term.started_at),
        ends_at: term.map(|term| term.ends_at),
        extensions: term.map_or(0, |term| term.extensions),
        max_extensions: record.policy.terms.lease.max_extensions,
        delegates: record.delegates.clone(),
        ended,
    }
}

const fn end_reason(reason: LeaseEndReason) -> &'static str {
    match reason {
        LeaseEndReason::Destroyed => "destroyed",
        LeaseEndReason::Stopped => "stopped",
        LeaseEndReason::Suspended => "suspended",
        LeaseEndReason::Notified => "notified",
        LeaseEndReason::VmGone => "vm_gone",
    }
}

fn backup(vm: VmId, entry: &BackupEntry, so_far: Option<u64>) -> BackupView {
    let (state, bytes, verified_at) = match entry.state {
        BackupState::Running => ("running", so_far, None),
        BackupState::Verified { bytes, at } => ("verified", Some(bytes), Some(at)),
        BackupState::Failed => ("failed", None, None),
        BackupState::Damaged => ("damaged", None, None),
        BackupState::Deleting => ("deleting", None, None),
    };
    BackupView { id: entry.id, vm, purpose: entry.purpose, at: entry.at, state: state.to_owned(), bytes, verified_at }
}

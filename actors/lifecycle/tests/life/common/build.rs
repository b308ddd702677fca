//! Builders of what a test says to the core.

use std::collections::BTreeMap;

use reeve_lifecycle::effect::{Inventory, Volume};
use reeve_lifecycle::policy::{BackupPolicy, HealthPolicy, LeasePolicy, RepairPolicy};
use reeve_lifecycle::{NamedPolicy, Policy};
use reeve_protocol::command::{Command, CommandKind, Requester};
use reeve_protocol::observation::{Phase, PowerState, Said, VmChange, VmFacts, VmNotification, VmState};
use reeve_protocol::{CloudName, HostName, MessageId, ProjectId, Span, Timestamp, UserId, VmId};

/// 2026-01-01T00:00:00Z: when everything begins.
pub(crate) const T0: Timestamp = Timestamp::from_millis(1_767_225_600_000);

pub(crate) const fn secs(n: u64) -> Span {
    Span::from_secs(n)
}

pub(crate) const fn hours(n: u64) -> Span {
    Span::from_hours(n)
}

pub(crate) const fn days(n: u64) -> Span {
    Span::from_days(n)
}

pub(crate) fn vm() -> VmId {
    "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap()
}

pub(crate) fn other_vm() -> VmId {
    "00000000-0000-4000-8000-000000000002".parse().unwrap()
}

pub(crate) fn cloud() -> CloudName {
    CloudName::new("lab").unwrap()
}

/// The defaults, without backups by schedule: a test that is not about them is not disturbed by them.
pub(crate) fn policy() -> Policy {
    Policy {
        backup: BackupPolicy { every: Span::ZERO, window: Span::ZERO, ..BackupPolicy::default() },
        ..Policy::default()
    }
}

pub(crate) fn with_lease(lease: LeasePolicy) -> Policy {
    Policy { lease, ..policy() }
}

pub(crate) fn with_repair(repair: RepairPolicy) -> Policy {
    Policy { repair, ..policy() }
}

pub(crate) fn with_health(health: HealthPolicy) -> Policy {
    Policy { health, ..policy() }
}

pub(crate) fn with_backup(backup: BackupPolicy) -> Policy {
    Policy { backup, ..policy() }
}

pub(crate) fn named(terms: Policy) -> NamedPolicy {
    NamedPolicy { name: "test".into(), terms }
}

/// What the cloud says of the VM in this state; launched at `T0` unless it is being built.
pub(crate) fn facts(state: VmState) -> VmFacts {
    VmFacts {
        vm: vm(),
        name: "web-1".into(),
        project: Some(ProjectId::new("p1").unwrap()),
        user: Some(UserId::new("alice").unwrap()),
        host: Some(HostName::new("compute-1").unwrap()),
        state,
        task: None,
        power: Some(PowerState::Running),
        locked: Some(false),
        created_at: Some(T0),
        launched_at: (state != VmState::Building).then_some(T0),
        deleted_at: None,
        metadata: BTreeMap::new(),
    }
}

/// When a listing was asked for.
pub(crate) fn asked(at: Timestamp) -> Said {
    Said::new(at.as_millis() * 1000, "listing")
}

/// A notification with this id, said at this time.
pub(crate) fn note(id: &str, at: Timestamp, change: VmChange, phase: Phase, facts: VmFacts) -> VmNotification {
    VmNotification {
        id: MessageId::new(id).unwrap(),
        said: Said::new(at.as_millis() * 1000, id),
        event_type: "instance.test".into(),
        change,
        phase,
        facts,
        fault: None,
    }
}

/// The end of the VM, as the cloud tells of it.
pub(crate) fn delete_end(id: &str, at: Timestamp) -> VmNotification {
    let facts = VmFacts { deleted_at: Some(at), ..facts(VmState::Deleted) };
    note(id, at, VmChange::Delete, Phase::End, facts)
}

pub(crate) fn operator() -> Requester {
    Requester::Operator("root".into())
}

pub(crate) fn user(id: &str) -> Requester {
    Requester::User { id: UserId::new(id).unwrap(), project: None, roles: Vec::new() }
}

pub(crate) fn member(id: &str, project: &str, role: &str) -> Requester {
    let project = Some(ProjectId::new(project).unwrap());
    Requester::User { id: UserId::new(id).unwrap(), project, roles: vec![role.into()] }
}

pub(crate) fn command(id: &str, by: Requester, kind: CommandKind) -> Command {
    Command { id: MessageId::new(id).unwrap(), vm: vm(), by, kind }
}

/// Two volumes, of which the second belongs to others too, and an address.
pub(crate) fn inventory() -> Inventory {
    let volume = |id: &str, own| Volume { id: id.into(), own, bytes: 1 << 30 };
    Inventory { volumes: vec![volume("v-own", true), volume("v-shared", false)], addresses: vec!["203.0.113.7".into()] }
}

//! What the demo proves: the events and the cloud's own audit, held against the safety rules.

use std::collections::{BTreeMap, BTreeSet};

use reeve_drivers::cloud::sim::{Actor, AuditEntry, CallKind};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{BackupId, Timestamp, VmId};
use serde::Serialize;
use serde_json::Value;

use super::cast::MAX_EXTENSIONS;

/// The numbers at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    /// VMs that their owners made.
    pub(super) vms: usize,
    pub(super) leases_created: usize,
    pub(super) warned: usize,
    pub(super) extended: usize,
    pub(super) extension_denied: usize,
    pub(super) expired: usize,
    pub(super) backups_verified: usize,
    /// VMs destroyed by Reeve.
    pub(super) destroyed: usize,
    /// VMs that their owners destroyed themselves.
    pub(super) deleted_by_owner: usize,
    pub(super) revived: usize,
    pub(super) repairs_succeeded: usize,
    pub(super) children_restarted: u64,
    pub(super) node_restarts: u32,
    pub(super) events: usize,
    /// Safety rules broken, each as often as it was.
    pub(super) rules_broken: usize,
    /// VMs without an end that is accounted for.
    pub(super) lost: usize,
    pub(super) seconds: f64,
}

/// The events of one VM, in order.
type Story<'a> = Vec<&'a CloudEvent>;

/// Everything that is judged.
pub(super) struct Evidence<'a> {
    pub(super) events: &'a [CloudEvent],
    pub(super) calls: &'a [AuditEntry],
    /// Every VM that ever was.
    pub(super) vms: &'a [VmId],
    /// The sealed backups that the vault holds.
    pub(super) in_vault: &'a BTreeSet<BackupId>,
}

/// Every rule that was broken, in words.
pub(super) fn broken(evidence: &Evidence<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let stories = stories(evidence.events);
    for (vm, story) in &stories {
        sequence(*vm, story, &mut found);
        ends(*vm, story, &mut found);
        destroyed_after_backup(*vm, story, evidence, &mut found);
        retested(*vm, story, &mut found);
    }
    once(evidence, &mut found);
    found
}

/// The VMs that no event says the end of.
pub(super) fn lost(evidence: &Evidence<'_>) -> Vec<VmId> {
    let stories = stories(evidence.events);
    let over = |story: &Story<'_>| story.iter().any(|event| event.kind == "reeve.lease.ended");
    evidence.vms.iter().copied().filter(|vm| !stories.get(vm).is_some_and(over)).collect()
}

/// Events of this type.
pub(super) fn count(events: &[CloudEvent], kind: &str) -> usize {
    events.iter().filter(|event| event.kind == kind).count()
}

fn stories(events: &[CloudEvent]) -> BTreeMap<VmId, Story<'_>> {
    let mut stories: BTreeMap<VmId, Story<'_>> = BTreeMap::new();
    for event in events {
        if let Some(vm) = event.subject.strip_prefix("vm/").and_then(|vm| vm.parse().ok()) {
            stories.entry(vm).or_default().push(event);
        }
    }
    for story in stories.values_mut() {
        story.sort_by_key(|event| event.sequence);
    }
    stories
}

fn sequence(vm: VmId, story: &Story<'_>, found: &mut Vec<String>) {
    let gapless = story.iter().zip(1u64..).all(|(event, expected)| event.sequence == expected);
    if !gapless {
        let sequences: Vec<u64> = story.iter().map(|event| event.sequence).collect();
        found.push(format!("{vm}: the events are not 1, 2, 3 …: {sequences:?}"));
    }
}

fn time(data: &Value, key: &str) -> Option<Timestamp> {
    data.get(key)?.as_str()?.parse().ok()
}

/// No lease ends early, none is extended more often than allowed.
fn ends(vm: VmId, story: &Story<'_>, found: &mut Vec<String>) {
    let mut ends_at = None;
    for event in story {
        match event.kind.as_str() {
            "reeve.lease.created" | "reeve.lease.corrected" | "reeve.lease.extended" => {
                ends_at = time(&event.data, "ends_at");
                let extensions = event.data.get("extensions").and_then(Value::as_u64).unwrap_or(0);
                if extensions > u64::from(MAX_EXTENSIONS) {
                    found.push(format!("{vm}: {extensions} extensions"));
                }
            }
            "reeve.lease.expired" | "reeve.vm.terminating" if ends_at.is_none_or(|ends_at| event.time < ends_at) => {
                found.push(format!("{vm}: {} at {}, the lease ends at {ends_at:?}", event.kind, event.time));
            }
            _ => {}
        }
    }
}

/// Nothing is destroyed before its final backup was verified and lies in the vault.
fn destroyed_after_backup(vm: VmId, story: &Story<'_>, evidence: &Evidence<'_>, found: &mut Vec<String>) {
    let Some(deletion) = applied(evidence.calls, CallKind::DeleteServer).find(|call| call.vm == Some(vm)) else {
        return;
    };
    let finals: BTreeSet<&str> = story
        .iter()
        .filter(|event| event.kind == "reeve.backup.started" && event.data["purpose"] == "final")
        .filter_map(|event| event.data["backup"].as_str())
        .collect();
    let verified = story.iter().find(|event| {
        event.kind == "reeve.backup.verified"
            && event.time <= deletion.at
            && event.data["backup"].as_str().is_some_and(|id| finals.contains(id))
    });
    let Some(verified) = verified else {
        found.push(format!("{vm}: destroyed at {} before its final backup was verified", deletion.at));
        return;
    };
    let id = verified.data["backup"].as_str().and_then(|id| id.parse().ok());
    if !id.is_some_and(|id: BackupId| evidence.in_vault.contains(&id)) {
        found.push(format!("{vm}: its final backup is not in the vault"));
    }
}

/// Each step of a repair is followed by its result before the next begins.
fn retested(vm: VmId, story: &Story<'_>, found: &mut Vec<String>) {
    let mut open = false;
    for event in story {
        match event.kind.as_str() {
            "reeve.repair.step-started" if open => found.push(format!("{vm}: a repair step without a retest")),
            "reeve.repair.step-started" => open = true,
            "reeve.repair.step-finished" => open = false,
            _ => {}
        }
    }
}

fn applied(calls: &[AuditEntry], kind: CallKind) -> impl Iterator<Item = &AuditEntry> {
    calls.iter().filter(move |call| call.call == kind && call.by == Actor::Caller && call.applied)
}

/// How many VMs Reeve destroyed, and how many their owners.
pub(super) fn deletions(calls: &[AuditEntry]) -> (usize, usize) {
    let by = |actor| {
        calls.iter().filter(|call| call.call == CallKind::DeleteServer && call.by == actor && call.applied).count()
    };
    (by(Actor::Caller), by(Actor::Owner))
}

/// Nothing destructive is done twice, and no operation makes two VMs.
fn once(evidence: &Evidence<'_>, found: &mut Vec<String>) {
    for kind in [CallKind::DeleteServer, CallKind::DeleteVolume, CallKind::ReleaseAddress] {
        let mut seen = BTreeSet::new();
        for call in applied(evidence.calls, kind) {
            if !seen.insert((call.vm, call.detail.as_str())) {
                found.push(format!("{kind:?} of {:?} {} was done twice", call.vm, call.detail));
            }
        }
    }
    for kind in [CallKind::Launch, CallKind::RestoreInPlace] {
        let mut seen = BTreeSet::new();
        for call in applied(evidence.calls, kind) {
            if !seen.insert(call.detail.as_str()) {
                found.push(format!("{kind:?} for {} was done twice", call.detail));
            }
        }
    }
}

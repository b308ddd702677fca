//! The audit: what was asked of the cloud, what it answered, and whether anything changed.

use std::collections::VecDeque;

use reeve_ports::CloudError;
use reeve_protocol::{Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::fault::FaultKind;

/// The most changing calls kept; the oldest go first, and [`super::SimCloud::audit_dropped`] says how many.
pub const MAX_CHANGES: usize = 1_000_000;
/// The most looks kept; they are not kept over a restart.
pub const MAX_LOOKS: usize = 10_000;

tokio::task_local! {
    static CALLER: String;
}

/// Runs calls in the name of one of several callers: the audit tells which.
pub async fn as_caller<T>(caller: String, calls: impl Future<Output = T>) -> T {
    CALLER.scope(caller, calls).await
}

/// In whose name the call is made, if anybody said.
pub(super) fn caller() -> Option<String> {
    CALLER.try_with(Clone::clone).ok()
}

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// A page of the listing.
    List,
    /// One VM.
    Show,
    /// What a VM consists of.
    Inventory,
    /// Power on.
    Start,
    /// Power off.
    Stop,
    /// Hard reboot.
    HardReboot,
    /// Suspend.
    Suspend,
    /// Resume.
    Resume,
    /// Begin a snapshot.
    Snapshot,
    /// Look for snapshots.
    FindSnapshots,
    /// Read a snapshot.
    ReadSnapshot,
    /// Remove a snapshot.
    DeleteSnapshot,
    /// Destroy a VM.
    DeleteServer,
    /// Look for a volume.
    VolumeExists,
    /// Destroy a volume.
    DeleteVolume,
    /// Look for an address.
    AddressHeld,
    /// Give an address back.
    ReleaseAddress,
    /// Make a VM.
    Launch,
    /// Look for what an operation made.
    FindLaunched,
    /// Put disks back in place.
    RestoreInPlace,
    /// Look for the last restore.
    LastRestore,
    /// How the hosts are.
    Hosts,
    /// Ask a probe.
    Probe,
    /// Check a plan.
    CheckPlan,
    /// Look for a part of a blueprint.
    FindPart,
    /// Make a part of a blueprint.
    MakePart,
    /// Remove what an operation made.
    RemoveParts,
    /// Remove what a VM left that is gone.
    RemoveRemains,
    /// Read the console.
    Console,
    /// Not a call of Reeve's: the owner or fate did something that no port offers (boot, lock, soft-delete, host down …).
    Event,
}

impl CallKind {
    /// Whether it only looks.
    #[must_use]
    pub const fn is_look(self) -> bool {
        match self {
            Self::List
            | Self::Show
            | Self::Inventory
            | Self::FindSnapshots
            | Self::ReadSnapshot
            | Self::VolumeExists
            | Self::AddressHeld
            | Self::FindLaunched
            | Self::LastRestore
            | Self::Hosts
            | Self::Probe
            | Self::CheckPlan
            | Self::FindPart
            | Self::Console => true,
            Self::Start
            | Self::Stop
            | Self::HardReboot
            | Self::Suspend
            | Self::Resume
            | Self::Snapshot
            | Self::DeleteSnapshot
            | Self::DeleteServer
            | Self::DeleteVolume
            | Self::ReleaseAddress
            | Self::Launch
            | Self::RestoreInPlace
            | Self::MakePart
            | Self::RemoveParts
            | Self::RemoveRemains
            | Self::Event => false,
        }
    }

    /// Whether something is lost for good when it has its effect.
    #[must_use]
    pub const fn is_destructive(self) -> bool {
        match self {
            Self::DeleteSnapshot
            | Self::DeleteServer
            | Self::DeleteVolume
            | Self::ReleaseAddress
            | Self::RemoveParts
            | Self::RemoveRemains
            | Self::RestoreInPlace => true,
            Self::List
            | Self::Show
            | Self::Inventory
            | Self::Start
            | Self::Stop
            | Self::HardReboot
            | Self::Suspend
            | Self::Resume
            | Self::Snapshot
            | Self::FindSnapshots
            | Self::ReadSnapshot
            | Self::VolumeExists
            | Self::AddressHeld
            | Self::Launch
            | Self::FindLaunched
            | Self::LastRestore
            | Self::Hosts
            | Self::Probe
            | Self::CheckPlan
            | Self::FindPart
            | Self::MakePart
            | Self::Console
            | Self::Event => false,
        }
    }
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// Whoever calls the ports.
    Caller,
    /// The owner of the VM, past Reeve.
    Owner,
    /// Nobody: a host fails, a guest hangs, a VM vanishes.
    Fate,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was accepted, or what was looked for was found.
    Ok,
    /// [`CloudError::NotFound`].
    NotFound(String),
    /// [`CloudError::Refused`].
    Refused(String),
    /// [`CloudError::Unavailable`].
    Unavailable(String),
    /// [`CloudError::Unknown`].
    Unknown(String),
}

impl Answer {
    pub(super) fn of<T>(result: &Result<T, CloudError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(CloudError::NotFound(why)) => Self::NotFound(why.clone()),
            Err(CloudError::Refused(why)) => Self::Refused(why.clone()),
            Err(CloudError::Unavailable(why)) => Self::Unavailable(why.clone()),
            Err(CloudError::Unknown(why)) => Self::Unknown(why.clone()),
        }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its place in the order of what happened.
    pub seq: u64,
    /// When, by the cloud's clock.
    pub at: Timestamp,
    /// Who called.
    pub by: Actor,
    /// Which caller, where several share the cloud ([`as_caller`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What was called.
    pub call: CallKind,
    /// On which VM; for a launch the new one, if there is one.
    pub vm: Option<VmId>,
    /// The name, id, key or operation that the call named; empty if none.
    pub detail: String,
    /// The fault that it met, if any.
    pub fault: Option<FaultKind>,
    /// What was answered.
    pub answer: Answer,
    /// Whether the call changed anything, whatever was answered.
    pub applied: bool,
}

/// The entries, in order.
#[derive(Debug, Default)]
pub(super) struct Audit {
    changes: VecDeque<AuditEntry>,
    looks: VecDeque<AuditEntry>,
    dropped: u64,
}

impl Audit {
    pub(super) fn push(&mut self, entry: AuditEntry) {
        let (entries, most) = if entry.call.is_look() && !entry.applied {
            (&mut self.looks, MAX_LOOKS)
        } else {
            (&mut self.changes, MAX_CHANGES)
        };
        if entries.len() == most {
            entries.pop_front();
            self.dropped += 1;
        }
        entries.push_back(entry);
    }

    pub(super) fn all(&self) -> Vec<AuditEntry> {
        let mut all: Vec<_> = self.changes.iter().chain(&self.looks).cloned().collect();
        all.sort_by_key(|entry| entry.seq);
        all
    }

    /// The changing calls after this place in the order, at most so many, in order.
    pub(super) fn after(&self, seq: u64, limit: usize) -> Vec<AuditEntry> {
        let from = self.changes.partition_point(|entry| entry.seq <= seq);
        self.changes.range(from..).take(limit).cloned().collect()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &AuditEntry> {
        self.changes.iter()
    }

    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

//! The exclusive operations: at most one is under way on a VM, and each is a state machine that waits for effects.

use reeve_protocol::event::BackupPurpose;
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{BackupId, Timestamp, UserId, VmId};
use serde::{Deserialize, Serialize};

use crate::effect::{EffectKey, Inventory, Snapshot, StoredDisk};
use crate::policy::{ProbeKind, RepairStep};

/// An exclusive operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// A backup.
    Backup(BackupRun),
    /// A repair.
    Repair(RepairRun),
    /// The end of the lease, or a deletion on request.
    Ending(EndingRun),
    /// A revival.
    Revive(ReviveRun),
    /// A single action on request.
    Action(ActionRun),
    /// A VM being made.
    Provision(Box<ProvisionRun>),
}

impl Operation {
    /// The name in refusals and lists.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Backup(_) => "backup",
            Self::Repair(_) => "repair",
            Self::Ending(_) => "ending",
            Self::Revive(_) => "revive",
            Self::Action(run) => run.action.name(),
            Self::Provision(_) => "provision",
        }
    }
}

/// A backup under way.
///
/// ```text
/// Inventory ─► Snapshot(disk)… ─► Store(disk)… ─► Seal ─► Verify ─► verified; the snapshots go in the background
///      any failure ─► failed; snapshots and objects go in the background
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRun {
    /// Which.
    pub id: BackupId,
    /// What for.
    pub purpose: BackupPurpose,
    /// What the VM consists of, once known.
    pub inventory: Inventory,
    /// Snapshots taken so far, in the order of the disks.
    pub snapshots: Vec<Snapshot>,
    /// Disks in the vault so far, in the same order.
    pub stored: Vec<StoredDisk>,
    /// Where it is.
    pub step: BackupStep,
    /// The effect that it waits for.
    pub waits_for: EffectKey,
}

/// Where a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupStep {
    /// Looking what there is.
    Inventory,
    /// Snapshotting the next disk.
    Snapshot,
    /// Storing the next disk.
    Store,
    /// Writing the manifest.
    Seal,
    /// Reading back.
    Verify {
        /// Whether it is a later verification of a finished backup, which fails without removing anything.
        again: bool,
    },
}

/// A repair under way.
///
/// ```text
/// Acting(step) ─► Booting(until) ─► Retesting ─ cured ─► done
///      ▲                               │ not cured
///      └────────── next step ◄─────────┴─► exhausted
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRun {
    /// What was seen.
    pub cause: String,
    /// The probe that failed, and is asked again.
    pub probe: ProbeKind,
    /// The steps of the ladder, as the policy said at the start.
    pub ladder: Vec<RepairStep>,
    /// Which step is under way.
    pub at: usize,
    /// Where it is.
    pub step: RepairStage,
}

/// Where a repair step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairStage {
    /// The action is being done.
    Acting(EffectKey),
    /// The VM boots; the retest waits.
    Booting {
        /// When the action was done.
        since: Timestamp,
        /// When the next retest is made.
        retest_at: Timestamp,
        /// When the step is given up if no retest succeeds.
        give_up_at: Timestamp,
    },
    /// The probe is being asked again.
    Retesting {
        /// The effect waited for.
        key: EffectKey,
        /// When the action was done.
        since: Timestamp,
        /// When the step is given up.
        give_up_at: Timestamp,
    },
}

/// What an ending does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndPlan {
    /// Stop, back up, verify, destroy.
    BackupAndDelete,
    /// Destroy.
    Delete,
    /// Stop and keep.
    Stop,
    /// Suspend and keep.
    Suspend,
}

/// An ending under way.
///
/// ```text
/// Stop ─► BackUp(run) ─► Inventory ─► DeleteServer ─► DeleteVolume… ─► ReleaseAddress… ─► done
///   └─ (plan Stop, Suspend: done)         no step is passed that failed
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingRun {
    /// What it does.
    pub plan: EndPlan,
    /// Who asked: `lease` or a requester.
    pub by: String,
    /// What the VM consists of, once known.
    pub inventory: Inventory,
    /// Whether it found the VM running and halts it first.
    pub halted: bool,
    /// The verified final backup, once there is one.
    pub backup: Option<BackupId>,
    /// Where it is.
    pub step: EndingStep,
}

/// Where an ending is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndingStep {
    /// About to do this, as soon as nothing holds the VM.
    Ready(EndingNext),
    /// Stopping, or suspending.
    Halt(EffectKey),
    /// Backing up.
    BackUp(BackupRun),
    /// A backup failed; the next is begun at this time.
    BackUpAgain {
        /// When.
        at: Timestamp,
        /// How many have failed.
        failures: u32,
    },
    /// Looking what there is to destroy (only without a backup, which has looked already).
    Inventory(EffectKey),
    /// Destroying the server.
    DeleteServer(EffectKey),
    /// Destroying the own volume of this index.
    DeleteVolume {
        /// Index in the inventory.
        index: usize,
        /// The effect waited for.
        key: EffectKey,
    },
    /// Giving back the address of this index.
    ReleaseAddress {
        /// Index in the inventory.
        index: usize,
        /// The effect waited for.
        key: EffectKey,
    },
}

/// What an ending does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndingNext {
    /// Stop or suspend.
    Halt,
    /// Begin the final backup.
    BackUp,
    /// Look what there is to destroy.
    Inventory,
    /// Destroy the server.
    DeleteServer,
    /// Destroy the own volume of this index.
    DeleteVolume(usize),
    /// Give back the address of this index.
    ReleaseAddress(usize),
}

/// A revival under way.
///
/// ```text
/// Launching ─► Introducing(new VM) ─► done
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviveRun {
    /// From which backup.
    pub backup: BackupId,
    /// Who asked.
    pub by: String,
    /// Where it is.
    pub step: ReviveStep,
}

/// Where a revival is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReviveStep {
    /// The new VM is being made.
    Launching(EffectKey),
    /// The new VM's supervisor is being told.
    Introducing {
        /// The new VM.
        new_vm: VmId,
        /// The effect waited for.
        key: EffectKey,
    },
}

/// A single action on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Power on.
    Start,
    /// Power off.
    Stop,
    /// Hard reboot.
    Reboot,
    /// Suspend.
    Suspend,
    /// Resume.
    Resume,
    /// Put back to a backup.
    Restore(BackupId),
}

impl Action {
    /// The name in events and refusals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reboot => "reboot",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Restore(_) => "restore",
        }
    }
}

/// A single action under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionRun {
    /// Which.
    pub action: Action,
    /// Who asked.
    pub by: String,
    /// The effect waited for.
    pub key: EffectKey,
}

/// A VM being made.
///
/// ```text
/// Checking ─► Making(part)… ─► Awaiting(server) ─► Introducing ─► delivered
///    │ refused     │ refused, or too late │
///    ▼             ▼                      ▼
///  denied      TakingBack ─► failed     TakingBack ─► failed
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionRun {
    /// Who asked.
    pub by: String,
    /// Whom it will belong to; nobody if an operator asks for no one.
    pub owner: Option<UserId>,
    /// Where whoever asked waits for word.
    pub reply: Option<ReplyTo>,
    /// What is to be made.
    pub plan: ServerPlan,
    /// The user data, not encoded; none if empty.
    pub user_data: String,
    /// What is not ready by then is taken back.
    pub until: Timestamp,
    /// Who wants it no more.
    pub cancelled: Option<String>,
    /// The new VM's addresses as far as they are known, a public one first.
    pub addresses: Vec<String>,
    /// Where it is.
    pub step: ProvisionStep,
}

/// Where a VM that is being made is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProvisionStep {
    /// The cloud is asked whether it has what the plan names.
    Checking(EffectKey),
    /// This part is being made; those before it are.
    Making {
        /// Which.
        part: Part,
        /// The effect waited for.
        key: EffectKey,
    },
    /// The server runs, and is to be seen ready.
    Awaiting {
        /// The new VM.
        new_vm: VmId,
        /// The effect waited for.
        key: EffectKey,
    },
    /// The new VM's supervisor is being told.
    Introducing {
        /// The new VM.
        new_vm: VmId,
        /// The effect waited for.
        key: EffectKey,
    },
    /// What was made is being removed.
    TakingBack {
        /// Why.
        reason: String,
        /// The effect waited for.
        key: EffectKey,
    },
}

impl ProvisionStep {
    /// The effect that it waits for.
    #[must_use]
    pub const fn key(&self) -> EffectKey {
        match self {
            Self::Checking(key)
            | Self::Making { key, .. }
            | Self::Awaiting { key, .. }
            | Self::Introducing { key, .. }
            | Self::TakingBack { key, .. } => *key,
        }
    }
}

/// Where an answer goes on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The queue, at most 255 bytes.
    pub queue: String,
    /// What the answer is told by, at most 255 bytes.
    pub correlation: Option<String>,
}

//! What the core asks the world to do, and what the world answers. Effects are data with stable keys; a record keeps
//! each until its outcome is known.

use std::fmt;

use reeve_protocol::event::{Alert, BackupPurpose, Offer};
use reeve_protocol::provision::Part;
use reeve_protocol::{BackupId, Generation, Span, Timestamp, UserId, VmId};
use serde::{Deserialize, Serialize};

use crate::operation::ReplyTo;
use crate::policy::ProbeKind;

/// The key of an effect: the decision that made it (its generation) and its place among that decision's effects.
/// With the VM's id it is unique for ever; the same key again is the same effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectKey {
    /// The generation of the record at the decision.
    pub generation: Generation,
    /// The place among the effects of that decision.
    pub index: u16,
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.index)
    }
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Disk {
    /// The instance's own (root) disk.
    Root,
    /// An attached volume, by the cloud's id.
    Volume(String),
}

impl Disk {
    /// The name of the disk's object in a backup: `root` or `volume-<id>`.
    #[must_use]
    pub fn object_name(&self) -> String {
        match self {
            Self::Root => "root".to_owned(),
            Self::Volume(id) => format!("volume-{id}"),
        }
    }
}

/// A volume of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The cloud's id.
    pub id: String,
    /// Whether it belongs to this VM alone, so that it goes with it.
    pub own: bool,
    /// Its size.
    pub bytes: u64,
}

/// What a VM consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Attached volumes, at most 64.
    pub volumes: Vec<Volume>,
    /// Public addresses held for it, at most 64.
    pub addresses: Vec<String>,
}

/// A disk that is in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDisk {
    /// Which.
    pub disk: Disk,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content.
    pub blake3: [u8; 32],
    /// SHA-256 of the content, for tools that know nothing else.
    pub sha256: [u8; 32],
}

/// A snapshot of a disk in the cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Of which disk.
    pub disk: Disk,
    /// The cloud's id of the snapshot or image.
    pub id: String,
}

/// What a person is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// A lease began.
    LeaseCreated {
        /// When it ends.
        ends_at: Timestamp,
    },
    /// The end comes near.
    Expiring {
        /// When it ends.
        ends_at: Timestamp,
        /// What may be done.
        offer: Offer,
    },
    /// The end has come.
    Expired {
        /// Until when an answer is awaited.
        grace_until: Option<Timestamp>,
        /// What may be done until then.
        offer: Offer,
    },
    /// The lease was extended.
    Extended {
        /// Its new end.
        ends_at: Timestamp,
    },
    /// The lease is over.
    Ended,
    /// The VM lives again.
    Revived {
        /// As this VM.
        new_vm: VmId,
    },
    /// A human is needed.
    Alert {
        /// For what.
        alert: Alert,
        /// In words.
        message: String,
    },
    /// The VM that was asked for is there.
    Delivered(Delivery),
    /// The VM that was asked for could not be made.
    ProvisionFailed {
        /// Why.
        reason: String,
    },
}

impl Notice {
    /// What kind of notice it is: the name of its template and of its type in a webhook.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LeaseCreated { .. } => "lease-created",
            Self::Expiring { .. } => "lease-expiring",
            Self::Expired { .. } => "lease-expired",
            Self::Extended { .. } => "lease-extended",
            Self::Ended => "lease-ended",
            Self::Revived { .. } => "revived",
            Self::Alert { .. } => "alert",
            Self::Delivered(_) => "delivered",
            Self::ProvisionFailed { .. } => "provision-failed",
        }
    }
}

/// Whom a notice is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// The owner and the delegates of the VM.
    Owner {
        /// The owner and delegates.
        users: Vec<UserId>,
    },
    /// The operators.
    Operators,
}

/// What the core asks for. Append only: records hold these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Tell somebody.
    Notify {
        /// Whom.
        to: Audience,
        /// What.
        notice: Notice,
    },
    /// Look what the VM consists of. Done: [`Done::Inventory`].
    TakeInventory,
    /// Power the VM on; done when it is seen running.
    Start,
    /// Power the VM off; done when it is seen off.
    Stop,
    /// Cut the power and start again; done when the cloud has done it.
    HardReboot,
    /// Suspend to disk; done when seen.
    Suspend,
    /// Resume; done when seen.
    Resume,
    /// Snapshot one disk. Done: [`Done::Snapshot`].
    SnapshotDisk {
        /// For which backup.
        backup: BackupId,
        /// Which disk.
        disk: Disk,
    },
    /// Copy a snapshot into the vault. Done: [`Done::Stored`].
    StoreDisk {
        /// For which backup.
        backup: BackupId,
        /// From which snapshot.
        snapshot: Snapshot,
    },
    /// Write the manifest: the backup is complete.
    SealBackup {
        /// Which.
        backup: BackupId,
        /// What for.
        purpose: BackupPurpose,
        /// Every disk in it.
        disks: Vec<StoredDisk>,
    },
    /// Read every object back and compare. Done: [`Done::Verified`] or [`Done::Damaged`].
    VerifyBackup {
        /// Which.
        backup: BackupId,
    },
    /// Remove snapshots from the cloud that are in the vault now.
    DropSnapshots {
        /// Of which backup: every snapshot with its name goes.
        backup: BackupId,
        /// Those known.
        snapshots: Vec<Snapshot>,
    },
    /// Remove a backup from the vault.
    DeleteBackup {
        /// Which.
        backup: BackupId,
    },
    /// Destroy the VM; done when it is seen to be gone.
    DeleteServer,
    /// Destroy an own volume; done when it is seen to be gone.
    DeleteVolume {
        /// The cloud's id.
        volume: String,
    },
    /// Give a public address back; done when it is seen to be free.
    ReleaseAddress {
        /// The address.
        address: String,
    },
    /// Put the VM back to a backup, in place. One that was off, by its owner's will, stays off.
    RestoreInPlace {
        /// Which.
        backup: BackupId,
    },
    /// Make a new VM from a backup, and see that it ran, whatever the backup was made of. Done: [`Done::Launched`].
    Launch {
        /// From which backup.
        backup: BackupId,
        /// Under which name.
        name: String,
    },
    /// Tell a new VM's supervisor whose successor it is.
    Introduce {
        /// The new VM.
        new_vm: VmId,
    },
    /// Ask the probe again that failed. Done: [`Done::Probed`].
    Retest {
        /// Which probe.
        probe: ProbeKind,
        /// How long an answer is awaited.
        timeout: Span,
    },
    /// Ask the cloud whether it has what the plan of this request names, and would allow it.
    CheckPlan,
    /// Make a part of the plan of this request. Done: [`Done::Part`], of the server [`Done::Launched`].
    MakePart {
        /// Which.
        part: Part,
    },
    /// See that the new server is ready, as its plan says.
    AwaitReady {
        /// The server.
        new_vm: VmId,
        /// Its addresses.
        addresses: Vec<String>,
    },
    /// Remove everything that was made for this request.
    TakeBack,
    /// Tell whoever asked for the VM, over the way that the request came, what came of it.
    Report {
        /// Where.
        to: ReplyTo,
        /// What.
        report: Report,
    },
}

/// What came of a request for a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The VM is there.
    Delivered(Delivery),
    /// There is none.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A VM that is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its addresses, a public one first.
    pub addresses: Vec<String>,
    /// The key pair that lets its owner in.
    pub key: Option<String>,
}

/// What came of an effect that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Nothing to add.
    Plain,
    /// What the VM consists of.
    Inventory(Inventory),
    /// The snapshot.
    Snapshot(Snapshot),
    /// The disk in the vault.
    Stored(StoredDisk),
    /// Every object equals its manifest.
    Verified {
        /// Size of all objects.
        bytes: u64,
    },
    /// An object does not equal its manifest.
    Damaged {
        /// Which, and how.
        what: String,
    },
    /// The new VM.
    Launched {
        /// Its id.
        new_vm: VmId,
    },
    /// What the probe saw.
    Probed(ProbeVerdict),
    /// The part of a plan.
    Part {
        /// Addresses that came with it.
        addresses: Vec<String>,
    },
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeVerdict {
    /// The VM answers.
    Up,
    /// The VM does not answer, and the infrastructure is well.
    Down {
        /// What was seen.
        cause: String,
    },
    /// Something above the VM is in doubt (host, cloud API, the prober's own network): no judgement.
    Inconclusive {
        /// What.
        why: String,
    },
}

/// What the world answers to an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done, and was seen to be.
    Done(Done),
    /// It was refused and had no effect; the same again will be refused too unless something else changes.
    NotApplied {
        /// Why.
        reason: String,
    },
    /// It had no effect; the same again may do.
    Retryable {
        /// Why.
        reason: String,
    },
    /// It may have had its effect or not: look before acting again.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// An effect that is not done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingEffect {
    /// Its key.
    pub key: EffectKey,
    /// What is asked for.
    pub effect: Effect,
    /// When it was decided: what was done after this may have been done for it.
    pub decided_at: Timestamp,
    /// How many times it was tried without success.
    pub failures: u32,
    /// When it is tried again after a failure; `None` while it is being tried.
    pub retry_at: Option<Timestamp>,
}

/// Which worker performs an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Worker {
    /// The repairer.
    Repair,
    /// The backup worker.
    Backup,
    /// The action worker.
    Action,
}

impl Effect {
    /// Which worker performs it.
    #[must_use]
    pub const fn worker(&self) -> Worker {
        match self {
            Self::HardReboot | Self::Retest { .. } => Worker::Repair,
            Self::TakeInventory
            | Self::SnapshotDisk { .. }
            | Self::StoreDisk { .. }
            | Self::SealBackup { .. }
            | Self::VerifyBackup { .. }
            | Self::DropSnapshots { .. }
            | Self::DeleteBackup { .. }
            | Self::RestoreInPlace { .. } => Worker::Backup,
            Self::Notify { .. }
            | Self::Start
            | Self::Stop
            | Self::Suspend
            | Self::Resume
            | Self::DeleteServer
            | Self::DeleteVolume { .. }
            | Self::ReleaseAddress { .. }
            | Self::Launch { .. }
            | Self::CheckPlan
            | Self::MakePart { .. }
            | Self::AwaitReady { .. }
            | Self::TakeBack
            | Self::Report { .. }
            | Self::Introduce { .. } => Worker::Action,
        }
    }

    /// The backup that it names.
    #[must_use]
    pub const fn backup(&self) -> Option<BackupId> {
        match self {
            Self::SnapshotDisk { backup, .. }
            | Self::StoreDisk { backup, .. }
            | Self::SealBackup { backup, .. }
            | Self::VerifyBackup { backup }
            | Self::DropSnapshots { backup, .. }
            | Self::DeleteBackup { backup }
            | Self::RestoreInPlace { backup }
            | Self::Launch { backup, .. } => Some(*backup),
            Self::Notify { .. }
            | Self::TakeInventory
            | Self::Start
            | Self::Stop
            | Self::HardReboot
            | Self::Suspend
            | Self::Resume
            | Self::DeleteServer
            | Self::DeleteVolume { .. }
            | Self::ReleaseAddress { .. }
            | Self::Introduce { .. }
            | Self::CheckPlan
            | Self::MakePart { .. }
            | Self::AwaitReady { .. }
            | Self::TakeBack
            | Self::Report { .. }
            | Self::Retest { .. } => None,
        }
    }

    /// The notice that it tells.
    #[must_use]
    pub const fn notice(&self) -> Option<&Notice> {
        match self {
            Self::Notify { notice, .. } => Some(notice),
            Self::TakeInventory
            | Self::Start
            | Self::Stop
            | Self::HardReboot
            | Self::Suspend
            | Self::Resume
            | Self::SnapshotDisk { .. }
            | Self::StoreDisk { .. }
            | Self::SealBackup { .. }
            | Self::VerifyBackup { .. }
            | Self::DropSnapshots { .. }
            | Self::DeleteBackup { .. }
            | Self::DeleteServer
            | Self::DeleteVolume { .. }
            | Self::ReleaseAddress { .. }
            | Self::RestoreInPlace { .. }
            | Self::Launch { .. }
            | Self::Introduce { .. }
            | Self::CheckPlan
            | Self::MakePart { .. }
            | Self::AwaitReady { .. }
            | Self::TakeBack
            | Self::Report { .. }
            | Self::Retest { .. } => None,
        }
    }

    /// Whether it changes something in a cloud or a vault: what a predecessor began may still be on its way there.
    #[must_use]
    pub const fn changes_the_world(&self) -> bool {
        match self {
            Self::Start
            | Self::Stop
            | Self::HardReboot
            | Self::Suspend
            | Self::Resume
            | Self::SnapshotDisk { .. }
            | Self::StoreDisk { .. }
            | Self::SealBackup { .. }
            | Self::DropSnapshots { .. }
            | Self::DeleteBackup { .. }
            | Self::DeleteServer
            | Self::DeleteVolume { .. }
            | Self::ReleaseAddress { .. }
            | Self::RestoreInPlace { .. }
            | Self::MakePart { .. }
            | Self::TakeBack
            | Self::Launch { .. } => true,
            // A notice and a report are delivered at least once, and an introduction is a message to another record.
            Self::Notify { .. }
            | Self::CheckPlan
            | Self::AwaitReady { .. }
            | Self::Report { .. }
            | Self::TakeInventory
            | Self::VerifyBackup { .. }
            | Self::Introduce { .. }
            | Self::Retest { .. } => false,
        }
    }

    /// Whether it destroys or replaces something: its owner confirms its epoch right before.
    #[must_use]
    pub const fn is_destructive(&self) -> bool {
        match self {
            Self::DeleteServer
            | Self::DeleteVolume { .. }
            | Self::ReleaseAddress { .. }
            | Self::DeleteBackup { .. }
            | Self::RestoreInPlace { .. }
            | Self::HardReboot
            | Self::Launch { .. }
            | Self::Stop
            | Self::Suspend => true,
            Self::Notify { .. }
            | Self::TakeInventory
            | Self::Start
            | Self::Resume
            | Self::SnapshotDisk { .. }
            | Self::StoreDisk { .. }
            | Self::SealBackup { .. }
            | Self::VerifyBackup { .. }
            | Self::DropSnapshots { .. }
            | Self::Introduce { .. }
            // What a request has made is nobody's before it is handed over: neither its making nor its removal waits for
            // what holds the end of VMs.
            | Self::CheckPlan
            | Self::MakePart { .. }
            | Self::AwaitReady { .. }
            | Self::TakeBack
            | Self::Report { .. }
            | Self::Retest { .. } => false,
        }
    }
}

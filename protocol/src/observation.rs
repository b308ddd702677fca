//! What a cloud says of a VM, whatever format it says it in: notifications and listings both end here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{HostName, MessageId, ProjectId, Timestamp, UserId, VmId};

/// The most metadata entries kept of a VM; Nova's own quota is 128.
pub const MAX_METADATA: usize = 128;

/// What a cloud calls the state of an instance (Nova's `vm_state`), and what Reeve does not know by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VmState {
    /// Being made.
    Building,
    /// Running, as far as the cloud knows.
    Active,
    /// Paused in memory.
    Paused,
    /// Suspended to disk.
    Suspended,
    /// Powered off.
    Stopped,
    /// Booted from a rescue image.
    Rescued,
    /// Resized and waiting for confirmation.
    Resized,
    /// Deleted, and restorable for a while.
    SoftDeleted,
    /// Gone.
    Deleted,
    /// The cloud failed at it.
    Error,
    /// Shelved: snapshot taken, still on its host.
    Shelved,
    /// Shelved and removed from its host.
    ShelvedOffloaded,
    /// A state that this version does not know; the cloud's own word is kept beside it.
    Unknown,
}

impl VmState {
    /// From the cloud's own word.
    #[must_use]
    pub fn from_nova(word: &str) -> Self {
        match word {
            "building" => Self::Building,
            "active" => Self::Active,
            "paused" => Self::Paused,
            "suspended" => Self::Suspended,
            "stopped" => Self::Stopped,
            "rescued" => Self::Rescued,
            "resized" => Self::Resized,
            "soft-delete" => Self::SoftDeleted,
            "deleted" => Self::Deleted,
            "error" => Self::Error,
            "shelved" => Self::Shelved,
            "shelved_offloaded" => Self::ShelvedOffloaded,
            _ => Self::Unknown,
        }
    }

    /// Nova's word for it; `unknown` for what it has none for.
    #[must_use]
    pub const fn as_nova(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Stopped => "stopped",
            Self::Rescued => "rescued",
            Self::Resized => "resized",
            Self::SoftDeleted => "soft-delete",
            Self::Deleted => "deleted",
            Self::Error => "error",
            Self::Shelved => "shelved",
            Self::ShelvedOffloaded => "shelved_offloaded",
            Self::Unknown => "unknown",
        }
    }
}

/// The hypervisor's view of a VM's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// Not known yet.
    Pending,
    /// Running.
    Running,
    /// Paused.
    Paused,
    /// Off.
    Shutdown,
    /// Crashed.
    Crashed,
    /// Suspended.
    Suspended,
}

/// What a notification is about, as far as a VM's life cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VmChange {
    /// The VM is being created or was created.
    Create,
    /// The VM is being deleted or was deleted.
    Delete,
    /// Deleted, but restorable.
    SoftDelete,
    /// Taken back from soft deletion.
    Restore,
    /// An operation that pauses judgement while it runs and leaves the lease as it is: rebuild, resize, migration,
    /// evacuation, shelving, rescue, snapshot, reboot, suspend …
    Operation,
    /// Any other change (`instance.update`, `exists`, lock, attach …): its payload is what counts.
    Update,
}

/// Where in its course a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Has no phases.
    Whole,
    /// Begun.
    Start,
    /// Done.
    End,
    /// Failed.
    Error,
}

/// A failure that the cloud reports of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The class of the failure, for example `NoValidHost`.
    pub kind: String,
    /// What the cloud says of it, at most 1 KiB.
    pub message: String,
}

/// The order of what a cloud says: when it was said, in microseconds since the Unix epoch, then by id.
///
/// An older payload never overwrites a newer one, so this order and not the order of arrival decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Said {
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// Breaks ties: the folded id of the message.
    pub tie: u64,
}

impl Said {
    /// When a message with this id, sent at `at_us` microseconds since the Unix epoch, was said. The tie-breaker is
    /// FNV-1a of the id (<http://www.isthe.com/chongo/tech/comp/fnv/>): any fixed order will do.
    #[must_use]
    pub fn new(at_us: i64, id: &str) -> Self {
        let tie = id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { at_us, tie }
    }

    /// The wall-clock time, rounded down to milliseconds.
    #[must_use]
    pub fn at(self) -> Timestamp {
        Timestamp::from_millis(self.at_us.div_euclid(1000))
    }
}

/// What a cloud says of one VM at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFacts {
    /// The VM.
    pub vm: VmId,
    /// Its display name.
    pub name: String,
    /// The project that it belongs to.
    pub project: Option<ProjectId>,
    /// The user who made it: the owner of its lease.
    pub user: Option<UserId>,
    /// The host that it runs on.
    pub host: Option<HostName>,
    /// Its state.
    pub state: VmState,
    /// What the cloud is doing with it (`task_state`), in the cloud's word.
    pub task: Option<String>,
    /// Its power state.
    pub power: Option<PowerState>,
    /// Whether it is locked, where the format says so.
    pub locked: Option<bool>,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it was first launched.
    pub launched_at: Option<Timestamp>,
    /// When it was deleted or terminated, whichever the cloud says.
    pub deleted_at: Option<Timestamp>,
    /// Metadata of the VM, at most [`MAX_METADATA`] entries. Names the policy (`reeve_policy`) and, on what Reeve made
    /// itself, the operation (`reeve_operation`) and the ancestor (`reeve_revived_from`).
    pub metadata: BTreeMap<String, String>,
}

/// A change that a cloud tells of, by notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNotification {
    /// The id of the message; the same message twice changes nothing.
    pub id: MessageId,
    /// When it was said.
    pub said: Said,
    /// The cloud's own name of it, for example `instance.create.end`.
    pub event_type: String,
    /// What changed.
    pub change: VmChange,
    /// Where in its course the change is.
    pub phase: Phase,
    /// What the payload says of the VM.
    pub facts: VmFacts,
    /// The failure, if it tells of one.
    pub fault: Option<Fault>,
}

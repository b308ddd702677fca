//! What a simulated cloud consists of, and how its state follows from the time.
//!
//! ```text
//!            build            stop             delete
//! (launch) ────────► active ◄──────► stopped ────────► deleted
//!                     ▲  ▲    start     ▲               ▲  ▲
//!             suspend │  │ reboot       │ restore       │  │ vanish
//!                     ▼  └── restore ───┘ in place      │
//!                 suspended ── soft delete ─► soft-delete ── (restore ─► active)
//! ```
//!
//! Each arrow is a `Task` with the time at which it is done. Nothing runs in the background: whoever looks after that
//! time sees it done. A guest has a life of its own beside its VM: it boots, answers, hangs or crashes.

use std::collections::BTreeMap;

use reeve_lifecycle::effect::Disk;
use reeve_protocol::observation::{PowerState, VmFacts, VmState};
use reeve_protocol::{HostName, ProjectId, Timestamp, UserId, VmId};
use serde::{Deserialize, Serialize};

use super::content::Content;

/// What cures a guest that hangs or has crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cure {
    /// Any new boot.
    Reboot,
    /// Only a restore of its disks.
    Restore,
    /// Nothing.
    Never,
}

/// What is wrong with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) struct Ailment {
    pub(super) crashed: bool,
    pub(super) cure: Cure,
}

/// How a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Not running: its VM is off, suspended, being built or gone.
    Off,
    /// Booting; its agent does not answer yet.
    Booting,
    /// Its agent answers.
    Up,
    /// Runs and does not answer.
    Hung,
    /// Its process died.
    Crashed,
}

/// What the cloud is doing with a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TaskKind {
    Building,
    /// Building that ends in an error.
    BuildingInVain,
    PoweringOn,
    PoweringOff,
    Rebooting,
    Suspending,
    Resuming,
    Snapshotting,
    Restoring,
    Deleting,
    SoftDeleting,
    Undeleting,
}

impl TaskKind {
    /// Nova's `task_state`; building has none that this cloud shows.
    pub(super) const fn as_nova(&self) -> Option<&'static str> {
        match self {
            Self::Building | Self::BuildingInVain => None,
            Self::PoweringOn => Some("powering-on"),
            Self::PoweringOff => Some("powering-off"),
            Self::Rebooting => Some("rebooting_hard"),
            Self::Suspending => Some("suspending"),
            Self::Resuming => Some("resuming"),
            Self::Snapshotting => Some("image_snapshot"),
            Self::Restoring => Some("rebuilding"),
            Self::Deleting => Some("deleting"),
            Self::SoftDeleting => Some("soft-deleting"),
            Self::Undeleting => Some("restoring"),
        }
    }

    /// The stem of the notifications, without phase.
    pub(super) const fn event(&self) -> &'static str {
        match self {
            Self::Building | Self::BuildingInVain => "create",
            Self::PoweringOn => "power_on",
            Self::PoweringOff => "power_off",
            Self::Rebooting => "reboot",
            Self::Suspending => "suspend",
            Self::Resuming => "resume",
            Self::Snapshotting => "snapshot",
            Self::Restoring => "rebuild",
            Self::Deleting => "delete",
            Self::SoftDeleting => "soft_delete",
            Self::Undeleting => "restore",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) kind: TaskKind,
    pub(super) until: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SimVm {
    pub(super) id: VmId,
    pub(super) name: String,
    pub(super) project: ProjectId,
    pub(super) user: UserId,
    pub(super) host: HostName,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) locked: bool,
    pub(super) state: VmState,
    pub(super) power: PowerState,
    pub(super) task: Option<Task>,
    pub(super) created_at: Timestamp,
    pub(super) launched_at: Option<Timestamp>,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) boots_until: Timestamp,
    pub(super) ailment: Option<Ailment>,
    /// How many tasks it has had: names the throws for their lengths.
    pub(super) tasks: u64,
    pub(super) root: Content,
    pub(super) volumes: Vec<String>,
    pub(super) addresses: Vec<String>,
    pub(super) last_restore: Option<String>,
    #[serde(default)]
    pub(super) last_reboot: Option<Timestamp>,
    /// When anything of it changed last, or when that was noticed.
    #[serde(default)]
    pub(super) changed_at: Option<Timestamp>,
}

impl SimVm {
    pub(super) fn is_gone(&self) -> bool {
        self.deleted_at.is_some()
    }

    pub(super) fn guest(&self, now: Timestamp) -> GuestState {
        if self.is_gone() || !matches!(self.power, PowerState::Running | PowerState::Crashed) {
            return GuestState::Off;
        }
        match self.ailment {
            Some(Ailment { crashed: true, .. }) => GuestState::Crashed,
            Some(Ailment { crashed: false, .. }) => GuestState::Hung,
            None if now < self.boots_until => GuestState::Booting,
            None => GuestState::Up,
        }
    }

    pub(super) fn facts(&self) -> VmFacts {
        VmFacts {
            vm: self.id,
            name: self.name.clone(),
            project: Some(self.project.clone()),
            user: Some(self.user.clone()),
            host: Some(self.host.clone()),
            state: self.state,
            task: self.task.as_ref().and_then(|task| task.kind.as_nova()).map(str::to_owned),
            power: Some(self.power),
            locked: Some(self.locked),
            created_at: Some(self.created_at),
            launched_at: self.launched_at,
            deleted_at: self.deleted_at,
            metadata: self.metadata.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SimVolume {
    pub(super) id: String,
    pub(super) own: bool,
    pub(super) content: Content,
    /// From when on it is gone.
    pub(super) gone_at: Option<Timestamp>,
    /// Empty if nobody named it.
    #[serde(default)]
    pub(super) name: String,
    /// Its size as its owner was told; 0 if that of its content.
    #[serde(default)]
    pub(super) gib: u32,
    #[serde(default)]
    pub(super) made_at: Option<Timestamp>,
    /// From when on it can be used; at once if absent.
    #[serde(default)]
    pub(super) ready_at: Option<Timestamp>,
    /// Whether it could not be made.
    #[serde(default)]
    pub(super) failed: bool,
}

impl SimVolume {
    /// One that is there, without a name.
    pub(super) const fn ready(id: String, own: bool, content: Content) -> Self {
        let (gone_at, made_at, ready_at) = (None, None, None);
        Self { id, own, content, gone_at, name: String::new(), gib: 0, made_at, ready_at, failed: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SimAddress {
    pub(super) address: String,
    pub(super) held_for: Option<VmId>,
    /// The tag of the operation that took it; empty if none.
    #[serde(default)]
    pub(super) tag: String,
}

impl SimAddress {
    pub(super) const fn is_held(&self) -> bool {
        self.held_for.is_some()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SnapshotEnd {
    Whole,
    Failed,
    Truncated,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SimSnapshot {
    pub(super) id: String,
    pub(super) vm: VmId,
    pub(super) name: String,
    pub(super) disk: Disk,
    pub(super) content: Content,
    pub(super) ready_at: Timestamp,
    pub(super) end: SnapshotEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SimHost {
    pub(super) name: HostName,
    pub(super) up: bool,
    /// Which cell it belongs to: 0 or 1.
    pub(super) cell: u8,
}

/// What is so, whatever anybody was told: for tests and demonstrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroundTruth {
    /// What the cloud would say.
    pub facts: VmFacts,
    /// How the guest is.
    pub guest: GuestState,
    /// Every disk that it has, or had when it went.
    pub disks: Vec<(Disk, Content)>,
    /// Its addresses that are still held for it.
    pub addresses: Vec<String>,
    /// Its volumes that still exist.
    pub volumes: Vec<String>,
    /// Whether it is gone.
    pub gone: bool,
}

//! A cloud: where VMs live. Calls are level-triggered where they can be; whoever calls looks before and after.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_lifecycle::effect::{Disk, Inventory};
pub use reeve_lifecycle::{OWNER_KEY, REVIVED_FROM_KEY};
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{BackupId, HostName, Timestamp, VmId};

/// Metadata key on what Reeve makes: which operation made it.
pub const OPERATION_KEY: &str = "reeve_operation";

/// Why a call failed, by what it means for the next one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// There is no such thing.
    #[error("not found: {0}")]
    NotFound(String),
    /// Refused without effect; the same again will be too (state, lock, right, quota).
    #[error("refused: {0}")]
    Refused(String),
    /// No effect; the same again may work.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It may have had its effect or not.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The VMs of this page.
    pub vms: Vec<VmFacts>,
    /// When the cloud was asked for it.
    pub said: Said,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
    /// Whether everything that should be on the page is: false when a cell is down. An incomplete listing proves nothing.
    pub complete: bool,
}

/// How a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// Being made.
    Pending,
    /// Ready to be read.
    Ready {
        /// Its size in bytes.
        bytes: u64,
    },
    /// Failed; it may be removed.
    Failed(String),
}

/// A snapshot or image that the cloud holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudSnapshot {
    /// The cloud's id.
    pub id: String,
    /// How it is.
    pub state: SnapshotState,
}

/// The content of one disk, for a launch or a restore.
pub struct DiskSource {
    /// Which disk.
    pub disk: Disk,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its content.
    pub content: BoxStream<'static, std::io::Result<Bytes>>,
}

/// What a new VM is to be.
pub struct LaunchSpec {
    /// Its name.
    pub name: String,
    /// Metadata: [`OPERATION_KEY`] and [`REVIVED_FROM_KEY`] among it.
    pub metadata: BTreeMap<String, String>,
    /// The VM whose flavor, project, user and networks it takes.
    pub like: VmId,
    /// How many public addresses it gets.
    pub addresses: usize,
    /// Its disks.
    pub disks: Vec<DiskSource>,
}

/// What is to be made for one operation.
pub struct Blueprint {
    /// The operation: all that is made carries a tag that is made of it.
    pub operation: String,
    /// What is wanted.
    pub plan: ServerPlan,
    /// Metadata of the server beside the plan's: [`OPERATION_KEY`] among it. It wins over the plan's.
    pub metadata: BTreeMap<String, String>,
    /// The user data, not encoded; none if empty.
    pub user_data: String,
}

/// How a part of a blueprint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    /// There is none.
    Absent,
    /// Being made.
    Pending,
    /// There.
    Ready {
        /// The cloud's id; of an address the address itself.
        id: String,
        /// Of a port its own addresses, of an address that address, of anything else none.
        addresses: Vec<String>,
    },
    /// It could not be made; it may be there in part, and can be removed.
    Failed(String),
}

/// How a compute host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostHealth {
    /// The host.
    pub host: HostName,
    /// Whether the cloud says that it is up.
    pub up: bool,
}

/// A cloud.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// One page of all VMs, in a stable order; `from` is the `next` of the page before.
    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError>;

    /// One page of the VMs that changed since then by the cloud's clock, those that went as
    /// [`VmState::Deleted`](reeve_protocol::observation::VmState) among them; `None` where the cloud does not tell. What it
    /// does not show proves nothing: a cloud forgets what went, and a part of it may not answer.
    async fn changed(&self, since: Timestamp, from: Option<String>) -> Result<Option<ListPage>, CloudError> {
        let _ = (since, from);
        Ok(None)
    }

    /// One VM; `NotFound` when there is none.
    async fn show(&self, vm: VmId) -> Result<(VmFacts, Said), CloudError>;

    /// What it consists of.
    async fn inventory(&self, vm: VmId) -> Result<Inventory, CloudError>;

    /// Powers on. Done in the background: look.
    async fn start(&self, vm: VmId) -> Result<(), CloudError>;

    /// Powers off. Done in the background: look.
    async fn stop(&self, vm: VmId) -> Result<(), CloudError>;

    /// Cuts the power and starts again. Done in the background: look at the state.
    async fn hard_reboot(&self, vm: VmId) -> Result<(), CloudError>;

    /// When the VM was last rebooted by anybody, as the cloud's own history of actions tells; `None` if never, or where
    /// the cloud keeps no history. A reboot leaves nothing else to look at.
    async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        let _ = vm;
        Ok(None)
    }

    /// Suspends. Done in the background: look.
    async fn suspend(&self, vm: VmId) -> Result<(), CloudError>;

    /// Resumes. Done in the background: look.
    async fn resume(&self, vm: VmId) -> Result<(), CloudError>;

    /// Begins a snapshot under this name. Done in the background: find it.
    async fn snapshot(&self, vm: VmId, disk: &Disk, name: &str) -> Result<(), CloudError>;

    /// The snapshots with this name; more than one when an answer was lost.
    async fn find_snapshots(&self, vm: VmId, name: &str) -> Result<Vec<CloudSnapshot>, CloudError>;

    /// The content of a ready snapshot.
    async fn read_snapshot(&self, vm: VmId, id: &str)
    -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError>;

    /// Removes a snapshot.
    async fn delete_snapshot(&self, vm: VmId, id: &str) -> Result<(), CloudError>;

    /// Destroys a VM. Done in the background: look.
    async fn delete_server(&self, vm: VmId) -> Result<(), CloudError>;

    /// Whether a volume exists.
    async fn volume_exists(&self, volume: &str) -> Result<bool, CloudError>;

    /// Destroys a volume. Done in the background: look.
    async fn delete_volume(&self, volume: &str) -> Result<(), CloudError>;

    /// Whether a public address is held for anybody's VM.
    async fn address_held(&self, address: &str) -> Result<bool, CloudError>;

    /// Gives a public address back.
    async fn release_address(&self, address: &str) -> Result<(), CloudError>;

    /// Makes a new VM. Done in the background: find it by its operation.
    async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError>;

    /// The VMs that this operation made ([`OPERATION_KEY`]), whatever their state. Where none lives, those that went since
    /// then, as [`VmState::Deleted`](reeve_protocol::observation::VmState): what was made once is not made again because
    /// somebody removed it.
    async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError>;

    /// Puts a VM back to these disks, in place, under this operation. A VM that was off stays off. Done in the
    /// background: look.
    async fn restore_in_place(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError>;

    /// Removes what was uploaded for a launch or a restore that is over, whoever uploaded it.
    async fn drop_sources(&self, operation: &str) -> Result<(), CloudError> {
        let _ = operation;
        Ok(())
    }

    /// The operation that last restored the VM in place, if any.
    async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError>;

    /// Whether what the plan names is there, and limits that are told beforehand (quota) allow it; `Refused` says what
    /// stands against it.
    async fn check_plan(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        let _ = plan;
        Err(cannot_provision())
    }

    /// How a part of a blueprint is, found by the operation's tag. Where an answer was lost there may be several: the
    /// oldest counts, and the others are removed unless they are in use.
    async fn find_part(&self, blueprint: &Blueprint, part: Part) -> Result<PartState, CloudError> {
        let _ = (blueprint, part);
        Err(cannot_provision())
    }

    /// Begins to make a part; the parts before it are ready. Done in the background: find it.
    async fn make_part(&self, blueprint: &Blueprint, part: Part) -> Result<(), CloudError> {
        let _ = (blueprint, part);
        Err(cannot_provision())
    }

    /// Asks for the removal of everything that carries the operation's tag, servers first, and says whether nothing is
    /// left. Called again until it is.
    async fn remove_parts(&self, operation: &str) -> Result<bool, CloudError> {
        let _ = operation;
        Err(cannot_provision())
    }

    /// Removes what was made for a VM that is gone and does not go with it: its port and its security group. Says whether
    /// nothing is left.
    async fn remove_remains(&self, vm: VmId) -> Result<bool, CloudError> {
        let _ = vm;
        Ok(true)
    }

    /// What the VM has written to its console, as much as the cloud keeps.
    async fn console(&self, vm: VmId) -> Result<String, CloudError> {
        let _ = vm;
        Err(CloudError::Refused("this cloud shows no consoles".to_owned()))
    }

    /// How the hosts are.
    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError>;
}

fn cannot_provision() -> CloudError {
    CloudError::Refused("this cloud makes no servers from plans".to_owned())
}

/// The name of the snapshot of a disk for a backup: the same decision always names the same snapshot.
#[must_use]
pub fn snapshot_name(backup: BackupId, disk: &Disk) -> String {
    format!("reeve-{backup}-{}", disk.object_name())
}

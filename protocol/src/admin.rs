//! What administrators ask and are told. Every operation of the command line is one request; the same objects are the
//! API's JSON. Append only: the order of variants and fields is the RPC's wire format.

use serde::{Deserialize, Serialize};

use crate::command::{Accepted, Command, Refusal};
use crate::event::{Alert, BackupPurpose, Child, CloudEvent, Offer};
use crate::{BackupId, CloudName, Epoch, Generation, HostName, NodeId, ProjectId, ShardId, Timestamp, UserId, VmId};

mod forwarded;
mod role;

pub use role::{Principal, Role, permit};

/// The format byte of a request or a reply; see [`crate::codec`].
pub const ADMIN_FORMAT: u8 = 1;
/// The most rows that a list request may ask for.
pub const MAX_LIMIT: u32 = 1000;

/// A request of an administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// The VMs, by id, after `marker`.
    VmList {
        /// At most this many, up to [`MAX_LIMIT`].
        limit: u32,
        /// The last id of the page before.
        marker: Option<VmId>,
        /// Only those in this lease state, if given (`active`, `warned` …).
        lease: Option<String>,
    },
    /// One VM.
    VmShow(VmId),
    /// What happened to one VM last.
    VmHistory(VmId),
    /// The backups of one VM.
    BackupList(VmId),
    /// A command, carried out as if it came over the bus.
    Command(Command),
    /// Past events after a position, since a time.
    Events {
        /// Not before this time.
        since: Timestamp,
        /// After this position.
        after: Option<u64>,
        /// Only about this subject, for example `vm/<uuid>`.
        subject: Option<String>,
        /// At most this many, up to [`MAX_LIMIT`].
        limit: u32,
    },
    /// The dead letters from this number on.
    DeadList {
        /// The first number.
        from: u64,
        /// At most this many, up to [`MAX_LIMIT`].
        limit: u32,
    },
    /// Publish a dead letter again where it came from.
    DeadReplay(u64),
    /// Remove a dead letter.
    DeadDrop(u64),
    /// The live actors: of one VM, or the node's own.
    ActorTree(Option<VmId>),
    /// Kill a child of a VM's supervisor (`None`: the supervisor itself); it is restarted and nothing is lost.
    ActorKill {
        /// Of which VM.
        vm: VmId,
        /// Which child.
        child: Option<Child>,
    },
    /// Stop a child in order and start it again (`None`: the supervisor itself).
    ActorRestart {
        /// Of which VM.
        vm: VmId,
        /// Which child.
        child: Option<Child>,
    },
    /// How the node is.
    Node,
    /// The nodes of the cluster.
    NodeList,
    /// How another node is.
    NodeShow(NodeId),
    /// A node gives up its shards one after the other and gets no others.
    NodeDrain(NodeId),
    /// A node gets shards again.
    NodeUndrain(NodeId),
    /// The shards of the cluster.
    ShardList,
    /// The live actors of a node.
    ActorTreeOf(NodeId),
    /// What a node asks another in somebody's name. Whoever is asked answers from what it has itself.
    Forwarded {
        /// In whose name.
        by: Principal,
        /// What.
        #[serde(deserialize_with = "forwarded::within")]
        request: Box<AdminRequest>,
    },
    /// The call of this number is not waited for any more. Has no answer.
    Cancel(u64),
    /// By how much one VM's lease could be extended now.
    LeaseOffer(VmId),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AdminReply {
    /// To `VmList`.
    Vms(Vec<VmView>),
    /// To `VmShow`.
    Vm(Box<VmView>),
    /// To `VmHistory`.
    History(Vec<HistoryView>),
    /// To `BackupList`.
    Backups(Vec<BackupView>),
    /// To an accepted `Command`.
    Accepted(Accepted),
    /// To `Events`: each a JSON document, because its data differ by type.
    Events(Vec<EventView>),
    /// To `DeadList`.
    Dead(Vec<DeadView>),
    /// To what has nothing to say but that it is done.
    Done,
    /// To `ActorTree`.
    Actors(Box<ActorView>),
    /// To `Node`.
    Node(Box<NodeView>),
    /// To anything that was refused.
    Refused(Refusal),
    /// To `NodeList`.
    Nodes(Vec<MemberView>),
    /// To `ShardList`.
    Shards(Vec<ShardView>),
    /// To `LeaseOffer`.
    Offer(Offer),
}

/// A VM, as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmView {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its project.
    pub project: Option<ProjectId>,
    /// Its owner.
    pub user: Option<UserId>,
    /// Its cloud.
    pub cloud: CloudName,
    /// Its host.
    pub host: Option<HostName>,
    /// Its state in the cloud, in Nova's words; `deleted` when it is gone.
    pub state: String,
    /// What the cloud is doing with it.
    pub task: Option<String>,
    /// `unknown`, `up`, `suspect(n)`, `down`, `repairing`, `needs_operator`, `paused(reason)`.
    pub health: String,
    /// The name of its policy.
    pub policy: String,
    /// Its shard.
    pub shard: ShardId,
    /// The node that supervises it.
    pub node: NodeId,
    /// Whether the cloud locked it.
    pub locked: bool,
    /// Its lease.
    pub lease: LeaseView,
    /// Its backups, oldest first.
    pub backups: Vec<BackupView>,
    /// The operation under way, and of a backup how far it is: `backup: storing disk 2 of 3, 4096 bytes so far`.
    pub operation: Option<String>,
    /// What makes its end wait.
    pub holds: Vec<String>,
    /// Alerts that are raised.
    pub alerts: Vec<Alert>,
    /// The VM whose successor it is.
    pub revived_from: Option<VmId>,
    /// One more with every commit.
    pub generation: Generation,
}

/// A lease, as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// `none`, `active`, `warned`, `grace`, `ending`, `ended`, `exempt`, `parked`.
    pub state: String,
    /// From when it counts.
    pub started_at: Option<Timestamp>,
    /// When it ends.
    pub ends_at: Option<Timestamp>,
    /// How many times it was extended.
    pub extensions: u32,
    /// How many extensions there may be.
    pub max_extensions: u32,
    /// Who may extend beside the owner.
    pub delegates: Vec<UserId>,
    /// Why it ended.
    pub ended: Option<String>,
}

/// A backup, as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// Which.
    pub id: BackupId,
    /// Of which VM.
    pub vm: VmId,
    /// What for.
    pub purpose: BackupPurpose,
    /// When it was begun.
    pub at: Timestamp,
    /// `running`, `verified`, `failed`, `damaged`, `deleting`.
    pub state: String,
    /// Its size in bytes, once verified; while it is being made, how much of it went to the vault so far.
    pub bytes: Option<u64>,
    /// When it was last verified.
    pub verified_at: Option<Timestamp>,
}

/// A past happening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// When.
    pub at: Timestamp,
    /// The event's type.
    pub what: String,
}

/// A past event: its position and its JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Its position; give it as `after` to go on.
    pub position: u64,
    /// The event as JSON ([`CloudEvent`]).
    pub json: String,
}

impl EventView {
    /// An event at a position.
    #[must_use]
    pub fn new(position: u64, event: &CloudEvent) -> Self {
        Self { position, json: serde_json::to_string(event).expect("an event is plain data with text keys") }
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadView {
    /// Its number.
    pub number: u64,
    /// Why it is one.
    pub reason: String,
    /// The queue that it was taken from.
    pub source: String,
    /// When it was given up.
    pub at: Timestamp,
    /// Its `message_id`.
    pub message_id: Option<String>,
    /// Its `type`.
    pub kind: Option<String>,
    /// The size of its body in bytes.
    pub bytes: u64,
    /// The start of its body as text, at most 4 KiB. Tokens that were in it are masked.
    pub body: String,
}

/// A live actor and its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorView {
    /// Its name, for example `vm/<uuid>` or `poller`.
    pub name: String,
    /// What it is doing.
    pub state: String,
    /// How many times it was restarted.
    pub restarts: u64,
    /// Since when it runs.
    pub since: Timestamp,
    /// How many messages wait, where that is known.
    pub mailbox: Option<u32>,
    /// Its children.
    pub children: Vec<ActorView>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// The cluster's name.
    pub cluster: String,
    /// The version that it runs.
    pub version: String,
    /// Since when it runs.
    pub since: Timestamp,
    /// How many VMs it supervises.
    pub vms: u64,
    /// How many shards it owns.
    pub shards: u16,
    /// How many children were restarted since it runs.
    pub child_restarts: u64,
    /// How many unpublished events wait.
    pub outbox: u64,
}

/// A node of the cluster, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its id.
    pub id: NodeId,
    /// `ready`, `draining`, `drained`, or `lost` for a drained node that does not live.
    pub state: String,
    /// Whether it is the leader.
    pub leader: bool,
    /// The version that it runs.
    pub version: String,
    /// Where its RPC listens, as `HOST:PORT`, if it does.
    pub address: Option<String>,
    /// Since when it is a member.
    pub since: Option<Timestamp>,
    /// How many shards it owns.
    pub shards: u16,
    /// How many VMs it supervises.
    pub vms: u64,
    /// How far its wall clock is ahead of the others' median, in milliseconds.
    pub clock_skew_ms: Option<i64>,
}

/// A shard, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// Which.
    pub id: ShardId,
    /// The node that owns it.
    pub owner: Option<NodeId>,
    /// The owner's epoch.
    pub epoch: Option<Epoch>,
    /// The node that is to own it.
    pub wanted: Option<NodeId>,
}

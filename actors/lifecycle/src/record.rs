//! The record of a VM: everything that is known and decided about it, and all that survives a crash.
//!
//! Owner: the VM's supervisor, which changes it through [`crate::step`] alone. The record holds its pending effects and
//! its unpublished events, so one write commits a decision whole.

use reeve_protocol::command::Answer;
use reeve_protocol::event::{Alert, BackupPurpose, Event, LeaseEndReason};
use reeve_protocol::observation::{PowerState, Said, VmState};
use reeve_protocol::{BackupId, CloudName, Generation, HostName, ProjectId, Span, Timestamp, UserId, VmId};
use serde::{Deserialize, Serialize};

use crate::effect::{Inventory, PendingEffect};
use crate::operation::{EndPlan, Operation};
use crate::policy::{NamedPolicy, ProbeKind};

/// The newest format of a stored record; see [`crate::format`].
pub const RECORD_FORMAT: u8 = 2;
/// How many message ids a record remembers.
pub const MAX_SEEN: usize = 64;
/// How many answers to commands a record remembers.
pub const MAX_ANSWERS: usize = 32;
/// How many unpublished events a record holds before it takes nothing more in.
pub const MAX_OUTBOX: usize = 256;
/// How many effects may be pending at once.
pub const MAX_EFFECTS: usize = 128;
/// How many backups a record lists.
pub const MAX_BACKUPS: usize = 128;
/// How many past happenings a record lists.
pub const MAX_HISTORY: usize = 32;

/// Everything about one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The VM.
    pub vm: VmId,
    /// The cloud that it lives in.
    pub cloud: CloudName,
    /// One more with every commit.
    pub generation: Generation,
    /// Whether it exists.
    pub presence: Presence,
    /// What the cloud last said of it.
    pub facts: Facts,
    /// The policy that rules it.
    pub policy: NamedPolicy,
    /// Its lease.
    pub lease: Lease,
    /// Who may extend beside the owner, at most 16.
    pub delegates: Vec<UserId>,
    /// What makes its end wait, sorted.
    pub holds: Vec<Hold>,
    /// Whether the hold of a due end was said.
    pub hold_said: bool,
    /// How it is.
    pub health: Health,
    /// What repair remembers.
    pub repairs: RepairMemory,
    /// When and how it is backed up.
    pub schedule: BackupSchedule,
    /// The backups in the vault and the one being made, oldest first.
    pub backups: Vec<BackupEntry>,
    /// The one exclusive operation.
    pub operation: Option<Operation>,
    /// Effects that are not done yet.
    pub effects: Vec<PendingEffect>,
    /// Events that are not published yet, oldest first.
    pub outbox: Vec<Event>,
    /// The sequence of the last event.
    pub sequence: u64,
    /// Message ids of the last foreign messages (folded), oldest first.
    pub seen: Vec<u64>,
    /// Answers to the last commands by their folded id, oldest first.
    pub answers: Vec<Answered>,
    /// Alerts that are raised.
    pub alerts: Vec<Alert>,
    /// What happened last, oldest first.
    pub history: Vec<HistoryEntry>,
    /// The VM whose successor it is.
    pub revived_from: Option<VmId>,
    /// Whether its creation was seen: then its lease counts from its launch.
    pub created_seen: bool,
    /// An end that is wanted and has not begun.
    pub end_request: Option<EndRequest>,
}

/// An end that is wanted: of the lease, or of the VM by request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRequest {
    /// What is to be done.
    pub plan: EndPlan,
    /// Who asked: `lease` or a requester.
    pub by: String,
}

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The folded id of the command.
    pub id: u64,
    /// The answer.
    pub answer: Answer,
}

/// A line of a record's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// The event's type, for example `lease.extended`.
    pub what: String,
}

/// Whether a VM exists.
///
/// ```text
/// Unseen ─► Present ◄──► SoftDeleted
///   │          │             │
///   ├──────────┴─────────────┴──► Gone (tombstone; never left)
///   └─► Requested ─► Closed (a request for a VM; never one itself)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Nothing is known yet; never stored.
    Unseen,
    /// The cloud has it.
    Present {
        /// When it came under care.
        since: Timestamp,
        /// When a complete listing first lacked it.
        missing_since: Option<Timestamp>,
    },
    /// Deleted, restorable.
    SoftDeleted {
        /// When it came under care.
        since: Timestamp,
        /// When it was soft-deleted.
        at: Timestamp,
    },
    /// Gone for ever.
    Gone {
        /// When it was seen to be gone, by the cloud's word where there is one.
        at: Timestamp,
    },
    /// No VM, but a request for one.
    Requested {
        /// When it came.
        since: Timestamp,
    },
    /// A request for a VM that is settled.
    Closed {
        /// When.
        at: Timestamp,
        /// The VM that was made, if one was.
        vm: Option<VmId>,
    },
}

impl Presence {
    /// Whether this is no VM, but a request for one.
    #[must_use]
    pub const fn is_request(self) -> bool {
        match self {
            Self::Requested { .. } | Self::Closed { .. } => true,
            Self::Unseen | Self::Present { .. } | Self::SoftDeleted { .. } | Self::Gone { .. } => false,
        }
    }
}

/// What the cloud last said of a VM: the newest payload, whatever the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// When this was said.
    pub said: Said,
    /// Display name.
    pub name: String,
    /// Project.
    pub project: Option<ProjectId>,
    /// The owner.
    pub user: Option<UserId>,
    /// Host.
    pub host: Option<HostName>,
    /// State.
    pub state: VmState,
    /// What the cloud is doing with it.
    pub task: Option<String>,
    /// Power state.
    pub power: Option<PowerState>,
    /// Whether the cloud locked it.
    pub locked: bool,
    /// When it was created.
    pub created_at: Option<Timestamp>,
    /// When it was launched.
    pub launched_at: Option<Timestamp>,
}

/// What makes the end of a lease wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Hold {
    /// The VM is locked in the cloud.
    Locked,
    /// An operator put the VM under maintenance.
    Maintenance,
    /// The node's clock cannot be trusted.
    ClockUntrusted,
    /// The cloud cannot be read.
    CloudUnreadable,
}

impl Hold {
    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Maintenance => "maintenance",
            Self::ClockUntrusted => "clock_untrusted",
            Self::CloudUnreadable => "cloud_unreadable",
        }
    }
}

/// A lease.
///
/// ```text
/// None ─► Running(Active ─► Warned ─► Grace ─► Ending) ─► Ended
///  ▲            │ ▲    extended, cancelled ◄──┘             │
///  └─ Exempt ◄──┘ └── Parked (soft-deleted)  ◄── extended ──┘ (stopped, suspended)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lease {
    /// Not begun: the VM has not been launched.
    None,
    /// There is none, by policy or because an operator said so.
    Exempt,
    /// It runs.
    Running {
        /// Its terms.
        term: Term,
        /// Where it is.
        phase: LeasePhase,
    },
    /// It waits while the VM is soft-deleted.
    Parked {
        /// Its terms.
        term: Term,
        /// The time it had left.
        left: Span,
    },
    /// It is over.
    Ended {
        /// Its terms.
        term: Term,
        /// When.
        at: Timestamp,
        /// Why.
        reason: LeaseEndReason,
    },
}

/// Where a running lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeasePhase {
    /// No notice yet.
    Active,
    /// The owner was told that the end comes near.
    Warned,
    /// The end has come, an answer is awaited.
    Grace {
        /// Until when.
        until: Timestamp,
    },
    /// The end is being carried out, or waits for its turn.
    Ending {
        /// Since when.
        since: Timestamp,
    },
}

/// The terms of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// From when it counts.
    pub started_at: Timestamp,
    /// When it ends.
    pub ends_at: Timestamp,
    /// When `ends_at` was last set: a notice that lies before it is skipped.
    pub armed_at: Timestamp,
    /// The smallest `warn_before` that was served for this `ends_at`.
    pub warned: Option<Span>,
    /// How many times it was extended.
    pub extensions: u32,
    /// What it counts from.
    pub basis: Basis,
}

/// What a lease counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Basis {
    /// The VM's coming: its launch or its discovery, as the policy says. What is heard of an earlier launch corrects it.
    Coming,
    /// The moment at which somebody attached it, whatever is heard of the VM's launch.
    Attachment,
}

/// How a VM is.
///
/// ```text
/// Unknown ─► Up ─► Suspect(n) ─► Down ─► (repair operation) ─► Up │ NeedsOperator
///    ▲                                                          any ◄─► Paused
///    └── un-paused
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// Not known yet.
    Unknown {
        /// Misses in a row.
        misses: u32,
    },
    /// Answers.
    Up,
    /// Missed some probes.
    Suspect {
        /// Misses in a row.
        misses: u32,
    },
    /// Does not live.
    Down {
        /// Since when.
        since: Timestamp,
        /// What was seen.
        cause: String,
        /// Which probe saw it: this is tested again after each repair step.
        probe: ProbeKind,
        /// Answers in a row since.
        successes: u32,
    },
    /// Repair is exhausted; a human was told.
    NeedsOperator {
        /// Since when.
        since: Timestamp,
        /// Answers in a row since.
        successes: u32,
    },
    /// Nobody judges.
    Paused {
        /// Why.
        reason: PauseReason,
    },
}

/// Why nobody judges a VM's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseReason {
    /// Not watched, by policy.
    Disabled,
    /// Not launched yet.
    Building,
    /// Stopped, shelved, suspended or paused on purpose.
    NotRunning,
    /// The cloud is doing something with it.
    CloudTask,
    /// An operation of Reeve is under way.
    Operation,
    /// Under maintenance.
    Maintenance,
    /// Booted from a rescue image.
    Rescue,
    /// Gone.
    Gone,
}

impl PauseReason {
    /// The name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Building => "building",
            Self::NotRunning => "not_running",
            Self::CloudTask => "cloud_task",
            Self::Operation => "operation",
            Self::Maintenance => "maintenance",
            Self::Rescue => "rescue",
            Self::Gone => "gone",
        }
    }
}

/// What repair remembers of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepairMemory {
    /// Whether an operator suspended repair.
    pub suspended: bool,
    /// When the last episode ended.
    pub last_ended: Option<Timestamp>,
    /// When the episodes of the last 24 hours began, oldest first.
    pub recent: Vec<Timestamp>,
    /// How long its boots took until the probe answered, smoothed; 0 before anything is learnt.
    pub boot_time: Span,
    /// Whether a human asked for a repair that has not begun.
    pub requested: bool,
}

/// When and how a VM is backed up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackupSchedule {
    /// When the next scheduled run is due; `None` before the VM is launched or without a schedule.
    pub next_at: Option<Timestamp>,
    /// When the current run was due, from its first attempt on.
    pub due_at: Option<Timestamp>,
    /// From when the window of the current run counts: from when it was due, or from its first attempt if that was late.
    pub window_from: Option<Timestamp>,
    /// When a failed run is tried again.
    pub retry_at: Option<Timestamp>,
    /// Failures of the current run.
    pub failures: u32,
    /// A manual backup was asked for and has not begun.
    pub manual: bool,
    /// When the run was due whose window was told to be missed.
    pub missed: Option<Timestamp>,
    /// Before this no backup is read back again.
    pub reverify_at: Option<Timestamp>,
}

/// A backup that a record lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupEntry {
    /// Which.
    pub id: BackupId,
    /// What for.
    pub purpose: BackupPurpose,
    /// When it was begun.
    pub at: Timestamp,
    /// How it is.
    pub state: BackupState,
    /// What the VM consisted of.
    pub inventory: Inventory,
}

/// How a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupState {
    /// Being made.
    Running,
    /// Read back and equal.
    Verified {
        /// Its size.
        bytes: u64,
        /// When it was last verified.
        at: Timestamp,
    },
    /// Did not get done; what there is of it is removed.
    Failed,
    /// Was verified once, and no longer equals its manifest.
    Damaged,
    /// Being removed.
    Deleting,
}

impl VmRecord {
    /// The record of a VM that nothing is known of yet.
    #[must_use]
    pub fn unseen(vm: VmId, cloud: CloudName, policy: NamedPolicy) -> Self {
        Self {
            vm,
            cloud,
            generation: Generation::default(),
            presence: Presence::Unseen,
            facts: Facts {
                said: Said { at_us: i64::MIN, tie: 0 },
                name: String::new(),
                project: None,
                user: None,
                host: None,
                state: VmState::Unknown,
                task: None,
                power: None,
                locked: false,
                created_at: None,
                launched_at: None,
            },
            policy,
            lease: Lease::None,
            delegates: Vec::new(),
            holds: Vec::new(),
            hold_said: false,
            health: Health::Unknown { misses: 0 },
            repairs: RepairMemory::default(),
            schedule: BackupSchedule::default(),
            backups: Vec::new(),
            operation: None,
            effects: Vec::new(),
            outbox: Vec::new(),
            sequence: 0,
            seen: Vec::new(),
            answers: Vec::new(),
            alerts: Vec::new(),
            history: Vec::new(),
            revived_from: None,
            created_seen: false,
            end_request: None,
        }
    }

    /// The latest verified backup.
    #[must_use]
    pub fn latest_verified(&self) -> Option<&BackupEntry> {
        self.backups.iter().rev().find(|entry| matches!(entry.state, BackupState::Verified { .. }))
    }

    /// The backup of this id.
    #[must_use]
    pub fn backup(&self, id: BackupId) -> Option<&BackupEntry> {
        self.backups.iter().find(|entry| entry.id == id)
    }

    /// The terms of the lease, if there ever was one.
    #[must_use]
    pub const fn term(&self) -> Option<&Term> {
        match &self.lease {
            Lease::None | Lease::Exempt => None,
            Lease::Running { term, .. } | Lease::Parked { term, .. } | Lease::Ended { term, .. } => Some(term),
        }
    }

    /// Whether the VM is gone for ever.
    #[must_use]
    pub const fn is_gone(&self) -> bool {
        matches!(self.presence, Presence::Gone { .. })
    }
}

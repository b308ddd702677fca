//! What producers ask for: commands, who asks, and the answers.
//!
//! A command names one VM and carries an idempotency key, its message id. The same key again gives the same answer and
//! changes nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::provision::ProvisionRequest;
use crate::{BackupId, MessageId, ProjectId, Span, Timestamp, UserId, VmId};

mod parse;
mod provision;

pub use parse::{CommandError, MAX_COMMAND_BYTES, parse};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requester {
    /// An operator of Reeve: a local administrator, a client certificate with the role, or a trusted producer that says so.
    Operator(String),
    /// A user of a cloud, with the project and roles that the producer vouches for.
    User {
        /// The cloud's id of the user.
        id: UserId,
        /// The project that the user acts in.
        project: Option<ProjectId>,
        /// The user's roles in that project.
        roles: Vec<String>,
    },
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator:{name}"),
            Self::User { id, .. } => write!(f, "{id}"),
        }
    }
}

/// Whether a deletion backs up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupFirst {
    /// As the VM's policy says.
    AsPolicy,
    /// Without a backup, because the requester said so.
    No,
}

/// Whether a hold or a pause begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Begins.
    On,
    /// Ends.
    Off,
}

/// What is asked for. Append only: the order is part of the RPC's wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandKind {
    /// `vm.adopt`: take a VM under care that is known to the cloud.
    VmAdopt,
    /// `vm.start`.
    VmStart,
    /// `vm.stop`.
    VmStop,
    /// `vm.reboot`: a hard reboot.
    VmReboot,
    /// `vm.suspend`.
    VmSuspend,
    /// `vm.resume`.
    VmResume,
    /// `vm.delete`.
    VmDelete {
        /// Whether a backup is made first.
        backup: BackupFirst,
    },
    /// `vm.revive`: make the VM again from a backup; it gets a new id and a new lease.
    VmRevive {
        /// Which backup; the latest verified one if absent.
        backup: Option<BackupId>,
        /// The new VM's name; the old one's if absent.
        name: Option<String>,
    },
    /// `vm.maintenance`: nobody touches the VM while it is on.
    VmMaintenance(Switch),
    /// `lease.extend`.
    LeaseExtend {
        /// By how long; the policy's `extension` if absent.
        by: Option<Span>,
    },
    /// `lease.end`: the lease ends now.
    LeaseEnd,
    /// `lease.cancel-end`: an ending that has not yet deleted anything is taken back.
    LeaseCancelEnd,
    /// `lease.set-policy`: attach a lease, or change its policy.
    LeaseSetPolicy {
        /// The name of the policy.
        policy: String,
    },
    /// `lease.set-delegates`: who may extend beside the owner, at most 16.
    LeaseSetDelegates {
        /// Their user ids.
        delegates: Vec<UserId>,
    },
    /// `lease.exempt`: remove the lease (`on`), or give one again (`off`).
    LeaseExempt(Switch),
    /// `backup.run`.
    BackupRun,
    /// `backup.verify`: read a backup back from the vault again.
    BackupVerify {
        /// Which backup; the latest if absent.
        backup: Option<BackupId>,
    },
    /// `backup.restore`: put the VM back to a verified backup, in place.
    BackupRestore {
        /// Which backup; the latest verified one if absent.
        backup: Option<BackupId>,
    },
    /// `backup.delete`.
    BackupDelete {
        /// Which backup.
        backup: BackupId,
    },
    /// `health.report`: somebody outside saw the VM down or up.
    HealthReport {
        /// Whether it is well.
        healthy: bool,
        /// What was seen, at most 255 bytes.
        cause: String,
    },
    /// `repair.run`: repair now, whatever the health says.
    RepairRun,
    /// `repair.suspend` and `repair.resume`: whether automation may repair this VM (`on` = it may not).
    RepairSuspend(Switch),
    /// `lease.extend` of a lease that ends at this very time: refused if its end was moved since, so that the same wish,
    /// by whatever way it comes and however often, extends once.
    LeaseExtendIf {
        /// By how long; the policy's `extension` if absent.
        by: Option<Span>,
        /// When the lease was to end, as the requester knew it.
        ends_at: Timestamp,
    },
    /// `vm.provision`: make a VM. The command's VM is the request's own id ([`VmId::of_request`]); the VM gets another.
    VmProvision(Box<ProvisionRequest>),
    /// `notice.send`: tell people something about the VM.
    NoticeSend {
        /// Whom.
        to: NoticeTo,
        /// What, at most 1,000 characters.
        text: String,
    },
}

/// Whom a notice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeTo {
    /// The owner and the delegates of the VM; the operators if nobody owns it.
    Owner,
    /// The operators.
    Operators,
}

/// The most characters of a notice that a command sends.
pub const MAX_NOTICE: usize = 1000;

/// A request about one VM, or for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The idempotency key.
    pub id: MessageId,
    /// The VM.
    pub vm: VmId,
    /// Who asks.
    pub by: Requester,
    /// What for.
    pub kind: CommandKind,
}

/// Why a command was not carried out; the wire names are these in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The requester may not, or the rules do not allow it.
    Denied,
    /// There is no such VM, backup or policy.
    NotFound,
    /// Something is in the way: state, lock or another operation.
    Conflict,
    /// The request makes no sense.
    Invalid,
    /// Not now; the same request may be sent again.
    Unavailable,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what, why, and what would still be possible.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What came of an accepted command. Long work goes on after it: follow the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The VM.
    pub vm: VmId,
    /// What happens now, for people.
    pub message: String,
    /// When the lease now ends, if the command touched it.
    pub ends_at: Option<Timestamp>,
    /// The backup made, verified or used, if any.
    pub backup: Option<BackupId>,
}

/// The answer to a command.
pub type Answer = Result<Accepted, Refusal>;

/// An [`Answer`] as the bus carries it: `{"ok":true,"result":{…}}` or `{"ok":false,"error":{…}}`.
#[must_use]
pub fn answer_json(answer: &Answer) -> Vec<u8> {
    let value = match answer {
        Ok(accepted) => serde_json::json!({"ok": true, "result": accepted}),
        Err(refusal) => serde_json::json!({"ok": false, "error": refusal}),
    };
    value.to_string().into_bytes()
}

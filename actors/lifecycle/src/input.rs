//! What a VM's record can be told, and what it answers.

use reeve_protocol::command::{Answer, Command, Refusal};
use reeve_protocol::event::{Child, Event};
use reeve_protocol::observation::{Said, VmFacts, VmNotification};
use reeve_protocol::{Span, Timestamp, VmId};

use crate::effect::{EffectKey, Outcome, PendingEffect, ProbeVerdict};
use crate::operation::ReplyTo;
use crate::policy::{NamedPolicy, ProbeKind};
use crate::record::{Hold, VmRecord};

/// What a VM's record can be told. Inputs are never stored, so their order is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmInput {
    /// The cloud tells of a change.
    Notified(VmNotification),
    /// A listing or a look at the VM shows it.
    Listed {
        /// What it shows.
        facts: VmFacts,
        /// When the cloud was asked.
        said: Said,
    },
    /// A complete listing, asked for at this time, lacks it.
    Missing {
        /// When the listing was asked for.
        asked_at: Timestamp,
    },
    /// A probe was made.
    Probed {
        /// Which.
        probe: ProbeKind,
        /// What it saw.
        verdict: ProbeVerdict,
    },
    /// Somebody asks for something.
    Commanded {
        /// What for.
        command: Command,
        /// The policy that the command names, if it names one that exists.
        policy: Option<NamedPolicy>,
    },
    /// A worker answers.
    EffectDone {
        /// To which effect.
        key: EffectKey,
        /// What.
        outcome: Outcome,
    },
    /// Every event up to this sequence is confirmed by the bus, which is to be written down even if the record at hand
    /// lacks them already; see [`crate::confirm`].
    Published {
        /// The last confirmed.
        through: u64,
    },
    /// Another policy rules: configuration or metadata changed.
    PolicyAssigned {
        /// The policy.
        policy: NamedPolicy,
        /// The policy that the VM asked for, if there is none of that name.
        unknown: Option<String>,
    },
    /// A hold from outside begins.
    HoldRaised(Hold),
    /// A hold from outside ends.
    HoldLifted(Hold),
    /// A child of the supervisor was restarted more often than its limit.
    ChildExhausted(Child),
    /// A child that was exhausted works again.
    ChildRecovered(Child),
    /// This VM was made by Reeve.
    Introduced {
        /// The VM whose backup it was made of, if it was.
        revived_from: Option<VmId>,
        /// What the cloud says of this one.
        facts: VmFacts,
        /// When the cloud was asked.
        said: Said,
    },
    /// Somebody asks for a VM.
    Asked {
        /// The command, a `vm.provision`.
        command: Command,
        /// Whether it may be, by configuration.
        admission: Result<Admission, Refusal>,
        /// Where whoever asks waits for word.
        reply: Option<ReplyTo>,
    },
    /// A deadline may have come.
    Tick,
}

/// What configuration adds to a request for a VM that may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The user data, rendered.
    pub user_data: String,
    /// How long it may take until the VM is ready.
    pub within: Span,
}

impl VmInput {
    /// What the cloud says of the VM, in an input that tells it.
    #[must_use]
    pub const fn facts(&self) -> Option<&VmFacts> {
        match self {
            Self::Notified(notification) => Some(&notification.facts),
            Self::Listed { facts, .. } | Self::Introduced { facts, .. } => Some(facts),
            Self::Missing { .. }
            | Self::Probed { .. }
            | Self::Commanded { .. }
            | Self::EffectDone { .. }
            | Self::Published { .. }
            | Self::PolicyAssigned { .. }
            | Self::HoldRaised(_)
            | Self::HoldLifted(_)
            | Self::ChildExhausted(_)
            | Self::ChildRecovered(_)
            | Self::Asked { .. }
            | Self::Tick => None,
        }
    }

    /// Whether the next listing, probe or wake-up says it again, so that it may be turned away.
    #[must_use]
    pub const fn comes_again(&self) -> bool {
        match self {
            Self::Listed { .. } | Self::Missing { .. } | Self::Probed { .. } | Self::Tick => true,
            Self::Notified(_)
            | Self::Commanded { .. }
            | Self::EffectDone { .. }
            | Self::Published { .. }
            | Self::PolicyAssigned { .. }
            | Self::HoldRaised(_)
            | Self::HoldLifted(_)
            | Self::ChildExhausted(_)
            | Self::ChildRecovered(_)
            | Self::Asked { .. }
            | Self::Introduced { .. } => false,
        }
    }
}

/// How an input was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts. A command carries its answer.
    Accepted(Option<Answer>),
    /// It changes nothing.
    Ignored(Ignored),
    /// It is refused: the answer to a command.
    Denied(Answer),
    /// Nothing can be taken now, because too many events are unpublished; the same input is to be offered again.
    Busy,
}

/// Why an input changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// It was seen before. A command gets the answer that it got then.
    Duplicate(Option<Answer>),
    /// Something newer is known.
    Stale,
    /// It says nothing new.
    Nothing,
    /// It speaks of something that is over.
    Over,
}

/// A decision: the record after it, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The record after the decision, with its generation raised if anything changed.
    pub record: VmRecord,
    /// Whether it is to be committed: it differs from the one before, or from the stored one.
    pub changed: bool,
    /// Whether the record is no longer needed and may be removed from the store.
    pub purge: bool,
    /// Effects to perform once the record is committed.
    pub effects: Vec<PendingEffect>,
    /// Events of this decision; they are in the record's outbox too.
    pub events: Vec<Event>,
    /// How the input was taken.
    pub verdict: Verdict,
}

/// Why a record wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A lease notice is due.
    Warning,
    /// The lease ends.
    LeaseEnd,
    /// Nobody answered in time.
    GraceOver,
    /// An effect is tried again.
    Retry,
    /// The VM has had time to boot.
    Retest,
    /// Repair may begin again.
    RepairDue,
    /// A backup is due.
    BackupDue,
    /// The window of a backup ends that could not be begun.
    BackupWindowOver,
    /// A backup is to be read back again.
    ReverifyDue,
    /// A final backup is tried again.
    FinalBackupRetry,
    /// A backup's time is over.
    Retention,
    /// The tombstone may go.
    Purge,
}

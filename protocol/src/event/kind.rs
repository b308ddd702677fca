//! The kinds of events and their data.

use super::{BackupId, Category, CloudName, Deserialize, HostName, ProjectId, Serialize, Span, Timestamp, VmId};

/// How a VM came under care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Created under Reeve's eyes.
    Created,
    /// Found later, by a listing or by a notification about something else.
    Found,
    /// Made by Reeve from a backup of another VM.
    Revived {
        /// That VM.
        from: VmId,
    },
}

/// What the owner may still do about an end that comes near.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offer {
    /// Extend.
    Extend {
        /// By at most this much.
        by: Span,
        /// How many extensions are left.
        left: u32,
    },
    /// Nothing: the lease no longer qualifies.
    No {
        /// Why not.
        why: String,
    },
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseEndReason {
    /// It ran out, and the VM was destroyed.
    Destroyed,
    /// It ran out, and the VM was stopped.
    Stopped,
    /// It ran out, and the VM was suspended.
    Suspended,
    /// It ran out, and only a notice was asked for.
    Notified,
    /// The VM is gone by itself.
    VmGone,
}

/// Why a backup is made; each has a retention of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupPurpose {
    /// By schedule.
    Scheduled,
    /// On request.
    Manual,
    /// At the end of the lease.
    Final,
}

/// What a human is told, once per episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alert {
    /// Every repair was tried.
    RepairExhausted,
    /// The end of the lease does not get past a step.
    EndingStuck,
    /// A backup failed.
    BackupFailed,
    /// A revival does not get past a step.
    ReviveStuck,
    /// A requested action does not get done.
    ActionStuck,
    /// A child of the VM's supervisor keeps failing.
    SupervisionExhausted,
    /// The VM names a policy that is not configured.
    UnknownPolicy,
    /// The cloud reports a failure of the VM.
    CloudFault,
    /// The VM is down and repair may not act.
    RepairHeld,
    /// A backup in the vault no longer equals its manifest.
    BackupDamaged,
    /// A notice does not get through over one of the channels.
    NoticeUndelivered,
    /// What was made for a VM that was asked for cannot be taken back.
    TakeBackStuck,
    /// A rule of the configuration, or a producer, says so.
    Rule,
}

/// A child of a VM's supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Child {
    /// Wakes at the next deadline.
    LeaseTimer,
    /// Watches the VM.
    Poller,
    /// Runs repair steps.
    Repairer,
    /// Runs backups, verifications and restores.
    BackupWorker,
    /// Runs everything else that talks to the cloud or to people.
    ActionWorker,
}

/// What happened. Append only: records hold these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A VM came under care.
    VmDiscovered {
        /// Its name.
        name: String,
        /// The cloud that it runs in.
        cloud: CloudName,
        /// Its project.
        project: Option<ProjectId>,
        /// Its host.
        host: Option<HostName>,
        /// How it came.
        origin: Origin,
    },
    /// Its state in the cloud changed.
    VmStateChanged {
        /// Before, in Nova's words.
        from: String,
        /// After.
        to: String,
    },
    /// Its destruction began.
    VmTerminating {
        /// Who or what asked for it.
        by: String,
    },
    /// It is destroyed, and seen to be gone.
    VmTerminated,
    /// It is gone by itself.
    VmVanished {
        /// How that was seen.
        how: String,
    },
    /// It lives again as another VM.
    VmRevived {
        /// The new VM.
        new_vm: VmId,
        /// The backup used.
        backup: BackupId,
    },
    /// Its lease began.
    LeaseCreated {
        /// When it started.
        started_at: Timestamp,
        /// When it ends.
        ends_at: Timestamp,
        /// Under which policy.
        policy: String,
    },
    /// The end comes near; the owner is told.
    LeaseExpiring {
        /// When it ends.
        ends_at: Timestamp,
        /// What the owner may do.
        offer: Offer,
    },
    /// The end has come.
    LeaseExpired {
        /// When it ended.
        ends_at: Timestamp,
        /// Until when an answer is awaited, if it is.
        grace_until: Option<Timestamp>,
        /// What the owner may do until then.
        offer: Offer,
    },
    /// It was extended.
    LeaseExtended {
        /// By whom.
        by: String,
        /// Its new end.
        ends_at: Timestamp,
        /// How many extensions it has had.
        extensions: u32,
    },
    /// An extension was refused.
    LeaseExtensionDenied {
        /// To whom.
        by: String,
        /// Why, and what would still be possible.
        reason: String,
    },
    /// It is over.
    LeaseEnded {
        /// Why.
        reason: LeaseEndReason,
    },
    /// Its end waits.
    LeaseHeld {
        /// For what.
        reasons: Vec<String>,
    },
    /// Its end no longer waits.
    LeaseReleased,
    /// Its end was taken back.
    LeaseEndCancelled {
        /// By whom.
        by: String,
    },
    /// The lease was removed or given back by an operator.
    LeaseExempted {
        /// By whom.
        by: String,
        /// Whether it is exempt now.
        exempt: bool,
    },
    /// Another policy rules now.
    LeasePolicyChanged {
        /// Its name.
        policy: String,
        /// When the lease now ends, if there is one.
        ends_at: Option<Timestamp>,
    },
    /// A probe got no answer.
    HealthDegraded {
        /// How many in a row.
        misses: u32,
    },
    /// The VM does not live.
    HealthDown {
        /// What was seen.
        cause: String,
    },
    /// The VM lives again.
    HealthRecovered,
    /// Nobody judges the VM for a while.
    HealthMonitoringPaused {
        /// Why.
        reason: String,
    },
    /// A repair began.
    RepairStarted {
        /// Why.
        cause: String,
    },
    /// A step of it began.
    RepairStepStarted {
        /// Which.
        step: String,
    },
    /// A step of it was done and the condition tested again.
    RepairStepFinished {
        /// Which.
        step: String,
        /// Whether the condition is gone.
        cured: bool,
    },
    /// The VM is well again.
    RepairSucceeded {
        /// How many steps it took.
        steps: u32,
    },
    /// Every step was tried: a human is needed.
    RepairExhausted,
    /// A backup began.
    BackupStarted {
        /// Which.
        backup: BackupId,
        /// What for.
        purpose: BackupPurpose,
        /// Whether it is late, because nobody was running when it was due.
        late: bool,
    },
    /// A backup was read back and is equal.
    BackupVerified {
        /// Which.
        backup: BackupId,
        /// Its size.
        bytes: u64,
    },
    /// A backup failed for good.
    BackupFailed {
        /// Which.
        backup: BackupId,
        /// Why.
        reason: String,
    },
    /// A backup was deleted.
    BackupDeleted {
        /// Which.
        backup: BackupId,
    },
    /// A backup was due and could not be made in its window: as records of format 1 hold it, which no one makes any more.
    BackupMissed {
        /// When it was due.
        due_at: Timestamp,
    },
    /// The VM was put back to a backup, in place.
    BackupRestored {
        /// Which.
        backup: BackupId,
    },
    /// A human is needed.
    AlertRaised {
        /// For what.
        alert: Alert,
        /// In words.
        message: String,
    },
    /// The human is no longer needed.
    AlertCleared {
        /// For what.
        alert: Alert,
    },
    /// A requested action was done.
    ActionDone {
        /// Which: start, stop, reboot, suspend, resume.
        action: String,
    },
    /// A child of the supervisor was restarted more often than its limit.
    SupervisionExhausted {
        /// Which.
        child: Child,
    },
    /// The VM's creation was heard of after its lease had begun: the lease counts from its launch.
    LeaseCorrected {
        /// From when it counts.
        started_at: Timestamp,
        /// When it ends.
        ends_at: Timestamp,
    },
    /// A VM is asked for, and may be.
    ProvisionRequested {
        /// By whom.
        by: String,
        /// Under which name.
        name: String,
        /// In which cloud.
        cloud: CloudName,
    },
    /// A VM that was asked for is refused; nothing was made.
    ProvisionDenied {
        /// By whom it was asked for.
        by: String,
        /// Why, and what would be possible.
        reason: String,
    },
    /// A VM that was asked for could not be made; what was made of it is taken back.
    ProvisionFailed {
        /// Why.
        reason: String,
    },
    /// The VM that was asked for runs and is ready.
    Provisioned {
        /// Its id.
        new_vm: VmId,
    },
    /// It was handed over to whoever asked for it.
    Delivered {
        /// Its id.
        new_vm: VmId,
        /// Its addresses: a public one first.
        addresses: Vec<String>,
        /// The key pair that lets its owner in.
        key: Option<String>,
    },
    /// A requested action began, also a restore.
    ActionStarted {
        /// Which: start, stop, reboot, suspend, resume, restore.
        action: String,
        /// Who asked for it.
        by: String,
    },
    /// A requested action was given up, also a restore.
    ActionFailed {
        /// Which.
        action: String,
        /// Why.
        reason: String,
    },
    /// A revival began.
    VmReviveStarted {
        /// From which backup.
        backup: BackupId,
        /// Who asked for it.
        by: String,
    },
    /// A revival was given up.
    VmReviveFailed {
        /// From which backup.
        backup: BackupId,
        /// Why.
        reason: String,
    },
    /// A backup is being read back again.
    BackupVerifyStarted {
        /// Which.
        backup: BackupId,
    },
    /// A backup that was verified once could not be read back, or is damaged.
    BackupVerifyFailed {
        /// Which.
        backup: BackupId,
        /// Why.
        reason: String,
    },
    /// A repair was given up without a verdict.
    RepairAbandoned {
        /// Why.
        reason: String,
    },
    /// A backup was due and could not be made in its window.
    BackupWindowMissed {
        /// When it was due.
        due_at: Timestamp,
        /// What was in the way.
        reason: String,
    },
}

impl EventKind {
    /// The type without the prefix `reeve.`: the routing key.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::VmDiscovered { .. } => "vm.discovered",
            Self::VmStateChanged { .. } => "vm.state-changed",
            Self::VmTerminating { .. } => "vm.terminating",
            Self::VmTerminated => "vm.terminated",
            Self::VmVanished { .. } => "vm.vanished",
            Self::VmRevived { .. } => "vm.revived",
            Self::LeaseCreated { .. } => "lease.created",
            Self::LeaseExpiring { .. } => "lease.expiring",
            Self::LeaseExpired { .. } => "lease.expired",
            Self::LeaseExtended { .. } => "lease.extended",
            Self::LeaseExtensionDenied { .. } => "lease.extension-denied",
            Self::LeaseEnded { .. } => "lease.ended",
            Self::LeaseHeld { .. } => "lease.held",
            Self::LeaseReleased => "lease.released",
            Self::LeaseEndCancelled { .. } => "lease.end-cancelled",
            Self::LeaseExempted { .. } => "lease.exempted",
            Self::LeasePolicyChanged { .. } => "lease.policy-changed",
            Self::HealthDegraded { .. } => "health.degraded",
            Self::HealthDown { .. } => "health.down",
            Self::HealthRecovered => "health.recovered",
            Self::HealthMonitoringPaused { .. } => "health.monitoring-paused",
            Self::RepairStarted { .. } => "repair.started",
            Self::RepairStepStarted { .. } => "repair.step-started",
            Self::RepairStepFinished { .. } => "repair.step-finished",
            Self::RepairSucceeded { .. } => "repair.succeeded",
            Self::RepairExhausted => "repair.exhausted",
            Self::BackupStarted { .. } => "backup.started",
            Self::BackupVerified { .. } => "backup.verified",
            Self::BackupFailed { .. } => "backup.failed",
            Self::BackupDeleted { .. } => "backup.deleted",
            Self::BackupMissed { .. } | Self::BackupWindowMissed { .. } => "backup.missed",
            Self::BackupRestored { .. } => "backup.restored",
            Self::AlertRaised { .. } => "alert.raised",
            Self::AlertCleared { .. } => "alert.cleared",
            Self::ActionDone { .. } => "action.done",
            Self::SupervisionExhausted { .. } => "supervision.exhausted",
            Self::LeaseCorrected { .. } => "lease.corrected",
            Self::ProvisionRequested { .. } => "vm.provision-requested",
            Self::ProvisionDenied { .. } => "vm.provision-denied",
            Self::ProvisionFailed { .. } => "vm.provision-failed",
            Self::Provisioned { .. } => "vm.provisioned",
            Self::Delivered { .. } => "vm.delivered",
            Self::ActionStarted { .. } => "action.started",
            Self::ActionFailed { .. } => "action.failed",
            Self::VmReviveStarted { .. } => "vm.revive-started",
            Self::VmReviveFailed { .. } => "vm.revive-failed",
            Self::BackupVerifyStarted { .. } => "backup.verify-started",
            Self::BackupVerifyFailed { .. } => "backup.verify-failed",
            Self::RepairAbandoned { .. } => "repair.abandoned",
        }
    }

    /// How grave it is.
    #[must_use]
    pub const fn category(&self) -> Category {
        match self {
            Self::VmDiscovered { .. }
            | Self::VmStateChanged { .. }
            | Self::VmTerminated
            | Self::VmRevived { .. }
            | Self::LeaseCreated { .. }
            | Self::LeaseExtended { .. }
            | Self::LeaseEnded { .. }
            | Self::LeaseReleased
            | Self::LeaseEndCancelled { .. }
            | Self::LeaseExempted { .. }
            | Self::LeasePolicyChanged { .. }
            | Self::HealthRecovered
            | Self::RepairStepStarted { .. }
            | Self::RepairStepFinished { .. }
            | Self::RepairSucceeded { .. }
            | Self::BackupStarted { .. }
            | Self::BackupVerified { .. }
            | Self::BackupDeleted { .. }
            | Self::BackupRestored { .. }
            | Self::AlertCleared { .. }
            | Self::ActionDone { .. }
            | Self::LeaseCorrected { .. }
            | Self::ActionStarted { .. }
            | Self::VmReviveStarted { .. }
            | Self::BackupVerifyStarted { .. }
            | Self::ProvisionRequested { .. }
            | Self::Provisioned { .. }
            | Self::Delivered { .. } => Category::Information,
            Self::VmTerminating { .. }
            | Self::VmVanished { .. }
            | Self::LeaseExpiring { .. }
            | Self::LeaseExpired { .. }
            | Self::LeaseExtensionDenied { .. }
            | Self::LeaseHeld { .. }
            | Self::HealthDegraded { .. }
            | Self::HealthMonitoringPaused { .. }
            | Self::RepairStarted { .. }
            | Self::BackupMissed { .. }
            | Self::BackupWindowMissed { .. }
            | Self::RepairAbandoned { .. }
            | Self::ProvisionDenied { .. } => Category::Warning,
            Self::HealthDown { .. }
            | Self::RepairExhausted
            | Self::BackupFailed { .. }
            | Self::AlertRaised { .. }
            | Self::SupervisionExhausted { .. }
            | Self::ActionFailed { .. }
            | Self::VmReviveFailed { .. }
            | Self::BackupVerifyFailed { .. }
            | Self::ProvisionFailed { .. } => Category::Exception,
        }
    }

    /// The data of the event as JSON: the fields of the kind.
    #[must_use]
    pub fn data(&self) -> serde_json::Value {
        let tagged = serde_json::to_value(self).expect("an event is plain data with text keys");
        match tagged {
            serde_json::Value::Object(kind) => {
                kind.into_iter().next().map_or_else(|| serde_json::json!({}), |(_, data)| data)
            }
            // A kind without fields is written as its bare name.
            _ => serde_json::json!({}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_an_event_is_its_fields() {
        let kind = EventKind::HealthDegraded { misses: 2 };
        assert_eq!(kind.data(), serde_json::json!({"misses": 2}));
        assert_eq!(EventKind::VmTerminated.data(), serde_json::json!({}));
        assert_eq!(kind.type_name(), "health.degraded");
    }
}

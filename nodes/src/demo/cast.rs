//! The cast of the demo: what becomes of each VM, and under which policies.

use std::collections::BTreeMap;

use reeve_lifecycle::Policies;
use reeve_lifecycle::policy::{
    BackupPolicy, HealthPolicy, LeasePolicy, OnEnd, Policy, PolicyError, RepairPolicy, RepairStep,
};
use reeve_protocol::Span;

/// What becomes of a VM. Every number of VMs has each role in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Its owner does nothing: it is warned, ends, is backed up and destroyed.
    Forgotten,
    /// Its owner extends once when told.
    Extended,
    /// Its owner extends whenever told, until it is refused.
    Greedy,
    /// Its guest hangs and is cured by a reboot.
    Hung,
    /// It is revived after its end; the new VM is forgotten in its turn.
    Revived,
    /// It is told of the end only when it comes, and its owner answers within the grace.
    Answered,
    /// It is told only at the end, and nobody answers.
    Unanswered,
    /// Its owner destroys it past Reeve.
    Deleted,
    /// Its guest hangs so that only its backup helps.
    Broken,
    /// An outsider tries to extend it, then a delegate does.
    Delegated,
}

const ROLES: [Role; 10] = [
    Role::Forgotten,
    Role::Extended,
    Role::Greedy,
    Role::Hung,
    Role::Revived,
    Role::Answered,
    Role::Unanswered,
    Role::Deleted,
    Role::Broken,
    Role::Delegated,
];

impl Role {
    /// The role of the VM with this number.
    pub(super) const fn of(number: usize) -> Self {
        ROLES[number % ROLES.len()]
    }

    /// The policy that its VM asks for.
    pub(super) const fn policy(self) -> &'static str {
        match self {
            Self::Answered | Self::Unanswered => AT_THE_END,
            Self::Forgotten
            | Self::Extended
            | Self::Greedy
            | Self::Hung
            | Self::Revived
            | Self::Deleted
            | Self::Broken
            | Self::Delegated => BEFORE_THE_END,
        }
    }
}

/// Notice before the end.
pub(super) const BEFORE_THE_END: &str = "before-the-end";
/// Notice at the end, then a grace.
pub(super) const AT_THE_END: &str = "at-the-end";
/// How many extensions both policies allow.
pub(super) const MAX_EXTENSIONS: u32 = 2;

/// How long a lease of the demo runs. More VMs need more time to be backed up.
fn duration(vms: usize) -> Span {
    Span::from_millis(7_000 + u64::try_from(vms).unwrap_or(u64::MAX).saturating_mul(10))
}

/// The policies of the demo: those of a real cloud, with seconds for days.
pub(super) fn policies(vms: usize) -> Result<Policies, PolicyError> {
    let lease = LeasePolicy {
        duration: duration(vms),
        warn_before: vec![Span::from_millis(3_500), Span::from_millis(2_000)],
        grace: Span::ZERO,
        extension: Span::from_secs(4),
        max_extensions: MAX_EXTENSIONS,
        max_total: Span::from_secs(60),
        on_end: OnEnd::BackupAndDelete,
        min_notice: Span::from_secs(1),
        ..LeasePolicy::default()
    };
    let at_the_end = LeasePolicy { warn_before: Vec::new(), grace: Span::from_secs(2), ..lease.clone() };
    let rest = Policy {
        health: HealthPolicy {
            // Three misses last longer than the slowest guest boots: a VM that is starting is not down.
            interval: Span::from_millis(700),
            timeout: Span::from_millis(400),
            ..HealthPolicy::default()
        },
        repair: RepairPolicy {
            ladder: vec![RepairStep::HardReboot, RepairStep::Relaunch],
            boot_wait: Span::from_secs(1),
            boot_wait_max: Span::from_secs(3),
            cooldown: Span::from_millis(500),
            ..RepairPolicy::default()
        },
        backup: BackupPolicy {
            every: Span::from_secs(6),
            window: Span::from_secs(3),
            keep_last: 2,
            daily: 0,
            weekly: 0,
            ..BackupPolicy::default()
        },
        ..Policy::default()
    };
    Policies::new(BTreeMap::from([
        (BEFORE_THE_END.to_owned(), Policy { lease, ..rest.clone() }),
        (AT_THE_END.to_owned(), Policy { lease: at_the_end, ..rest }),
    ]))
}

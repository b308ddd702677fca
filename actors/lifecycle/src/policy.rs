//! Policies: what an operator wants for a class of VMs. Read from `[policy.NAME]`, copied into each VM's record, so
//! that a decision depends on the record, the input and the time alone.

use std::collections::BTreeMap;

use reeve_protocol::observation::VmFacts;
use reeve_protocol::{ProjectId, Span};
use serde::{Deserialize, Serialize};

/// The metadata key by which a VM chooses its policy.
pub const POLICY_KEY: &str = "reeve_policy";

/// What happens when a lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEnd {
    /// Stop, back up, verify, then destroy. The default.
    BackupAndDelete,
    /// Destroy without a backup.
    Delete,
    /// Stop and keep.
    Stop,
    /// Suspend and keep.
    Suspend,
    /// Tell the owner, do nothing.
    Notify,
}

/// From when a VM that is found later counts its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adopt {
    /// From the moment it was found. The default.
    Discovery,
    /// From its launch, but with at least `min_notice` left.
    Launch,
}

/// `[policy.NAME.lease]`. The lease of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeasePolicy {
    /// How long a lease runs. Default `30d`.
    pub duration: Span,
    /// How long before the end notices are sent, at most 8 entries. Default `["7d", "1d"]`.
    pub warn_before: Vec<Span>,
    /// How long after the end an answer is awaited; `0s` acts at once. Default `0s`.
    pub grace: Span,
    /// By how much one extension lengthens the lease at most. Default `30d`.
    pub extension: Span,
    /// How many extensions there may be. Default 3.
    pub max_extensions: u32,
    /// How long the lease may run in all, from its start. Default `180d`.
    pub max_total: Span,
    /// What happens at the end. Default `backup_and_delete`.
    pub on_end: OnEnd,
    /// From when a VM that is found later counts. Default `discovery`.
    pub adopt: Adopt,
    /// The least time between finding a VM and the end of its lease. Default `24h`.
    pub min_notice: Span,
    /// Roles whose bearers in the VM's project may extend beside the owner. Default none.
    pub extend_roles: Vec<String>,
}

impl Default for LeasePolicy {
    fn default() -> Self {
        Self {
            duration: Span::from_days(30),
            warn_before: vec![Span::from_days(7), Span::from_days(1)],
            grace: Span::ZERO,
            extension: Span::from_days(30),
            max_extensions: 3,
            max_total: Span::from_days(180),
            on_end: OnEnd::BackupAndDelete,
            adopt: Adopt::Discovery,
            min_notice: Span::from_hours(24),
            extend_roles: Vec::new(),
        }
    }
}

/// Which probe watches a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// The cloud's own view: is the VM running on a live host? Of VMs that are up it is seen by one listing an interval, so
    /// that their first miss may come up to an interval later; whoever is not known to be up is looked at by itself.
    Cloud,
    /// The agent inside the guest answers.
    GuestAgent,
}

/// `[policy.NAME.health]`. How a VM is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthPolicy {
    /// Whether the VM is watched at all. Default true.
    pub enabled: bool,
    /// The time between two probes. Default `30s`.
    pub interval: Span,
    /// How long an answer is awaited. Default `5s`.
    pub timeout: Span,
    /// How many misses in a row make it down. Default 3.
    pub failures: u32,
    /// How many answers in a row make it up again. Default 2.
    pub successes: u32,
    /// What is asked. Default `guest_agent`.
    pub probe: ProbeKind,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Span::from_secs(30),
            timeout: Span::from_secs(5),
            failures: 3,
            successes: 2,
            probe: ProbeKind::GuestAgent,
        }
    }
}

/// A step of repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepairStep {
    /// Cut the power and start again.
    HardReboot,
    /// Put the VM back to its latest verified backup, in place.
    Relaunch,
}

impl RepairStep {
    /// The name in configuration and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HardReboot => "hard_reboot",
            Self::Relaunch => "relaunch",
        }
    }
}

/// `[policy.NAME.repair]`. How a VM is repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepairPolicy {
    /// Whether Reeve repairs by itself. Default true.
    pub enabled: bool,
    /// The steps, tried in this order, at most 8. Default `["hard_reboot"]`.
    pub ladder: Vec<RepairStep>,
    /// How long a boot takes until the first retest, before anything is learnt. Default `60s`.
    pub boot_wait: Span,
    /// The longest that a boot is waited for. Default `10m`.
    pub boot_wait_max: Span,
    /// The time between two episodes. Default `10m`.
    pub cooldown: Span,
    /// How many episodes a day. Default 5.
    pub max_per_day: u32,
}

impl Default for RepairPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            ladder: vec![RepairStep::HardReboot],
            boot_wait: Span::from_secs(60),
            boot_wait_max: Span::from_secs(600),
            cooldown: Span::from_secs(600),
            max_per_day: 5,
        }
    }
}

/// `[policy.NAME.backup]`. How a VM is backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupPolicy {
    /// The time between two backups; `0s` makes none but the final one. Default `24h`.
    pub every: Span,
    /// The window over which a fleet spreads: a run that fails is retried within it, then given up. Default `4h`.
    pub window: Span,
    /// How many of the latest are kept. Default 3.
    pub keep_last: u32,
    /// How many days keep their last backup. Default 7.
    pub daily: u32,
    /// How many weeks (of 7 days since the epoch's Monday) keep their last backup. Default 4.
    pub weekly: u32,
    /// How many months (of 30 days) keep their last backup. Default 0.
    pub monthly: u32,
    /// How many manual backups are kept. Default 5.
    pub keep_manual: u32,
    /// How long a final backup is kept. Default `90d`.
    pub keep_final: Span,
    /// How long after it was verified a backup is read back again, and again so long after that; `0s` never, the default:
    /// reading costs as much traffic with the vault as storing did.
    pub reverify: Span,
}

impl Default for BackupPolicy {
    fn default() -> Self {
        Self {
            every: Span::from_hours(24),
            window: Span::from_hours(4),
            keep_last: 3,
            daily: 7,
            weekly: 4,
            monthly: 0,
            keep_manual: 5,
            keep_final: Span::from_days(90),
            reverify: Span::ZERO,
        }
    }
}

/// `[policy.NAME]`. What is wanted for a class of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Its lease; `exempt = true` gives none.
    pub lease: LeasePolicy,
    /// Whether its VMs have no lease at all. Default false.
    pub exempt: bool,
    /// How they are watched.
    pub health: HealthPolicy,
    /// How they are repaired.
    pub repair: RepairPolicy,
    /// How they are backed up.
    pub backup: BackupPolicy,
    /// Projects whose VMs fall under this policy unless they choose another.
    pub projects: Vec<String>,
}

/// Why a policy makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy {policy}: {key} {why}")]
pub struct PolicyError {
    /// Which policy.
    pub policy: String,
    /// Which key.
    pub key: &'static str,
    /// What is wrong, with what was expected.
    pub why: String,
}

impl Policy {
    /// Checks that the policy makes sense.
    ///
    /// # Errors
    /// [`PolicyError`] names the key and what was expected.
    pub fn check(&self, name: &str) -> Result<(), PolicyError> {
        let wrong = |key, why: String| Err(PolicyError { policy: name.to_owned(), key, why });
        let lease = &self.lease;
        if lease.duration.is_zero() {
            return wrong("lease.duration", "is 0s, expected more".into());
        }
        if lease.duration > lease.max_total {
            let why = format!("is {}, longer than the cap lease.max_total = {}", lease.duration, lease.max_total);
            return wrong("lease.duration", why);
        }
        if lease.warn_before.len() > 8 || lease.warn_before.iter().any(|warn| warn.is_zero()) {
            return wrong("lease.warn_before", "holds more than 8 entries or one of 0s".into());
        }
        if self.health.interval.is_zero() || self.health.timeout.is_zero() {
            return wrong("health.interval", "and health.timeout must be more than 0s".into());
        }
        if self.health.failures == 0 || self.health.successes == 0 {
            return wrong("health.failures", "and health.successes must be at least 1".into());
        }
        if self.repair.ladder.len() > 8 {
            return wrong("repair.ladder", format!("has {} steps, at most 8 are allowed", self.repair.ladder.len()));
        }
        if self.repair.boot_wait > self.repair.boot_wait_max {
            return wrong("repair.boot_wait", "is longer than repair.boot_wait_max".into());
        }
        if self.backup.keep_last == 0 {
            return wrong("backup.keep_last", "is 0, expected at least 1".into());
        }
        if self.backup.window > self.backup.every && !self.backup.every.is_zero() {
            return wrong("backup.window", "is longer than backup.every".into());
        }
        Ok(())
    }
}

/// A policy and its name, as a record holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPolicy {
    /// `[policy.NAME]`.
    pub name: String,
    /// The terms.
    pub terms: Policy,
}

/// Every configured policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    named: BTreeMap<String, Policy>,
    by_project: BTreeMap<ProjectId, String>,
}

/// The name of the policy that applies where nothing else is said.
pub const DEFAULT_POLICY: &str = "default";

/// Which policy rules a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The policy.
    pub policy: NamedPolicy,
    /// The policy that the VM asked for, if there is none of that name.
    pub unknown: Option<String>,
}

impl Policies {
    /// Takes the configured policies; `default` is added if it is missing.
    ///
    /// # Errors
    /// [`PolicyError`] of the first policy that makes no sense, or a project claimed by two.
    pub fn new(mut named: BTreeMap<String, Policy>) -> Result<Self, PolicyError> {
        named.entry(DEFAULT_POLICY.to_owned()).or_default();
        let mut by_project = BTreeMap::new();
        for (name, policy) in &named {
            policy.check(name)?;
            for project in &policy.projects {
                let wrong = |why: String| PolicyError { policy: name.clone(), key: "projects", why };
                let id = ProjectId::new(project.as_str()).map_err(|error| wrong(error.to_string()))?;
                if let Some(other) = by_project.insert(id, name.clone()) {
                    return Err(wrong(format!("claims project {project:?}, as policy {other} does")));
                }
            }
        }
        Ok(Self { named, by_project })
    }

    /// The policy of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<NamedPolicy> {
        self.named.get(name).map(|terms| NamedPolicy { name: name.to_owned(), terms: terms.clone() })
    }

    /// What is configured under the name of this policy now, if it is another.
    #[must_use]
    pub fn newer(&self, than: &NamedPolicy) -> Option<NamedPolicy> {
        let terms = self.named.get(&than.name).filter(|terms| **terms != than.terms)?;
        Some(NamedPolicy { name: than.name.clone(), terms: terms.clone() })
    }

    /// The policy of a VM: by its metadata, else by its project, else `default`.
    #[must_use]
    pub fn resolve(&self, facts: &VmFacts) -> Resolved {
        let wanted = facts.metadata.get(POLICY_KEY);
        let by_name = wanted.and_then(|name| self.get(name));
        let unknown = if by_name.is_none() { wanted.cloned() } else { None };
        let by_project = || self.get(self.by_project.get(facts.project.as_ref()?)?);
        let policy = by_name.or_else(by_project).or_else(|| self.get(DEFAULT_POLICY));
        Resolved { policy: policy.expect("`new` adds the default policy"), unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_newer_only_if_its_name_stands_for_other_terms_now() {
        let policies = Policies::new(BTreeMap::new()).unwrap();
        let policy = policies.get(DEFAULT_POLICY).unwrap();
        assert_eq!(policies.newer(&policy), None);
        let mut older = policy.clone();
        older.terms.exempt = true;
        assert_eq!(policies.newer(&older), Some(policy));
        assert_eq!(policies.newer(&NamedPolicy { name: "dropped".to_owned(), ..older }), None);
    }

    #[test]
    fn a_lease_longer_than_the_cap_is_refused() {
        let lease = LeasePolicy { duration: Span::from_days(400), ..LeasePolicy::default() };
        let error = Policy { lease, ..Policy::default() }.check("lab").unwrap_err().to_string();
        assert!(error.contains("lab") && error.contains("lease.duration") && error.contains("max_total"), "{error}");
    }
}

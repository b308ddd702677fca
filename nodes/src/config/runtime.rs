//! `[runtime]`: what an operator may set of how the node works. The defaults suit thousands of VMs.

use std::time::Duration;

use reeve_protocol::Span;
use reeve_runtime::{Caps, ClockLimits, RuntimeConfig, Timeouts};
use serde::{Deserialize, Serialize};

/// `[runtime]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSection {
    /// Threads that the VMs' actors run on; 0 takes one per core. Default 0.
    pub arbiters: usize,
    /// The time between two complete listings of a cloud, at least `1s`. Default `5m`.
    pub reconcile_every: Span,
    /// The time between two questions for what changed in a cloud, at least `1s`. Default `30s`.
    pub changes_every: Span,
    /// How many listings in a row must fail until the cloud counts as unreadable, at least 1. Default 3.
    pub unreadable_after: u32,
    /// How long after a takeover what a predecessor left open waits before it changes the world: its last call may still
    /// be on its way. Default: with `[cluster]` `timeouts.call` and 5 s, at least `timeouts.call`; else `0s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Span>,
    /// How many VMs a second go on with what they missed after a start or a takeover; 0 sets no limit. Default 500.
    pub wakeups_per_second: u32,
    /// How long the world is waited for.
    pub timeouts: TimeoutsSection,
    /// How much is done at once.
    pub caps: CapsSection,
    /// When the wall clock is trusted.
    pub clock: ClockSection,
}

/// `[runtime.timeouts]`. How long the world is waited for; each more than `0s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsSection {
    /// Until one call to a cloud, a vault or a notifier has answered. Default `30s`.
    pub call: Span,
    /// Until what was begun in the cloud is seen (off, on, gone). Default `2m`.
    pub settle: Span,
    /// Until a snapshot is ready. Default `30m`.
    pub snapshot: Span,
    /// Until a disk is copied, read back or written to a new VM. Default `6h`.
    pub transfer: Span,
    /// Between two looks at something that was begun. Default `1s`.
    pub look_every: Span,
}

/// `[runtime.caps]`. How much is done at once; each at least 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapsSection {
    /// Backups of this node, from their inventory until they are read back. Default 8.
    pub backups: usize,
    /// Of these, backups in one cloud, until all disks are stored. Default 4.
    pub backups_per_cloud: usize,
    /// Of these, backups on one host, until all snapshots are made. Default 2.
    pub backups_per_host: usize,
    /// Hard reboots on one host. Default 1.
    pub repairs_per_host: usize,
    /// Hard reboots in one cloud. Default 16.
    pub repairs_per_cloud: usize,
    /// Everything else that talks to a cloud or to people. Default 32.
    pub actions: usize,
    /// VMs whose events are published at once. Default 64.
    pub publishing: usize,
}

/// `[runtime.clock]`. When the wall clock is trusted; each more than `0s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClockSection {
    /// A step larger than this makes every timer look again. Default `2s`.
    pub step: Span,
    /// A forward step larger than this holds every lease end. Default `10m`.
    pub doubt: Span,
    /// How long the clock must go evenly until it is believed again. Default `1m`.
    pub stable: Span,
}

impl Default for RuntimeSection {
    fn default() -> Self {
        let RuntimeConfig {
            arbiters,
            reconcile_every,
            changes_every,
            unreadable_after,
            wakeups_per_second,
            timeouts,
            caps,
            clock,
            ..
        } = RuntimeConfig::default();
        Self {
            arbiters,
            reconcile_every,
            changes_every,
            unreadable_after,
            quarantine: None,
            wakeups_per_second,
            timeouts: timeouts.into(),
            caps: caps.into(),
            clock: clock.into(),
        }
    }
}

impl Default for TimeoutsSection {
    fn default() -> Self {
        Timeouts::default().into()
    }
}

impl Default for CapsSection {
    fn default() -> Self {
        Caps::default().into()
    }
}

impl Default for ClockSection {
    fn default() -> Self {
        ClockLimits::default().into()
    }
}

impl From<Timeouts> for TimeoutsSection {
    fn from(timeouts: Timeouts) -> Self {
        let Timeouts { call, settle, snapshot, transfer, look_every } = timeouts;
        let [call, settle, snapshot, transfer, look_every] =
            [call, settle, snapshot, transfer, look_every].map(Span::from);
        Self { call, settle, snapshot, transfer, look_every }
    }
}

impl From<Caps> for CapsSection {
    fn from(caps: Caps) -> Self {
        let Caps {
            backups,
            backups_per_cloud,
            backups_per_host,
            repairs_per_host,
            repairs_per_cloud,
            actions,
            publishing,
        } = caps;
        Self { backups, backups_per_cloud, backups_per_host, repairs_per_host, repairs_per_cloud, actions, publishing }
    }
}

impl From<ClockLimits> for ClockSection {
    fn from(limits: ClockLimits) -> Self {
        let [step, doubt, stable] = [limits.step, limits.doubt, limits.stable].map(Span::from);
        Self { step, doubt, stable }
    }
}

impl RuntimeSection {
    /// As the runtime takes it.
    #[must_use]
    pub fn to_config(&self) -> RuntimeConfig {
        let TimeoutsSection { call, settle, snapshot, transfer, look_every } = &self.timeouts;
        let [call, settle, snapshot, transfer, look_every]: [Duration; 5] =
            [call, settle, snapshot, transfer, look_every].map(|span| span.duration());
        let CapsSection {
            backups,
            backups_per_cloud,
            backups_per_host,
            repairs_per_host,
            repairs_per_cloud,
            actions,
            publishing,
        } = self.caps;
        let [step, doubt, stable] = [self.clock.step, self.clock.doubt, self.clock.stable].map(Span::duration);
        RuntimeConfig {
            arbiters: self.arbiters,
            reconcile_every: self.reconcile_every,
            changes_every: self.changes_every,
            unreadable_after: self.unreadable_after,
            quarantine: self.quarantine.unwrap_or_default().duration(),
            wakeups_per_second: self.wakeups_per_second,
            timeouts: Timeouts { call, settle, snapshot, transfer, look_every },
            caps: Caps {
                backups,
                backups_per_cloud,
                backups_per_host,
                repairs_per_host,
                repairs_per_cloud,
                actions,
                publishing,
            },
            clock: ClockLimits { step, doubt, stable },
            ..RuntimeConfig::default()
        }
    }

    /// The keys that make no sense, and what was expected.
    pub(super) fn wrong(&self) -> Vec<(&'static str, &'static str)> {
        let (timeouts, caps, clock) = (&self.timeouts, &self.caps, &self.clock);
        let some = "expected more than 0s";
        let one = "is 0, expected at least 1";
        [
            ("arbiters", self.arbiters > 1024, "expected at most 1024"),
            ("reconcile_every", self.reconcile_every < Span::from_secs(1), "expected at least 1s"),
            ("changes_every", self.changes_every < Span::from_secs(1), "expected at least 1s"),
            ("unreadable_after", self.unreadable_after == 0, one),
            ("timeouts.call", timeouts.call.is_zero(), some),
            ("timeouts.settle", timeouts.settle.is_zero(), some),
            ("timeouts.snapshot", timeouts.snapshot.is_zero(), some),
            ("timeouts.transfer", timeouts.transfer.is_zero(), some),
            ("timeouts.look_every", timeouts.look_every.is_zero(), some),
            ("caps.backups", caps.backups == 0, one),
            ("caps.backups_per_cloud", caps.backups_per_cloud == 0, one),
            ("caps.backups_per_host", caps.backups_per_host == 0, one),
            ("caps.repairs_per_host", caps.repairs_per_host == 0, one),
            ("caps.repairs_per_cloud", caps.repairs_per_cloud == 0, one),
            ("caps.actions", caps.actions == 0, one),
            ("caps.publishing", caps.publishing == 0, one),
            ("clock.step", clock.step.is_zero(), some),
            ("clock.doubt", clock.doubt.is_zero(), some),
            ("clock.stable", clock.stable.is_zero(), some),
        ]
        .into_iter()
        .filter_map(|(key, wrong, expected)| wrong.then_some((key, expected)))
        .collect()
    }
}

//! What an operator may set of the runtime, with the defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use reeve_protocol::openstack::Family;
use reeve_protocol::rule::Rule;
use reeve_protocol::{CloudName, NodeId, Span};

use crate::admission::ProvisionRules;

/// A node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `[node] id`.
    pub node: NodeId,
    /// `[cluster] name`, or `standalone`.
    pub cluster: String,
    /// How the actors run.
    pub runtime: RuntimeConfig,
}

/// Which of a cloud's two families of notifications is read: with both of them on the wire, every fact comes twice
/// under different ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notifications {
    /// `instance.*` alone.
    Versioned,
    /// `compute.instance.*` alone.
    Legacy,
    /// Whatever comes. The default.
    #[default]
    Both,
}

impl Notifications {
    /// Whether notifications of this family are read.
    #[must_use]
    pub const fn reads(self, family: Family) -> bool {
        match (self, family) {
            (Self::Both, _) | (Self::Versioned, Family::Versioned) | (Self::Legacy, Family::Legacy) => true,
            (Self::Versioned, Family::Legacy) | (Self::Legacy, Family::Versioned) => false,
        }
    }
}

/// How long the world is waited for. Every attempt of an effect ends within one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until one call to a cloud, a vault or a notifier has answered. Default 30 s.
    pub call: Duration,
    /// Until what was begun in the cloud is seen (off, on, gone). Default 120 s.
    pub settle: Duration,
    /// Until a snapshot is ready. Default 30 min.
    pub snapshot: Duration,
    /// Until a disk is copied, read back or written to a new VM. Default 6 h.
    pub transfer: Duration,
    /// Between two looks at something that was begun. Default 1 s.
    pub look_every: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(30),
            settle: Duration::from_secs(120),
            snapshot: Duration::from_secs(30 * 60),
            transfer: Duration::from_secs(6 * 3600),
            look_every: Duration::from_secs(1),
        }
    }
}

/// How much is done at once. An effect over its cap waits; the record keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Backups of this node, from their inventory until they are read back. Default 8.
    pub backups: usize,
    /// Of these, backups in one cloud, until all disks are stored. Default 4.
    pub backups_per_cloud: usize,
    /// Of these, backups on one host, until all snapshots are made. Default 2.
    pub backups_per_host: usize,
    /// Hard reboots on one host: a host that comes back must not be hit by all its VMs at once. Default 1.
    pub repairs_per_host: usize,
    /// Hard reboots in one cloud. Default 16.
    pub repairs_per_cloud: usize,
    /// Everything else that talks to a cloud or to people. Default 32.
    pub actions: usize,
    /// VMs whose events are published at once. Default 64.
    pub publishing: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            backups: 8,
            backups_per_cloud: 4,
            backups_per_host: 2,
            repairs_per_host: 1,
            repairs_per_cloud: 16,
            actions: 32,
            publishing: 64,
        }
    }
}

/// When the wall clock is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLimits {
    /// A step larger than this makes every timer look again. Default 2 s.
    pub step: Duration,
    /// A forward step larger than this holds every lease end. Default 10 min.
    pub doubt: Duration,
    /// How long the clock must go evenly until it is believed again. Default 60 s.
    pub stable: Duration,
}

impl Default for ClockLimits {
    fn default() -> Self {
        Self { step: Duration::from_secs(2), doubt: Duration::from_secs(600), stable: Duration::from_secs(60) }
    }
}

/// How the actors run.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// `cluster.shards`. Never changes for a store. Default 64.
    pub shards: u16,
    /// Arbiter threads; 0 takes one per core. Default 0.
    pub arbiters: usize,
    /// Unsettled messages per consumer: the bound of what is in flight. Default 1,024.
    pub prefetch: u16,
    /// The time between two complete listings of a cloud. Default 5 min.
    pub reconcile_every: Span,
    /// The time between two questions for what changed in a cloud. Default 30 s.
    pub changes_every: Span,
    /// How many listings in a row must fail until the cloud counts as unreadable. Default 3.
    pub unreadable_after: u32,
    /// How long the world is waited for.
    pub timeouts: Timeouts,
    /// How much is done at once.
    pub caps: Caps,
    /// When the wall clock is trusted.
    pub clock: ClockLimits,
    /// How long after a claim the effects that a predecessor left wait before they change the world: its last call may
    /// still be on its way. In a cluster at least `timeouts.call`; zero (the default) where nobody else acts.
    pub quarantine: Duration,
    /// How many VMs a second go on with what they missed after a start or a takeover; 0 sets no limit. Default 500.
    pub wakeups_per_second: u32,
    /// Which notifications are read of each cloud; both families of a cloud that is not named.
    pub notifications: BTreeMap<CloudName, Notifications>,
    /// Who may ask for VMs, and for which.
    pub provision: ProvisionRules,
    /// What is done because of events. None by default.
    pub rules: Vec<Rule>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            shards: 64,
            arbiters: 0,
            prefetch: 1_024,
            reconcile_every: Span::from_secs(300),
            changes_every: Span::from_secs(30),
            unreadable_after: 3,
            timeouts: Timeouts::default(),
            caps: Caps::default(),
            clock: ClockLimits::default(),
            quarantine: Duration::ZERO,
            wakeups_per_second: 500,
            notifications: BTreeMap::new(),
            provision: ProvisionRules::default(),
            rules: Vec::new(),
        }
    }
}

impl RuntimeConfig {
    /// The number of arbiter threads to start.
    #[must_use]
    pub fn arbiter_count(&self) -> usize {
        match self.arbiters {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            given => given,
        }
    }
}

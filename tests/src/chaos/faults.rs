//! What goes wrong, when, where and for how long: drawn from the seed alone.
//!
//! Two lanes run beside each other. The first meets one node at a time, so that at most one is down or cut off. The second
//! meets what all share (brokers, etcd members, disks) and clocks. Within a lane a fault is healed before the next begins.
//! Each lane takes its kinds in rounds: every kind comes once, in a drawn order, before any comes again.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL to a node, started again after a while.
    KillNode,
    /// The same to the node that leads.
    KillLeader,
    /// SIGSTOP to a node for longer than the lease TTL, then SIGCONT.
    StopNode,
    /// A node does not reach etcd.
    CutEtcd,
    /// A node does not reach RabbitMQ.
    CutRabbit,
    /// A node is not reached by its peers.
    CutPeers,
    /// Every answer of etcd reaches a node late.
    SlowEtcd,
    /// A RabbitMQ member restarts.
    RestartBroker,
    /// An etcd member restarts.
    RestartEtcd,
    /// Another etcd member leads.
    MoveEtcdLeader,
    /// A node's wall clock is an hour ahead for a while.
    ClockAhead,
    /// A node's wall clock is an hour behind for a while.
    ClockBehind,
    /// The brokers' disk is full: publishers are blocked.
    BrokerDiskFull,
    /// The vault's disk is full.
    VaultFull,
    /// No etcd member runs.
    EtcdOutage,
}

impl FaultKind {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KillNode => "kill_node",
            Self::KillLeader => "kill_leader",
            Self::StopNode => "stop_node",
            Self::CutEtcd => "cut_etcd",
            Self::CutRabbit => "cut_rabbit",
            Self::CutPeers => "cut_peers",
            Self::SlowEtcd => "slow_etcd",
            Self::RestartBroker => "restart_broker",
            Self::RestartEtcd => "restart_etcd",
            Self::MoveEtcdLeader => "move_etcd_leader",
            Self::ClockAhead => "clock_ahead",
            Self::ClockBehind => "clock_behind",
            Self::BrokerDiskFull => "broker_disk_full",
            Self::VaultFull => "vault_full",
            Self::EtcdOutage => "etcd_outage",
        }
    }

    /// How long it lasts, in milliseconds, from and to; the TTL decides for those that are about it.
    fn lasts(self, ttl: Duration) -> (u64, u64) {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 4);
        match self {
            Self::KillNode | Self::KillLeader => (200, ttl * 2),
            // Longer than the TTL, so that somebody else owns its shards when it wakes.
            Self::StopNode => (ttl + 2_000, ttl * 2 + 2_000),
            // Some heal before the lease is over, most after.
            Self::CutEtcd => (ttl / 2, ttl * 2 + 2_000),
            Self::CutRabbit | Self::CutPeers | Self::SlowEtcd => (2_000, 10_000),
            Self::RestartBroker | Self::RestartEtcd | Self::MoveEtcdLeader => (500, 3_000),
            Self::ClockAhead | Self::ClockBehind => (4_000, 15_000),
            Self::BrokerDiskFull | Self::VaultFull => (3_000, 8_000),
            Self::EtcdOutage => (20_000, 60_000),
        }
    }
}

/// Which faults a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// All that heal within seconds.
    Usual,
    /// All, outages of a minute among them.
    Long,
    /// Those that make a stale owner, as often as possible.
    StaleOwner,
}

/// A lane of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// One node at a time.
    Nodes,
    /// What all share, and the clocks.
    World,
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// How long after the one before was healed.
    pub after: Duration,
    /// What.
    pub kind: FaultKind,
    /// Which node or member, modulo how many there are.
    pub target: usize,
    /// Until it is healed.
    pub lasts: Duration,
}

/// The faults of one lane, without an end.
#[derive(Debug)]
pub struct Schedule {
    random: ChaCha8Rng,
    kinds: Vec<FaultKind>,
    round: Vec<FaultKind>,
    gap_ms: (u64, u64),
    ttl: Duration,
}

impl Schedule {
    /// The faults of a lane for this seed.
    #[must_use]
    pub fn new(seed: u64, lane: Lane, mix: Mix, ttl: Duration) -> Self {
        use FaultKind as F;
        let (kinds, gap_ms) = match (lane, mix) {
            (Lane::Nodes, Mix::Usual | Mix::Long) => (
                vec![F::KillNode, F::KillLeader, F::StopNode, F::CutEtcd, F::CutRabbit, F::CutPeers, F::SlowEtcd],
                (1_000, 4_000),
            ),
            (Lane::Nodes, Mix::StaleOwner) => (vec![F::StopNode, F::CutEtcd, F::StopNode], (2_000, 4_000)),
            (Lane::World, Mix::Usual) => (usual_world(), (2_000, 6_000)),
            (Lane::World, Mix::Long) => {
                let mut kinds = usual_world();
                kinds.push(F::EtcdOutage);
                (kinds, (2_000, 6_000))
            }
            (Lane::World, Mix::StaleOwner) => (vec![F::MoveEtcdLeader], (5_000, 10_000)),
        };
        let stream = match lane {
            Lane::Nodes => 1,
            Lane::World => 2,
        };
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(stream);
        Self { random, kinds, round: Vec::new(), gap_ms, ttl }
    }

    /// The next fault.
    pub fn draw(&mut self) -> Planned {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            self.round.shuffle(&mut self.random);
        }
        let kind = self.round.pop().expect("every lane has a kind");
        let (from, to) = kind.lasts(self.ttl);
        Planned {
            after: Duration::from_millis(self.random.random_range(self.gap_ms.0..=self.gap_ms.1)),
            kind,
            target: self.random.random_range(0..1_000),
            lasts: Duration::from_millis(self.random.random_range(from..=to)),
        }
    }
}

fn usual_world() -> Vec<FaultKind> {
    use FaultKind as F;
    vec![
        F::RestartBroker,
        F::RestartEtcd,
        F::MoveEtcdLeader,
        F::ClockAhead,
        F::ClockBehind,
        F::BrokerDiskFull,
        F::VaultFull,
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn first(seed: u64, lane: Lane, mix: Mix, count: usize) -> Vec<Planned> {
        let mut schedule = Schedule::new(seed, lane, mix, TTL);
        (0..count).map(|_| schedule.draw()).collect()
    }

    #[test]
    fn the_seed_decides_everything() {
        assert_eq!(first(7, Lane::Nodes, Mix::Usual, 50), first(7, Lane::Nodes, Mix::Usual, 50));
        assert_ne!(first(7, Lane::Nodes, Mix::Usual, 50), first(8, Lane::Nodes, Mix::Usual, 50));
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for seed in 0..20 {
            let kinds: BTreeSet<FaultKind> =
                first(seed, Lane::World, Mix::Long, 8).iter().map(|planned| planned.kind).collect();
            assert_eq!(kinds.len(), 8);
        }
    }

    #[test]
    fn a_stopped_node_sleeps_longer_than_its_lease() {
        for planned in first(3, Lane::Nodes, Mix::StaleOwner, 100) {
            assert!(planned.kind != FaultKind::StopNode || planned.lasts > TTL, "{planned:?}");
        }
    }
}

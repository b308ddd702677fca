//! How many shards move, by the planner of the product: nodes join, die, come back, drain and are restarted one after
//! the other, and every plan that the leader would write is made.

use std::collections::BTreeMap;
use std::time::Duration;

use reeve_cluster::shard_map::{Candidate, Damping, Plan, plan};
use reeve_protocol::{NodeId, Timestamp};

/// What one change of the nodes brings about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wave {
    /// Shards that get another owner.
    pub(super) moved: usize,
    /// The most that one node gets.
    pub(super) gained: usize,
    /// The most that a node has afterwards.
    pub(super) largest: usize,
}

impl Wave {
    fn worst(self, other: Self) -> Self {
        Self {
            moved: self.moved.max(other.moved),
            gained: self.gained.max(other.gained),
            largest: self.largest.max(other.largest),
        }
    }
}

/// A restart of every node, one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rolling {
    /// Shards that got another owner, all together.
    pub(super) moved: usize,
    /// The most that one plan moved.
    pub(super) at_once: usize,
    /// The most that a node had meanwhile.
    pub(super) largest: usize,
    /// Plans that moved something.
    pub(super) plans: usize,
}

/// What becomes of a cluster with so many shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) shards: u16,
    /// Shards of the node that has most, and of the one that has fewest, once all have settled.
    pub(super) largest: usize,
    pub(super) smallest: usize,
    /// All nodes start together.
    pub(super) cold: Wave,
    /// The worst node to lose.
    pub(super) death: Wave,
    /// It comes back.
    pub(super) back: Wave,
    /// The worst node to drain.
    pub(super) drain: Wave,
    /// Each node drains, restarts and has its share again before the next drains.
    pub(super) patient: Rolling,
    /// Each node drains as soon as the one before is back, before that one is given shards.
    pub(super) hasty: Rolling,
}

impl Moves {
    /// Plays it.
    pub(super) fn simulate(shards: u16, nodes: u16, ttl: Duration) -> Self {
        let mut settled = Cluster::new(shards, ttl);
        let all: Vec<NodeId> = (1..=nodes).map(node).collect();
        all.iter().for_each(|id| settled.join(id));
        let cold = settled.look();
        settled.settle();
        let (mut death, mut back, mut drain) = (Wave::default(), Wave::default(), Wave::default());
        for id in &all {
            let mut dying = settled.clone();
            dying.members.remove(id);
            death = death.worst(dying.look());
            dying.join(id);
            back = back.worst(dying.settle());
            let mut draining = settled.clone();
            draining.drain(id);
            drain = drain.worst(draining.look());
        }
        let (patient, hasty) = (restart_all(&settled, &all, Pace::Patient), restart_all(&settled, &all, Pace::Hasty));
        let held = settled.held();
        let (largest, smallest) = (held.values().max(), held.values().min());
        Self {
            shards,
            largest: largest.copied().unwrap_or(0),
            smallest: smallest.copied().unwrap_or(0),
            cold,
            death,
            back,
            drain,
            patient,
            hasty,
        }
    }

    /// The most that a node has while any one other is away.
    pub(super) fn most(&self) -> usize {
        self.largest.max(self.death.largest).max(self.drain.largest).max(self.patient.largest)
    }
}

/// When the next node is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Once the one before has its share again.
    Patient,
    /// Once the one before is a member again.
    Hasty,
}

fn restart_all(settled: &Cluster, nodes: &[NodeId], pace: Pace) -> Rolling {
    let mut cluster = settled.clone();
    let mut rolling = Rolling::default();
    let mut count = |wave: Wave| {
        rolling.moved += wave.moved;
        rolling.at_once = rolling.at_once.max(wave.moved);
        rolling.largest = rolling.largest.max(wave.largest);
        rolling.plans += usize::from(wave.moved > 0);
    };
    for id in nodes {
        cluster.drain(id);
        count(cluster.look());
        cluster.members.remove(id);
        count(cluster.look());
        cluster.join(id);
        count(match pace {
            Pace::Patient => cluster.settle(),
            Pace::Hasty => cluster.look(),
        });
    }
    count(cluster.settle());
    rolling
}

/// What the leader knows.
#[derive(Debug, Clone)]
struct Cluster {
    plan: Plan,
    members: BTreeMap<NodeId, Candidate>,
    damping: Damping,
    now: Timestamp,
    incarnations: u64,
}

impl Cluster {
    fn new(shards: u16, ttl: Duration) -> Self {
        Self {
            plan: Plan::empty(shards),
            members: BTreeMap::new(),
            damping: Damping::of_ttl(ttl),
            now: Timestamp::from_millis(1_800_000_000_000),
            incarnations: 0,
        }
    }

    fn join(&mut self, id: &NodeId) {
        self.incarnations += 1;
        let member = Candidate { id: id.clone(), weight: 1.0, draining: false, incarnation: self.incarnations };
        self.members.insert(id.clone(), member);
    }

    fn drain(&mut self, id: &NodeId) {
        if let Some(member) = self.members.get_mut(id) {
            member.draining = true;
        }
    }

    fn held(&self) -> BTreeMap<&NodeId, usize> {
        let mut held: BTreeMap<&NodeId, usize> = self.members.keys().map(|id| (id, 0)).collect();
        for owner in self.plan.wanted.iter().flatten() {
            *held.entry(owner).or_default() += 1;
        }
        held
    }

    /// Plans, as a leader does whenever something has changed.
    fn look(&mut self) -> Wave {
        let before = self.plan.clone();
        self.replan();
        self.since(&before)
    }

    /// Plans until nothing changes by itself any more.
    fn settle(&mut self) -> Wave {
        let before = self.plan.clone();
        self.replan();
        while let Some(at) = self.plan.next_change(self.now, &self.damping) {
            self.now = at;
            self.replan();
        }
        self.since(&before)
    }

    fn replan(&mut self) {
        let members: Vec<Candidate> = self.members.values().cloned().collect();
        self.plan = plan(&self.plan, &members, self.now, &self.damping);
    }

    fn since(&self, before: &Plan) -> Wave {
        let mut gained: BTreeMap<&NodeId, usize> = BTreeMap::new();
        let changed = before.wanted.iter().zip(&self.plan.wanted).filter(|(from, to)| from != to);
        changed.filter_map(|(_, to)| to.as_ref()).for_each(|to| *gained.entry(to).or_default() += 1);
        Wave {
            moved: gained.values().sum(),
            gained: gained.values().max().copied().unwrap_or(0),
            largest: self.held().values().max().copied().unwrap_or(0),
        }
    }
}

fn node(number: u16) -> NodeId {
    NodeId::new(format!("control-{number:02}")).expect("a short plain word is a node id")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    #[test]
    fn two_nodes_share_and_each_takes_all_when_the_other_dies() {
        let moves = Moves::simulate(64, 2, TTL);
        assert_eq!((moves.largest, moves.smallest), (32, 32));
        assert_eq!(moves.cold, Wave { moved: 64, gained: 32, largest: 32 });
        assert_eq!(moves.death, Wave { moved: 32, gained: 32, largest: 64 });
        assert_eq!(moves.back, Wave { moved: 32, gained: 32, largest: 32 });
        assert_eq!(moves.drain, Wave { moved: 32, gained: 32, largest: 64 });
        // There and back, for both.
        assert_eq!((moves.patient.moved, moves.patient.at_once, moves.patient.largest), (128, 32, 64));
    }

    #[test]
    fn only_the_shards_of_the_node_that_dies_move() {
        for shards in [64, 256, 1024] {
            let moves = Moves::simulate(shards, 20, TTL);
            let fair = usize::from(shards).div_ceil(20);
            assert_eq!(moves.largest, fair);
            assert!(moves.largest - moves.smallest <= 1, "{moves:?}");
            assert_eq!((moves.death.moved, moves.drain.moved), (fair, fair), "{moves:?}");
            assert!(moves.death.gained <= fair.div_ceil(19) + 1, "{moves:?}");
            assert!(moves.back.moved <= fair, "{moves:?}");
            assert!(moves.patient.moved <= 2 * 20 * fair, "{moves:?}");
        }
    }

    #[test]
    fn more_shards_are_finer_shares() {
        let over = |shards| Moves::simulate(shards, 20, TTL).most() as f64 / f64::from(shards);
        assert!(over(64) >= over(256) && over(256) >= over(1024));
    }
}

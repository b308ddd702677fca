//! The wanted owner of each shard.
//!
//! ```text
//!           joins                 a member for `settle`, or nobody better
//! (absent) ───────► fresh ───────────────────────────────────────────────► entitled ──► draining
//!     ▲               │ gets nothing                                          │            │ gives all up
//!     └───────────────┴──────────── gone: its shards go at once ──────────────┴────────────┘
//! ```
//!
//! A shard whose wanted owner is gone goes to an entitled node, as good a one as its fair share allows. A shard whose
//! owner lives moves only because that one is draining or has more than its share. `settle` doubles each time a node
//! comes back soon, so one that flaps moves nothing but what it lost itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reeve_protocol::{NodeId, ShardId, Timestamp};
use serde::{Deserialize, Serialize};

use super::rank;

/// The most nodes that damping remembers; those that are gone for longest are forgotten first.
pub const MAX_REMEMBERED: usize = 256;

/// A node that lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: NodeId,
    /// How many shards it takes, compared with others; above 0 and finite.
    pub weight: f64,
    /// Whether it is to give its shards up.
    pub draining: bool,
    /// Tells this membership from an earlier one of the same node.
    pub incarnation: u64,
}

/// How new and flapping nodes are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damping {
    /// How long a node is a member before shards move to it. Two lease TTLs by default.
    pub settle: Duration,
    /// It doubles with each return up to this: 5 minutes.
    pub max_settle: Duration,
    /// A node that comes back later than this after it was last seen to come has not flapped: 10 minutes.
    pub memory: Duration,
}

/// What damping remembers of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its membership, as [`Candidate::incarnation`].
    pub incarnation: u64,
    /// Since when, by the clock of the planner.
    pub since: Timestamp,
    /// Since when it is gone, if it is.
    pub gone: Option<Timestamp>,
    /// How often it came back soon.
    pub flaps: u32,
}

/// Who is to own what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The wanted owner of each shard, by its number.
    pub wanted: Vec<Option<NodeId>>,
    /// What damping remembers of each node, those that live among them.
    pub memory: BTreeMap<NodeId, Memory>,
}

impl Damping {
    /// The defaults for this lease TTL.
    #[must_use]
    pub fn of_ttl(ttl: Duration) -> Self {
        Self { settle: ttl * 2, max_settle: Duration::from_secs(300), memory: Duration::from_secs(600) }
    }

    /// How long a node with so many flaps waits for shards.
    fn settle_of(&self, flaps: u32) -> Duration {
        let doubled = self.settle.saturating_mul(1u32.checked_shl(flaps.min(31)).unwrap_or(u32::MAX));
        doubled.min(self.max_settle).max(self.settle)
    }
}

impl Memory {
    fn settled_at(&self, damping: &Damping) -> Timestamp {
        self.since + damping.settle_of(self.flaps)
    }
}

impl Plan {
    /// A plan that wants nothing yet.
    #[must_use]
    pub fn empty(shards: u16) -> Self {
        Self { wanted: vec![None; usize::from(shards)], memory: BTreeMap::new() }
    }

    /// Who is to own a shard.
    #[must_use]
    pub fn wanted(&self, shard: ShardId) -> Option<&NodeId> {
        self.wanted.get(usize::from(shard.0))?.as_ref()
    }

    /// Whether it was made with this membership of the node in mind.
    #[must_use]
    pub fn knows(&self, node: &NodeId, incarnation: u64) -> bool {
        self.memory.get(node).is_some_and(|memory| memory.gone.is_none() && memory.incarnation == incarnation)
    }

    /// Whether nobody of those who live was there when it was made: the cluster starts, or lost its leases together.
    #[must_use]
    pub fn is_cold(&self, members: &[Candidate]) -> bool {
        !members.iter().any(|member| self.knows(&member.id, member.incarnation))
    }

    /// The next time at which it may look different though nobody comes or goes.
    #[must_use]
    pub fn next_change(&self, now: Timestamp, damping: &Damping) -> Option<Timestamp> {
        let settles = self.memory.values().filter(|memory| memory.gone.is_none());
        settles.map(|memory| memory.settled_at(damping)).filter(|at| *at > now).min()
    }
}

/// The plan after `previous`, given the nodes that live. The same arguments give the same plan; nobody new, nobody
/// gone, nobody settled gives the same plan again.
#[must_use]
pub fn plan(previous: &Plan, members: &[Candidate], now: Timestamp, damping: &Damping) -> Plan {
    let members: BTreeMap<&NodeId, &Candidate> = members.iter().map(|member| (&member.id, member)).collect();
    let memory = remember(previous, &members, now, damping);
    let holders: BTreeSet<&NodeId> = previous.wanted.iter().flatten().collect();
    let takers = takers(&members, &holders, &memory, now, damping);
    let wanted =
        if takers.is_empty() { previous.wanted.clone() } else { distribute(&previous.wanted, &members, &takers) };
    Plan { wanted, memory }
}

/// What is known of the nodes now.
fn remember(
    previous: &Plan,
    members: &BTreeMap<&NodeId, &Candidate>,
    now: Timestamp,
    damping: &Damping,
) -> BTreeMap<NodeId, Memory> {
    let mut memory = BTreeMap::new();
    for (id, member) in members {
        let incarnation = member.incarnation;
        let fresh = Memory { incarnation, since: now, gone: None, flaps: 0 };
        let known = match previous.memory.get(*id) {
            None => fresh,
            // A planner before this one had a clock that was ahead: what it wrote would hold the node back for too long.
            Some(known) if known.incarnation == incarnation => {
                Memory { since: known.since.min(now), gone: None, ..*known }
            }
            Some(known) if now < known.since + damping.memory => {
                Memory { flaps: known.flaps.saturating_add(1), ..fresh }
            }
            Some(_) => fresh,
        };
        memory.insert((*id).clone(), known);
    }
    let mut gone: Vec<(Timestamp, &NodeId, Memory)> = Vec::new();
    for (id, known) in previous.memory.iter().filter(|(id, _)| !members.contains_key(id)) {
        let at = known.gone.unwrap_or(now).min(now);
        // Nothing is remembered for longer than it can matter.
        if now < at + damping.memory {
            gone.push((at, id, Memory { gone: Some(at), ..*known }));
        }
    }
    gone.sort_by_key(|(at, id, _)| (std::cmp::Reverse(*at), *id));
    let room = MAX_REMEMBERED.saturating_sub(memory.len());
    memory.extend(gone.into_iter().take(room).map(|(_, id, known)| (id.clone(), known)));
    memory
}

/// Who may be given shards: those who are settled or have some already; if there is none, those who are fresh; and
/// rather one that is draining than nobody.
fn takers<'a>(
    members: &BTreeMap<&'a NodeId, &'a Candidate>,
    holders: &BTreeSet<&NodeId>,
    memory: &BTreeMap<NodeId, Memory>,
    now: Timestamp,
    damping: &Damping,
) -> Vec<&'a Candidate> {
    let all = || members.values().copied();
    let settled = |id: &NodeId| memory.get(id).is_some_and(|known| known.settled_at(damping) <= now);
    let entitled: Vec<&Candidate> =
        all().filter(|member| !member.draining && (settled(&member.id) || holders.contains(&member.id))).collect();
    if !entitled.is_empty() {
        return entitled;
    }
    let willing: Vec<&Candidate> = all().filter(|member| !member.draining).collect();
    if willing.is_empty() { all().collect() } else { willing }
}

/// Gives each shard to a taker, moving as few as possible.
fn distribute(
    previous: &[Option<NodeId>],
    members: &BTreeMap<&NodeId, &Candidate>,
    takers: &[&Candidate],
) -> Vec<Option<NodeId>> {
    let place: BTreeMap<&NodeId, usize> = takers.iter().enumerate().map(|(at, taker)| (&taker.id, at)).collect();
    let willing = takers.iter().any(|taker| !taker.draining);
    let mut owners: Vec<Option<usize>> = Vec::with_capacity(previous.len());
    for wanted in previous {
        // With only draining nodes left, shards stay where they are.
        owners.push(wanted.as_ref().and_then(|id| place.get(id).copied()));
    }
    let mut held = vec![0usize; takers.len()];
    owners.iter().flatten().for_each(|at| held[*at] += 1);
    let fair = shares(takers, &held, previous.len());
    // Balance is no reason to move anything between nodes that are all to be emptied.
    let mut excess: Vec<usize> =
        (0..takers.len()).map(|at| if willing { held[at].saturating_sub(fair[at]) } else { 0 }).collect();
    let mut room: Vec<usize> = (0..takers.len()).map(|at| fair[at].saturating_sub(held[at])).collect();
    let (orphans, owned): (Vec<usize>, Vec<usize>) = (0..owners.len()).partition(|shard| owners[*shard].is_none());
    for (shard, taker) in best_first(&orphans, takers, &room) {
        if owners[shard].is_none() && room[taker] > 0 {
            owners[shard] = Some(taker);
            room[taker] -= 1;
        }
    }
    let of_donors: Vec<usize> = owned.into_iter().filter(|s| owners[*s].is_some_and(|at| excess[at] > 0)).collect();
    let mut moved = BTreeSet::new();
    for (shard, taker) in best_first(&of_donors, takers, &room) {
        let donor = owners[shard].expect("only shards with an owner are listed");
        if !moved.contains(&shard) && excess[donor] > 0 && room[taker] > 0 {
            owners[shard] = Some(taker);
            (excess[donor], room[taker]) = (excess[donor] - 1, room[taker] - 1);
            moved.insert(shard);
        }
    }
    debug_assert!(members.is_empty() || owners.iter().all(Option::is_some), "room is as much as what has no place");
    owners.into_iter().map(|at| at.map(|at| takers[at].id.clone())).collect()
}

/// The pairs of a shard and a taker with room, the best suited first.
fn best_first(shards: &[usize], takers: &[&Candidate], room: &[usize]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for shard in shards {
        let id = ShardId(u16::try_from(*shard).expect("shards are numbered by u16"));
        for (at, taker) in takers.iter().enumerate().filter(|(at, _)| room[*at] > 0) {
            pairs.push((rank::score(id, &taker.id, taker.weight), *shard, at));
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    pairs.into_iter().map(|(_, shard, at)| (shard, at)).collect()
}

/// How many shards each taker is to have: its share by weight rounded down, and what is left over one each to those
/// who hold more than that already, then to those who lost most by rounding.
fn shares(takers: &[&Candidate], held: &[usize], shards: usize) -> Vec<usize> {
    let weights: f64 = takers.iter().map(|taker| taker.weight).sum();
    #[expect(clippy::cast_precision_loss, reason = "a number of shards is small")]
    let exact: Vec<f64> = takers.iter().map(|taker| shards as f64 * taker.weight / weights).collect();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of shards")]
    let mut shares: Vec<usize> = exact.iter().map(|exact| exact.floor() as usize).collect();
    let mut order: Vec<usize> = (0..takers.len()).collect();
    order.sort_by(|a, b| {
        let more = |at: &usize| held[*at] > shares[*at];
        let lost = |at: &usize| exact[*at] - exact[*at].floor();
        more(b).cmp(&more(a)).then(lost(b).total_cmp(&lost(a))).then_with(|| takers[*a].id.cmp(&takers[*b].id))
    });
    let left = shards.saturating_sub(shares.iter().sum());
    // Rounding of the exact shares may leave one more than there are takers.
    order.iter().cycle().take(left).for_each(|at| shares[*at] += 1);
    shares
}

#[cfg(test)]
mod tests;

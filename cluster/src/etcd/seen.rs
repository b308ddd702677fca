//! What this node has seen of the cluster's keys: pure, fed by lists and watches.
//!
//! Two ranges are watched, each with its own position. A list is the truth at its revision; what a watch brings is
//! applied only if it is newer. A key's change that one range shows may be ahead of what the other shows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reeve_protocol::{NodeId, ShardId, Timestamp};

use super::keys::Subject;
use super::value::{self, Beat, Holder, Planned};

/// What this node has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) nodes: BTreeMap<NodeId, Member>,
    pub(crate) drains: BTreeSet<NodeId>,
    pub(crate) leader: Option<Tenure>,
    pub(crate) plan: Option<Written>,
    /// The revision up to which all of the above is known.
    pub(crate) members_at: i64,
    pub(crate) shards: BTreeMap<ShardId, Tenure>,
    /// The revision up to which the shards are known.
    pub(crate) shards_at: i64,
}

/// A node that lives.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// `None`: a newer version wrote it in a way that this one does not read.
    pub(crate) beat: Option<Beat>,
    /// The revision at which it registered.
    pub(crate) incarnation: i64,
    pub(crate) lease: i64,
    pub(crate) clock: Option<ClockSeen>,
    pub(crate) heard: Heard,
}

/// The last sign of life of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The revision at which it was written.
    pub(crate) revision: i64,
    /// When it arrived here, by the boot-time clock: not before it was sent.
    pub(crate) at: Duration,
}

/// A wall clock, compared with this machine's boot-time clock: so a step of our own wall clock shows at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockSeen {
    /// Wall clock less boot-time clock, in milliseconds.
    base_ms: i64,
    at: Duration,
}

/// Who holds a key that is bound to a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenure {
    pub(crate) node: NodeId,
    pub(crate) lease: i64,
    /// The create revision: the epoch.
    pub(crate) since: i64,
}

/// The plan as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// `None`: a newer version wrote it in a way that this one does not read.
    pub(crate) planned: Option<Planned>,
    /// Its mod revision.
    pub(crate) revision: i64,
}

/// Which of the two ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    Members,
    Shards,
}

/// How a change came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    /// Some time ago, perhaps.
    ByList,
    /// Now.
    ByWatch,
}

/// A key as it is, or that it is gone.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) subject: Subject,
    pub(crate) revision: i64,
    /// `None`: deleted.
    pub(crate) put: Option<Put>,
}

#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) value: Vec<u8>,
    pub(crate) created: i64,
    pub(crate) lease: i64,
}

/// This machine's clocks when something arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) now: Timestamp,
    pub(crate) elapsed: Duration,
}

impl Received {
    /// Wall clock less boot-time clock.
    pub(crate) fn base_ms(self, wall: Timestamp) -> i64 {
        wall.as_millis().saturating_sub(i64::try_from(self.elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Seen {
    /// Takes over what was listed at a revision, and arrived then.
    pub(crate) fn list(&mut self, revision: i64, changes: Vec<Change>, received: Received) {
        let before = std::mem::take(self);
        *self = Self { members_at: revision, shards_at: revision, ..Self::default() };
        for change in changes {
            self.apply(change, received, Brought::ByList);
        }
        for (id, known) in before.nodes {
            let Some(member) = self.nodes.get_mut(&id).filter(|now| now.incarnation == known.incarnation) else {
                continue;
            };
            member.clock = known.clock;
            if member.heard.revision == known.heard.revision {
                member.heard = known.heard;
            }
        }
    }

    /// Applies what a watch brought at once. Whether more than signs of life changed.
    pub(crate) fn advance(&mut self, range: Range, changes: Vec<Change>, received: Received) -> bool {
        let at = match range {
            Range::Members => &mut self.members_at,
            Range::Shards => &mut self.shards_at,
        };
        let before = *at;
        *at = changes.iter().map(|change| change.revision).max().unwrap_or(before).max(before);
        let mut matters = false;
        for change in changes.into_iter().filter(|change| change.revision > before) {
            matters |= self.apply(change, received, Brought::ByWatch);
        }
        matters
    }

    /// Whether a node is to own nothing: an operator wishes so, or it is about to leave.
    pub(crate) fn is_draining(&self, id: &NodeId) -> bool {
        let leaving = |member: &Member| member.beat.as_ref().is_some_and(|beat| beat.leaving);
        self.drains.contains(id) || self.nodes.get(id).is_some_and(leaving)
    }

    /// Those that are to own nothing.
    pub(crate) fn draining(&self) -> BTreeSet<NodeId> {
        let leaving = self.nodes.keys().filter(|id| self.is_draining(id)).cloned();
        self.drains.iter().cloned().chain(leaving).collect()
    }

    /// How far the wall clocks of the others are ahead of this one, in milliseconds: those heard of within `ttl`.
    pub(crate) fn offsets(&self, me: &NodeId, received: Received, ttl: Duration) -> BTreeMap<NodeId, i64> {
        let own = received.base_ms(received.now);
        let recent = |clock: &ClockSeen| received.elapsed.saturating_sub(clock.at) <= ttl;
        let others = self.nodes.iter().filter(|(id, _)| *id != me);
        let clocks = others.filter_map(|(id, member)| Some((id, member.clock.filter(recent)?)));
        clocks.map(|(id, clock)| (id.clone(), clock.base_ms.saturating_sub(own))).collect()
    }

    /// The plan, if it can be read.
    pub(crate) fn planned(&self) -> Option<&Planned> {
        self.plan.as_ref()?.planned.as_ref()
    }

    /// Whether more than a sign of life changed.
    fn apply(&mut self, change: Change, received: Received, brought: Brought) -> bool {
        match (change.subject, change.put) {
            (Subject::Node(id), Some(put)) => {
                let heard = Heard { revision: change.revision, at: received.elapsed };
                return self.node(id, &put, heard, (brought == Brought::ByWatch).then_some(received));
            }
            (Subject::Node(id), None) => drop(self.nodes.remove(&id)),
            (Subject::Drain(id), Some(_)) => drop(self.drains.insert(id)),
            (Subject::Drain(id), None) => drop(self.drains.remove(&id)),
            (Subject::Leader, put) => self.leader = put.and_then(|put| tenure("leader", &put)),
            (Subject::Plan, put) => {
                self.plan = put.map(|put| Written { planned: plan(&put), revision: change.revision });
            }
            (Subject::Shard(shard), put) => match put.and_then(|put| tenure("shard", &put)) {
                Some(tenure) => drop(self.shards.insert(shard, tenure)),
                None => drop(self.shards.remove(&shard)),
            },
            (Subject::Other, _) => return false,
        }
        true
    }

    /// `received`: unless what was listed is of an unknown age.
    fn node(&mut self, id: NodeId, put: &Put, heard: Heard, received: Option<Received>) -> bool {
        let beat: Option<Beat> = match value::decode(&put.value) {
            Ok(beat) => Some(beat),
            Err(error) => {
                tracing::debug!(node = %id, %error, "a node's sign of life cannot be read");
                None
            }
        };
        let clock = received
            .zip(beat.as_ref())
            .map(|(received, beat)| ClockSeen { base_ms: received.base_ms(beat.clock), at: received.elapsed });
        let planned_by = |beat: &Option<Beat>| beat.as_ref().map(|beat| (beat.weight, beat.leaving));
        let known = self.nodes.get(&id);
        let same = known.is_some_and(|known| {
            known.incarnation == put.created && known.lease == put.lease && planned_by(&known.beat) == planned_by(&beat)
        });
        self.nodes.insert(id, Member { beat, incarnation: put.created, lease: put.lease, clock, heard });
        !same
    }
}

fn tenure(what: &str, put: &Put) -> Option<Tenure> {
    match value::decode::<Holder>(&put.value) {
        Ok(holder) => Some(Tenure { node: holder.node, lease: put.lease, since: put.created }),
        Err(error) => {
            tracing::error!(what, %error, "a key's holder cannot be read");
            None
        }
    }
}

fn plan(put: &Put) -> Option<Planned> {
    let planned = Planned::decode(&put.value);
    planned.inspect_err(|error| tracing::error!(%error, "the plan cannot be read; a newer version wrote it")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn received(now_ms: i64, elapsed_ms: u64) -> Received {
        Received { now: Timestamp::from_millis(now_ms), elapsed: Duration::from_millis(elapsed_ms) }
    }

    fn beat(clock_ms: i64) -> Vec<u8> {
        let beat = Beat {
            version: "1".into(),
            admin_format: 1,
            value_format: 1,
            since: Timestamp::EPOCH,
            clock: Timestamp::from_millis(clock_ms),
            address: None,
            weight: 1.0,
            vms: 0,
            outbox: 0,
            leaving: false,
        };
        value::encode(&beat).unwrap()
    }

    fn alive(id: &str, created: i64, revision: i64, clock_ms: i64) -> Change {
        let put = Put { value: beat(clock_ms), created, lease: 9 };
        Change { subject: Subject::Node(node(id)), revision, put: Some(put) }
    }

    fn owner(shard: u16, id: &str, revision: i64) -> Change {
        let put = Put { value: value::encode(&Holder { node: node(id) }).unwrap(), created: revision, lease: 9 };
        Change { subject: Subject::Shard(ShardId(shard)), revision, put: Some(put) }
    }

    fn no_owner(shard: u16, revision: i64) -> Change {
        Change { subject: Subject::Shard(ShardId(shard)), revision, put: None }
    }

    #[test]
    fn what_a_watch_brings_late_is_not_applied_over_a_newer_list() {
        let mut seen = Seen::default();
        seen.list(20, vec![owner(1, "b", 15)], received(0, 0));
        let at = received(0, 0);
        assert!(!seen.advance(Range::Shards, vec![owner(1, "a", 10), no_owner(1, 12)], at));
        assert_eq!(seen.shards[&ShardId(1)].node, node("b"));
        assert_eq!(seen.shards_at, 20);
        assert!(seen.advance(Range::Shards, vec![no_owner(1, 21)], at));
        assert!(seen.shards.is_empty());
        assert_eq!((seen.shards_at, seen.members_at), (21, 20));
    }

    #[test]
    fn all_changes_of_one_revision_are_applied() {
        let mut seen = Seen::default();
        seen.list(20, vec![owner(1, "b", 15), owner(2, "b", 16)], received(0, 0));
        seen.advance(Range::Shards, vec![no_owner(1, 21), no_owner(2, 21)], received(0, 0));
        assert!(seen.shards.is_empty());
    }

    #[test]
    fn a_sign_of_life_alone_wakes_nobody() {
        let mut seen = Seen::default();
        let at = received(1000, 0);
        assert!(seen.advance(Range::Members, vec![alive("a", 1, 1, 0)], at));
        assert!(!seen.advance(Range::Members, vec![alive("a", 1, 2, 0)], at));
        assert!(seen.advance(Range::Members, vec![alive("a", 3, 3, 0)], at));
    }

    #[test]
    fn only_clocks_heard_of_lately_and_live_are_compared() {
        let ttl = Duration::from_secs(5);
        let mut seen = Seen::default();
        seen.list(1, vec![alive("a", 1, 1, 999_000)], received(0, 0));
        let me = node("me");
        assert!(seen.offsets(&me, received(1_000_000, 0), ttl).is_empty());
        seen.advance(Range::Members, vec![alive("a", 1, 2, 1_003_000)], received(1_000_000, 0));
        assert_eq!(seen.offsets(&me, received(1_001_000, 1000), ttl), BTreeMap::from([(node("a"), 3000)]));
        // A list in between says nothing about the time.
        seen.list(3, vec![alive("a", 1, 2, 1_003_000)], received(1_000_500, 500));
        assert_eq!(seen.offsets(&me, received(1_001_000, 1000), ttl), BTreeMap::from([(node("a"), 3000)]));
        // Our own clock steps by an hour.
        let stepped = received(1_001_000 + 3_600_000, 1000);
        assert_eq!(seen.offsets(&me, stepped, ttl), BTreeMap::from([(node("a"), 3000 - 3_600_000)]));
        assert!(seen.offsets(&me, received(1_006_000, 6000), ttl).is_empty());
        assert!(seen.offsets(&node("a"), received(1_001_000, 1000), ttl).is_empty());
    }

    #[test]
    fn a_list_makes_no_old_sign_of_life_a_new_one() {
        let mut seen = Seen::default();
        let heard = |seen: &Seen| seen.nodes[&node("a")].heard;
        seen.list(1, vec![alive("a", 1, 1, 0)], received(0, 100));
        seen.list(9, vec![alive("a", 1, 1, 0)], received(0, 5_000));
        assert_eq!(heard(&seen), Heard { revision: 1, at: Duration::from_millis(100) });
        seen.list(12, vec![alive("a", 1, 10, 0)], received(0, 6_000));
        assert_eq!(heard(&seen), Heard { revision: 10, at: Duration::from_millis(6_000) });
        seen.advance(Range::Members, vec![alive("a", 1, 13, 0)], received(0, 7_000));
        assert_eq!(heard(&seen), Heard { revision: 13, at: Duration::from_millis(7_000) });
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_no_plan_but_is_there() {
        let mut seen = Seen::default();
        let put = Put { value: vec![9, 9], created: 1, lease: 0 };
        seen.list(4, vec![Change { subject: Subject::Plan, revision: 3, put: Some(put) }], received(0, 0));
        assert!(seen.planned().is_none() && seen.plan.is_some());
    }
}

//! All that the futures of the port wait on, in one place: what was seen, this node's session, and its claims. Pure.
//!
//! ```text
//! (nothing) ──claim──► claiming ──answer──► held(epoch, lease) ──release──► released(epoch)
//!                          │ refused            │ lease over, or the key gone or of another epoch
//!                          └──► (nothing)       └──► lost
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use reeve_protocol::{Epoch, NodeId, ShardId};

use super::seen::Seen;

/// What this node knows and has.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) me: NodeId,
    pub(crate) seen: Seen,
    pub(crate) session: Option<Session>,
    pub(crate) held: BTreeMap<ShardId, Held>,
    /// The last epoch of each shard that was released: not lost, but given up.
    pub(crate) released: BTreeMap<ShardId, Epoch>,
    /// How many claims of each shard are under way.
    pub(crate) claiming: BTreeMap<ShardId, u32>,
    /// This node hands its shards over, to leave then.
    pub(crate) retiring: bool,
    pub(crate) leaving: bool,
}

/// A lease under which this node is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) lease: i64,
    /// The create revision of the node's key.
    pub(crate) incarnation: i64,
    /// What etcd granted, which may be longer than what was asked for.
    pub(crate) ttl: Duration,
}

/// A shard that was claimed and not released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    pub(crate) lease: i64,
}

/// The epoch that a create revision stands for. Revisions count from 1.
pub(crate) fn epoch(revision: i64) -> Epoch {
    Epoch(u64::try_from(revision).unwrap_or(0))
}

/// The create revision that an epoch stands for; for what never was an epoch, one that no key has.
pub(crate) fn revision(epoch: Epoch) -> i64 {
    i64::try_from(epoch.0).ok().filter(|revision| *revision > 0).unwrap_or(i64::MAX)
}

impl State {
    pub(crate) fn new(me: NodeId) -> Self {
        Self {
            me,
            seen: Seen::default(),
            session: None,
            held: BTreeMap::new(),
            released: BTreeMap::new(),
            claiming: BTreeMap::new(),
            retiring: false,
            leaving: false,
        }
    }

    /// Whether the plan wants the shard here.
    pub(crate) fn is_planned_here(&self, shard: ShardId) -> bool {
        let wanted = self.seen.planned().and_then(|planned| planned.plan.wanted(shard));
        !self.leaving && wanted == Some(&self.me)
    }

    /// Whether a claim is to be made: the plan wants the shard here, and nobody else has it.
    pub(crate) fn is_wanted(&self, shard: ShardId) -> bool {
        let Some(session) = self.session else { return false };
        let free = self.seen.shards.get(&shard).is_none_or(|owner| owner.lease == session.lease);
        free && self.is_planned_here(shard)
    }

    /// Whether this shard is the next to be given up: the first of those that are held and unwanted, one at a time, so that
    /// all others stay attended.
    ///
    /// None of them can keep the others waiting for ever. A hand-over has time limits for calls and commits, interrupts a
    /// load, and ends in a release, which takes the shard out of `held` before etcd is asked: an etcd that is away stops
    /// nothing, and the key is a stray until it is deleted. An owner that dies, or never learns that its claim was granted,
    /// releases it as well. And a claim that is over without a release is lost, which is not waited for.
    pub(crate) fn is_told_to_go(&self, shard: ShardId) -> bool {
        let mut unwanted =
            self.held.iter().filter(|(id, held)| self.is_unwanted(**id) && !self.is_lost(**id, held.epoch));
        unwanted.next().is_some_and(|(first, _)| *first == shard)
    }

    /// Whether a claim is over without a release.
    pub(crate) fn is_lost(&self, shard: ShardId, epoch: Epoch) -> bool {
        if self.released.get(&shard).is_some_and(|released| *released >= epoch) {
            return false;
        }
        let Some(held) = self.held.get(&shard).filter(|held| held.epoch == epoch) else { return true };
        if self.session.is_none_or(|session| session.lease != held.lease) {
            return true;
        }
        // What was seen may be older than the claim.
        let since = revision(epoch);
        self.seen.shards_at >= since && self.seen.shards.get(&shard).is_none_or(|owner| owner.since != since)
    }

    /// Keys of this session that nobody here holds: the answer to their claim was lost, or a release failed.
    pub(crate) fn strays(&self) -> Vec<(ShardId, i64)> {
        let Some(session) = self.session else { return Vec::new() };
        let stray = |shard: &ShardId, since: i64| {
            !self.claiming.contains_key(shard) && self.held.get(shard).is_none_or(|held| revision(held.epoch) != since)
        };
        let own = self.seen.shards.iter().filter(|(_, owner)| owner.lease == session.lease);
        own.filter(|(shard, owner)| stray(shard, owner.since)).map(|(shard, owner)| (*shard, owner.since)).collect()
    }

    /// Whether the node's key of this session is seen to be gone.
    pub(crate) fn is_unregistered(&self, session: Session) -> bool {
        let known = self.seen.nodes.get(&self.me).map(|member| member.incarnation);
        self.seen.members_at >= session.incarnation && known != Some(session.incarnation)
    }

    /// Whether a plan was made that knows this node's session.
    pub(crate) fn is_planned(&self) -> bool {
        let Some((session, planned)) = self.session.zip(self.seen.planned()) else { return false };
        planned.plan.knows(&self.me, u64::try_from(session.incarnation).unwrap_or(0))
    }

    /// The create revision of the leader's key, if this node leads.
    pub(crate) fn leads(&self) -> Option<i64> {
        let session = self.session?;
        self.seen.leader.as_ref().filter(|leader| leader.lease == session.lease).map(|leader| leader.since)
    }

    /// Whether this claim lasts, as far as is known.
    pub(crate) fn holds(&self, shard: ShardId, epoch: Epoch) -> bool {
        self.held.get(&shard).is_some_and(|held| held.epoch == epoch) && !self.is_lost(shard, epoch)
    }

    /// Whether nothing is left to hand over: everything is given up, or nobody is there to take it.
    pub(crate) fn is_handed_over(&self) -> bool {
        let mut others = self.seen.nodes.keys().filter(|id| **id != self.me && !self.seen.is_draining(id));
        self.session.is_none() || self.held.is_empty() || others.next().is_none()
    }

    fn is_unwanted(&self, shard: ShardId) -> bool {
        let wanted = self.seen.planned().and_then(|planned| planned.plan.wanted(shard));
        wanted.is_some_and(|wanted| *wanted != self.me && self.seen.nodes.contains_key(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::{Heard, Member, Tenure, Written};
    use super::super::value::Planned;
    use super::*;
    use crate::shard_map::Plan;

    const LEASE: i64 = 77;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Node `a` of two, with a session, and a plan.
    fn state(wanted: &[&str]) -> State {
        let mut state = State::new(node("a"));
        state.session = Some(Session { lease: LEASE, incarnation: 3, ttl: Duration::from_secs(5) });
        for (id, lease) in [("a", LEASE), ("b", 88)] {
            state
                .seen
                .nodes
                .insert(node(id), Member { beat: None, incarnation: 3, lease, clock: None, heard: Heard::default() });
        }
        let wanted = wanted.iter().map(|id| Some(node(id))).collect();
        let plan = Plan { wanted, memory: BTreeMap::new() };
        state.seen.plan = Some(Written { planned: Some(Planned { plan, ..Planned::default() }), revision: 4 });
        state
    }

    fn own(state: &mut State, shard: u16, id: &str, lease: i64, since: i64) {
        state.seen.shards.insert(ShardId(shard), Tenure { node: node(id), lease, since });
        state.seen.shards_at = state.seen.shards_at.max(since);
    }

    fn hold(state: &mut State, shard: u16, since: i64) {
        state.held.insert(ShardId(shard), Held { epoch: epoch(since), lease: LEASE });
    }

    #[test]
    fn a_shard_is_wanted_when_the_plan_says_so_and_nobody_else_has_it() {
        let mut state = state(&["a", "b"]);
        assert!(state.is_wanted(ShardId(0)) && !state.is_wanted(ShardId(1)) && !state.is_wanted(ShardId(9)));
        own(&mut state, 0, "b", 88, 10);
        assert!(!state.is_wanted(ShardId(0)));
        // Our own, of a session before this one: it ends by itself.
        own(&mut state, 0, "a", 66, 11);
        assert!(!state.is_wanted(ShardId(0)));
        own(&mut state, 0, "a", LEASE, 12);
        assert!(state.is_wanted(ShardId(0)));
        state.session = None;
        assert!(!state.is_wanted(ShardId(0)));
    }

    #[test]
    fn one_shard_at_a_time_is_told_to_go() {
        let mut state = state(&["b", "b", "a"]);
        for shard in 0..3 {
            own(&mut state, shard, "a", LEASE, 10 + i64::from(shard));
            hold(&mut state, shard, 10 + i64::from(shard));
        }
        let told = |state: &State| (0..3).filter(|n| state.is_told_to_go(ShardId(*n))).collect::<Vec<_>>();
        assert_eq!(told(&state), [0]);
        state.held.remove(&ShardId(0));
        state.released.insert(ShardId(0), Epoch(10));
        assert_eq!(told(&state), [1]);
        // Nobody is there to take it.
        state.seen.nodes.remove(&node("b"));
        assert!(told(&state).is_empty());
    }

    #[test]
    fn a_lost_shard_does_not_keep_the_next_from_going() {
        let mut state = state(&["b", "b"]);
        for shard in 0..2 {
            own(&mut state, shard, "a", LEASE, 10 + i64::from(shard));
            hold(&mut state, shard, 10 + i64::from(shard));
        }
        state.seen.shards.remove(&ShardId(0));
        assert!(state.is_lost(ShardId(0), Epoch(10)));
        assert!(state.is_told_to_go(ShardId(1)));
    }

    #[test]
    fn what_was_seen_before_the_claim_does_not_lose_it() {
        let mut state = state(&["a"]);
        state.seen.shards_at = 9;
        hold(&mut state, 0, 10);
        assert!(!state.is_lost(ShardId(0), Epoch(10)));
        state.seen.shards_at = 11;
        assert!(state.is_lost(ShardId(0), Epoch(10)));
    }

    #[test]
    fn a_claim_is_lost_with_its_session_and_not_by_its_release() {
        let mut state = state(&["a"]);
        own(&mut state, 0, "a", LEASE, 10);
        hold(&mut state, 0, 10);
        assert!(!state.is_lost(ShardId(0), Epoch(10)));
        assert!(state.is_lost(ShardId(0), Epoch(9)), "an older claim");
        let session = state.session.take();
        assert!(state.is_lost(ShardId(0), Epoch(10)));
        state.session = session;
        state.held.remove(&ShardId(0));
        state.released.insert(ShardId(0), Epoch(10));
        state.seen.shards.clear();
        assert!(!state.is_lost(ShardId(0), Epoch(10)));
    }

    #[test]
    fn a_key_is_gone_only_when_what_was_seen_is_as_new_as_the_session() {
        let mut state = state(&["a"]);
        let session = Session { lease: LEASE, incarnation: 30, ttl: Duration::from_secs(5) };
        state.seen.nodes.clear();
        state.seen.members_at = 29;
        assert!(!state.is_unregistered(session));
        state.seen.members_at = 30;
        assert!(state.is_unregistered(session));
        let member = Member { beat: None, incarnation: 30, lease: LEASE, clock: None, heard: Heard::default() };
        state.seen.nodes.insert(node("a"), member);
        assert!(!state.is_unregistered(session));
    }

    #[test]
    fn a_key_that_nobody_holds_is_a_stray_unless_its_claim_is_under_way() {
        let mut state = state(&["a", "a"]);
        own(&mut state, 0, "a", LEASE, 10);
        own(&mut state, 1, "b", 88, 11);
        assert_eq!(state.strays(), [(ShardId(0), 10)]);
        state.claiming.insert(ShardId(0), 1);
        assert!(state.strays().is_empty());
        state.claiming.clear();
        hold(&mut state, 0, 10);
        assert!(state.strays().is_empty());
        hold(&mut state, 0, 12);
        assert_eq!(state.strays(), [(ShardId(0), 10)]);
    }

    #[test]
    fn what_was_never_an_epoch_matches_no_key() {
        assert_eq!(revision(Epoch(0)), i64::MAX);
        assert_eq!(revision(Epoch(u64::MAX)), i64::MAX);
        assert_eq!(revision(epoch(12)), 12);
    }
}

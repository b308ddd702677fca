//! The leader's part: it plans, and writes the plan. Every node runs this, and one of them leads.
//!
//! ```text
//!             no leader: create the key       key gone, or another's
//! Following ─────────────────────────► Leading ─────────────────────► Following
//!                                       │    ▲
//!   nodes, drains, settling changed ────┴────┘ write the plan, if the leader's key and the plan are as they were seen
//! ```
//!
//! Nothing here waits for a time but settling and the gathering of nodes that start together: a dead node's keys and,
//! if it led, the leader's go in one revision, and each step after that is begun by what the watch brings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use reeve_protocol::event::{ClusterEvent, ClusterEventKind};
use reeve_protocol::{NodeId, ShardId, Timestamp};

use super::error::EtcdError;
use super::shared::{PAUSE, Shared, created_at, put_leased, unencodable};
use super::state::{Session, State};
use super::value::{Holder, Planned};
use crate::shard_map::{Candidate, Damping, Plan, plan};

/// How often a leader looks though nothing happened.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The most events that wait in the plan to be published. What happens beyond that is logged, and has no event.
pub(crate) const MAX_OUTBOX: usize = 512;
/// The most nodes that ever had an event.
const MAX_SUBJECTS: usize = 1024;

/// What a node is to do next about the plan.
enum Step {
    /// Become the leader.
    Stand(Session),
    /// Write this plan.
    Write { tenure: i64, over: i64, planned: Planned },
    /// Nothing before this time, or before something changes.
    Rest(Duration),
}

/// Runs until it is dropped.
pub(crate) async fn lead(shared: Arc<Shared>) {
    let mut changes = shared.state.subscribe();
    let mut cold_since = None;
    loop {
        let step = {
            let state = changes.borrow_and_update();
            next_step(&shared, &state, &mut cold_since)
        };
        let done = match step {
            Step::Stand(session) => stand(&shared, session).await,
            Step::Write { tenure, over, planned } => write(&shared, tenure, over, &planned).await.map(|_| ()),
            Step::Rest(until) => {
                tokio::select! {
                    // The sender is in `shared`.
                    _ = changes.changed() => {}
                    () = shared.clock.sleep(until) => {}
                }
                continue;
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a leader's step failed");
            shared.clock.sleep(PAUSE).await;
        }
    }
}

/// Writes a plan if the leader's key and the plan before are as they were seen, and waits until the watch shows what
/// there is then. Whether it was written.
pub(crate) async fn write(shared: &Shared, tenure: i64, over: i64, planned: &Planned) -> Result<bool, EtcdError> {
    let bytes = planned.encode().map_err(|error| unencodable(&error))?;
    let key = shared.keys.plan();
    let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, over);
    let txn = Txn::new()
        .when([created_at(shared.keys.leader(), tenure), unchanged])
        .and_then([TxnOp::put(key, bytes, None)])
        // Something was written in between, perhaps by an earlier attempt whose answer was lost.
        .or_else([TxnOp::get(shared.keys.plan(), None)]);
    let response = shared.transact(&txn, shared.patience()).await?;
    caught_up(shared, response.header().map_or(0, etcd_client::ResponseHeader::revision), over).await;
    Ok(response.succeeded())
}

/// Waits until the watch has brought the revision, or a plan after the one that was written over.
async fn caught_up(shared: &Shared, revision: i64, over: i64) {
    let newer = |state: &State| {
        state.seen.members_at >= revision || state.seen.plan.as_ref().is_some_and(|plan| plan.revision > over)
    };
    if !shared.until_or(newer, Duration::from_secs(1)).await {
        shared.rewatch.notify_one();
    }
}

async fn stand(shared: &Shared, session: Session) -> Result<(), EtcdError> {
    let node = shared.config.node.clone();
    let put = put_leased(shared.keys.leader(), &Holder { node: node.clone() }, session.lease)?;
    let registered = created_at(shared.keys.node(&node), session.incarnation);
    let txn = Txn::new().when([created_at(shared.keys.leader(), 0), registered]).and_then([put]);
    let response = shared.transact(&txn, shared.patience()).await?;
    if response.succeeded() {
        tracing::info!(%node, "this node leads the cluster");
    }
    let settled = |state: &State| state.seen.leader.is_some() || state.session != Some(session);
    if !shared.until_or(settled, Duration::from_secs(1)).await {
        shared.rewatch.notify_one();
    }
    Ok(())
}

fn next_step(shared: &Shared, state: &State, cold_since: &mut Option<Duration>) -> Step {
    let rest = Step::Rest(LOOK_EVERY);
    let Some(session) = state.session.filter(|_| !state.leaving) else { return rest };
    let (over, previous) = match &state.seen.plan {
        None => (0, Planned { plan: Plan::empty(shared.config.shards), ..Planned::default() }),
        Some(written) => match &written.planned {
            Some(planned) => (written.revision, planned.clone()),
            // A newer version wrote it, and has to plan.
            None => return rest,
        },
    };
    if state.seen.leader.is_none() {
        return Step::Stand(session);
    }
    let Some(tenure) = state.leads() else { return rest };
    let members = candidates(state);
    if previous.plan.is_cold(&members) {
        let since = *cold_since.get_or_insert_with(|| shared.clock.elapsed());
        let waited = shared.clock.elapsed().saturating_sub(since);
        // Nodes that start together are to share from the start, and not move most of it in a moment.
        let gather = (shared.config.lease_ttl / 5).min(Duration::from_secs(2));
        if waited < gather {
            return Step::Rest(gather.saturating_sub(waited));
        }
    }
    *cold_since = None;
    let (now, damping) = (shared.clock.now(), Damping::of_ttl(shared.config.lease_ttl));
    let next = plan(&previous.plan, &members, now, &damping);
    let next_change = next.next_change(now, &damping);
    let planned = follow_up(state, &previous, next, now);
    if planned != previous || over == 0 {
        return Step::Write { tenure, over, planned };
    }
    Step::Rest(next_change.map_or(LOOK_EVERY, |at| at.since(now).max(Duration::from_millis(1)).min(LOOK_EVERY)))
}

fn candidates(state: &State) -> Vec<Candidate> {
    let members = state.seen.nodes.iter().map(|(id, member)| Candidate {
        id: id.clone(),
        weight: member.beat.as_ref().map_or(1.0, |beat| beat.weight),
        draining: state.seen.is_draining(id),
        incarnation: u64::try_from(member.incarnation).unwrap_or(0),
    });
    // A weight comes from another process.
    members.map(|c| if c.weight.is_finite() && c.weight > 0.0 { c } else { Candidate { weight: 1.0, ..c } }).collect()
}

/// The plan with the events of what it changes.
fn follow_up(state: &State, previous: &Planned, plan: Plan, now: Timestamp) -> Planned {
    let present = |plan: &Plan| -> BTreeMap<NodeId, u64> {
        let memory = plan.memory.iter().filter(|(_, memory)| memory.gone.is_none());
        memory.map(|(id, memory)| (id.clone(), memory.incarnation)).collect()
    };
    let (before, after) = (present(&previous.plan), present(&plan));
    let draining = state.seen.draining();
    let new: BTreeSet<NodeId> = draining.difference(&previous.draining).cloned().collect();
    let mut planned = Planned { draining, ..previous.clone() };
    for id in before.iter().filter(|(id, was)| after.get(*id) != Some(*was)).map(|(id, _)| id) {
        planned.tell(id, ClusterEventKind::NodeLost, now);
    }
    for id in after.iter().filter(|(id, is)| before.get(*id) != Some(*is)).map(|(id, _)| id) {
        let beat = state.seen.nodes.get(id).and_then(|member| member.beat.as_ref());
        let version = beat.map_or_else(String::new, |beat| beat.version.clone());
        planned.tell(id, ClusterEventKind::NodeJoined { version }, now);
    }
    for id in &new {
        planned.tell(id, ClusterEventKind::NodeDraining, now);
    }
    for (at, (from, to)) in previous.plan.wanted.iter().zip(&plan.wanted).enumerate() {
        if let Some(to) = to.as_ref().filter(|to| Some(*to) != from.as_ref()) {
            let shard = ShardId(u16::try_from(at).expect("shards are numbered by u16"));
            planned.tell(to, ClusterEventKind::ShardMoved { shard, from: from.clone() }, now);
        }
    }
    Planned { plan, ..planned }
}

impl Planned {
    /// Keeps an event until it is published. Without room it gets no number, so that numbers stay without gaps.
    fn tell(&mut self, node: &NodeId, kind: ClusterEventKind, at: Timestamp) {
        let known = self.sequences.contains_key(node);
        if self.outbox.len() >= MAX_OUTBOX || (!known && self.sequences.len() >= MAX_SUBJECTS) {
            tracing::warn!(%node, ?kind, "no room for an event: nobody published those before");
            return;
        }
        let sequence = self.sequences.entry(node.clone()).or_insert(0);
        *sequence += 1;
        self.outbox.push(ClusterEvent { sequence: *sequence, at, node: node.clone(), kind });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_without_gaps_and_bounded() {
        let node = NodeId::new("n1").unwrap();
        let mut planned = Planned::default();
        for _ in 0..MAX_OUTBOX + 10 {
            planned.tell(&node, ClusterEventKind::NodeLost, Timestamp::EPOCH);
        }
        assert_eq!(planned.outbox.len(), MAX_OUTBOX);
        planned.outbox.clear();
        planned.tell(&node, ClusterEventKind::NodeLost, Timestamp::EPOCH);
        assert_eq!(planned.outbox[0].sequence, MAX_OUTBOX as u64 + 1);
    }

    #[test]
    fn joining_leaving_draining_and_moving_are_told() {
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let damping = Damping::of_ttl(Duration::from_secs(5));
        let member = |id: &NodeId, incarnation| Candidate { id: id.clone(), weight: 1.0, draining: false, incarnation };
        let mut state = State::new(a.clone());
        let mut step = |previous: &Planned, members: &[Candidate], drains: &[&NodeId]| {
            state.seen.drains = drains.iter().map(|id| (*id).clone()).collect();
            follow_up(&state, previous, plan(&previous.plan, members, Timestamp::EPOCH, &damping), Timestamp::EPOCH)
        };
        let told = |planned: &Planned| -> Vec<String> {
            planned.outbox.iter().map(|event| format!("{} {}", event.node, event.routing_key())).collect()
        };
        let empty = Planned { plan: Plan::empty(1), ..Planned::default() };
        let first = step(&empty, &[member(&a, 1)], &[]);
        assert_eq!(told(&first), ["a node.joined", "a shard.moved"]);
        let first = Planned { outbox: Vec::new(), ..first };
        let second = step(&first, &[member(&b, 2)], &[&b]);
        assert_eq!(told(&second), ["a node.lost", "b node.joined", "b node.draining", "b shard.moved"]);
        let second = Planned { outbox: Vec::new(), ..second };
        // Back before anybody noticed that it was away.
        let third = step(&second, &[member(&b, 3)], &[&b]);
        assert_eq!(told(&third), ["b node.lost", "b node.joined"]);
        assert_eq!(third.sequences, BTreeMap::from([(a, 3), (b, 5)]));
    }
}

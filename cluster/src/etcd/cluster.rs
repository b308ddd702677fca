//! A node of a cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Txn, TxnOp};
use reeve_ports::Clock;
use reeve_ports::coordination::{Cluster, Coordination, CoordinationError, Load, Skew};
use reeve_protocol::admin::{MemberView, ShardView};
use reeve_protocol::event::ClusterEvent;
use reeve_protocol::{Epoch, NodeId, ShardId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::EtcdClient;
use super::config::EtcdConfig;
use super::error::EtcdError;
use super::shared::{Shared, created_at, unencodable};
use super::state::{State, epoch};
use super::value::{self, Drain};
use super::{leading, ownership, reaping, session, watching};
use crate::shard_map::skew;

/// How long leaving may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// This node's place in a cluster: its membership, what it owns, what it knows of the others.
///
/// When the last clone is dropped, it stops at once and its lease runs out; [`EtcdCluster::leave`] is the polite way.
#[derive(Clone)]
pub struct EtcdCluster {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
}

/// The tasks of a node; they end with it.
struct Tasks(Mutex<Vec<JoinHandle<()>>>);

impl Tasks {
    fn abort(&self) {
        let mut tasks = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort();
    }
}

impl EtcdCluster {
    /// Joins the cluster, and founds it if it is the first. Waits while an earlier session of this id lives.
    ///
    /// # Errors
    /// [`EtcdError::Config`] when the configuration cannot work, does not fit the cluster, or names an id that another
    /// process uses; else as etcd's. Trying again later is right only after the latter.
    pub async fn join(config: EtcdConfig, clock: Arc<dyn Clock>) -> Result<Self, EtcdError> {
        let shared = Arc::new(Shared::new(config, clock)?);
        session::found_cluster(&shared).await?;
        watching::refresh(&shared).await?;
        let (first, registered) = oneshot::channel();
        let watching = tokio::spawn(watching::watch(shared.clone()));
        let keeping = tokio::spawn(session::keep(shared.clone(), first));
        // Dropped on a failure, they end.
        let tasks = Arc::new(Tasks(Mutex::new(vec![watching, keeping])));
        let registered = registered.await;
        registered.unwrap_or_else(|_| Err(EtcdError::Unavailable("the session's task ended".to_owned())))?;
        let more = [
            tokio::spawn(leading::lead(shared.clone())),
            tokio::spawn(ownership::sweep(shared.clone())),
            tokio::spawn(reaping::reap(shared.clone())),
        ];
        tasks.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(more);
        Ok(Self { shared, tasks })
    }

    /// Leaves the cluster: gives up at once whatever it still owns, which nobody may act for any more. Takes at most
    /// 5 s; if etcd does not answer, the lease ends by itself.
    pub async fn leave(&self) {
        self.shared.end_right_for_good();
        self.tasks.abort();
        let session = self.shared.session();
        self.shared.state.send_modify(|state| {
            state.leaving = true;
            state.session = None;
        });
        let Some(session) = session else { return };
        if let Err(error) = session::revoke(&self.shared, session.lease, LEAVE_LIMIT).await {
            tracing::warn!(%error, "this node could not leave; its lease ends by itself");
        }
    }

    /// The way to etcd, for the record store.
    #[must_use]
    pub fn client(&self) -> EtcdClient {
        self.shared.client.clone()
    }

    /// Where a node's RPC listens.
    #[must_use]
    pub fn address_of(&self, node: &NodeId) -> Option<String> {
        self.shared.state.borrow().seen.nodes.get(node)?.beat.as_ref()?.address.clone()
    }

    /// Waits until a plan was made that knows this node.
    pub async fn until_planned(&self) {
        self.shared.until(State::is_planned).await;
    }

    /// Whether a plan was made that knows this node.
    #[must_use]
    pub fn is_planned(&self) -> bool {
        self.shared.state.borrow().is_planned()
    }

    /// Waits until this node leads and events about the cluster are to be published, oldest first. They stay until
    /// [`EtcdCluster::published`], so one may be published twice, with the same id.
    pub async fn next_events(&self) -> Vec<ClusterEvent> {
        let waiting = |state: &State| -> Vec<ClusterEvent> {
            let outbox = state.leads().and_then(|_| state.seen.planned()).map(|planned| &planned.outbox);
            outbox.cloned().unwrap_or_default()
        };
        self.shared.until(|state| !waiting(state).is_empty()).await;
        waiting(&self.shared.state.borrow())
    }

    /// These events are published.
    ///
    /// # Errors
    /// When that cannot be written. They come again, perhaps at another node.
    pub async fn published(&self, events: &[ClusterEvent]) -> Result<(), CoordinationError> {
        // Each failure means that the plan changed in between.
        for _ in 0..5 {
            let (tenure, over, mut planned) = {
                let state = self.shared.state.borrow();
                let written = state.seen.plan.as_ref();
                let parts = written.and_then(|written| Some((written.revision, written.planned.clone()?)));
                let (Some(tenure), Some((over, planned))) = (state.leads(), parts) else { break };
                (tenure, over, planned)
            };
            planned.outbox.retain(|event| !events.contains(event));
            if leading::write(&self.shared, tenure, over, &planned).await? {
                return Ok(());
            }
        }
        Err(CoordinationError::Unavailable("this node leads no longer, or the plan changes too fast".to_owned()))
    }

    fn is_known(&self, node: &NodeId) -> bool {
        let state = self.shared.state.borrow();
        // This node may not have seen itself yet.
        *node == self.shared.config.node || state.seen.nodes.contains_key(node) || state.seen.drains.contains(node)
    }
}

#[async_trait]
impl Coordination for EtcdCluster {
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError> {
        ownership::claim(&self.shared, shard).await
    }

    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        ownership::confirm(&self.shared, shard, epoch).await
    }

    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        ownership::release(&self.shared, shard, epoch).await
    }

    async fn until_wanted(&self, shard: ShardId) {
        self.shared.until(|state| state.is_wanted(shard)).await;
    }

    async fn until_unwanted(&self, shard: ShardId) {
        self.shared.until(|state| state.is_told_to_go(shard)).await;
    }

    async fn until_lost(&self, shard: ShardId, epoch: Epoch) {
        self.shared.until(|state| state.is_lost(shard, epoch)).await;
    }

    fn may_act(&self) -> bool {
        self.shared.may_act()
    }

    fn holds(&self, shard: ShardId, epoch: Epoch) -> bool {
        self.shared.may_act() && self.shared.state.borrow().holds(shard, epoch)
    }

    async fn retire(&self) {
        self.shared.state.send_modify(|state| state.retiring = true);
        let Some(session) = self.shared.session() else { return };
        let beat = self.shared.state.borrow().seen.nodes.get(&self.shared.config.node).and_then(|me| me.beat.clone());
        let since = beat.map_or_else(|| self.shared.clock.now(), |beat| beat.since);
        // At once, so that the plan does not wait for the next beat.
        if let Err(error) = session::write_sign_of_life(&self.shared, since, session).await {
            tracing::debug!(%error, "that this node leaves is told by its next beat");
        }
        self.shared.until(State::is_handed_over).await;
    }

    fn report(&self, load: Load) {
        *self.shared.load.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = load;
    }

    fn skew(&self) -> Skew {
        let offsets: Vec<i64> = self.offsets().into_values().collect();
        let max_ms = u64::try_from(self.shared.config.max_clock_skew.as_millis()).unwrap_or(u64::MAX);
        skew::skew(&offsets, max_ms)
    }

    fn cluster(&self) -> Cluster {
        let offsets = self.offsets();
        let state = self.shared.state.borrow();
        let mut owned: BTreeMap<&NodeId, u16> = BTreeMap::new();
        for owner in state.seen.shards.values() {
            *owned.entry(&owner.node).or_default() += 1;
        }
        let median = skew::median(&offsets.values().copied().collect::<Vec<_>>());
        let offset_of = |id: &NodeId| {
            let own = (*id == self.shared.config.node && !offsets.is_empty()).then_some(0);
            offsets.get(id).copied().or(own).map(|offset| offset.saturating_sub(median))
        };
        let known = state.seen.nodes.keys().chain(&state.seen.drains);
        let members = known.map(|id| {
            let shards = owned.get(id).copied().unwrap_or(0);
            (id.clone(), member_view(&state, id, shards, offset_of(id)))
        });
        let shards = (0..self.shared.config.shards).map(|id| shard_view(&state, ShardId(id)));
        Cluster { members: members.collect(), shards: shards.collect() }
    }

    fn shard(&self, shard: ShardId) -> Option<ShardView> {
        (shard.0 < self.shared.config.shards).then(|| shard_view(&self.shared.state.borrow(), shard))
    }

    async fn drain(&self, node: &NodeId) -> Result<(), CoordinationError> {
        if !self.is_known(node) {
            return Err(CoordinationError::Refused(format!("there is no node {node}")));
        }
        let (key, through) = (self.shared.keys.drain(node), self.shared.config.node.clone());
        let bytes = value::encode(&Drain { at: self.shared.clock.now(), through }).map_err(|e| unencodable(&e))?;
        // A wish that stands already stays as it is.
        let txn = Txn::new().when([created_at(key.clone(), 0)]).and_then([TxnOp::put(key, bytes, None)]);
        self.shared.transact(&txn, self.shared.patience()).await?;
        Ok(())
    }

    async fn undrain(&self, node: &NodeId) -> Result<(), CoordinationError> {
        if !self.is_known(node) {
            return Err(CoordinationError::Refused(format!("there is no node {node}")));
        }
        let txn = Txn::new().and_then([TxnOp::delete(self.shared.keys.drain(node), None)]);
        self.shared.transact(&txn, self.shared.patience()).await?;
        Ok(())
    }
}

impl EtcdCluster {
    fn offsets(&self) -> BTreeMap<NodeId, i64> {
        let (received, config) = (self.shared.received(), &self.shared.config);
        self.shared.state.borrow().seen.offsets(&config.node, received, config.lease_ttl)
    }
}

fn shard_view(state: &State, id: ShardId) -> ShardView {
    let owner = state.seen.shards.get(&id);
    ShardView {
        id,
        owner: owner.map(|owner| owner.node.clone()),
        epoch: owner.map(|owner| epoch(owner.since)),
        wanted: state.seen.planned().and_then(|planned| planned.plan.wanted(id).cloned()),
    }
}

fn member_view(state: &State, id: &NodeId, shards: u16, clock_skew_ms: Option<i64>) -> MemberView {
    let member = state.seen.nodes.get(id);
    let name = match (member.is_some(), state.seen.is_draining(id)) {
        (true, false) => "ready",
        (true, true) if shards > 0 => "draining",
        (true, true) => "drained",
        (false, _) => "lost",
    };
    let beat = member.and_then(|member| member.beat.as_ref());
    MemberView {
        id: id.clone(),
        state: name.to_owned(),
        leader: member.is_some() && state.seen.leader.as_ref().is_some_and(|leader| leader.node == *id),
        version: beat.map_or_else(String::new, |beat| beat.version.clone()),
        address: beat.and_then(|beat| beat.address.clone()),
        since: beat.map(|beat| beat.since),
        shards,
        vms: beat.map_or(0, |beat| beat.vms),
        clock_skew_ms,
    }
}

//! The node: starts, answers administrators, stops.
//!
//! ```text
//! start: outbox ─► shard owners (claim, load, supervisors recover) ─► clock watch, reconcilers, consumers
//! stop:  shards handed over ─► consumers, reconcilers, clock watch ─► events out ─► what shards are left ─► the rest
//! ```

mod admin;
mod clock_watch;
mod consumer;
mod load_report;
pub(crate) mod outbox;
mod reconciler;
mod root;
pub(crate) mod router;
mod service;
pub(crate) mod shard;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use reeve_lifecycle::Policies;
use reeve_ports::{Bus, Coordination, Peers, RecordStore};
use reeve_protocol::ShardId;
use reeve_protocol::admin::ShardView;
use reeve_protocol::event::EventSource;
use tokio::sync::{oneshot, watch};

use self::outbox::{Unpublished, Unrecorded};
use self::root::{NodeRoot, RootArguments, ToRoot};
use self::router::{Router, Standing};
use self::shard::ToShard;
use crate::actor::ArbiterPool;
use crate::config::NodeConfig;
use crate::pacer::Pacer;
use crate::perform::Ports;
use crate::performer::Performer;
use crate::shared::{Counters, Over, Shared};
use crate::trust::ClockTrust;

/// What a node runs on. The binary chooses the implementations.
pub struct Adapters {
    /// The store of records.
    pub store: Arc<dyn RecordStore>,
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// Who owns what.
    pub coordination: Arc<dyn Coordination>,
    /// The other nodes; [`reeve_ports::NoPeers`] without a cluster.
    pub peers: Arc<dyn Peers>,
    /// The outward ports, and the clock.
    pub ports: Ports,
    /// Every configured policy.
    pub policies: Policies,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no actix system.
    #[error("no actix system is running (start the node inside run_system)")]
    NoSystem,
    /// There must be at least one shard.
    #[error("cluster.shards is 0, expected at least 1")]
    NoShards,
    /// The root does not start.
    #[error("the root of the node does not start: {0}")]
    Root(String),
}

/// Between two looks whether the node is ready.
const READY_LOOK: Duration = Duration::from_millis(20);

/// Which shards have been loaded, or found to be another node's.
pub(crate) struct Readiness(watch::Sender<BTreeSet<ShardId>>);

impl Readiness {
    fn new() -> Self {
        Self(watch::Sender::new(BTreeSet::new()))
    }

    pub(crate) fn mark(&self, shard: ShardId) {
        self.0.send_modify(|ready| {
            ready.insert(shard);
        });
    }

    fn has_all(&self, shards: u16) -> bool {
        self.0.borrow().len() >= usize::from(shards)
    }
}

/// A running node.
pub struct Node;

/// A running node's handle; see [`Node::start`].
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    arbiters: Arc<ArbiterPool>,
    ready: Arc<Readiness>,
    root: ActorRef<ToRoot>,
}

impl Node {
    /// Starts a node, inside [`crate::run_system`]. Returns when its own tree stands; the records are being loaded
    /// then, and intake begins when all of them are ([`NodeHandle::ready`]).
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(config: NodeConfig, adapters: Adapters) -> Result<NodeHandle, NodeError> {
        if config.runtime.shards == 0 {
            return Err(NodeError::NoShards);
        }
        let arbiters = ArbiterPool::new(config.runtime.arbiter_count()).map_err(|_| NodeError::NoSystem)?;
        let arbiters = Arc::new(arbiters);
        let Adapters { store, bus, coordination, peers, ports, policies } = adapters;
        let tokio = tokio::runtime::Handle::current();
        let clock = Arc::clone(&ports.clock);
        let shared = Arc::new(Shared {
            source: EventSource { cluster: config.cluster.clone(), node: config.node.clone() },
            store,
            bus,
            coordination,
            peers,
            trust: ClockTrust::new(Arc::clone(&clock), config.runtime.clock),
            performer: Performer::new(ports.clone(), config.runtime.caps, tokio.clone()),
            router: Arc::new(Router::new(config.runtime.shards, Arc::clone(&clock))),
            unpublished: Unpublished::default(),
            unrecorded: Unrecorded::default(),
            counters: Counters::default(),
            since: clock.now(),
            stopping: Over::default(),
            pacer: Pacer::new(config.runtime.wakeups_per_second),
            quarantine_pacer: Pacer::new(config.runtime.wakeups_per_second),
            config,
            ports,
            clock,
            policies,
            tokio,
        });
        let ready = Arc::new(Readiness::new());
        let arguments =
            RootArguments { shared: Arc::clone(&shared), arbiters: Arc::clone(&arbiters), ready: Arc::clone(&ready) };
        let (root, _) =
            NodeRoot::spawn(None, NodeRoot, arguments).await.map_err(|error| NodeError::Root(error.to_string()))?;
        let handle = NodeHandle { shared, arbiters, ready, root };
        let opening = handle.clone();
        handle.shared.tokio.spawn(async move {
            opening.ready().await;
            // A root that has ended opens nothing.
            let _ = opening.root.send_message(ToRoot::Open);
        });
        Ok(handle)
    }
}

impl NodeHandle {
    /// Waits until the node can serve: every shard that it is to have is loaded. A node of a cluster that is to have none
    /// is ready once that is known.
    pub async fn ready(&self) {
        while !self.is_ready() {
            // Real time: the plan is made by others.
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    /// Whether every shard that this node is to have is loaded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let cluster = self.shared.coordination.cluster();
        if cluster.members.is_empty() && cluster.shards.is_empty() {
            return self.ready.has_all(self.shared.config.runtime.shards);
        }
        let me = &self.shared.config.node;
        let is_settled = |shard: &ShardView| match &shard.wanted {
            Some(node) if node == me => self.shared.router.standing(shard.id) == Standing::Owned,
            Some(_) => true,
            // Nothing is planned yet.
            None => false,
        };
        !cluster.shards.is_empty() && cluster.shards.iter().all(is_settled)
    }

    /// Stops: takes nothing more in, publishes what is committed as far as time allows, lets every supervisor finish
    /// its commit, releases the shards, and ends. What workers were doing stays in the records and is continued by the
    /// next owner. The coordination is to leave after this. Takes at most `deadline`; true if everything ended in order
    /// within it.
    pub async fn stop(&self, deadline: Duration) -> bool {
        let began = self.shared.clock.elapsed();
        // In a cluster one shard after the other goes to another node while all VMs stay attended.
        if tokio::time::timeout(deadline / 2, self.shared.coordination.retire()).await.is_err() {
            tracing::warn!("not every shard was handed over; whoever takes the rest waits for its release");
        }
        let deadline = deadline.saturating_sub(self.shared.clock.elapsed().saturating_sub(began));
        let (done, closed) = oneshot::channel();
        let asked = self.root.send_message(ToRoot::CloseIntake(done)).is_ok();
        // Real time: an operator's patience does not follow a simulated clock.
        let mut in_order = asked && tokio::time::timeout(deadline / 8, closed).await.is_ok();
        let drained = tokio::time::timeout(deadline / 4, self.drained()).await;
        if drained.is_err() {
            tracing::info!("events are left unpublished; they stay in their records");
        }
        self.shared.stopping.begin();
        in_order &= tokio::time::timeout(deadline / 2, self.halt_shards()).await.is_ok();
        let ended = self.root.stop_and_wait(Some("the node stops".to_owned()), Some(deadline / 8)).await;
        self.arbiters.stop();
        in_order && ended.is_ok()
    }

    /// Waits until no events wait to be published.
    async fn drained(&self) {
        while self.shared.counters.outbox.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn halt_shards(&self) {
        let mut waiting = Vec::new();
        for shard in 0..self.shared.config.runtime.shards {
            let (done, halted) = oneshot::channel();
            if let Some(owner) = self.shared.router.owner(ShardId(shard))
                && owner.send_message(ToShard::Halt(done)).is_ok()
            {
                waiting.push(halted);
            }
        }
        for halted in waiting {
            // An owner that ended has no supervisors.
            let _ = halted.await;
        }
    }

    /// Stops an arbiter thread with every supervisor on it, as if it had died; they are started again on a new one.
    /// For tests of exactly that.
    #[must_use]
    pub fn kill_arbiter(&self, index: usize) -> bool {
        self.arbiters.kill(index)
    }

    /// How many arbiter threads there are.
    #[must_use]
    pub fn arbiters(&self) -> usize {
        self.arbiters.size()
    }

    /// Believes the wall clock again after a leap, on an operator's word.
    pub fn trust_clock(&self) {
        self.shared.trust.believe();
        self.shared.router.broadcast(&shard::Broadcast::Hold {
            cloud: None,
            hold: reeve_lifecycle::record::Hold::ClockUntrusted,
            begins: false,
        });
    }
}

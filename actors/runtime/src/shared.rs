//! What every actor of a node shares: the ports, the configuration, the counters and the way to the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use reeve_lifecycle::Policies;
use reeve_ports::{Bus, Clock, Coordination, Peers, RecordStore};
use reeve_protocol::event::EventSource;
use reeve_protocol::{NodeId, ShardId, Timestamp};
use tokio::sync::watch;

use crate::config::NodeConfig;
use crate::node::outbox::{Unpublished, Unrecorded};
use crate::node::router::{Router, Standing};
use crate::pacer::Pacer;
use crate::perform::Ports;
use crate::performer::Performer;
use crate::trust::ClockTrust;

/// What every actor of a node shares.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) source: EventSource,
    pub(crate) store: Arc<dyn RecordStore>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) ports: Ports,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) trust: ClockTrust,
    pub(crate) policies: Policies,
    pub(crate) performer: Performer,
    pub(crate) router: Arc<Router>,
    pub(crate) unpublished: Unpublished,
    pub(crate) unrecorded: Unrecorded,
    pub(crate) counters: Counters,
    pub(crate) since: Timestamp,
    pub(crate) stopping: Over,
    /// Slots for what was missed.
    pub(crate) pacer: Pacer,
    /// Slots for what waited out the quarantine.
    pub(crate) quarantine_pacer: Pacer,
    pub(crate) peers: Arc<dyn Peers>,
    /// The multi-thread runtime: whatever waits or computes for long runs there, never on an arbiter.
    pub(crate) tokio: tokio::runtime::Handle,
}

/// Counts since the node runs.
#[derive(Default)]
pub(crate) struct Counters {
    /// Children and supervisors restarted.
    pub(crate) child_restarts: AtomicU64,
    /// Supervisors that run now.
    pub(crate) vms: AtomicI64,
    /// Events that the bus has not confirmed yet.
    pub(crate) outbox: AtomicI64,
    /// Foreign messages that are not about a VM's life.
    pub(crate) not_about_vms: AtomicU64,
}

/// Tells those who wait without limit that it is over: that the node stops, or that a term has ended.
#[derive(Debug, Default)]
pub(crate) struct Over(watch::Sender<bool>);

impl Over {
    /// From now on nobody waits any longer.
    pub(crate) fn begin(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it begins.
    pub(crate) async fn begun(&self) {
        let mut receiver = self.0.subscribe();
        // The sender lives in `self`, which this future borrows.
        receiver.wait_for(|over| *over).await.expect("the sender is alive");
    }
}

impl Shared {
    /// Whether what is for a shard is taken in here: it is owned, or being claimed and nobody is known to own it. A node
    /// without a cluster owns all of them.
    pub(crate) fn takes(&self, shard: ShardId) -> bool {
        self.router.standing(shard).takes()
    }

    /// Whether the VMs of a shard are supervised here.
    pub(crate) fn owns(&self, shard: ShardId) -> bool {
        self.router.standing(shard) == Standing::Owned
    }

    /// Whether what the wall clock says may be far from the truth: it leapt, or differs from those of the other nodes.
    pub(crate) fn clock_is_in_doubt(&self) -> bool {
        self.trust.look_for_a_leap();
        self.trust.is_doubted() || self.coordination.skew().exceeded
    }

    /// The other node that owns a shard or is to own it, as far as the coordination knows without asking.
    pub(crate) fn elsewhere(&self, shard: ShardId) -> Option<NodeId> {
        let view = self.coordination.shard(shard)?;
        view.owner.or(view.wanted).filter(|node| *node != self.config.node)
    }
}

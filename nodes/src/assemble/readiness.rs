//! What a node lacks to be of use, from what it knows without asking.
//!
//! ```text
//! not planned, or shards to load ──once all is there──► ready: from now on only etcd and the broker can be missing
//! ```
//!
//! That a shard comes or goes later does not make a node useless: any node answers for any VM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reeve_cluster::etcd::EtcdCluster;
use reeve_cluster::rabbitmq::RabbitBus;
use reeve_ports::Coordination;
use reeve_runtime::NodeHandle;

use crate::http::Readiness;

/// The readiness of a node.
pub(super) struct OfNode {
    node: NodeHandle,
    cluster: Option<Arc<EtcdCluster>>,
    rabbit: Option<Arc<RabbitBus>>,
    /// Whether it had all its shards once.
    loaded: AtomicBool,
}

impl OfNode {
    pub(super) fn new(node: NodeHandle, cluster: Option<Arc<EtcdCluster>>, rabbit: Option<Arc<RabbitBus>>) -> Self {
        Self { node, cluster, rabbit, loaded: AtomicBool::new(false) }
    }

    fn unloaded(&self) -> Option<&'static str> {
        if self.loaded.load(Ordering::Relaxed) {
            return None;
        }
        if self.cluster.as_ref().is_some_and(|cluster| !cluster.is_planned()) {
            return Some("no plan of the cluster knows this node yet");
        }
        if !self.node.is_ready() {
            return Some("the shards that this node is to have are not loaded yet");
        }
        self.loaded.store(true, Ordering::Relaxed);
        None
    }
}

impl Readiness for OfNode {
    fn lacks(&self) -> Vec<String> {
        let may_act = self.cluster.as_ref().is_none_or(|cluster| cluster.may_act());
        let connected = self.rabbit.as_ref().is_none_or(|rabbit| rabbit.status().is_connected());
        let lacks = [
            (!may_act).then_some("etcd has not confirmed this node for too long: it does nothing"),
            self.unloaded(),
            (!connected).then_some("the broker is away, or takes no messages"),
        ];
        lacks.into_iter().flatten().map(str::to_owned).collect()
    }
}

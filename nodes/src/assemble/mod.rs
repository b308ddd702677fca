//! Puts a node together out of the parts that the configuration names: the only place that chooses implementations.
//!
//! ```text
//!                        alone                        [cluster]
//! records, ownership     <data_dir>/reeve.redb        EtcdStore, EtcdCluster ─┐
//! bus                    the same file, or RabbitBus  RabbitBus               ├─► Node
//! other nodes            none                         RpcPeers                │
//! [[cloud]]              SimCloud, OpenStackCloud     OpenStackCloud          │
//! [vault]                OpendalVault                 OpendalVault            │
//! [notify]               the log, e-mail, webhook     the same ───────────────┘
//!
//! start                          stop
//! 1 vault                        1 intake closed, what is committed published, shards handed over, supervisors ended
//! 2 file of records (alone)      2 cluster left: nobody waits for this node's lease to end
//! 3 bus                          3 broker told goodbye
//! 4 channels to people, clouds   4 file of records closed, because everything ends in it
//! 5 cluster joined: from here
//!   on others count on this node
//! 6 node
//! ```
//!
//! What a wrong configuration can break comes before the cluster is joined, so that it costs the others nothing.

mod cluster;
mod notify;
mod outages;
mod parts;
mod readiness;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reeve_cluster::embedded::{EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use reeve_cluster::etcd::EtcdCluster;
use reeve_cluster::rabbitmq::RabbitBus;
use reeve_cluster::rpc::Credentials;
use reeve_lifecycle::policy::Policies;
use reeve_ports::{AdminService, Bus, Clock, Coordination, NoPeers, Peers, RecordStore};
use reeve_runtime::{Adapters, Node, NodeConfig, NodeHandle, Ports};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::http::Readiness;

/// How long the broker may take to say goodbye.
const BROKER_STOP: Duration = Duration::from_secs(1);
/// How long leaving the cluster may take; then the lease ends by itself.
const LEAVE: Duration = Duration::from_secs(6);

/// A running node.
pub struct Running {
    node: NodeHandle,
    /// How long the node itself may take to stop.
    node_stop: Duration,
    bus: Arc<dyn Bus>,
    rabbit: Option<Arc<RabbitBus>>,
    ground: Ground,
    // What the simulated clouds, the cluster's news and the clouds' outages do by themselves; ends with the node.
    _background: JoinSet<()>,
}

/// What a node stands on.
enum Ground {
    /// A file of its own.
    Alone(EmbeddedDb),
    /// A cluster.
    Cluster(Arc<EtcdCluster>),
}

/// The ports that a node's ground provides.
struct Footing {
    store: Arc<dyn RecordStore>,
    coordination: Arc<dyn Coordination>,
    peers: Arc<dyn Peers>,
}

/// Starts a node, inside [`reeve_runtime::run_system`]. Waits for etcd as long as it is away. `credentials` are those of
/// the RPC, if it is reached from elsewhere.
///
/// # Errors
/// When a part cannot be opened: which one, and why.
pub async fn start(
    config: &Config,
    clock: Arc<dyn Clock>,
    credentials: Option<Credentials>,
) -> anyhow::Result<Running> {
    let policies = Policies::new(config.policy.clone())?;
    let vault = config.vault.open(Arc::clone(&clock));
    let vault = vault.with_context(|| format!("cannot open the vault {}", config.vault.url))?;
    if let Err(error) = vault.probe_writable().await {
        // Leases, watching and repair do not need it; backups are retried, and raise their own alerts.
        tracing::error!(%error, "backups cannot be kept until the vault can be written");
    }
    let db = match &config.cluster {
        None => Some(EmbeddedDb::open(config.node.data_dir.join("reeve.redb")).await?),
        Some(_) => None,
    };
    let (bus, rabbit) = parts::bus(config, db.as_ref(), &clock).await?;
    let notifier = notify::notifier(config, &clock)?;
    let mut background = JoinSet::new();
    let clouds = parts::clouds(config, &clock, &bus, &mut background)?;
    let (ground, footing) = match (db, &config.cluster) {
        (Some(db), _) => alone(db),
        (None, section) => {
            let section = section.as_ref().expect("without a file of records there is a cluster");
            let cluster = cluster::join(config, section, &clock).await?;
            cluster::publish_news(&cluster, config, &bus, &clock, &mut background);
            let footing = cluster::footing(&cluster, section, credentials);
            (Ground::Cluster(cluster), footing)
        }
    };
    let runtime = parts::runtime(config)?;
    let ports = Ports {
        clock,
        cloud: clouds.cloud,
        probe: clouds.probe,
        vault: Arc::new(vault),
        notifier,
        timeouts: runtime.timeouts,
    };
    let Footing { store, coordination, peers } = footing;
    let adapters = Adapters { store, bus: Arc::clone(&bus), coordination, peers, ports, policies };
    let node = NodeConfig { node: config.node.id.clone(), cluster: config.cluster_name().to_owned(), runtime };
    let node = Node::start(node, adapters).await?;
    Ok(Running { node, node_stop: node_stop(config), bus, rabbit, ground, _background: background })
}

fn alone(db: EmbeddedDb) -> (Ground, Footing) {
    let footing = Footing {
        store: Arc::new(EmbeddedStore::new(db.clone())),
        coordination: Arc::new(EmbeddedCoordination::new(db.clone())),
        peers: Arc::new(NoPeers),
    };
    (Ground::Alone(db), footing)
}

/// Handing shards over one by one takes longer than letting go of them all.
const fn node_stop(config: &Config) -> Duration {
    match config.cluster {
        None => Duration::from_secs(5),
        Some(_) => Duration::from_secs(20),
    }
}

/// The longest that stopping a node takes, everything together.
#[must_use]
pub const fn stops_within(config: &Config) -> Duration {
    match config.cluster {
        None => Duration::from_secs(9),
        Some(_) => Duration::from_secs(30),
    }
}

impl Running {
    /// What answers administrators.
    #[must_use]
    pub fn service(&self) -> Arc<dyn AdminService> {
        Arc::new(self.node.clone())
    }

    /// What the node still lacks to be of use, for those who ask it over HTTP.
    #[must_use]
    pub fn readiness(&self) -> Arc<dyn Readiness> {
        let cluster = match &self.ground {
            Ground::Alone(_) => None,
            Ground::Cluster(cluster) => Some(Arc::clone(cluster)),
        };
        Arc::new(readiness::OfNode::new(self.node.clone(), cluster, self.rabbit.clone()))
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.bus)
    }

    /// Waits until the node does its share: in a cluster there is a plan, every record of its shards is loaded, and
    /// the broker is there. From then on messages are taken in.
    pub async fn ready(&self) {
        match &self.ground {
            Ground::Alone(_) => {}
            Ground::Cluster(cluster) => cluster.until_planned().await,
        }
        self.node.ready().await;
        if let Some(rabbit) = &self.rabbit {
            rabbit.connected().await;
        }
    }

    /// Stops the node itself: nothing more is taken in, what is in flight is finished or stays in its record, and the
    /// shards are given up. Administrators are told so from now on.
    pub async fn hand_over(&self) {
        if !self.node.stop(self.node_stop).await {
            tracing::warn!("not everything ended in order; whoever owns the shards next continues it");
        }
    }

    /// Leaves the cluster and closes everything else, after [`Running::hand_over`].
    pub async fn close(self) {
        if let Ground::Cluster(cluster) = &self.ground
            && tokio::time::timeout(LEAVE, cluster.leave()).await.is_err()
        {
            tracing::warn!("the cluster was left without a goodbye; it waits until the lease ends");
        }
        if let Some(rabbit) = self.rabbit
            && tokio::time::timeout(BROKER_STOP, rabbit.close()).await.is_err()
        {
            tracing::warn!("the broker was left without a goodbye");
        }
        if let Ground::Alone(db) = self.ground {
            db.close().await;
        }
    }
}

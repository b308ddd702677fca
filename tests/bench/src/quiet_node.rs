//! A node without clouds, in this process: records and their trees, and whatever is asked of them. Its bus is a file; what
//! it stands on otherwise is given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_cluster::embedded::{BusLimits, EmbeddedBus, EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use reeve_drivers::{LogNotifier, OpendalVault};
use reeve_ports::store::RecordStore;
use reeve_ports::{AdminService, Clock, Coordination, NoPeers, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::{Generation, NodeId, ShardId, VmId};
use reeve_runtime::{Adapters, Node, NodeConfig, NodeHandle, Ports, RuntimeConfig, Timeouts};

use crate::records;
use crate::servers::{SHARDS, write};

const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(300);
const STOP: Duration = Duration::from_secs(20);

/// The node, and the file of its bus.
pub(crate) struct QuietNode {
    pub(crate) handle: NodeHandle,
    db: EmbeddedDb,
}

/// What it stands on.
pub(crate) struct Footing {
    pub(crate) store: Arc<dyn RecordStore>,
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) node: NodeId,
    pub(crate) cluster: &'static str,
}

impl QuietNode {
    /// Starts it. Returns when its own tree stands; the records are being loaded then.
    pub(crate) async fn start(folder: &Path, footing: Footing) -> Result<Self> {
        let db = EmbeddedDb::open(folder.join("bus.redb")).await?;
        Self::over(folder, db, footing).await
    }

    /// One on a file of its own, as `reeve control` without a cluster has it, with this many VMs; all are supervised.
    pub(crate) async fn alone(folder: &Path, vms: u64) -> Result<Self> {
        let db = EmbeddedDb::open(folder.join("reeve.redb")).await?;
        let store = Arc::new(EmbeddedStore::new(db.clone()));
        let coordination = Arc::new(EmbeddedCoordination::new(db.clone()));
        fill(store.as_ref(), coordination.as_ref(), vms).await?;
        let node = NodeId::new("n1").expect("a short plain word is a node id");
        let node = Self::over(folder, db, Footing { store, coordination, node, cluster: "standalone" }).await?;
        node.supervises(vms).await?;
        Ok(node)
    }

    async fn over(folder: &Path, db: EmbeddedDb, footing: Footing) -> Result<Self> {
        let Footing { store, coordination, node, cluster } = footing;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let timeouts = Timeouts::default();
        let adapters = Adapters {
            store,
            bus: Arc::new(EmbeddedBus::open(db.clone(), Arc::clone(&clock), BusLimits::default()).await?),
            coordination,
            peers: Arc::new(NoPeers),
            ports: Ports {
                clock,
                cloud: BTreeMap::new(),
                probe: BTreeMap::new(),
                vault: Arc::new(OpendalVault::in_folder(folder.join("vault"))?),
                notifier: Arc::new(LogNotifier),
                timeouts,
            },
            policies: records::policies(),
        };
        // As a node of a cluster has it.
        let quarantine = timeouts.call + Duration::from_secs(5);
        let runtime = RuntimeConfig { shards: SHARDS, quarantine, ..RuntimeConfig::default() };
        let config = NodeConfig { node, cluster: cluster.to_owned(), runtime };
        Ok(Self { handle: Node::start(config, adapters).await?, db })
    }

    /// Waits until it supervises so many VMs, those of [`records`], and the last of each shard has answered: what is asked
    /// comes behind the supervisor's own beginning, which calls `recover()`.
    pub(crate) async fn supervises(&self, vms: u64) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.has(vms)).await.context("not every VM is supervised in time")??;
        for vm in last_of_each_shard(vms) {
            match self.ask(AdminRequest::VmShow(vm)).await {
                AdminReply::Vm(_) => {}
                other => bail!("VM {vm} is answered for with {other:?}"),
            }
        }
        Ok(())
    }

    async fn has(&self, vms: u64) -> Result<()> {
        loop {
            match self.ask(AdminRequest::Node).await {
                AdminReply::Node(view) if view.vms >= vms && self.handle.is_ready() => return Ok(()),
                AdminReply::Node(_) => tokio::time::sleep(POLL).await,
                other => bail!("the node answered {other:?}"),
            }
        }
    }

    /// Asks it, as its administrator.
    pub(crate) async fn ask(&self, request: AdminRequest) -> AdminReply {
        self.handle.ask(&Principal::local(), request).await
    }

    /// Stops it.
    pub(crate) async fn stop(self) {
        self.handle.stop(STOP).await;
        self.db.close().await;
    }
}

async fn fill(store: &EmbeddedStore, coordination: &EmbeddedCoordination, vms: u64) -> Result<()> {
    let now = SystemClock.now();
    let mut epochs = Vec::new();
    for shard in 0..SHARDS {
        epochs.push(coordination.claim(ShardId(shard)).await?);
    }
    let puts = (0..vms).map(|index| {
        let record = records::record(index, now);
        let shard = ShardId::of(record.vm, SHARDS);
        let epoch = epochs[usize::from(shard.0)];
        async move { anyhow::Ok(store.commit(shard, epoch, write(&record, Generation::default())?).await?) }
    });
    futures::future::try_join_all(puts).await?;
    for (shard, epoch) in (0..).map(ShardId).zip(epochs) {
        coordination.release(shard, epoch).await?;
    }
    Ok(())
}

fn last_of_each_shard(vms: u64) -> Vec<VmId> {
    let mut last: BTreeMap<ShardId, VmId> = BTreeMap::new();
    for vm in (0..vms).map(records::vm) {
        let known = last.entry(ShardId::of(vm, SHARDS)).or_insert(vm);
        *known = vm.max(*known);
    }
    last.into_values().collect()
}

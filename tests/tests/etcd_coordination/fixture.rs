//! Nodes as small as they can be: they claim what is wanted of them and give up what is not.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked for it")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use reeve_cluster::etcd::{EtcdCluster, EtcdConfig, EtcdError};
use reeve_ports::conformance::coordination::CoordinationFixture;
use reeve_ports::{Clock, Coordination, Sleep, SystemClock};
use reeve_protocol::{Epoch, NodeId, ShardId, Timestamp};
use reeve_tests::harness::{Etcd, Proxy};
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest that etcd grants.
pub(crate) const TTL: Duration = Duration::from_secs(2);
pub(crate) const SHARDS: u16 = 16;

static ETCD: OnceCell<Etcd> = OnceCell::const_new();
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// The binary's etcd.
pub(crate) async fn etcd() -> &'static Etcd {
    ETCD.get_or_init(async || Etcd::start(1).await.expect("etcd starts")).await
}

/// The real clocks, but for a wall clock that can be set and sleeps that can be kept from ending.
pub(crate) struct TestClock {
    ahead_ms: AtomicI64,
    stopped: watch::Sender<bool>,
}

impl TestClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { ahead_ms: AtomicI64::new(0), stopped: watch::Sender::new(false) })
    }

    pub(crate) fn set_ahead(&self, ms: i64) {
        self.ahead_ms.store(ms, Ordering::SeqCst);
    }

    /// Whatever sleeps does not wake.
    pub(crate) fn stop(&self, stopped: bool) {
        self.stopped.send_replace(stopped);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(SystemClock.now().as_millis() + self.ahead_ms.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let mut stopped = self.stopped.subscribe();
        Box::pin(async move {
            SystemClock.sleep(duration).await;
            // A clock that is gone stops nobody.
            let _ = stopped.wait_for(|stopped| !*stopped).await;
        })
    }
}

/// A cluster in an etcd.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) endpoints: Vec<String>,
    name: String,
    pub(crate) ttl: Duration,
    /// Who owns each shard, as the nodes themselves say: a claim enters, an end removes.
    pub(crate) owners: Arc<Mutex<BTreeMap<ShardId, (NodeId, Epoch)>>>,
    /// The greatest epoch of each shard.
    pub(crate) epochs: Arc<Mutex<BTreeMap<ShardId, Epoch>>>,
    /// What went against the rules.
    pub(crate) faults: Arc<Mutex<Vec<String>>>,
    /// The nodes, to ask an owner whether it still may act when another takes over.
    nodes: Arc<Mutex<BTreeMap<NodeId, EtcdCluster>>>,
    pub(crate) told: Arc<AtomicU32>,
}

/// A node that claims and releases.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) cluster: EtcdCluster,
    pub(crate) clock: Arc<TestClock>,
    world: World,
    workers: JoinSet<()>,
}

async fn client(endpoints: Vec<String>) -> etcd_client::Client {
    etcd_client::Client::connect(endpoints, None).await.unwrap()
}

pub(crate) fn node_id(id: &str) -> NodeId {
    NodeId::new(id).unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(etcd().await.endpoints())
    }

    pub(crate) fn on(endpoints: Vec<String>) -> Self {
        // Shown with a failed test, from the level in RUST_LOG on; another test may have set it up.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        Self {
            endpoints,
            name: format!("test-{}", CLUSTERS.fetch_add(1, Ordering::SeqCst)),
            ttl: TTL,
            owners: Arc::default(),
            epochs: Arc::default(),
            faults: Arc::default(),
            nodes: Arc::default(),
            told: Arc::default(),
        }
    }

    pub(crate) fn config(&self, id: &str) -> EtcdConfig {
        let mut config = EtcdConfig::new(self.endpoints.clone(), &self.name, node_id(id));
        (config.shards, config.lease_ttl) = (SHARDS, self.ttl);
        config
    }

    /// The configuration of a node that reaches etcd through this proxy alone.
    pub(crate) fn config_through(&self, id: &str, proxy: &Proxy) -> EtcdConfig {
        EtcdConfig { endpoints: vec![format!("http://{}", proxy.address())], ..self.config(id) }
    }

    pub(crate) async fn join(&self, id: &str) -> Node {
        self.join_with(self.config(id)).await
    }

    pub(crate) async fn join_with(&self, config: EtcdConfig) -> Node {
        self.try_join(config).await.expect("the node joins")
    }

    pub(crate) async fn try_join(&self, config: EtcdConfig) -> Result<Node, EtcdError> {
        let (id, clock) = (config.node.clone(), TestClock::new());
        let cluster = EtcdCluster::join(config, clock.clone()).await?;
        self.nodes.lock().unwrap().insert(id.clone(), cluster.clone());
        let mut workers = JoinSet::new();
        for shard in (0..SHARDS).map(ShardId) {
            workers.spawn(work(self.clone(), id.clone(), cluster.clone(), shard));
        }
        Ok(Node { id, cluster, clock, world: self.clone(), workers })
    }

    pub(crate) fn counts(&self) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for (node, _) in self.owners.lock().unwrap().values() {
            *counts.entry(node.clone()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn count(&self, id: &str) -> usize {
        self.counts().get(&node_id(id)).copied().unwrap_or(0)
    }

    /// Until so many of the shards are owned by each of these and nobody else owns any.
    pub(crate) async fn until_shared(&self, among: &[&str]) {
        let fair = usize::from(SHARDS) / among.len();
        let shared = || {
            let counts = self.counts();
            let fair = among.iter().all(|id| (fair..=fair + 1).contains(&self.count(id)));
            fair && counts.len() == among.len() && counts.values().sum::<usize>() == usize::from(SHARDS)
        };
        self.until(&format!("the shards are shared among {among:?}"), shared).await;
    }

    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "waited in vain until {what}: {:?}", self.owners.lock().unwrap());
        self.check();
    }

    pub(crate) fn check(&self) {
        assert_eq!(*self.faults.lock().unwrap(), Vec::<String>::new());
    }

    pub(crate) fn epochs_of(&self, id: &str) -> BTreeMap<ShardId, Epoch> {
        let owners = self.owners.lock().unwrap();
        let own = owners.iter().filter(|(_, (node, _))| node.as_str() == id);
        own.map(|(shard, (_, epoch))| (*shard, *epoch)).collect()
    }

    /// The lease of a node that lives.
    pub(crate) async fn lease_of(&self, id: &str) -> i64 {
        let key = format!("/reeve/{}/nodes/{id}", self.name);
        client(self.endpoints.clone()).await.get(key, None).await.unwrap().kvs()[0].lease()
    }

    /// Renews the lease of a node that lives, whatever becomes of the node, as etcd does once whenever another of its
    /// members begins to lead. Until the lease is over, or this is dropped.
    pub(crate) async fn extend(&self, id: &str) -> JoinSet<()> {
        let (lease, client) = (self.lease_of(id).await, client(etcd().await.endpoints()).await);
        let every = self.ttl / 8;
        let mut extending = JoinSet::new();
        extending.spawn(async move {
            while client.lease_client().keep_alive(lease).await.is_ok() {
                tokio::time::sleep(every).await;
            }
        });
        extending
    }

    fn claimed(&self, node: &NodeId, shard: ShardId, epoch: Epoch) {
        let mut faults = self.faults.lock().unwrap();
        let before = self.epochs.lock().unwrap().insert(shard, epoch);
        if before.is_some_and(|before| before >= epoch) {
            faults.push(format!("shard {shard}: epoch {epoch:?} follows {before:?}"));
        }
        let replaced = self.owners.lock().unwrap().insert(shard, (node.clone(), epoch));
        let Some((other, _)) = replaced.filter(|(other, _)| other != node) else { return };
        // It did not say that it gave the shard up: then it must be unable to act.
        if self.nodes.lock().unwrap().get(&other).is_some_and(Coordination::may_act) {
            faults.push(format!("shard {shard} went to {node} while {other} may act for it"));
        }
    }

    fn ended(&self, node: &NodeId, shard: ShardId, epoch: Epoch) {
        let mut owners = self.owners.lock().unwrap();
        if owners.get(&shard).is_some_and(|owner| *owner == (node.clone(), epoch)) {
            owners.remove(&shard);
        }
    }
}

/// One shard's life on one node.
async fn work(world: World, node: NodeId, cluster: EtcdCluster, shard: ShardId) {
    loop {
        cluster.until_wanted(shard).await;
        let Ok(epoch) = cluster.claim(shard).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        world.claimed(&node, shard, epoch);
        tokio::select! {
            () = cluster.until_unwanted(shard) => {
                if world.told.fetch_add(1, Ordering::SeqCst) > 0 {
                    world.faults.lock().unwrap().push(format!("shard {shard} goes beside another"));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                world.ended(&node, shard, epoch);
                world.told.fetch_sub(1, Ordering::SeqCst);
                // It ends with the session if it cannot be released.
                let _ = cluster.release(shard, epoch).await;
            }
            () = cluster.until_lost(shard, epoch) => world.ended(&node, shard, epoch),
        }
    }
}

impl Node {
    /// Ends as if killed: nothing is released, and its lease runs out.
    pub(crate) async fn die(mut self) {
        self.workers.shutdown().await;
        self.world.nodes.lock().unwrap().remove(&self.id);
    }

    pub(crate) async fn leave(mut self) {
        self.workers.shutdown().await;
        self.world.nodes.lock().unwrap().remove(&self.id);
        self.world.owners.lock().unwrap().retain(|_, (owner, _)| *owner != self.id);
        self.cluster.leave().await;
    }
}

/// A single node, for the conformance suite.
pub(crate) struct Alone {
    world: World,
    cluster: Option<EtcdCluster>,
}

impl Alone {
    pub(crate) async fn new() -> Self {
        let world = World::new().await;
        let mut alone = Self { world, cluster: None };
        alone.join().await;
        alone
    }

    async fn join(&mut self) {
        let cluster = EtcdCluster::join(self.world.config("alone"), Arc::new(SystemClock)).await.unwrap();
        for shard in (0..SHARDS).map(ShardId) {
            cluster.until_wanted(shard).await;
        }
        self.cluster = Some(cluster);
    }
}

#[async_trait]
impl CoordinationFixture for Alone {
    fn coordination(&self) -> Arc<dyn Coordination> {
        Arc::new(self.cluster.clone().expect("it joined"))
    }

    async fn restart(&mut self) {
        // Killed: the next life waits until the lease of this one ends.
        self.cluster = None;
        self.join().await;
    }
}

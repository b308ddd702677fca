//! A whole node of Reeve over ports that cost next to nothing, so that what is measured is the node.
//!
//! The node is the product's own ([`reeve_runtime::Node`]); the store makes its records when they are asked for, the
//! cloud lists the same VMs, the probe says "up", the bus takes everything. Runs inside [`run`].

mod cloud;
mod ports;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_drivers::{MemoryNotifier, OpendalVault};
use reeve_lifecycle::record::{Health, PauseReason};
use reeve_lifecycle::{Policies, VmRecord};
use reeve_ports::{Clock, Cloud, GuestProbe, NoPeers, SystemClock};
use reeve_protocol::{NodeId, Span, Timestamp};
use reeve_runtime::{Adapters, Node, NodeConfig, NodeHandle, Ports, RuntimeConfig, Timeouts};
use tokio::time::Instant;

pub(crate) use self::cloud::{ListedCloud, facts_of};
pub(crate) use self::ports::{Alone, CHUNK, CountingBus, CountingClock, FreeProbe, SYSTEM};
pub(crate) use self::store::{Commit, Kept, MadeStore};
use crate::records;

/// The longest that a fleet may take until it is alive.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(2);

/// Makes the record of an index, as of a time.
pub(crate) type Make = Arc<dyn Fn(u64, Timestamp) -> VmRecord + Send + Sync>;

/// A cloud and its probe.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) cloud: Arc<dyn Cloud>,
    pub(crate) probe: Arc<dyn GuestProbe>,
}

/// What a node is to be.
pub(crate) struct Setup {
    /// How many VMs.
    pub(crate) vms: u64,
    /// What their records are.
    pub(crate) make: Make,
    /// The policies that the records are under.
    pub(crate) policies: Policies,
    /// Whether the bytes of the records are kept, or made when they are asked for.
    pub(crate) kept: Kept,
    /// Whether there is a cloud to be listed.
    pub(crate) listed: bool,
    /// Takes the place of the cloud and the probe that cost nothing.
    pub(crate) outside: Option<Outside>,
    /// Arbiter threads; 0 takes one per core.
    pub(crate) arbiters: usize,
    /// Takes the place of a counting clock at the speed of the machine's.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    /// How many times as fast as the machine's the counting clock goes.
    pub(crate) speed: u32,
}

impl Setup {
    /// So many ordinary VMs.
    pub(crate) fn of(vms: u64) -> Self {
        Self {
            vms,
            make: Arc::new(records::record),
            policies: records::policies(),
            kept: Kept::Nothing,
            listed: false,
            outside: None,
            arbiters: 0,
            clock: None,
            speed: 1,
        }
    }
}

/// Everything that a node is started on, before it is.
pub(crate) struct Prepared {
    config: NodeConfig,
    adapters: Adapters,
    world: World,
}

/// What surrounds a node.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) vms: u64,
    pub(crate) store: Arc<MadeStore>,
    pub(crate) clock: Arc<CountingClock>,
    pub(crate) probe: Arc<FreeProbe>,
    pub(crate) bus: Arc<CountingBus>,
    pub(crate) cloud: Arc<ListedCloud>,
}

/// A running node.
pub(crate) struct Running {
    pub(crate) node: NodeHandle,
    pub(crate) world: World,
}

/// Runs a measurement in the two runtimes of a node.
pub(crate) fn run<T, F: Future<Output = Result<T>>>(measure: impl FnOnce() -> F) -> Result<T> {
    reeve_runtime::run_system(measure)
}

impl Setup {
    /// Makes the ports, and the records that are kept.
    pub(crate) fn prepare(self) -> Result<Prepared> {
        let runtime = RuntimeConfig { arbiters: self.arbiters, ..RuntimeConfig::default() };
        let now = SystemClock.now();
        let store = MadeStore::new(self.vms, runtime.shards, Arc::clone(&self.make), now, self.kept)?;
        let world = World {
            vms: self.vms,
            store: Arc::new(store),
            clock: Arc::new(CountingClock::new(self.speed)),
            probe: Arc::new(FreeProbe::default()),
            bus: Arc::new(CountingBus::default()),
            cloud: Arc::new(ListedCloud::new(self.vms, self.make, now)),
        };
        let own = Outside { cloud: Arc::clone(&world.cloud) as _, probe: Arc::clone(&world.probe) as _ };
        let Outside { cloud, probe } = self.outside.unwrap_or(own);
        let listed = self.listed.then(|| (records::cloud(), cloud));
        let ports = Ports {
            clock: self.clock.unwrap_or_else(|| Arc::clone(&world.clock) as Arc<dyn Clock>),
            cloud: listed.into_iter().collect(),
            probe: BTreeMap::from([(records::cloud(), probe)]),
            vault: Arc::new(OpendalVault::in_memory()?),
            notifier: Arc::new(MemoryNotifier::new(1)),
            timeouts: Timeouts::default(),
        };
        let adapters = Adapters {
            store: Arc::clone(&world.store) as _,
            bus: Arc::clone(&world.bus) as _,
            coordination: Arc::new(Alone),
            peers: Arc::new(NoPeers),
            ports,
            policies: self.policies,
        };
        let config = NodeConfig { node: NodeId::new("bench")?, cluster: "bench".to_owned(), runtime };
        Ok(Prepared { config, adapters, world })
    }
}

impl Prepared {
    /// Starts the node.
    pub(crate) async fn start(self) -> Result<Running> {
        let node = Node::start(self.config, self.adapters).await.context("the node")?;
        Ok(Running { node, world: self.world })
    }
}

impl Running {
    /// Waits until every supervisor has called `recover()` and its timer sleeps, and so many pollers as well. The timers of
    /// so many VMs (`soon`) have a deadline within the longest sleep of a timer.
    pub(crate) async fn alive(&self, pollers: u64, soon: u64) -> Result<()> {
        let World { vms, clock, .. } = &self.world;
        let is_alive = || {
            let (chunks, shorter) = (clock.chunks.load(Ordering::Relaxed), clock.shorter.load(Ordering::Relaxed));
            chunks + soon >= *vms && chunks + shorter >= *vms + pollers
        };
        until("every tree lives", is_alive).await
    }

    /// Ends the node. What is measured is measured: nobody waits for a million supervisors to end in order.
    pub(crate) async fn end(self) {
        let _ = self.node.stop(Duration::from_millis(200)).await;
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > PATIENCE {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// A policy whose VMs are probed this often, or not at all.
pub(crate) fn watched(every: Option<Span>) -> Result<Policies> {
    let mut policy = records::policy();
    policy.terms.health.enabled = every.is_some();
    policy.terms.health.interval = every.unwrap_or(policy.terms.health.interval);
    Ok(Policies::new(BTreeMap::from([(policy.name, policy.terms)]))?)
}

/// Makes ordinary records under this policy.
pub(crate) fn under(policies: &Policies) -> Result<Make> {
    let policy = policies.get(&records::policy().name).context("there is a default policy")?;
    let health =
        if policy.terms.health.enabled { Health::Up } else { Health::Paused { reason: PauseReason::Disabled } };
    Ok(Arc::new(move |index, now| VmRecord {
        policy: policy.clone(),
        health: health.clone(),
        ..records::record(index, now)
    }))
}

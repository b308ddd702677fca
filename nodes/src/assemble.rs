//! Puts a node together out of the parts that the configuration names: the only place that chooses implementations.
//!
//! ```text
//! <data_dir>/reeve.redb ─► records, ownership ─┐
//! [bus] ─► RabbitBus, else the same file       ├─► Node
//! [[cloud]] ─► SimCloud in <data_dir>/cloud/…  │
//! [vault] ─► OpendalVault ─────────────────────┘
//! ```
//!
//! Parts are opened in this order and closed in the reverse one: the file last, because everything ends in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reeve_cluster::embedded::{BusLimits, EmbeddedBus, EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use reeve_cluster::rabbitmq::{Authority, BrokerUrl, IntakeConfig, RabbitBus, RabbitConfig};
use reeve_drivers::{LogNotifier, SimCloud, vault_from_url};
use reeve_lifecycle::policy::Policies;
use reeve_ports::{AdminService, Bus, Clock, Cloud, GuestProbe, SystemClock};
use reeve_protocol::CloudName;
use reeve_runtime::{Adapters, Node, NodeConfig, NodeHandle, Notifications, Ports, RuntimeConfig};
use tokio::task::JoinSet;

use crate::config::{BusSection, CloudSection, Config, Driver, NotificationFormat};
use crate::intake::{QuietIntakes, feed};

/// What a node without a cluster calls its cluster.
const STANDALONE: &str = "standalone";
/// How long the node itself may take to stop.
const NODE_STOP: Duration = Duration::from_secs(5);
/// How long the broker may take to say goodbye.
const BROKER_STOP: Duration = Duration::from_secs(1);

/// A running node.
pub struct Running {
    node: NodeHandle,
    bus: Arc<dyn Bus>,
    rabbit: Option<Arc<RabbitBus>>,
    db: EmbeddedDb,
    // What the simulated clouds do by themselves; ends with the node.
    _background: JoinSet<()>,
}

/// The clouds, and what probes their VMs.
#[derive(Default)]
struct Clouds {
    cloud: BTreeMap<CloudName, Arc<dyn Cloud>>,
    probe: BTreeMap<CloudName, Arc<dyn GuestProbe>>,
}

/// Starts a node, inside [`reeve_runtime::run_system`].
///
/// # Errors
/// When a part cannot be opened: which one, and why.
pub async fn start(config: &Config) -> anyhow::Result<Running> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let policies = Policies::new(config.policy.clone())?;
    let vault =
        vault_from_url(&config.vault.url).with_context(|| format!("cannot open the vault {}", config.vault.url))?;
    if let Err(error) = vault.probe_writable().await {
        // Leases, watching and repair do not need it; backups are retried, and raise their own alerts.
        tracing::error!(%error, "backups cannot be kept until the vault can be written");
    }
    let db = EmbeddedDb::open(config.node.data_dir.join("reeve.redb")).await?;
    let (bus, rabbit): (Arc<dyn Bus>, _) = match &config.bus {
        None => (Arc::new(EmbeddedBus::open(db.clone(), Arc::clone(&clock), BusLimits::default()).await?), None),
        Some(section) => {
            let rabbit = Arc::new(RabbitBus::start(rabbit_config(section, &config.cloud)?, Arc::clone(&clock))?);
            let inner: Arc<dyn Bus> = Arc::<RabbitBus>::clone(&rabbit);
            (Arc::new(QuietIntakes::new(inner, unheard(&config.cloud))), Some(rabbit))
        }
    };
    let mut background = JoinSet::new();
    let mut clouds = Clouds::default();
    for section in &config.cloud {
        open_cloud(config, section, &clock, &bus, &mut clouds, &mut background)?;
    }
    let runtime = runtime_config(config);
    let ports = Ports {
        clock,
        cloud: clouds.cloud,
        probe: clouds.probe,
        vault: Arc::new(vault),
        notifier: Arc::new(LogNotifier),
        timeouts: runtime.timeouts,
    };
    let adapters = Adapters {
        store: Arc::new(EmbeddedStore::new(db.clone())),
        bus: Arc::clone(&bus),
        coordination: Arc::new(EmbeddedCoordination::new(db.clone())),
        ports,
        policies,
    };
    let node = NodeConfig { node: config.node.id.clone(), cluster: STANDALONE.to_owned(), runtime };
    let node = Node::start(node, adapters).await?;
    Ok(Running { node, bus, rabbit, db, _background: background })
}

impl Running {
    /// What answers administrators.
    #[must_use]
    pub fn service(&self) -> Arc<dyn AdminService> {
        Arc::new(self.node.clone())
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.bus)
    }

    /// Waits until every record is loaded: from then on messages are taken in.
    pub async fn ready(&self) {
        self.node.ready().await;
    }

    /// Stops: what is in flight is finished or stays in its record. Takes at most about 6 s.
    pub async fn stop(self) {
        if !self.node.stop(NODE_STOP).await {
            tracing::warn!("not everything ended in order; the next start continues it");
        }
        if let Some(rabbit) = self.rabbit
            && tokio::time::timeout(BROKER_STOP, rabbit.close()).await.is_err()
        {
            tracing::warn!("the broker was left without a goodbye");
        }
        self.db.close().await;
    }
}

fn open_cloud(
    config: &Config,
    section: &CloudSection,
    clock: &Arc<dyn Clock>,
    bus: &Arc<dyn Bus>,
    clouds: &mut Clouds,
    background: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let name = &section.name;
    match &section.driver {
        Driver::Sim(sim) => {
            let folder = config.node.data_dir.join("cloud").join(name.as_str());
            let sim = SimCloud::open(&folder, Arc::clone(clock), sim.clone())
                .with_context(|| format!("cannot open the simulated cloud {name} in {}", folder.display()))?;
            let sim = Arc::new(sim);
            // With a broker, notifications come over it or not at all; the embedded bus is told by the cloud itself.
            if config.bus.is_none() {
                sim.notify(feed(name.clone(), Arc::clone(bus), background));
            }
            let driven = Arc::clone(&sim);
            background.spawn(async move { driven.drive().await });
            clouds.cloud.insert(name.clone(), Arc::<SimCloud>::clone(&sim));
            clouds.probe.insert(name.clone(), sim);
        }
    }
    Ok(())
}

fn rabbit_config(section: &BusSection, clouds: &[CloudSection]) -> anyhow::Result<RabbitConfig> {
    let url = section.url.reveal().context("bus.url")?;
    let url: BrokerUrl = url.expose().parse()?;
    let intakes = clouds.iter().filter_map(|cloud| {
        let notifications = cloud.notifications.as_ref()?;
        Some(IntakeConfig {
            exchange: notifications.exchange.clone(),
            topics: notifications.topics.clone(),
            ..IntakeConfig::nova(cloud.name.clone())
        })
    });
    Ok(RabbitConfig {
        ca: section.ca.clone().map(Authority::File),
        prefetch: section.prefetch,
        publish_timeout: section.publish_timeout.duration(),
        intakes: intakes.collect(),
        ..RabbitConfig::new(url)
    })
}

/// The clouds whose notifications nobody sends.
fn unheard(clouds: &[CloudSection]) -> BTreeSet<CloudName> {
    clouds.iter().filter(|cloud| cloud.notifications.is_none()).map(|cloud| cloud.name.clone()).collect()
}

fn runtime_config(config: &Config) -> RuntimeConfig {
    let mut runtime = config.runtime.to_config();
    if let Some(bus) = &config.bus {
        runtime.prefetch = bus.prefetch;
    }
    let reads = |format| match format {
        NotificationFormat::Versioned => Notifications::Versioned,
        NotificationFormat::Legacy => Notifications::Legacy,
        NotificationFormat::Both => Notifications::Both,
    };
    runtime.notifications = config
        .cloud
        .iter()
        .filter_map(|cloud| Some((cloud.name.clone(), reads(cloud.notifications.as_ref()?.format))))
        .collect();
    runtime
}

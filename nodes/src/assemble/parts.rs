//! The parts that a node has alone and in a cluster: bus, clouds, how the actors run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use reeve_cluster::embedded::{BusLimits, EmbeddedBus, EmbeddedDb};
use reeve_cluster::rabbitmq::{Authority, BrokerUrl, IntakeConfig, RabbitBus, RabbitConfig};
use reeve_drivers::{OpenStackCloud, SimCloud};
use reeve_ports::{Bus, Clock, Cloud, GuestProbe};
use reeve_protocol::event::EventSource;
use reeve_protocol::{CloudName, NodeId, rule};
use reeve_runtime::{Notifications, RuntimeConfig};
use tokio::task::JoinSet;

use super::outages;
use crate::config::{BusSection, CloudSection, Config, ConfigError, Driver, NotificationFormat};
use crate::intake::{QuietIntakes, feed};

/// How Reeve names itself to clouds.
const USER_AGENT: &str = concat!("reeve/", env!("CARGO_PKG_VERSION"));

/// The clouds, and what probes their VMs.
#[derive(Default)]
pub(super) struct Clouds {
    pub(super) cloud: BTreeMap<CloudName, Arc<dyn Cloud>>,
    pub(super) probe: BTreeMap<CloudName, Arc<dyn GuestProbe>>,
}

/// The bus: RabbitMQ, else in the file of records.
pub(super) async fn bus(
    config: &Config,
    db: Option<&EmbeddedDb>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Arc<dyn Bus>, Option<Arc<RabbitBus>>)> {
    match (&config.bus, db) {
        (Some(section), _) => {
            let rabbit = Arc::new(RabbitBus::start(rabbit_config(config, section)?, Arc::clone(clock))?);
            let inner: Arc<dyn Bus> = Arc::<RabbitBus>::clone(&rabbit);
            Ok((Arc::new(QuietIntakes::new(inner, unheard(&config.cloud))), Some(rabbit)))
        }
        (None, Some(db)) => {
            let embedded = EmbeddedBus::open(db.clone(), Arc::clone(clock), BusLimits::default()).await?;
            embedded.route_to_rules(rule::topics(&config.rule));
            Ok((Arc::new(embedded), None))
        }
        // The configuration is refused long before.
        (None, None) => anyhow::bail!("[cluster] needs [bus]"),
    }
}

/// Every cloud. What a simulated one does by itself goes on in the background.
pub(super) fn clouds(
    config: &Config,
    clock: &Arc<dyn Clock>,
    bus: &Arc<dyn Bus>,
    background: &mut JoinSet<()>,
) -> anyhow::Result<Clouds> {
    let mut clouds = Clouds::default();
    for section in &config.cloud {
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
            Driver::OpenStack(section) => {
                let openstack = section.resolve().with_context(|| format!("cloud {name}"))?;
                let agent = user_agent(&config.node.id);
                let cloud = OpenStackCloud::new(name.clone(), openstack, Arc::clone(clock), &agent);
                let cloud = Arc::new(cloud.with_context(|| format!("cloud {name}"))?);
                let source = EventSource { cluster: config.cluster_name().to_owned(), node: config.node.id.clone() };
                let (bus, clock) = (Arc::clone(bus), Arc::clone(clock));
                background.spawn(outages::tell(cloud.outages(), name.clone(), source, bus, clock));
                clouds.cloud.insert(name.clone(), Arc::<OpenStackCloud>::clone(&cloud));
                clouds.probe.insert(name.clone(), cloud);
            }
        }
    }
    Ok(clouds)
}

/// Names the node too, so that a cloud's own log tells which one called.
pub(super) fn user_agent(node: &NodeId) -> String {
    let plain = |letter: char| if letter.is_ascii_graphic() { letter } else { '-' };
    format!("{USER_AGENT} node/{}", node.as_str().chars().map(plain).collect::<String>())
}

fn rabbit_config(config: &Config, section: &BusSection) -> anyhow::Result<RabbitConfig> {
    let url = section.url.reveal().context("bus.url")?;
    let url: BrokerUrl = url.expose().parse().context("bus.url")?;
    let intakes = config.cloud.iter().filter_map(|cloud| {
        let notifications = cloud.notifications.as_ref()?;
        Some(IntakeConfig {
            exchange: notifications.exchange.clone(),
            topics: notifications.topics.clone(),
            ..IntakeConfig::nova(cloud.name.clone())
        })
    });
    let defaults = RabbitConfig::new(url);
    Ok(RabbitConfig {
        shards: config.cluster.as_ref().map_or(defaults.shards, |cluster| cluster.shards),
        ca: section.ca.clone().map(Authority::File),
        prefetch: section.prefetch,
        publish_timeout: section.publish_timeout.duration(),
        intakes: intakes.collect(),
        rule_topics: rule::topics(&config.rule),
        ..defaults
    })
}

/// The clouds whose notifications nobody sends.
fn unheard(clouds: &[CloudSection]) -> BTreeSet<CloudName> {
    clouds.iter().filter(|cloud| cloud.notifications.is_none()).map(|cloud| cloud.name.clone()).collect()
}

/// How the actors run.
pub(super) fn runtime(config: &Config) -> anyhow::Result<RuntimeConfig> {
    let mut runtime = config.runtime.to_config();
    runtime.provision = config.provision.to_rules().map_err(ConfigError::Invalid)?;
    if let Some(cluster) = &config.cluster {
        runtime.shards = cluster.shards;
    }
    if let Some(bus) = &config.bus {
        runtime.prefetch = bus.prefetch;
    }
    let reads = |format| match format {
        NotificationFormat::Versioned => Notifications::Versioned,
        NotificationFormat::Legacy => Notifications::Legacy,
        NotificationFormat::Both => Notifications::Both,
    };
    runtime.rules.clone_from(&config.rule);
    runtime.notifications = config
        .cloud
        .iter()
        .filter_map(|cloud| Some((cloud.name.clone(), reads(cloud.notifications.as_ref()?.format))))
        .collect();
    Ok(runtime)
}

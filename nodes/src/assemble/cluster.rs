//! What a node of a cluster stands on: etcd, and the other nodes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use reeve_cluster::etcd::{EtcdCluster, EtcdConfig, EtcdError, EtcdStore, EtcdTls, EtcdUser, Keys};
use reeve_cluster::rpc::{Credentials, RpcPeers};
use reeve_ports::{Address, Bus, Clock, Message, NoPeers, Peers};
use reeve_protocol::event::{ClusterEvent, EventSource};
use tokio::task::JoinSet;

use super::Footing;
use crate::config::{ClusterSection, Config, PemFile};

/// The time between two attempts to reach etcd.
const RETRY: Duration = Duration::from_secs(3);
/// The time between two attempts to publish news.
const PUBLISH_AGAIN: Duration = Duration::from_secs(5);

/// Joins the cluster, however long etcd is away.
///
/// # Errors
/// What will not change by waiting: the configuration does not fit the cluster, or etcd refuses this node.
pub(super) async fn join(
    config: &Config,
    section: &ClusterSection,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<EtcdCluster>> {
    let etcd = etcd_config(config, section)?;
    loop {
        match EtcdCluster::join(etcd.clone(), Arc::clone(clock)).await {
            Ok(cluster) => return Ok(Arc::new(cluster)),
            Err(error @ (EtcdError::Unavailable(_) | EtcdError::Unknown(_))) => {
                tracing::warn!(%error, "the cluster cannot be joined yet; trying again");
                clock.sleep(RETRY).await;
            }
            Err(error @ (EtcdError::Refused(_) | EtcdError::Config(_))) => {
                return Err(error).with_context(|| format!("cluster {} cannot be joined", section.name));
            }
        }
    }
}

fn etcd_config(config: &Config, section: &ClusterSection) -> anyhow::Result<EtcdConfig> {
    let path = |key: &str, file: &Option<PemFile>| match file {
        Some(file) => file.path().map(Some).with_context(|| format!("cluster.{key}")),
        None => Ok(None),
    };
    let tls = EtcdTls {
        ca: path("etcd_ca", &section.etcd_ca)?,
        cert: path("etcd_cert", &section.etcd_cert)?,
        key: path("etcd_key", &section.etcd_key)?,
    };
    let auth = match (&section.etcd_user, &section.etcd_password) {
        (Some(name), Some(password)) => {
            let password = password.secret().reveal().context("cluster.etcd_password")?;
            Some(EtcdUser { name: name.clone(), password: password.expose().to_owned() })
        }
        (Some(_) | None, None) | (None, Some(_)) => None,
    };
    Ok(EtcdConfig {
        shards: section.shards,
        lease_ttl: section.lease_ttl.duration(),
        max_clock_skew: section.max_clock_skew.duration(),
        weight: section.weight,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: config.rpc.advertise.clone(),
        tls: (tls != EtcdTls::default()).then_some(tls),
        auth,
        ..EtcdConfig::new(section.etcd.clone(), section.name.as_str(), config.node.id.clone())
    })
}

/// Publishes what happens to the cluster (`node.joined`, `shard.moved` …), whenever this node is the one to do it. The
/// cluster keeps each event until it is published: again after a failure or at another node, with the same id.
pub(super) fn publish_news(
    cluster: &Arc<EtcdCluster>,
    config: &Config,
    bus: &Arc<dyn Bus>,
    clock: &Arc<dyn Clock>,
    background: &mut JoinSet<()>,
) {
    let (cluster, bus, clock) = (Arc::clone(cluster), Arc::clone(bus), Arc::clone(clock));
    let source = EventSource { cluster: config.cluster_name().to_owned(), node: config.node.id.clone() };
    background.spawn(async move {
        loop {
            let events = cluster.next_events().await;
            let sent = publish(&events, &source, bus.as_ref()).await;
            let kept = cluster.published(&events[..sent]).await.inspect_err(|error| {
                tracing::warn!(%error, "published events of the cluster cannot be noted; they are published again");
            });
            if sent < events.len() || kept.is_err() {
                clock.sleep(PUBLISH_AGAIN).await;
            }
        }
    });
}

/// Publishes events in order, and says how many went out before the first that did not.
async fn publish(events: &[ClusterEvent], source: &EventSource, bus: &dyn Bus) -> usize {
    for (sent, event) in events.iter().enumerate() {
        let cloud_event = event.to_cloud_event(source);
        let message = Message {
            body: Bytes::from(serde_json::to_vec(&cloud_event).expect("an event is plain data with text keys")),
            content_type: Some("application/cloudevents+json".to_owned()),
            kind: Some(cloud_event.kind),
            message_id: Some(cloud_event.id.0),
            ..Message::default()
        };
        if let Err(error) = bus.publish(&Address::Events(event.routing_key().to_owned()), message).await {
            tracing::warn!(%error, "an event of the cluster is not published; it is tried again");
            return sent;
        }
    }
    events.len()
}

/// The ports that the cluster provides.
pub(super) fn footing(
    cluster: &Arc<EtcdCluster>,
    section: &ClusterSection,
    credentials: Option<Credentials>,
) -> Footing {
    let known = Arc::clone(cluster);
    let peers: Arc<dyn Peers> = match credentials {
        Some(credentials) => Arc::new(RpcPeers::new(credentials, move |node| known.address_of(node))),
        // The configuration is refused long before.
        None => Arc::new(NoPeers),
    };
    let store = Arc::new(EtcdStore::new(cluster.client(), Keys::new(&section.name)));
    Footing { store, coordination: Arc::<EtcdCluster>::clone(cluster), peers }
}

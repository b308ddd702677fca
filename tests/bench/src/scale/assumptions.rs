//! What the model assumes. What the product has as a default is read from it; the rest is stated here with its reason.

use std::time::Duration;

use anyhow::{Context, Result};
use reeve_cluster::etcd::{EtcdConfig, Keys};
use reeve_cluster::rabbitmq::RabbitConfig;
use reeve_lifecycle::policy::{HealthPolicy, ProbeKind};
use reeve_protocol::{NodeId, ShardId, VmId};
use reeve_runtime::RuntimeConfig;

pub(super) const GIB: f64 = (1u64 << 30) as f64;
/// etcd's default quota (<https://etcd.io/docs/v3.4/dev-guide/limit/>).
pub(super) const QUOTA_DEFAULT: f64 = 2.0 * GIB;
/// The largest quota that etcd's documentation suggests (the same page), and the one in `deploy/README.md`.
pub(super) const QUOTA_MOST: f64 = 8.0 * GIB;
/// The choices of `[cluster] shards`; the last is the most that the configuration takes.
pub(super) const SHARDS: [u16; 5] = [64, 128, 256, 512, 1024];
/// What a page of a record load holds, in the runtime and in the store.
pub(super) const LOAD_PAGE: f64 = 500.0;
/// A sign of life each quarter of the TTL.
pub(super) const BEATS_PER_TTL: f64 = 4.0;
/// The longest sleep of a lease timer without a look at the clock.
pub(super) const TIMER_CHUNK_SECS: f64 = 600.0;
/// The most events that wait in the plan.
pub(super) const PLAN_EVENTS: f64 = 512.0;
/// Until a shard that is handed over is released and claimed: 10 ms for outcomes, four transactions, and a look every
/// 20 ms by whoever waits for it.
pub(super) const HAND_OVER_SECS: f64 = 0.05;
/// What etcd's file has beside a key and its value: the revision as key (17 bytes), the header of an element of a page
/// (16), and the tags, lengths and three revisions of the entry (about 32). Pages that are not full come on top.
pub(super) const ENTRY_BYTES: f64 = 65.0;
/// A VM in the set of those that a listing showed: 16 bytes in nodes of eleven that are half full when filled in order.
pub(super) const LISTED_BYTES: f64 = 40.0;

/// What a cluster is, and what happens in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assumptions {
    /// VMs in all clouds.
    pub(super) vms: f64,
    /// Control nodes.
    pub(super) nodes: u16,
    /// Shards.
    pub(super) shards: u16,
    /// Clusters of etcd that share the shards.
    pub(super) etcds: f64,
    /// The quota of each.
    pub(super) quota: f64,
    /// Hours of history that etcd keeps: with a retention of one hour it compacts every hour what is older than one,
    /// so up to two are there (<https://etcd.io/docs/v3.4/op-guide/maintenance/>).
    pub(super) history_hours: f64,
    /// A record's bytes against today's.
    pub(super) record_factor: f64,
    /// Notifications for a VM and day.
    pub(super) notifications: f64,
    /// Those of them that change something.
    pub(super) changes: u32,
    /// The busiest hours against the average of the day.
    pub(super) peak: f64,
    /// Calls of people and programs for a VM and day.
    pub(super) calls: f64,
    /// What is probed.
    pub(super) probe: ProbeKind,
    /// Seconds between two probes of a VM.
    pub(super) probe_secs: f64,
    /// Seconds between two listings of a cloud.
    pub(super) listing_secs: f64,
    /// How often all is listed in a round: each node lists for its own VMs.
    pub(super) listers: f64,
    /// VMs on a page of a listing, and the seconds that a cloud takes for one.
    pub(super) page: f64,
    pub(super) page_secs: f64,
    /// The TTL of a node's lease.
    pub(super) ttl: Duration,
    /// Cores and bytes of memory of a node.
    pub(super) cores: f64,
    pub(super) memory: f64,
    /// Calls per second that the API of all clouds together bears.
    pub(super) cloud_calls: f64,
    /// Seconds for which VMs may be without a supervisor beyond the TTL: the goal of `takeover`.
    pub(super) unattended_secs: f64,
    /// Days for which events are kept.
    pub(super) audit_days: f64,
    /// What a demand may take of its capacity when something is chosen.
    pub(super) headroom: f64,
}

impl Assumptions {
    /// Ten million VMs on twenty nodes, everything else by default.
    pub(super) fn ten_million() -> Result<Self> {
        let health = HealthPolicy::default();
        let runtime = RuntimeConfig::default();
        let etcd = EtcdConfig::new(Vec::new(), CLUSTER, NodeId::new("control-01")?);
        let bus = RabbitConfig::new("amqp://localhost".parse().context("the url of a broker")?);
        Ok(Self {
            vms: 10e6,
            nodes: NODES,
            shards: etcd.shards,
            etcds: 1.0,
            quota: QUOTA_MOST,
            history_hours: 2.0,
            record_factor: 1.0,
            notifications: 10.0,
            changes: 2,
            peak: 3.0,
            calls: 1.0,
            probe: health.probe,
            probe_secs: health.interval.duration().as_secs_f64(),
            listing_secs: runtime.reconcile_every.duration().as_secs_f64(),
            listers: f64::from(NODES),
            page: 1000.0,
            page_secs: 1.0,
            ttl: etcd.lease_ttl,
            cores: 8.0,
            memory: 16.0 * GIB,
            cloud_calls: 1000.0,
            unattended_secs: 1.0,
            audit_days: bus.audit_retention.as_secs_f64() / 86_400.0,
            headroom: 0.7,
        })
    }

    /// Nodes, to compute with.
    pub(super) fn nodes(&self) -> f64 {
        f64::from(self.nodes)
    }
}

const NODES: u16 = 20;
/// A name of ordinary length: it is part of every key.
const CLUSTER: &str = "production";

/// The bytes of a record's key.
pub(super) fn key_bytes() -> f64 {
    let prefix = Keys::new(CLUSTER).records(ShardId(0)).len();
    (prefix + "vm/".len() + VmId::new(uuid::Uuid::nil()).to_string().len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_products() {
        let given = Assumptions::ten_million().unwrap();
        assert_eq!((given.shards, given.ttl.as_secs(), given.audit_days), (64, 5, 90.0));
        assert_eq!((given.probe_secs, given.listing_secs, given.probe), (30.0, 300.0, ProbeKind::GuestAgent));
        assert_eq!(key_bytes(), "/reeve/production/records/00000/vm/".len() as f64 + 36.0);
    }
}

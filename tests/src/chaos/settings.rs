//! The configuration of the nodes: leases of a minute instead of a month, and the policies by which VMs differ.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use reeve_lifecycle::Policy;
use serde::Deserialize;

/// The cluster's name.
pub const CLUSTER: &str = "chaos";
/// The cloud's name.
pub const CLOUD: &str = "lab";
/// How many shards there are.
pub const SHARDS: u16 = 64;

/// The policy of VMs that stay: watched, repaired, sometimes backed up, never ended by their lease.
pub const STAYS: &str = "default";
/// The policies of VMs whose leases end within a run: at different times, in different ways.
pub const ENDS: [&str; 6] = ["short-20", "short-40", "short-60", "graced", "stopped", "noticed"];

const POLICIES: &str = r#"
[policy.default.lease]
duration = "12h"
warn_before = []
extension = "1h"
max_extensions = 3
max_total = "1d"
min_notice = "5s"
on_end = "backup_and_delete"
[policy.default.health]
interval = "{PROBE}"
timeout = "1s"
failures = 2
successes = 1
[policy.default.repair]
boot_wait = "2s"
boot_wait_max = "15s"
cooldown = "5s"
max_per_day = 10000
[policy.default.backup]
every = "0s"
"#;

/// A policy whose lease ends within a run: name, duration, grace, what happens at the end.
const ENDING: [(&str, &str, &str, &str); 6] = [
    ("short-20", "20s", "0s", "backup_and_delete"),
    ("short-40", "40s", "0s", "backup_and_delete"),
    ("short-60", "60s", "0s", "backup_and_delete"),
    ("graced", "30s", "10s", "backup_and_delete"),
    ("stopped", "40s", "0s", "stop"),
    ("noticed", "40s", "0s", "notify"),
];

/// How often the cloud is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The time between two probes of a VM, in seconds.
    pub probe_secs: u64,
    /// The time between two listings, in seconds.
    pub list_secs: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { probe_secs: 20, list_secs: 10 }
    }
}

/// The policies as configuration text.
fn policies_text(pace: Pace) -> String {
    let mut text = POLICIES.replace("{PROBE}", &format!("{}s", pace.probe_secs));
    for (name, duration, grace, on_end) in ENDING {
        let _ = write!(
            text,
            "[policy.{name}.lease]\nduration = \"{duration}\"\nwarn_before = [\"8s\"]\ngrace = \"{grace}\"\n\
             extension = \"10s\"\nmax_extensions = 2\nmax_total = \"85s\"\nmin_notice = \"5s\"\non_end = \"{on_end}\"\n\
             [policy.{name}.health]\nenabled = false\n[policy.{name}.backup]\nevery = \"0s\"\n"
        );
    }
    text
}

/// The policies as the checker takes them.
///
/// # Errors
/// When the text above is wrong.
pub fn policies(pace: Pace) -> Result<BTreeMap<String, Policy>> {
    #[derive(Deserialize)]
    struct Only {
        policy: BTreeMap<String, Policy>,
    }
    let only: Only = toml::from_str(&policies_text(pace)).context("the policies of the run")?;
    Ok(only.policy)
}

/// What differs between the nodes, and where everything is.
#[derive(Debug)]
pub struct NodeSettings<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its folder.
    pub data: &'a Path,
    /// How it reaches etcd.
    pub etcd: Vec<String>,
    /// How it reaches RabbitMQ.
    pub bus: String,
    /// Where it listens for its peers, and how they reach it.
    pub listen: SocketAddr,
    /// Through which they reach it.
    pub advertise: SocketAddr,
    /// The folder of certificates.
    pub certificates: &'a Path,
    /// The vault that all share.
    pub vault: &'a Path,
    /// Keystone of the cloud.
    pub auth_url: &'a str,
    /// The lease TTL.
    pub ttl: Duration,
    /// How often it asks the cloud.
    pub pace: Pace,
}

impl NodeSettings<'_> {
    /// As configuration text.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { id, data, etcd, bus, listen, advertise, certificates, vault, auth_url, ttl, pace } = self;
        let ttl = ttl.as_millis();
        format!(
            r#"[node]
id = "{id}"
data_dir = {data:?}
[cluster]
name = "{CLUSTER}"
etcd = {etcd:?}
shards = {SHARDS}
lease_ttl = "{ttl}ms"
max_clock_skew = "5s"
[bus]
url = "{bus}"
[rpc]
listen = "{listen}"
advertise = "{advertise}"
cert = {:?}
key = {:?}
ca = {:?}
[vault]
url = "file://{}"
[log]
level = "info,lapin=warn"
[[cloud]]
name = "{CLOUD}"
driver = "openstack"
timeout = "5s"
auth = {{ auth_url = "{auth_url}", username = "reeve", password = "simulated", project_name = "admin" }}
[cloud.notifications]
exchange = "nova"
format = "versioned"
[runtime]
reconcile_every = "{}s"
[runtime.timeouts]
call = "5s"
settle = "30s"
snapshot = "30s"
transfer = "1m"
look_every = "200ms"
[runtime.clock]
stable = "5s"
{}"#,
            certificates.join(format!("{id}.pem")),
            certificates.join(format!("{id}.key")),
            certificates.join("ca.pem"),
            vault.display(),
            pace.list_secs,
            policies_text(*pace),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_that_a_vm_may_name_is_there_and_makes_sense() {
        let policies = policies(Pace::default()).unwrap();
        for name in ENDS.iter().chain([&STAYS]) {
            policies.get(*name).unwrap().check(name).unwrap();
        }
    }

    #[test]
    fn the_configuration_of_a_node_is_understood() {
        let settings = NodeSettings {
            id: "n1",
            data: Path::new("/tmp/n1"),
            etcd: vec!["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()],
            bus: "amqp://guest:guest@127.0.0.1:3/%2f".to_owned(),
            listen: "127.0.0.11:4".parse().unwrap(),
            advertise: "127.0.0.1:5".parse().unwrap(),
            certificates: Path::new("/tmp/pki"),
            vault: Path::new("/tmp/vault"),
            auth_url: "http://127.0.0.1:6/v3",
            ttl: Duration::from_secs(5),
            pace: Pace::default(),
        };
        reeve_nodes::config::parse("chaos.toml", &settings.text(), std::iter::empty()).unwrap();
    }
}

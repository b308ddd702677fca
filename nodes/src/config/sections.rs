//! The sections of the configuration. Each key says its unit and its default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reeve_drivers::SimConfig;
use reeve_lifecycle::policy::Policy;
use reeve_protocol::rule::Rule;
use reeve_protocol::{CloudName, NodeId, Span};
use serde::{Deserialize, Serialize};

use super::cluster::{ClusterSection, RpcSection};
use super::http::HttpSection;
use super::notify::NotifySection;
use super::openstack::OpenStackSection;
use super::provision::ProvisionSection;
use super::runtime::RuntimeSection;
use super::secret::Secret;
use super::vault::VaultSection;

/// The whole configuration, complete: what the file leaves out has its default.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// `[node]`: this node.
    pub node: NodeSection,
    /// `[cluster]`: the nodes that share the work. Default: none, this node works alone and keeps its own records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterSection>,
    /// `[bus]`: the message broker. Default: none, everything stays in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<BusSection>,
    /// `[rpc]`: where administrators are answered.
    pub rpc: RpcSection,
    /// `[http]`: the pages that links lead to, and the questions of monitoring. Default: none, HTTP is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSection>,
    /// `[vault]`: where backups are kept.
    pub vault: VaultSection,
    /// `[notify]`: how people are told. Default: by the log alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifySection>,
    /// `[provision]`: who may ask for VMs, and for which.
    pub provision: ProvisionSection,
    /// `[log]`: what is logged, and how.
    pub log: LogSection,
    /// `[runtime]`: how the node works.
    pub runtime: RuntimeSection,
    /// `[[cloud]]`: the clouds under care, at least one to run.
    pub cloud: Vec<CloudSection>,
    /// `[policy.NAME]`: what is wanted for classes of VMs. `default` rules where nothing else is said.
    pub policy: BTreeMap<String, Policy>,
    /// `[[rule]]`: what is done because of events. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Rule>,
}

/// What a node without a cluster calls its cluster.
const STANDALONE: &str = "standalone";

impl Config {
    /// What the cluster is called; a node without one is a cluster of its own.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        self.cluster.as_ref().map_or(STANDALONE, |cluster| cluster.name.as_str())
    }
}

/// `[node]`. This node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Its name, unique in its cluster, at most 255 bytes. A second node of the same name is refused at its start, and a
    /// node keeps its name for life. Default: the machine's host name.
    pub id: NodeId,
    /// The folder of everything that must survive a restart; made with mode 0700. Default `/var/lib/reeve`.
    pub data_dir: PathBuf,
    /// Where it stands, for people. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Its failure domain within the site, for people. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Free labels, for people. Default none.
    pub labels: BTreeMap<String, String>,
}

impl Default for NodeSection {
    fn default() -> Self {
        let id = NodeId::new(host_name()).or_else(|_| NodeId::new("reeve")).expect("a short plain word is a node id");
        Self { id, data_dir: "/var/lib/reeve".into(), site: None, zone: None, labels: BTreeMap::new() }
    }
}

/// The machine's name, as the kernel knows it; empty if it does not say.
pub(super) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// `[bus]`. RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusSection {
    /// `amqps://USER:PASSWORD@HOST:PORT,HOST:PORT/VHOST` (`%2f` is the vhost `/`), or `amqp://` where the network is
    /// trusted. Up to 16 brokers of one cluster: the first is taken, and the next when one fails.
    /// May be `{ file = "PATH" }` or `{ credential = "NAME" }`. Required.
    pub url: Secret,
    /// A file of PEM certificates of the authority that signed the broker's. Default: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How many messages of one queue may be under way, 1 to 65535; each takes its size in memory meanwhile, as a rule some
    /// KiB and at most 16 MiB. Default 1024.
    #[serde(default = "default_prefetch")]
    pub prefetch: u16,
    /// How long the broker's confirmation of a message is awaited, `100ms` to `10m`. Default `5s`.
    #[serde(default = "default_publish_timeout")]
    pub publish_timeout: Span,
}

const fn default_prefetch() -> u16 {
    1_024
}

const fn default_publish_timeout() -> Span {
    Span::from_secs(5)
}

/// `[log]`. What is logged, to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `text` for people, `json` for programs, one object a line. Default `text`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list per module such as `info,lapin=warn`. Default `info`.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[[cloud]]`. A cloud under care.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CloudSection {
    /// Its name: in records, in backups and in the name of its intake queue. Never changes. Required.
    pub name: CloudName,
    /// `driver = "openstack"` or `driver = "sim"`, and the driver's own keys.
    #[serde(flatten)]
    pub driver: Driver,
    /// Where its notifications come from; needs `[bus]`. Default none: the cloud is only asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notifications: Option<NotificationsSection>,
}

/// What talks to a cloud.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "driver", rename_all = "lowercase")]
pub enum Driver {
    /// The simulated cloud; its keys are those of `SimConfig`.
    Sim(SimConfig),
    /// An OpenStack.
    OpenStack(Box<OpenStackSection>),
}

/// `[cloud.notifications]`. Where a cloud's notifications come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotificationsSection {
    /// The cloud's own exchange. It is never declared or changed. Default `nova`.
    pub exchange: String,
    /// The topics without their priority, 1 to 16. Default `["versioned_notifications"]`.
    pub topics: Vec<String>,
    /// Which of Nova's two families is read: `versioned`, `legacy` or `both`. Default `versioned`.
    pub format: NotificationFormat,
}

impl Default for NotificationsSection {
    fn default() -> Self {
        let topics = vec!["versioned_notifications".to_owned()];
        Self { exchange: "nova".into(), topics, format: NotificationFormat::Versioned }
    }
}

/// Which of Nova's two families of notifications is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotificationFormat {
    /// `instance.*`.
    Versioned,
    /// `compute.instance.*`.
    Legacy,
    /// Both: every fact comes twice.
    Both,
}

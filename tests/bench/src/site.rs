//! A site: real servers, a simulated cloud behind OpenStack's API, and a control node, each in a process of its own.
//!
//! ```text
//! etcd (syncs to disk) ◄──┐
//! RabbitMQ             ◄──┼── reeve-bench node: what the binary `reeve` runs as `reeve control`
//! reeve-bench cloud    ◄──┘
//! ```
//!
//! The node is told what an operator would tell it; what is left out has the product's default. Only two settings keep
//! other work out of the way: the cloud is listed once an hour, and no policy probes more often.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reeve_cluster::rpc::RpcClient;
use reeve_lifecycle::VmRecord;
use reeve_protocol::admin::{AdminReply, AdminRequest, NodeView};
use reeve_protocol::{Span, Timestamp};
use reeve_tests::chaos::cloud::CloudProcess;
use reeve_tests::harness::{ChildGuard, Etcd, Port, RabbitMq};
use tempfile::TempDir;

use crate::pki;
use crate::records;
use crate::servers::{Claimed, SHARDS};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench";
/// A node declares the queues of all shards when it first starts.
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(40);
const CALL: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The servers, and the node while it runs.
pub(crate) struct Site {
    // Declaration order is drop order: first whoever uses, then what is used, the folder last.
    node: Option<ChildGuard>,
    cloud: CloudProcess,
    /// The broker.
    pub(crate) rabbit: RabbitMq,
    /// The store.
    pub(crate) etcd: Etcd,
    folder: TempDir,
    port: Port,
}

impl Site {
    /// Starts the servers, and stores a record of each of the cloud's VMs. The node does not run yet.
    pub(crate) async fn start(vms: usize, now: Timestamp) -> Result<(Self, Vec<VmRecord>)> {
        let folder = tempfile::Builder::new().prefix("reeve-bench-").tempdir().context("cannot make a folder")?;
        pki::make(&folder.path().join("pki"), CLUSTER)?;
        let (etcd, rabbit) = tokio::try_join!(Etcd::start(1), RabbitMq::start())?;
        let cloud = CloudProcess::start(folder.path(), vms, 1, &rabbit.url()).await?;
        let records = records_of(&cloud, now).await?;
        let claimed = Claimed::all(&etcd, CLUSTER).await?;
        let filling = records.clone();
        claimed.fill(records.len(), move |index| filling[index].clone()).await?;
        claimed.release().await?;
        let port = Port::reserve()?;
        let site = Self { node: None, cloud, rabbit, etcd, folder, port };
        std::fs::write(site.config(), site.settings())?;
        Ok((site, records))
    }

    /// Starts the node; returns at once, with a way to it when it answers.
    pub(crate) fn start_node(&mut self) -> Result<()> {
        let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
        command.arg("node").arg("--config").arg(self.config()).env_remove("NOTIFY_SOCKET");
        self.node = Some(ChildGuard::spawn("the node", command, self.folder.path().join("node.log"))?);
        Ok(())
    }

    /// The node, when it answers that it supervises so many VMs.
    pub(crate) async fn node_with(&mut self, vms: u64) -> Result<RpcClient> {
        let socket = self.data().join("reeve.sock");
        let node = self.node.as_mut().context("the node was not started")?;
        let asking = async {
            loop {
                if let Ok(client) = RpcClient::connect_unix(&socket).await {
                    while let Ok(view) = view(&client).await {
                        if view.vms >= vms {
                            return Ok(client);
                        }
                        tokio::time::sleep(POLL).await;
                    }
                }
                if let Some(status) = node.try_exit()? {
                    bail!("the node ended, {status}");
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let answers = tokio::time::timeout(START, asking).await.context("the node does not answer in time");
        answers.and_then(|answers| answers).with_context(|| self.log_tail())
    }

    /// Stops the node in order.
    pub(crate) async fn stop_node(&mut self) -> Result<()> {
        let Some(mut node) = self.node.take() else { return Ok(()) };
        let status = node.terminate(STOP).await?;
        anyhow::ensure!(status.success(), "the node ended with {status}\n{}", node.log_tail());
        Ok(())
    }

    fn log_tail(&self) -> String {
        self.node.as_ref().map(ChildGuard::log_tail).unwrap_or_default()
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("reeve.toml")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn settings(&self) -> String {
        let (folder, node) = (self.folder.path(), pki::NODE);
        let files = pki::files(&folder.join("pki"), node);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()));
        let (data, vault) = (self.data(), folder.join("vault"));
        format!(
            r#"[node]
id = "{node}"
data_dir = {data:?}
[cluster]
name = "{CLUSTER}"
etcd = {:?}
shards = {SHARDS}
[bus]
url = {:?}
[rpc]
listen = "{listen}"
cert = {:?}
key = {:?}
ca = {:?}
[vault]
url = "file://{}"
[log]
level = "warn"
[[cloud]]
name = "{}"
driver = "openstack"
auth = {{ auth_url = "{}", username = "reeve", password = "simulated", project_name = "admin" }}
[cloud.notifications]
exchange = "nova"
format = "versioned"
[runtime]
reconcile_every = "1h"
[policy.default.health]
interval = "1h"
"#,
            self.etcd.endpoints(),
            self.rabbit.url(),
            files.cert,
            files.key,
            files.ca,
            vault.display(),
            records::cloud(),
            self.cloud.auth_url(),
        )
    }
}

/// How the node is.
pub(crate) async fn view(client: &RpcClient) -> Result<NodeView> {
    match client.call(AdminRequest::Node, CALL).await? {
        AdminReply::Node(view) => Ok(*view),
        other => bail!("the node answered {other:?}"),
    }
}

/// The usual record for each VM of the cloud, so that a listing shows nothing new.
async fn records_of(cloud: &CloudProcess, now: Timestamp) -> Result<Vec<VmRecord>> {
    let mut records = Vec::new();
    for (index, view) in cloud.control.living_vms().await?.into_iter().enumerate() {
        let (facts, mut record) = (view.facts, records::record(index as u64, now));
        record.vm = facts.vm;
        record.facts.name = facts.name;
        record.facts.project = facts.project;
        record.facts.user = facts.user;
        record.facts.host = facts.host;
        record.facts.power = facts.power;
        record.policy.terms.health.interval = Span::from_hours(1);
        records.push(record);
    }
    Ok(records)
}

//! The whole cluster of a run, started in one readable order and ended in the reverse one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::admin::Role;
use reeve_protocol::{NodeId, VmId};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::asker::Door;
use super::cloud::CloudProcess;
use super::commander::Commander;
use super::disk::Disk;
use super::history::{History, What};
use super::listener::Listener;
use super::member::{Member, Servers};
use super::options::Options;
use super::ownership::Ownership;
use super::settings::{CLUSTER, SHARDS, policies};
use crate::harness::{Etcd, RabbitCluster, certify};

const ETCD_MEMBERS: usize = 3;
/// Until all shards of a cluster that starts have owners.
const COLD_START: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);

/// A running cluster and everything around it.
#[derive(Debug)]
pub struct Stage {
    // Declaration order is drop order: first whoever uses, then what is used, the folder last.
    /// The seed of the run.
    pub seed: u64,
    /// The lease TTL.
    pub ttl: Duration,
    /// Sends commands.
    pub commander: Commander,
    /// Hears events.
    pub listener: Listener,
    /// Watches who owns what.
    pub ownership: Ownership,
    /// The control nodes.
    pub members: Vec<Arc<Member>>,
    /// The cloud.
    pub cloud: CloudProcess,
    /// The brokers.
    pub rabbit: Mutex<RabbitCluster>,
    /// How many they are.
    pub broker_size: usize,
    /// The etcd members.
    pub etcd: Mutex<Etcd>,
    /// How many they are.
    pub etcd_size: usize,
    /// The vault.
    pub vault: Disk,
    /// What happened.
    pub history: History,
    folder: TempDir,
}

impl Stage {
    /// Starts everything and waits until every shard has an owner.
    ///
    /// # Errors
    /// When a server is not installed or a part does not come up; the end of its log is in the message.
    pub async fn start(options: &Options, vms: usize) -> Result<Self> {
        let mut folder = tempfile::Builder::new().prefix("reeve-chaos-").tempdir().context("cannot make a folder")?;
        // Kept until the run is known to be good: the history is all that tells what went wrong.
        folder.disable_cleanup(true);
        let history = History::create(&folder.path().join("history.jsonl"))?;
        history.write(What::Begun { seed: options.seed, shards: SHARDS, policies: policies(options.pace())? });
        let certificates = folder.path().join("pki");
        let ids: Vec<NodeId> =
            (1..=options.nodes).map(|number| NodeId::new(format!("n{number}"))).collect::<Result<_, _>>()?;
        certify(&certificates, CLUSTER, ids.iter().map(|node| (node.as_str(), Role::Node)))?;
        let vault = Disk::make(&folder.path().join("vault"))?;
        let (etcd, rabbit) = tokio::try_join!(Etcd::start(ETCD_MEMBERS), RabbitCluster::start(options.brokers))?;
        let cloud = CloudProcess::start(folder.path(), vms, options.seed, &rabbit.url(0)).await?;
        let addresses: Vec<SocketAddr> = (0..etcd.size()).map(|member| etcd.address(member)).collect();
        let auth_url = cloud.auth_url();
        let mut members = Vec::new();
        for number in 1..=options.nodes {
            let servers = Servers {
                etcd: addresses.clone(),
                rabbit: (0..rabbit.size()).map(|broker| rabbit.address(broker)).collect(),
                auth_url: &auth_url,
                certificates: &certificates,
                vault: vault.folder(),
                ttl: options.ttl(),
                pace: options.pace(),
            };
            let number = u8::try_from(number).context("at most 200 nodes")?;
            members.push(Arc::new(Member::prepare(number, folder.path(), &servers, history.clone()).await?));
        }
        let urls = rabbit.urls();
        let listener = Listener::start(urls.clone(), history.clone()).await?;
        let ownership = Ownership::watch(etcd.endpoints(), CLUSTER, history.clone());
        let stage = Self {
            seed: options.seed,
            ttl: options.ttl(),
            commander: Commander::start(urls, history.clone()),
            listener,
            ownership,
            members,
            cloud,
            broker_size: rabbit.size(),
            rabbit: Mutex::new(rabbit),
            etcd_size: etcd.size(),
            etcd: Mutex::new(etcd),
            vault,
            history,
            folder,
        };
        stage.go().await?;
        Ok(stage)
    }

    async fn go(&self) -> Result<()> {
        for member in &self.members {
            member.start().await?;
        }
        for member in &self.members {
            member.answers().await?;
        }
        self.all_owned(COLD_START).await
    }

    /// Waits until every shard has an owner that lives.
    ///
    /// # Errors
    /// When some have none in time.
    pub async fn all_owned(&self, patience: Duration) -> Result<()> {
        let waiting = async {
            while self.ownership.now().shards.len() < usize::from(SHARDS) {
                for member in &self.members {
                    member.alive().await?;
                }
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(patience, waiting).await {
            Ok(owned) => owned,
            Err(_) => {
                let owned = self.ownership.now().shards.len();
                anyhow::bail!("{owned} of {SHARDS} shards have an owner after {patience:?}")
            }
        }
    }

    /// Waits until the nodes tell of every VM that the cloud has.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn all_known(&self, patience: Duration) -> Result<()> {
        let living = self.cloud.control.counts().await?.living;
        let began = SystemClock.elapsed();
        loop {
            let mut known: u64 = 0;
            for door in self.doors() {
                if let Ok(node) = super::settle::node_view(&door).await {
                    known += node.vms;
                }
            }
            if usize::try_from(known)? >= living {
                return Ok(());
            }
            anyhow::ensure!(
                SystemClock.elapsed().saturating_sub(began) < patience,
                "the nodes know {known} of {living} VMs after {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Where the nodes are asked.
    #[must_use]
    pub fn doors(&self) -> Vec<Arc<Door>> {
        self.members.iter().map(|member| Arc::clone(&member.door)).collect()
    }

    /// The node of this id.
    #[must_use]
    pub fn member(&self, id: &NodeId) -> Option<&Arc<Member>> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// Writes the VMs that the cloud has now as made by users, and returns them.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub async fn note_fleet(&self) -> Result<Vec<(VmId, String)>> {
        let mut fleet = Vec::new();
        for view in self.cloud.control.living_vms().await? {
            let vm = view.facts.vm;
            let user = view.facts.user.map(|user| user.as_str().to_owned()).unwrap_or_default();
            let policy = view.facts.metadata.get("reeve_policy").map_or(super::settings::STAYS, String::as_str);
            let at = view.facts.launched_at.unwrap_or_else(|| SystemClock.now());
            let what = What::VmMade { vm, policy: policy.to_owned(), user: user.clone() };
            self.history.write_at(at, what);
            fleet.push((vm, user));
        }
        Ok(fleet)
    }

    /// The folder of logs and history.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything; the folder goes too, unless it is to be kept.
    pub fn end(mut self, keep: Keep) {
        self.folder.disable_cleanup(keep == Keep::Yes);
        drop(self);
    }
}

/// Whether the folder of a run stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It stays.
    Yes,
    /// It goes.
    No,
}

//! Who owns what and who leads, as etcd says: watched past every fault, straight at the members.
//!
//! A key's lease tells whose it is, because a node binds all its keys to one lease: no value has to be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::{Client, ConnectOptions, EventType, GetOptions, KeyValue, WatchOptions};
use reeve_protocol::{Epoch, NodeId, ShardId};
use tokio::task::JoinHandle;

use super::history::{History, What};

const CALL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
/// A watch that is silent for so long is made anew: its member may have been stopped.
const SILENCE: Duration = Duration::from_secs(3);

/// What is known.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    /// The owner of each shard and its epoch.
    pub shards: BTreeMap<ShardId, (NodeId, Epoch)>,
    /// The leader.
    pub leader: Option<NodeId>,
    /// The nodes that live.
    pub nodes: BTreeSet<NodeId>,
    leases: BTreeMap<i64, NodeId>,
}

impl Owners {
    /// The shards of a node.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Vec<ShardId> {
        self.shards.iter().filter(|(_, (owner, _))| owner == node).map(|(shard, _)| *shard).collect()
    }
}

/// Watches ownership until dropped.
#[derive(Debug)]
pub struct Ownership {
    owners: Arc<Mutex<Owners>>,
    task: JoinHandle<()>,
}

impl Ownership {
    /// Begins to watch the cluster of this name.
    #[must_use]
    pub fn watch(endpoints: Vec<String>, cluster: &str, history: History) -> Self {
        let owners = Arc::new(Mutex::new(Owners::default()));
        let mut follower = Follower { owners: Arc::clone(&owners), root: format!("/reeve/{cluster}/"), history };
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = follower.follow(&endpoints).await {
                    tracing::debug!(%error, "ownership is watched anew");
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { owners, task }
    }

    /// What is known now.
    #[must_use]
    pub fn now(&self) -> Owners {
        locked(&self.owners).clone()
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follower {
    owners: Arc<Mutex<Owners>>,
    root: String,
    history: History,
}

impl Follower {
    async fn follow(&mut self, endpoints: &[String]) -> Result<()> {
        let options = ConnectOptions::new().with_timeout(CALL).with_connect_timeout(CALL);
        let mut client = Client::connect(endpoints, Some(options)).await?;
        let from = self.list(&mut client).await? + 1;
        let mut stream = {
            let options = WatchOptions::new().with_prefix().with_start_revision(from).with_prev_key();
            let shards = format!("{}shards/", self.root);
            tokio::time::timeout(CALL, client.watch(shards, Some(options))).await.context("no watch")??
        };
        for (key, prefix) in [("nodes/", true), ("leader", false)] {
            let options = WatchOptions::new().with_start_revision(from);
            let options = if prefix { options.with_prefix() } else { options };
            stream.watch(format!("{}{key}", self.root), Some(options)).await?;
        }
        loop {
            let Ok(message) = tokio::time::timeout(SILENCE, stream.message()).await else {
                // Nothing happened, or the member does not answer: what was missed is listed.
                self.list(&mut client).await?;
                continue;
            };
            let message = message?.context("the watch ended")?;
            if message.canceled() {
                bail!("the watch was cancelled: {}", message.cancel_reason());
            }
            for event in message.events() {
                let Some(kv) = event.kv() else { continue };
                match event.event_type() {
                    EventType::Put => self.put(&mut client, kv).await?,
                    EventType::Delete => self.deleted(kv.key_str()?),
                }
            }
        }
    }

    /// Everything as it is, and the revision at which it is so.
    async fn list(&mut self, client: &mut Client) -> Result<i64> {
        let revision = self.list_nodes(client).await?;
        let options = Some(GetOptions::new().with_prefix());
        let shards = client.get(format!("{}shards/", self.root), options).await?;
        let known: BTreeSet<ShardId> = locked(&self.owners).shards.keys().copied().collect();
        let mut there = BTreeSet::new();
        for kv in shards.kvs() {
            there.extend(self.shard(kv.key_str()?));
            self.put(client, kv).await?;
        }
        for shard in known.difference(&there) {
            self.disowned(*shard);
        }
        let leader = client.get(format!("{}leader", self.root), None).await?;
        let lease = leader.kvs().first().map(KeyValue::lease);
        let mut owners = locked(&self.owners);
        owners.leader = lease.and_then(|lease| owners.leases.get(&lease).cloned());
        Ok(revision)
    }

    async fn list_nodes(&mut self, client: &mut Client) -> Result<i64> {
        let prefix = format!("{}nodes/", self.root);
        let nodes = client.get(prefix.clone(), Some(GetOptions::new().with_prefix())).await?;
        let mut owners = locked(&self.owners);
        owners.nodes.clear();
        for kv in nodes.kvs() {
            if let Some(node) = kv.key_str()?.strip_prefix(&prefix).and_then(|id| NodeId::new(id).ok()) {
                owners.leases.insert(kv.lease(), node.clone());
                owners.nodes.insert(node);
            }
        }
        Ok(nodes.header().context("an answer without a header")?.revision())
    }

    async fn put(&mut self, client: &mut Client, kv: &KeyValue) -> Result<()> {
        let key = kv.key_str()?.to_owned();
        if key.starts_with(&format!("{}nodes/", self.root)) {
            return self.list_nodes(client).await.map(drop);
        }
        let known = locked(&self.owners).leases.contains_key(&kv.lease());
        if !known {
            self.list_nodes(client).await?;
        }
        let mut owners = locked(&self.owners);
        // A node that is gone already: the deletion of its keys follows.
        let Some(node) = owners.leases.get(&kv.lease()).cloned() else { return Ok(()) };
        if key == format!("{}leader", self.root) {
            owners.leader = Some(node);
        } else if let Some(shard) = self.shard(&key) {
            let epoch = Epoch(u64::try_from(kv.create_revision()).unwrap_or(0));
            let now = (node.clone(), epoch);
            if owners.shards.get(&shard) != Some(&now) {
                owners.shards.insert(shard, now);
                self.history.write(What::Owned { shard, node, epoch });
            }
        }
        Ok(())
    }

    fn deleted(&self, key: &str) {
        if let Some(shard) = self.shard(key) {
            self.disowned(shard);
        } else if key == format!("{}leader", self.root) {
            locked(&self.owners).leader = None;
        } else if let Some(node) = key.strip_prefix(&format!("{}nodes/", self.root)) {
            locked(&self.owners).nodes.retain(|known| known.as_str() != node);
        }
    }

    fn disowned(&self, shard: ShardId) {
        if locked(&self.owners).shards.remove(&shard).is_some() {
            self.history.write(What::Disowned { shard });
        }
    }

    fn shard(&self, key: &str) -> Option<ShardId> {
        key.strip_prefix(&self.root)?.strip_prefix("shards/")?.parse().ok().map(ShardId)
    }
}

fn locked(owners: &Mutex<Owners>) -> MutexGuard<'_, Owners> {
    owners.lock().unwrap_or_else(PoisonError::into_inner)
}

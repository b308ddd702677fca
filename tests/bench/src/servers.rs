//! A store of a cluster on a real etcd, before any node runs: shards claimed the plain way, and records written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd_client::Client;
use reeve_cluster::etcd::{EtcdClient, EtcdConfig, EtcdStore, Keys};
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::RECORD_FORMAT;
use reeve_ports::store::{Change, RecordStore, Write};
use reeve_protocol::{Epoch, Generation, NodeId, ShardId, codec};
use reeve_tests::harness::Etcd;
use tokio::task::JoinSet;

/// What a cluster has if nobody says otherwise.
pub(crate) const SHARDS: u16 = 64;
/// Writes under way while records are put in: enough for full groups of every shard.
const FILLING: usize = 4_096;

/// A store, and the claims that its writes are fenced by.
pub(crate) struct Claimed {
    pub(crate) store: EtcdStore,
    pub(crate) keys: Keys,
    pub(crate) epochs: Vec<Epoch>,
    etcd: Client,
}

/// How the nodes of a cluster are told of their etcd.
pub(crate) fn config(endpoints: Vec<String>, cluster: &str) -> EtcdConfig {
    let node = NodeId::new("bench").expect("a short plain word is a node id");
    EtcdConfig { shards: SHARDS, ..EtcdConfig::new(endpoints, cluster, node) }
}

impl Claimed {
    /// Claims every shard of a cluster: a key that is made has a create revision, which is the epoch.
    pub(crate) async fn all(etcd: &Etcd, cluster: &str) -> Result<Self> {
        let keys = Keys::new(cluster);
        let store = EtcdStore::new(EtcdClient::new(&config(etcd.endpoints(), cluster))?, keys.clone());
        let mut client = etcd.client().await?;
        let mut epochs = Vec::new();
        for shard in 0..SHARDS {
            client.delete(keys.shard(ShardId(shard)), None).await?;
            let put = client.put(keys.shard(ShardId(shard)), "bench", None).await?;
            let revision = put.header().context("an answer has a header")?.revision();
            epochs.push(Epoch(u64::try_from(revision)?));
        }
        Ok(Self { store, keys, epochs, etcd: client })
    }

    /// Stores records that are not there yet, many at a time.
    pub(crate) async fn fill(
        &self,
        count: usize,
        record: impl Fn(usize) -> VmRecord + Send + Sync + 'static,
    ) -> Result<()> {
        let (record, next) = (Arc::new(record), Arc::new(AtomicUsize::new(0)));
        let mut filling = JoinSet::new();
        for _ in 0..FILLING.min(count) {
            let (store, epochs) = (self.store.clone(), self.epochs.clone());
            let (record, next) = (Arc::clone(&record), Arc::clone(&next));
            filling.spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return anyhow::Ok(());
                    }
                    let record = record(index);
                    let shard = ShardId::of(record.vm, SHARDS);
                    let put = write(&record, Generation::default())?;
                    store.commit(shard, epochs[usize::from(shard.0)], put).await?;
                }
            });
        }
        while let Some(filled) = filling.join_next().await {
            filled??;
        }
        Ok(())
    }

    /// Leaves every shard to whoever claims it next.
    pub(crate) async fn release(mut self) -> Result<()> {
        for shard in 0..SHARDS {
            self.etcd.delete(self.keys.shard(ShardId(shard)), None).await?;
        }
        Ok(())
    }
}

/// The write of a record, as a supervisor makes it.
pub(crate) fn write(record: &VmRecord, expected: Generation) -> Result<Write> {
    let value = Bytes::from(codec::encode(RECORD_FORMAT, record)?);
    Ok(Write { vm: record.vm, expected, change: Change::Put { generation: record.generation, value } })
}

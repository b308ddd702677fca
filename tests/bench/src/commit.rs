//! `commit`: record writes per second through the fenced, grouped writer.
//!
//! Beside it raw transactions of etcd, of the same size and depth: as many writes in each as Reeve's groups had, as many
//! transactions under way as Reeve has lanes, the same comparisons around as many bytes. `raw puts` is what a store
//! without any comparison would do.
//!
//! A write of Reeve's begins with a record, which it encodes as a supervisor does; the raw ones have their bytes ready.
//! etcd is a real one that syncs to disk. Its history is compacted between the rounds, as a cluster's is by itself.

mod raw;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use etcd_client::KvClient;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use reeve_cluster::etcd::EtcdStore;
use reeve_lifecycle::VmRecord;
use reeve_ports::store::RecordStore;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::{Generation, ShardId};
use reeve_tests::harness::Etcd;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use self::raw::{RawLane, RawShard, Shape};
use crate::records;
use crate::runner::{Contestant, Figure, Goal, Options, alternate};
use crate::servers::{Claimed, SHARDS, write};
use crate::site::CLUSTER;

/// Writes under way. The first is the prefetch of one consumer, which is what bounds a node's commits most of the time;
/// the second is what there is after an outage.
const DEPTHS: [usize; 2] = [256, 4_096];

/// Measures.
pub(crate) fn run(options: &Options) -> LocalBoxFuture<'_, Result<Vec<Figure>>> {
    async move {
        let mut figures = Vec::new();
        for depth in DEPTHS {
            figures.push(Box::pin(at_depth(*options, depth)).await?);
        }
        Ok(figures)
    }
    .boxed_local()
}

async fn at_depth(options: Options, depth: usize) -> Result<Figure> {
    let writes = options.pick(20_000.max(8 * depth), 2 * depth);
    let ground = Ground::prepare(depth, writes).await?;
    let contestants = vec![
        Contestant::new("reeve", || ground.reeve()),
        Contestant::new("raw transactions", || ground.raw(Shape::Compared)),
        Contestant::new("raw puts", || ground.raw(Shape::Flat)),
    ];
    let measured = alternate(options.pick(5, 1), 1, contestants).await?;
    let [reeve, raw, flat] = &measured[..] else { bail!("three contestants have three results") };
    Ok(Figure::new(format!("commit, {depth} in flight"), reeve, "writes/s", Goal::RatioAtLeast(0.8))
        .of(writes as u64)
        .against("raw transactions", raw.median)
        .beside("raw puts", flat.median)
        .note("writes_per_transaction", ground.group().await)
        .note("bytes_per_record", ground.bytes)
        .note("shards", SHARDS))
}

/// The server, and what every contestant writes.
struct Ground {
    etcd: Etcd,
    claimed: Claimed,
    /// The records of each of Reeve's writers.
    writers: Vec<Arc<Mutex<Vec<VmRecord>>>>,
    writes: usize,
    /// Writes and transactions of Reeve's rounds.
    grouped: Mutex<(u64, u64)>,
    kv: KvClient,
    lanes: Vec<Arc<Mutex<RawLane>>>,
    bytes: usize,
}

impl Ground {
    async fn prepare(depth: usize, writes: usize) -> Result<Self> {
        let etcd = Etcd::start(1).await?;
        let claimed = Claimed::all(&etcd, CLUSTER).await?;
        let now = SystemClock.now();
        // Every writer has another VM in its next turn, and a shard enough of them for a whole group.
        let count = (2 * depth).max(128 * usize::from(SHARDS));
        claimed.fill(count, move |index| records::record(index as u64, now)).await?;
        let mut writers = vec![Vec::new(); depth];
        let mut raw_keys = vec![Vec::new(); usize::from(SHARDS)];
        for index in 0..count {
            let record = records::record(index as u64, now);
            let shard = ShardId::of(record.vm, SHARDS);
            // As long as Reeve's keys, beside them.
            raw_keys[usize::from(shard.0)].push(format!("{}rw/{}", claimed.keys.records(shard), record.vm));
            writers[index % depth].push(record);
        }
        let value = records::stored(0, now)?.value.to_vec();
        let (kv, bytes) = (etcd.client().await?.kv_client(), value.len());
        let mut lanes: Vec<Vec<RawShard>> = (0..EtcdStore::LANES).map(|_| Vec::new()).collect();
        for (index, (keys, epoch)) in raw_keys.into_iter().zip(&claimed.epochs).enumerate() {
            let owner = (claimed.keys.shard(ShardId(u16::try_from(index)?)), i64::try_from(epoch.0)?);
            lanes[index % EtcdStore::LANES].push(RawShard { owner, keys });
        }
        let lanes: Vec<_> =
            lanes.into_iter().map(|shards| Arc::new(Mutex::new(RawLane::new(shards, value.clone())))).collect();
        raw::prepare(&kv, &lanes).await?;
        let writers = writers.into_iter().map(|records| Arc::new(Mutex::new(records))).collect();
        Ok(Self { etcd, claimed, writers, writes, grouped: Mutex::new((0, 0)), kv, lanes, bytes })
    }

    /// Reeve's writes in one transaction, on the average.
    async fn group(&self) -> f64 {
        let (writes, transactions) = *self.grouped.lock().await;
        writes as f64 / transactions.max(1) as f64
    }

    async fn reeve(&self) -> Result<f64> {
        self.etcd.compact().await?;
        let before = self.claimed.store.transactions();
        let each = self.writes / self.writers.len();
        let mut writing = JoinSet::new();
        let began = SystemClock.elapsed();
        for records in &self.writers {
            let (store, epochs) = (self.claimed.store.clone(), self.claimed.epochs.clone());
            let records = Arc::clone(records);
            writing.spawn(async move {
                let mut records = records.lock().await;
                let count = records.len();
                for turn in 0..each {
                    let record = &mut records[turn % count];
                    let expected = record.generation;
                    record.generation = Generation(expected.0 + 1);
                    let shard = ShardId::of(record.vm, SHARDS);
                    store.commit(shard, epochs[usize::from(shard.0)], write(record, expected)?).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(written) = writing.join_next().await {
            written?.context("a commit")?;
        }
        let took = SystemClock.elapsed().saturating_sub(began);
        let transactions = self.claimed.store.transactions() - before;
        let written = each * self.writers.len();
        let mut grouped = self.grouped.lock().await;
        *grouped = (grouped.0 + written as u64, grouped.1 + transactions);
        Ok(rate(written, took))
    }

    async fn raw(&self, shape: Shape) -> Result<f64> {
        self.etcd.compact().await?;
        let (group, each) = (self.group().await, self.writes / self.lanes.len());
        let began = SystemClock.elapsed();
        raw::write(&self.kv, &self.lanes, each, group, shape).await?;
        Ok(rate(each * self.lanes.len(), SystemClock.elapsed().saturating_sub(began)))
    }
}

fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

//! The raw contestants: transactions of etcd by the client library alone.
//!
//! ```text
//! compared: each shard: if its key is of this revision { each: if the value is between two prefixes { put } else { get } }
//! flat:     each shard: { put } …
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What surrounds each put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A fence around all of a shard, and the comparison with what it replaces around each.
    Compared,
    /// Nothing.
    Flat,
}

/// A shard: the key that its fence compares, that key's create revision, and the keys of its records.
pub(super) struct RawShard {
    pub(super) owner: (String, i64),
    pub(super) keys: Vec<String>,
}

/// What the writer of some shards writes, over and over.
pub(super) struct RawLane {
    owners: Vec<(String, i64)>,
    /// Whose they are, keys, and the numbers that their values begin with. The shards take turns.
    records: Vec<(usize, String, u64)>,
    /// Where the next transaction begins.
    next: usize,
    value: Vec<u8>,
}

impl RawLane {
    pub(super) fn new(shards: Vec<RawShard>, value: Vec<u8>) -> Self {
        let (mut owners, mut records) = (Vec::new(), Vec::new());
        for (index, shard) in shards.into_iter().enumerate() {
            owners.push(shard.owner);
            records.extend(shard.keys.into_iter().enumerate().map(|(turn, key)| (turn, index, key)));
        }
        records.sort();
        let records = records.into_iter().map(|(_, index, key)| (index, key, 0)).collect();
        Self { owners, records, next: 0, value }
    }

    /// A transaction of so many writes, none of the same key.
    fn transaction(&mut self, writes: usize, shape: Shape) -> Txn {
        let count = self.records.len();
        let mut shards = BTreeMap::<usize, Vec<TxnOp>>::new();
        for _ in 0..writes.min(count) {
            let (owner, key, number) = &mut self.records[self.next];
            self.next = (self.next + 1) % count;
            shards.entry(*owner).or_default().push(put(key, *number, &self.value, shape));
            *number += 1;
        }
        let of_shard = |(owner, puts): (usize, Vec<TxnOp>)| {
            let (key, revision) = &self.owners[owner];
            let fence = Compare::create_revision(key.as_str(), CompareOp::Equal, *revision);
            TxnOp::txn(match shape {
                Shape::Compared => Txn::new().when([fence]).and_then(puts),
                Shape::Flat => Txn::new().and_then(puts),
            })
        };
        Txn::new().and_then(shards.into_iter().map(of_shard).collect::<Vec<_>>())
    }
}

fn prefix(number: u64) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

fn put(key: &str, number: u64, record: &[u8], shape: Shape) -> TxnOp {
    let mut value = prefix(number + 1);
    value.push(0);
    value.extend_from_slice(record);
    let put = TxnOp::put(key, value, None);
    if shape == Shape::Flat {
        return put;
    }
    let found = [
        Compare::value(key, CompareOp::Greater, prefix(number)),
        Compare::value(key, CompareOp::Less, prefix(number + 1)),
    ];
    TxnOp::txn(Txn::new().when(found).and_then([put]).or_else([TxnOp::get(key, None)]))
}

/// Puts every record once, so that there is something to compare with.
pub(super) async fn prepare(kv: &KvClient, lanes: &[Arc<Mutex<RawLane>>]) -> Result<()> {
    for lane in lanes {
        let count = lane.lock().await.records.len();
        for _ in 0..count.div_ceil(100) {
            let transaction = lane.lock().await.transaction(100, Shape::Flat);
            kv.clone().txn(transaction).await?;
        }
    }
    Ok(())
}

/// So many transactions under way as there are lanes, each of so many writes on the average, until each lane has made its
/// share.
pub(super) async fn write(
    kv: &KvClient,
    lanes: &[Arc<Mutex<RawLane>>],
    each: usize,
    group: f64,
    shape: Shape,
) -> Result<()> {
    let mut writing = JoinSet::new();
    for lane in lanes {
        let (mut kv, lane) = (kv.clone(), Arc::clone(lane));
        writing.spawn(async move {
            let mut lane = lane.lock().await;
            let (mut written, mut owed) = (0, 0.0);
            while written < each {
                // The average need not be a whole number.
                owed += group;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
                let now = (owed as usize).clamp(1, each - written);
                owed -= now as f64;
                let answer = kv.txn(lane.transaction(now, shape)).await?;
                ensure!(answer.succeeded(), "a raw transaction was fenced");
                written += now;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(())
}

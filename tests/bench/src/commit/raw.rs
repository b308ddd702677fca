//! The raw contestants: transactions of etcd by the client library alone.
//!
//! ```text
//! compared: if the shard's key is of this revision { each: if the value is between two prefixes { put } else { get } }
//! flat:     { put } …
//! ```

use std::sync::Arc;

use anyhow::{Result, ensure};
use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// What surrounds each put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A fence around all of them, and the comparison with what it replaces around each.
    Compared,
    /// Nothing.
    Flat,
}

/// What the writer of one shard writes, over and over.
pub(super) struct RawShard {
    /// The key that the fence compares, and its create revision.
    owner: (String, i64),
    /// Keys and the numbers that their values begin with.
    records: Vec<(String, u64)>,
    /// Where the next transaction begins.
    next: usize,
    value: Vec<u8>,
}

impl RawShard {
    pub(super) fn new(owner: (String, i64), keys: Vec<String>, value: Vec<u8>) -> Self {
        let records = keys.into_iter().map(|key| (key, 0)).collect();
        Self { owner, records, next: 0, value }
    }

    /// A transaction of so many writes, none of the same key.
    fn transaction(&mut self, writes: usize, shape: Shape) -> Txn {
        let count = self.records.len();
        let mut puts = Vec::with_capacity(writes);
        for _ in 0..writes.min(count) {
            let (key, number) = &mut self.records[self.next];
            self.next = (self.next + 1) % count;
            puts.push(put(key, *number, &self.value, shape));
            *number += 1;
        }
        let (key, revision) = &self.owner;
        let fence = Compare::create_revision(key.as_str(), CompareOp::Equal, *revision);
        match shape {
            Shape::Compared => Txn::new().when([fence]).and_then(puts),
            Shape::Flat => Txn::new().and_then(puts),
        }
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
pub(super) async fn prepare(kv: &KvClient, shards: &[Arc<Mutex<RawShard>>]) -> Result<()> {
    for shard in shards {
        let count = shard.lock().await.records.len();
        for _ in 0..count.div_ceil(100) {
            let transaction = shard.lock().await.transaction(100, Shape::Flat);
            kv.clone().txn(transaction).await?;
        }
    }
    Ok(())
}

/// So many transactions under way as there are shards, each of so many writes on the average, until each shard has
/// made its share.
pub(super) async fn write(
    kv: &KvClient,
    shards: &[Arc<Mutex<RawShard>>],
    each: usize,
    group: f64,
    shape: Shape,
) -> Result<()> {
    let mut writing = JoinSet::new();
    for shard in shards {
        let (mut kv, shard) = (kv.clone(), Arc::clone(shard));
        writing.spawn(async move {
            let mut shard = shard.lock().await;
            let (mut written, mut owed) = (0, 0.0);
            while written < each {
                // The average need not be a whole number.
                owed += group;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
                let now = (owed as usize).clamp(1, each - written);
                owed -= now as f64;
                let answer = kv.txn(shard.transaction(now, shape)).await?;
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

//! The store of records. Every write is fenced by the owner's epoch and by the record's generation.

use async_trait::async_trait;
use bytes::Bytes;
use reeve_protocol::{Epoch, Generation, ShardId, VmId};

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The writer no longer owns the shard: it must stop.
    #[error("shard {shard} has a newer owner")]
    Fenced {
        /// Which shard.
        shard: ShardId,
    },
    /// The record is not of the generation that the writer knew: it must load it again.
    #[error("record {vm} has another generation than {expected}")]
    Conflict {
        /// Which record.
        vm: VmId,
        /// The generation that the writer knew.
        expected: Generation,
    },
    /// Nothing was written; the same again may work (disk full, server away).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It may have been written or not: load the record again.
    #[error("no answer: {0}")]
    Unknown(String),
    /// What is stored cannot be read.
    #[error("damaged: {0}")]
    Damaged(String),
}

impl From<DamagedRecord> for StoreError {
    fn from(record: DamagedRecord) -> Self {
        Self::Damaged(format!("record {}: {}", record.vm, record.why))
    }
}

/// A write of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which record.
    pub vm: VmId,
    /// The generation that is stored now; [`Generation`] 0 when there is none.
    pub expected: Generation,
    /// What to do.
    pub change: Change,
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Store this value with this generation.
    Put {
        /// The generation afterwards.
        generation: Generation,
        /// The record, encoded.
        value: Bytes,
    },
    /// Remove it.
    Delete,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which record.
    pub vm: VmId,
    /// Its generation.
    pub generation: Generation,
    /// The record, encoded.
    pub value: Bytes,
}

/// A record that is there and that the store cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedRecord {
    /// Which record.
    pub vm: VmId,
    /// What is wrong with it.
    pub why: String,
}

/// Some of the records of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Those that can be read, in the order of their ids.
    pub records: Vec<Stored>,
    /// Those that cannot, in the order of their ids: one of them hides no other record.
    pub damaged: Vec<DamagedRecord>,
    /// After which id the next page begins. `None`: there is none, however short or long this one is.
    pub next: Option<VmId>,
}

/// A store of records.
#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// The records of a shard after `after`, in the order of their ids, the damaged ones among them: up to `limit`, and at
    /// least one if there is one. What names no VM is left out.
    async fn load(&self, shard: ShardId, after: Option<VmId>, limit: usize) -> Result<Page, StoreError>;

    /// One record.
    async fn get(&self, shard: ShardId, vm: VmId) -> Result<Option<Stored>, StoreError>;

    /// Writes one record, durably, as the owner of this epoch. Concurrent writes are grouped; each has its own result.
    async fn commit(&self, shard: ShardId, epoch: Epoch, write: Write) -> Result<(), StoreError>;
}

//! The record store in the embedded file.

use async_trait::async_trait;
use bytes::Bytes;
use redb::ReadableTable;
use reeve_ports::store::{Change, DamagedRecord, Page, RecordStore, StoreError, Stored, Write};
use reeve_protocol::{Epoch, Generation, ShardId, VmId};
use uuid::Uuid;

use super::db::EmbeddedDb;
use super::error::{ReadError, WriteError};
use super::tables::{RECORDS, Tables};

const GENERATION_BYTES: usize = size_of::<u64>();

/// The record store of a node without a cluster. A write is durable when it returns.
#[derive(Clone)]
pub struct EmbeddedStore {
    db: EmbeddedDb,
}

impl EmbeddedStore {
    /// The records of this file.
    #[must_use]
    pub fn new(db: EmbeddedDb) -> Self {
        Self { db }
    }

    /// Finishes what was begun and closes the file, for every view of it.
    pub async fn close(&self) {
        self.db.close().await;
    }
}

#[async_trait]
impl RecordStore for EmbeddedStore {
    async fn load(&self, shard: ShardId, after: Option<VmId>, limit: usize) -> Result<Page, StoreError> {
        let from = match after.map(|vm| vm.uuid().as_u128().checked_add(1)) {
            None => 0,
            Some(Some(from)) => from,
            Some(None) => return Ok(Page::default()),
        };
        let (rows, goes_on) = self
            .db
            .read(move |transaction| {
                let records = transaction.open_table(RECORDS)?;
                let mut range = records.range((shard.0, from)..=(shard.0, u128::MAX))?;
                let mut rows = Vec::new();
                for row in range.by_ref().take(limit.max(1)) {
                    let (key, value) = row?;
                    rows.push((key.value().1, value.value().to_vec()));
                }
                Ok((rows, range.next().transpose()?.is_some()))
            })
            .await?;
        let last = rows.last().map(|(vm, _)| VmId::new(Uuid::from_u128(*vm)));
        let mut page = Page { next: last.filter(|_| goes_on), ..Page::default() };
        for (vm, bytes) in rows {
            match decode(vm, bytes) {
                Ok(record) => page.records.push(record),
                Err(damaged) => page.damaged.push(damaged),
            }
        }
        Ok(page)
    }

    async fn get(&self, shard: ShardId, vm: VmId) -> Result<Option<Stored>, StoreError> {
        let key = (shard.0, vm.uuid().as_u128());
        let row = self.db.read(move |transaction| {
            let records = transaction.open_table(RECORDS)?;
            let row = records.get(key)?.map(|value| value.value().to_vec());
            Ok(row)
        });
        Ok(row.await?.map(|bytes| decode(key.1, bytes)).transpose()?)
    }

    async fn commit(&self, shard: ShardId, epoch: Epoch, write: Write) -> Result<(), StoreError> {
        self.db.write(move |tables| apply(tables, shard, epoch, &write)).await?
    }
}

/// The outer error aborts the whole transaction; the inner one is this write's own answer and changes nothing.
fn apply(
    tables: &mut Tables<'_>,
    shard: ShardId,
    epoch: Epoch,
    write: &Write,
) -> Result<Result<(), StoreError>, redb::Error> {
    if tables.epochs.get(shard.0)?.map(|value| value.value()) != Some(epoch.0) {
        return Ok(Err(StoreError::Fenced { shard }));
    }
    let key = (shard.0, write.vm.uuid().as_u128());
    let (found, repeated) = match tables.records.get(key)? {
        None => (Generation(0), write.change == Change::Delete),
        Some(stored) => {
            let Some((generation, value)) = split(stored.value()) else {
                return Ok(Err(too_short(write.vm, stored.value()).into()));
            };
            (generation, is_repeated(&write.change, generation, value))
        }
    };
    if repeated {
        // The same write was committed before, and the answer was lost.
        return Ok(Ok(()));
    }
    if found != write.expected {
        return Ok(Err(StoreError::Conflict { vm: write.vm, expected: write.expected }));
    }
    match &write.change {
        Change::Put { generation, value } => {
            let mut bytes = Vec::with_capacity(GENERATION_BYTES + value.len());
            bytes.extend_from_slice(&generation.0.to_le_bytes());
            bytes.extend_from_slice(value);
            tables.records.insert(key, bytes.as_slice())?;
        }
        Change::Delete => {
            tables.records.remove(key)?;
        }
    }
    Ok(Ok(()))
}

fn is_repeated(change: &Change, generation: Generation, value: &[u8]) -> bool {
    match change {
        Change::Put { generation: new, value: wanted } => generation == *new && value == wanted,
        Change::Delete => false,
    }
}

fn split(bytes: &[u8]) -> Option<(Generation, &[u8])> {
    let (generation, value) = bytes.split_first_chunk::<GENERATION_BYTES>()?;
    Some((Generation(u64::from_le_bytes(*generation)), value))
}

fn too_short(vm: VmId, bytes: &[u8]) -> DamagedRecord {
    DamagedRecord { vm, why: format!("{} bytes are too short", bytes.len()) }
}

fn decode(vm: u128, bytes: Vec<u8>) -> Result<Stored, DamagedRecord> {
    let vm = VmId::new(Uuid::from_u128(vm));
    let Some((generation, _)) = split(&bytes) else {
        return Err(too_short(vm, &bytes));
    };
    Ok(Stored { vm, generation, value: Bytes::from(bytes).slice(GENERATION_BYTES..) })
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotWritten(why) => Self::Unavailable(why),
            WriteError::Unknown(why) => Self::Unknown(why),
        }
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(why) => Self::Unavailable(why),
            ReadError::Damaged(why) => Self::Damaged(why),
        }
    }
}

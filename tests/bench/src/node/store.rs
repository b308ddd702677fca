//! A store whose records are made from their indices when they are read, so that nothing of them is resident; or kept
//! as bytes, where making them must not be measured. What was committed is kept and read back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use reeve_lifecycle::record::RECORD_FORMAT;
use reeve_ports::store::{Change, Page, RecordStore, StoreError, Stored, Write};
use reeve_protocol::{Epoch, ShardId, Timestamp, VmId, codec};
use tokio::time::Instant;

use super::Make;
use crate::records;

/// Whether the bytes of the records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The bytes are made when they are asked for; an index of four bytes a VM is all there is.
    Nothing,
    /// The bytes are there before anything is measured, as a server would have them.
    Bytes,
}

/// A commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    /// Of which VM.
    pub(crate) vm: VmId,
    /// When it arrived.
    pub(crate) at: Instant,
}

/// The store.
pub(crate) struct MadeStore {
    make: Make,
    now: Timestamp,
    /// The indices of each shard, in the order of their ids.
    indices: Vec<Vec<u32>>,
    kept: Vec<Vec<Stored>>,
    written: Mutex<BTreeMap<VmId, Option<Stored>>>,
    journal: Mutex<Option<Vec<Commit>>>,
    commits: AtomicU64,
}

impl MadeStore {
    pub(super) fn new(vms: u64, shards: u16, make: Make, now: Timestamp, kept: Kept) -> Result<Self> {
        let narrow = |indices: Vec<u64>| indices.into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>();
        let indices = records::by_shard(vms, shards).into_iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
        let mut store = Self {
            make,
            now,
            indices,
            kept: Vec::new(),
            written: Mutex::default(),
            journal: Mutex::default(),
            commits: AtomicU64::new(0),
        };
        if kept == Kept::Bytes {
            let all =
                |indices: &Vec<u32>| indices.iter().map(|index| store.made(*index)).collect::<Result<Vec<_>, _>>();
            store.kept = store.indices.iter().map(all).collect::<Result<Vec<_>, _>>()?;
        }
        Ok(store)
    }

    /// How many commits there were.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Writes down every commit from now on.
    pub(crate) fn keep_journal(&self) {
        *self.journal.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// The commits since.
    pub(crate) fn journal(&self) -> Vec<Commit> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    fn made(&self, index: u32) -> Result<Stored, StoreError> {
        let record = (self.make)(u64::from(index), self.now);
        let bytes = codec::encode(RECORD_FORMAT, &record).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok(Stored { vm: record.vm, generation: record.generation, value: Bytes::from(bytes) })
    }

    fn read(&self, shard: ShardId, place: usize) -> Result<Option<Stored>, StoreError> {
        let index = self.indices[usize::from(shard.0)][place];
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written) = written.get(&records::vm(u64::from(index))) {
            return Ok(written.clone());
        }
        drop(written);
        match self.kept.get(usize::from(shard.0)) {
            Some(kept) => Ok(Some(kept[place].clone())),
            None => self.made(index).map(Some),
        }
    }
}

#[async_trait]
impl RecordStore for MadeStore {
    async fn load(&self, shard: ShardId, after: Option<VmId>, limit: usize) -> Result<Page, StoreError> {
        let indices = &self.indices[usize::from(shard.0)];
        let from = after.map_or(0, |after| indices.partition_point(|index| records::vm(u64::from(*index)) <= after));
        let until = (from + limit).min(indices.len());
        let mut page = Page::default();
        for place in from..until {
            page.records.extend(self.read(shard, place)?);
        }
        let more = until > from && until < indices.len();
        page.next = more.then(|| records::vm(u64::from(indices[until - 1])));
        Ok(page)
    }

    async fn get(&self, shard: ShardId, vm: VmId) -> Result<Option<Stored>, StoreError> {
        let indices = &self.indices[usize::from(shard.0)];
        match indices.binary_search_by_key(&vm, |index| records::vm(u64::from(*index))) {
            Ok(place) => self.read(shard, place),
            Err(_) => Ok(None),
        }
    }

    async fn commit(&self, _: ShardId, _: Epoch, write: Write) -> Result<(), StoreError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let stored = match write.change {
            Change::Put { generation, value } => Some(Stored { vm: write.vm, generation, value }),
            Change::Delete => None,
        };
        if let Some(journal) = self.journal.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            journal.push(Commit { vm: write.vm, at: Instant::now() });
        }
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(write.vm, stored);
        Ok(())
    }
}

//! The record store on etcd. Every write is fenced by the owner's epoch, which etcd itself compares.
//!
//! ```text
//! commit ─► the shard's lane ─► one transaction a group ─► each write's own answer
//!                                 │ no answer: the same again, on the next endpoint
//!                                 └ still none ─► Unknown (a later read tells)
//! load, get ─► linearizable reads: a former owner's last write is in them, or it never will be
//! ```
//!
//! The fence is the create revision of the shard's key ([`Keys::shard`]), which a claim makes and a lost lease or a
//! release removes. The records of a shard are below [`Keys::records`], as `vm/<uuid>`; [`layout`] says what they hold.
//! Nothing is cached here, and the store never claims a shard.
//!
//! The feature `broken-fencing` leaves the fence out. It exists so that the chaos run can prove that its checker finds
//! what happens then; no other build turns it on.

mod group;
mod lane;
mod layout;
mod queue;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{GetOptions, GetResponse};
use reeve_ports::store::{Page, RecordStore, StoreError, Stored, Write};
use reeve_protocol::{Epoch, ShardId, VmId};

use super::client::EtcdClient;
use super::error::EtcdError;
use super::keys::Keys;
use group::{Names, OfShard};
use lane::{Lane, Writer};

/// The limit of a read.
const READ: Duration = Duration::from_secs(5);
/// The limit of a transaction on one endpoint. A healthy etcd needs milliseconds, an election 1 to 2 s.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often a transaction without an answer is sent. Again does no harm: whichever comes second finds the same record.
const ATTEMPTS: usize = 3;
/// Records of one read. Those of ordinary size make half a megabyte.
const PAGE: usize = 500;

/// The record store of a cluster. A write is durable on a majority of etcd's members when it returns.
#[derive(Clone)]
pub struct EtcdStore {
    backend: Arc<Backend>,
    lanes: Arc<[Arc<Lane>]>,
    /// One a shard that was ever written to here.
    writers: Arc<Mutex<BTreeMap<ShardId, Arc<Writer>>>>,
}

struct Backend {
    client: EtcdClient,
    keys: Keys,
    transactions: AtomicU64,
}

impl EtcdStore {
    /// How many transactions are under way at most.
    pub const LANES: usize = lane::LANES;

    /// The records of a cluster.
    #[must_use]
    pub fn new(client: EtcdClient, keys: Keys) -> Self {
        if cfg!(feature = "broken-fencing") {
            tracing::error!("this build does not fence its writes: it is for the test of the tests");
        }
        let backend = Arc::new(Backend { client, keys, transactions: AtomicU64::new(0) });
        let lanes = (0..lane::LANES).map(|_| Lane::new(Arc::clone(&backend))).collect();
        Self { backend, lanes, writers: Arc::default() }
    }

    /// Transactions that were sent since the start. Fewer than writes, when there were many at once.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.backend.transactions.load(Ordering::Relaxed)
    }

    fn writer(&self, shard: ShardId) -> Arc<Writer> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writers.entry(shard).or_insert_with(|| {
            Arc::new(Writer::new(self.backend.names(shard), Arc::clone(&self.lanes[lane::of(shard)])))
        });
        Arc::clone(writer)
    }
}

#[async_trait]
impl RecordStore for EtcdStore {
    async fn load(&self, shard: ShardId, after: Option<VmId>, limit: usize) -> Result<Page, StoreError> {
        let prefix = self.backend.prefix(shard);
        // The first key that is no record: '0' follows '/'.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let mut from = after.map_or_else(|| prefix.clone().into_bytes(), |vm| after_key(self.backend.key(shard, vm)));
        let (mut page, mut at_once, mut left) = (Page::default(), PAGE, limit.max(1));
        loop {
            let wanted = at_once.min(left);
            let count = i64::try_from(wanted).unwrap_or(i64::MAX);
            let options = GetOptions::new().with_range(end.as_str()).with_limit(count);
            let mut answer = match self.backend.read(from.clone(), Some(options)).await {
                Ok(answer) => answer,
                Err(error) if is_too_long(&error) && wanted > 1 => {
                    at_once = wanted / 2;
                    continue;
                }
                Err(error) => return Err(failed_read(error)),
            };
            let more = answer.more();
            let mut last = None;
            for found in answer.take_kvs() {
                let (key, value) = found.into_key_value();
                if let Some(vm) = vm_of(&prefix, &key) {
                    left = left.saturating_sub(1);
                    // Where the next page begins, if this one is full now.
                    page.next = Some(vm);
                    add(&mut page, vm, value);
                } else {
                    tracing::error!(%shard, key = %key.escape_ascii(), "a key names no VM; it is left as it is");
                }
                last = Some(key);
            }
            match last.filter(|_| more) {
                Some(_) if left == 0 => return Ok(page),
                // What names no VM takes no room on the page.
                Some(last) => from = after_key(last),
                None => return Ok(Page { next: None, ..page }),
            }
        }
    }

    async fn get(&self, shard: ShardId, vm: VmId) -> Result<Option<Stored>, StoreError> {
        let key = self.backend.key(shard, vm);
        let mut answer = self.backend.read(key, None).await.map_err(failed_read)?;
        Ok(answer.take_kvs().pop().map(|found| layout::decode(vm, found.into_key_value().1)).transpose()?)
    }

    async fn commit(&self, shard: ShardId, epoch: Epoch, write: Write) -> Result<(), StoreError> {
        if !group::is_possible(epoch) {
            return Err(StoreError::Fenced { shard });
        }
        let size = group::size(&write);
        if size > group::MAX_RECORD_BYTES {
            // No attempt can succeed; this is what keeps the caller from trying for ever.
            let most = group::MAX_RECORD_BYTES;
            return Err(StoreError::Damaged(format!("record {}: {size} bytes, etcd takes {most}", write.vm)));
        }
        self.writer(shard).commit(epoch, write).await
    }
}

impl Backend {
    fn prefix(&self, shard: ShardId) -> String {
        format!("{}vm/", self.keys.records(shard))
    }

    fn key(&self, shard: ShardId, vm: VmId) -> Vec<u8> {
        self.names(shard).record(vm)
    }

    fn names(&self, shard: ShardId) -> Names {
        Names { shard, owner: self.keys.shard(shard), prefix: self.prefix(shard) }
    }

    /// Reads what a majority has agreed upon.
    async fn read(&self, key: impl Into<Vec<u8>>, options: Option<GetOptions>) -> Result<GetResponse, EtcdError> {
        let key = key.into();
        let attempt = |connection: super::Connection| {
            let (key, options) = (key.clone(), options.clone());
            async move { connection.kv().get(key, options).await }
        };
        self.client.ask(attempt, READ).await
    }

    /// Writes a group, and returns each write's answer in their order.
    async fn write(&self, parts: &[OfShard<'_>]) -> Vec<Vec<Result<(), StoreError>>> {
        let attempt = |connection: super::Connection| {
            // Anew for each attempt: a second one is rare, and what is sent is gone.
            let transaction = group::transaction(parts);
            async move { connection.kv().txn(transaction).await }
        };
        let mut unknown = None;
        for _ in 0..ATTEMPTS {
            self.transactions.fetch_add(1, Ordering::Relaxed);
            // Not `ask`: after an attempt without an answer its "unavailable" would no longer mean "not written".
            let error = match self.client.call(attempt, ATTEMPT).await {
                Ok(answer) => return group::results(parts, &answer),
                Err(error) => error,
            };
            match failed_write(error) {
                StoreError::Unknown(why) => unknown = Some(why),
                error => return group::all(parts, &unknown.map_or(error, StoreError::Unknown)),
            }
        }
        let why = unknown.expect("every attempt ended without an answer");
        group::all(parts, &StoreError::Unknown(why))
    }
}

/// The smallest key after this one.
fn after_key(key: impl Into<Vec<u8>>) -> Vec<u8> {
    let mut key = key.into();
    key.push(0);
    key
}

/// The VM of a key. An id that is written in another way than [`Backend::key`] writes it is nobody's: the same VM has
/// its record elsewhere.
fn vm_of(prefix: &str, key: &[u8]) -> Option<VmId> {
    let id = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
    id.parse().ok().filter(|vm: &VmId| vm.to_string() == id)
}

fn add(page: &mut Page, vm: VmId, value: Vec<u8>) {
    match layout::decode(vm, value) {
        Ok(record) => page.records.push(record),
        Err(damaged) => page.damaged.push(damaged),
    }
}

/// gRPC's own words for an answer beyond the client's limit.
fn is_too_long(error: &EtcdError) -> bool {
    match error {
        EtcdError::Refused(why) => why.contains("message length too large"),
        EtcdError::Unavailable(_) | EtcdError::Unknown(_) | EtcdError::Config(_) => false,
    }
}

fn failed_read(error: EtcdError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn failed_write(error: EtcdError) -> StoreError {
    let why = error.to_string();
    match error {
        EtcdError::Unknown(_) => StoreError::Unknown(why),
        // The answer was too long, the transaction may well be written.
        EtcdError::Refused(_) if is_too_long(&error) => StoreError::Unknown(why),
        EtcdError::Unavailable(_) | EtcdError::Refused(_) | EtcdError::Config(_) => StoreError::Unavailable(why),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn keys_sort_as_ids_do() {
        let vm = |n: u128| VmId::new(Uuid::from_u128(n));
        let ids = [0, 1, 9, 10, 255, 1 << 64, u128::MAX];
        let keys: Vec<String> = ids.iter().map(|&id| format!("/r/vm/{}", vm(id))).collect();
        assert!(keys.is_sorted());
        for pair in keys.windows(2) {
            let after = after_key(pair[0].as_str());
            assert!(after[..] > *pair[0].as_bytes() && after[..] < *pair[1].as_bytes());
        }
        assert_eq!(vm_of("/r/vm/", keys[3].as_bytes()), Some(vm(10)));
    }

    #[test]
    fn a_key_that_is_written_in_another_way_is_no_records() {
        let keys = [
            &b"/r/vm/x"[..],
            b"/r/vm/",
            b"/q/vm/00000000-0000-0000-0000-00000000000a",
            b"/r/vm/00000000-0000-0000-0000-00000000000A",
            b"/r/vm/0000000000000000000000000000000a",
            b"\xff",
        ];
        for key in keys {
            assert_eq!(vm_of("/r/vm/", key), None, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn only_what_is_certain_is_called_unavailable() {
        let text = || "text".to_owned();
        assert!(matches!(failed_write(EtcdError::Unavailable(text())), StoreError::Unavailable(_)));
        assert!(matches!(failed_write(EtcdError::Refused(text())), StoreError::Unavailable(_)));
        assert!(matches!(failed_write(EtcdError::Unknown(text())), StoreError::Unknown(_)));
        let long = EtcdError::Refused("Error, decoded message length too large: found 70000000 bytes".into());
        assert!(matches!(failed_write(long), StoreError::Unknown(_)));
    }
}

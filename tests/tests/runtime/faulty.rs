//! The ports of a node that fail when told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use reeve_cluster::embedded::{EmbeddedBus, EmbeddedCoordination, EmbeddedStore};
use reeve_drivers::SimCloud;
use reeve_lifecycle::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::bus::PastEvent;
use reeve_ports::coordination::CoordinationError;
use reeve_ports::store::{Change, DamagedRecord, Page, Stored, Write};
use reeve_ports::{
    Address, Bus, BusError, Consumer, Coordination, DeadLetter, Freshness, GuestProbe, Message, Queue, RecordStore,
    StoreError,
};
use reeve_protocol::{Epoch, HostName, ShardId, Timestamp, VmId};

/// A record with these bytes in it makes [`FlakyStore`] panic in the middle of its supervisor.
pub(crate) const POISON: &str = "poison-that-panics";

/// A store that fails when told.
pub(crate) struct FlakyStore {
    inner: EmbeddedStore,
    pub(crate) away: AtomicBool,
    /// How many commits from now on are done without an answer.
    pub(crate) silent: AtomicU32,
    /// How many commits from now on fail without an answer and without effect.
    pub(crate) lost: AtomicU32,
    /// How many commits were answered `Fenced`.
    pub(crate) fenced: AtomicU32,
    /// How many commits panicked.
    pub(crate) panicked: AtomicU32,
    /// A shard that is being loaded gets no answer.
    pub(crate) stalls: AtomicBool,
    /// Whose records cannot be read.
    pub(crate) damaged: Mutex<BTreeSet<VmId>>,
    /// How many records were asked for alone.
    pub(crate) asked: AtomicU32,
    /// As whom each shard was written to last.
    epochs: Mutex<BTreeMap<ShardId, Epoch>>,
}

fn take_one(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn is_poisoned(write: &Write) -> bool {
    match &write.change {
        Change::Put { value, .. } => value.windows(POISON.len()).any(|bytes| bytes == POISON.as_bytes()),
        Change::Delete => false,
    }
}

impl FlakyStore {
    pub(crate) fn new(inner: EmbeddedStore) -> Self {
        Self {
            inner,
            away: AtomicBool::default(),
            silent: AtomicU32::default(),
            lost: AtomicU32::default(),
            fenced: AtomicU32::default(),
            panicked: AtomicU32::default(),
            stalls: AtomicBool::default(),
            damaged: Mutex::default(),
            asked: AtomicU32::default(),
            epochs: Mutex::default(),
        }
    }

    /// Writes a record as its shard's last writer would, without that one's knowledge: as a commit of a predecessor that
    /// lands late.
    pub(crate) async fn write_behind(&self, shard: ShardId, stored: Stored) {
        let epoch = self.epochs.lock().unwrap()[&shard];
        let Stored { vm, generation: expected, value } = stored;
        let change = Change::Put { generation: expected.next(), value };
        self.inner.commit(shard, epoch, Write { vm, expected, change }).await.unwrap();
    }

    fn damage(&self, vm: VmId) -> Option<DamagedRecord> {
        let is_damaged = self.damaged.lock().unwrap().contains(&vm);
        is_damaged.then(|| DamagedRecord { vm, why: "told so: it is damaged".to_owned() })
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) { Err(StoreError::Unavailable("told so".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl RecordStore for FlakyStore {
    async fn load(&self, shard: ShardId, after: Option<VmId>, limit: usize) -> Result<Page, StoreError> {
        self.check()?;
        if self.stalls.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut page = self.inner.load(shard, after, limit).await?;
        page.damaged.extend(page.records.iter().filter_map(|stored| self.damage(stored.vm)));
        page.records.retain(|stored| self.damage(stored.vm).is_none());
        Ok(page)
    }

    async fn get(&self, shard: ShardId, vm: VmId) -> Result<Option<Stored>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        match self.damage(vm) {
            Some(damaged) => Err(damaged.into()),
            None => self.inner.get(shard, vm).await,
        }
    }

    async fn commit(&self, shard: ShardId, epoch: Epoch, write: Write) -> Result<(), StoreError> {
        self.check()?;
        self.epochs.lock().unwrap().insert(shard, epoch);
        if is_poisoned(&write) {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            // Meanwhile others queue up behind it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            panic!("told so: the record is poisoned");
        }
        if take_one(&self.lost) {
            return Err(StoreError::Unknown("told so, before".to_owned()));
        }
        let result = self.inner.commit(shard, epoch, write).await;
        if matches!(result, Err(StoreError::Fenced { .. })) {
            self.fenced.fetch_add(1, Ordering::SeqCst);
        }
        result?;
        if take_one(&self.silent) { Err(StoreError::Unknown("told so, after".to_owned())) } else { Ok(()) }
    }
}

/// A bus that takes no events while it is away; everything else goes on.
pub(crate) struct FlakyBus {
    inner: EmbeddedBus,
    pub(crate) away: AtomicBool,
    /// Commands are not taken.
    pub(crate) deaf: AtomicBool,
    /// So many commands are taken, and their confirmations are lost.
    pub(crate) silent: AtomicU32,
    /// How many publications failed.
    pub(crate) failed: AtomicU32,
    /// The ids of the events that it took, those that came again as well: the embedded bus keeps each once.
    pub(crate) taken: Mutex<Vec<String>>,
}

impl FlakyBus {
    pub(crate) fn new(inner: EmbeddedBus) -> Self {
        let (deaf, silent) = (AtomicBool::default(), AtomicU32::default());
        Self { inner, away: AtomicBool::default(), deaf, silent, failed: AtomicU32::default(), taken: Mutex::default() }
    }
}

#[async_trait]
impl Bus for FlakyBus {
    async fn publish(&self, to: &Address, message: Message) -> Result<(), BusError> {
        if matches!(to, Address::Events(_)) && self.away.load(Ordering::SeqCst) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(BusError::Unavailable("told so".to_owned()));
        }
        if *to == Address::Requests && self.deaf.load(Ordering::SeqCst) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(BusError::Unavailable("told so".to_owned()));
        }
        if *to == Address::Requests && take_one(&self.silent) {
            self.inner.publish(to, message).await?;
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(BusError::Unavailable("told so, after".to_owned()));
        }
        let id = message.message_id.clone().filter(|_| matches!(to, Address::Events(_)));
        self.inner.publish(to, message).await?;
        self.taken.lock().unwrap().extend(id);
        Ok(())
    }

    async fn consume(&self, queue: &Queue, prefetch: u16) -> Result<Consumer, BusError> {
        self.inner.consume(queue, prefetch).await
    }

    async fn dead(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.inner.dead(from, limit).await
    }

    async fn replay_dead(&self, number: u64) -> Result<(), BusError> {
        self.inner.replay_dead(number).await
    }

    async fn drop_dead(&self, number: u64) -> Result<(), BusError> {
        self.inner.drop_dead(number).await
    }

    async fn history(&self, since: Timestamp, after: Option<u64>, limit: usize) -> Result<Vec<PastEvent>, BusError> {
        self.inner.history(since, after, limit).await
    }
}

/// A coordination that another node can win.
pub(crate) struct FlakyCoordination {
    inner: EmbeddedCoordination,
    /// Another node owns everything.
    pub(crate) elsewhere: AtomicBool,
}

impl FlakyCoordination {
    pub(crate) fn new(inner: EmbeddedCoordination) -> Self {
        Self { inner, elsewhere: AtomicBool::default() }
    }

    /// Another node takes these shards: whoever had them is fenced.
    pub(crate) async fn lose(&self, shards: u16) {
        self.elsewhere.store(true, Ordering::SeqCst);
        for shard in 0..shards {
            self.inner.claim(ShardId(shard)).await.unwrap();
        }
    }

    /// The other node is gone.
    pub(crate) fn give_back(&self) {
        self.elsewhere.store(false, Ordering::SeqCst);
    }
}

#[async_trait]
impl Coordination for FlakyCoordination {
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError> {
        if self.elsewhere.load(Ordering::SeqCst) {
            return Err(CoordinationError::NotOwner(shard));
        }
        self.inner.claim(shard).await
    }

    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        self.inner.confirm(shard, epoch).await
    }
}

/// A probe that panics when told.
pub(crate) struct FlakyProbe {
    inner: Arc<SimCloud>,
    pub(crate) panics: AtomicBool,
    /// How many probes panicked.
    pub(crate) panicked: AtomicU32,
    /// How fresh each answer had to be.
    pub(crate) asked: Mutex<Vec<(VmId, Freshness)>>,
}

impl FlakyProbe {
    pub(crate) fn new(inner: Arc<SimCloud>) -> Self {
        Self { inner, panics: AtomicBool::default(), panicked: AtomicU32::default(), asked: Mutex::default() }
    }
}

#[async_trait]
impl GuestProbe for FlakyProbe {
    async fn probe(
        &self,
        vm: VmId,
        host: Option<&HostName>,
        kind: ProbeKind,
        freshness: Freshness,
        timeout: Duration,
    ) -> ProbeVerdict {
        self.asked.lock().unwrap().push((vm, freshness));
        if self.panics.load(Ordering::SeqCst) {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            panic!("told so");
        }
        self.inner.probe(vm, host, kind, freshness, timeout).await
    }

    async fn connects(&self, address: IpAddr, port: u16, timeout: Duration) -> bool {
        self.inner.connects(address, port, timeout).await
    }
}

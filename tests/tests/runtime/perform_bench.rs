//! One VM of a simulated cloud, and effects on it performed by hand: as the core would, attempt after attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_drivers::cloud::sim::CallKind;
use reeve_drivers::{MemoryNotifier, OpendalVault, SimCloud, SimConfig};
use reeve_lifecycle::effect::{Disk, Inventory};
use reeve_lifecycle::policy::Policy;
use reeve_lifecycle::record::{BackupEntry, BackupState, Presence};
use reeve_lifecycle::{Done, Effect, EffectKey, NamedPolicy, Outcome, PendingEffect, VmRecord};
use reeve_ports::cloud::{CloudSnapshot, DiskSource, HostHealth, LaunchSpec, ListPage};
use reeve_ports::coordination::CoordinationError;
use reeve_ports::{Clock, Cloud, CloudError, Coordination};
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::{BackupId, Epoch, Generation, ShardId, Span, Timestamp, VmId};
use reeve_runtime::{Acts, EffectContext, Ownership, Ports, Timeouts, perform};
use reeve_tests::nobody::Nobody;

use crate::world::{TestClock, cloud};

/// The key of the effect under test; those that prepare it have others.
const KEY: EffectKey = EffectKey { generation: Generation(7), index: 0 };

/// Says whether the term lasts, as told.
#[derive(Default)]
pub(crate) struct Term {
    pub(crate) is_over: AtomicBool,
    /// The right to act has lapsed.
    pub(crate) is_lapsed: AtomicBool,
    /// The claim is known to be lost.
    pub(crate) is_lost: AtomicBool,
    /// How often it was asked to confirm.
    pub(crate) confirmed: AtomicU32,
}

#[async_trait]
impl Coordination for Term {
    async fn claim(&self, _: ShardId) -> Result<Epoch, CoordinationError> {
        Ok(Epoch(1))
    }

    async fn confirm(&self, shard: ShardId, _: Epoch) -> Result<(), CoordinationError> {
        self.confirmed.fetch_add(1, Ordering::SeqCst);
        if self.is_over.load(Ordering::SeqCst) { Err(CoordinationError::NotOwner(shard)) } else { Ok(()) }
    }

    fn may_act(&self) -> bool {
        !self.is_lapsed.load(Ordering::SeqCst)
    }

    fn holds(&self, _: ShardId, _: Epoch) -> bool {
        self.may_act() && !self.is_lost.load(Ordering::SeqCst)
    }
}

/// A simulated cloud that fails to build what it was asked to launch.
pub(crate) struct BadBuilder {
    inner: Arc<SimCloud>,
    /// How many launches from now on end in state error.
    pub(crate) fails: AtomicU32,
    /// Whether they fail only after they have run.
    pub(crate) after_launch: AtomicBool,
    pub(crate) broken: Mutex<BTreeSet<VmId>>,
}

/// The bench.
pub(crate) struct Bench {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) sim: Arc<SimCloud>,
    pub(crate) builder: Arc<BadBuilder>,
    pub(crate) term: Arc<Term>,
    pub(crate) vm: VmId,
    pub(crate) ports: Ports,
    record: VmRecord,
    ownership: Arc<Ownership>,
    since: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(TestClock::new());
        let ms = |ms| [Span::from_millis(ms), Span::from_millis(ms)];
        let config = SimConfig {
            vms: 1,
            volumes_per_vm: [1, 1],
            addresses_per_vm: [1, 1],
            shared_volume_percent: 0,
            build: ms(100),
            power: ms(100),
            delete: ms(100),
            snapshot: ms(100),
            restore: ms(100),
            hang: Span::from_millis(500),
            ..SimConfig::default()
        };
        let sim = Arc::new(SimCloud::new(Arc::clone(&clock) as Arc<dyn Clock>, config).unwrap());
        let vm = sim.vm_ids()[0];
        let builder = Arc::new(BadBuilder {
            inner: Arc::clone(&sim),
            fails: AtomicU32::default(),
            after_launch: AtomicBool::default(),
            broken: Mutex::default(),
        });
        let term = Arc::new(Term::default());
        let ports = Ports {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            cloud: BTreeMap::from([(cloud(), Arc::clone(&builder) as Arc<dyn Cloud>)]),
            probe: BTreeMap::new(),
            vault: Arc::new(OpendalVault::in_memory().unwrap()),
            notifier: Arc::new(MemoryNotifier::new(10)),
            timeouts: Timeouts { look_every: Duration::from_millis(50), ..Timeouts::default() },
        };
        let ownership = Arc::new(Ownership {
            shard: ShardId(0),
            epoch: Epoch(1),
            coordination: Arc::clone(&term) as Arc<dyn Coordination>,
            introducer: Arc::new(Nobody),
            acts: Acts::default(),
        });
        let policy = NamedPolicy { name: "default".to_owned(), terms: Policy::default() };
        let mut record = VmRecord::unseen(vm, cloud(), policy);
        record.presence = Presence::Present { since: clock.now(), missing_since: None };
        Self { clock, sim, builder, term, vm, record, ports, ownership, since: 0 }
    }

    /// The effect as a record holds it, decided now.
    pub(crate) fn decide(&self, effect: Effect) -> PendingEffect {
        PendingEffect { key: KEY, effect, decided_at: self.clock.now(), failures: 0, retry_at: None }
    }

    /// One attempt.
    pub(crate) async fn attempt(&self, pending: &PendingEffect) -> Outcome {
        let context = EffectContext::new(&self.record, &pending.effect, Arc::clone(&self.ownership));
        perform(&self.ports, &context, pending).await
    }

    /// Attempts until it is done, as the core would have it.
    pub(crate) async fn until_done(&self, pending: &PendingEffect) -> Done {
        let mut last = None;
        for _ in 0..6 {
            match self.attempt(pending).await {
                Outcome::Done(done) => return done,
                other => last = Some(other),
            }
            self.clock.sleep(Duration::from_millis(100)).await;
        }
        panic!("{:?} is not done: {last:?}", pending.effect)
    }

    /// Does something that the effect under test needs before.
    pub(crate) async fn beforehand(&self, effect: Effect) -> Done {
        let pending = PendingEffect { key: EffectKey { index: 9, ..KEY }, ..self.decide(effect) };
        self.until_done(&pending).await
    }

    /// From here on calls are counted.
    pub(crate) fn mark(&mut self) {
        self.since = self.sim.audit().last().map_or(0, |entry| entry.seq);
    }

    /// How many calls of this kind changed something since the mark.
    pub(crate) fn applied(&self, call: CallKind) -> usize {
        let audit = self.sim.audit();
        audit.iter().filter(|entry| entry.seq > self.since && entry.call == call && entry.applied).count()
    }

    /// How many calls changed something since the mark.
    pub(crate) fn changes(&self) -> usize {
        self.sim.audit().iter().filter(|entry| entry.seq > self.since && entry.applied).count()
    }

    /// A sealed backup of every disk, known to the record.
    pub(crate) async fn back_up(&mut self) -> BackupId {
        let Done::Inventory(inventory) = self.beforehand(Effect::TakeInventory).await else { panic!("no inventory") };
        let backup = self.list_backup(inventory.clone());
        let volumes = inventory.volumes.into_iter().map(|volume| Disk::Volume(volume.id));
        let mut disks = Vec::new();
        for disk in std::iter::once(Disk::Root).chain(volumes) {
            let taken = self.beforehand(Effect::SnapshotDisk { backup, disk }).await;
            let Done::Snapshot(snapshot) = taken else { panic!("no snapshot") };
            let stored = self.beforehand(Effect::StoreDisk { backup, snapshot }).await;
            let Done::Stored(stored) = stored else { panic!("not stored") };
            disks.push(stored);
        }
        self.beforehand(Effect::SealBackup { backup, purpose: BackupPurpose::Manual, disks }).await;
        backup
    }

    pub(crate) fn list_backup(&mut self, inventory: Inventory) -> BackupId {
        let id = BackupId::of(self.vm, Generation(5));
        let (purpose, at, state) = (BackupPurpose::Manual, self.clock.now(), BackupState::Running);
        self.record.backups = vec![BackupEntry { id, purpose, at, state, inventory }];
        id
    }
}

#[async_trait]
impl Cloud for BadBuilder {
    async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError> {
        let made = self.inner.launch(spec).await?;
        if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            self.broken.lock().unwrap().insert(made);
        }
        Ok(made)
    }

    async fn show(&self, vm: VmId) -> Result<(VmFacts, Said), CloudError> {
        let (mut facts, said) = self.inner.show(vm).await?;
        let is_late = self.after_launch.load(Ordering::SeqCst);
        if self.broken.lock().unwrap().contains(&vm) && (!is_late || facts.launched_at.is_some()) {
            facts.state = VmState::Error;
            facts.launched_at = facts.launched_at.filter(|_| is_late);
        }
        Ok((facts, said))
    }

    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError> {
        self.inner.list(from).await
    }

    async fn inventory(&self, vm: VmId) -> Result<Inventory, CloudError> {
        self.inner.inventory(vm).await
    }

    async fn start(&self, vm: VmId) -> Result<(), CloudError> {
        self.inner.start(vm).await
    }

    async fn stop(&self, vm: VmId) -> Result<(), CloudError> {
        self.inner.stop(vm).await
    }

    async fn hard_reboot(&self, vm: VmId) -> Result<(), CloudError> {
        self.inner.hard_reboot(vm).await
    }

    async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        self.inner.last_reboot(vm).await
    }

    async fn suspend(&self, vm: VmId) -> Result<(), CloudError> {
        self.inner.suspend(vm).await
    }

    async fn resume(&self, vm: VmId) -> Result<(), CloudError> {
        self.inner.resume(vm).await
    }

    async fn snapshot(&self, vm: VmId, disk: &Disk, name: &str) -> Result<(), CloudError> {
        self.inner.snapshot(vm, disk, name).await
    }

    async fn find_snapshots(&self, vm: VmId, name: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        self.inner.find_snapshots(vm, name).await
    }

    async fn read_snapshot(
        &self,
        vm: VmId,
        id: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError> {
        self.inner.read_snapshot(vm, id).await
    }

    async fn delete_snapshot(&self, vm: VmId, id: &str) -> Result<(), CloudError> {
        self.inner.delete_snapshot(vm, id).await
    }

    async fn delete_server(&self, vm: VmId) -> Result<(), CloudError> {
        self.inner.delete_server(vm).await
    }

    async fn volume_exists(&self, volume: &str) -> Result<bool, CloudError> {
        self.inner.volume_exists(volume).await
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.inner.delete_volume(volume).await
    }

    async fn address_held(&self, address: &str) -> Result<bool, CloudError> {
        self.inner.address_held(address).await
    }

    async fn release_address(&self, address: &str) -> Result<(), CloudError> {
        self.inner.release_address(address).await
    }

    async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        self.inner.find_launched(operation, since).await
    }

    async fn restore_in_place(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError> {
        self.inner.restore_in_place(vm, operation, disks).await
    }

    async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        self.inner.last_restore(vm).await
    }

    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError> {
        self.inner.hosts().await
    }
}

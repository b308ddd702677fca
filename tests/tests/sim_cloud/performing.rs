//! Effects on one VM of a simulated OpenStack, performed as a node does it: the performer, the whole driver, HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reeve_drivers::cloud::openstack::OpenStackCloud;
use reeve_drivers::{MemoryNotifier, OpendalVault};
use reeve_lifecycle::effect::{Disk, Inventory, Snapshot, StoredDisk};
use reeve_lifecycle::policy::Policy;
use reeve_lifecycle::record::{BackupEntry, BackupState, Presence};
use reeve_lifecycle::{Done, Effect, EffectKey, NamedPolicy, Outcome, PendingEffect, VmRecord};
use reeve_ports::coordination::CoordinationError;
use reeve_ports::{Clock, Coordination, SystemClock, Vault, VaultError};
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, CloudName, Epoch, Generation, ShardId, VmId};
use reeve_runtime::{Acts, EffectContext, Ownership, Ports, Timeouts, perform};
use reeve_tests::nobody::Nobody;
use reeve_tests::sim_cloud::HttpFault;

use crate::fixture::{Fixture, MovedClock, driver_at, driver_config};

const KEY: EffectKey = EffectKey { generation: Generation(7), index: 0 };
/// Of a small simulated cloud: everything is there after a few.
const ATTEMPTS: usize = 50;

/// The owner of everything.
struct Owner;

#[async_trait]
impl Coordination for Owner {
    async fn claim(&self, _: ShardId) -> Result<Epoch, CoordinationError> {
        Ok(Epoch(1))
    }

    async fn confirm(&self, _: ShardId, _: Epoch) -> Result<(), CoordinationError> {
        Ok(())
    }
}

/// What came of an attempt, in a letter.
pub(crate) fn letter(outcome: &Outcome) -> char {
    match outcome {
        Outcome::Done(_) => 'D',
        Outcome::NotApplied { .. } => 'N',
        Outcome::Retryable { .. } => 'R',
        Outcome::Unknown { .. } => 'U',
    }
}

/// A VM, and the node that performs its effects.
pub(crate) struct Desk {
    pub(crate) fixture: Fixture,
    /// The driver's clock: its waits are set forward.
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) vault: Arc<OpendalVault>,
    pub(crate) vm: VmId,
    pub(crate) backup: BackupId,
    ports: Ports,
    record: VmRecord,
    ownership: Arc<Ownership>,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        let fixture = Fixture::start().await;
        let vm = fixture.first();
        let clock = Arc::new(MovedClock::default());
        let driver: Arc<OpenStackCloud> = driver_at(driver_config(&fixture.server), Arc::<MovedClock>::clone(&clock));
        let cloud = CloudName::new("sim").unwrap();
        let vault = Arc::new(OpendalVault::in_memory().unwrap());
        let timeouts = Timeouts { look_every: Duration::from_millis(20), ..Timeouts::default() };
        let ports = Ports {
            clock: Arc::new(SystemClock),
            cloud: BTreeMap::from([(cloud.clone(), driver as _)]),
            probe: BTreeMap::new(),
            vault: Arc::clone(&vault) as _,
            notifier: Arc::new(MemoryNotifier::new(10)),
            timeouts,
        };
        let ownership = Arc::new(Ownership {
            shard: ShardId(0),
            epoch: Epoch(1),
            coordination: Arc::new(Owner),
            introducer: Arc::new(Nobody),
            acts: Acts::default(),
        });
        let policy = NamedPolicy { name: "default".to_owned(), terms: Policy::default() };
        let mut record = VmRecord::unseen(vm, cloud, policy);
        let now = SystemClock.now();
        record.presence = Presence::Present { since: now, missing_since: None };
        let backup = BackupId::of(vm, Generation(5));
        let (purpose, state) = (BackupPurpose::Manual, BackupState::Running);
        record.backups = vec![BackupEntry { id: backup, purpose, at: now, state, inventory: Inventory::default() }];
        Self { fixture, clock, vault, vm, backup, ports, record, ownership }
    }

    /// The effect as a record holds it, decided now.
    pub(crate) fn decide(&self, effect: Effect) -> PendingEffect {
        PendingEffect { key: KEY, effect, decided_at: SystemClock.now(), failures: 0, retry_at: None }
    }

    /// One attempt.
    pub(crate) async fn attempt(&self, pending: &PendingEffect) -> Outcome {
        let context = EffectContext::new(&self.record, &pending.effect, Arc::clone(&self.ownership));
        perform(&self.ports, &context, pending).await
    }

    /// Attempts until it is done, as the core would have it.
    pub(crate) async fn until_done(&self, pending: &PendingEffect) -> Done {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match self.attempt(pending).await {
                Outcome::Done(done) => return done,
                other => last = Some(other),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:?} is not done: {last:?}", pending.effect)
    }

    /// Does what an effect under test needs before.
    pub(crate) async fn beforehand(&self, effect: Effect) -> Done {
        let pending = PendingEffect { key: EffectKey { index: 9, ..KEY }, ..self.decide(effect) };
        self.until_done(&pending).await
    }

    /// What goes wrong next.
    pub(crate) async fn order(&self, fault: HttpFault) {
        self.fixture.control.http_fault(&fault).await.unwrap();
    }

    pub(crate) async fn snapshot(&self, disk: Disk) -> Snapshot {
        let done = self.beforehand(Effect::SnapshotDisk { backup: self.backup, disk }).await;
        let Done::Snapshot(snapshot) = done else { panic!("no snapshot: {done:?}") };
        snapshot
    }

    pub(crate) fn storing(&self, snapshot: &Snapshot) -> PendingEffect {
        self.decide(Effect::StoreDisk { backup: self.backup, snapshot: snapshot.clone() })
    }

    /// Seals these disks, verifies them, and says how many bytes they are.
    pub(crate) async fn seal(&self, disks: Vec<StoredDisk>) -> u64 {
        let (backup, purpose) = (self.backup, BackupPurpose::Manual);
        self.beforehand(Effect::SealBackup { backup, purpose, disks }).await;
        let done = self.beforehand(Effect::VerifyBackup { backup }).await;
        let Done::Verified { bytes } = done else { panic!("not verified: {done:?}") };
        bytes
    }

    /// Whether there is a backup.
    pub(crate) async fn is_sealed(&self) -> bool {
        let context = EffectContext::new(&self.record, &Effect::TakeInventory, Arc::clone(&self.ownership));
        match self.vault.manifest(&context.path(self.backup)).await {
            Ok(_) => true,
            Err(VaultError::NotFound(_)) => false,
            Err(other) => panic!("{other}"),
        }
    }

    /// Stores every disk of the VM, seals and verifies.
    pub(crate) async fn back_up(&mut self) {
        let done = self.beforehand(Effect::TakeInventory).await;
        let Done::Inventory(inventory) = done else { panic!("no inventory: {done:?}") };
        self.record.backups[0].inventory = inventory.clone();
        let volumes = inventory.volumes.into_iter().map(|volume| Disk::Volume(volume.id));
        let mut disks = Vec::new();
        for disk in std::iter::once(Disk::Root).chain(volumes) {
            let snapshot = self.snapshot(disk).await;
            let done = self.until_done(&self.storing(&snapshot)).await;
            let Done::Stored(stored) = done else { panic!("not stored: {done:?}") };
            disks.push(stored);
        }
        self.seal(disks).await;
    }
}

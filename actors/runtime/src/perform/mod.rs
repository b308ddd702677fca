//! Performs one attempt of one effect over the ports.
//!
//! ```text
//! look ─ already so ─► Done
//!   └─ not so ─► confirm the epoch (destructive effects) ─► may act? ─► act ─► look until it is so ─► Done
//!                     │ not ours                             │ no        │ no answer,     └ too long
//!                     ▼                                      ▼           ▼ right lapsed        ▼
//!                 Retryable                              Retryable    Unknown               Unknown
//! ```
//!
//! Any attempt may follow a crash or a lost answer, so each looks before it acts. Nothing here is tied to a runtime:
//! futures and the [`Clock`] alone, so that a simulation can run it under a plain executor. It never changes a record.

mod backup;
mod guard;
mod launch;
mod notify;
mod probe;
mod provision;
mod server;
pub(crate) mod wait;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use reeve_lifecycle::effect::{Disk, Inventory};
use reeve_lifecycle::operation::{EndingStep, Operation, ReplyTo};
use reeve_lifecycle::record::Presence;
use reeve_lifecycle::{Effect, Extendable, Outcome, PendingEffect, VmInput, VmRecord, offered};
use reeve_ports::cloud::{Blueprint, OPERATION_KEY, OWNER_KEY};
use reeve_ports::vault::BackupPath;
use reeve_ports::{Clock, Cloud, CloudError, Coordination, GuestProbe, Notifier, Vault, VaultError};
use reeve_protocol::{BackupId, CloudName, Epoch, HostName, ShardId, UserId, VmId};

pub use self::guard::Acts;
use self::guard::{Guard, GuardedCloud, GuardedNotifier, GuardedVault};
use crate::config::Timeouts;

/// The outward ports of a node.
#[derive(Clone)]
pub struct Ports {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The clouds by name.
    pub cloud: BTreeMap<CloudName, Arc<dyn Cloud>>,
    /// The probe of each cloud's VMs.
    pub probe: BTreeMap<CloudName, Arc<dyn GuestProbe>>,
    /// Where backups are kept.
    pub vault: Arc<dyn Vault>,
    /// The way to people.
    pub notifier: Arc<dyn Notifier>,
    /// How long they are waited for.
    pub timeouts: Timeouts,
}

/// Hands an input to another VM's supervisor and waits until it is committed; and tells producers what came of requests.
#[async_trait]
pub trait Introducer: Send + Sync + 'static {
    /// Hands it over. An error is temporary: the input may or may not be committed, and may be handed over again.
    async fn introduce(&self, vm: VmId, cloud: &CloudName, input: VmInput) -> Result<(), String>;

    /// Publishes word of a request, a JSON document of this type, where whoever asked waits for it. An error is temporary;
    /// that nobody waits any more is none.
    async fn report(&self, to: &ReplyTo, kind: &str, body: Vec<u8>) -> Result<(), String>;
}

/// In whose name effects are performed: the term of a shard's owner.
pub struct Ownership {
    /// The shard.
    pub shard: ShardId,
    /// The owner's term.
    pub epoch: Epoch,
    /// Says whether the term lasts.
    pub coordination: Arc<dyn Coordination>,
    /// Reaches the other VMs.
    pub introducer: Arc<dyn Introducer>,
    /// The calls of the term that change the world.
    pub acts: Acts,
}

/// What performing needs to know of a VM, copied from its record when the effect was handed out.
#[derive(Clone)]
pub struct EffectContext {
    /// The VM.
    pub vm: VmId,
    /// The cloud it lives in.
    pub cloud: CloudName,
    /// Its name, for people.
    pub name: String,
    /// Whom it belongs to.
    pub owner: Option<UserId>,
    /// The name of its policy.
    pub policy: String,
    /// The host it was last seen on.
    pub host: Option<HostName>,
    /// Whether it exists, as far as the record knows.
    pub presence: Presence,
    /// What the VM consisted of when the backup was made that the effect names; empty for other effects.
    pub inventory: Inventory,
    /// What the notice offers that the effect tells, if it still stands; nothing for other effects.
    pub extendable: Option<Extendable>,
    /// What is being made for the request that this is; nothing of a VM.
    pub blueprint: Option<Arc<Blueprint>>,
    /// Whether a backup is under way on the VM, by itself or as a part of its end: then it is one of its steps, unless it
    /// only removes something.
    pub is_of_a_backup: bool,
    /// How many bytes of a disk went to the vault in this attempt: whoever looks at a backup sees it, nobody keeps it.
    pub moved: Arc<AtomicU64>,
    /// In whose name.
    pub ownership: Arc<Ownership>,
}

impl EffectContext {
    /// The context of an effect of this record.
    #[must_use]
    pub fn new(record: &VmRecord, effect: &Effect, ownership: Arc<Ownership>) -> Self {
        let entry = effect.backup().and_then(|backup| record.backup(backup));
        Self {
            vm: record.vm,
            cloud: record.cloud.clone(),
            name: record.facts.name.clone(),
            owner: record.facts.user.clone(),
            policy: record.policy.name.clone(),
            host: record.facts.host.clone(),
            presence: record.presence,
            inventory: entry.map(|entry| entry.inventory.clone()).unwrap_or_default(),
            extendable: effect.notice().and_then(|notice| offered(record, notice)),
            blueprint: blueprint(record).map(Arc::new),
            is_of_a_backup: is_backed_up(record),
            moved: Arc::default(),
            ownership,
        }
    }

    /// The name of an operation in the cloud: the same effect always has the same.
    #[must_use]
    pub fn operation(&self, pending: &PendingEffect) -> String {
        format!("{}/{}", self.vm, pending.key)
    }

    /// Where a backup of the VM is kept.
    #[must_use]
    pub fn path(&self, backup: BackupId) -> BackupPath {
        BackupPath { cloud: self.cloud.clone(), vm: self.vm, backup }
    }

    /// Every disk that the backup may hold.
    fn disks(&self) -> impl Iterator<Item = Disk> + '_ {
        let volumes = self.inventory.volumes.iter().map(|volume| Disk::Volume(volume.id.clone()));
        std::iter::once(Disk::Root).chain(volumes)
    }
}

fn is_backed_up(record: &VmRecord) -> bool {
    match &record.operation {
        Some(Operation::Backup(_)) => true,
        Some(Operation::Ending(run)) => matches!(run.step, EndingStep::BackUp(_)),
        Some(Operation::Repair(_) | Operation::Revive(_) | Operation::Action(_) | Operation::Provision(_)) | None => {
            false
        }
    }
}

/// Performs one attempt of one effect. Ends within the effect's limit ([`Timeouts`]); a limit passed is `Unknown`.
pub async fn perform(ports: &Ports, vm: &EffectContext, pending: &PendingEffect) -> Outcome {
    let Some(cloud) = ports.cloud.get(&vm.cloud) else {
        return Outcome::Retryable { reason: format!("cloud {} is not configured on this node", vm.cloud) };
    };
    let guard = Guard::new(&vm.ownership, &ports.clock, ports.timeouts.call);
    let cloud = GuardedCloud::new(Arc::clone(cloud), guard.clone());
    let vault = GuardedVault::new(Arc::clone(&ports.vault), guard.clone());
    let notifier = GuardedNotifier::new(Arc::clone(&ports.notifier), guard);
    let attempt = Attempt { ports, cloud: &cloud, vault: &vault, notifier: &notifier, vm, pending };
    let limit = limit(&pending.effect, &ports.timeouts);
    match wait::within(ports.clock.as_ref(), limit, attempt.run()).await {
        Some(outcome) => outcome,
        None => Outcome::Unknown { reason: format!("not done within {} s", limit.as_secs()) },
    }
}

/// One attempt.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    ports: &'a Ports,
    cloud: &'a dyn Cloud,
    vault: &'a dyn Vault,
    notifier: &'a dyn Notifier,
    vm: &'a EffectContext,
    pending: &'a PendingEffect,
}

impl<'a> Attempt<'a> {
    // Boxed by family, so that the future of a notice is not as large as that of a launch.
    fn run(self) -> BoxFuture<'a, Outcome> {
        match &self.pending.effect {
            Effect::Notify { to, notice } => Box::pin(notify::notify(self, to, notice)),
            Effect::Introduce { new_vm } => Box::pin(notify::introduce(self, *new_vm)),
            Effect::Start => Box::pin(server::power(self, server::Goal::On)),
            Effect::Resume => Box::pin(server::power(self, server::Goal::Resumed)),
            Effect::Stop => Box::pin(server::power(self, server::Goal::Off)),
            Effect::Suspend => Box::pin(server::power(self, server::Goal::Suspended)),
            Effect::HardReboot => Box::pin(server::hard_reboot(self)),
            Effect::DeleteServer => Box::pin(server::delete_server(self)),
            Effect::DeleteVolume { volume } => Box::pin(server::delete_volume(self, volume)),
            Effect::ReleaseAddress { address } => Box::pin(server::release_address(self, address)),
            Effect::TakeInventory => Box::pin(backup::take_inventory(self)),
            Effect::SnapshotDisk { backup, disk } => Box::pin(backup::snapshot_disk(self, *backup, disk)),
            Effect::StoreDisk { backup, snapshot } => Box::pin(backup::store_disk(self, *backup, snapshot)),
            Effect::SealBackup { backup, purpose, disks } => Box::pin(backup::seal(self, *backup, *purpose, disks)),
            Effect::VerifyBackup { backup } => Box::pin(backup::verify(self, *backup)),
            Effect::DropSnapshots { backup, snapshots } => Box::pin(backup::drop_all(self, *backup, snapshots)),
            Effect::DeleteBackup { backup } => Box::pin(backup::delete(self, *backup)),
            Effect::RestoreInPlace { backup } => Box::pin(launch::restore_in_place(self, *backup)),
            Effect::Launch { backup, name } => Box::pin(launch::launch(self, *backup, name)),
            Effect::Retest { probe, timeout } => Box::pin(probe::retest(self, *probe, *timeout)),
            Effect::CheckPlan => Box::pin(provision::check_plan(self)),
            Effect::MakePart { part } => Box::pin(provision::make_part(self, *part)),
            Effect::AwaitReady { new_vm, addresses } => Box::pin(provision::await_ready(self, *new_vm, addresses)),
            Effect::TakeBack => Box::pin(provision::take_back(self)),
            Effect::Report { to, report } => Box::pin(provision::report(self, to, report)),
        }
    }

    fn clock(&self) -> &'a dyn Clock {
        self.ports.clock.as_ref()
    }

    fn timeouts(&self) -> &'a Timeouts {
        &self.ports.timeouts
    }

    /// Confirms, right before something is destroyed or replaced, that the VM is still ours and that the clock by
    /// which it was decided agrees with the others'.
    async fn confirm(&self) -> Result<(), Outcome> {
        let Ownership { shard, epoch, coordination, .. } = self.vm.ownership.as_ref();
        if coordination.skew().exceeded {
            return Err(retryable("the wall clock differs from those of the other nodes"));
        }
        let confirmed = coordination.confirm(*shard, *epoch).await;
        confirmed.map_err(|error| retryable(format!("ownership is not confirmed: {error}")))
    }
}

/// How long one attempt of an effect may take: a little more than its own waiting, so that this limit ends only calls
/// that hang.
fn limit(effect: &Effect, timeouts: &Timeouts) -> Duration {
    let calls = timeouts.call * 2;
    match effect {
        Effect::Notify { .. }
        | Effect::TakeInventory
        | Effect::Introduce { .. }
        | Effect::CheckPlan
        | Effect::Report { .. } => calls,
        Effect::Retest { timeout, .. } => timeout.duration() + timeouts.call,
        Effect::Start
        | Effect::Stop
        | Effect::HardReboot
        | Effect::Suspend
        | Effect::Resume
        | Effect::DropSnapshots { .. }
        | Effect::DeleteBackup { .. }
        | Effect::SealBackup { .. }
        | Effect::DeleteServer
        | Effect::DeleteVolume { .. }
        | Effect::ReleaseAddress { .. }
        | Effect::MakePart { .. }
        | Effect::AwaitReady { .. }
        | Effect::TakeBack => timeouts.settle + calls,
        Effect::SnapshotDisk { .. } => timeouts.snapshot + calls,
        Effect::StoreDisk { .. } | Effect::VerifyBackup { .. } | Effect::RestoreInPlace { .. } => {
            timeouts.transfer + timeouts.settle + calls
        }
        // What failed to be built is removed too.
        Effect::Launch { .. } => timeouts.transfer + timeouts.settle * 2 + calls,
    }
}

/// What is being made for a request. All of it is one operation, whichever effect makes it.
fn blueprint(record: &VmRecord) -> Option<Blueprint> {
    let Some(Operation::Provision(run)) = &record.operation else { return None };
    let operation = format!("{}/provision", record.vm);
    let mut metadata = BTreeMap::from([(OPERATION_KEY.to_owned(), operation.clone())]);
    if let Some(owner) = &run.owner {
        metadata.insert(OWNER_KEY.to_owned(), owner.to_string());
    }
    Some(Blueprint { operation, plan: run.plan.clone(), metadata, user_data: run.user_data.clone() })
}

fn retryable(reason: impl Into<String>) -> Outcome {
    Outcome::Retryable { reason: reason.into() }
}

fn not_applied(reason: impl Into<String>) -> Outcome {
    Outcome::NotApplied { reason: reason.into() }
}

fn unknown(reason: impl Into<String>) -> Outcome {
    Outcome::Unknown { reason: reason.into() }
}

/// What a failed act means. `NotFound` is a refusal here; where it means "done" the caller has taken it out.
fn act_failed(error: &CloudError) -> Outcome {
    match error {
        CloudError::NotFound(_) | CloudError::Refused(_) => not_applied(error.to_string()),
        CloudError::Unavailable(_) => retryable(error.to_string()),
        CloudError::Unknown(_) => unknown(error.to_string()),
    }
}

/// What a failed look means: looking changes nothing, so a lost answer is no more than a failure.
fn look_failed(error: &CloudError) -> Outcome {
    match error {
        CloudError::NotFound(_) | CloudError::Refused(_) => not_applied(error.to_string()),
        CloudError::Unavailable(_) | CloudError::Unknown(_) => retryable(error.to_string()),
    }
}

/// What a failed call of the vault means.
fn vault_failed(error: &VaultError) -> Outcome {
    match error {
        VaultError::NotFound(_) | VaultError::NotWritable(_) => not_applied(error.to_string()),
        VaultError::Damaged(_) | VaultError::Unavailable(_) | VaultError::Key(_) | VaultError::Source(_) => {
            retryable(error.to_string())
        }
        VaultError::Unknown(_) => unknown(error.to_string()),
    }
}

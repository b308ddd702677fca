//! What no port offers: what owners do past Reeve, what fate does, and what tests may see.

use std::collections::BTreeMap;

use reeve_ports::CloudError;
use reeve_protocol::{HostName, ProjectId, Timestamp, UserId, VmId};

use super::fleet::{self, Owner};
use super::model::Ailment;
use super::notification::Event;
use super::world::World;
use super::{
    Act, Actor, AuditEntry, Call, CallKind, Content, Cure, Done, Fault, FaultError, GroundTruth, RandomFaults, SimCloud,
};

impl SimCloud {
    pub(super) fn happens<T>(
        &self,
        (by, kind, vm, detail): (Actor, CallKind, Option<VmId>, &str),
        act: impl FnOnce(&mut World, Timestamp) -> Act<T>,
    ) -> Result<T, CloudError> {
        let call = Call { by, kind, vm, detail: detail.to_owned() };
        self.perform(call, None, |world, now, _| act(world, now))
    }

    /// A user makes a VM.
    ///
    /// # Errors
    /// `Refused` over quota; `Unavailable` or `Unknown` when the journal cannot be written.
    pub fn boot_vm(
        &self,
        name: &str,
        project: ProjectId,
        user: UserId,
        metadata: BTreeMap<String, String>,
    ) -> Result<VmId, CloudError> {
        let owner = Owner { name: name.to_owned(), project, user, metadata };
        self.happens((Actor::Owner, CallKind::Event, None, "boot"), |world, now| {
            fleet::check_quota(world)?;
            let id = fleet::new_vm(world, owner, now);
            Ok(Done { value: id, applied: true, made: Some(id) })
        })
    }

    /// The owner powers the VM on.
    ///
    /// # Errors
    /// As [`reeve_ports::Cloud::start`].
    pub fn owner_start(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Start, Some(vm), ""), |world, now| world.start(vm, now))
    }

    /// The owner powers the VM off.
    ///
    /// # Errors
    /// As [`reeve_ports::Cloud::stop`].
    pub fn owner_stop(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Stop, Some(vm), ""), |world, now| world.stop(vm, now))
    }

    /// The owner deletes the VM.
    ///
    /// # Errors
    /// As [`reeve_ports::Cloud::delete_server`].
    pub fn owner_delete(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::DeleteServer, Some(vm), ""), |world, now| world.delete(vm, now))
    }

    /// The owner deletes the VM in a cloud that lets it be taken back.
    ///
    /// # Errors
    /// `NotFound`, or `Refused` when its state, task or lock forbids it.
    pub fn owner_soft_delete(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Event, Some(vm), "soft-delete"), |world, now| world.soft_delete(vm, now))
    }

    /// The owner takes a soft-deleted VM back.
    ///
    /// # Errors
    /// `NotFound`, or `Refused` when it is not soft-deleted.
    pub fn owner_restore(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Event, Some(vm), "restore"), |world, now| world.undelete(vm, now))
    }

    /// The owner locks the VM.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn lock_vm(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Event, Some(vm), "lock"), |world, now| {
            let mut locked = world.living(vm)?.clone();
            locked.locked = true;
            world.tell(&locked, Event::Lock, now);
            world.put_vm(locked);
            Ok(Done::changed(()))
        })
    }

    /// The owner unlocks the VM.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn unlock_vm(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Event, Some(vm), "unlock"), |world, now| {
            let mut unlocked = world.living(vm)?.clone();
            unlocked.locked = false;
            world.tell(&unlocked, Event::Unlock, now);
            world.put_vm(unlocked);
            Ok(Done::changed(()))
        })
    }

    /// The owner sets one metadata entry.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_metadata(&self, vm: VmId, key: &str, value: &str) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Event, Some(vm), key), |world, now| {
            let mut changed = world.living(vm)?.clone();
            changed.metadata.insert(key.to_owned(), value.to_owned());
            world.tell(&changed, Event::Update, now);
            world.put_vm(changed);
            Ok(Done::changed(()))
        })
    }

    /// The guest writes to its root disk: other content of the same size, which follows from this seed.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn write_root(&self, vm: VmId, seed: u64) -> Result<(), CloudError> {
        self.happens((Actor::Owner, CallKind::Event, Some(vm), "write"), |world, _| {
            let mut written = world.living(vm)?.clone();
            written.root = Content::generated(seed, written.root.bytes);
            world.put_vm(written);
            Ok(Done::changed(()))
        })
    }

    /// The guest hangs until it is cured this way.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn hang_guest(&self, vm: VmId, cure: Cure) -> Result<(), CloudError> {
        let ailment = Ailment { crashed: false, cure };
        self.happens((Actor::Fate, CallKind::Event, Some(vm), "hang"), |world, now| world.afflict(vm, ailment, now))
    }

    /// The process of the guest dies until it is cured this way.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn crash_guest(&self, vm: VmId, cure: Cure) -> Result<(), CloudError> {
        let ailment = Ailment { crashed: true, cure };
        self.happens((Actor::Fate, CallKind::Event, Some(vm), "crash"), |world, now| world.afflict(vm, ailment, now))
    }

    /// The guest gets well by itself.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn cure_guest(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Fate, CallKind::Event, Some(vm), "cure"), |world, now| world.cure(vm, now))
    }

    /// The VM is gone, and nobody is told.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn vanish(&self, vm: VmId) -> Result<(), CloudError> {
        self.happens((Actor::Fate, CallKind::Event, Some(vm), "vanish"), |world, now| {
            world.living(vm)?;
            world.vanish(vm, now);
            Ok(Done::changed(()))
        })
    }

    /// A host dies: its guests do not answer, and nothing can be done to its VMs.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn host_down(&self, host: &HostName) -> Result<(), CloudError> {
        self.set_host(host, false)
    }

    /// A host comes back; its VMs run as before.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn host_up(&self, host: &HostName) -> Result<(), CloudError> {
        self.set_host(host, true)
    }

    fn set_host(&self, name: &HostName, up: bool) -> Result<(), CloudError> {
        let detail = format!("{name} {}", if up { "up" } else { "down" });
        self.happens((Actor::Fate, CallKind::Event, None, &detail), |world, _| {
            let mut host = world.host(name).cloned().ok_or_else(|| CloudError::NotFound(format!("host {name}")))?;
            host.up = up;
            world.put_host(host);
            Ok(Done::changed(()))
        })
    }

    /// A cell (0 or 1: hosts with even and with odd numbers) stops to answer: listings lack its VMs and are incomplete.
    ///
    /// # Errors
    /// `Unknown` when the journal cannot be written.
    pub fn cell_down(&self, cell: u8) -> Result<(), CloudError> {
        self.happens((Actor::Fate, CallKind::Event, None, &format!("cell {cell} down")), |world, _| {
            let mut cells = world.counters.cells_down.clone();
            cells.insert(cell);
            world.set_cells_down(cells);
            Ok(Done::changed(()))
        })
    }

    /// A cell answers again.
    ///
    /// # Errors
    /// `Unknown` when the journal cannot be written.
    pub fn cell_up(&self, cell: u8) -> Result<(), CloudError> {
        self.happens((Actor::Fate, CallKind::Event, None, &format!("cell {cell} up")), |world, _| {
            let mut cells = world.counters.cells_down.clone();
            cells.remove(&cell);
            world.set_cells_down(cells);
            Ok(Done::changed(()))
        })
    }

    /// The prober's own network fails: it can reach nothing. Not kept over a restart.
    pub fn blind_prober(&self) {
        self.lock().world.prober_blind = true;
    }

    /// The prober reaches guests again.
    pub fn unblind_prober(&self) {
        self.lock().world.prober_blind = false;
    }

    /// Orders a fault.
    ///
    /// # Errors
    /// [`FaultError`] when it means nothing for that call, or too many are on order.
    pub fn inject(&self, fault: Fault) -> Result<(), FaultError> {
        self.lock().faults.order(fault)
    }

    /// Takes back every fault that is on order.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// How many faults are still on order.
    #[must_use]
    pub fn faults_ordered(&self) -> usize {
        self.lock().faults.ordered()
    }

    /// Sets which faults happen by chance from now on.
    pub fn set_random_faults(&self, random: RandomFaults) {
        self.lock().faults.set_random(random);
    }

    /// Every VM that is not gone, in the order of the listing.
    #[must_use]
    pub fn vm_ids(&self) -> Vec<VmId> {
        self.lock().world.vms().filter(|vm| !vm.is_gone()).map(|vm| vm.id).collect()
    }

    /// Every host.
    #[must_use]
    pub fn host_names(&self) -> Vec<HostName> {
        self.lock().world.hosts().map(|host| host.name.clone()).collect()
    }

    /// What is so of a VM, gone or not, without a call and without an audit entry; `None` if it never was.
    #[must_use]
    pub fn ground_truth(&self, vm: VmId) -> Option<GroundTruth> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        inner.world.ground_truth(vm, now)
    }

    /// Everything that was asked, in order: changing calls since the cloud was made, looks since this process began.
    #[must_use]
    pub fn audit(&self) -> Vec<AuditEntry> {
        self.lock().world.audit.all()
    }

    /// The changing calls after this place in the order of what happened, at most so many.
    #[must_use]
    pub fn audit_after(&self, seq: u64, limit: usize) -> Vec<AuditEntry> {
        self.lock().world.audit.after(seq, limit)
    }

    /// How many entries the limits of the audit have dropped.
    #[must_use]
    pub fn audit_dropped(&self) -> u64 {
        self.lock().world.audit.dropped()
    }

    /// How many calls of this kind have changed something on this VM, whatever was answered.
    #[must_use]
    pub fn times_applied(&self, call: CallKind, vm: VmId) -> usize {
        let inner = self.lock();
        inner.world.audit.changes().filter(|entry| entry.call == call && entry.vm == Some(vm) && entry.applied).count()
    }
}

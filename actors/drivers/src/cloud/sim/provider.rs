//! What the REST face of a provider needs beyond the port: single things by their ids, addresses that wait for a port,
//! a volume that gets other content.

use bytes::Bytes;
use reeve_lifecycle::effect::Disk;
use reeve_ports::CloudError;
use reeve_ports::cloud::{HostHealth, LaunchSpec, ListPage, SnapshotState};
use reeve_protocol::observation::VmFacts;
use reeve_protocol::{Timestamp, VmId};

use super::audit::{Actor, CallKind};
use super::calls;
use super::model::{SimAddress, SimSnapshot, SimVm};
use super::world::World;
use super::{Done, SimCloud};

/// A VM, as whoever lists servers sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView {
    /// What the cloud says of it.
    pub facts: VmFacts,
    /// Its addresses that are held for it.
    pub addresses: Vec<String>,
    /// Whether it is gone.
    pub gone: bool,
    /// When anything of it changed last.
    pub changed_at: Option<Timestamp>,
}

/// A snapshot, as whoever lists images sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// The cloud's id.
    pub id: String,
    /// Of which VM.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Of which disk.
    pub disk: Disk,
    /// How it is.
    pub state: SnapshotState,
}

/// A volume that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it belongs to its VM alone.
    pub own: bool,
    /// The living VM that it is attached to.
    pub attached_to: Option<VmId>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// A public address that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressView {
    /// The address.
    pub address: String,
    /// The VM or the port that it is held for.
    pub held_for: VmId,
}

/// One page of the VMs that changed since then, gone or not. Those of a cell that is down are left out, unsaid.
pub(super) fn changed(
    world: &mut World,
    since: Timestamp,
    from: Option<&str>,
    now: Timestamp,
) -> Result<Done<ListPage>, CloudError> {
    let from = from.map_or(Ok(VmId::new(uuid::Uuid::nil())), str::parse);
    let from = from.map_err(|_| CloudError::Refused("400 marker is no id".to_owned()))?;
    let page = usize::try_from(world.config.page).expect("at most 1,000");
    let is_changed = |vm: &SimVm| vm.changed_at.is_some_and(|at| at >= since) && world.cell_up(&vm.host);
    let mut vms: Vec<VmFacts> =
        world.vms_from(from).filter(|vm| is_changed(vm)).take(page + 1).map(SimVm::facts).collect();
    let next = (vms.len() > page).then(|| vms.pop()).flatten().map(|facts| facts.vm.to_string());
    Ok(Done::looked(ListPage { vms, said: world.said(now), next, complete: true }))
}

impl SimCloud {
    /// These VMs, gone or not, without a call and without an audit entry; those that never were are left out.
    #[must_use]
    pub fn server_views(&self, vms: &[VmId]) -> Vec<ServerView> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        let world = &inner.world;
        let views = vms.iter().filter_map(|vm| world.vm(*vm)).map(|vm| ServerView {
            facts: vm.facts(),
            addresses: vm.addresses.iter().filter(|held| world.holds(held, vm.id)).cloned().collect(),
            gone: vm.is_gone(),
            changed_at: vm.changed_at,
        });
        views.collect()
    }

    /// A snapshot by its id, without a call and without an audit entry.
    #[must_use]
    pub fn snapshot_view(&self, id: &str) -> Option<SnapshotView> {
        let now = self.clock.now();
        self.lock().world.snapshot(id).map(|snapshot| view(snapshot, now))
    }

    /// The snapshots with this name, of whatever VM; all if there is none. Without a call and without an audit entry.
    #[must_use]
    pub fn snapshot_views(&self, name: Option<&str>) -> Vec<SnapshotView> {
        let now = self.clock.now();
        let inner = self.lock();
        let named = inner.world.snapshots().filter(|snapshot| name.is_none_or(|name| snapshot.name == name));
        named.map(|snapshot| view(snapshot, now)).collect()
    }

    /// A volume that exists, without a call and without an audit entry.
    #[must_use]
    pub fn volume_view(&self, id: &str) -> Option<VolumeView> {
        let now = self.clock.now();
        let inner = self.lock();
        let volume = inner.world.volume(id, now)?;
        let holder = inner.world.vms().find(|vm| !vm.is_gone() && vm.volumes.iter().any(|held| held == id));
        Some(VolumeView {
            bytes: volume.content.bytes,
            own: volume.own,
            attached_to: holder.map(|vm| vm.id),
            deleting: volume.gone_at.is_some(),
        })
    }

    /// The public addresses that are held, without a call and without an audit entry.
    #[must_use]
    pub fn address_views(&self) -> Vec<AddressView> {
        let inner = self.lock();
        let held = inner
            .world
            .addresses()
            .filter_map(|address| Some(AddressView { address: address.address.clone(), held_for: address.held_for? }));
        held.collect()
    }

    /// How the hosts are, without a call and without an audit entry.
    #[must_use]
    pub fn host_views(&self) -> Vec<HostHealth> {
        let inner = self.lock();
        inner.world.hosts().map(|host| HostHealth { host: host.name.clone(), up: host.up }).collect()
    }

    /// Every VM that ever was, gone or not, in the order of ids.
    #[must_use]
    pub fn every_vm(&self) -> Vec<VmId> {
        self.lock().world.vms().map(|vm| vm.id).collect()
    }

    /// The living VMs of cells that do not answer, which a listing lacks.
    #[must_use]
    pub fn unanswered_vms(&self) -> Vec<VmId> {
        let inner = self.lock();
        if inner.world.counters.cells_down.is_empty() {
            return Vec::new();
        }
        let world = &inner.world;
        world.vms().filter(|vm| !vm.is_gone() && !world.cell_up(&vm.host)).map(|vm| vm.id).collect()
    }

    /// Takes a public address out of the pool, for a VM or for the port of one that is to come.
    ///
    /// # Errors
    /// `Unavailable` or `Unknown` when the journal cannot be written.
    pub fn allocate_address(&self, holder: VmId) -> Result<String, CloudError> {
        let vm = self.ground_truth(holder).map(|_| holder);
        self.happens((Actor::Caller, CallKind::Event, vm, "allocate address"), |world, _| {
            let address = world.next_address();
            world.put_address(SimAddress { address: address.clone(), held_for: Some(holder) });
            plug(world, holder, &[holder]);
            Ok(Done::changed(address))
        })
    }

    /// Gives a volume other content, whatever is attached to it.
    ///
    /// # Errors
    /// `NotFound`, or as the journal and the content's folder answer.
    pub fn reimage_volume(&self, volume: &str, bytes: Bytes) -> Result<(), CloudError> {
        let vm = self.volume_view(volume).and_then(|view| view.attached_to);
        let detail = format!("reimage {volume}");
        self.happens((Actor::Caller, CallKind::Event, vm, &detail), |world, now| {
            let found = world.volume(volume, now).cloned();
            let mut found = found.ok_or_else(|| CloudError::NotFound(format!("volume {volume}")))?;
            found.content = calls::take(world, bytes)?;
            world.put_volume(found);
            Ok(Done::changed(()))
        })
    }

    /// Makes a VM that gets the addresses which wait for these ports, as [`reeve_ports::Cloud::launch`] does else.
    ///
    /// # Errors
    /// As [`reeve_ports::Cloud::launch`].
    pub async fn launch_on_ports(&self, spec: LaunchSpec, ports: Vec<VmId>) -> Result<VmId, CloudError> {
        self.launch_with(spec, ports).await
    }
}

/// Gives a VM the addresses that are held for these ports. A port of its own has the VM's id.
pub(super) fn plug(world: &mut World, id: VmId, ports: &[VmId]) {
    let waiting = world.addresses().filter(|held| held.held_for.is_some_and(|port| ports.contains(&port)));
    let waiting: Vec<String> = waiting.map(|held| held.address.clone()).collect();
    let Some(mut vm) = world.vm(id).cloned() else { return };
    for address in waiting {
        world.put_address(SimAddress { address: address.clone(), held_for: Some(id) });
        if !vm.addresses.contains(&address) {
            vm.addresses.push(address);
        }
    }
    world.put_vm(vm);
}

fn view(snapshot: &SimSnapshot, now: Timestamp) -> SnapshotView {
    SnapshotView {
        id: snapshot.id.clone(),
        vm: snapshot.vm,
        name: snapshot.name.clone(),
        disk: snapshot.disk.clone(),
        state: calls::state_of(snapshot, now),
    }
}

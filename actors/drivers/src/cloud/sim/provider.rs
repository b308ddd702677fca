//! What the REST face of a provider needs beyond the port: single things by their ids, addresses that wait for a port,
//! a volume that gets other content.

use bytes::Bytes;
use reeve_lifecycle::effect::Disk;
use reeve_ports::CloudError;
use reeve_ports::cloud::{HostHealth, LaunchSpec, ListPage, SnapshotState};
use reeve_protocol::observation::VmFacts;
use reeve_protocol::{Timestamp, VmId};

use super::audit::{Actor, CallKind};
use super::belongings::Port;
use super::calls;
use super::model::{SimAddress, SimSnapshot, SimVm, SimVolume};
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
    /// Its id.
    pub id: String,
    /// Its name; empty if it has none.
    pub name: String,
    /// Its size in GiB, at least 1.
    pub gib: u64,
    /// Whether it can be used already.
    pub ready: bool,
    /// Whether it could not be made.
    pub failed: bool,
    /// When it was made, where that is known.
    pub made_at: Option<Timestamp>,
}

const GIB: u64 = 1 << 30;

impl VolumeView {
    fn of(world: &World, volume: &SimVolume, now: Timestamp) -> Self {
        let holder = world.vms().find(|vm| !vm.is_gone() && vm.volumes.contains(&volume.id));
        let gib = if volume.gib > 0 { volume.gib.into() } else { volume.content.bytes.div_ceil(GIB).max(1) };
        Self {
            bytes: volume.content.bytes,
            own: volume.own,
            attached_to: holder.map(|vm| vm.id),
            deleting: volume.gone_at.is_some(),
            id: volume.id.clone(),
            name: volume.name.clone(),
            gib,
            ready: volume.ready_at.is_none_or(|at| at <= now),
            failed: volume.failed,
            made_at: volume.made_at,
        }
    }
}

/// A public address that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressView {
    /// The address.
    pub address: String,
    /// The VM or the port that it is held for.
    pub held_for: VmId,
    /// The port that it is bound to: one of its own, or the VM's own, which has its id.
    pub port: VmId,
    /// Its description.
    pub tag: String,
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
        inner.world.volume(id, now).map(|volume| VolumeView::of(&inner.world, volume, now))
    }

    /// The volumes that exist and have a name, without a call and without an audit entry.
    #[must_use]
    pub fn named_volume_views(&self) -> Vec<VolumeView> {
        let now = self.clock.now();
        let inner = self.lock();
        let world = &inner.world;
        let named = world.volumes().filter(|volume| !volume.name.is_empty() && world.volume(&volume.id, now).is_some());
        named.map(|volume| VolumeView::of(world, volume, now)).collect()
    }

    /// The public addresses that are held, without a call and without an audit entry.
    #[must_use]
    pub fn address_views(&self) -> Vec<AddressView> {
        let inner = self.lock();
        let world = &inner.world;
        let view = |held: &SimAddress| {
            let held_for = held.held_for?;
            let port = world.ports().find(|port| port.server == Some(held_for)).map_or(held_for, |port| port.id);
            Some(AddressView { address: held.address.clone(), held_for, port, tag: held.tag.clone() })
        };
        world.addresses().filter_map(view).collect()
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
    let own: Vec<Port> = ports.iter().filter_map(|port| world.port(*port)).cloned().collect();
    for port in own {
        world.put_port(Port { server: Some(id), ..port });
    }
    for address in waiting {
        let tag = world.address(&address).map(|held| held.tag.clone()).unwrap_or_default();
        world.put_address(SimAddress { address: address.clone(), held_for: Some(id), tag });
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

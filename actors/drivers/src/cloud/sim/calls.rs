//! The port: every call of [`Cloud`], each through `SimCloud::call`, which meets faults and keeps the audit.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_lifecycle::effect::{Disk, Inventory, Volume};
use reeve_ports::cloud::{
    Blueprint, CloudSnapshot, DiskSource, HostHealth, LaunchSpec, ListPage, OPERATION_KEY, PartState, SnapshotState,
};
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{Timestamp, VmId};

use super::actions::Lock;
use super::chance::Dice;
use super::content::{self, Content, Ending};
use super::fleet::{self, Disks, Owner};
use super::model::{SimAddress, SimSnapshot, SimVm, SnapshotEnd, TaskKind};
use super::world::World;
use super::{Act, Actor, Call, CallKind, Done, FaultKind, MAX_DISK_BYTES, SimCloud};
use super::{catalog, parts, provider};
use crate::cloud::RESTORED_BY_KEY;
use crate::cloud::openstack::operation_tag;

const SNAPSHOT_STATES: [VmState; 5] =
    [VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended, VmState::Error];
const RESTORE_STATES: [VmState; 3] = [VmState::Active, VmState::Stopped, VmState::Error];

fn call(kind: CallKind, vm: Option<VmId>, detail: impl Into<String>) -> Call {
    Call { by: Actor::Caller, kind, vm, detail: detail.into() }
}

#[async_trait]
impl Cloud for SimCloud {
    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError> {
        let detail = from.clone().unwrap_or_default();
        self.call(call(CallKind::List, None, detail), |world, now, _| list(world, from.as_deref(), now)).await
    }

    async fn changed(&self, since: Timestamp, from: Option<String>) -> Result<Option<ListPage>, CloudError> {
        let detail = format!("changes since {since}");
        self.call(call(CallKind::List, None, detail), |world, now, _| {
            provider::changed(world, since, from.as_deref(), now)
        })
        .await
        .map(Some)
    }

    async fn show(&self, vm: VmId) -> Result<(VmFacts, Said), CloudError> {
        self.call(call(CallKind::Show, Some(vm), ""), |world, now, _| {
            let facts = world.living(vm)?.facts();
            if facts.host.as_ref().is_some_and(|host| !world.cell_up(host)) {
                return Err(CloudError::Unavailable(format!("the cell of instance {vm} does not answer")));
            }
            Ok(Done::looked((facts, world.said(now))))
        })
        .await
    }

    async fn inventory(&self, vm: VmId) -> Result<Inventory, CloudError> {
        self.call(call(CallKind::Inventory, Some(vm), ""), |world, now, _| inventory(world, vm, now)).await
    }

    async fn start(&self, vm: VmId) -> Result<(), CloudError> {
        self.call(call(CallKind::Start, Some(vm), ""), |world, now, _| world.start(vm, now)).await
    }

    async fn stop(&self, vm: VmId) -> Result<(), CloudError> {
        self.call(call(CallKind::Stop, Some(vm), ""), |world, now, _| world.stop(vm, now)).await
    }

    async fn hard_reboot(&self, vm: VmId) -> Result<(), CloudError> {
        self.call(call(CallKind::HardReboot, Some(vm), ""), |world, now, _| world.hard_reboot(vm, now)).await
    }

    async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        self.call(call(CallKind::Show, Some(vm), "actions"), |world, _, _| {
            Ok(Done::looked(world.living(vm)?.last_reboot))
        })
        .await
    }

    async fn suspend(&self, vm: VmId) -> Result<(), CloudError> {
        self.call(call(CallKind::Suspend, Some(vm), ""), |world, now, _| world.suspend(vm, now)).await
    }

    async fn resume(&self, vm: VmId) -> Result<(), CloudError> {
        self.call(call(CallKind::Resume, Some(vm), ""), |world, now, _| world.resume(vm, now)).await
    }

    async fn snapshot(&self, vm: VmId, disk: &Disk, name: &str) -> Result<(), CloudError> {
        let (disk, name) = (disk.clone(), name.to_owned());
        self.call(call(CallKind::Snapshot, Some(vm), name.clone()), |world, now, fault| {
            let end = match fault {
                Some(FaultKind::FailedSnapshot) => SnapshotEnd::Failed,
                Some(FaultKind::TruncatedSnapshot) => SnapshotEnd::Truncated,
                _ => SnapshotEnd::Whole,
            };
            snapshot(world, vm, disk, name, end, now)
        })
        .await
    }

    async fn find_snapshots(&self, vm: VmId, name: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        self.look_for_snapshots(Some(vm), name).await
    }

    async fn read_snapshot(
        &self,
        vm: VmId,
        id: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError> {
        self.call(call(CallKind::ReadSnapshot, Some(vm), id), |world, now, fault| {
            let snapshot = find_snapshot(world, vm, id)?;
            let half = snapshot.content.bytes / 2;
            let whole = snapshot.content.bytes;
            match state_of(snapshot, now) {
                SnapshotState::Pending => Err(CloudError::Unavailable(format!("snapshot {id} is not ready"))),
                SnapshotState::Failed(why) => Err(CloudError::Refused(format!("snapshot {id} has no content: {why}"))),
                SnapshotState::Ready { .. } => {
                    let (limit, ending) = match (fault, &snapshot.end) {
                        (Some(FaultKind::BrokenStream), _) => (half, Ending::Broken),
                        (_, SnapshotEnd::Truncated) => (half, Ending::Clean),
                        (_, SnapshotEnd::Whole | SnapshotEnd::Failed) => (whole, Ending::Clean),
                    };
                    Ok(Done::looked(world.contents.read(&snapshot.content, limit, ending)))
                }
            }
        })
        .await
    }

    async fn delete_snapshot(&self, vm: VmId, id: &str) -> Result<(), CloudError> {
        self.remove_snapshot_of(Some(vm), id).await
    }

    async fn delete_server(&self, vm: VmId) -> Result<(), CloudError> {
        self.call(call(CallKind::DeleteServer, Some(vm), ""), |world, now, _| world.delete(vm, now)).await
    }

    async fn volume_exists(&self, volume: &str) -> Result<bool, CloudError> {
        self.call(call(CallKind::VolumeExists, self.holder_of_volume(volume), volume), |world, now, _| {
            Ok(Done::looked(world.volume(volume, now).is_some()))
        })
        .await
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), CloudError> {
        let vm = self.holder_of_volume(volume);
        self.call(call(CallKind::DeleteVolume, vm, volume), |world, now, _| delete_volume(world, volume, now)).await
    }

    async fn address_held(&self, address: &str) -> Result<bool, CloudError> {
        self.call(call(CallKind::AddressHeld, self.holder_of_address(address), address), |world, _, _| {
            Ok(Done::looked(world.address(address).is_some_and(|address| address.held_for.is_some())))
        })
        .await
    }

    async fn release_address(&self, address: &str) -> Result<(), CloudError> {
        self.call(call(CallKind::ReleaseAddress, self.holder_of_address(address), address), |world, _, _| {
            if !world.address(address).is_some_and(SimAddress::is_held) {
                return Err(CloudError::NotFound(format!("address {address}")));
            }
            world.put_address(SimAddress { address: address.to_owned(), held_for: None, tag: String::new() });
            Ok(Done::changed(()))
        })
        .await
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError> {
        self.launch_with(spec, Vec::new()).await
    }

    async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        self.call(call(CallKind::FindLaunched, None, operation), |world, _, _| {
            let made = world.vms().filter(|vm| vm.metadata.get(OPERATION_KEY).is_some_and(|by| by == operation));
            let mut made: Vec<_> = made.map(SimVm::facts).collect();
            made.retain(|facts| facts.deleted_at.is_none_or(|at| at >= since));
            Ok(Done::looked(made))
        })
        .await
    }

    async fn restore_in_place(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError> {
        let disks = read_disks(disks).await?;
        let operation = operation.to_owned();
        self.call(call(CallKind::RestoreInPlace, Some(vm), operation.clone()), |world, now, _| {
            restore(world, vm, operation, disks, now)
        })
        .await
    }

    async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        self.call(call(CallKind::LastRestore, Some(vm), ""), |world, _, _| {
            Ok(Done::looked(world.living(vm)?.last_restore.clone()))
        })
        .await
    }

    async fn check_plan(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        let plan = plan.clone();
        self.call(call(CallKind::CheckPlan, None, plan.name.clone()), |world, _, _| catalog::check_plan(world, &plan))
            .await
    }

    async fn find_part(&self, blueprint: &Blueprint, part: Part) -> Result<PartState, CloudError> {
        let detail = format!("{} {part:?}", blueprint.operation);
        self.call(call(CallKind::FindPart, None, detail), |world, now, _| {
            Ok(Done::looked(parts::find(world, blueprint, part, now)))
        })
        .await
    }

    async fn make_part(&self, blueprint: &Blueprint, part: Part) -> Result<(), CloudError> {
        let detail = format!("{} {part:?}", blueprint.operation);
        self.call(call(CallKind::MakePart, None, detail), |world, now, fault| {
            parts::make(world, blueprint, part, fault, now)
        })
        .await
    }

    async fn remove_parts(&self, operation: &str) -> Result<bool, CloudError> {
        self.call(call(CallKind::RemoveParts, None, operation), |world, now, _| parts::remove(world, operation, now))
            .await
    }

    async fn remove_remains(&self, vm: VmId) -> Result<bool, CloudError> {
        self.call(call(CallKind::RemoveRemains, Some(vm), ""), |world, _, _| parts::remove_remains(world, vm)).await
    }

    async fn console(&self, vm: VmId) -> Result<String, CloudError> {
        self.call(call(CallKind::Console, Some(vm), ""), |world, now, _| parts::console(world, vm, now)).await
    }

    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError> {
        self.call(call(CallKind::Hosts, None, ""), |world, _, _| {
            let hosts = world.hosts().map(|host| HostHealth { host: host.name.clone(), up: host.up });
            Ok(Done::looked(hosts.collect()))
        })
        .await
    }
}

impl SimCloud {
    /// Looks for snapshots of a VM, or of nobody: a provider is asked by name alone, and then there may be none.
    ///
    /// # Errors
    /// As [`Cloud::find_snapshots`].
    pub async fn look_for_snapshots(&self, vm: Option<VmId>, name: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        self.call(call(CallKind::FindSnapshots, vm, name), |world, now, _| {
            let found = world.snapshots().filter(|snapshot| Some(snapshot.vm) == vm && snapshot.name == name);
            let found = found.map(|snapshot| CloudSnapshot { id: snapshot.id.clone(), state: state_of(snapshot, now) });
            Ok(Done::looked(found.collect()))
        })
        .await
    }

    /// Removes a snapshot by its id alone, as a provider does. One that is gone is nobody's, and the audit has the call.
    ///
    /// # Errors
    /// As [`Cloud::delete_snapshot`].
    pub async fn remove_snapshot(&self, id: &str) -> Result<(), CloudError> {
        let vm = self.snapshot_view(id).map(|view| view.vm);
        self.remove_snapshot_of(vm, id).await
    }

    async fn remove_snapshot_of(&self, vm: Option<VmId>, id: &str) -> Result<(), CloudError> {
        self.call(call(CallKind::DeleteSnapshot, vm, id), |world, _, _| {
            let vm = vm.ok_or_else(|| CloudError::NotFound(format!("snapshot {id}")))?;
            find_snapshot(world, vm, id)?;
            world.remove_snapshot(id);
            Ok(Done::changed(()))
        })
        .await
    }

    /// The VM that has the volume, or had it when it went.
    fn holder_of_volume(&self, volume: &str) -> Option<VmId> {
        let inner = self.lock();
        inner.world.vms().find(|vm| vm.volumes.iter().any(|held| held == volume)).map(|vm| vm.id)
    }

    /// The VM for which the address is held, or was. One that waits for a port is nobody's yet.
    fn holder_of_address(&self, address: &str) -> Option<VmId> {
        let inner = self.lock();
        let world = &inner.world;
        let held_for = world.address(address).and_then(|address| address.held_for).and_then(|vm| world.vm(vm));
        let held = held_for.or_else(|| world.vms().find(|vm| vm.addresses.iter().any(|held| held == address)));
        held.map(|vm| vm.id)
    }

    /// Makes a VM, with addresses that wait for these ports besides the new ones that it asks for.
    pub(super) async fn launch_with(&self, spec: LaunchSpec, ports: Vec<VmId>) -> Result<VmId, CloudError> {
        let operation = spec.metadata.get(OPERATION_KEY).cloned().unwrap_or_default();
        let like = spec.like;
        let disks = read_disks(spec.disks).await?;
        let (name, metadata, addresses) = (spec.name, spec.metadata, spec.addresses.min(64));
        self.call(call(CallKind::Launch, None, operation), |world, now, _| {
            fleet::check_quota(world)?;
            let like = world.vm(like).ok_or_else(|| CloudError::NotFound(format!("instance {like}")))?;
            let owner = Owner { name, project: like.project.clone(), user: like.user.clone(), metadata };
            let disks = take_disks(world, disks)?;
            let tag = owner.metadata.get(OPERATION_KEY).map(|operation| operation_tag(operation));
            let id = fleet::place(world, owner, disks, addresses, now);
            // Whoever speaks REST has made one before.
            let own = tag.filter(|_| ports.is_empty()).map(|tag| parts::new_port(world, &tag, None, now));
            provider::plug(world, id, &ports);
            provider::plug(world, id, &own.into_iter().collect::<Vec<_>>());
            Ok(Done { value: id, applied: true, made: Some(id) })
        })
        .await
    }
}

/// A page in the order of ids; `from` is the id that it begins with. VMs of a cell that is down are missing.
fn list(world: &mut World, from: Option<&str>, now: Timestamp) -> Act<ListPage> {
    let from = from.map_or(Ok(VmId::new(uuid::Uuid::nil())), str::parse);
    let from = from.map_err(|_| CloudError::Refused("400 marker is no id".to_owned()))?;
    let page = usize::try_from(world.config.page).expect("at most 1,000");
    let mut vms = Vec::new();
    let mut next = None;
    for vm in world.vms_from(from).filter(|vm| !vm.is_gone() && world.cell_up(&vm.host)) {
        if vms.len() == page {
            next = Some(vm.id.to_string());
            break;
        }
        vms.push(vm.facts());
    }
    let complete = world.counters.cells_down.is_empty();
    Ok(Done::looked(ListPage { vms, said: world.said(now), next, complete }))
}

fn inventory(world: &World, vm: VmId, now: Timestamp) -> Act<Inventory> {
    let vm = world.living(vm)?;
    let volumes = vm.volumes.iter().filter_map(|id| world.volume(id, now));
    let volumes = volumes.map(|volume| Volume { id: volume.id.clone(), own: volume.own, bytes: volume.content.bytes });
    let addresses = vm.addresses.iter().filter(|address| world.holds(address, vm.id)).cloned().collect();
    Ok(Done::looked(Inventory { volumes: volumes.collect(), addresses }))
}

fn snapshot(world: &mut World, id: VmId, disk: Disk, name: String, end: SnapshotEnd, now: Timestamp) -> Act<()> {
    let snapshot_id = |world: &mut World| world.next_id("snapshot").to_string();
    let (content, ready_at, new_id) = match &disk {
        Disk::Root => {
            let vm = world.ready_for(id, "snapshot", &SNAPSHOT_STATES, Lock::Passed)?;
            let content = vm.root.clone();
            world.begin(vm, TaskKind::Snapshotting, world.config.snapshot, now);
            let task = world.vm(id).and_then(|vm| vm.task.as_ref());
            let ready_at = task.expect("a task was just begun").until;
            (content, ready_at, snapshot_id(world))
        }
        Disk::Volume(volume) => {
            let vm = world.living(id)?;
            if !vm.volumes.contains(volume) {
                return Err(CloudError::NotFound(format!("volume {volume} of instance {id}")));
            }
            let found = world.volume(volume, now);
            let found = found.ok_or_else(|| CloudError::NotFound(format!("volume {volume}")))?;
            let content = found.content.clone();
            let new_id = snapshot_id(world);
            let length = Dice::new(world.config.seed, &new_id).span(world.config.snapshot);
            (content, now + length, new_id)
        }
    };
    world.put_snapshot(SimSnapshot { id: new_id, vm: id, name, disk, content, ready_at, end });
    Ok(Done::changed(()))
}

pub(super) fn state_of(snapshot: &SimSnapshot, now: Timestamp) -> SnapshotState {
    if now < snapshot.ready_at {
        return SnapshotState::Pending;
    }
    match snapshot.end {
        SnapshotEnd::Whole | SnapshotEnd::Truncated => SnapshotState::Ready { bytes: snapshot.content.bytes },
        SnapshotEnd::Failed => SnapshotState::Failed("the upload failed".to_owned()),
    }
}

fn find_snapshot<'a>(world: &'a World, vm: VmId, id: &str) -> Result<&'a SimSnapshot, CloudError> {
    let found = world.snapshot(id).filter(|snapshot| snapshot.vm == vm);
    found.ok_or_else(|| CloudError::NotFound(format!("snapshot {id} of instance {vm}")))
}

pub(super) fn delete_volume(world: &mut World, id: &str, now: Timestamp) -> Act<()> {
    let volume = world.volume(id, now).ok_or_else(|| CloudError::NotFound(format!("volume {id}")))?;
    if volume.gone_at.is_some() {
        return Ok(Done::looked(()));
    }
    if volume.ready_at.is_some_and(|at| now < at) {
        return Err(CloudError::Refused(format!("400 volume {id} is being made")));
    }
    if let Some(vm) = world.vms().find(|vm| !vm.is_gone() && vm.volumes.iter().any(|attached| attached == id)) {
        return Err(CloudError::Refused(format!("400 volume {id} is in use by instance {}", vm.id)));
    }
    let mut volume = volume.clone();
    let length = Dice::new(world.config.seed, &format!("delete/{id}")).span(world.config.delete);
    volume.gone_at = Some(now + length);
    world.put_volume(volume);
    Ok(Done::changed(()))
}

/// Puts the disks back at once and then takes its time: who looks sees the operation, and a task until it is done.
fn restore(world: &mut World, id: VmId, operation: String, disks: Vec<(Disk, Bytes)>, now: Timestamp) -> Act<()> {
    let mut vm = world.ready_for(id, "rebuild", &RESTORE_STATES, Lock::Respected)?;
    for (disk, _) in &disks {
        if let Disk::Volume(volume) = disk
            && (!vm.volumes.contains(volume) || world.volume(volume, now).is_none())
        {
            return Err(CloudError::Refused(format!("400 instance {id} has no volume {volume}")));
        }
    }
    let mut taken = Vec::new();
    for (disk, bytes) in disks {
        taken.push((disk, take(world, bytes)?));
    }
    for (disk, content) in taken {
        match disk {
            Disk::Root => vm.root = content,
            Disk::Volume(volume) => {
                let mut volume = world.volume(&volume, now).expect("it was looked for above").clone();
                volume.content = content;
                world.put_volume(volume);
            }
        }
    }
    vm.metadata.insert(RESTORED_BY_KEY.to_owned(), operation.clone());
    vm.last_restore = Some(operation);
    world.begin(vm, TaskKind::Restoring, world.config.restore, now);
    Ok(Done::changed(()))
}

/// Reads the content of every disk; nothing has had an effect yet when one fails.
async fn read_disks(disks: Vec<DiskSource>) -> Result<Vec<(Disk, Bytes)>, CloudError> {
    let mut read = Vec::new();
    for source in disks {
        let name = source.disk.object_name();
        if source.bytes > MAX_DISK_BYTES {
            return Err(CloudError::Refused(format!(
                "413 {name} has {} bytes, at most {MAX_DISK_BYTES}",
                source.bytes
            )));
        }
        let bytes = content::collect(source.content, source.bytes).await;
        let bytes = bytes.map_err(|why| CloudError::Unavailable(format!("upload of {name}: {why}")))?;
        if bytes.len() as u64 != source.bytes {
            let why = format!("upload of {name}: {} bytes came, {} were announced", bytes.len(), source.bytes);
            return Err(CloudError::Unavailable(why));
        }
        read.push((source.disk, bytes));
    }
    Ok(read)
}

fn take_disks(world: &mut World, disks: Vec<(Disk, Bytes)>) -> Result<Disks, CloudError> {
    let mut root = None;
    let mut volumes = Vec::new();
    for (disk, bytes) in disks {
        let content = take(world, bytes)?;
        match disk {
            Disk::Root => root = Some(content),
            Disk::Volume(_) => volumes.push((content, true)),
        }
    }
    let root = root.ok_or_else(|| CloudError::Refused("400 no root disk".to_owned()))?;
    Ok(Disks { root, volumes })
}

pub(super) fn take(world: &mut World, bytes: Bytes) -> Result<Content, CloudError> {
    world.contents.take(bytes).map_err(|why| CloudError::Unavailable(format!("507 insufficient storage: {why}")))
}

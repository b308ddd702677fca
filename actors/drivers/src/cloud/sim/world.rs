//! Everything that exists in a simulated cloud, which of it has changed since the last commit, and how tasks end.

use std::collections::{BTreeMap, BTreeSet};

use reeve_lifecycle::effect::Disk;
use reeve_ports::CloudError;
use reeve_protocol::observation::{PowerState, Said, VmState};
use reeve_protocol::{HostName, Span, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::audit::{Audit, AuditEntry};
use super::belongings::{Port, SecurityGroup};
use super::chance::{self, Dice};
use super::config::SimConfig;
use super::content::{Content, Contents};
use super::model::{Cure, GroundTruth, SimAddress, SimHost, SimSnapshot, SimVm, SimVolume, Task, TaskKind};
use super::notification::{self, Event};

/// The counters that names and throws are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counters {
    /// How many times the cloud was opened.
    pub(super) runs: u64,
    pub(super) calls: u64,
    pub(super) things: u64,
    pub(super) addresses: u64,
    pub(super) messages: u64,
    /// The last moment at which the cloud said anything, in microseconds: what it says later is later.
    pub(super) said_us: i64,
    pub(super) cells_down: BTreeSet<u8>,
}

/// What changed: the objects as they are now. The first line of a journal holds all.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Change {
    pub(super) counters: Counters,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hosts: Vec<SimHost>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) vms: Vec<SimVm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) volumes: Vec<SimVolume>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) addresses: Vec<SimAddress>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) snapshots: Vec<SimSnapshot>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) removed_snapshots: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) removed_ports: Vec<VmId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<SecurityGroup>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) removed_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) audit: Vec<AuditEntry>,
}

#[derive(Debug, Default)]
struct Dirty {
    hosts: BTreeSet<HostName>,
    vms: BTreeSet<VmId>,
    volumes: BTreeSet<String>,
    addresses: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    ports: BTreeSet<VmId>,
    groups: BTreeSet<String>,
    counters: bool,
    audit: Vec<AuditEntry>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) counters: Counters,
    pub(super) audit: Audit,
    pub(super) contents: Contents,
    pub(super) prober_blind: bool,
    /// Notification bodies that are not sent yet; only made if somebody listens.
    pub(super) outgoing: Vec<Vec<u8>>,
    pub(super) listened_to: bool,
    hosts: BTreeMap<HostName, SimHost>,
    vms: BTreeMap<VmId, SimVm>,
    volumes: BTreeMap<String, SimVolume>,
    addresses: BTreeMap<String, SimAddress>,
    snapshots: BTreeMap<String, SimSnapshot>,
    ports: BTreeMap<VmId, Port>,
    groups: BTreeMap<String, SecurityGroup>,
    due: BTreeSet<(Timestamp, VmId)>,
    dirty: Dirty,
    /// The time of the last look or change.
    now: Timestamp,
}

impl World {
    pub(super) fn new(config: SimConfig, contents: Contents) -> Self {
        Self {
            config,
            contents,
            counters: Counters::default(),
            audit: Audit::default(),
            prober_blind: false,
            outgoing: Vec::new(),
            listened_to: false,
            hosts: BTreeMap::new(),
            vms: BTreeMap::new(),
            volumes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            ports: BTreeMap::new(),
            groups: BTreeMap::new(),
            due: BTreeSet::new(),
            dirty: Dirty::default(),
            now: Timestamp::EPOCH,
        }
    }

    pub(super) fn vm(&self, id: VmId) -> Option<&SimVm> {
        self.vms.get(&id)
    }

    /// A VM that is not gone.
    pub(super) fn living(&self, id: VmId) -> Result<&SimVm, CloudError> {
        self.vms.get(&id).filter(|vm| !vm.is_gone()).ok_or_else(|| CloudError::NotFound(format!("instance {id}")))
    }

    pub(super) fn vms(&self) -> impl Iterator<Item = &SimVm> {
        self.vms.values()
    }

    pub(super) fn vms_from(&self, from: VmId) -> impl Iterator<Item = &SimVm> {
        self.vms.range(from..).map(|(_, vm)| vm)
    }

    pub(super) fn hosts(&self) -> impl Iterator<Item = &SimHost> {
        self.hosts.values()
    }

    pub(super) fn host(&self, name: &HostName) -> Option<&SimHost> {
        self.hosts.get(name)
    }

    /// A volume that is not gone.
    pub(super) fn volume(&self, id: &str, now: Timestamp) -> Option<&SimVolume> {
        self.volumes.get(id).filter(|volume| volume.gone_at.is_none_or(|at| now < at))
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &SimVolume> {
        self.volumes.values()
    }

    pub(super) fn port(&self, id: VmId) -> Option<&Port> {
        self.ports.get(&id)
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.values()
    }

    pub(super) fn group(&self, id: &str) -> Option<&SecurityGroup> {
        self.groups.get(id)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &SecurityGroup> {
        self.groups.values()
    }

    pub(super) fn address(&self, address: &str) -> Option<&SimAddress> {
        self.addresses.get(address)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = &SimAddress> {
        self.addresses.values()
    }

    pub(super) fn snapshot(&self, id: &str) -> Option<&SimSnapshot> {
        self.snapshots.get(id)
    }

    pub(super) fn snapshots(&self) -> impl Iterator<Item = &SimSnapshot> {
        self.snapshots.values()
    }

    /// Whether the cell of the host answers.
    pub(super) fn cell_up(&self, host: &HostName) -> bool {
        self.host(host).is_none_or(|host| !self.counters.cells_down.contains(&host.cell))
    }

    /// Every change of a VM goes through here, so that it is journaled and its next moment is known.
    pub(super) fn put_vm(&mut self, vm: SimVm) {
        let changed_at = Some(self.now.max(vm.created_at));
        self.keep_vm(SimVm { changed_at, ..vm });
    }

    /// As it is, with the time of its last change.
    pub(super) fn keep_vm(&mut self, vm: SimVm) {
        if let Some(old) = self.vms.get(&vm.id).and_then(|old| old.task.as_ref()) {
            self.due.remove(&(old.until, vm.id));
        }
        if let Some(task) = &vm.task {
            self.due.insert((task.until, vm.id));
        }
        self.contents.know(&vm.root);
        self.dirty.vms.insert(vm.id);
        self.vms.insert(vm.id, vm);
    }

    pub(super) fn put_host(&mut self, host: SimHost) {
        self.dirty.hosts.insert(host.name.clone());
        self.hosts.insert(host.name.clone(), host);
    }

    pub(super) fn put_volume(&mut self, volume: SimVolume) {
        self.contents.know(&volume.content);
        self.dirty.volumes.insert(volume.id.clone());
        self.volumes.insert(volume.id.clone(), volume);
    }

    pub(super) fn put_address(&mut self, address: SimAddress) {
        self.dirty.addresses.insert(address.address.clone());
        self.addresses.insert(address.address.clone(), address);
    }

    pub(super) fn put_snapshot(&mut self, snapshot: SimSnapshot) {
        self.dirty.snapshots.insert(snapshot.id.clone());
        self.snapshots.insert(snapshot.id.clone(), snapshot);
    }

    pub(super) fn remove_snapshot(&mut self, id: &str) -> bool {
        let was_there = self.snapshots.remove(id).is_some();
        if was_there {
            self.dirty.snapshots.insert(id.to_owned());
        }
        was_there
    }

    pub(super) fn put_port(&mut self, port: Port) {
        self.dirty.ports.insert(port.id);
        self.ports.insert(port.id, port);
    }

    pub(super) fn remove_port(&mut self, id: VmId) -> bool {
        self.dirty.ports.insert(id);
        self.ports.remove(&id).is_some()
    }

    pub(super) fn put_group(&mut self, group: SecurityGroup) {
        self.dirty.groups.insert(group.id.clone());
        self.groups.insert(group.id.clone(), group);
    }

    pub(super) fn remove_group(&mut self, id: &str) -> bool {
        self.dirty.groups.insert(id.to_owned());
        self.groups.remove(id).is_some()
    }

    pub(super) fn set_cells_down(&mut self, cells: BTreeSet<u8>) {
        self.counters.cells_down = cells;
        self.dirty.counters = true;
    }

    pub(super) fn log(&mut self, entry: AuditEntry) {
        if !entry.call.is_look() || entry.applied {
            self.dirty.audit.push(entry.clone());
        }
        self.audit.push(entry);
    }

    /// The next id of a new thing.
    pub(super) fn next_id(&mut self, what: &str) -> uuid::Uuid {
        self.counters.things += 1;
        self.dirty.counters = true;
        chance::uuid(self.config.seed, &format!("{what}/{}", self.counters.things))
    }

    /// The next public address, out of the range for benchmarks (RFC 2544), which leads nowhere.
    pub(super) fn next_address(&mut self) -> String {
        let n = self.counters.addresses;
        self.counters.addresses += 1;
        self.dirty.counters = true;
        format!("198.{}.{}.{}", 18 + (n >> 16 & 1), n >> 8 & 255, n & 255)
    }

    /// What the cloud says at this time is said after all that it said before.
    pub(super) fn said(&mut self, now: Timestamp) -> Said {
        self.counters.said_us = (self.counters.said_us + 1).max(now.as_millis().saturating_mul(1_000));
        Said::new(self.counters.said_us, "")
    }

    /// Begins a task of a length out of this range.
    pub(super) fn begin(&mut self, mut vm: SimVm, kind: TaskKind, range: [Span; 2], now: Timestamp) {
        vm.tasks += 1;
        let length = Dice::new(self.config.seed, &format!("task/{}/{}", vm.id, vm.tasks)).span(range);
        let event = kind.event();
        vm.task = Some(Task { kind, until: now + length });
        self.tell(&vm, Event::Update, now);
        self.tell(&vm, Event::Start(event), now);
        self.put_vm(vm);
    }

    /// Ends every task whose time has come, in the order of their times.
    pub(super) fn settle(&mut self, now: Timestamp) {
        self.now = now;
        while let Some(&(at, id)) = self.due.first()
            && at <= now
        {
            let mut vm = self.vms.get(&id).expect("what is due exists").clone();
            let task = vm.task.take().expect("what is due has a task");
            self.finish(&mut vm, &task.kind, at);
            self.tell(&vm, Event::End(task.kind.event()), at);
            self.tell(&vm, Event::Update, at);
            self.put_vm(vm);
        }
    }

    /// When the next task ends.
    pub(super) fn next_change(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    fn finish(&mut self, vm: &mut SimVm, task: &TaskKind, at: Timestamp) {
        match task {
            TaskKind::Building => {
                vm.launched_at = Some(at);
                self.boot(vm, at);
            }
            TaskKind::BuildingInVain => vm.state = VmState::Error,
            TaskKind::PoweringOn | TaskKind::Rebooting | TaskKind::Undeleting => {
                if vm.ailment.is_some_and(|ailment| ailment.cure == Cure::Reboot) {
                    vm.ailment = None;
                }
                self.boot(vm, at);
            }
            TaskKind::PoweringOff => {
                vm.state = VmState::Stopped;
                vm.power = PowerState::Shutdown;
            }
            TaskKind::Suspending => {
                vm.state = VmState::Suspended;
                vm.power = PowerState::Suspended;
            }
            TaskKind::Resuming => {
                vm.state = VmState::Active;
                vm.power = PowerState::Running;
            }
            TaskKind::Snapshotting => {}
            TaskKind::Restoring => {
                if vm.ailment.is_some_and(|ailment| ailment.cure != Cure::Never) {
                    vm.ailment = None;
                }
                // Nova leaves a VM off that was off before a rebuild.
                if vm.state != VmState::Stopped {
                    self.boot(vm, at);
                }
            }
            TaskKind::Deleting => {
                vm.state = VmState::Deleted;
                vm.power = PowerState::Pending;
                vm.deleted_at = Some(at);
            }
            TaskKind::SoftDeleting => {
                vm.state = VmState::SoftDeleted;
                vm.power = PowerState::Shutdown;
            }
        }
    }

    fn boot(&self, vm: &mut SimVm, at: Timestamp) {
        vm.tasks += 1;
        let length = Dice::new(self.config.seed, &format!("boot/{}/{}", vm.id, vm.tasks)).span(self.config.boot);
        vm.state = VmState::Active;
        vm.power =
            if vm.ailment.is_some_and(|ailment| ailment.crashed) { PowerState::Crashed } else { PowerState::Running };
        vm.boots_until = at + length;
    }

    /// Tells whoever listens.
    pub(super) fn tell(&mut self, vm: &SimVm, event: Event, at: Timestamp) {
        if !self.listened_to {
            return;
        }
        let said = self.said(at);
        self.counters.messages += 1;
        let id = chance::uuid(self.config.seed, &format!("message/{}", self.counters.messages));
        self.outgoing.push(notification::body(vm, event, said.at_us, id));
    }

    pub(super) fn ground_truth(&self, id: VmId, now: Timestamp) -> Option<GroundTruth> {
        let vm = self.vms.get(&id)?;
        let volumes = vm.volumes.iter().filter_map(|id| self.volumes.get(id));
        let mut disks: Vec<(Disk, Content)> = vec![(Disk::Root, vm.root.clone())];
        disks.extend(volumes.map(|volume| (Disk::Volume(volume.id.clone()), volume.content.clone())));
        Some(GroundTruth {
            facts: vm.facts(),
            guest: vm.guest(now),
            disks,
            addresses: vm.addresses.iter().filter(|held| self.holds(held, id)).cloned().collect(),
            volumes: vm.volumes.iter().filter(|id| self.volume(id, now).is_some()).cloned().collect(),
            gone: vm.is_gone(),
        })
    }

    /// Whether the address is held for the VM.
    pub(super) fn holds(&self, address: &str, vm: VmId) -> bool {
        self.address(address).is_some_and(|address| address.held_for == Some(vm))
    }

    /// What changed since the last commit; `None` if nothing did that outlives the process.
    pub(super) fn take_change(&mut self) -> Option<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        let nothing = dirty.hosts.is_empty()
            && dirty.vms.is_empty()
            && dirty.volumes.is_empty()
            && dirty.addresses.is_empty()
            && dirty.snapshots.is_empty()
            && dirty.ports.is_empty()
            && dirty.groups.is_empty()
            && dirty.audit.is_empty()
            && !dirty.counters;
        if nothing {
            return None;
        }
        let (kept, removed): (Vec<_>, Vec<_>) =
            dirty.snapshots.into_iter().partition(|id| self.snapshots.contains_key(id));
        let (ports, removed_ports): (Vec<_>, Vec<_>) =
            dirty.ports.into_iter().partition(|id| self.ports.contains_key(id));
        let (groups, removed_groups): (Vec<_>, Vec<_>) =
            dirty.groups.into_iter().partition(|id| self.groups.contains_key(id));
        Some(Change {
            counters: self.counters.clone(),
            hosts: dirty.hosts.iter().filter_map(|name| self.hosts.get(name)).cloned().collect(),
            vms: dirty.vms.iter().filter_map(|id| self.vms.get(id)).cloned().collect(),
            volumes: dirty.volumes.iter().filter_map(|id| self.volumes.get(id)).cloned().collect(),
            addresses: dirty.addresses.iter().filter_map(|id| self.addresses.get(id)).cloned().collect(),
            snapshots: kept.iter().filter_map(|id| self.snapshots.get(id)).cloned().collect(),
            removed_snapshots: removed,
            ports: ports.iter().filter_map(|id| self.ports.get(id)).cloned().collect(),
            removed_ports,
            groups: groups.iter().filter_map(|id| self.groups.get(id)).cloned().collect(),
            removed_groups,
            audit: dirty.audit,
        })
    }

    /// Takes in what a journal says.
    pub(super) fn absorb(&mut self, change: Change) {
        self.counters = change.counters;
        change.hosts.into_iter().for_each(|host| self.put_host(host));
        change.volumes.into_iter().for_each(|volume| self.put_volume(volume));
        change.addresses.into_iter().for_each(|address| self.put_address(address));
        change.snapshots.into_iter().for_each(|snapshot| self.put_snapshot(snapshot));
        change.vms.into_iter().for_each(|vm| self.keep_vm(vm));
        for id in change.removed_snapshots {
            self.remove_snapshot(&id);
        }
        change.ports.into_iter().for_each(|port| self.put_port(port));
        change.groups.into_iter().for_each(|group| self.put_group(group));
        for id in change.removed_ports {
            self.remove_port(id);
        }
        for id in change.removed_groups {
            self.remove_group(&id);
        }
        change.audit.into_iter().for_each(|entry| self.audit.push(entry));
        self.dirty = Dirty::default();
    }

    /// Everything there is, as the first line of a journal.
    pub(super) fn everything(&self) -> Change {
        Change {
            counters: self.counters.clone(),
            hosts: self.hosts.values().cloned().collect(),
            vms: self.vms.values().cloned().collect(),
            volumes: self.volumes.values().cloned().collect(),
            addresses: self.addresses.values().cloned().collect(),
            snapshots: self.snapshots.values().cloned().collect(),
            removed_snapshots: Vec::new(),
            ports: self.ports.values().cloned().collect(),
            removed_ports: Vec::new(),
            groups: self.groups.values().cloned().collect(),
            removed_groups: Vec::new(),
            audit: self.audit.changes().cloned().collect(),
        }
    }

    /// Makes the bytes of every content readable that does not follow from a seed.
    pub(super) fn load_contents(&mut self) -> std::io::Result<()> {
        let contents = self.vms.values().map(|vm| &vm.root);
        let contents = contents.chain(self.volumes.values().map(|volume| &volume.content));
        let contents = contents.chain(self.snapshots.values().map(|snapshot| &snapshot.content));
        contents.into_iter().try_for_each(|content| self.contents.load(content))
    }
}

//! How VMs are made: the first fleet, those of users, and those that a launch asks for.

use std::collections::BTreeMap;

use reeve_ports::CloudError;
use reeve_ports::cloud::OPERATION_KEY;
use reeve_protocol::observation::{PowerState, VmState};
use reeve_protocol::{HostName, ProjectId, Timestamp, UserId, VmId};

use super::chance::Dice;
use super::content::Content;
use super::model::{SimAddress, SimHost, SimVm, SimVolume, TaskKind};
use super::parts::volume_name;
use super::world::World;
use crate::cloud::openstack::operation_tag;

const NAMES_FIT: &str = "a short printable name is an identifier";

/// Whose a VM is and what it is called.
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) project: ProjectId,
    pub(super) user: UserId,
    pub(super) metadata: BTreeMap<String, String>,
}

/// The disks of a new VM: the root, and each volume with whether it is the VM's own.
pub(super) struct Disks {
    pub(super) root: Content,
    pub(super) volumes: Vec<(Content, bool)>,
}

/// Makes the hosts and the VMs that exist before anybody looks.
pub(super) fn seed(world: &mut World, now: Timestamp) {
    for n in 0..world.config.hosts {
        let name = HostName::new(format!("sim-host-{n}")).expect(NAMES_FIT);
        world.put_host(SimHost { name, up: true, cell: u8::from(n % 2 == 1) });
    }
    for n in 0..world.config.vms {
        let owner = Owner {
            name: format!("sim-vm-{n:03}"),
            project: ProjectId::new(format!("sim-project-{}", n % 4)).expect(NAMES_FIT),
            user: UserId::new(format!("sim-user-{}", n % 8)).expect(NAMES_FIT),
            metadata: BTreeMap::new(),
        };
        let vm = new_vm(world, owner, now);
        let mut vm = world.vm(vm).expect("it was just made").clone();
        vm.task = None;
        vm.state = VmState::Active;
        vm.power = PowerState::Running;
        vm.launched_at = Some(now);
        vm.boots_until = now;
        world.put_vm(vm);
    }
    world.outgoing.clear();
}

/// Makes a VM as a user would: disks and addresses as the configuration says.
pub(super) fn new_vm(world: &mut World, owner: Owner, now: Timestamp) -> VmId {
    let number = world.counters.things;
    let config = world.config.clone();
    let mut dice = Dice::new(config.seed, &format!("fleet/{number}"));
    let disk = |dice: &mut Dice| Content::generated(dice.number(), dice.within(config.disk_bytes));
    let root = disk(&mut dice);
    let count = dice.within(config.volumes_per_vm.map(u64::from));
    let volumes = (0..count)
        .map(|_| (disk(&mut dice), dice.within([0, 99]) >= u64::from(config.shared_volume_percent)))
        .collect();
    let addresses = dice.within(config.addresses_per_vm.map(u64::from));
    let addresses = usize::try_from(addresses).expect("at most 64");
    place(world, owner, Disks { root, volumes }, addresses, now)
}

/// Whether another VM may be made.
pub(super) fn check_quota(world: &World) -> Result<(), CloudError> {
    let living = world.vms().filter(|vm| !vm.is_gone()).count();
    if living >= usize::try_from(world.config.max_vms).unwrap_or(usize::MAX) {
        return Err(CloudError::Refused(format!("403 quota exceeded: {living} instances")));
    }
    Ok(())
}

/// Puts a VM onto a host and begins to build it, with new volumes and addresses.
pub(super) fn place(world: &mut World, owner: Owner, disks: Disks, addresses: usize, now: Timestamp) -> VmId {
    let vm = VmId::new(world.next_id("vm"));
    let tag = owner.metadata.get(OPERATION_KEY).map(|operation| operation_tag(operation));
    let mut volumes = Vec::new();
    for (index, (content, own)) in disks.volumes.into_iter().enumerate() {
        let id = world.next_id("volume").to_string();
        volumes.push(id.clone());
        let name = tag.as_ref().map(|tag| volume_name(tag, index)).unwrap_or_default();
        world.put_volume(SimVolume { name, ..SimVolume::ready(id, own, content) });
    }
    let mut held = Vec::new();
    for _ in 0..addresses {
        let address = world.next_address();
        held.push(address.clone());
        world.put_address(SimAddress { address, held_for: Some(vm), tag: tag.clone().unwrap_or_default() });
    }
    settle(world, vm, owner, Parts { root: disks.root, volumes, addresses: held, fails: false }, now);
    vm
}

/// What a new VM is made of.
pub(super) struct Parts {
    pub(super) root: Content,
    pub(super) volumes: Vec<String>,
    pub(super) addresses: Vec<String>,
    /// Whether its building ends in an error.
    pub(super) fails: bool,
}

/// Puts a VM onto a host and begins to build it, of what stands ready.
pub(super) fn settle(world: &mut World, id: VmId, owner: Owner, parts: Parts, now: Timestamp) {
    let vm = SimVm {
        id,
        name: owner.name,
        project: owner.project,
        user: owner.user,
        host: choose_host(world, id),
        metadata: owner.metadata,
        locked: false,
        state: VmState::Building,
        power: PowerState::Pending,
        task: None,
        created_at: now,
        launched_at: None,
        deleted_at: None,
        boots_until: now,
        ailment: None,
        tasks: 0,
        root: parts.root,
        volumes: parts.volumes,
        addresses: parts.addresses,
        last_restore: None,
        last_reboot: None,
        changed_at: Some(now),
    };
    let task = if parts.fails { TaskKind::BuildingInVain } else { TaskKind::Building };
    world.begin(vm, task, world.config.build, now);
}

/// A host that is up, by chance; any if none is.
fn choose_host(world: &World, vm: VmId) -> HostName {
    let up: Vec<&SimHost> = world.hosts().filter(|host| host.up).collect();
    let hosts = if up.is_empty() { world.hosts().collect() } else { up };
    let which = Dice::new(world.config.seed, &format!("host/{vm}")).within([0, hosts.len() as u64 - 1]);
    let which = usize::try_from(which).expect("at most 1,000 hosts");
    hosts[which].name.clone()
}

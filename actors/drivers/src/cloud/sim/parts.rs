//! The parts of a server that is made from a plan, as the port asks for them, and what of them can be seen past it.
//!
//! As in an OpenStack each part carries its operation's tag: a server in its metadata, a volume, a port and a security group
//! in their names, an address in its description.

use reeve_ports::CloudError;
use reeve_ports::cloud::{Blueprint, OPERATION_KEY, PartState};
use reeve_protocol::observation::VmState;
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{ProjectId, Timestamp, UserId, VmId};

use super::belongings::{Made, MadeKind, Port, SecurityGroup, SecurityRule};
use super::calls;
use super::chance::Dice;
use super::content::Content;
use super::fault::FaultKind;
use super::fleet::{self, Owner, Parts};
use super::model::{GuestState, SimAddress, SimVm, SimVolume};
use super::provider;
use super::world::World;
use super::{Act, Done, MAX_DISK_BYTES, SimCloud};
use crate::cloud::openstack::operation_tag;

/// What a GiB of an empty volume has here.
const BYTES_PER_GIB: u64 = 4 * 1024;
const NAMES_FIT: &str = "a short printable name is an identifier";

pub(super) fn find(world: &World, blueprint: &Blueprint, part: Part, now: Timestamp) -> PartState {
    let tag = operation_tag(&blueprint.operation);
    let ready = |id: String| PartState::Ready { id, addresses: Vec::new() };
    match part {
        Part::Firewall => {
            let group = world.groups().find(|group| group.name == tag && lacks(group, &blueprint.plan).is_empty());
            group.map_or(PartState::Absent, |group| ready(group.id.clone()))
        }
        Part::Port => port_named(world, &tag).map_or(PartState::Absent, |port| PartState::Ready {
            id: port.id.to_string(),
            addresses: vec![port.address.clone()],
        }),
        Part::Address => {
            let Some(port) = port_named(world, &tag) else { return PartState::Absent };
            let bound = [Some(port.id), port.server];
            let held = address_tagged(world, &tag).filter(|held| bound.contains(&held.held_for));
            held.map_or(PartState::Absent, |held| PartState::Ready {
                id: held.address.clone(),
                addresses: vec![held.address.clone()],
            })
        }
        Part::Volume(index) => match volume_named(world, &volume_name(&tag, index), now) {
            None => PartState::Absent,
            Some(volume) if volume.failed => PartState::Failed(format!("volume {} is error", volume.id)),
            Some(volume) if volume.ready_at.is_some_and(|at| now < at) => PartState::Pending,
            Some(volume) => ready(volume.id.clone()),
        },
        Part::Server => server_state(world, &blueprint.operation),
    }
}

fn server_state(world: &World, operation: &str) -> PartState {
    let made: Vec<&SimVm> = made_by(world, operation).collect();
    let living = made.iter().filter(|vm| !vm.is_gone()).min_by_key(|vm| (vm.created_at, vm.id));
    match living {
        None => made.first().map_or(PartState::Absent, |vm| PartState::Failed(format!("server {} was removed", vm.id))),
        Some(vm) => match vm.state {
            VmState::Building => PartState::Pending,
            VmState::Error => PartState::Failed(format!("server {} is in error: no valid host was found", vm.id)),
            VmState::Deleted | VmState::SoftDeleted => PartState::Failed(format!("server {} was removed", vm.id)),
            VmState::Active
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved
            | VmState::ShelvedOffloaded
            | VmState::Unknown => PartState::Ready { id: vm.id.to_string(), addresses: Vec::new() },
        },
    }
}

/// Makes a part unless it is there.
pub(super) fn make(
    world: &mut World,
    blueprint: &Blueprint,
    part: Part,
    fault: Option<FaultKind>,
    now: Timestamp,
) -> Act<()> {
    if find(world, blueprint, part, now) != PartState::Absent {
        return Ok(Done::looked(()));
    }
    let tag = operation_tag(&blueprint.operation);
    let plan = &blueprint.plan;
    match part {
        Part::Firewall => {
            let group = world.groups().find(|group| group.name == tag).cloned();
            let mut group = group.unwrap_or_else(|| new_group(world, &tag, "", now));
            let lacking = lacks(&group, plan);
            group.rules.extend(lacking);
            world.put_group(group);
        }
        Part::Port => {
            let group = world.groups().find(|group| group.name == tag).map(|group| group.id.clone());
            new_port(world, &tag, Some(group.ok_or_else(|| not_yet("security group"))?), now);
        }
        Part::Address => {
            let port = port_named(world, &tag).ok_or_else(|| not_yet("port"))?;
            let holder = port.server.unwrap_or(port.id);
            let address = address_tagged(world, &tag).map(|held| held.address.clone());
            let address = address.unwrap_or_else(|| world.next_address());
            world.put_address(SimAddress { address, held_for: Some(holder), tag });
        }
        Part::Volume(index) => {
            let wanted = plan.volumes.get(usize::from(index));
            let wanted = wanted.ok_or_else(|| CloudError::Refused(format!("400 the plan has no volume {index}")))?;
            let failed = fault == Some(FaultKind::FailedPart);
            new_volume(world, volume_name(&tag, index), wanted.gib, failed, now)?;
        }
        Part::Server => return make_server(world, blueprint, &tag, fault, now),
    }
    Ok(Done::changed(()))
}

fn make_server(
    world: &mut World,
    blueprint: &Blueprint,
    tag: &str,
    fault: Option<FaultKind>,
    now: Timestamp,
) -> Act<()> {
    let plan = &blueprint.plan;
    let port = port_named(world, tag).ok_or_else(|| not_yet("port"))?.id;
    let mut volumes = Vec::new();
    for (index, _) in (0_u16..).zip(&plan.volumes) {
        let volume = volume_named(world, &volume_name(tag, index), now).ok_or_else(|| not_yet("volume"))?;
        volumes.push(volume.id.clone());
    }
    let mut metadata = plan.metadata.clone();
    metadata.extend(blueprint.metadata.clone());
    // What is found by its operation has to carry it.
    metadata.entry(OPERATION_KEY.to_owned()).or_insert_with(|| blueprint.operation.clone());
    let owner = Owner {
        name: plan.name.clone(),
        project: ProjectId::new("sim-project-0").expect(NAMES_FIT),
        user: UserId::new("sim-user-0").expect(NAMES_FIT),
        metadata,
    };
    let fails = fault == Some(FaultKind::FailedPart);
    let id = place(world, owner, Planned { image: plan.image.clone(), volumes, ports: vec![port], fails }, now)?;
    Ok(Done { value: (), applied: true, made: Some(id) })
}

/// What a server is made of that stands ready.
pub(super) struct Planned {
    pub(super) image: String,
    pub(super) volumes: Vec<String>,
    pub(super) ports: Vec<VmId>,
    /// Whether its building ends in an error.
    pub(super) fails: bool,
}

pub(super) fn place(world: &mut World, owner: Owner, planned: Planned, now: Timestamp) -> Result<VmId, CloudError> {
    fleet::check_quota(world)?;
    let mut dice = Dice::new(world.config.seed, &format!("image/{}", planned.image));
    let root = Content::generated(dice.number(), dice.within(world.config.disk_bytes));
    let id = VmId::new(world.next_id("vm"));
    let parts = Parts { root, volumes: planned.volumes, addresses: Vec::new(), fails: planned.fails };
    fleet::settle(world, id, owner, parts, now);
    provider::plug(world, id, &planned.ports);
    Ok(id)
}

pub(super) fn remove(world: &mut World, operation: &str, now: Timestamp) -> Act<bool> {
    let servers: Vec<VmId> = made_by(world, operation).filter(|vm| !vm.is_gone()).map(|vm| vm.id).collect();
    let mut changed = false;
    for server in &servers {
        // One that is locked or busy is asked again.
        changed |= world.delete(*server, now).is_ok_and(|done| done.applied);
    }
    if !servers.is_empty() {
        return Ok(Done { value: false, applied: changed, made: None });
    }
    let tag = operation_tag(operation);
    let held: Vec<SimAddress> = world.addresses().filter(|held| held.is_held() && held.tag == tag).cloned().collect();
    for address in held {
        world.put_address(SimAddress { held_for: None, tag: String::new(), ..address });
        changed = true;
    }
    changed |= remove_network(world, |name, _| name == tag);
    let volumes: Vec<String> =
        world.volumes().filter(|volume| is_volume_of(volume, &tag)).map(|volume| volume.id.clone()).collect();
    for volume in volumes {
        changed |= calls::delete_volume(world, &volume, now).is_ok_and(|done| done.applied);
    }
    let nothing_left = !made(world, now).iter().any(|made| made.tag == tag);
    Ok(Done { value: nothing_left, applied: changed, made: None })
}

pub(super) fn remove_remains(world: &mut World, vm: VmId) -> Act<bool> {
    if world.living(vm).is_ok() {
        return Ok(Done::looked(false));
    }
    let operation = world.vm(vm).and_then(|vm| vm.metadata.get(OPERATION_KEY));
    let tag = operation.map(|operation| operation_tag(operation));
    let note = format!("reeve-of-{vm}");
    let is_its = |name: &str, noted: &str| noted == note || tag.as_deref() == Some(name);
    let changed = remove_network(world, is_its);
    let left = world.ports().any(|port| is_its(&port.name, &port.note) && !is_plugged(world, port))
        || world.groups().any(|group| is_its(&group.name, &group.note));
    Ok(Done { value: !left, applied: changed, made: None })
}

/// Removes ports that no living server has, and groups that no port has, by their names and descriptions.
fn remove_network(world: &mut World, is_meant: impl Fn(&str, &str) -> bool) -> bool {
    let free = world.ports().filter(|port| is_meant(&port.name, &port.note) && !is_plugged(world, port));
    let free: Vec<VmId> = free.map(|port| port.id).collect();
    let ports = free.into_iter().filter(|port| world.remove_port(*port)).count();
    let unused = world.groups().filter(|group| is_meant(&group.name, &group.note) && !is_used(world, &group.id));
    let unused: Vec<String> = unused.map(|group| group.id.clone()).collect();
    let groups = unused.into_iter().filter(|group| world.remove_group(group)).count();
    ports + groups > 0
}

pub(super) fn is_plugged(world: &World, port: &Port) -> bool {
    port.server.is_some_and(|server| world.living(server).is_ok())
}

pub(super) fn is_used(world: &World, group: &str) -> bool {
    world.ports().any(|port| port.group.as_deref() == Some(group))
}

pub(super) fn console(world: &World, vm: VmId, now: Timestamp) -> Act<String> {
    let vm = world.living(vm)?;
    if world.host(&vm.host).is_some_and(|host| !host.up) {
        return Err(CloudError::Unavailable(format!("409 the host of instance {} does not answer", vm.id)));
    }
    let mut text = format!("[    0.000000] simulated guest of {}\n", vm.name);
    match vm.guest(now) {
        GuestState::Off | GuestState::Booting => {}
        GuestState::Up | GuestState::Hung => text.push_str(&format!("{} login: \n", vm.name)),
        GuestState::Crashed => text.push_str("[    9.000000] Kernel panic - not syncing\n"),
    }
    Ok(Done::looked(text))
}

fn not_yet(what: &str) -> CloudError {
    CloudError::Unavailable(format!("the {what} of the server is not there yet"))
}

fn lacks(group: &SecurityGroup, plan: &ServerPlan) -> Vec<SecurityRule> {
    let mut lacking: Vec<SecurityRule> = Vec::new();
    for rule in plan.ingress.iter().flat_map(SecurityRule::of) {
        if !group.rules.contains(&rule) && !lacking.contains(&rule) {
            lacking.push(rule);
        }
    }
    lacking
}

fn port_named<'a>(world: &'a World, name: &str) -> Option<&'a Port> {
    world.ports().find(|port| port.name == name)
}

fn address_tagged<'a>(world: &'a World, tag: &str) -> Option<&'a SimAddress> {
    world.addresses().find(|held| held.is_held() && held.tag == tag)
}

fn volume_named<'a>(world: &'a World, name: &str, now: Timestamp) -> Option<&'a SimVolume> {
    let is_there = |volume: &&SimVolume| volume.gone_at.is_none() && world.volume(&volume.id, now).is_some();
    world.volumes().filter(|volume| volume.name == name).find(is_there)
}

fn made_by<'a>(world: &'a World, operation: &'a str) -> impl Iterator<Item = &'a SimVm> {
    world.vms().filter(move |vm| vm.metadata.get(OPERATION_KEY).is_some_and(|by| by == operation))
}

/// The name of the volume of this index.
pub(super) fn volume_name(tag: &str, index: impl std::fmt::Display) -> String {
    format!("{tag}-{index}")
}

pub(super) fn is_volume_of(volume: &SimVolume, tag: &str) -> bool {
    volume.name.rsplit_once('-').is_some_and(|(of, _)| of == tag)
}

pub(super) fn new_group(world: &mut World, name: &str, note: &str, now: Timestamp) -> SecurityGroup {
    let id = world.next_id("group").to_string();
    SecurityGroup { id, name: name.to_owned(), note: note.to_owned(), rules: Vec::new(), made_at: now }
}

pub(super) fn new_port(world: &mut World, name: &str, group: Option<String>, now: Timestamp) -> VmId {
    let id = VmId::new(world.next_id("port"));
    let number = world.counters.things;
    let address = format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255);
    let (name, note) = (name.to_owned(), String::new());
    world.put_port(Port { id, name, note, group, address, server: None, made_at: now });
    id
}

/// An empty volume, which takes as long as a power change.
pub(super) fn new_volume(
    world: &mut World,
    name: String,
    gib: u32,
    failed: bool,
    now: Timestamp,
) -> Result<String, CloudError> {
    let id = world.next_id("volume").to_string();
    let bytes = (u64::from(gib) * BYTES_PER_GIB).min(MAX_DISK_BYTES);
    let zeros = vec![0; usize::try_from(bytes).expect("at most 16 MiB")];
    let content = calls::take(world, zeros.into())?;
    let length = Dice::new(world.config.seed, &format!("create/{id}")).span(world.config.power);
    let (own, made_at, ready_at) = (true, Some(now), Some(now + length));
    world.put_volume(SimVolume { id: id.clone(), own, content, gone_at: None, name, gib, made_at, ready_at, failed });
    Ok(id)
}

/// Everything that exists and carries the tag of an operation.
pub(super) fn made(world: &World, now: Timestamp) -> Vec<Made> {
    let thing = |tag: &str, kind, id: String| Made { tag: tag.to_owned(), kind, id };
    let mut all = Vec::new();
    for vm in world.vms().filter(|vm| !vm.is_gone()) {
        if let Some(operation) = vm.metadata.get(OPERATION_KEY) {
            all.push(thing(&operation_tag(operation), MadeKind::Server, vm.id.to_string()));
        }
    }
    for volume in world.volumes().filter(|volume| world.volume(&volume.id, now).is_some()) {
        if let Some((tag, _)) = volume.name.rsplit_once('-') {
            all.push(thing(tag, MadeKind::Volume, volume.id.clone()));
        }
    }
    let held = world.addresses().filter(|held| held.is_held() && !held.tag.is_empty());
    all.extend(held.map(|held| thing(&held.tag, MadeKind::Address, held.address.clone())));
    all.extend(world.ports().map(|port| thing(&port.name, MadeKind::Port, port.id.to_string())));
    all.extend(world.groups().map(|group| thing(&group.name, MadeKind::Firewall, group.id.clone())));
    all
}

impl SimCloud {
    /// Everything that exists and that an operation made, without a call and without an audit entry. Who looks for orphans
    /// looks here.
    #[must_use]
    pub fn made(&self) -> Vec<Made> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        made(&inner.world, now)
    }

    /// What of it this operation made.
    #[must_use]
    pub fn made_by(&self, operation: &str) -> Vec<Made> {
        let tag = operation_tag(operation);
        self.made().into_iter().filter(|made| made.tag == tag).collect()
    }
}

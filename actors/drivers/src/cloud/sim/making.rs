//! What the REST face of a provider makes for a plan, thing by thing, where the port makes a part at once. Each is a call
//! that meets the faults of [`CallKind::MakePart`] or [`CallKind::RemoveParts`] and is audited.

use std::collections::BTreeMap;

use reeve_ports::CloudError;
use reeve_protocol::{ProjectId, UserId, VmId};

use super::audit::{Actor, CallKind};
use super::belongings::{Port, SecurityGroup, SecurityRule};
use super::fault::FaultKind;
use super::fleet::{self, Owner};
use super::model::SimAddress;
use super::parts::{self, Planned};
use super::{Call, Done, SimCloud, provider};

/// A server that is to be made of what stands ready.
pub struct NewServer {
    /// Its name.
    pub name: String,
    /// Its project.
    pub project: ProjectId,
    /// Its user.
    pub user: UserId,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
    /// The image of its root disk.
    pub image: String,
    /// Its volumes.
    pub volumes: Vec<String>,
    /// Its ports.
    pub ports: Vec<VmId>,
}

/// A public address that is to be taken out of the pool.
pub struct NewAddress {
    /// The VM or the port that it is for.
    pub holder: VmId,
    /// Its description.
    pub tag: String,
    /// Which, if it is free; any other if not given.
    pub address: Option<String>,
}

fn makes(kind: CallKind, detail: impl Into<String>) -> Call {
    Call { by: Actor::Caller, kind, vm: None, detail: detail.into() }
}

fn missing(what: &str, id: impl std::fmt::Display) -> CloudError {
    CloudError::NotFound(format!("{what} {id}"))
}

/// The errors of all: `NotFound`, `Refused` where something uses it, or what a fault or the journal says.
impl SimCloud {
    /// Every port that was made for itself, without a call and without an audit entry. That of a server that is gone has
    /// none.
    #[must_use]
    pub fn port_views(&self) -> Vec<Port> {
        let inner = self.lock();
        let world = &inner.world;
        let view =
            |port: &Port| Port { server: port.server.filter(|_| parts::is_plugged(world, port)), ..port.clone() };
        world.ports().map(view).collect()
    }

    /// Every security group, without a call and without an audit entry.
    #[must_use]
    pub fn group_views(&self) -> Vec<SecurityGroup> {
        self.lock().world.groups().cloned().collect()
    }

    /// How many VMs there may be, and how many there are, without a call and without an audit entry.
    #[must_use]
    pub fn quota_view(&self) -> (u32, usize) {
        let inner = self.lock();
        (inner.world.config.max_vms, inner.world.vms().filter(|vm| !vm.is_gone()).count())
    }

    /// Makes a port.
    ///
    /// # Errors
    /// See above.
    pub async fn create_port(&self, name: String, group: Option<String>) -> Result<Port, CloudError> {
        self.call(makes(CallKind::MakePart, name.clone()), |world, now, _| {
            if let Some(group) = &group {
                world.group(group).ok_or_else(|| missing("security group", group))?;
            }
            let id = parts::new_port(world, &name, group, now);
            Ok(Done::changed(world.port(id).expect("it was just made").clone()))
        })
        .await
    }

    /// Describes a port.
    ///
    /// # Errors
    /// See above.
    pub async fn describe_port(&self, id: VmId, note: String) -> Result<Port, CloudError> {
        self.call(makes(CallKind::MakePart, note.clone()), |world, _, _| {
            let port = world.port(id).cloned().ok_or_else(|| missing("port", id))?;
            let port = Port { note, ..port };
            world.put_port(port.clone());
            Ok(Done::changed(port))
        })
        .await
    }

    /// Removes a port, whatever uses it. Its address waits for another.
    ///
    /// # Errors
    /// See above.
    pub async fn delete_port(&self, id: VmId) -> Result<(), CloudError> {
        self.call(makes(CallKind::RemoveParts, format!("port {id}")), |world, _, _| {
            if !world.remove_port(id) {
                return Err(missing("port", id));
            }
            Ok(Done::changed(()))
        })
        .await
    }

    /// Makes a security group without rules.
    ///
    /// # Errors
    /// See above.
    pub async fn create_group(&self, name: String, note: String) -> Result<SecurityGroup, CloudError> {
        self.call(makes(CallKind::MakePart, name.clone()), |world, now, _| {
            let group = parts::new_group(world, &name, &note, now);
            world.put_group(group.clone());
            Ok(Done::changed(group))
        })
        .await
    }

    /// Lets something in.
    ///
    /// # Errors
    /// See above; `Refused` when the group has this rule.
    pub async fn add_rule(&self, id: &str, rule: SecurityRule) -> Result<(), CloudError> {
        self.call(makes(CallKind::MakePart, format!("rule of {id}")), |world, _, _| {
            let mut group = world.group(id).cloned().ok_or_else(|| missing("security group", id))?;
            if group.rules.contains(&rule) {
                return Err(CloudError::Refused("409 Security group rule already exists.".to_owned()));
            }
            group.rules.push(rule);
            world.put_group(group);
            Ok(Done::changed(()))
        })
        .await
    }

    /// Describes a security group.
    ///
    /// # Errors
    /// See above.
    pub async fn describe_group(&self, id: &str, note: String) -> Result<SecurityGroup, CloudError> {
        self.call(makes(CallKind::MakePart, note.clone()), |world, _, _| {
            let group = world.group(id).cloned().ok_or_else(|| missing("security group", id))?;
            let group = SecurityGroup { note, ..group };
            world.put_group(group.clone());
            Ok(Done::changed(group))
        })
        .await
    }

    /// Removes a security group that no port has.
    ///
    /// # Errors
    /// See above.
    pub async fn delete_group(&self, id: &str) -> Result<(), CloudError> {
        self.call(makes(CallKind::RemoveParts, format!("security group {id}")), |world, _, _| {
            world.group(id).ok_or_else(|| missing("security group", id))?;
            if parts::is_used(world, id) {
                return Err(CloudError::Refused(format!("409 Security Group {id} in use.")));
            }
            world.remove_group(id);
            Ok(Done::changed(()))
        })
        .await
    }

    /// Takes a public address out of the pool, for a VM or for the port of one that is to come.
    ///
    /// # Errors
    /// See above; `Refused` when the address that is asked for is not free.
    pub async fn allocate_address(&self, wanted: NewAddress) -> Result<String, CloudError> {
        let NewAddress { holder, tag, address } = wanted;
        self.call(makes(CallKind::MakePart, format!("address for {holder}")), |world, _, _| {
            let free = |held: &SimAddress| !held.is_held();
            let address = match address {
                Some(address) if world.address(&address).is_none_or(free) => address,
                Some(address) => return Err(CloudError::Refused(format!("409 {address} is in use"))),
                None => world.next_address(),
            };
            world.put_address(SimAddress { address: address.clone(), held_for: Some(holder), tag });
            provider::plug(world, holder, &[holder]);
            Ok(Done::changed(address))
        })
        .await
    }

    /// Binds a public address to another VM or port.
    ///
    /// # Errors
    /// See above.
    pub async fn bind_address(&self, address: &str, holder: VmId) -> Result<(), CloudError> {
        self.call(makes(CallKind::MakePart, format!("bind {address}")), |world, _, _| {
            let held = world.address(address).filter(|held| held.is_held()).cloned();
            let held = held.ok_or_else(|| missing("address", address))?;
            world.put_address(SimAddress { held_for: Some(holder), ..held });
            provider::plug(world, holder, &[holder]);
            Ok(Done::changed(()))
        })
        .await
    }

    /// Makes an empty volume and gives its id.
    ///
    /// # Errors
    /// See above.
    pub async fn create_volume(&self, name: String, gib: u32) -> Result<String, CloudError> {
        self.call(makes(CallKind::MakePart, name.clone()), |world, now, fault| {
            let failed = fault == Some(FaultKind::FailedPart);
            parts::new_volume(world, name, gib, failed, now).map(Done::changed)
        })
        .await
    }

    /// Makes a server of what stands ready.
    ///
    /// # Errors
    /// See above.
    pub async fn create_server(&self, new: NewServer) -> Result<VmId, CloudError> {
        self.call(makes(CallKind::MakePart, new.name.clone()), |world, now, fault| {
            fleet::check_quota(world)?;
            for port in &new.ports {
                let port =
                    world.port(*port).ok_or_else(|| CloudError::Refused(format!("400 Port {port} not found")))?;
                if parts::is_plugged(world, port) {
                    return Err(CloudError::Refused(format!("409 Port {} is still in use.", port.id)));
                }
            }
            for volume in &new.volumes {
                let usable = world.volume(volume, now).filter(|found| found.gone_at.is_none() && !found.failed);
                if usable.is_none_or(|found| found.ready_at.is_some_and(|at| now < at)) {
                    return Err(CloudError::Refused(format!("400 volume {volume} is not available")));
                }
            }
            let NewServer { name, project, user, metadata, image, volumes, ports } = new;
            let fails = fault == Some(FaultKind::FailedPart);
            let owner = Owner { name, project, user, metadata };
            let id = parts::place(world, owner, Planned { image, volumes, ports, fails }, now)?;
            Ok(Done { value: id, applied: true, made: Some(id) })
        })
        .await
    }
}

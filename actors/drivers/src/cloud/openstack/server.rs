//! A server, as Nova writes it.

use std::collections::BTreeMap;

use reeve_protocol::observation::{MAX_METADATA, PowerState, VmFacts, VmState};
use reeve_protocol::{HostName, ProjectId, UserId, VmId};
use serde::Deserialize;

use super::pages::Item;
use super::time;

/// A page of a listing.
#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) servers: Vec<Record>,
    #[serde(default)]
    pub(super) servers_links: Vec<Link>,
}

#[derive(Deserialize)]
pub(super) struct Link {
    rel: String,
}

/// Where the page after this one begins, if there is one: Nova's marker is the last server seen.
pub(super) fn next_marker(links: &[Link], last: Option<VmId>) -> Option<String> {
    last.filter(|_| links.iter().any(|link| link.rel == "next")).map(|last| last.to_string())
}

/// One server by itself.
#[derive(Deserialize)]
pub(super) struct One {
    pub(super) server: Record,
}

/// What is read of a server.
#[derive(Deserialize)]
pub(super) struct Record {
    pub(super) id: VmId,
    #[serde(default)]
    name: String,
    #[serde(default)]
    status: String,
    tenant_id: Option<String>,
    user_id: Option<String>,
    pub(super) created: Option<String>,
    #[serde(rename = "OS-SRV-USG:launched_at")]
    launched_at: Option<String>,
    #[serde(rename = "OS-SRV-USG:terminated_at")]
    terminated_at: Option<String>,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: Option<String>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<String>,
    #[serde(rename = "OS-EXT-STS:power_state")]
    power_state: Option<i64>,
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<String>,
    locked: Option<bool>,
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(default)]
    addresses: BTreeMap<String, Vec<Address>>,
    pub(super) flavor: Option<Flavor>,
    /// Why it failed.
    #[serde(default)]
    pub(super) fault: Option<Fault>,
}

#[derive(Deserialize)]
pub(super) struct Fault {
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Deserialize)]
struct Address {
    addr: String,
    #[serde(rename = "OS-EXT-IPS:type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Flavor {
    /// Only below microversion 2.47.
    pub(super) id: Option<String>,
}

impl Item for Record {
    const LIST: &'static str = "servers";

    fn marker(&self) -> String {
        self.id.to_string()
    }
}

impl Page {
    /// Where the next page begins, if there is one.
    pub(super) fn next(&self) -> Option<String> {
        next_marker(&self.servers_links, self.servers.last().map(|last| last.id))
    }
}

impl Record {
    /// Whether the cell of the server did not answer, so that little is known of it (Nova 2.69).
    pub(super) fn is_partial(&self) -> bool {
        is_partial(&self.status, self.vm_state.as_deref())
    }

    pub(super) fn state(&self) -> VmState {
        state(&self.status, self.vm_state.as_deref())
    }

    /// Whether its deletion is under way.
    pub(super) fn is_going(&self) -> bool {
        self.task_state.as_deref() == Some("deleting")
    }

    pub(super) fn floating_addresses(&self) -> Vec<String> {
        let all = self.addresses.values().flatten();
        all.filter(|address| address.kind.as_deref() == Some("floating")).map(|address| address.addr.clone()).collect()
    }

    /// The names of its networks.
    pub(super) fn networks(&self) -> impl Iterator<Item = &str> {
        self.addresses.keys().map(String::as_str)
    }

    pub(super) fn facts(self) -> VmFacts {
        VmFacts {
            vm: self.id,
            state: state(&self.status, self.vm_state.as_deref()),
            name: self.name,
            project: self.tenant_id.and_then(|id| ProjectId::new(id).ok()),
            user: self.user_id.and_then(|id| UserId::new(id).ok()),
            host: self.host.filter(|host| !host.is_empty()).and_then(|host| HostName::new(host).ok()),
            task: self.task_state,
            power: self.power_state.and_then(power),
            locked: self.locked,
            created_at: self.created.as_deref().and_then(time::openstack),
            launched_at: self.launched_at.as_deref().and_then(time::openstack),
            deleted_at: self.terminated_at.as_deref().and_then(time::openstack),
            metadata: self.metadata.into_iter().take(MAX_METADATA).collect(),
        }
    }
}

/// Whether so little is told of a server because its cell did not answer (Nova 2.69).
pub(super) fn is_partial(status: &str, vm_state: Option<&str>) -> bool {
    status == "UNKNOWN" && vm_state.is_none()
}

/// What state a server is in.
pub(super) fn state(status: &str, vm_state: Option<&str>) -> VmState {
    vm_state.map_or_else(|| by_status(status), VmState::from_nova)
}

/// Nova's `power_state` (nova/compute/power_state.py).
pub(super) const fn power(number: i64) -> Option<PowerState> {
    match number {
        0 => Some(PowerState::Pending),
        1 => Some(PowerState::Running),
        3 => Some(PowerState::Paused),
        4 => Some(PowerState::Shutdown),
        6 => Some(PowerState::Crashed),
        7 => Some(PowerState::Suspended),
        _ => None,
    }
}

/// For a cloud whose policy hides the extended status (nova/api/openstack/common.py).
fn by_status(status: &str) -> VmState {
    match status {
        "ACTIVE" | "REBOOT" | "HARD_REBOOT" | "PASSWORD" | "REBUILD" | "MIGRATING" | "RESIZE" => VmState::Active,
        "BUILD" => VmState::Building,
        "SHUTOFF" => VmState::Stopped,
        "VERIFY_RESIZE" => VmState::Resized,
        "PAUSED" => VmState::Paused,
        "SUSPENDED" => VmState::Suspended,
        "RESCUE" => VmState::Rescued,
        "ERROR" => VmState::Error,
        "DELETED" => VmState::Deleted,
        "SOFT_DELETED" => VmState::SoftDeleted,
        "SHELVED" => VmState::Shelved,
        "SHELVED_OFFLOADED" => VmState::ShelvedOffloaded,
        _ => VmState::Unknown,
    }
}

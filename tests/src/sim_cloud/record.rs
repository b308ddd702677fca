//! A server, as Nova writes it at the microversion that was asked for.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use reeve_drivers::SimCloud;
use reeve_drivers::cloud::openstack::operation_tag;
use reeve_drivers::cloud::sim::ServerView;
use reeve_drivers::cloud::sim::catalog::FLAVOR;
use reeve_ports::cloud::OPERATION_KEY;
use reeve_protocol::observation::{PowerState, VmState};
use reeve_protocol::{HostName, ProjectId, Timestamp, UserId, VmId};
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// The first version whose flavor has no id.
const FLAVOR_EMBEDDED: u32 = 47;
/// The first version that lists what little is known of servers in cells that are down.
pub(super) const PARTIAL: u32 = 69;

/// The microversion that a request asks for, without its `2.`; 2.1 if none.
pub(super) fn microversion(request: &HttpRequest) -> u32 {
    let header = request.headers().get("openstack-api-version").and_then(|value| value.to_str().ok());
    header.and_then(|header| header.trim().strip_prefix("compute 2.")?.parse().ok()).unwrap_or(1)
}

/// Which hosts are up.
pub(super) fn hosts(sim: &SimCloud) -> BTreeMap<HostName, bool> {
    sim.host_views().into_iter().map(|health| (health.host, health.up)).collect()
}

/// A server and all that Nova says of it to an administrator.
pub(super) fn server(truth: &ServerView, hosts: &BTreeMap<HostName, bool>, microversion: u32) -> Box<RawValue> {
    let facts = &truth.facts;
    let host = facts.host.as_ref();
    let host_status = match host.and_then(|host| hosts.get(host)) {
        Some(true) => "UP",
        Some(false) => "DOWN",
        None => "UNKNOWN",
    };
    let body = Body {
        id: facts.vm,
        name: &facts.name,
        status: status(facts.state, facts.task.as_deref()),
        tenant_id: facts.project.as_ref(),
        user_id: facts.user.as_ref(),
        metadata: &facts.metadata,
        tags: facts.metadata.get(OPERATION_KEY).map(|operation| operation_tag(operation)).into_iter().collect(),
        created: facts.created_at.map(zoned),
        updated: truth.changed_at.or(facts.created_at).map(zoned),
        launched_at: facts.launched_at.map(naive),
        terminated_at: facts.deleted_at.map(naive),
        vm_state: facts.state.as_nova(),
        task_state: facts.task.as_deref(),
        power_state: power(facts.power),
        host,
        host_status,
        locked: facts.locked,
        addresses: Addresses { inside: truth.addresses.iter().map(|address| Address::floating(address)).collect() },
        flavor: if microversion < FLAVOR_EMBEDDED { Flavor::named() } else { Flavor::embedded() },
        links: [],
    };
    to_raw_value(&body).expect("a server has texts as keys")
}

#[derive(Serialize)]
struct Body<'a> {
    id: VmId,
    name: &'a str,
    status: &'static str,
    tenant_id: Option<&'a ProjectId>,
    user_id: Option<&'a UserId>,
    metadata: &'a BTreeMap<String, String>,
    tags: Vec<String>,
    created: Option<String>,
    updated: Option<String>,
    #[serde(rename = "OS-SRV-USG:launched_at")]
    launched_at: Option<String>,
    #[serde(rename = "OS-SRV-USG:terminated_at")]
    terminated_at: Option<String>,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: &'static str,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<&'a str>,
    #[serde(rename = "OS-EXT-STS:power_state")]
    power_state: u8,
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<&'a HostName>,
    host_status: &'static str,
    locked: Option<bool>,
    addresses: Addresses<'a>,
    flavor: Flavor,
    links: [(); 0],
}

#[derive(Serialize)]
struct Addresses<'a> {
    #[serde(rename = "sim-net")]
    inside: Vec<Address<'a>>,
}

#[derive(Serialize)]
struct Address<'a> {
    addr: &'a str,
    version: u8,
    #[serde(rename = "OS-EXT-IPS:type")]
    kind: &'static str,
}

impl<'a> Address<'a> {
    const fn floating(addr: &'a str) -> Self {
        Self { addr, version: 4, kind: "floating" }
    }
}

/// By its id, or by what it is made of.
#[derive(Serialize)]
#[serde(untagged)]
enum Flavor {
    Named { id: &'static str },
    Embedded { original_name: &'static str, vcpus: u8, ram: u16, disk: u8, ephemeral: u8, swap: u8 },
}

impl Flavor {
    const fn named() -> Self {
        Self::Named { id: FLAVOR.0 }
    }

    const fn embedded() -> Self {
        Self::Embedded { original_name: FLAVOR.1, vcpus: 1, ram: 512, disk: 1, ephemeral: 0, swap: 0 }
    }
}

/// What is known of a server whose cell does not answer.
pub(super) fn partial(vm: VmId) -> Box<RawValue> {
    let body = json!({ "id": vm, "status": "UNKNOWN", "tenant_id": super::auth::PROJECT,
        "created": "1970-01-01T00:00:00Z", "links": [] });
    to_raw_value(&body).expect("a server has texts as keys")
}

fn status(state: VmState, task: Option<&str>) -> &'static str {
    match (state, task) {
        (VmState::Active, Some("rebooting_hard")) => "HARD_REBOOT",
        (VmState::Active, Some("rebuilding")) => "REBUILD",
        (VmState::Active, _) => "ACTIVE",
        (VmState::Building, _) => "BUILD",
        (VmState::Paused, _) => "PAUSED",
        (VmState::Suspended, _) => "SUSPENDED",
        (VmState::Stopped, _) => "SHUTOFF",
        (VmState::Rescued, _) => "RESCUE",
        (VmState::Resized, _) => "VERIFY_RESIZE",
        (VmState::SoftDeleted, _) => "SOFT_DELETED",
        (VmState::Deleted, _) => "DELETED",
        (VmState::Error, _) => "ERROR",
        (VmState::Shelved, _) => "SHELVED",
        (VmState::ShelvedOffloaded, _) => "SHELVED_OFFLOADED",
        (VmState::Unknown, _) => "UNKNOWN",
    }
}

const fn power(state: Option<PowerState>) -> u8 {
    match state {
        None | Some(PowerState::Pending) => 0,
        Some(PowerState::Running) => 1,
        Some(PowerState::Paused) => 3,
        Some(PowerState::Shutdown) => 4,
        Some(PowerState::Crashed) => 6,
        Some(PowerState::Suspended) => 7,
    }
}

/// `2017-10-10T15:49:08Z`
fn zoned(at: Timestamp) -> String {
    format!("{}Z", &at.to_string()[..19])
}

/// `2017-10-10T15:49:08.000000`, as far as a database keeps it.
pub(super) fn naive(at: Timestamp) -> String {
    format!("{}.000000", &at.to_string()[..19])
}

//! Neutron: one network inside, one outside, ports, and public addresses between them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::cloud::sim::{AddressView, as_caller};
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::VmId;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::{Caller, PROJECT};
use super::glance::paged;
use super::nova::{bad, vm_id};
use super::reply::{self, Dialect, ok};
use super::server::Shared;

const INSIDE: &str = "1d000000-0000-4000-8000-000000000001";
const OUTSIDE: &str = "1d000000-0000-4000-8000-000000000002";
/// What the ids of public addresses begin with; the address itself is the rest.
const ADDRESS_IDS: u128 = 0xf10a_0000_0000_4000_8000 << 48;

/// Ports that were made before their server. A server's own port has the server's id. Not kept over a restart, but the
/// id follows from the name, so that one that is made again is the same.
#[derive(Default)]
pub(super) struct Ports(Mutex<BTreeMap<VmId, Port>>);

struct Port {
    name: String,
    server: Option<VmId>,
}

impl Ports {
    fn all(&self) -> MutexGuard<'_, BTreeMap<VmId, Port>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These ports belong to a server now.
    pub(super) fn plug(&self, ports: &[VmId], server: VmId) {
        let mut all = self.all();
        for port in ports {
            if let Some(port) = all.get_mut(port) {
                port.server = Some(server);
            }
        }
    }

    /// Where the addresses of a port are held: at its server, once it has one.
    fn holder(&self, port: VmId) -> VmId {
        self.all().get(&port).and_then(|port| port.server).unwrap_or(port)
    }
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let neutron = web::scope("/network/v2.0")
        .route("/networks", web::get().to(networks))
        .route("/ports", web::get().to(ports))
        .route("/ports", web::post().to(create_port))
        .route("/floatingips", web::get().to(floating_ips))
        .route("/floatingips", web::post().to(allocate))
        .route("/floatingips/{id}", web::delete().to(release));
    config.service(neutron);
}

#[derive(Deserialize)]
struct PageOf {
    limit: Option<usize>,
    marker: Option<String>,
}

fn list(key: &str, mut things: Vec<Value>, page: &PageOf) -> HttpResponse {
    let more = paged(&mut things, page.marker.as_deref(), page.limit);
    let mut body = json!({ key: things });
    if let Some(marker) = more {
        body[format!("{key}_links")] = json!([{ "rel": "next", "href": format!("{key}?marker={marker}") }]);
    }
    ok(body)
}

#[derive(Deserialize)]
struct NetworkFilter {
    name: Option<String>,
    #[serde(rename = "router:external")]
    external: Option<bool>,
}

async fn networks(_caller: Caller, filter: web::Query<NetworkFilter>, page: web::Query<PageOf>) -> HttpResponse {
    let all = [("sim-net", INSIDE, false), ("sim-public", OUTSIDE, true)].into_iter();
    let wanted = all.filter(|(name, _, external)| {
        filter.name.as_ref().is_none_or(|wanted| wanted == name) && filter.external.is_none_or(|e| e == *external)
    });
    let networks = wanted.map(|(name, id, external)| json!({ "id": id, "name": name, "router:external": external }));
    list("networks", networks.collect(), &page)
}

#[derive(Deserialize)]
struct PortFilter {
    name: Option<String>,
    device_id: Option<String>,
}

fn port(id: VmId, name: &str, device: Option<VmId>) -> Value {
    let device = device.map(|vm| vm.to_string()).unwrap_or_default();
    json!({ "id": id, "name": name, "network_id": INSIDE, "device_id": device, "status": "ACTIVE", "tenant_id": PROJECT })
}

async fn ports(
    _caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<PortFilter>,
    page: web::Query<PageOf>,
) -> HttpResponse {
    let mut found = Vec::new();
    if let Some(name) = &filter.name {
        let all = shared.ports.all();
        found.extend(all.iter().filter(|(_, p)| p.name == *name).map(|(id, p)| port(*id, &p.name, p.server)));
    }
    let device = filter.device_id.as_ref().and_then(|id| id.parse::<VmId>().ok());
    if let Some(vm) = device.filter(|vm| shared.sim.ground_truth(*vm).is_some_and(|truth| !truth.gone)) {
        found.push(port(vm, "", Some(vm)));
    }
    list("ports", found, &page)
}

async fn create_port(
    request: HttpRequest,
    _caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let made = match (body["port"]["name"].as_str(), body["port"]["network_id"].as_str()) {
        (Some(name), Some(INSIDE)) if !name.is_empty() => {
            let id = VmId::new(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()));
            shared.ports.all().insert(id, Port { name: name.to_owned(), server: None });
            Ok(HttpResponse::Created().json(json!({ "port": port(id, name, None) })))
        }
        (Some(_), Some(INSIDE)) | (None, _) => Err(bad("name is expected")),
        (Some(_), other) => Err(CloudError::NotFound(format!("network {other:?}"))),
    };
    reply::reply(&request, Dialect::Network, made)
}

#[derive(Deserialize)]
struct AddressFilter {
    floating_ip_address: Option<String>,
    port_id: Option<String>,
}

fn floating_ip(view: &AddressView) -> Value {
    let id = view.address.parse::<Ipv4Addr>().map(address_id).unwrap_or_default();
    json!({ "id": id, "floating_ip_address": view.address, "floating_network_id": OUTSIDE, "port_id": view.held_for,
        "status": "ACTIVE", "tenant_id": PROJECT })
}

fn address_id(address: Ipv4Addr) -> Uuid {
    Uuid::from_u128(ADDRESS_IDS | u128::from(u32::from(address)))
}

fn address_of(id: &str) -> Option<Ipv4Addr> {
    let id = id.parse::<Uuid>().ok()?.as_u128();
    let address = u32::try_from(id ^ ADDRESS_IDS).ok()?;
    Some(address.into())
}

async fn floating_ips(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<AddressFilter>,
    page: web::Query<PageOf>,
) -> HttpResponse {
    let listed = as_caller(caller.0, async {
        if let Some(address) = &filter.floating_ip_address {
            shared.sim.address_held(address).await?;
        }
        let holder = filter.port_id.as_deref().map(vm_id).transpose()?.map(|port| shared.ports.holder(port));
        let mut held = shared.sim.address_views();
        held.retain(|view| filter.floating_ip_address.as_ref().is_none_or(|address| view.address == *address));
        held.retain(|view| holder.is_none_or(|holder| view.held_for == holder));
        Ok(list("floatingips", held.iter().map(floating_ip).collect(), &page))
    });
    let listed = listed.await;
    reply::reply(&request, Dialect::Network, listed)
}

async fn allocate(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let made = caller.changes(async move {
        let wanted = &body["floatingip"];
        if wanted["floating_network_id"] != OUTSIDE {
            return Err(bad("the network is not external"));
        }
        let port = vm_id(wanted["port_id"].as_str().ok_or_else(|| bad("port_id is expected"))?)?;
        let holder = shared.ports.holder(port);
        let address = shared.sim.allocate_address(holder)?;
        Ok(AddressView { address, held_for: holder })
    });
    let made = made.await.map(|view| HttpResponse::Created().json(json!({ "floatingip": floating_ip(&view) })));
    reply::reply(&request, Dialect::Network, made)
}

async fn release(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let released = caller.changes(async move {
        let address = address_of(&id).ok_or_else(|| CloudError::NotFound(format!("floating ip {id}")))?;
        shared.sim.release_address(&address.to_string()).await
    });
    let released = released.await.map(|()| HttpResponse::NoContent().finish());
    reply::reply(&request, Dialect::Network, released)
}

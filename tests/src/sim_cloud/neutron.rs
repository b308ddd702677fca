//! Neutron: one network inside, one outside, ports, and public addresses between them.

use std::net::Ipv4Addr;

use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::cloud::sim::catalog::{INSIDE, Named, OUTSIDE};
use reeve_drivers::cloud::sim::{AddressView, NewAddress, Port, as_caller};
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::VmId;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::{Caller, PROJECT};
use super::firewall;
use super::glance::paged;
use super::nova::{bad, vm_id};
use super::reply::{self, Dialect, ok};
use super::server::Shared;

/// What the ids of public addresses begin with; the address itself is the rest.
const ADDRESS_IDS: u128 = 0xf10a_0000_0000_4000_8000 << 48;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let neutron = web::scope("/network/v2.0")
        .route("/networks", web::get().to(networks))
        .route("/networks/{id}", web::get().to(one_network))
        .route("/ports", web::get().to(ports))
        .route("/ports", web::post().to(create_port))
        .route("/ports/{id}", web::put().to(update_port))
        .route("/ports/{id}", web::delete().to(delete_port))
        .route("/floatingips", web::get().to(floating_ips))
        .route("/floatingips", web::post().to(allocate))
        .route("/floatingips/{id}", web::put().to(bind))
        .route("/floatingips/{id}", web::delete().to(release));
    config.service(neutron.configure(firewall::routes));
}

#[derive(Deserialize)]
pub(super) struct PageOf {
    limit: Option<usize>,
    marker: Option<String>,
}

pub(super) fn list(key: &str, mut things: Vec<Value>, page: &PageOf) -> HttpResponse {
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

fn network((id, name): Named) -> Value {
    json!({ "id": id, "name": name, "router:external": id == OUTSIDE.0, "status": "ACTIVE" })
}

async fn networks(_caller: Caller, filter: web::Query<NetworkFilter>, page: web::Query<PageOf>) -> HttpResponse {
    let wanted = [INSIDE, OUTSIDE].into_iter().filter(|(id, name)| {
        filter.name.as_ref().is_none_or(|wanted| wanted == name)
            && filter.external.is_none_or(|external| external == (*id == OUTSIDE.0))
    });
    list("networks", wanted.map(network).collect(), &page)
}

async fn one_network(request: HttpRequest, _caller: Caller, id: web::Path<String>) -> HttpResponse {
    let found = [INSIDE, OUTSIDE].into_iter().find(|(known, _)| *known == id.as_str());
    let found = found.ok_or_else(|| CloudError::NotFound(format!("Network {id} could not be found.")));
    reply::reply(&request, Dialect::Network, found.map(|found| ok(json!({ "network": network(found) }))))
}

#[derive(Deserialize)]
struct PortFilter {
    name: Option<String>,
    description: Option<String>,
    device_id: Option<String>,
}

fn port(port: &Port) -> Value {
    let device = port.server.map(|vm| vm.to_string()).unwrap_or_default();
    json!({ "id": port.id, "name": port.name, "description": port.note, "network_id": INSIDE.0, "device_id": device,
        "status": "ACTIVE", "tenant_id": PROJECT, "created_at": port.made_at,
        "security_groups": port.group.iter().collect::<Vec<_>>(),
        "fixed_ips": [{ "ip_address": port.address, "subnet_id": INSIDE.0 }] })
}

/// A server that was not made on a port has one of its own, with the server's id.
fn own_port(vm: VmId) -> Value {
    json!({ "id": vm, "name": "", "description": "", "network_id": INSIDE.0, "device_id": vm, "status": "ACTIVE",
        "tenant_id": PROJECT, "security_groups": [], "fixed_ips": [] })
}

async fn ports(
    _caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<PortFilter>,
    page: web::Query<PageOf>,
) -> HttpResponse {
    let mut found = shared.sim.port_views();
    let device = filter.device_id.as_ref().map(|id| id.parse::<VmId>().ok());
    found.retain(|port| {
        filter.name.as_ref().is_none_or(|name| *name == port.name)
            && filter.description.as_ref().is_none_or(|note| *note == port.note)
            && device.is_none_or(|device| device.is_some() && device == port.server)
    });
    let mut listed: Vec<Value> = found.iter().map(port).collect();
    let alone = device.flatten().filter(|_| listed.is_empty());
    if let Some(vm) = alone.filter(|vm| shared.sim.ground_truth(*vm).is_some_and(|truth| !truth.gone)) {
        listed.push(own_port(vm));
    }
    list("ports", listed, &page)
}

async fn create_port(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let made = caller.changes(async move {
        let wanted = &body["port"];
        if wanted["network_id"] != INSIDE.0 {
            return Err(CloudError::NotFound(format!("Network {} could not be found.", wanted["network_id"])));
        }
        let group = wanted["security_groups"][0].as_str().map(str::to_owned);
        shared.sim.create_port(wanted["name"].as_str().unwrap_or_default().to_owned(), group).await
    });
    let made = made.await.map(|made| HttpResponse::Created().json(json!({ "port": port(&made) })));
    reply::reply(&request, Dialect::Network, made)
}

async fn update_port(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    body: web::Json<Value>,
) -> HttpResponse {
    let changed = caller.changes(async move {
        let note = body["port"]["description"].as_str().ok_or_else(|| bad("description is expected"))?;
        shared.sim.describe_port(vm_id(&id)?, note.to_owned()).await
    });
    let changed = changed.await.map(|changed| ok(json!({ "port": port(&changed) })));
    reply::reply(&request, Dialect::Network, changed)
}

async fn delete_port(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let gone = caller.changes(async move { shared.sim.delete_port(vm_id(&id)?).await }).await;
    reply::reply(&request, Dialect::Network, gone.map(|()| HttpResponse::NoContent().finish()))
}

/// Where the addresses of a port are held: at its server, once it has one.
fn holder(shared: &Shared, port: VmId) -> VmId {
    let ports = shared.sim.port_views();
    ports.iter().find(|known| known.id == port).and_then(|known| known.server).unwrap_or(port)
}

#[derive(Deserialize)]
struct AddressFilter {
    floating_ip_address: Option<String>,
    port_id: Option<String>,
    description: Option<String>,
}

fn floating_ip(view: &AddressView) -> Value {
    let id = view.address.parse::<Ipv4Addr>().map(address_id).unwrap_or_default();
    json!({ "id": id, "floating_ip_address": view.address, "floating_network_id": OUTSIDE.0, "port_id": view.port,
        "description": view.tag, "status": "ACTIVE", "tenant_id": PROJECT })
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
        let port = filter.port_id.as_deref().map(vm_id).transpose()?;
        let mut held = shared.sim.address_views();
        held.retain(|view| filter.floating_ip_address.as_ref().is_none_or(|address| view.address == *address));
        held.retain(|view| port.is_none_or(|port| view.port == port || view.held_for == port));
        held.retain(|view| filter.description.as_ref().is_none_or(|tag| view.tag == *tag));
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
        if wanted["floating_network_id"] != OUTSIDE.0 {
            return Err(bad("the network is not external"));
        }
        let port = vm_id(wanted["port_id"].as_str().ok_or_else(|| bad("port_id is expected"))?)?;
        let new = NewAddress {
            holder: holder(&shared, port),
            tag: wanted["description"].as_str().unwrap_or_default().to_owned(),
            address: wanted["floating_ip_address"].as_str().map(str::to_owned),
        };
        let address = shared.sim.allocate_address(new).await?;
        let view = shared.sim.address_views().into_iter().find(|view| view.address == address);
        view.ok_or_else(|| CloudError::NotFound(format!("floating ip {address}")))
    });
    let made = made.await.map(|view| HttpResponse::Created().json(json!({ "floatingip": floating_ip(&view) })));
    reply::reply(&request, Dialect::Network, made)
}

async fn bind(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    body: web::Json<Value>,
) -> HttpResponse {
    let bound = caller.changes(async move {
        let address = address_of(&id).ok_or_else(|| CloudError::NotFound(format!("floating ip {id}")))?;
        let port = vm_id(body["floatingip"]["port_id"].as_str().ok_or_else(|| bad("port_id is expected"))?)?;
        shared.sim.bind_address(&address.to_string(), holder(&shared, port)).await
    });
    let bound = bound.await.map(|()| ok(json!({ "floatingip": {} })));
    reply::reply(&request, Dialect::Network, bound)
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

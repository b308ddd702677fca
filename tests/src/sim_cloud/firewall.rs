//! Neutron: security groups and their rules.

use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::cloud::sim::{SecurityGroup, SecurityRule};
use reeve_ports::CloudError;
use reeve_protocol::provision::IpProtocol;
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{Caller, PROJECT};
use super::neutron::{PageOf, list};
use super::nova::bad;
use super::reply::{self, Dialect, ok};
use super::server::Shared;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/security-groups", web::get().to(groups))
        .route("/security-groups", web::post().to(create))
        .route("/security-groups/{id}", web::get().to(show))
        .route("/security-groups/{id}", web::put().to(update))
        .route("/security-groups/{id}", web::delete().to(delete))
        .route("/security-group-rules", web::post().to(add_rule));
}

fn group(group: &SecurityGroup) -> Value {
    let outgoing = ["IPv4", "IPv6"].map(|family| {
        json!({ "direction": "egress", "ethertype": family, "protocol": null, "port_range_min": null,
            "port_range_max": null, "remote_ip_prefix": null, "remote_group_id": null })
    });
    let rules: Vec<Value> = outgoing.into_iter().chain(group.rules.iter().map(rule)).collect();
    json!({ "id": group.id, "name": group.name, "description": group.note, "tenant_id": PROJECT,
        "created_at": group.made_at, "security_group_rules": rules })
}

fn rule(rule: &SecurityRule) -> Value {
    let protocol = match (rule.protocol, rule.v4) {
        (IpProtocol::Tcp, _) => "tcp",
        (IpProtocol::Udp, _) => "udp",
        (IpProtocol::Icmp, true) => "icmp",
        (IpProtocol::Icmp, false) => "ipv6-icmp",
    };
    json!({ "direction": "ingress", "ethertype": if rule.v4 { "IPv4" } else { "IPv6" }, "protocol": protocol,
        "port_range_min": rule.ports.map(|(first, _)| first), "port_range_max": rule.ports.map(|(_, last)| last),
        "remote_ip_prefix": rule.from.map(|from| from.to_string()), "remote_group_id": null })
}

fn read_rule(wanted: &Value) -> Result<SecurityRule, CloudError> {
    let v4 = match wanted["ethertype"].as_str() {
        Some("IPv4") | None => true,
        Some("IPv6") => false,
        Some(other) => return Err(bad(&format!("ethertype {other}"))),
    };
    let protocol = match wanted["protocol"].as_str() {
        Some("tcp") => IpProtocol::Tcp,
        Some("udp") => IpProtocol::Udp,
        Some("icmp") if v4 => IpProtocol::Icmp,
        Some("ipv6-icmp") if !v4 => IpProtocol::Icmp,
        other => return Err(bad(&format!("protocol {other:?}"))),
    };
    let port = |key: &str| wanted[key].as_u64().and_then(|port| u16::try_from(port).ok());
    let ports = port("port_range_min").zip(port("port_range_max"));
    let from = wanted["remote_ip_prefix"].as_str().map(str::parse).transpose();
    Ok(SecurityRule { v4, protocol, ports, from: from.map_err(|why: String| bad(&why))? })
}

#[derive(Deserialize)]
struct Filter {
    name: Option<String>,
    description: Option<String>,
}

async fn groups(
    _caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<Filter>,
    page: web::Query<PageOf>,
) -> HttpResponse {
    let mut found = shared.sim.group_views();
    found.retain(|group| {
        filter.name.as_ref().is_none_or(|name| *name == group.name)
            && filter.description.as_ref().is_none_or(|note| *note == group.note)
    });
    list("security_groups", found.iter().map(group).collect(), &page)
}

async fn show(request: HttpRequest, _caller: Caller, shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    let found = shared.sim.group_views().into_iter().find(|group| group.id == *id);
    let found = found.ok_or_else(|| CloudError::NotFound(format!("Security group {id} does not exist")));
    reply::reply(&request, Dialect::Network, found.map(|found| ok(json!({ "security_group": group(&found) }))))
}

async fn create(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let made = caller.changes(async move {
        let text = |key: &str| body["security_group"][key].as_str().unwrap_or_default().to_owned();
        shared.sim.create_group(text("name"), text("description")).await
    });
    let made = made.await.map(|made| HttpResponse::Created().json(json!({ "security_group": group(&made) })));
    reply::reply(&request, Dialect::Network, made)
}

async fn update(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    body: web::Json<Value>,
) -> HttpResponse {
    let changed = caller.changes(async move {
        let note = body["security_group"]["description"].as_str().ok_or_else(|| bad("description is expected"))?;
        shared.sim.describe_group(&id, note.to_owned()).await
    });
    let changed = changed.await.map(|changed| ok(json!({ "security_group": group(&changed) })));
    reply::reply(&request, Dialect::Network, changed)
}

async fn delete(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let gone = caller.changes(async move { shared.sim.delete_group(&id).await }).await;
    reply::reply(&request, Dialect::Network, gone.map(|()| HttpResponse::NoContent().finish()))
}

async fn add_rule(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let added = caller.changes(async move {
        let wanted = &body["security_group_rule"];
        let rule = read_rule(wanted)?;
        let group = wanted["security_group_id"].as_str().unwrap_or_default();
        shared.sim.add_rule(group, rule).await
    });
    let added = added.await.map(|()| HttpResponse::Created().json(json!({ "security_group_rule": {} })));
    reply::reply(&request, Dialect::Network, added)
}

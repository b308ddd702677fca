//! Nova: what a server may be made of: flavors, key pairs, zones, and how many.

use actix_web::{HttpResponse, web};
use reeve_drivers::cloud::sim::catalog::{FLAVOR, KEY, ZONE};
use serde_json::json;

use super::auth::Caller;
use super::reply::ok;
use super::server::Shared;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/flavors/detail", web::get().to(flavors))
        .route("/os-keypairs", web::get().to(keys))
        .route("/os-availability-zone", web::get().to(zones))
        .route("/limits", web::get().to(limits));
}

async fn flavors(_caller: Caller) -> HttpResponse {
    let (id, name) = FLAVOR;
    ok(json!({ "flavors": [{ "id": id, "name": name, "vcpus": 1, "ram": 512, "disk": 1, "swap": 0 }] }))
}

async fn keys(_caller: Caller) -> HttpResponse {
    ok(json!({ "keypairs": [{ "keypair": { "name": KEY, "type": "ssh", "fingerprint": "00:00" } }] }))
}

async fn zones(_caller: Caller) -> HttpResponse {
    ok(json!({ "availabilityZoneInfo": [{ "zoneName": ZONE, "zoneState": { "available": true }, "hosts": null }] }))
}

/// Only the number of servers has one.
async fn limits(_caller: Caller, shared: web::Data<Shared>) -> HttpResponse {
    let (most, used) = shared.sim.quota_view();
    ok(json!({ "limits": { "rate": [], "absolute": { "maxTotalInstances": most, "totalInstancesUsed": used,
        "maxTotalCores": -1, "totalCoresUsed": used, "maxTotalRAMSize": -1, "totalRAMUsed": used * 512 } } }))
}

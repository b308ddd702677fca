//! Nova: servers, what is done to them, and the hosts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use reeve_drivers::SimCloud;
use reeve_drivers::cloud::RESTORED_BY_KEY;
use reeve_drivers::cloud::sim::catalog::{FLAVOR, IMAGE, KEY};
use reeve_drivers::cloud::sim::{NewServer, as_caller};
use reeve_lifecycle::effect::{Disk, ProbeVerdict};
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::cloud::{DiskSource, LaunchSpec, REVIVED_FROM_KEY};
use reeve_ports::{Cloud, CloudError, Freshness, GuestProbe};
use reeve_protocol::{ProjectId, Timestamp, UserId, VmId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::{Caller, PROJECT};
use super::listing;
use super::offers;
use super::record;
use super::reply::{self, Dialect, ok};
use super::server::Shared;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let nova = web::scope("/compute/v2.1")
        .route("/", web::get().to(versions))
        .route("/servers/detail", web::get().to(listing::list))
        .route("/servers", web::post().to(create))
        .route("/servers/{id}", web::get().to(show))
        .route("/servers/{id}", web::delete().to(delete))
        .route("/servers/{id}/action", web::post().to(act))
        .route("/servers/{id}/diagnostics", web::get().to(diagnostics))
        .route("/servers/{id}/os-instance-actions", web::get().to(actions))
        .route("/servers/{id}/os-instance-actions/{request}", web::get().to(one_action))
        .route("/servers/{id}/os-volume_attachments", web::get().to(attachments))
        .route("/os-services", web::get().to(services))
        .configure(offers::routes);
    config.service(nova);
}

async fn versions(_caller: Caller, shared: web::Data<Shared>) -> HttpResponse {
    let [least, most] = &shared.microversions.compute;
    ok(json!({ "version": { "id": "v2.1", "status": "CURRENT", "min_version": least, "version": most } }))
}

pub(super) fn bad(why: &str) -> CloudError {
    CloudError::Refused(format!("400 {why}"))
}

pub(super) fn vm_id(text: &str) -> Result<VmId, CloudError> {
    text.parse().map_err(|_| CloudError::NotFound(format!("instance {text}")))
}

async fn show(request: HttpRequest, caller: Caller, shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    let sim = &shared.sim;
    let shown = as_caller(caller.0, async {
        let vm = vm_id(&id)?;
        sim.show(vm).await?;
        let view = sim.server_views(&[vm]).pop();
        let view = view.ok_or_else(|| CloudError::NotFound(format!("instance {vm}")))?;
        let server = record::server(&view, &record::hosts(sim), record::microversion(&request));
        Ok(HttpResponse::Ok().json(BTreeMap::from([("server", server)])))
    });
    let shown = shown.await;
    reply::reply(&request, Dialect::Compute, shown)
}

async fn delete(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let deleted = caller.changes(async move { shared.sim.delete_server(vm_id(&id)?).await });
    let deleted = deleted.await.map(|()| HttpResponse::NoContent().finish());
    reply::reply(&request, Dialect::Compute, deleted)
}

async fn act(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    body: web::Json<Value>,
) -> HttpResponse {
    if body.get("os-getConsoleOutput").is_some() {
        let told = as_caller(caller.0, async { shared.sim.console(vm_id(&id)?).await }).await;
        return reply::reply(&request, Dialect::Compute, told.map(|output| ok(json!({ "output": output }))));
    }
    let acted = caller.changes(async move { acted(&shared, &id, &body).await }).await;
    let acted = acted.map(|body| match body {
        Some(body) => HttpResponse::Accepted().json(body),
        None => HttpResponse::Accepted().finish(),
    });
    reply::reply(&request, Dialect::Compute, acted)
}

async fn acted(shared: &Shared, id: &str, body: &Value) -> Result<Option<Value>, CloudError> {
    let sim = &shared.sim;
    let vm = vm_id(id)?;
    let (action, argument) =
        body.as_object().and_then(|body| body.iter().next()).ok_or_else(|| bad("one action is expected"))?;
    match action.as_str() {
        "os-start" => sim.start(vm).await?,
        "os-stop" => sim.stop(vm).await?,
        // A guest that takes no part in a soft reboot is rebooted hard in the end.
        "reboot" if matches!(argument["type"].as_str(), Some("HARD" | "SOFT")) => sim.hard_reboot(vm).await?,
        "suspend" => sim.suspend(vm).await?,
        "resume" => sim.resume(vm).await?,
        "createImage" => {
            let name = argument["name"].as_str().ok_or_else(|| bad("name is expected"))?;
            sim.snapshot(vm, &Disk::Root, name).await?;
            let made = sim.snapshot_views(Some(name)).into_iter().find(|view| view.vm == vm && view.disk == Disk::Root);
            return Ok(Some(json!({ "image_id": made.map(|view| view.id) })));
        }
        "rebuild" => {
            let operation = argument["metadata"][RESTORED_BY_KEY].as_str().unwrap_or_default();
            let root = disk(shared, Disk::Root, &argument["imageRef"])?;
            sim.restore_in_place(vm, operation, vec![root]).await?;
        }
        other => return Err(bad(&format!("there is no action {other}"))),
    }
    Ok(None)
}

/// The content of an uploaded image, for a disk.
fn disk(shared: &Shared, disk: Disk, image: &Value) -> Result<DiskSource, CloudError> {
    let content = image.as_str().and_then(|id| shared.uploads.content(id));
    let content = content.ok_or_else(|| bad("the image is not found or not active"))?;
    let bytes = content.len() as u64;
    Ok(DiskSource { disk, bytes, content: futures::stream::iter([Ok(content)]).boxed() })
}

async fn create(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let base = shared.base.clone();
    let made = caller.changes(async move { created(&shared, &body["server"]).await }).await;
    let made = made.map(|vm| {
        let location = format!("{base}/compute/v2.1/servers/{vm}");
        let body = json!({ "server": { "id": vm, "links": [], "adminPass": "simulated" } });
        HttpResponse::Accepted().insert_header(("Location", location)).json(body)
    });
    reply::reply(&request, Dialect::Compute, made)
}

async fn created(shared: &Shared, server: &Value) -> Result<VmId, CloudError> {
    let name = server["name"].as_str().ok_or_else(|| bad("name is expected"))?.to_owned();
    let metadata = match &server["metadata"] {
        Value::Null => BTreeMap::new(),
        metadata => serde_json::from_value(metadata.clone()).map_err(|_| bad("metadata are texts"))?,
    };
    let Some(ancestor) = metadata.get(REVIVED_FROM_KEY) else {
        // As a user does, with what the simulated cloud gives: images and volumes are not looked at.
        if server["networks"][0]["port"].is_string() {
            return planned(shared, server, metadata).await;
        }
        return shared.sim.boot_vm(&name, project(), user(), metadata);
    };
    let like = ancestor.parse().map_err(|_| bad("reeve_revived_from is no id"))?;
    let mut disks = vec![disk(shared, Disk::Root, &server["imageRef"])?];
    for mapping in server["block_device_mapping_v2"].as_array().into_iter().flatten() {
        if mapping["destination_type"] == "volume" {
            disks.push(disk(shared, Disk::Volume(String::new()), &mapping["uuid"])?);
        }
    }
    let ports = server["networks"].as_array().into_iter().flatten().filter_map(|network| network["port"].as_str());
    let ports: Vec<VmId> = ports.map(vm_id).collect::<Result<_, _>>()?;
    let spec = LaunchSpec { name, metadata, like, addresses: 0, disks };
    shared.sim.launch_on_ports(spec, ports).await
}

fn project() -> ProjectId {
    ProjectId::new(PROJECT).expect("a short printable name is an identifier")
}

fn user() -> UserId {
    UserId::new("sim-admin").expect("a short printable name is an identifier")
}

/// A server on ports and volumes that were made for it.
async fn planned(shared: &Shared, server: &Value, metadata: BTreeMap<String, String>) -> Result<VmId, CloudError> {
    let texts = |key: &'static str, of: &'static str| {
        let items = server[key].as_array().into_iter().flatten();
        items.filter_map(move |item| item[of].as_str())
    };
    if server["flavorRef"] != FLAVOR.0 {
        return Err(bad("Flavor could not be found."));
    }
    if server.get("key_name").is_some_and(|key| *key != KEY) {
        return Err(bad("Invalid key_name provided."));
    }
    let image = server["imageRef"].as_str().unwrap_or_default();
    if image != IMAGE.0 && shared.uploads.content(image).is_none() {
        return Err(bad("Can not find requested image"));
    }
    let user_data = server["user_data"].as_str().unwrap_or_default();
    if STANDARD.decode(user_data).is_err() {
        return Err(bad("user_data is not base64"));
    }
    let volumes = server["block_device_mapping_v2"].as_array().into_iter().flatten();
    let volumes = volumes.filter(|mapping| mapping["source_type"] == "volume");
    shared
        .sim
        .create_server(NewServer {
            name: server["name"].as_str().unwrap_or_default().to_owned(),
            project: project(),
            user: user(),
            metadata,
            image: image.to_owned(),
            volumes: volumes.filter_map(|mapping| mapping["uuid"].as_str()).map(str::to_owned).collect(),
            ports: texts("networks", "port").map(vm_id).collect::<Result<_, _>>()?,
        })
        .await
}

async fn diagnostics(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let told = as_caller(caller.0, async {
        let vm = vm_id(&id)?;
        if shared.sim.ground_truth(vm).is_none_or(|truth| truth.gone) {
            return Err(CloudError::NotFound(format!("instance {vm}")));
        }
        let probe: Arc<dyn GuestProbe> = Arc::<SimCloud>::clone(&shared.sim);
        let state = match probe.probe(vm, None, ProbeKind::GuestAgent, Freshness::Now, Duration::ZERO).await {
            ProbeVerdict::Up => "running",
            ProbeVerdict::Down { cause } if cause.contains("boots") => "pending",
            ProbeVerdict::Down { cause } if cause.contains("does not run") => "shutdown",
            ProbeVerdict::Down { .. } => "crashed",
            ProbeVerdict::Inconclusive { why } => return Ok(reply::error(Dialect::Compute, 500, &why)),
        };
        Ok(ok(json!({ "state": state, "driver": "libvirt", "hypervisor": "kvm", "uptime": 1, "num_cpus": 1 })))
    });
    let told = told.await;
    reply::reply(&request, Dialect::Compute, told)
}

async fn actions(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let told = as_caller(caller.0, history(&shared, &id)).await;
    reply::reply(&request, Dialect::Compute, told.map(|actions| ok(json!({ "instanceActions": actions }))))
}

async fn one_action(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    path: web::Path<(String, String)>,
) -> HttpResponse {
    let (id, wanted) = path.into_inner();
    let told = as_caller(caller.0, history(&shared, &id)).await;
    let told = told.and_then(|actions| {
        let found = actions.into_iter().find(|action| action["request_id"] == wanted);
        found.ok_or_else(|| CloudError::NotFound(format!("action {wanted}")))
    });
    reply::reply(&request, Dialect::Compute, told.map(|action| ok(json!({ "instanceAction": action }))))
}

/// The newest first. Only what the simulated cloud keeps: the creation and the last reboot. Its times are whole, not cut
/// to seconds as a database does: a reboot that looks older than the decision for it would be done twice.
async fn history(shared: &Shared, id: &str) -> Result<Vec<Value>, CloudError> {
    let vm = vm_id(id)?;
    let reboot = shared.sim.last_reboot(vm).await?;
    let created = shared.sim.ground_truth(vm).and_then(|truth| truth.facts.created_at);
    let action = |name: &str, at: Timestamp| {
        let request = format!("req-{}", Uuid::new_v5(&vm.uuid(), format!("{name}{at}").as_bytes()));
        let time = format!("{}000", at.to_string().trim_end_matches('Z'));
        json!({ "action": name, "instance_uuid": vm, "request_id": request, "start_time": time, "message": null })
    };
    let all = [reboot.map(|at| action("reboot", at)), created.map(|at| action("create", at))];
    Ok(all.into_iter().flatten().collect())
}

async fn attachments(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let told = as_caller(caller.0, async {
        let vm = vm_id(&id)?;
        let inventory = shared.sim.inventory(vm).await?;
        let attached = inventory.volumes.iter().enumerate().map(|(n, volume)| {
            json!({ "volumeId": volume.id, "serverId": vm, "delete_on_termination": volume.own, "tag": null,
                "device": format!("/dev/vd{}", char::from(b'b' + u8::try_from(n % 24).unwrap_or_default())) })
        });
        Ok(ok(json!({ "volumeAttachments": attached.collect::<Vec<_>>() })))
    });
    let told = told.await;
    reply::reply(&request, Dialect::Compute, told)
}

async fn services(request: HttpRequest, caller: Caller, shared: web::Data<Shared>) -> HttpResponse {
    let told = as_caller(caller.0, async { shared.sim.hosts().await }).await;
    let told = told.map(|hosts| {
        let services = hosts.iter().map(|health| {
            let state = if health.up { "up" } else { "down" };
            json!({ "id": Uuid::new_v5(&Uuid::NAMESPACE_DNS, health.host.as_str().as_bytes()), "binary": "nova-compute",
                "host": health.host, "zone": "nova", "status": "enabled", "state": state, "forced_down": false })
        });
        ok(json!({ "services": services.collect::<Vec<_>>() }))
    });
    reply::reply(&request, Dialect::Compute, told)
}

//! Cinder: volumes.

use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::cloud::sim::as_caller;
use reeve_lifecycle::effect::Disk;
use reeve_ports::{Cloud, CloudError};
use serde_json::{Value, json};

use super::auth::Caller;
use super::nova::bad;
use super::reply::{self, Dialect, ok};
use super::server::Shared;

const GIB: u64 = 1 << 30;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let cinder = web::scope("/volume/v3/{project}")
        .route("/volumes/{id}", web::get().to(show))
        .route("/volumes/{id}", web::delete().to(delete))
        .route("/volumes/{id}/action", web::post().to(act));
    config.route("/volume/v3/", web::get().to(versions)).service(cinder);
}

async fn versions(shared: web::Data<Shared>) -> HttpResponse {
    let [least, most] = &shared.microversions.volume;
    ok(json!({ "versions": [{ "id": "v3.0", "status": "CURRENT", "min_version": least, "version": most }] }))
}

type VolumePath = web::Path<(String, String)>;

async fn show(request: HttpRequest, caller: Caller, shared: web::Data<Shared>, path: VolumePath) -> HttpResponse {
    let (_, id) = path.into_inner();
    let shown = as_caller(caller.0, async {
        let there = shared.sim.volume_exists(&id).await?;
        let view = shared.sim.volume_view(&id).filter(|_| there);
        let view = view.ok_or_else(|| CloudError::NotFound(format!("volume {id}")))?;
        let status = match (view.deleting, view.attached_to) {
            (true, _) => "deleting",
            (false, Some(_)) => "in-use",
            (false, None) => "available",
        };
        let attached = view.attached_to.map(|vm| json!({ "server_id": vm, "volume_id": id }));
        let volume = json!({ "id": id, "status": status, "size": view.bytes.div_ceil(GIB).max(1),
            "attachments": attached.into_iter().collect::<Vec<_>>(), "metadata": {} });
        Ok(ok(json!({ "volume": volume })))
    });
    let shown = shown.await;
    reply::reply(&request, Dialect::Compute, shown)
}

async fn delete(request: HttpRequest, caller: Caller, shared: web::Data<Shared>, path: VolumePath) -> HttpResponse {
    let (_, id) = path.into_inner();
    let deleted = caller.changes(async move { shared.sim.delete_volume(&id).await }).await;
    reply::reply(&request, Dialect::Compute, deleted.map(|()| HttpResponse::Accepted().finish()))
}

async fn act(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    path: VolumePath,
    body: web::Json<Value>,
) -> HttpResponse {
    let (_, id) = path.into_inner();
    let acted = caller.changes(async move { acted(&shared, &id, &body).await }).await;
    reply::reply(&request, Dialect::Compute, acted.map(|body| HttpResponse::Accepted().json(body)))
}

async fn acted(shared: &Shared, id: &str, body: &Value) -> Result<Value, CloudError> {
    let sim = &shared.sim;
    let missing = || CloudError::NotFound(format!("volume {id}"));
    if let Some(upload) = body.get("os-volume_upload_image") {
        let name = upload["image_name"].as_str().ok_or_else(|| bad("image_name is expected"))?;
        let vm = sim.volume_view(id).and_then(|view| view.attached_to).ok_or_else(missing)?;
        let disk = Disk::Volume(id.to_owned());
        sim.snapshot(vm, &disk, name).await?;
        let made = sim.snapshot_views(Some(name)).into_iter().find(|view| view.vm == vm && view.disk == disk);
        let image =
            json!({ "id": id, "status": "uploading", "image_id": made.map(|view| view.id), "image_name": name });
        return Ok(json!({ "os-volume_upload_image": image }));
    }
    if let Some(reimage) = body.get("os-reimage") {
        let content = reimage["image_id"].as_str().and_then(|image| shared.uploads.content(image));
        let content = content.ok_or_else(|| bad("the image is not found or not active"))?;
        sim.reimage_volume(id, content)?;
        return Ok(Value::Null);
    }
    Err(bad("there is no such action"))
}

//! Cinder: volumes.

use actix_web::{HttpRequest, HttpResponse, web};
use reeve_drivers::cloud::sim::catalog::VOLUME_TYPE;
use reeve_drivers::cloud::sim::{VolumeView, as_caller};
use reeve_lifecycle::effect::Disk;
use reeve_ports::{Cloud, CloudError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Caller;
use super::neutron::{self, PageOf};
use super::nova::bad;
use super::reply::{self, Dialect, ok};
use super::server::Shared;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let cinder = web::scope("/volume/v3/{project}")
        .route("/limits", web::get().to(limits))
        .route("/types", web::get().to(types))
        .route("/volumes", web::post().to(create))
        .route("/volumes/detail", web::get().to(list))
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

/// What has no name was not made by a call to Cinder, and is left out of listings.
fn volume(view: &VolumeView) -> Value {
    let status = match view {
        VolumeView { deleting: true, .. } => "deleting",
        VolumeView { failed: true, .. } => "error",
        VolumeView { ready: false, .. } => "creating",
        VolumeView { attached_to: Some(_), .. } => "in-use",
        VolumeView { attached_to: None, .. } => "available",
    };
    let attached = view.attached_to.map(|vm| json!({ "server_id": vm, "volume_id": view.id }));
    json!({ "id": view.id, "name": view.name, "status": status, "size": view.gib, "metadata": tag_of(view),
        "attachments": attached.into_iter().collect::<Vec<_>>(), "created_at": view.made_at })
}

/// A volume that was made for an operation is named by its tag and an index. Its metadata are not kept for themselves.
fn tag_of(view: &VolumeView) -> Value {
    match view.name.rsplit_once('-') {
        Some((tag, _)) => json!({ "reeve_tag": tag }),
        None => json!({}),
    }
}

#[derive(Deserialize)]
struct Filter {
    name: Option<String>,
    metadata: Option<String>,
}

async fn list(
    request: HttpRequest,
    _caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<Filter>,
    page: web::Query<PageOf>,
) -> HttpResponse {
    let wanted = filter.metadata.as_deref().map(serde_json::from_str::<Value>).transpose();
    let listed = wanted.map_err(|_| bad("the filter by metadata is no dictionary")).map(|metadata| {
        let mut found = shared.sim.named_volume_views();
        found.retain(|view| filter.name.as_ref().is_none_or(|name| *name == view.name));
        found.retain(|view| metadata.as_ref().is_none_or(|metadata| *metadata == tag_of(view)));
        neutron::list("volumes", found.iter().map(volume).collect(), &page)
    });
    reply::reply(&request, Dialect::Volume, listed)
}

async fn create(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let made = caller.changes(async move {
        let wanted = &body["volume"];
        let size = wanted["size"].as_u64().and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0);
        let size = size.ok_or_else(|| bad("Invalid input received: size"))?;
        let kind = wanted["volume_type"].as_str();
        if kind.is_some_and(|kind| kind != VOLUME_TYPE.0 && kind != VOLUME_TYPE.1) {
            return Err(CloudError::NotFound("Volume type with name could not be found.".to_owned()));
        }
        let id = shared.sim.create_volume(wanted["name"].as_str().unwrap_or_default().to_owned(), size).await?;
        shared.sim.volume_view(&id).ok_or_else(|| CloudError::NotFound(format!("volume {id}")))
    });
    let made = made.await.map(|view| HttpResponse::Accepted().json(json!({ "volume": volume(&view) })));
    reply::reply(&request, Dialect::Volume, made)
}

async fn types(_caller: Caller) -> HttpResponse {
    ok(json!({ "volume_types": [{ "id": VOLUME_TYPE.0, "name": VOLUME_TYPE.1, "is_public": true }] }))
}

/// There are none.
async fn limits(_caller: Caller, shared: web::Data<Shared>) -> HttpResponse {
    let volumes = shared.sim.named_volume_views();
    let gib: u64 = volumes.iter().map(|view| view.gib).sum();
    ok(json!({ "limits": { "rate": [], "absolute": { "maxTotalVolumes": -1, "totalVolumesUsed": volumes.len(),
        "maxTotalVolumeGigabytes": -1, "totalGigabytesUsed": gib } } }))
}

async fn show(request: HttpRequest, caller: Caller, shared: web::Data<Shared>, path: VolumePath) -> HttpResponse {
    let (_, id) = path.into_inner();
    let shown = as_caller(caller.0, async {
        let there = shared.sim.volume_exists(&id).await?;
        let view = shared.sim.volume_view(&id).filter(|_| there);
        let view = view.ok_or_else(|| CloudError::NotFound(format!("volume {id}")))?;
        Ok(ok(json!({ "volume": volume(&view) })))
    });
    let shown = shown.await;
    reply::reply(&request, Dialect::Volume, shown)
}

async fn delete(request: HttpRequest, caller: Caller, shared: web::Data<Shared>, path: VolumePath) -> HttpResponse {
    let (_, id) = path.into_inner();
    let deleted = caller.changes(async move { shared.sim.delete_volume(&id).await }).await;
    reply::reply(&request, Dialect::Volume, deleted.map(|()| HttpResponse::Accepted().finish()))
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
    reply::reply(&request, Dialect::Volume, acted.map(|body| HttpResponse::Accepted().json(body)))
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

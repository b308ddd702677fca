//! Glance: snapshots of the simulated cloud, and images that were uploaded to make servers from.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt;
use reeve_drivers::cloud::sim::catalog::IMAGE;
use reeve_drivers::cloud::sim::{SnapshotView, as_caller};
use reeve_ports::cloud::SnapshotState;
use reeve_ports::{Cloud, CloudError};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::{Caller, PROJECT};
use super::nova::bad;
use super::reply::{self, Dialect, ok};
use super::server::Shared;

/// What all uploads may hold together, in bytes.
const MAX_UPLOADS: usize = 1 << 30;

/// How long after its last chunk a content breaks off.
const BREAK: Duration = Duration::from_millis(20);

/// Images that somebody uploaded. Not kept over a restart.
#[derive(Default)]
pub(super) struct Uploads(Mutex<BTreeMap<String, Upload>>);

struct Upload {
    name: String,
    tags: Vec<String>,
    format: String,
    content: Option<Bytes>,
}

impl Uploads {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of an image, once it is there.
    pub(super) fn content(&self, id: &str) -> Option<Bytes> {
        self.all().get(id)?.content.clone()
    }

    /// The formats that images were uploaded in, by their names.
    pub(super) fn formats(&self) -> BTreeMap<String, String> {
        self.all().values().map(|upload| (upload.name.clone(), upload.format.clone())).collect()
    }

    fn image(&self, id: &str) -> Option<Value> {
        self.all().get(id).map(|upload| upload.image(id))
    }

    fn matching(&self, name: Option<&str>, tag: Option<&String>) -> Vec<Value> {
        let all = self.all();
        let named = all.iter().filter(|(_, upload)| {
            name.is_none_or(|name| upload.name == name) && tag.is_none_or(|tag| upload.tags.contains(tag))
        });
        named.map(|(id, upload)| upload.image(id)).collect()
    }

    fn fill(&self, id: &str, content: Bytes) -> Result<(), CloudError> {
        let mut all = self.all();
        let held: usize = all.values().filter_map(|upload| upload.content.as_ref()).map(Bytes::len).sum();
        let upload = all.get_mut(id).ok_or_else(|| CloudError::NotFound(format!("image {id}")))?;
        if upload.content.is_some() {
            return Err(CloudError::Refused(format!("409 image {id} is active")));
        }
        if held + content.len() > MAX_UPLOADS {
            return Err(CloudError::Refused("413 no room for more images".to_owned()));
        }
        upload.content = Some(content);
        Ok(())
    }
}

impl Upload {
    fn image(&self, id: &str) -> Value {
        let status = if self.content.is_some() { "active" } else { "queued" };
        let size = self.content.as_ref().map(|content| content.len() as u64);
        let mut image = image(id, &self.name, status, size, &self.format);
        image["tags"] = json!(self.tags);
        image
    }
}

fn image(id: &str, name: &str, status: &str, size: Option<u64>, format: &str) -> Value {
    json!({ "id": id, "name": name, "status": status, "size": size, "disk_format": format, "container_format": "bare",
        "visibility": "private", "owner": PROJECT, "protected": false, "min_disk": 0, "min_ram": 0, "tags": [], "checksum": null })
}

fn of_snapshot(view: &SnapshotView) -> Value {
    let (status, size) = match &view.state {
        SnapshotState::Pending => ("saving", None),
        SnapshotState::Ready { bytes } => ("active", Some(*bytes)),
        SnapshotState::Failed(_) => ("killed", None),
    };
    let mut image = image(&view.id, &view.name, status, size, "raw");
    image["instance_uuid"] = json!(view.vm);
    image
}

/// The one that plans name.
fn the_image() -> Value {
    image(IMAGE.0, IMAGE.1, "active", Some(0), "raw")
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    let glance = web::scope("/image/v2")
        .route("/images", web::get().to(list))
        .route("/images", web::post().to(create))
        .route("/images/{id}", web::get().to(show))
        .route("/images/{id}", web::delete().to(delete))
        .route("/images/{id}/file", web::put().to(upload))
        .route("/images/{id}/file", web::get().to(download));
    config.service(glance);
}

#[derive(Deserialize)]
struct Filter {
    name: Option<String>,
    tag: Option<String>,
    limit: Option<usize>,
    marker: Option<String>,
}

fn find(shared: &Shared, id: &str) -> Result<SnapshotView, CloudError> {
    shared.sim.snapshot_view(id).ok_or_else(|| CloudError::NotFound(format!("image {id}")))
}

async fn list(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    filter: web::Query<Filter>,
) -> HttpResponse {
    let listed = as_caller(caller.0, async {
        let name = filter.name.as_deref();
        // Snapshots have no tags.
        let views = if filter.tag.is_none() { shared.sim.snapshot_views(name) } else { Vec::new() };
        // The look is made once for the VM that it concerns, so that it is known of and may meet a fault.
        let vm = views.first().map(|view| view.vm);
        shared.sim.look_for_snapshots(vm, name.unwrap_or_default()).await?;
        let mut images: Vec<Value> = views.iter().map(of_snapshot).collect();
        images.extend(shared.uploads.matching(name, filter.tag.as_ref()));
        if filter.tag.is_none() && name.is_none_or(|name| name == IMAGE.1) {
            images.push(the_image());
        }
        let more = paged(&mut images, filter.marker.as_deref(), filter.limit);
        let mut page = json!({ "images": images, "first": "/v2/images", "schema": "/v2/schemas/images" });
        if let Some(marker) = more {
            page["next"] = json!(format!("/v2/images?marker={marker}"));
        }
        Ok(ok(page))
    });
    let listed = listed.await;
    reply::reply(&request, Dialect::Image, listed)
}

/// Leaves one page of a list of things with ids; what the next one begins after, if there is one.
pub(super) fn paged(things: &mut Vec<Value>, marker: Option<&str>, limit: Option<usize>) -> Option<String> {
    if let Some(at) = things.iter().position(|thing| thing["id"].as_str() == marker && marker.is_some()) {
        things.drain(..=at);
    }
    let limit = limit.filter(|limit| *limit < things.len())?;
    things.truncate(limit.max(1));
    things.last().and_then(|last| last["id"].as_str()).map(str::to_owned)
}

async fn show(request: HttpRequest, _caller: Caller, shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    let shown = match shared.uploads.image(&id) {
        Some(image) => Ok(image),
        None if *id == IMAGE.0 => Ok(the_image()),
        None => find(&shared, &id).map(|view| of_snapshot(&view)),
    };
    reply::reply(&request, Dialect::Image, shown.map(ok))
}

async fn create(
    request: HttpRequest,
    _caller: Caller,
    shared: web::Data<Shared>,
    body: web::Json<Value>,
) -> HttpResponse {
    let id = Uuid::new_v4().to_string();
    let made = match (body["name"].as_str(), body["disk_format"].as_str()) {
        (Some(name), Some(format @ ("raw" | "qcow2"))) => {
            let tags = body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            let (name, format) = (name.to_owned(), format.to_owned());
            let upload = Upload { name, format, tags: tags.collect(), content: None };
            let made = HttpResponse::Created().json(upload.image(&id));
            shared.uploads.all().insert(id, upload);
            Ok(made)
        }
        _ => Err(bad("name and disk_format are expected")),
    };
    reply::reply(&request, Dialect::Image, made)
}

async fn upload(
    request: HttpRequest,
    _caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
    content: Bytes,
) -> HttpResponse {
    let filled = shared.uploads.fill(&id, content).map(|()| HttpResponse::NoContent().finish());
    reply::reply(&request, Dialect::Image, filled)
}

async fn download(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    if let Some(content) = shared.uploads.content(&id) {
        return HttpResponse::Ok().content_type("application/octet-stream").body(content);
    }
    let read = as_caller(caller.0, async {
        let view = find(&shared, &id)?;
        if view.state == SnapshotState::Pending {
            return Ok(HttpResponse::NoContent().finish());
        }
        let content = shared.sim.read_snapshot(view.vm, &view.id).await?;
        // What came before a break is on its way by then.
        let content = content.then(|chunk| async {
            if chunk.is_err() {
                tokio::time::sleep(BREAK).await;
            }
            chunk
        });
        Ok(HttpResponse::Ok().content_type("application/octet-stream").streaming(content))
    });
    let read = read.await;
    reply::reply(&request, Dialect::Image, read)
}

async fn delete(
    request: HttpRequest,
    caller: Caller,
    shared: web::Data<Shared>,
    id: web::Path<String>,
) -> HttpResponse {
    let deleted = caller.changes(async move {
        if shared.uploads.all().remove(id.as_str()).is_some() {
            return Ok(());
        }
        shared.sim.remove_snapshot(&id).await
    });
    let deleted = deleted.await.map(|()| HttpResponse::NoContent().finish());
    reply::reply(&request, Dialect::Image, deleted)
}

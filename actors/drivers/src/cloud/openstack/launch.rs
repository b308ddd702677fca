//! New servers, and servers put back in place.
//!
//! ```text
//! images (by name) ─► port with addresses (by name) ─► POST /servers, tagged ─┐
//! images (by name) ─► volumes: os-reimage ─► rebuild, noted in the metadata ──┴─► drop_sources: the images
//! ```
//!
//! Everything that is made on the way is named by the operation and looked for first. Only the last step makes what
//! cannot be taken for another's; whoever calls looks for it before the next attempt.

use std::collections::BTreeMap;
use std::time::Duration;

use reeve_lifecycle::effect::Disk;
use reeve_ports::CloudError;
use reeve_ports::cloud::{DiskSource, LaunchSpec, OPERATION_KEY};
use reeve_protocol::observation::VmFacts;
use reeve_protocol::{Timestamp, VmId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Ask};
use super::server::Record;
use super::session::Service;
use crate::cloud::RESTORED_BY_KEY;

const GIB: u64 = 1 << 30;
/// By how much Nova's clock may be behind this node's.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
struct Made {
    server: MadeServer,
}

#[derive(Deserialize)]
struct MadeServer {
    id: VmId,
}

/// The tag of what an operation made. Nova's tags have at most 60 characters and no slash, so it is a hash.
#[must_use]
pub fn operation_tag(operation: &str) -> String {
    format!("reeve-{}", &blake3::hash(operation.as_bytes()).to_hex()[..32])
}

impl Api {
    pub(super) async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError> {
        let tag = operation_tag(spec.metadata.get(OPERATION_KEY).map_or("", String::as_str));
        let like = self.server_or_ghost(spec.like).await?;
        let flavor = like.flavor.as_ref().and_then(|flavor| flavor.id.clone());
        let flavor = flavor.ok_or_else(|| CloudError::Refused(format!("the flavor of {} is not told", spec.like)))?;
        let images = self.upload_disks(&tag, spec.disks).await?;
        let port = self.port(&tag, &like, spec.addresses).await?;
        let root = &images.iter().find(|image| image.disk == Disk::Root).ok_or_else(no_root)?.id;
        let body = json!({ "server": {
            "name": spec.name,
            "flavorRef": flavor,
            "imageRef": root,
            "networks": [{ "port": port }],
            "metadata": spec.metadata,
            "tags": [tag],
            "block_device_mapping_v2": images.iter().map(Uploaded::mapping).collect::<Vec<_>>(),
        } });
        let made = self.ask(Ask::post(Service::Compute, "/servers", body)).await?.json::<Made>()?.server.id;
        Ok(made)
    }

    pub(super) async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        let tagged: Vec<Record> = self.every(Ask::servers().query("tags", operation_tag(operation))).await?;
        let mut made: Vec<VmFacts> = tagged.into_iter().map(Record::facts).collect();
        if made.is_empty() {
            made = self.launched_and_gone(operation, since).await?;
        }
        Ok(made)
    }

    /// What this operation made and is gone. Nova forgets the tags of a server that goes, not its metadata
    /// (`instance_destroy` in nova/db/main/api.py), so all that went since then are looked through.
    pub(super) async fn launched_and_gone(
        &self,
        operation: &str,
        since: Timestamp,
    ) -> Result<Vec<VmFacts>, CloudError> {
        let since = since.saturating_sub(CLOCKS_DIFFER_BY).to_string();
        let went = Ask::servers().query("deleted", "1").query("changes-since", since);
        let mut found = Vec::new();
        self.each_page(went, |servers: Vec<Record>| {
            let facts = servers.into_iter().map(Record::facts);
            found.extend(facts.filter(|facts| facts.metadata.get(OPERATION_KEY).is_some_and(|by| by == operation)));
        })
        .await?;
        Ok(found)
    }

    pub(super) async fn restore(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError> {
        let (server, _) = self.server(vm).await?;
        let mut metadata = server.metadata.clone();
        let facts = server.facts();
        if facts.locked == Some(true) || facts.task.is_some() {
            return Err(CloudError::Refused(format!("409 instance {vm} is locked or busy")));
        }
        let images = self.upload_disks(&operation_tag(operation), disks).await?;
        let root = images.iter().find(|image| image.disk == Disk::Root).ok_or_else(no_root)?.id.clone();
        for image in &images {
            if let Disk::Volume(volume) = &image.disk {
                let body = json!({ "os-reimage": { "image_id": image.id, "reimage_reserved": true } });
                let ask = Ask::post(Service::Volume, format!("/volumes/{volume}/action"), body).at_least(3, 68);
                self.ask(ask).await.map_err(for_now)?;
            }
        }
        metadata.insert(RESTORED_BY_KEY.to_owned(), operation.to_owned());
        let rebuild = json!({ "rebuild": { "imageRef": root, "metadata": metadata } });
        self.act(vm, rebuild).await.map_err(for_now)?;
        Ok(())
    }

    async fn upload_disks(&self, tag: &str, disks: Vec<DiskSource>) -> Result<Vec<Uploaded>, CloudError> {
        let mut images = Vec::new();
        for source in disks {
            let (disk, bytes) = (source.disk.clone(), source.bytes);
            let id = self.upload_disk(tag, &format!("{tag}-{}", disk.object_name()), source).await?;
            images.push(Uploaded { disk, id, bytes });
        }
        Ok(images)
    }

    pub(super) async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        let metadata: BTreeMap<String, String> = self.server(vm).await?.0.metadata;
        Ok(metadata.get(RESTORED_BY_KEY).cloned())
    }
}

/// A disk that is an image now.
struct Uploaded {
    disk: Disk,
    id: String,
    bytes: u64,
}

impl Uploaded {
    fn mapping(&self) -> Value {
        match &self.disk {
            Disk::Root => json!({
                "boot_index": 0, "uuid": self.id, "source_type": "image", "destination_type": "local",
                "delete_on_termination": true,
            }),
            Disk::Volume(_) => json!({
                "boot_index": -1, "uuid": self.id, "source_type": "image", "destination_type": "volume",
                "volume_size": self.bytes.div_ceil(GIB).max(1), "delete_on_termination": true,
            }),
        }
    }
}

/// A restore that replaces one disk has to replace all: a volume that is still being written by an attempt before this
/// one is no reason to give up.
fn for_now(error: CloudError) -> CloudError {
    match error {
        CloudError::Refused(why) if why.starts_with("409") || why.starts_with("400") => {
            CloudError::Unavailable(format!("not now: {why}"))
        }
        other => other,
    }
}

fn no_root() -> CloudError {
    CloudError::Refused("400 no root disk".to_owned())
}

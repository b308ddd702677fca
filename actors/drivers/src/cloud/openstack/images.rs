//! Images in Glance: snapshots, and what a launch or a restore is made from.

use futures::StreamExt;
use reeve_ports::CloudError;
use reeve_ports::cloud::{CloudSnapshot, DiskSource, SnapshotState};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Ask};
use super::content::{Content, Hash, whole};
use super::format;
use super::pages::Item;
use super::session::Service;

/// What is read of an image.
#[derive(Debug, Deserialize)]
pub(super) struct Image {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) status: String,
    pub(super) size: Option<u64>,
    /// The least root disk that it fits on, in GiB.
    #[serde(default)]
    pub(super) min_disk: u64,
    /// The least memory of a server that is made of it, in MiB.
    #[serde(default)]
    pub(super) min_ram: u64,
    /// The hash of its content, as Glance computed it when it was given; none of an image without content.
    os_hash_algo: Option<String>,
    os_hash_value: Option<String>,
    /// The server that it is a snapshot of, as Nova notes it.
    pub(super) instance_uuid: Option<String>,
}

impl Item for Image {
    const LIST: &'static str = "images";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

impl Image {
    fn state(&self) -> SnapshotState {
        match self.status.as_str() {
            "queued" | "saving" | "uploading" | "importing" => SnapshotState::Pending,
            // An image without a size is not written yet.
            "active" => self.size.map_or(SnapshotState::Pending, |bytes| SnapshotState::Ready { bytes }),
            other => SnapshotState::Failed(format!("the image is {other}")),
        }
    }

    fn hash(&self) -> Option<Hash> {
        Hash::of_record(self.os_hash_algo.as_deref(), self.os_hash_value.as_deref())
    }

    pub(super) fn as_snapshot(&self) -> CloudSnapshot {
        CloudSnapshot { id: self.id.clone(), state: self.state() }
    }
}

impl Api {
    pub(super) async fn images_named(&self, name: &str) -> Result<Vec<Image>, CloudError> {
        self.every(Ask::get(Service::Image, "/v2/images").query("name", name)).await
    }

    pub(super) async fn image(&self, id: &str) -> Result<Image, CloudError> {
        self.ask(Ask::get(Service::Image, format!("/v2/images/{id}"))).await?.json()
    }

    pub(super) async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.ask(Ask::delete(Service::Image, format!("/v2/images/{id}"))).await.map(|_| ())
    }

    /// The content of an image that is there. What ends early, or is not what Glance was given, is an error of the stream.
    pub(super) async fn read_image(&self, id: &str) -> Result<Content, CloudError> {
        let image = self.image(id).await?;
        let bytes = match image.state() {
            SnapshotState::Ready { bytes } => bytes,
            SnapshotState::Pending => return Err(CloudError::Unavailable(format!("image {id} is {}", image.status))),
            SnapshotState::Failed(why) => return Err(CloudError::Refused(format!("image {id} has no content: {why}"))),
        };
        let response = self.stream(Ask::get(Service::Image, format!("/v2/images/{id}/file"))).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Err(CloudError::Unavailable(format!("image {id} has no data yet")));
        }
        let content = response.bytes_stream().map(|chunk| chunk.map_err(std::io::Error::other));
        Ok(whole(content.boxed(), bytes, image.hash()))
    }

    /// Makes an image out of a disk, or finds the one that an earlier attempt has made under this name. The tag is the
    /// operation's.
    pub(super) async fn upload_disk(&self, tag: &str, name: &str, source: DiskSource) -> Result<String, CloudError> {
        for found in self.images_named(name).await? {
            if found.status == "active" && found.size == Some(source.bytes) {
                return Ok(found.id);
            }
            self.delete_image(&found.id).await.or_else(gone_is_fine)?;
        }
        let (format, content) = format::recognised(source.content).await;
        let body = json!({
            "name": name, "disk_format": format, "container_format": "bare", "visibility": "private", "tags": [tag],
        });
        let made: Image = self.ask(Ask::post(Service::Image, "/v2/images", body)).await.map_err(harmless)?.json()?;
        let content = reqwest::Body::wrap_stream(whole(content, source.bytes, None));
        let sent = self.upload(&format!("/v2/images/{}/file", made.id), content, source.bytes).await;
        let looked = match sent {
            Ok(()) => self.image(&made.id).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(image) if image.status == "active" && image.size == Some(source.bytes) => Ok(made.id),
            looked => {
                let why = match looked {
                    Ok(image) => format!("the image is {} with {:?} bytes", image.status, image.size),
                    Err(CloudError::Refused(why)) => {
                        return Err(self.drop_upload(&made.id, CloudError::Refused(why)).await);
                    }
                    Err(error) => error.to_string(),
                };
                let why = CloudError::Unavailable(format!("upload of {name}: {why}"));
                Err(self.drop_upload(&made.id, why).await)
            }
        }
    }

    /// Nothing that matters has happened yet: what remains of an upload is only in the way.
    async fn drop_upload(&self, id: &str, why: CloudError) -> CloudError {
        if let Err(error) = self.delete_image(id).await.or_else(gone_is_fine) {
            tracing::warn!(cloud = %self.name, image = id, %error, "what remains of an upload could not be removed");
        }
        why
    }
}

/// An image that may have been made is found by its name the next time.
pub(super) fn harmless(error: CloudError) -> CloudError {
    match error {
        CloudError::Unknown(why) => CloudError::Unavailable(why),
        CloudError::NotFound(_) | CloudError::Refused(_) | CloudError::Unavailable(_) => error,
    }
}

pub(super) fn gone_is_fine(error: CloudError) -> Result<(), CloudError> {
    match error {
        CloudError::NotFound(_) => Ok(()),
        CloudError::Refused(_) | CloudError::Unavailable(_) | CloudError::Unknown(_) => Err(error),
    }
}

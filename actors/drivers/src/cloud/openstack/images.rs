//! Images in Glance: snapshots, and what a launch or a restore is made from.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use reeve_ports::CloudError;
use reeve_ports::cloud::{CloudSnapshot, DiskSource, SnapshotState};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Ask};
use super::pages::Item;
use super::session::Service;

/// What is read of an image.
#[derive(Debug, Deserialize)]
pub(super) struct Image {
    pub(super) id: String,
    #[serde(default)]
    pub(super) status: String,
    pub(super) size: Option<u64>,
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

    /// The content of an image that is there. A stream that ends early is an error of the stream.
    pub(super) async fn read_image(&self, id: &str) -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError> {
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
        Ok(whole(content.boxed(), bytes))
    }

    /// Makes an image out of a disk, or finds the one that an earlier attempt has made under this name.
    pub(super) async fn upload_disk(&self, name: &str, source: DiskSource) -> Result<String, CloudError> {
        for found in self.images_named(name).await? {
            if found.status == "active" && found.size == Some(source.bytes) {
                return Ok(found.id);
            }
            self.delete_image(&found.id).await.or_else(gone_is_fine)?;
        }
        let body = json!({ "name": name, "disk_format": "raw", "container_format": "bare", "visibility": "private" });
        let made: Image = self.ask(Ask::post(Service::Image, "/v2/images", body)).await.map_err(harmless)?.json()?;
        let content = reqwest::Body::wrap_stream(whole(source.content, source.bytes));
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

/// The same stream, which fails at its end unless it had just so many bytes.
fn whole(
    content: BoxStream<'static, std::io::Result<Bytes>>,
    bytes: u64,
) -> BoxStream<'static, std::io::Result<Bytes>> {
    let counted = stream::unfold((content, 0_u64, false), move |(mut content, came, over)| async move {
        if over {
            return None;
        }
        match content.next().await {
            Some(Ok(chunk)) => {
                let came = came + chunk.len() as u64;
                if came > bytes {
                    return Some((Err(wrong_length(came, bytes)), (content, came, true)));
                }
                Some((Ok(chunk), (content, came, false)))
            }
            Some(Err(error)) => Some((Err(error), (content, came, true))),
            None if came == bytes => None,
            None => Some((Err(wrong_length(came, bytes)), (content, came, true))),
        }
    });
    counted.boxed()
}

fn wrong_length(came: u64, bytes: u64) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("{came} of {bytes} bytes came"))
}

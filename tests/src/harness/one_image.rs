//! An OpenStack that has one image and nothing else: Keystone gives everybody a token, Glance has the image. For what takes
//! images as large as real ones, which the simulated cloud has no room for.
//!
//! The content is a block that is repeated. Half of it is pseudo-random and does not shrink, half is like the lines of a
//! log and does, in turns of 64 KiB. A block is larger than any window in which a fast compressor looks back, and than a
//! part of a vault: that it is repeated gains nothing.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::stream;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reeve_drivers::cloud::openstack::{Credential, Login, OpenStackAuth};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use tokio::task::JoinSet;

/// The image's id.
pub const IMAGE: &str = "0e000000-0000-4000-8000-000000000001";
/// What is repeated. A multiple of a turn.
const BLOCK: usize = 64 << 20;
/// How much of one kind comes in a row.
const TURN: usize = 64 << 10;
/// What is sent at once.
const CHUNK: usize = 256 << 10;

/// A server with one image. Ends when dropped.
pub struct OneImage {
    base: String,
    handle: ServerHandle,
    running: JoinSet<()>,
}

struct Image {
    base: String,
    bytes: u64,
    sha512: String,
    block: Bytes,
}

impl OneImage {
    /// Starts one with an image of so many bytes.
    ///
    /// # Errors
    /// When the loopback address cannot be listened at.
    pub async fn start(bytes: u64) -> Result<Self> {
        ensure!(bytes > 0, "an image has content");
        let image = tokio::task::spawn_blocking(move || {
            let block = block();
            let mut hash = Sha512::new();
            for chunk in chunks(&block, bytes) {
                hash.update(&chunk);
            }
            (block, hex(&hash.finalize()))
        });
        let (block, sha512) = image.await.context("the content")?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let base = format!("http://{}", listener.local_addr()?);
        let image = web::Data::from(Arc::new(Image { base: base.clone(), bytes, sha512, block }));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(image.clone())
                .route("/identity/v3/auth/tokens", web::post().to(log_in))
                .route("/image/v2/images", web::get().to(list))
                .route("/image/v2/images/{id}", web::get().to(show))
                .route("/image/v2/images/{id}/file", web::get().to(download))
        });
        let server = server.workers(1).disable_signals().listen(listener)?.run();
        let handle = server.handle();
        let mut running = JoinSet::new();
        running.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the server of one image stopped");
            }
        });
        Ok(Self { base, handle, running })
    }

    /// Where it is, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Where the content of the image is.
    #[must_use]
    pub fn content_url(&self) -> String {
        format!("{}/image/v2/images/{IMAGE}/file", self.base)
    }

    /// Stops.
    pub async fn stop(mut self) {
        self.handle.stop(false).await;
        self.running.shutdown().await;
    }
}

/// How somebody logs in at such a server.
#[must_use]
pub fn auth(url: &str) -> OpenStackAuth {
    let login = Login::ApplicationCredential {
        credential: Credential::Id("anybody".to_owned()),
        secret: "nothing is secret here".to_owned(),
    };
    OpenStackAuth { auth_url: format!("{url}/identity/v3"), login }
}

/// Half of it shrinks.
fn block() -> Bytes {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut block = vec![0; BLOCK];
    let mut line = 0_u64;
    for (number, turn) in block.chunks_exact_mut(TURN).enumerate() {
        if number % 2 == 0 {
            random.fill_bytes(turn);
            continue;
        }
        let mut text = String::with_capacity(TURN + 128);
        while text.len() < TURN {
            let (host, took) = (random.next_u32() % 64, random.next_u32() % 100_000);
            let _ = writeln!(text, "{line:012} host-{host:02} request served in {took} us with status 200");
            line += 1;
        }
        turn.copy_from_slice(&text.as_bytes()[..TURN]);
    }
    block.into()
}

fn chunks(block: &Bytes, bytes: u64) -> impl Iterator<Item = Bytes> + use<> {
    let block = block.clone();
    let mut at = 0_u64;
    std::iter::from_fn(move || {
        let from = usize::try_from(at % BLOCK as u64).expect("less than a block");
        let left = usize::try_from((bytes - at).min(CHUNK as u64)).expect("no more than a chunk");
        at += left as u64;
        (left > 0).then(|| block.slice(from..from + left))
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn log_in(image: web::Data<Image>) -> HttpResponse {
    let url = format!("{}/image", image.base);
    let endpoints = json!([{ "interface": "public", "region_id": "RegionOne", "url": url }]);
    let catalog = json!([{ "type": "image", "endpoints": endpoints }]);
    let token = json!({ "expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog });
    HttpResponse::Created().insert_header(("X-Subject-Token", "anybody")).json(json!({ "token": token }))
}

fn record(image: &Image) -> Value {
    json!({ "id": IMAGE, "status": "active", "size": image.bytes, "os_hash_algo": "sha512",
        "os_hash_value": image.sha512 })
}

async fn list(image: web::Data<Image>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "images": [record(&image)] }))
}

async fn show(image: web::Data<Image>) -> HttpResponse {
    HttpResponse::Ok().json(record(&image))
}

async fn download(image: web::Data<Image>) -> HttpResponse {
    let content = stream::iter(chunks(&image.block, image.bytes).map(Ok::<_, std::io::Error>));
    HttpResponse::Ok().content_type("application/octet-stream").no_chunking(image.bytes).streaming(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_just_its_bytes_and_goes_on_after_a_block() {
        let block = block();
        let bytes = BLOCK as u64 + CHUNK as u64 + 7;
        let all: Vec<Bytes> = chunks(&block, bytes).collect();
        assert_eq!(all.iter().map(|chunk| chunk.len() as u64).sum::<u64>(), bytes);
        assert_eq!(all[BLOCK / CHUNK], all[0]);
        assert_eq!(all.last().unwrap()[..], block[CHUNK..CHUNK + 7]);
    }
}

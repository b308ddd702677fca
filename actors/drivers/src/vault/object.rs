//! The objects of a backup: written, hashed and read in chunks, so that memory stays bounded whatever the disk's size.

use std::io;

use blake3::Hasher as Blake3;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use reeve_ports::vault::{ManifestObject, VaultError};
use sha2::{Digest, Sha256};

use super::error;
use super::manifest::hex;
use super::place::{self, Place};

/// How much is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// What a content is known by.
pub(super) struct Known {
    pub(super) bytes: u64,
    pub(super) blake3: [u8; 32],
    pub(super) sha256: [u8; 32],
}

#[derive(Default)]
struct Sum {
    bytes: u64,
    blake3: Blake3,
    sha256: Sha256,
}

impl Sum {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.blake3.update(chunk);
        self.sha256.update(chunk);
    }

    fn known(self) -> Known {
        Known { bytes: self.bytes, blake3: *self.blake3.finalize().as_bytes(), sha256: self.sha256.finalize().into() }
    }
}

/// Writes an object, aside first where the service can rename.
pub(super) async fn write(
    place: &Place,
    path: &str,
    content: BoxStream<'static, io::Result<Bytes>>,
) -> Result<Known, VaultError> {
    let aside = if place.renames { place::attempt(path) } else { path.to_owned() };
    match write_whole(place, &aside, content).await {
        Ok(known) => {
            if place.renames {
                let renamed = place.operator.rename(&aside, path).await;
                renamed.map_err(|why| error::of_write(&place.show(path), &why))?;
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                place.sync(folder).await?;
            }
            Ok(known)
        }
        Err(why) => {
            // Best effort: what stays is swept with the backup.
            if place.renames && place.operator.delete(&aside).await.is_err() {
                tracing::debug!(path = place.show(&aside), "a leftover of a failed attempt stays");
            }
            Err(why)
        }
    }
}

async fn write_whole(
    place: &Place,
    path: &str,
    mut content: BoxStream<'static, io::Result<Bytes>>,
) -> Result<Known, VaultError> {
    let shown = place.show(path);
    let mut writer = place.operator.writer(path).await.map_err(|why| error::of_write(&shown, &why))?;
    let mut sum = Sum::default();
    loop {
        match content.try_next().await {
            Ok(Some(chunk)) => {
                sum.add(&chunk);
                writer.write(chunk).await.map_err(|why| error::of_write(&shown, &why))?;
            }
            Ok(None) => break,
            Err(why) => {
                // A service that cannot abort drops what was never closed.
                let _ = writer.abort().await;
                return Err(VaultError::Source(why.to_string()));
            }
        }
    }
    writer.close().await.map_err(|why| error::of_write(&shown, &why))?;
    Ok(sum.known())
}

/// Reads an object in chunks.
pub(super) async fn stream(place: &Place, path: &str) -> Result<BoxStream<'static, io::Result<Bytes>>, VaultError> {
    let shown = place.show(path);
    let failed = |why: opendal::Error| error::of_read(&shown, &why);
    let size = place.operator.stat(path).await.map_err(failed)?.content_length();
    let reader = place.operator.reader_with(path).chunk(CHUNK).await.map_err(failed)?;
    Ok(reader.into_bytes_stream(0..size).await.map_err(failed)?.boxed())
}

/// Reads an object and says what it is known by.
pub(super) async fn digest(place: &Place, path: &str) -> Result<Known, VaultError> {
    let mut content = stream(place, path).await?;
    let mut sum = Sum::default();
    while let Some(chunk) = content.next().await {
        let chunk = chunk.map_err(|why| VaultError::Unavailable(format!("{}: {why}", place.show(path))))?;
        sum.add(&chunk);
    }
    Ok(sum.known())
}

/// How an object differs from what its manifest says, in words.
pub(super) fn difference(found: &Known, listed: &ManifestObject) -> Option<String> {
    if found.bytes != listed.bytes {
        return Some(format!("{} bytes, the manifest says {}", found.bytes, listed.bytes));
    }
    if hex(&found.blake3) != listed.blake3 {
        return Some("BLAKE3 differs from the manifest".to_owned());
    }
    if hex(&found.sha256) != listed.sha256 {
        return Some("SHA-256 differs from the manifest".to_owned());
    }
    None
}

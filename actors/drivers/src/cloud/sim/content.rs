//! What is on a disk. Most content follows from a seed and is never kept; what a restore brings from elsewhere is kept
//! once, by its hash, in memory and, in a durable cloud, in a file that is there before anything refers to it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

const CHUNK: u64 = 16 * 1024;

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of it, lower-case hex.
    pub blake3: String,
    /// The seed that it follows from; `None` if its bytes are kept.
    pub(super) seed: Option<u64>,
}

impl Content {
    /// The content of so many bytes that follows from a seed: BLAKE3's extendable output.
    pub(super) fn generated(seed: u64, bytes: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < bytes {
            let chunk = generate(seed, at, (bytes - at).min(CHUNK));
            hasher.update(&chunk);
            at += CHUNK;
        }
        Self { bytes, blake3: hasher.finalize().to_hex().to_string(), seed: Some(seed) }
    }
}

fn generate(seed: u64, at: u64, bytes: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"reeve sim disk");
    hasher.update(&seed.to_le_bytes());
    let mut reader = hasher.finalize_xof();
    reader.set_position(at);
    let mut chunk = vec![0; usize::try_from(bytes).expect("a chunk is small")];
    reader.fill(&mut chunk);
    chunk
}

/// Contents whose bytes are kept, and the seeds of those that need not be.
#[derive(Debug, Default)]
pub(super) struct Contents {
    folder: Option<PathBuf>,
    kept: BTreeMap<String, Bytes>,
    seeds: BTreeMap<String, u64>,
}

impl Contents {
    /// Keeps the bytes in this folder too.
    pub(super) fn in_folder(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder: Some(folder), ..Self::default() })
    }

    /// Remembers which seed a content follows from, so that it is known again when a restore brings it back.
    pub(super) fn know(&mut self, content: &Content) {
        if let Some(seed) = content.seed {
            self.seeds.insert(content.blake3.clone(), seed);
        }
    }

    /// Takes bytes in: as a seed if they follow from a known one, else kept.
    pub(super) fn take(&mut self, bytes: Bytes) -> io::Result<Content> {
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        let length = bytes.len() as u64;
        let seed = self.seeds.get(&blake3).copied();
        if seed.is_none() {
            if let Some(folder) = &self.folder {
                write_aside(&folder.join(&blake3), &bytes)?;
            }
            self.kept.insert(blake3.clone(), bytes);
        }
        Ok(Content { bytes: length, blake3, seed })
    }

    /// Makes sure that the bytes of a content can be read, after a restart.
    pub(super) fn load(&mut self, content: &Content) -> io::Result<()> {
        self.know(content);
        if content.seed.is_some() || self.kept.contains_key(&content.blake3) {
            return Ok(());
        }
        let Some(folder) = &self.folder else { return Err(io::ErrorKind::NotFound.into()) };
        let bytes = std::fs::read(folder.join(&content.blake3))?;
        if blake3::hash(&bytes).to_hex().as_str() != content.blake3 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "content does not equal its hash"));
        }
        self.kept.insert(content.blake3.clone(), bytes.into());
        Ok(())
    }

    /// Reads the first `limit` bytes of a content in chunks; `end_with` says how the stream ends there.
    pub(super) fn read(&self, content: &Content, limit: u64, ending: Ending) -> BoxStream<'static, io::Result<Bytes>> {
        let limit = limit.min(content.bytes);
        let kept = self.kept.get(&content.blake3).cloned();
        let seed = content.seed.unwrap_or_default();
        let starts = (0..limit.div_ceil(CHUNK)).map(|chunk| chunk * CHUNK);
        let chunks = stream::iter(starts).map(move |at| {
            let length = (limit - at).min(CHUNK);
            Ok(match &kept {
                Some(bytes) => {
                    let at = usize::try_from(at).expect("kept in memory");
                    bytes.slice(at..at + usize::try_from(length).expect("a chunk is small"))
                }
                None => generate(seed, at, length).into(),
            })
        });
        match ending {
            Ending::Clean => chunks.boxed(),
            Ending::Broken => {
                let broken = io::Error::new(io::ErrorKind::ConnectionReset, "the cloud closed the connection");
                chunks.chain(stream::iter([Err(broken)])).boxed()
            }
        }
    }
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Clean,
    Broken,
}

/// Reads a whole stream of at most `most` bytes.
pub(super) async fn collect(mut from: BoxStream<'static, io::Result<Bytes>>, most: u64) -> io::Result<Bytes> {
    let mut all = Vec::new();
    while let Some(chunk) = from.try_next().await? {
        if all.len() as u64 + chunk.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {most} bytes")));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}

fn write_aside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("part");
    std::fs::write(&aside, bytes)?;
    std::fs::rename(&aside, path)
}

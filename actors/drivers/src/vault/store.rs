//! Writes an object in parts.
//!
//! ```text
//! source ─► cut ─► hash ─► there already? ── yes ─────────────────────┐
//!                             └─ no ─► compress ─► encrypt ─► write ──┴─► … all ─► index
//!                  └──────── at most `under_way` parts here ──────────┘
//! ```
//!
//! **A writer that died is continued.** Whoever begins again reads the source from its start, because hashes of the whole
//! are wanted and a snapshot may be read in order only; but a part that the vault has is not sent again. Nothing has to be
//! known of the attempt before: parts are named by what they hold, and a service shows a part only when it is whole.
//! Nothing is left that only the service knows of, as an unfinished multipart upload of S3 would be: parts are plain
//! objects, found by listing and removed with the backup or when it is sealed.
//!
//! The source is not read on while `under_way` parts are on their way. All is done inside the caller's future: when it is
//! dropped, nothing more is sent.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use opendal::ErrorKind;
use reeve_ports::vault::VaultError;

use super::cutter::{Cutter, Piece};
use super::index::{self, Index, Listed, MAX_PARTS};
use super::key::{KeyMark, ObjectKeys};
use super::object::Known;
use super::packing::{Held, Packing};
use super::part::{self, Compression, Spot};
use super::place::{ObjectPlace, Place};
use super::summing::Summing;
use super::{error, hex};

type Content = BoxStream<'static, io::Result<Bytes>>;
/// What an earlier attempt left: by number and id, the hash of the stored part.
type Kept = BTreeMap<(u32, [u8; 16]), [u8; 32]>;

/// Stores a content. What an earlier attempt left is used.
pub(super) async fn store(
    place: &Place,
    packing: &Packing,
    at: &ObjectPlace,
    content: Content,
) -> Result<Known, VaultError> {
    let key = packing.keys.current();
    let packer = Packer {
        keys: key.map(|key| key.of_object(&at.path)),
        compression: packing.compression,
        kept: kept(place, at).await?,
    };
    let writer = Writer { place, packing, at, packer: Arc::new(packer) };
    let (parts, known) = writer.parts(content).await?;
    writer.index(parts, &known, key.map(|key| key.mark())).await?;
    Ok(known)
}

async fn kept(place: &Place, at: &ObjectPlace) -> Result<Kept, VaultError> {
    let mut kept = Kept::new();
    for name in place.names(&at.folder, MAX_PARTS as usize).await? {
        if let Some((number, id, blake3)) = index::read_part_name(&name) {
            kept.insert((number, id), blake3);
        }
    }
    Ok(kept)
}

struct Writer<'a> {
    place: &'a Place,
    packing: &'a Packing,
    at: &'a ObjectPlace,
    packer: Arc<Packer>,
}

impl Writer<'_> {
    async fn parts(&self, content: Content) -> Result<(Vec<Listed>, Known), VaultError> {
        let source = Source {
            content,
            chunk: Bytes::new(),
            cutter: Some(Cutter::new(self.packing.part_bytes as usize)),
            summing: Summing::default(),
        };
        let pieces = futures::stream::try_unfold(source, Source::next);
        let mut put = pieces
            .map(|piece| async move {
                let (piece, known) = piece?;
                Ok::<_, VaultError>((self.put(piece, self.packing.live.hold()).await?, known))
            })
            .buffered(usize::from(self.packing.under_way))
            .boxed();
        let (mut parts, mut whole) = (Vec::new(), None);
        while let Some((part, known)) = put.try_next().await? {
            parts.push(part);
            whole = known;
        }
        Ok((parts, whole.expect("a source ends with its last part")))
    }

    async fn put(&self, piece: Piece, held: Held) -> Result<Listed, VaultError> {
        let Piece { number, last, bytes } = piece;
        let shown = || self.place.show(&self.at.path);
        if number >= MAX_PARTS {
            let why = format!("{}: more than {MAX_PARTS} parts of {} bytes", shown(), self.packing.part_bytes);
            return Err(VaultError::NotWritable(format!("{why}: set vault.part_bytes higher")));
        }
        let spot = Spot { number, last, bytes: u32::try_from(bytes.len()).expect("no larger than a part") };
        let mut again = Again::Keep;
        loop {
            let (packer, plain) = (Arc::clone(&self.packer), bytes.clone());
            let packed = tokio::task::spawn_blocking(move || packer.pack(&plain, spot, again)).await;
            match packed.map_err(|why| VaultError::Unavailable(format!("{}: {why}", shown())))? {
                Packed::Kept { id, blake3 } => {
                    let at = self.at.part(number, &id, &blake3);
                    match self.place.operator.stat(&at).await {
                        Ok(meta) if meta.content_length() <= u64::from(spot.bytes) + part::OVERHEAD as u64 => {
                            let bytes = u32::try_from(meta.content_length()).expect("little more than a part");
                            return Ok(Listed { bytes, id, blake3 });
                        }
                        // No part is that long. It goes, so that no index of before is taken for whole by its name.
                        Ok(_) => {
                            let gone = self.place.operator.delete(&at).await;
                            gone.map_err(|why| error::of_write(&self.place.show(&at), &why))?;
                            again = Again::Write;
                        }
                        Err(why) if why.kind() == ErrorKind::NotFound => again = Again::Write,
                        Err(why) => return Err(error::of_read(&self.place.show(&at), &why)),
                    }
                }
                Packed::New { id, blake3, stored } => {
                    // From here on there is the packed form alone.
                    drop(bytes);
                    let length = u32::try_from(stored.len()).expect("little more than a part");
                    self.packing.gate.pass(u64::from(length)).await;
                    self.place.put(&self.at.part(number, &id, &blake3), stored.into()).await?;
                    drop(held);
                    return Ok(Listed { bytes: length, id, blake3 });
                }
            }
        }
    }

    async fn index(&self, parts: Vec<Listed>, known: &Known, key: Option<KeyMark>) -> Result<(), VaultError> {
        let index = Index {
            name: self.at.name.clone(),
            part_bytes: self.packing.part_bytes,
            bytes: known.bytes,
            blake3: hex::encode(&known.blake3),
            sha256: hex::encode(&known.sha256),
            key,
            parts,
        };
        let bytes = index.encode();
        let hash = hex::encode(blake3::hash(&bytes).as_bytes());
        // Parts survive a power cut before what lists them does.
        self.place.sync(&self.at.folder).await?;
        self.place.put(&self.at.index(&index.blake3, &hash), bytes.into()).await?;
        self.place.sync(&self.at.folder).await
    }
}

/// Whether a part that is there is used.
#[derive(Clone, Copy)]
enum Again {
    Keep,
    Write,
}

struct Packer {
    keys: Option<ObjectKeys>,
    compression: Compression,
    kept: Kept,
}

enum Packed {
    Kept { id: [u8; 16], blake3: [u8; 32] },
    New { id: [u8; 16], blake3: [u8; 32], stored: Vec<u8> },
}

impl Packer {
    fn pack(&self, plain: &[u8], spot: Spot, again: Again) -> Packed {
        let mut whole = match &self.keys {
            Some(keys) => blake3::Hasher::new_keyed(&keys.name),
            None => blake3::Hasher::new(),
        };
        // Whether it is the last is sealed into it, so it is part of what it is.
        whole.update(plain).update(&[u8::from(spot.last)]);
        let id = *whole.finalize().as_bytes().first_chunk().expect("16 of 32 bytes");
        match (again, self.kept.get(&(spot.number, id))) {
            (Again::Keep, Some(blake3)) => Packed::Kept { id, blake3: *blake3 },
            (Again::Keep, None) | (Again::Write, _) => {
                let stored = part::encode(plain, spot, self.compression, self.keys.as_ref());
                Packed::New { id, blake3: *blake3::hash(&stored).as_bytes(), stored }
            }
        }
    }
}

/// A content that is cut and summed up while it is read.
struct Source {
    content: Content,
    chunk: Bytes,
    /// None after the last part.
    cutter: Option<Cutter>,
    summing: Summing,
}

impl Source {
    /// The next part, and with the last one what the whole is known by.
    async fn next(mut self) -> Result<Option<((Piece, Option<Known>), Self)>, VaultError> {
        let Some(mut cutter) = self.cutter.take() else { return Ok(None) };
        loop {
            while !self.chunk.is_empty() {
                if let Some(piece) = cutter.take(&mut self.chunk) {
                    self.summing.add(&piece.bytes).await?;
                    self.cutter = Some(cutter);
                    return Ok(Some(((piece, None), self)));
                }
            }
            let read = self.content.try_next().await;
            match read.map_err(|why| VaultError::Source(why.to_string()))? {
                Some(chunk) => self.chunk = chunk,
                None => {
                    let piece = cutter.finish();
                    self.summing.add(&piece.bytes).await?;
                    let known = std::mem::take(&mut self.summing).known().await?;
                    return Ok(Some(((piece, Some(known)), self)));
                }
            }
        }
    }
}

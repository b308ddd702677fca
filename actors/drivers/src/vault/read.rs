//! Reads objects back: of format 1 as they are, of format 2 part by part, each checked, decrypted and unpacked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use opendal::ErrorKind;
use reeve_ports::vault::{Damage, VaultError};

use super::index::{Index, Listed, MAX_INDEX_BYTES};
use super::key::ObjectKeys;
use super::manifest::{Object, Stored};
use super::object::difference;
use super::packing::Packing;
use super::place::{ObjectPlace, Place};
use super::summing::Summing;
use super::{error, hex, part};

/// How much of an object of format 1 is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// Why an object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is not what was written.
    Damage { at: String, damage: Damage },
    /// It may be, and cannot be seen now.
    Vault(VaultError),
}

impl From<VaultError> for Trouble {
    fn from(why: VaultError) -> Self {
        Self::Vault(why)
    }
}

impl Trouble {
    /// As a reader of content takes it.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Damage { at, damage } => io::Error::new(io::ErrorKind::InvalidData, format!("{at}: {damage}")),
            Self::Vault(why) => io::Error::other(why),
        }
    }
}

pub(super) type Plain = BoxStream<'static, Result<Bytes, Trouble>>;

/// The content of an object. The last thing that it gives is an error if the whole is not what the manifest says.
pub(super) async fn content(
    place: &Place,
    packing: &Packing,
    at: ObjectPlace,
    listed: &Object,
) -> Result<Plain, Trouble> {
    let (path, whole) = match &listed.stored {
        None => (place.show(&at.path), as_it_is(place, &at.path).await?),
        Some(stored) => (place.show(&at.folder), parts(place, packing, at, listed, stored).await?),
    };
    let wanted = Arc::new((path, listed.plain.clone()));
    let checked = futures::stream::try_unfold((whole, Summing::default()), move |(mut whole, mut summing)| {
        let wanted = Arc::clone(&wanted);
        async move {
            match whole.try_next().await? {
                Some(bytes) => {
                    summing.add(&bytes).await?;
                    Ok(Some((bytes, (whole, summing))))
                }
                None => match difference(&summing.known().await?, &wanted.1) {
                    Some(damage) => Err(Trouble::Damage { at: wanted.0.clone(), damage }),
                    None => Ok(None),
                },
            }
        }
    });
    Ok(checked.boxed())
}

async fn as_it_is(place: &Place, path: &str) -> Result<Plain, Trouble> {
    let shown = place.show(path);
    let failed = |why: opendal::Error| seen(&shown, &why);
    let size = place.operator.stat(path).await.map_err(failed)?.content_length();
    let reader = place.operator.reader_with(path).chunk(CHUNK).await.map_err(failed)?;
    let stream = reader.into_bytes_stream(0..size).await.map_err(failed)?;
    Ok(stream.map_err(move |why| VaultError::Unavailable(format!("{shown}: {why}")).into()).boxed())
}

/// What is missing is damage; other errors may pass.
fn seen(shown: &str, why: &opendal::Error) -> Trouble {
    match why.kind() {
        ErrorKind::NotFound => Trouble::Damage { at: shown.to_owned(), damage: Damage::Missing },
        _ => Trouble::Vault(error::of_read(shown, why)),
    }
}

/// The index that a manifest names.
pub(super) async fn index(place: &Place, path: &str, hash: &str) -> Result<Index, Trouble> {
    let shown = place.show(path);
    let damage = |damage| Trouble::Damage { at: shown.clone(), damage };
    let bytes = match place.get(path, MAX_INDEX_BYTES).await {
        Ok(bytes) => bytes,
        Err(VaultError::NotFound(_)) => return Err(damage(Damage::Missing)),
        Err(VaultError::Damaged(why)) => return Err(damage(Damage::Index(why))),
        Err(why) => return Err(why.into()),
    };
    if hex::encode(blake3::hash(&bytes).as_bytes()) != hash {
        return Err(damage(Damage::Hash("BLAKE3 of the index")));
    }
    Index::decode(&bytes).map_err(|why| damage(Damage::Index(why)))
}

async fn parts(
    place: &Place,
    packing: &Packing,
    at: ObjectPlace,
    listed: &Object,
    stored: &Stored,
) -> Result<Plain, Trouble> {
    let path = at.index(&listed.plain.blake3, &stored.index);
    let index = index(place, &path, &stored.index).await?;
    if index.key != stored.key {
        let why = "it names another key than the manifest".to_owned();
        return Err(Trouble::Damage { at: place.show(&path), damage: Damage::Index(why) });
    }
    let keys = match &index.key {
        None => None,
        Some(mark) => {
            let found = packing.keys.find(mark);
            let key = found.map_err(|why| VaultError::Key(format!("{}: {why}", place.show(&at.path))))?;
            Some(key.of_object(&at.path))
        }
    };
    let count = u32::try_from(index.parts.len()).expect("an index has few parts");
    let fetcher = Arc::new(Fetcher { place: place.clone(), packing: packing.clone(), at, index, keys });
    // One at a time: while it comes, the one before is being hashed. More would double what a verification holds.
    Ok(futures::stream::iter(0..count).then(move |number| fetch(Arc::clone(&fetcher), number)).boxed())
}

struct Fetcher {
    place: Place,
    packing: Packing,
    at: ObjectPlace,
    index: Index,
    keys: Option<ObjectKeys>,
}

async fn fetch(fetcher: Arc<Fetcher>, number: u32) -> Result<Bytes, Trouble> {
    let Fetcher { place, packing, at, index, .. } = fetcher.as_ref();
    let held = packing.live.hold();
    let listed: Listed = index.parts[number as usize];
    let path = at.part(number, &listed.id, &listed.blake3);
    let shown = place.show(&path);
    let length = place.operator.stat(&path).await.map_err(|why| seen(&shown, &why))?.content_length();
    if length != u64::from(listed.bytes) {
        let damage = Damage::Length { found: length, listed: u64::from(listed.bytes) };
        return Err(Trouble::Damage { at: shown, damage });
    }
    packing.gate.pass(length).await;
    let stored = place.operator.read_with(&path).range(0..length).await.map_err(|why| seen(&shown, &why))?;
    let unpacker = Arc::clone(&fetcher);
    let plain = tokio::task::spawn_blocking(move || {
        // As one piece, which it mostly is, and not twice.
        let bytes = stored.to_bytes();
        drop(stored);
        let stored = Vec::from(bytes);
        if *blake3::hash(&stored).as_bytes() != listed.blake3 {
            return Err(Damage::Hash("BLAKE3 of the stored part"));
        }
        part::decode(stored, unpacker.index.spot(number), unpacker.keys.as_ref())
    });
    let plain = plain.await.map_err(|why| VaultError::Unavailable(format!("{shown}: {why}")))?;
    drop(held);
    plain.map(Bytes::from).map_err(|damage| Trouble::Damage { at: shown, damage })
}

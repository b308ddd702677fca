//! Vaults: where backups are kept for long.

mod cutter;
mod error;
mod hex;
mod index;
mod key;
mod manifest;
mod object;
mod open;
mod packing;
mod part;
mod place;
mod read;
mod seal;
mod store;
mod summing;
#[cfg(test)]
mod tests;
mod throttle;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use opendal::ErrorKind;
use reeve_lifecycle::effect::{Disk, StoredDisk};
use reeve_ports::vault::{BackupPath, Manifest, Vault, VaultError, Verification};
use reeve_protocol::{BackupId, CloudName, VmId};

pub use self::key::{KeyError, KeyRing, MAX_KEYS, VaultKey};
pub use self::manifest::{FORMAT, MAX_MANIFEST_BYTES, MAX_OBJECTS};
pub use self::open::{Remote, VaultUrl, VaultUrlError};
pub use self::packing::Packing;
pub use self::part::Compression;

use self::place::{ObjectPlace, Place};
use self::read::Trouble;

/// A vault in whatever `opendal` reaches.
///
/// ```text
/// <cloud>/<vm>/<backup>/manifest.json      written last: with it the backup is complete
/// <cloud>/<vm>/<backup>/root.parts/        an object, which is a disk
///     00000000-<id>-<blake3>               a part, packed and encrypted; named by what it holds
///     <content>-<blake3>.index             written after its parts: which they are
///     ….<attempt>.part                     what a killed attempt leaves; swept when the backup is sealed or deleted
/// <cloud>/<vm>/<backup>/volume-<id>.parts/
/// <cloud>/<vm>/<backup>/root               an object of format 1, which is read and no longer written
/// ```
///
/// Nothing stands under its final name before it is whole. Where the service can rename (a local folder), content is
/// written aside under a name of the attempt's own, closed, and renamed; where it cannot, the service shows an object only
/// once it is closed (S3, Swift, memory). `opendal` could do the former itself with its `atomic_write_dir`, but that takes
/// a second folder that must be on the same file system, and its leftovers could not be told apart by backup.
///
/// Nothing is overwritten with something else either: names hold the hash of what they name. A writer that lost its VM and
/// does not know yet adds files, and harms none.
///
/// Durability of a local folder: `opendal` syncs each file when it is closed but never a folder, so this type syncs the
/// folders of an object after its parts and after its index. An object or manifest that was answered for survives a power
/// cut as far as the disk keeps its promises; a deletion may come undone, which is harmless as it is repeated. For other
/// services it is what the service promises.
///
/// The vault needs a tokio runtime around it, because `opendal` does and parts are packed beside it.
#[derive(Debug, Clone)]
pub struct OpendalVault {
    place: Place,
    packing: Packing,
}

impl OpendalVault {
    /// Packs what it stores from now on like this, and reads with these keys.
    #[must_use]
    pub fn with(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }

    /// Whether the vault can be written: writes, reads back and removes a small object. For start-up.
    ///
    /// # Errors
    /// `NotWritable` names the place and says why.
    pub async fn probe_writable(&self) -> Result<(), VaultError> {
        let path = place::attempt(".writable");
        let shown = self.place.show(&path);
        let refuse = |why: VaultError| VaultError::NotWritable(format!("the vault cannot be written: {why}"));
        let written = self.place.operator.write(&path, "reeve").await;
        written.map_err(|why| refuse(error::of_write(&shown, &why)))?;
        let read = self.place.operator.read(&path).await.map_err(|why| refuse(error::of_read(&shown, &why)))?;
        self.place.operator.delete(&path).await.map_err(|why| refuse(error::of_write(&shown, &why)))?;
        if read.to_vec() != b"reeve" {
            return Err(VaultError::NotWritable(format!("{shown}: reads other bytes than were written")));
        }
        Ok(())
    }

    async fn file(&self, path: &BackupPath) -> Result<manifest::File, VaultError> {
        let at = place::manifest(path);
        let bytes = self.place.get(&at, MAX_MANIFEST_BYTES).await?;
        manifest::File::decode(path, &bytes)
            .map_err(|why| VaultError::Damaged(format!("{}: {why}", self.place.show(&at))))
    }
}

#[async_trait]
impl Vault for OpendalVault {
    async fn store(
        &self,
        path: &BackupPath,
        disk: &Disk,
        content: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<StoredDisk, VaultError> {
        let at = ObjectPlace::new(path, &disk.object_name());
        let stored = store::store(&self.place, &self.packing, &at, content).await?;
        Ok(StoredDisk { disk: disk.clone(), bytes: stored.bytes, blake3: stored.blake3, sha256: stored.sha256 })
    }

    /// Overwrites an older manifest only if it lists other objects. Refuses to seal what is not all there.
    async fn seal(&self, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError> {
        manifest::check(path, manifest).map_err(VaultError::Damaged)?;
        match self.manifest(path).await {
            Ok(old) if old.objects == manifest.objects && old.purpose == manifest.purpose => return Ok(()),
            Ok(_) | Err(VaultError::NotFound(_) | VaultError::Damaged(_)) => {}
            Err(
                why @ (VaultError::NotWritable(_)
                | VaultError::Unavailable(_)
                | VaultError::Unknown(_)
                | VaultError::Key(_)
                | VaultError::Source(_)),
            ) => return Err(why),
        }
        seal::seal(&self.place, path, manifest).await
    }

    async fn manifest(&self, path: &BackupPath) -> Result<Manifest, VaultError> {
        Ok(self.file(path).await?.manifest())
    }

    async fn verify(&self, path: &BackupPath) -> Result<Verification, VaultError> {
        let file = self.file(path).await?;
        let mut bytes = 0;
        for listed in &file.objects {
            let at = ObjectPlace::new(path, &listed.plain.name);
            let read = async {
                let mut content = read::content(&self.place, &self.packing, at, listed).await?;
                while content.try_next().await?.is_some() {}
                Ok::<(), Trouble>(())
            };
            match read.await {
                Ok(()) => bytes += listed.plain.bytes,
                Err(Trouble::Damage { at, damage }) => return Ok(Verification::Damaged { at, damage }),
                Err(Trouble::Vault(why)) => return Err(why),
            }
        }
        Ok(Verification::Equal { bytes })
    }

    async fn read(
        &self,
        path: &BackupPath,
        name: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, VaultError> {
        let file = self.file(path).await?;
        let at = ObjectPlace::new(path, name);
        let listed = file.objects.iter().find(|listed| listed.plain.name == name);
        let listed = listed.ok_or_else(|| VaultError::NotFound(self.place.show(&at.path)))?;
        match read::content(&self.place, &self.packing, at, listed).await {
            Ok(content) => Ok(content.map_err(Trouble::into_io).boxed()),
            Err(Trouble::Damage { at, damage }) => Err(VaultError::Damaged(format!("{at}: {damage}"))),
            Err(Trouble::Vault(why)) => Err(why),
        }
    }

    /// The manifest goes first, so that what a crash leaves is no complete backup.
    async fn delete(&self, path: &BackupPath) -> Result<(), VaultError> {
        let at = place::manifest(path);
        let removed = self.place.operator.delete(&at).await;
        removed.map_err(|why| error::of_write(&self.place.show(&at), &why))?;
        let folder = place::folder(path);
        let removed = self.place.operator.delete_with(&folder).recursive(true).await;
        match removed {
            Ok(()) => {}
            Err(why) if why.kind() == ErrorKind::NotFound => {}
            Err(why) => return Err(error::of_write(&self.place.show(&folder), &why)),
        }
        self.place.sync(&place::of_vm(&path.cloud, path.vm)).await
    }

    async fn list(&self, cloud: &CloudName, vm: VmId) -> Result<Vec<BackupId>, VaultError> {
        let mut found = Vec::new();
        for name in self.place.names(&place::of_vm(cloud, vm), MAX_LISTED).await? {
            let Ok(backup) = name.trim_end_matches('/').parse::<BackupId>() else { continue };
            let at = place::manifest(&BackupPath { cloud: cloud.clone(), vm, backup });
            let there = self.place.operator.exists(&at).await;
            if there.map_err(|why| error::of_read(&self.place.show(&at), &why))? {
                found.push(backup);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// The most names in a VM's folder that are looked at: far more than backups that its record may list.
const MAX_LISTED: usize = 100_000;

//! Vaults: where backups are kept for long.

mod error;
mod manifest;
mod object;
mod place;
#[cfg(test)]
mod tests;
mod url;

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use opendal::{ErrorKind, Operator};
use reeve_lifecycle::effect::{Disk, StoredDisk};
use reeve_ports::vault::{BackupPath, Manifest, Vault, VaultError, Verification};
use reeve_protocol::{BackupId, CloudName, VmId};

pub use self::manifest::{FORMAT, MAX_MANIFEST_BYTES, MAX_OBJECTS};
pub use self::url::{VaultUrlError, vault_from_url};

use self::place::Place;

/// A vault in whatever `opendal` reaches.
///
/// ```text
/// <cloud>/<vm>/<backup>/root               an object: one disk
/// <cloud>/<vm>/<backup>/volume-<id>
/// <cloud>/<vm>/<backup>/manifest.json      written last: with it the backup is complete
/// <cloud>/<vm>/<backup>/root.<attempt>.part  what a killed attempt leaves; swept when the backup is sealed or deleted
/// ```
///
/// Nothing stands under its final name before it is whole. Where the service can rename (a local folder), content is
/// written aside under a name of the attempt's own, closed, and renamed; where it cannot, the service shows an object only
/// once it is closed (S3, Swift, memory). `opendal` could do the former itself with its `atomic_write_dir`, but that takes
/// a second folder that must be on the same file system, and its leftovers could not be told apart by backup.
///
/// Durability of a local folder: `opendal` syncs each file when it is closed but never a folder, so this type syncs the
/// folders of an object after its rename. An object or manifest that was answered for survives a power cut as far as the
/// disk keeps its promises; a deletion may come undone, which is harmless as it is repeated. For other services it is
/// what the service promises.
///
/// The vault needs a tokio runtime around it, because `opendal` does.
#[derive(Debug, Clone)]
pub struct OpendalVault {
    place: Place,
}

impl OpendalVault {
    /// A vault over any service of `opendal`; `name` stands before paths in errors.
    #[must_use]
    pub fn new(operator: Operator, name: impl Into<String>) -> Self {
        Self { place: Place::new(operator, name.into(), None) }
    }

    /// A vault in memory, for tests and demonstrations.
    ///
    /// # Errors
    /// `Unavailable` if `opendal` refuses.
    pub fn in_memory() -> Result<Self, VaultError> {
        let operator = Operator::new(opendal::services::Memory::default());
        let operator = operator.map_err(|why| VaultError::Unavailable(why.to_string()))?;
        Ok(Self::new(operator, "memory:"))
    }

    /// A vault in a local folder, which is made if it is not there.
    ///
    /// # Errors
    /// `NotWritable` when the folder cannot be made or is none.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Result<Self, VaultError> {
        let folder = folder.into();
        let shown = folder.display().to_string();
        let root = folder.to_str().ok_or_else(|| VaultError::NotWritable(format!("{shown}: not UTF-8")))?;
        let operator = Operator::new(opendal::services::Fs::default().root(root));
        let operator = operator.map_err(|why| VaultError::NotWritable(format!("{shown}: {}", error::reason(&why))))?;
        Ok(Self { place: Place::new(operator, shown, Some(folder)) })
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
}

#[async_trait]
impl Vault for OpendalVault {
    async fn store(
        &self,
        path: &BackupPath,
        disk: &Disk,
        content: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<StoredDisk, VaultError> {
        let stored = object::write(&self.place, &place::object(path, &disk.object_name()), content).await?;
        Ok(StoredDisk { disk: disk.clone(), bytes: stored.bytes, blake3: stored.blake3, sha256: stored.sha256 })
    }

    /// Overwrites an older manifest only if it lists other objects. Refuses to seal what is not all there.
    async fn seal(&self, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError> {
        manifest::check(path, manifest).map_err(VaultError::Damaged)?;
        for listed in &manifest.objects {
            self.check_size(path, &listed.name, listed.bytes).await?;
        }
        match self.manifest(path).await {
            Ok(old) if old.objects == manifest.objects && old.purpose == manifest.purpose => return Ok(()),
            Ok(_) | Err(VaultError::NotFound(_) | VaultError::Damaged(_)) => {}
            Err(
                why @ (VaultError::NotWritable(_)
                | VaultError::Unavailable(_)
                | VaultError::Unknown(_)
                | VaultError::Source(_)),
            ) => return Err(why),
        }
        let bytes = manifest::encode(manifest).map_err(VaultError::Damaged)?;
        let content = futures::stream::iter([Ok(Bytes::from(bytes))]).boxed();
        object::write(&self.place, &place::manifest(path), content).await?;
        self.place.sweep(&place::folder(path)).await;
        Ok(())
    }

    async fn manifest(&self, path: &BackupPath) -> Result<Manifest, VaultError> {
        let at = place::manifest(path);
        let shown = self.place.show(&at);
        let meta = self.place.operator.stat(&at).await.map_err(|why| error::of_read(&shown, &why))?;
        let length = meta.content_length();
        if length > MAX_MANIFEST_BYTES {
            let why = format!("{shown}: {length} bytes, a manifest has at most {MAX_MANIFEST_BYTES}");
            return Err(VaultError::Damaged(why));
        }
        // A range, so that a manifest that grows meanwhile is not read beyond the limit.
        let read = self.place.operator.read_with(&at).range(0..length).await;
        let bytes = read.map_err(|why| error::of_read(&shown, &why))?.to_vec();
        let manifest = manifest::decode(&bytes).map_err(|why| VaultError::Damaged(format!("{shown}: {why}")))?;
        manifest::check(path, &manifest).map_err(|why| VaultError::Damaged(format!("{shown}: {why}")))?;
        Ok(manifest)
    }

    async fn verify(&self, path: &BackupPath) -> Result<Verification, VaultError> {
        let manifest = self.manifest(path).await?;
        let mut bytes = 0;
        for listed in &manifest.objects {
            let at = place::object(path, &listed.name);
            let damaged =
                |what: String| Ok(Verification::Damaged { what: format!("{}: {what}", self.place.show(&at)) });
            let found = match object::digest(&self.place, &at).await {
                Ok(found) => found,
                Err(VaultError::NotFound(_)) => return damaged("missing".to_owned()),
                Err(why) => return Err(why),
            };
            if let Some(what) = object::difference(&found, listed) {
                return damaged(what);
            }
            bytes += found.bytes;
        }
        Ok(Verification::Equal { bytes })
    }

    async fn read(
        &self,
        path: &BackupPath,
        name: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, VaultError> {
        let manifest = self.manifest(path).await?;
        let at = place::object(path, name);
        let shown = self.place.show(&at);
        if !manifest.objects.iter().any(|listed| listed.name == name) {
            return Err(VaultError::NotFound(shown));
        }
        let stream = object::stream(&self.place, &at).await?;
        Ok(stream.map_err(move |why| std::io::Error::new(why.kind(), format!("{shown}: {why}"))).boxed())
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
        let folder = place::of_vm(cloud, vm);
        let shown = self.place.show(&folder);
        let mut entries = match self.place.operator.lister(&folder).await {
            Ok(entries) => entries,
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(error::of_read(&shown, &why)),
        };
        let mut found = Vec::new();
        while let Some(entry) = entries.next().await {
            let entry = match entry {
                Ok(entry) => entry,
                Err(why) if why.kind() == ErrorKind::NotFound => break,
                Err(why) => return Err(error::of_read(&shown, &why)),
            };
            let Ok(backup) = entry.name().trim_end_matches('/').parse::<BackupId>() else { continue };
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

impl OpendalVault {
    async fn check_size(&self, path: &BackupPath, name: &str, bytes: u64) -> Result<(), VaultError> {
        let at = place::object(path, name);
        let shown = self.place.show(&at);
        let found = match self.place.operator.stat(&at).await {
            Ok(meta) => meta.content_length(),
            Err(why) if why.kind() == ErrorKind::NotFound => {
                return Err(VaultError::Damaged(format!("{shown}: missing, so the backup cannot be sealed")));
            }
            Err(why) => return Err(error::of_read(&shown, &why)),
        };
        if found != bytes {
            return Err(VaultError::Damaged(format!("{shown}: {found} bytes, the manifest says {bytes}")));
        }
        Ok(())
    }
}

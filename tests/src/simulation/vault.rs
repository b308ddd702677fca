//! A vault in memory. The product's vault goes through opendal, whose operators want a tokio runtime with threads of
//! its own; here every step must come from one thread and one seed, and fail on order before and after its effect.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reeve_lifecycle::effect::{Disk, StoredDisk};
use reeve_ports::vault::{BackupPath, Damage, Manifest, Verification};
use reeve_ports::{Clock, Vault, VaultError};
use reeve_protocol::{BackupId, CloudName, VmId};

use super::clock::SimClock;
use super::faults::{FaultPlan, Port, Trouble};

const UNPOISONED: &str = "nothing panics while the vault is locked";

/// What is kept of one backup.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) objects: BTreeMap<String, Bytes>,
    pub(super) manifest: Option<Manifest>,
    /// Whether it was read back and found equal since it was last written.
    pub(super) verified: bool,
}

/// The vault. Clones hold the same.
#[derive(Clone)]
pub(super) struct SimVault {
    clock: SimClock,
    faults: FaultPlan,
    kept: Arc<Mutex<BTreeMap<BackupPath, Kept>>>,
}

impl SimVault {
    pub(super) fn new(clock: SimClock, faults: FaultPlan) -> Self {
        Self { clock, faults, kept: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackupPath, Kept>> {
        self.kept.lock().expect(UNPOISONED)
    }

    /// Every backup of a VM, complete or not.
    pub(super) fn of(&self, vm: VmId) -> Vec<(BackupId, Kept)> {
        let kept = self.lock();
        kept.iter().filter(|(path, _)| path.vm == vm).map(|(path, kept)| (path.backup, kept.clone())).collect()
    }

    /// Meets the fault of a call, and acts; an answer may be lost.
    async fn call<T>(
        &self,
        act: impl FnOnce(&mut BTreeMap<BackupPath, Kept>) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        match self.faults.next(Port::Vault) {
            None => act(&mut self.lock()),
            Some(Trouble::Slow) => {
                self.clock.sleep(Duration::from_secs(20)).await;
                act(&mut self.lock())
            }
            Some(Trouble::Hang) => {
                self.clock.sleep(Duration::from_secs(3_600)).await;
                Err(VaultError::Unavailable("hung".into()))
            }
            Some(Trouble::LostAfter) => {
                act(&mut self.lock())?;
                Err(VaultError::Unavailable("the answer was lost".into()))
            }
            Some(Trouble::Refused | Trouble::Quota) => Err(VaultError::NotWritable("the vault is full".into())),
            Some(
                Trouble::Unavailable
                | Trouble::LostBefore
                | Trouble::FailedSnapshot
                | Trouble::HalfSnapshot
                | Trouble::BrokenStream,
            ) => Err(VaultError::Unavailable("503".into())),
        }
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// Lower-case hex of the BLAKE3 of these bytes.
pub(super) fn hex_hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn missing(what: &str) -> VaultError {
    VaultError::NotFound(what.to_owned())
}

#[async_trait]
impl Vault for SimVault {
    async fn store(
        &self,
        path: &BackupPath,
        disk: &Disk,
        content: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<StoredDisk, VaultError> {
        let chunks: Vec<Bytes> = content.try_collect().await.map_err(|error| VaultError::Source(error.to_string()))?;
        let bytes: Bytes = chunks.concat().into();
        let name = disk.object_name();
        self.call(move |kept| {
            let stored = StoredDisk {
                disk: disk.clone(),
                bytes: bytes.len() as u64,
                blake3: hash(&bytes),
                // Nothing here reads it: the second hash is for other tools.
                sha256: hash(&bytes),
            };
            let backup = kept.entry(path.clone()).or_default();
            backup.verified = false;
            backup.objects.insert(name, bytes);
            Ok(stored)
        })
        .await
    }

    async fn seal(&self, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError> {
        self.call(|kept| {
            let backup = kept.get_mut(path).ok_or_else(|| missing("backup"))?;
            backup.manifest = Some(manifest.clone());
            Ok(())
        })
        .await
    }

    async fn manifest(&self, path: &BackupPath) -> Result<Manifest, VaultError> {
        self.call(|kept| kept.get(path).and_then(|kept| kept.manifest.clone()).ok_or_else(|| missing("manifest"))).await
    }

    async fn verify(&self, path: &BackupPath) -> Result<Verification, VaultError> {
        self.call(|kept| {
            let backup = kept.get_mut(path).ok_or_else(|| missing("backup"))?;
            let manifest = backup.manifest.as_ref().ok_or_else(|| missing("manifest"))?;
            let mut total = 0;
            for object in &manifest.objects {
                let bytes = backup.objects.get(&object.name).ok_or_else(|| missing(&object.name))?;
                total += bytes.len() as u64;
                if bytes.len() as u64 != object.bytes || hex_hash(bytes) != object.blake3 {
                    return Ok(Verification::Damaged { at: object.name.clone(), damage: Damage::Hash("BLAKE3") });
                }
            }
            backup.verified = true;
            Ok(Verification::Equal { bytes: total })
        })
        .await
    }

    async fn read(&self, path: &BackupPath, name: &str) -> Result<BoxStream<'static, io::Result<Bytes>>, VaultError> {
        self.call(|kept| {
            let bytes = kept.get(path).and_then(|kept| kept.objects.get(name)).cloned().ok_or_else(|| missing(name))?;
            Ok(stream::iter([Ok(bytes)]).boxed())
        })
        .await
    }

    async fn delete(&self, path: &BackupPath) -> Result<(), VaultError> {
        self.call(|kept| {
            kept.remove(path);
            Ok(())
        })
        .await
    }

    async fn list(&self, cloud: &CloudName, vm: VmId) -> Result<Vec<BackupId>, VaultError> {
        self.call(|kept| {
            let complete =
                kept.iter().filter(|(path, kept)| path.cloud == *cloud && path.vm == vm && kept.manifest.is_some());
            Ok(complete.map(|(path, _)| path.backup).collect())
        })
        .await
    }
}

//! A vault: where backups are kept for long. A backup is complete when its manifest is there; the manifest is written
//! last, aside, and renamed.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_lifecycle::effect::{Disk, StoredDisk};
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, CloudName, Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// Why a vault failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// There is no such backup or object.
    #[error("not found: {0}")]
    NotFound(String),
    /// The vault is full or may not be written.
    #[error("cannot be written: {0}")]
    NotWritable(String),
    /// What is there is not what its manifest says, or no manifest.
    #[error("damaged: {0}")]
    Damaged(String),
    /// No effect; the same again may work.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It may have had its effect or not.
    #[error("no answer: {0}")]
    Unknown(String),
    /// It cannot be decrypted here: the key is not configured, or is another than it was encrypted with.
    #[error("key: {0}")]
    Key(String),
    /// The source of the content failed while it was read.
    #[error("source: {0}")]
    Source(String),
}

/// Where a backup is kept: `<cloud>/<vm>/<backup>/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackupPath {
    /// The cloud.
    pub cloud: CloudName,
    /// The VM.
    pub vm: VmId,
    /// The backup.
    pub backup: BackupId,
}

/// What a complete backup holds. How a vault writes it down, and in which format, is its own matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Which backup.
    pub backup: BackupId,
    /// Of which VM.
    pub vm: VmId,
    /// What for.
    pub purpose: BackupPurpose,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// Its objects.
    pub objects: Vec<ManifestObject>,
}

/// An object of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestObject {
    /// Its file name.
    pub name: String,
    /// Which disk it holds.
    pub disk: Disk,
    /// Its size in bytes, plain, however the vault keeps it.
    pub bytes: u64,
    /// BLAKE3, lower-case hex.
    pub blake3: String,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// What reading a backup back showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// Every object equals the manifest.
    Equal {
        /// Size of all objects.
        bytes: u64,
    },
    /// Something does not.
    Damaged {
        /// Where.
        at: String,
        /// How.
        damage: Damage,
    },
}

/// How what is in a vault differs from what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is not there.
    #[error("missing")]
    Missing,
    /// It has another size.
    #[error("{found} bytes, the manifest says {listed}")]
    Length {
        /// What it has.
        found: u64,
        /// What it should have.
        listed: u64,
    },
    /// It has another hash; which one is named.
    #[error("{0} differs from the manifest")]
    Hash(&'static str),
    /// It was not encrypted with this key for this place.
    #[error("was not encrypted by the vault's key for this place")]
    Forged,
    /// It does not unpack.
    #[error("cannot be decompressed")]
    Compression,
    /// It is no part of a stored object.
    #[error("is no part of an object")]
    NoPart,
    /// The list of an object's parts cannot be read.
    #[error("{0}")]
    Index(String),
}

/// A vault.
#[async_trait]
pub trait Vault: Send + Sync + 'static {
    /// Stores one disk; overwrites what an earlier attempt left.
    async fn store(
        &self,
        path: &BackupPath,
        disk: &Disk,
        content: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<StoredDisk, VaultError>;

    /// Writes the manifest; the backup is complete afterwards. The same again changes nothing.
    async fn seal(&self, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError>;

    /// The manifest of a complete backup.
    async fn manifest(&self, path: &BackupPath) -> Result<Manifest, VaultError>;

    /// Reads every object back and compares size and hashes with the manifest.
    async fn verify(&self, path: &BackupPath) -> Result<Verification, VaultError>;

    /// The content of one object of a complete backup.
    async fn read(
        &self,
        path: &BackupPath,
        name: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, VaultError>;

    /// Removes a backup, complete or not. Nothing there is no error.
    async fn delete(&self, path: &BackupPath) -> Result<(), VaultError>;

    /// Every complete backup of a VM.
    async fn list(&self, cloud: &CloudName, vm: VmId) -> Result<Vec<BackupId>, VaultError>;
}

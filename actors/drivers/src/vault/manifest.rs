//! The manifest: what a complete backup holds. Every manifest is foreign until it was checked.
//!
//! Format 1 lists objects that are files as they came; it is read and no longer written. Format 2 lists beside each object
//! its stored form: which index, how many parts, how large, and the key. The index lists the hash of every stored part,
//! and the manifest the hash of the index.

use std::collections::BTreeSet;

use reeve_ports::vault::{BackupPath, Manifest, ManifestObject};
use reeve_protocol::bounds::check_bounds;
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, Timestamp, VmId};
use serde::{Deserialize, Serialize};

use super::hex;
use super::key::KeyMark;

/// The format that this version writes. It reads every one up to it.
pub const FORMAT: u32 = 2;
/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;
/// The most objects of one backup: the root disk and 64 volumes.
pub const MAX_OBJECTS: usize = 65;

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    format: u32,
    backup: BackupId,
    vm: VmId,
    purpose: BackupPurpose,
    sealed_at: Timestamp,
    pub(super) objects: Vec<Object>,
}

/// An object, and in format 2 how it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Object {
    #[serde(flatten)]
    pub(super) plain: ManifestObject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<Stored>,
}

/// How an object is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    /// The size of all parts as they are stored.
    pub(super) bytes: u64,
    pub(super) parts: u32,
    /// BLAKE3 of the index, which lists the BLAKE3 of every part as it is stored.
    pub(super) index: String,
    /// The key; none: not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<KeyMark>,
}

impl File {
    pub(super) fn new(manifest: &Manifest, stored: Vec<Stored>) -> Self {
        let Manifest { backup, vm, purpose, sealed_at, objects } = manifest.clone();
        let objects = objects.into_iter().zip(stored).map(|(plain, stored)| Object { plain, stored: Some(stored) });
        Self { format: FORMAT, backup, vm, purpose, sealed_at, objects: objects.collect() }
    }

    /// What it says to others.
    pub(super) fn manifest(self) -> Manifest {
        let Self { format: _, backup, vm, purpose, sealed_at, objects } = self;
        Manifest { backup, vm, purpose, sealed_at, objects: objects.into_iter().map(|object| object.plain).collect() }
    }

    /// As JSON for people, with a line end.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|why| why.to_string())?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(format!("{} bytes, a manifest has at most {MAX_MANIFEST_BYTES}", bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads the manifest of this backup; a newer format is named as such before anything else of it is looked at.
    pub(super) fn decode(path: &BackupPath, bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let most = usize::try_from(MAX_MANIFEST_BYTES).expect("1 MiB fits");
        let text = check_bounds(bytes, most).map_err(|why| why.to_string())?;
        let found: Format = serde_json::from_str(text).map_err(|why| format!("no manifest: {why}"))?;
        if found.format == 0 || found.format > FORMAT {
            return Err(format!("format {}, this version reads 1 to {FORMAT}", found.format));
        }
        let file: Self = serde_json::from_str(text).map_err(|why| format!("no manifest: {why}"))?;
        for object in &file.objects {
            let sound = object.stored.as_ref().is_none_or(|stored| is_hash(&stored.index));
            if object.stored.is_some() != (file.format > 1) || !sound {
                return Err(format!("object {:?} does not say how it is stored", object.plain.name));
            }
        }
        check(path, &file.clone().manifest())?;
        Ok(file)
    }
}

/// Whether a manifest is that of this backup and makes sense.
pub(super) fn check(path: &BackupPath, manifest: &Manifest) -> Result<(), String> {
    if manifest.backup != path.backup {
        return Err(format!("the manifest is that of backup {}", manifest.backup));
    }
    if manifest.vm != path.vm {
        return Err(format!("the manifest is that of VM {}", manifest.vm));
    }
    if manifest.objects.is_empty() || manifest.objects.len() > MAX_OBJECTS {
        return Err(format!("{} objects, expected 1 to {MAX_OBJECTS}", manifest.objects.len()));
    }
    let mut names = BTreeSet::new();
    for listed in &manifest.objects {
        if listed.name != listed.disk.object_name() {
            return Err(format!("object {:?} does not name its disk", listed.name));
        }
        if !names.insert(&listed.name) {
            return Err(format!("object {:?} is listed twice", listed.name));
        }
        if !is_hash(&listed.blake3) || !is_hash(&listed.sha256) {
            return Err(format!("object {:?} has a hash that is not 64 lower-case hex digits", listed.name));
        }
    }
    Ok(())
}

fn is_hash(text: &str) -> bool {
    hex::decode::<32>(text).is_some()
}

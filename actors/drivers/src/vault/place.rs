//! Where things are in a vault, and how a folder is kept in order.

use std::fmt::Write;
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt;
use opendal::{ErrorKind, Operator};
use reeve_ports::vault::{BackupPath, VaultError};
use reeve_protocol::{CloudName, VmId};
use uuid::Uuid;

use super::error;
use super::index::{MAX_PARTS, index_name, part_name};

const ASIDE: &str = ".part";
/// The most names of a folder that are looked at to be swept: the parts of a few attempts.
const MAX_SWEPT: usize = MAX_PARTS as usize * 4;

/// The service that holds a vault.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) operator: Operator,
    /// Whether content is written aside and renamed.
    pub(super) renames: bool,
    name: String,
    /// The folder, if the service is the local file system: folders are synced.
    folder: Option<PathBuf>,
}

impl Place {
    pub(super) fn new(operator: Operator, name: String, folder: Option<PathBuf>) -> Self {
        let renames = operator.info().capability().rename;
        Self { operator, renames, name, folder }
    }

    /// A path as errors name it.
    pub(super) fn show(&self, path: &str) -> String {
        format!("{}/{path}", self.name)
    }

    /// Syncs this folder and those above it up to the vault's own, so that new names survive a power cut.
    pub(super) async fn sync(&self, folder: &str) -> Result<(), VaultError> {
        let Some(root) = self.folder.clone() else { return Ok(()) };
        let shown = self.show(folder);
        let mut at = root.join(folder.trim_end_matches('/'));
        let synced = tokio::task::spawn_blocking(move || {
            loop {
                match std::fs::File::open(&at).and_then(|folder| folder.sync_all()) {
                    Ok(()) => {}
                    Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
                    Err(why) => return Err(why),
                }
                if at == root || !at.pop() {
                    return Ok(());
                }
            }
        });
        let synced = synced.await.map_err(|why| VaultError::Unavailable(format!("{shown}: {why}")))?;
        synced.map_err(|why| error::of_io(&shown, &why))
    }

    /// Writes a file whole, aside first where the service can rename. Its folder is not synced yet.
    pub(super) async fn put(&self, path: &str, bytes: Bytes) -> Result<(), VaultError> {
        let failed = |why: opendal::Error| error::of_write(&self.show(path), &why);
        if !self.renames {
            return self.operator.write(path, bytes).await.map(drop).map_err(failed);
        }
        let aside = attempt(path);
        let written = self.operator.write(&aside, bytes).await;
        let put = match written {
            Ok(_) => self.operator.rename(&aside, path).await,
            Err(why) => Err(why),
        };
        if let Err(why) = put {
            // Best effort: what stays is swept with the backup.
            if self.operator.delete(&aside).await.is_err() {
                tracing::debug!(path = self.show(&aside), "a leftover of a failed attempt stays");
            }
            return Err(failed(why));
        }
        Ok(())
    }

    /// Reads a file of at most this many bytes.
    pub(super) async fn get(&self, path: &str, most: u64) -> Result<Vec<u8>, VaultError> {
        let shown = self.show(path);
        let meta = self.operator.stat(path).await.map_err(|why| error::of_read(&shown, &why))?;
        let length = meta.content_length();
        if length > most {
            return Err(VaultError::Damaged(format!("{shown}: {length} bytes, at most {most} are read")));
        }
        // A range, so that what grows meanwhile is not read beyond the limit.
        let read = self.operator.read_with(path).range(0..length).await;
        Ok(read.map_err(|why| error::of_read(&shown, &why))?.to_vec())
    }

    /// The names in a folder, which need not be there.
    pub(super) async fn names(&self, folder: &str, most: usize) -> Result<Vec<String>, VaultError> {
        let failed = |why: opendal::Error| error::of_read(&self.show(folder), &why);
        let mut entries = match self.operator.lister(folder).await {
            Ok(entries) => entries,
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(failed(why)),
        };
        let mut names = Vec::new();
        while let Some(entry) = entries.next().await {
            match entry {
                // Some services list the folder itself.
                Ok(entry) if folder.ends_with(entry.path()) => {}
                Ok(entry) => names.push(entry.name().to_owned()),
                Err(why) if why.kind() == ErrorKind::NotFound => break,
                Err(why) => return Err(failed(why)),
            }
            if names.len() >= most {
                break;
            }
        }
        Ok(names)
    }

    /// Removes files of a folder that nobody needs: what attempts left that did not come to their end. What cannot be
    /// removed goes with the backup.
    pub(super) async fn sweep(&self, folder: &str, needless: impl Fn(&str) -> bool) {
        let Ok(names) = self.names(folder, MAX_SWEPT).await else { return };
        for name in names.iter().filter(|name| needless(name)) {
            let path = format!("{folder}{name}");
            if let Err(why) = self.operator.delete(&path).await {
                tracing::warn!(path = self.show(&path), error = %why, "a leftover of a backup stays");
            }
        }
    }
}

/// Where the parts of an object are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectPlace {
    /// Its name, which may be foreign.
    pub(super) name: String,
    /// Its path: what format 1 kept it under, and what the keys of format 2 are bound to.
    pub(super) path: String,
    /// The folder of its parts.
    pub(super) folder: String,
}

impl ObjectPlace {
    pub(super) fn new(path: &BackupPath, name: &str) -> Self {
        let at = object(path, name);
        Self { name: name.to_owned(), folder: format!("{at}.parts/"), path: at }
    }

    pub(super) fn part(&self, number: u32, id: &[u8; 16], blake3: &[u8; 32]) -> String {
        format!("{}{}", self.folder, part_name(number, id, blake3))
    }

    pub(super) fn index(&self, content: &str, index: &str) -> String {
        format!("{}{}", self.folder, index_name(content, index))
    }
}

/// Whether a name is that of something half written.
pub(super) fn is_aside(name: &str) -> bool {
    name.ends_with(ASIDE)
}

/// A path aside of this one, of this attempt alone: two attempts at once never write to one file.
pub(super) fn attempt(path: &str) -> String {
    format!("{path}.{}{ASIDE}", Uuid::new_v4().simple())
}

/// `<cloud>/<vm>/`.
pub(super) fn of_vm(cloud: &CloudName, vm: VmId) -> String {
    format!("{}/{vm}/", component(cloud.as_str()))
}

/// `<cloud>/<vm>/<backup>/`.
pub(super) fn folder(path: &BackupPath) -> String {
    format!("{}{}/", of_vm(&path.cloud, path.vm), path.backup)
}

/// The path of an object.
fn object(path: &BackupPath, name: &str) -> String {
    format!("{}{}", folder(path), component(name))
}

/// The path of the manifest.
pub(super) fn manifest(path: &BackupPath) -> String {
    format!("{}manifest.json", folder(path))
}

/// A foreign name as one component of a path: what could leave the folder, hide or be taken for a leftover is written
/// `%XX`, as in a URL.
fn component(name: &str) -> String {
    let mut safe = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && at > 0);
        if plain {
            safe.push(char::from(byte));
        } else {
            write!(safe, "%{byte:02X}").expect("a string takes all");
        }
    }
    if safe.ends_with(ASIDE) || safe == "manifest.json" { safe.replace('.', "%2E") } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_name_never_leaves_its_folder() {
        assert_eq!(component("volume-a07f71dc"), "volume-a07f71dc");
        assert_eq!(component("volume-../../x"), "volume-..%2F..%2Fx");
        assert_eq!(component(".."), "%2E.");
        assert_eq!(component("a.part"), "a%2Epart");
        assert_eq!(component("manifest.json"), "manifest%2Ejson");
        assert_eq!(component("é/\\"), "%C3%A9%2F%5C");
    }
}

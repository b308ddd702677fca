//! Where things are in a vault, and how a folder is kept in order.

use std::fmt::Write;
use std::path::PathBuf;

use futures::StreamExt;
use opendal::Operator;
use reeve_ports::vault::{BackupPath, VaultError};
use reeve_protocol::{CloudName, VmId};
use uuid::Uuid;

use super::error;

const ASIDE: &str = ".part";

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

    /// Removes what killed attempts left in a folder. What cannot be removed goes with the backup.
    pub(super) async fn sweep(&self, folder: &str) {
        if !self.renames {
            return;
        }
        let Ok(mut entries) = self.operator.lister(folder).await else { return };
        while let Some(Ok(entry)) = entries.next().await {
            if entry.name().ends_with(ASIDE)
                && let Err(why) = self.operator.delete(entry.path()).await
            {
                tracing::warn!(path = self.show(entry.path()), error = %why, "a leftover of a backup stays");
            }
        }
    }
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
pub(super) fn object(path: &BackupPath, name: &str) -> String {
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

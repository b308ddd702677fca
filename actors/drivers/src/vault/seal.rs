//! Seals a backup: finds what its objects are stored as, writes the manifest, and removes what is not part of it.

use std::collections::BTreeSet;

use reeve_ports::vault::{BackupPath, Manifest, ManifestObject, VaultError};

use super::index::{Index, MAX_PARTS, index_name, part_name};
use super::manifest::{File, Stored};
use super::place::{self, ObjectPlace, Place};
use super::read::{self, Trouble};

/// More names than a few attempts leave.
const MAX_NAMES: usize = MAX_PARTS as usize * 4;

/// Refuses what is not all there.
pub(super) async fn seal(place: &Place, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError> {
    let (mut stored, mut needed) = (Vec::new(), Vec::new());
    for listed in &manifest.objects {
        let at = ObjectPlace::new(path, &listed.name);
        let names = place.names(&at.folder, MAX_NAMES).await?.into_iter().collect();
        let (form, parts) = find(place, &at, listed, &names).await?;
        stored.push(form);
        needed.push((at.folder, parts));
    }
    let at = place::manifest(path);
    let file = File::new(manifest, stored).encode().map_err(VaultError::Damaged)?;
    place.put(&at, file.into()).await?;
    let folder = place::folder(path);
    place.sync(&folder).await?;
    place.sweep(&folder, place::is_aside).await;
    for (folder, parts) in needed {
        place.sweep(&folder, |name| !parts.contains(name)).await;
    }
    Ok(())
}

/// An index of this content whose parts are all there, and the names of its files.
async fn find(
    place: &Place,
    at: &ObjectPlace,
    listed: &ManifestObject,
    names: &BTreeSet<String>,
) -> Result<(Stored, BTreeSet<String>), VaultError> {
    let shown = place.show(&at.path);
    let mut why = "missing".to_owned();
    let prefix = format!("{}-", listed.blake3);
    for name in names.iter().filter(|name| name.starts_with(&prefix)) {
        let Some(hash) = name[prefix.len()..].strip_suffix(".index") else { continue };
        let index = match read::index(place, &at.index(&listed.blake3, hash), hash).await {
            Ok(index) => index,
            // Another attempt's may be sound.
            Err(Trouble::Damage { damage, .. }) => {
                why = damage.to_string();
                continue;
            }
            Err(Trouble::Vault(why)) => return Err(why),
        };
        if index.bytes != listed.bytes {
            why = format!("{} bytes, the manifest says {}", index.bytes, listed.bytes);
        } else if index.name != at.name || index.blake3 != listed.blake3 || index.sha256 != listed.sha256 {
            why = "stored is something else than the manifest says".to_owned();
        } else {
            let mut files: BTreeSet<String> = part_names(&index).collect();
            if let Some(missing) = files.iter().find(|file| !names.contains(*file)) {
                why = format!("part {missing} is missing");
                continue;
            }
            files.insert(index_name(&listed.blake3, hash));
            let parts = u32::try_from(index.parts.len()).expect("an index has few parts");
            let bytes = index.stored_bytes();
            return Ok((Stored { bytes, parts, index: hash.to_owned(), key: index.key }, files));
        }
    }
    Err(VaultError::Damaged(format!("{shown}: {why}, so the backup cannot be sealed")))
}

fn part_names(index: &Index) -> impl Iterator<Item = String> + '_ {
    index.parts.iter().zip(0..).map(|(part, number)| part_name(number, &part.id, &part.blake3))
}

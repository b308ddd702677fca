//! Backups as versions of Reeve wrote them: every later one reads them.
//!
//! The encrypted one holds random nonces, so it was written once and is kept: 25,000 bytes in three parts, under the keys
//! of [`ring`]`(&["golden"])`.

use super::*;

const CLOUD: &str = "golden";
const VM: &str = "00000000-0000-0000-0000-000000000005";

fn path(backup: &str) -> BackupPath {
    let (cloud, vm) = (CloudName::new(CLOUD).unwrap(), VM.parse().unwrap());
    BackupPath { cloud, vm, backup: backup.parse().unwrap() }
}

fn golden() -> OpendalVault {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vault");
    OpendalVault::in_folder(folder).unwrap().with(packing(&["other", "golden"]))
}

async fn read(path: &BackupPath, name: &str) -> Vec<u8> {
    let chunks: Vec<Bytes> = golden().read(path, name).await.unwrap().try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test]
async fn format_1_is_read() {
    let path = path("00000000-0000-0000-0000-000000000001");
    assert_eq!(golden().verify(&path).await, Ok(Verification::Equal { bytes: 1 }));
    assert_eq!(read(&path, "root").await, [0]);
    assert!(read(&path, "volume-v1").await.is_empty());
}

#[tokio::test]
async fn format_2_is_read() {
    let path = path("00000000-0000-0000-0000-000000000002");
    assert_eq!(golden().verify(&path).await, Ok(Verification::Equal { bytes: 25_000 }));
    assert_eq!(read(&path, "root").await, content(1, 25_000));
}

#[tokio::test]
async fn damage_to_format_1_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = path("00000000-0000-0000-0000-000000000001");
    let to = folder.path().join(place::folder(&path));
    std::fs::create_dir_all(&to).unwrap();
    let from = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vault/");
    let manifest = std::fs::read(std::path::Path::new(from).join(place::manifest(&path))).unwrap();
    std::fs::write(to.join("manifest.json"), manifest).unwrap();
    let vault = OpendalVault::in_folder(folder.path()).unwrap();
    let damage = || async {
        match vault.verify(&path).await {
            Ok(Verification::Damaged { damage, .. }) => damage,
            other => panic!("damage was not seen: {other:?}"),
        }
    };
    assert_eq!(damage().await, Damage::Missing);
    std::fs::write(to.join("root"), [1]).unwrap();
    assert_eq!(damage().await, Damage::Hash("BLAKE3"));
    std::fs::write(to.join("root"), [0, 0]).unwrap();
    assert_eq!(damage().await, Damage::Length { found: 2, listed: 1 });
}

//! The suite on both services, then what only a folder can show: leftovers of a crash, damage, a folder that is closed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reeve_ports::conformance::vault::{content, path_of, run, sealed};
use reeve_protocol::VmId;
use uuid::Uuid;

use super::*;

struct Fixture {
    _folder: tempfile::TempDir,
    root: PathBuf,
    vault: OpendalVault,
    path: BackupPath,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("vault");
        let vault = OpendalVault::in_folder(&root).unwrap();
        let path = path_of(VmId::new(Uuid::from_u128(5)));
        Self { _folder: folder, root, vault, path }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(place::folder(&self.path))
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn damage(&self) -> String {
        match self.vault.verify(&self.path).await {
            Ok(Verification::Damaged { what }) => what,
            other => panic!("damage was not seen: {other:?}"),
        }
    }
}

fn assert_driver<T: Send + Sync + 'static>() {}

#[test]
fn a_vault_may_go_to_any_thread() {
    assert_driver::<OpendalVault>();
}

#[tokio::test]
async fn a_folder_passes_the_suite() {
    let folder = tempfile::tempdir().unwrap();
    let vault: Arc<dyn Vault> = Arc::new(OpendalVault::in_folder(folder.path()).unwrap());
    run(|| std::future::ready(vault.clone())).await;
}

#[tokio::test]
async fn memory_passes_the_suite() {
    run(|| async { Arc::new(OpendalVault::in_memory().unwrap()) as Arc<dyn Vault> }).await;
}

#[tokio::test]
async fn a_killed_store_leaves_nothing_under_the_final_name_and_sealing_sweeps_it() {
    let fixture = Fixture::new();
    let endless = futures::stream::iter([Ok(Bytes::from(content(1, 1_000)))]).chain(futures::stream::pending());
    let store = fixture.vault.store(&fixture.path, &Disk::Root, endless.boxed());
    let killed = tokio::time::timeout(std::time::Duration::from_millis(200), store).await;
    assert!(killed.is_err(), "the store cannot have ended");
    let left = fixture.files();
    assert!(left.len() == 1 && left[0].ends_with(".part"), "{left:?}");
    sealed(&fixture.vault, &fixture.path).await;
    assert_eq!(fixture.files(), ["manifest.json", "root", "volume-v1"]);
}

#[tokio::test]
async fn a_failed_store_removes_what_it_wrote_aside() {
    let fixture = Fixture::new();
    let broken = futures::stream::iter([Ok(Bytes::from("x")), Err(std::io::Error::other("broke"))]);
    let stored = fixture.vault.store(&fixture.path, &Disk::Root, broken.boxed()).await;
    assert_eq!(stored, Err(VaultError::Source("broke".to_owned())));
    assert!(fixture.files().is_empty(), "{:?}", fixture.files());
}

#[tokio::test]
async fn a_flipped_byte_is_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let root = fixture.folder().join("root");
    let mut bytes = std::fs::read(&root).unwrap();
    bytes[77_777] ^= 1;
    std::fs::write(&root, bytes).unwrap();
    let what = fixture.damage().await;
    assert!(what.contains("/root: BLAKE3 differs"), "{what}");
}

#[tokio::test]
async fn a_truncated_object_is_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    std::fs::File::options().write(true).open(fixture.folder().join("root")).unwrap().set_len(99_999).unwrap();
    let what = fixture.damage().await;
    assert!(what.contains("99999 bytes, the manifest says 100000"), "{what}");
}

#[tokio::test]
async fn a_missing_object_is_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    std::fs::remove_file(fixture.folder().join("volume-v1")).unwrap();
    let what = fixture.damage().await;
    assert!(what.contains("volume-v1: missing"), "{what}");
}

#[tokio::test]
async fn a_sha256_of_something_else_is_damage() {
    let fixture = Fixture::new();
    let mut manifest = sealed(&fixture.vault, &fixture.path).await;
    manifest.objects[0].sha256 = "0".repeat(64);
    std::fs::write(fixture.folder().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let what = fixture.damage().await;
    assert!(what.contains("SHA-256 differs"), "{what}");
}

#[tokio::test]
async fn a_manifest_of_another_backup_is_no_backup() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let other = BackupPath { backup: path_of(fixture.path.vm).backup, ..fixture.path.clone() };
    let folder = fixture.root.join(place::folder(&other));
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(fixture.folder().join("manifest.json"), folder.join("manifest.json")).unwrap();
    let error = fixture.vault.verify(&other).await.unwrap_err();
    assert!(matches!(&error, VaultError::Damaged(why) if why.contains("is that of backup")), "{error}");
}

#[tokio::test]
async fn a_bad_manifest_is_an_error_that_names_its_path() {
    let fixture = Fixture::new();
    let good = sealed(&fixture.vault, &fixture.path).await;
    let at = fixture.folder().join("manifest.json");
    let mut twice = good.clone();
    twice.objects.push(twice.objects[0].clone());
    let newer = br#"{"format": 2, "something": "else"}"#.to_vec();
    let huge = vec![b' '; usize::try_from(MAX_MANIFEST_BYTES).unwrap() + 1];
    let nested = "[".repeat(10_000).into_bytes();
    for (bad, why) in [
        (b"{\"format\": 1,".to_vec(), "no manifest"),
        (Vec::new(), "no manifest"),
        (newer, "format 2, this version reads 1"),
        (huge, "at most 1048576"),
        (nested, "nested deeper"),
        (vec![0xff, 0xfe], "not UTF-8"),
        (serde_json::to_vec(&twice).unwrap(), "listed twice"),
    ] {
        std::fs::write(&at, bad).unwrap();
        let error = fixture.vault.verify(&fixture.path).await.unwrap_err();
        let VaultError::Damaged(text) = &error else { panic!("{why}: {error}") };
        assert!(text.contains(why) && text.contains(at.to_str().unwrap()), "{why}: {text}");
    }
    fixture.vault.seal(&fixture.path, &good).await.unwrap();
    assert!(matches!(fixture.vault.verify(&fixture.path).await, Ok(Verification::Equal { .. })), "a seal repairs it");
}

#[tokio::test]
async fn a_vault_that_cannot_be_written_says_so_and_where() {
    let fixture = Fixture::new();
    fixture.vault.probe_writable().await.unwrap();
    assert_eq!(std::fs::read_dir(&fixture.root).unwrap().count(), 0, "the probe leaves nothing");
    // A file where a folder is needed refuses even root, whom permissions do not stop.
    std::fs::write(fixture.root.join("conformance"), "in the way").unwrap();
    let content = futures::stream::iter([Ok(Bytes::from("x"))]).boxed();
    let error = fixture.vault.store(&fixture.path, &Disk::Root, content).await.unwrap_err();
    let VaultError::NotWritable(why) = &error else { panic!("{error}") };
    assert!(why.contains(fixture.root.to_str().unwrap()), "{why}");
    std::fs::remove_file(fixture.root.join("conformance")).unwrap();
    std::fs::remove_dir(&fixture.root).unwrap();
    std::fs::write(&fixture.root, "no folder").unwrap();
    let error = fixture.vault.probe_writable().await.unwrap_err();
    assert!(matches!(&error, VaultError::NotWritable(why) if why.contains("cannot be written")), "{error}");
}

/// `/dev/full` refuses every write as a full disk does.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_not_writable() {
    use std::io::Write;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
    assert!(matches!(error::of_io("/vault/x", &full), VaultError::NotWritable(why) if why.contains("/vault/x")));
    let wrapped = opendal::Error::new(ErrorKind::Unexpected, "write").set_source(full);
    assert!(matches!(error::of_write("/vault/x", &wrapped), VaultError::NotWritable(_)));
}

#[tokio::test]
async fn a_url_names_a_folder_or_says_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a b");
    let url = format!("file://{}", root.to_str().unwrap().replace(' ', "%20"));
    vault_from_url(&url).unwrap().probe_writable().await.unwrap();
    assert!(Path::new(&root).is_dir());
    for (url, why) in [
        ("/var/lib/reeve", "is no URL"),
        ("s3://key:secret@bucket", "scheme \"s3\" is not supported"),
        ("file://host/path", "names no local folder"),
        ("file:///bad%zz", "names no local folder"),
    ] {
        let error = vault_from_url(url).unwrap_err().to_string();
        assert!(error.contains(why) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_manifest_is_read_by_the_names_that_it_was_written_with() {
    let fixture = Fixture::new();
    let manifest = sealed(&fixture.vault, &fixture.path).await;
    let text = std::fs::read_to_string(fixture.folder().join("manifest.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["format"], 1);
    assert_eq!(value["sealed_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(value["objects"][0]["name"], "root");
    assert_eq!(value["objects"][0]["bytes"], 100_000);
    assert_eq!(value["objects"][0]["blake3"], manifest.objects[0].blake3.as_str());
}

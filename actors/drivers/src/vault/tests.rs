//! The suite on both services, then what only a folder can show: leftovers of a crash, a folder that is closed.

mod damage;
mod golden;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;

use reeve_ports::conformance::vault::{content, path_of, run, sealed};
use reeve_ports::vault::Damage;
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
        let vault = OpendalVault::in_folder(&root).unwrap().with(packing(&["new"]));
        let path = path_of(VmId::new(Uuid::from_u128(5)));
        Self { _folder: folder, root, vault, path }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(place::folder(&self.path))
    }

    fn files(&self) -> Vec<String> {
        names(&self.folder())
    }

    /// The names of an object's parts, in their order.
    fn parts(&self, object: &str) -> Vec<String> {
        let names = names(&self.folder().join(format!("{object}.parts")));
        names.into_iter().filter(|name| index::read_part_name(name).is_some()).collect()
    }

    fn part(&self, object: &str, number: usize) -> PathBuf {
        self.folder().join(format!("{object}.parts")).join(&self.parts(object)[number])
    }

    async fn store(
        &self,
        content: impl Iterator<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<StoredDisk, VaultError> {
        self.vault.store(&self.path, &Disk::Root, futures::stream::iter(content).boxed()).await
    }

    async fn damage(&self) -> (String, Damage) {
        match self.vault.verify(&self.path).await {
            Ok(Verification::Damaged { at, damage }) => (at, damage),
            other => panic!("damage was not seen: {other:?}"),
        }
    }
}

/// What is in a folder; nothing if it is not there.
fn names(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn ring(ids: &[&str]) -> KeyRing {
    // The bytes follow from the id.
    let key = |id: &&str| VaultKey::new(id, &hex::encode(blake3::hash(id.as_bytes()).as_bytes())).unwrap();
    KeyRing::new(ids.iter().map(key).collect()).unwrap()
}

/// Small parts, so that little content has many.
fn packing(keys: &[&str]) -> Packing {
    Packing::default().part_bytes(10_000).under_way(3).keys(ring(keys))
}

fn in_chunks(content: Vec<u8>) -> impl Iterator<Item = std::io::Result<Bytes>> {
    let content = Bytes::from(content);
    let starts = (0..content.len()).step_by(777);
    starts.map(move |from| Ok(content.slice(from..content.len().min(from + 777)))).collect::<Vec<_>>().into_iter()
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

/// Compressed and encrypted, or either, or neither; parts larger and smaller than the contents of the suite.
#[tokio::test]
async fn a_folder_passes_the_suite_however_it_packs() {
    for keys in [&[][..], &["k"]] {
        for compression in [Compression::Zstd, Compression::None] {
            let folder = tempfile::tempdir().unwrap();
            let vault = OpendalVault::in_folder(folder.path()).unwrap();
            let vault: Arc<dyn Vault> = Arc::new(vault.with(packing(keys).compression(compression)));
            run(|| std::future::ready(vault.clone())).await;
        }
    }
}

#[tokio::test]
async fn memory_passes_the_suite() {
    run(|| async { Arc::new(OpendalVault::in_memory().unwrap()) as Arc<dyn Vault> }).await;
}

#[tokio::test]
async fn a_store_that_died_is_continued_and_what_it_stored_is_not_sent_again() {
    let fixture = Fixture::new();
    let whole = content(1, 100_000);
    let broken = in_chunks(whole[..65_000].to_vec()).chain([Err(std::io::Error::other("broke"))]);
    assert_eq!(fixture.store(broken).await, Err(VaultError::Source("broke".to_owned())));
    let kept = fixture.parts("root");
    assert!((3..=6).contains(&kept.len()), "all but those that were under way: {kept:?}");
    fixture.store(in_chunks(whole)).await.unwrap();
    let after = fixture.parts("root");
    assert_eq!(after.len(), 10, "one file a part, though each encryption gives other bytes: {after:?}");
    assert!(kept.iter().all(|name| after.contains(name)), "{kept:?} {after:?}");
}

#[tokio::test]
async fn sealing_removes_what_attempts_left_and_nothing_else() {
    let fixture = Fixture::new();
    fixture.store(in_chunks(content(9, 35_000))).await.unwrap();
    std::fs::write(fixture.folder().join("root.parts/00000000-x.1.part"), "half").unwrap();
    std::fs::write(fixture.folder().join("manifest.json.2.part"), "half").unwrap();
    sealed(&fixture.vault, &fixture.path).await;
    assert_eq!(fixture.files(), ["manifest.json", "root.parts", "volume-v1.parts"]);
    assert_eq!(names(&fixture.folder().join("root.parts")).len(), 11, "ten parts and their index");
    assert!(matches!(fixture.vault.verify(&fixture.path).await, Ok(Verification::Equal { .. })));
}

/// A part that another attempt left is used only after a look at it.
#[tokio::test]
async fn a_part_that_is_gone_or_no_part_is_written_again() {
    let fixture = Fixture::new();
    fixture.store(in_chunks(content(1, 100_000))).await.unwrap();
    std::fs::write(fixture.part("root", 3), vec![0; 20_000]).unwrap();
    sealed(&fixture.vault, &fixture.path).await;
    assert_eq!(fixture.vault.verify(&fixture.path).await, Ok(Verification::Equal { bytes: 100_010 }));
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
    let text = std::fs::read_to_string(&at).unwrap();
    let mut twice: serde_json::Value = serde_json::from_str(&text).unwrap();
    let object = twice["objects"][0].clone();
    twice["objects"].as_array_mut().unwrap().push(object);
    let newer = br#"{"format": 3, "something": "else"}"#.to_vec();
    let without_form = text.replace("\"stored\"", "\"other\"").into_bytes();
    let older = text.replace("\"format\": 2", "\"format\": 1").into_bytes();
    let huge = vec![b' '; usize::try_from(MAX_MANIFEST_BYTES).unwrap() + 1];
    let nested = "[".repeat(10_000).into_bytes();
    for (bad, why) in [
        (b"{\"format\": 1,".to_vec(), "no manifest"),
        (Vec::new(), "no manifest"),
        (newer, "format 3, this version reads 1 to 2"),
        (without_form, "does not say how it is stored"),
        (older, "does not say how it is stored"),
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
async fn a_folder_of_a_url_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a b");
    let url: VaultUrl = format!("file://{}", root.to_str().unwrap().replace(' ', "%20")).parse().unwrap();
    url.open(None).unwrap().probe_writable().await.unwrap();
    assert!(root.is_dir());
}

#[tokio::test]
async fn a_manifest_is_read_by_the_names_that_it_was_written_with() {
    let fixture = Fixture::new();
    let manifest = sealed(&fixture.vault, &fixture.path).await;
    let text = std::fs::read_to_string(fixture.folder().join("manifest.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["format"], 2);
    assert_eq!(value["sealed_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(value["objects"][0]["name"], "root");
    assert_eq!(value["objects"][0]["bytes"], 100_000);
    assert_eq!(value["objects"][0]["blake3"], manifest.objects[0].blake3.as_str());
    let stored = &value["objects"][0]["stored"];
    assert_eq!((&stored["parts"], &stored["key"]["id"]), (&10.into(), &"new".into()));
    let bytes: u64 = (0..10).map(|number| std::fs::metadata(fixture.part("root", number)).unwrap().len()).sum();
    assert_eq!(stored["bytes"], bytes);
}

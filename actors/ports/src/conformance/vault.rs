//! What every [`Vault`] must do.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use reeve_lifecycle::effect::{Disk, StoredDisk};
use reeve_protocol::event::BackupPurpose;
use reeve_protocol::{BackupId, CloudName, Timestamp, VmId};
use uuid::Uuid;

use crate::vault::{BackupPath, Manifest, ManifestObject, Vault, VaultError, Verification};

/// Runs the whole suite; each part gets a vault of its own, which may be the same one.
///
/// # Panics
/// When the vault breaks a rule; the message says which.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Vault>>,
{
    what_was_stored_is_read_back(&*make().await).await;
    without_a_manifest_there_is_no_backup(&*make().await).await;
    a_broken_source_leaves_no_object(&*make().await).await;
    an_attempt_that_died_does_not_show(&*make().await).await;
    storing_and_sealing_again_changes_nothing(&*make().await).await;
    what_is_not_there_cannot_be_sealed(&*make().await).await;
    a_manifest_belongs_to_its_backup(&*make().await).await;
    deleting_removes_all_of_one_backup(&*make().await).await;
    only_complete_backups_of_the_vm_are_listed(&*make().await).await;
    foreign_names_stay_in_their_folder(&*make().await).await;
}

/// A new place for a backup of this VM.
#[must_use]
pub fn path_of(vm: VmId) -> BackupPath {
    let cloud = CloudName::new("conformance").expect("a plain name");
    BackupPath { cloud, vm, backup: BackupId::new(Uuid::new_v4()) }
}

/// Some bytes that follow from a number.
#[must_use]
pub fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n % 251) as u8 ^ seed).collect()
}

/// The manifest of these disks.
#[must_use]
pub fn manifest_of(path: &BackupPath, stored: &[StoredDisk]) -> Manifest {
    let hex = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let objects = stored.iter().map(|stored| ManifestObject {
        name: stored.disk.object_name(),
        disk: stored.disk.clone(),
        bytes: stored.bytes,
        blake3: hex(&stored.blake3),
        sha256: hex(&stored.sha256),
    });
    Manifest {
        backup: path.backup,
        vm: path.vm,
        purpose: BackupPurpose::Manual,
        sealed_at: Timestamp::from_millis(1_700_000_000_000),
        objects: objects.collect(),
    }
}

fn in_chunks(content: &[u8]) -> BoxStream<'static, std::io::Result<Bytes>> {
    let chunks: Vec<_> = content.chunks(4_099).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks).boxed()
}

async fn store(vault: &dyn Vault, path: &BackupPath, disk: &Disk, content: &[u8]) -> StoredDisk {
    let stored = vault.store(path, disk, in_chunks(content)).await.expect("a disk is stored");
    assert_eq!((&stored.disk, stored.bytes), (disk, content.len() as u64), "what was stored is told");
    stored
}

/// Stores and seals a backup of a root disk and a volume.
///
/// # Panics
/// When that fails.
pub async fn sealed(vault: &dyn Vault, path: &BackupPath) -> Manifest {
    let root = store(vault, path, &Disk::Root, &content(1, 100_000)).await;
    let volume = store(vault, path, &Disk::Volume("v1".to_owned()), &content(2, 10)).await;
    let manifest = manifest_of(path, &[root, volume]);
    vault.seal(path, &manifest).await.expect("a backup is sealed");
    manifest
}

fn vm() -> VmId {
    VmId::new(Uuid::new_v4())
}

async fn read(vault: &dyn Vault, path: &BackupPath, name: &str) -> Vec<u8> {
    let mut stream = vault.read(path, name).await.expect("an object is read");
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.expect("an object is read without error"));
    }
    all
}

async fn what_was_stored_is_read_back(vault: &dyn Vault) {
    let path = path_of(vm());
    // SHA-256 of nothing (FIPS 180-4 test vectors): the hashes are those that they are called.
    let empty = store(vault, &path, &Disk::Volume("empty".to_owned()), &[]).await;
    assert_eq!(empty.sha256[..4], [0xe3, 0xb0, 0xc4, 0x42], "SHA-256 of nothing");
    assert_eq!(empty.blake3[..4], [0xaf, 0x13, 0x49, 0xb9], "BLAKE3 of nothing");
    let manifest = sealed(vault, &path).await;
    assert_eq!(vault.manifest(&path).await, Ok(manifest.clone()), "a manifest is read as it was written");
    assert!(read(vault, &path, "root").await == content(1, 100_000), "the root disk is read as it was stored");
    assert!(read(vault, &path, "volume-v1").await == content(2, 10), "a volume is read as it was stored");
    assert_eq!(vault.verify(&path).await, Ok(Verification::Equal { bytes: 100_010 }));
    let missing = vault.read(&path, "volume-none").await.err();
    assert!(matches!(missing, Some(VaultError::NotFound(_))), "an object that is not listed: {missing:?}");
}

async fn without_a_manifest_there_is_no_backup(vault: &dyn Vault) {
    let path = path_of(vm());
    store(vault, &path, &Disk::Root, &content(1, 10)).await;
    assert!(matches!(vault.manifest(&path).await, Err(VaultError::NotFound(_))), "an unsealed backup has no manifest");
    assert!(matches!(vault.verify(&path).await, Err(VaultError::NotFound(_))), "an unsealed backup is not verified");
    let read = vault.read(&path, "root").await.err();
    assert!(matches!(read, Some(VaultError::NotFound(_))), "an unsealed backup is not read: {read:?}");
}

async fn a_broken_source_leaves_no_object(vault: &dyn Vault) {
    let path = path_of(vm());
    let broken = [Ok(Bytes::from(content(1, 5_000))), Err(std::io::Error::other("the source broke"))];
    let stored = vault.store(&path, &Disk::Root, stream::iter(broken).boxed()).await;
    assert!(matches!(stored, Err(VaultError::Source(_))), "a broken source: {stored:?}");
    let whole = store(vault, &path, &Disk::Volume("v1".to_owned()), &content(1, 5_000)).await;
    let claimed = StoredDisk { disk: Disk::Root, ..whole };
    let sealed = vault.seal(&path, &manifest_of(&path, &[claimed])).await;
    assert!(matches!(sealed, Err(VaultError::Damaged(_))), "what a broken source left was sealed: {sealed:?}");
}

/// An attempt that broke off leaves something that the next one may use, and that does it no harm when the content is
/// another by then.
async fn an_attempt_that_died_does_not_show(vault: &dyn Vault) {
    let (first, second) = (content(3, 300_000), content(4, 250_000));
    for whole in [&first, &second] {
        let path = path_of(vm());
        for died_at in [0, 70_000, 200_000] {
            let mut chunks: Vec<_> = first[..died_at].chunks(4_099).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            chunks.push(Err(std::io::Error::other("the source broke")));
            let stored = vault.store(&path, &Disk::Root, stream::iter(chunks).boxed()).await;
            assert!(matches!(stored, Err(VaultError::Source(_))), "a broken source: {stored:?}");
        }
        let root = store(vault, &path, &Disk::Root, whole).await;
        vault.seal(&path, &manifest_of(&path, &[root])).await.expect("the attempt that came to its end is sealed");
        assert!(read(vault, &path, "root").await == *whole, "the disk is read as the last attempt stored it");
        let verified = vault.verify(&path).await;
        assert_eq!(verified, Ok(Verification::Equal { bytes: whole.len() as u64 }), "what died does not show");
    }
}

async fn storing_and_sealing_again_changes_nothing(vault: &dyn Vault) {
    let path = path_of(vm());
    let longer = store(vault, &path, &Disk::Root, &content(9, 200_000)).await;
    assert_eq!(longer.bytes, 200_000);
    let manifest = sealed(vault, &path).await;
    assert!(
        matches!(vault.verify(&path).await, Ok(Verification::Equal { .. })),
        "a second attempt overwrites the first"
    );
    let later = Manifest { sealed_at: Timestamp::from_millis(1_800_000_000_000), ..manifest.clone() };
    vault.seal(&path, &later).await.expect("sealing again is no error");
    assert_eq!(vault.manifest(&path).await, Ok(manifest), "sealing again changes nothing");
    store(vault, &path, &Disk::Root, &content(1, 100_000)).await;
    assert!(
        matches!(vault.verify(&path).await, Ok(Verification::Equal { .. })),
        "storing the same again harms nothing"
    );
}

async fn what_is_not_there_cannot_be_sealed(vault: &dyn Vault) {
    let path = path_of(vm());
    let root = store(vault, &path, &Disk::Root, &content(1, 10)).await;
    let missing = StoredDisk { disk: Disk::Volume("never stored".to_owned()), ..root.clone() };
    let sealed = vault.seal(&path, &manifest_of(&path, &[root.clone(), missing])).await;
    assert!(matches!(sealed, Err(VaultError::Damaged(_))), "a missing object was sealed: {sealed:?}");
    let shorter = StoredDisk { bytes: 9, ..root };
    let sealed = vault.seal(&path, &manifest_of(&path, &[shorter])).await;
    assert!(matches!(sealed, Err(VaultError::Damaged(_))), "an object of another size was sealed: {sealed:?}");
    assert!(matches!(vault.manifest(&path).await, Err(VaultError::NotFound(_))), "a refused seal leaves no manifest");
}

async fn a_manifest_belongs_to_its_backup(vault: &dyn Vault) {
    let (path, other) = (path_of(vm()), path_of(vm()));
    let root = store(vault, &path, &Disk::Root, &content(1, 10)).await;
    let sealed = vault.seal(&path, &manifest_of(&other, std::slice::from_ref(&root))).await;
    assert!(matches!(sealed, Err(VaultError::Damaged(_))), "another backup's manifest was sealed: {sealed:?}");
    let twice = manifest_of(&path, &[root.clone(), root]);
    let sealed = vault.seal(&path, &twice).await;
    assert!(matches!(sealed, Err(VaultError::Damaged(_))), "an object was listed twice: {sealed:?}");
}

async fn deleting_removes_all_of_one_backup(vault: &dyn Vault) {
    let vm = vm();
    let (path, kept) = (path_of(vm), path_of(vm));
    sealed(vault, &path).await;
    sealed(vault, &kept).await;
    vault.delete(&path).await.expect("a backup is deleted");
    assert!(matches!(vault.manifest(&path).await, Err(VaultError::NotFound(_))), "a deleted backup has no manifest");
    assert_eq!(vault.list(&path.cloud, vm).await, Ok(vec![kept.backup]), "the other backup stays");
    assert!(matches!(vault.verify(&kept).await, Ok(Verification::Equal { .. })), "the other backup is whole");
    vault.delete(&path).await.expect("deleting again is no error");
    let unsealed = path_of(vm);
    let root = store(vault, &unsealed, &Disk::Root, &content(1, 10)).await;
    vault.delete(&unsealed).await.expect("an incomplete backup is deleted");
    let sealed = vault.seal(&unsealed, &manifest_of(&unsealed, &[root])).await;
    assert!(matches!(sealed, Err(VaultError::Damaged(_))), "objects outlived their backup: {sealed:?}");
    vault.delete(&path_of(self::vm())).await.expect("deleting what never was is no error");
}

async fn only_complete_backups_of_the_vm_are_listed(vault: &dyn Vault) {
    let vm = vm();
    assert_eq!(vault.list(&path_of(vm).cloud, vm).await, Ok(Vec::new()), "a VM without backups");
    let (first, second, unsealed, other) = (path_of(vm), path_of(vm), path_of(vm), path_of(self::vm()));
    for path in [&first, &second, &other] {
        sealed(vault, path).await;
    }
    store(vault, &unsealed, &Disk::Root, &content(1, 10)).await;
    let mut listed = vault.list(&first.cloud, vm).await.expect("backups are listed");
    listed.sort_unstable();
    let mut expected = vec![first.backup, second.backup];
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

async fn foreign_names_stay_in_their_folder(vault: &dyn Vault) {
    let vm = vm();
    let (path, neighbour) = (path_of(vm), path_of(vm));
    sealed(vault, &neighbour).await;
    let foreign = Disk::Volume(format!("/../../{}/root", neighbour.backup));
    let stored = store(vault, &path, &foreign, &content(7, 100)).await;
    vault.seal(&path, &manifest_of(&path, &[stored])).await.expect("a backup with a foreign name is sealed");
    assert!(read(vault, &path, &foreign.object_name()).await == content(7, 100));
    assert!(matches!(vault.verify(&neighbour).await, Ok(Verification::Equal { .. })), "a name reached another backup");
}

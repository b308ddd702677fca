//! Damage, and keys that are not there: each is told apart from the others.

use super::*;

#[tokio::test]
async fn a_flipped_bit_is_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let part = fixture.part("root", 7);
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let (at, damage) = fixture.damage().await;
    assert!(at.contains("/root.parts/00000007-"), "{at}");
    assert_eq!(damage, Damage::Hash("BLAKE3 of the stored part"));
}

#[tokio::test]
async fn a_truncated_part_is_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let part = fixture.part("root", 2);
    let length = std::fs::metadata(&part).unwrap().len();
    std::fs::File::options().write(true).open(&part).unwrap().set_len(length - 1).unwrap();
    assert_eq!(fixture.damage().await.1, Damage::Length { found: length - 1, listed: length });
}

#[tokio::test]
async fn a_missing_part_or_index_is_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    std::fs::remove_file(fixture.part("volume-v1", 0)).unwrap();
    let (at, damage) = fixture.damage().await;
    assert!(at.contains("/volume-v1.parts/00000000-") && damage == Damage::Missing, "{at}: {damage}");
    let folder = fixture.folder().join("root.parts");
    let index = names(&folder).into_iter().find(|name| name.ends_with(".index")).unwrap();
    std::fs::write(folder.join(&index), "{}").unwrap();
    assert_eq!(fixture.damage().await.1, Damage::Hash("BLAKE3 of the index"));
    std::fs::remove_file(folder.join(&index)).unwrap();
    assert_eq!(fixture.damage().await.1, Damage::Missing);
}

/// Whoever may write to the vault can make every hash fit, but not the encryption.
#[tokio::test]
async fn parts_that_were_moved_are_found_though_all_hashes_fit() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let folder = fixture.folder().join("root.parts");
    let old = names(&folder).into_iter().find(|name| name.ends_with(".index")).unwrap();
    let mut moved = index::Index::decode(&std::fs::read(folder.join(&old)).unwrap()).unwrap();
    moved.parts.swap(0, 1);
    for number in [0, 1] {
        let part = moved.parts[number as usize];
        let from = fixture.part("root", 1 - number as usize);
        std::fs::copy(from, folder.join(index::part_name(number, &part.id, &part.blake3))).unwrap();
    }
    let hash = hex::encode(blake3::hash(&moved.encode()).as_bytes());
    std::fs::write(folder.join(index::index_name(&moved.blake3, &hash)), moved.encode()).unwrap();
    let manifest = fixture.folder().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let (_, old) = old.trim_end_matches(".index").split_once('-').unwrap();
    std::fs::write(&manifest, text.replace(old, &hash)).unwrap();
    assert_eq!(fixture.damage().await.1, Damage::Forged);
}

#[tokio::test]
async fn an_old_key_reads_what_it_encrypted_while_a_new_one_encrypts() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let rotated = fixture.vault.clone().with(packing(&["newer", "new"]));
    assert_eq!(rotated.verify(&fixture.path).await, Ok(Verification::Equal { bytes: 100_010 }));
    let later = path_of(fixture.path.vm);
    sealed(&rotated, &later).await;
    let key = |path: &BackupPath| {
        let text = std::fs::read_to_string(fixture.root.join(place::manifest(path))).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["objects"][0]["stored"]["key"]["id"].clone()
    };
    assert_eq!((key(&fixture.path), key(&later)), ("new".into(), "newer".into()));
}

#[tokio::test]
async fn a_key_that_is_not_here_or_another_is_no_damage() {
    let fixture = Fixture::new();
    sealed(&fixture.vault, &fixture.path).await;
    let other = KeyRing::new(vec![VaultKey::new("new", &"0".repeat(64)).unwrap()]).unwrap();
    for (keys, why) in [(KeyRing::default(), "which this node does not have"), (other, "is encrypted with another key")]
    {
        let vault = fixture.vault.clone().with(packing(&[]).keys(keys));
        let error = vault.verify(&fixture.path).await.unwrap_err();
        assert!(matches!(&error, VaultError::Key(text) if text.contains(why) && text.contains("new")), "{error}");
        assert!(matches!(vault.read(&fixture.path, "root").await.err(), Some(VaultError::Key(_))));
        assert!(vault.manifest(&fixture.path).await.is_ok(), "what a backup holds is known without its key");
    }
}

#[tokio::test]
async fn nothing_of_an_encrypted_content_or_its_key_is_in_the_vault() {
    let fixture = Fixture::new();
    let marker = b"a very secret marker that is long enough to be found".repeat(500);
    let stored = fixture.store(in_chunks(marker.clone())).await.unwrap();
    assert_eq!(stored.bytes, marker.len() as u64);
    for name in names(&fixture.folder().join("root.parts")) {
        let bytes = std::fs::read(fixture.folder().join("root.parts").join(&name)).unwrap();
        assert!(!bytes.windows(20).any(|window| window == &marker[..20]), "{name}");
        assert!(!name.contains(&hex::encode(&blake3::hash(&marker[..10_000]).as_bytes()[..16])), "{name}");
    }
}

#[tokio::test]
async fn a_sha256_of_something_else_is_damage() {
    let fixture = Fixture::new();
    let manifest = sealed(&fixture.vault, &fixture.path).await;
    let at = fixture.folder().join("manifest.json");
    let text = std::fs::read_to_string(&at).unwrap();
    std::fs::write(&at, text.replace(&manifest.objects[0].sha256, &"0".repeat(64))).unwrap();
    assert_eq!(fixture.damage().await.1, Damage::Hash("SHA-256"));
}

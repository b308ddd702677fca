//! The file: what does not open says why.

use tempfile::TempDir;

use super::super::{EmbeddedDb, EmbeddedError};
use super::*;

async fn refused(path: &std::path::Path) -> EmbeddedError {
    match EmbeddedDb::open(path).await {
        Ok(_) => panic!("{} opened", path.display()),
        Err(error) => {
            assert!(error.to_string().contains(&path.display().to_string()), "{error} names no file");
            error
        }
    }
}

#[tokio::test]
async fn a_file_in_use_is_refused_as_such() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("reeve.redb");
    let db = EmbeddedDb::open(&path).await.unwrap();
    let error = refused(&path).await;
    assert!(matches!(error, EmbeddedError::InUse { .. }), "{error}");
    assert!(error.to_string().ends_with("is already in use by another reeve"), "{error}");
    db.close().await;
    EmbeddedDb::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_foreign_file_is_refused_and_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no database\n".repeat(1000)).unwrap();
    assert!(matches!(refused(&text).await, EmbeddedError::Foreign { .. }));
    assert_eq!(std::fs::read(&text).unwrap(), "no database\n".repeat(1000).as_bytes());

    let other = folder.path().join("other.redb");
    let database = redb::Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u8, u8>::new("theirs")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(refused(&other).await, EmbeddedError::Foreign { .. }));
    assert!(matches!(refused(folder.path()).await, EmbeddedError::Foreign { .. }));
}

#[tokio::test]
async fn a_newer_format_is_refused_with_both_numbers() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("reeve.redb");
    let db = EmbeddedDb::open(&path).await.unwrap();
    db.write(|tables| Ok(tables.meta.insert("format", 7).map(drop)?)).await.unwrap();
    db.close().await;
    let error = refused(&path).await;
    assert!(matches!(error, EmbeddedError::NewerFormat { found: 7, supported: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("reeve.redb");
    let db = EmbeddedDb::open(&path).await.unwrap();
    db.write(|tables| Ok(tables.records.insert((1, 1), vec![7u8; 20_000].as_slice()).map(drop)?)).await.unwrap();
    db.close().await;
    let whole = std::fs::read(&path).unwrap();

    let flipped: Vec<u8> =
        whole.iter().enumerate().map(|(at, byte)| if at >= 4096 && *byte == 7 { 8 } else { *byte }).collect();
    assert_ne!(flipped, whole);
    for damaged in [&flipped[..], &whole[..whole.len() / 3], &whole[..700], &[]] {
        std::fs::write(&path, damaged).unwrap();
        let error = refused(&path).await;
        assert!(matches!(error, EmbeddedError::Damaged { .. }), "{} bytes: {error}", damaged.len());
    }
    std::fs::write(&path, whole).unwrap();
    EmbeddedDb::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error_that_names_the_file() {
    let folder = TempDir::new().unwrap();
    assert!(matches!(refused(&folder.path().join("none/reeve.redb")).await, EmbeddedError::Io { .. }));
}

#[tokio::test]
async fn nothing_is_left_beside_a_new_file() {
    let folder = TempDir::new().unwrap();
    let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
    db.close().await;
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["reeve.redb"]);
}

#[tokio::test]
async fn a_closed_database_reads_and_writes_nothing() {
    let folder = TempDir::new().unwrap();
    let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
    db.close().await;
    db.close().await;
    assert!(matches!(db.write(|_| Ok(())).await, Err(super::super::error::WriteError::NotWritten(_))));
    assert!(matches!(db.read(|_| Ok(())).await, Err(super::super::error::ReadError::Unavailable(_))));
    let bus = EmbeddedBus::open(db, Arc::new(StillClock), BusLimits::default()).await;
    assert!(bus.is_err());
}

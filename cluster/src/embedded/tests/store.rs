//! The store beyond its suite: grouping, closing, and who may stop waiting.

use futures::future::join_all;
use reeve_ports::store::StoreError;
use reeve_ports::{Coordination, RecordStore};
use reeve_protocol::{Epoch, ShardId};
use tempfile::TempDir;

use super::super::{EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use super::*;

const SHARD: ShardId = ShardId(0);

async fn open() -> (TempDir, EmbeddedDb, EmbeddedStore, Epoch) {
    let folder = TempDir::new().unwrap();
    let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
    let epoch = EmbeddedCoordination::new(db.clone()).claim(SHARD).await.unwrap();
    (folder, db.clone(), EmbeddedStore::new(db), epoch)
}

#[tokio::test]
async fn concurrent_commits_share_transactions() {
    let (_folder, db, store, epoch) = open().await;
    let before = db.transactions();
    let results = join_all((0..2000).map(|n| store.commit(SHARD, epoch, put(n, 0, b"record")))).await;
    assert!(results.iter().all(Result::is_ok));
    let transactions = db.transactions() - before;
    // At least 4 groups of up to 512; more, because tokio lets a task queue only about 128 at a time.
    assert!((4..=200).contains(&transactions), "{transactions} transactions");
    assert_eq!(store.load(SHARD, None, 5000).await.unwrap().records.len(), 2000);
}

#[tokio::test]
async fn more_writers_than_may_wait_all_get_their_turn() {
    let (_folder, _db, store, epoch) = open().await;
    let results = join_all((0..6000).map(|n| store.commit(SHARD, epoch, put(n, 0, b"record")))).await;
    assert!(results.iter().all(Result::is_ok));
}

#[tokio::test]
async fn close_finishes_what_was_begun_and_refuses_what_comes_after() {
    let (folder, db, store, epoch) = open().await;
    let begun = join_all((0..1000).map(|n| store.commit(SHARD, epoch, put(n, 0, b"record"))));
    let (results, ()) = tokio::join!(begun, db.close());
    let written = results.iter().filter(|result| result.is_ok()).count();
    let refused = results.iter().filter(|result| matches!(result, Err(StoreError::Unavailable(_)))).count();
    assert!(written > 0, "the first commits were queued before the close");
    assert_eq!(written + refused, 1000, "{results:?}");
    assert!(matches!(store.commit(SHARD, epoch, put(9999, 0, b"late")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.get(SHARD, vm(1)).await, Err(StoreError::Unavailable(_))));
    let again = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
    assert_eq!(EmbeddedStore::new(again).load(SHARD, None, 5000).await.unwrap().records.len(), written);
}

#[tokio::test(start_paused = true)]
async fn paused_time_does_not_run_away_during_a_commit() {
    let (_folder, _db, store, epoch) = open().await;
    for n in 0..20 {
        let commit = store.commit(SHARD, epoch, put(n, 0, b"record"));
        tokio::time::timeout(Duration::from_millis(1), commit).await.expect("no time passes").unwrap();
    }
}

#[tokio::test]
async fn a_runtime_that_ended_loses_no_writer() {
    let (_folder, _db, store, epoch) = open().await;
    let other = store.clone();
    // A commit asked for in a runtime that ends before the answer, as an arbiter thread may.
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.spawn(async move { other.commit(SHARD, epoch, put(1, 0, b"record")).await });
        runtime.block_on(tokio::task::yield_now());
    });
    tokio::task::spawn_blocking(move || ended.join().unwrap()).await.unwrap();
    store.commit(SHARD, epoch, put(2, 0, b"record")).await.unwrap();
    assert!(store.get(SHARD, vm(1)).await.unwrap().is_some(), "what was asked for is carried out");
}

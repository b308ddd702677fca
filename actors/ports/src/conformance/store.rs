//! What every [`RecordStore`] does.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use reeve_protocol::{Epoch, Generation, ShardId, VmId};
use uuid::Uuid;

use crate::store::{Change, Page, RecordStore, StoreError, Stored, Write};

/// A store under test.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn RecordStore>;

    /// A new owner takes the shard: its epoch, greater than every one before.
    async fn claim(&self, shard: ShardId) -> Epoch;

    /// The node dies and comes back. [`StoreFixture::store`] is the new one's afterwards.
    async fn restart(&mut self);

    /// Puts something beside the store's back where the record of this VM is, or would be, that is no record.
    async fn damage(&self, shard: ShardId, vm: VmId);
}

/// Makes one test of each case. First the attribute of the tests, then an expression (it may `await`) that makes a
/// fixture.
#[macro_export]
macro_rules! store_conformance {
    (#[$test:meta] $fixture:expr) => {
        $crate::store_conformance!(@cases #[$test] $fixture;
            a_committed_record_is_read_back
            a_record_that_is_not_there_is_none
            a_record_is_replaced_by_the_next_generation
            a_write_of_another_generation_is_a_conflict
            a_new_record_conflicts_with_one_that_is_there
            a_change_of_a_record_that_is_not_there_is_a_conflict
            a_deleted_record_is_gone
            a_repeated_write_is_no_conflict
            a_repeated_delete_is_no_conflict
            a_repeated_generation_with_another_value_is_a_conflict
            a_former_owner_is_fenced_and_changes_nothing
            a_shard_without_an_owner_takes_no_write
            an_epoch_that_was_never_given_out_is_fenced
            a_shard_is_loaded_in_pages_by_id
            a_page_says_where_the_next_begins
            a_damaged_record_hides_no_other
            a_damaged_record_is_neither_read_nor_changed
            shards_do_not_mix
            of_concurrent_writes_of_one_generation_one_wins
            concurrent_writes_have_results_of_their_own
            committed_records_survive_a_restart
            a_large_record_is_read_back
        );
    };
    (@cases #[$test:meta] $fixture:expr; $($case:ident)*) => {
        $(
            #[$test]
            async fn $case() {
                let mut fixture = $fixture;
                $crate::conformance::store::$case(&mut fixture).await;
            }
        )*
    };
}

const SHARD: ShardId = ShardId(3);

fn vm(n: u128) -> VmId {
    VmId::new(Uuid::from_u128(n))
}

fn put(n: u128, expected: u64, value: &str) -> Write {
    Write {
        vm: vm(n),
        expected: Generation(expected),
        change: Change::Put { generation: Generation(expected + 1), value: Bytes::copy_from_slice(value.as_bytes()) },
    }
}

fn delete(n: u128, expected: u64) -> Write {
    Write { vm: vm(n), expected: Generation(expected), change: Change::Delete }
}

fn stored(n: u128, generation: u64, value: &str) -> Stored {
    Stored { vm: vm(n), generation: Generation(generation), value: Bytes::copy_from_slice(value.as_bytes()) }
}

fn conflict(n: u128, expected: u64) -> Result<(), StoreError> {
    Err(StoreError::Conflict { vm: vm(n), expected: Generation(expected) })
}

async fn commit(fixture: &impl StoreFixture, epoch: Epoch, write: Write) -> Result<(), StoreError> {
    fixture.store().commit(SHARD, epoch, write).await
}

async fn get(fixture: &impl StoreFixture, n: u128) -> Option<Stored> {
    fixture.store().get(SHARD, vm(n)).await.expect("a record can be read")
}

async fn page(fixture: &impl StoreFixture, after: Option<VmId>, limit: usize) -> Page {
    fixture.store().load(SHARD, after, limit).await.expect("a shard can be loaded")
}

async fn load(fixture: &impl StoreFixture, shard: ShardId, after: Option<VmId>, limit: usize) -> Vec<Stored> {
    let page = fixture.store().load(shard, after, limit).await.expect("a shard can be loaded");
    assert_eq!(page.damaged, []);
    page.records
}

/// Alone and with its shard.
pub async fn a_committed_record_is_read_back(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Ok(()));
    assert_eq!(get(fixture, 1).await, Some(stored(1, 1, "one")));
    assert_eq!(load(fixture, SHARD, None, 10).await, [stored(1, 1, "one")]);
}

/// An empty shard is no error.
pub async fn a_record_that_is_not_there_is_none(fixture: &mut impl StoreFixture) {
    assert_eq!(get(fixture, 1).await, None);
    assert_eq!(load(fixture, SHARD, None, 10).await, []);
}

/// Any number of times.
pub async fn a_record_is_replaced_by_the_next_generation(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    for generation in 0..5 {
        assert_eq!(commit(fixture, epoch, put(1, generation, &format!("v{generation}"))).await, Ok(()));
    }
    assert_eq!(get(fixture, 1).await, Some(stored(1, 5, "v4")));
}

/// And changes nothing.
pub async fn a_write_of_another_generation_is_a_conflict(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    for generation in 0..3 {
        assert_eq!(commit(fixture, epoch, put(1, generation, "new")).await, Ok(()));
    }
    assert_eq!(commit(fixture, epoch, put(1, 1, "late")).await, conflict(1, 1));
    assert_eq!(commit(fixture, epoch, put(1, 7, "early")).await, conflict(1, 7));
    assert_eq!(commit(fixture, epoch, delete(1, 2)).await, conflict(1, 2));
    assert_eq!(get(fixture, 1).await, Some(stored(1, 3, "new")));
}

/// Generation 0 means that there is none.
pub async fn a_new_record_conflicts_with_one_that_is_there(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "first")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, put(1, 0, "second")).await, conflict(1, 0));
    assert_eq!(get(fixture, 1).await, Some(stored(1, 1, "first")));
}

/// It was deleted, or never made.
pub async fn a_change_of_a_record_that_is_not_there_is_a_conflict(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 4, "lost")).await, conflict(1, 4));
    assert_eq!(get(fixture, 1).await, None);
}

/// And can be made again.
pub async fn a_deleted_record_is_gone(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, put(2, 0, "two")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, delete(1, 1)).await, Ok(()));
    assert_eq!(get(fixture, 1).await, None);
    assert_eq!(load(fixture, SHARD, None, 10).await, [stored(2, 1, "two")]);
    assert_eq!(commit(fixture, epoch, put(1, 0, "again")).await, Ok(()));
}

/// The answer to the first was lost.
pub async fn a_repeated_write_is_no_conflict(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    for write in [put(1, 0, "one"), put(1, 1, "two")] {
        assert_eq!(commit(fixture, epoch, write.clone()).await, Ok(()));
        assert_eq!(commit(fixture, epoch, write).await, Ok(()));
    }
    assert_eq!(get(fixture, 1).await, Some(stored(1, 2, "two")));
}

/// What is not there need not be removed.
pub async fn a_repeated_delete_is_no_conflict(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, delete(1, 1)).await, Ok(()));
    assert_eq!(commit(fixture, epoch, delete(1, 1)).await, Ok(()));
}

/// Two writers went from the same generation to different records.
pub async fn a_repeated_generation_with_another_value_is_a_conflict(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, put(1, 1, "mine")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, put(1, 1, "theirs")).await, conflict(1, 1));
    assert_eq!(get(fixture, 1).await, Some(stored(1, 2, "mine")));
}

/// Even where its generation is right, and even when it repeats what is stored.
pub async fn a_former_owner_is_fenced_and_changes_nothing(fixture: &mut impl StoreFixture) {
    let old = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, old, put(1, 0, "one")).await, Ok(()));
    let new = fixture.claim(SHARD).await;
    let fenced = Err(StoreError::Fenced { shard: SHARD });
    assert_eq!(commit(fixture, old, put(1, 1, "two")).await, fenced);
    assert_eq!(commit(fixture, old, put(1, 0, "one")).await, fenced);
    assert_eq!(commit(fixture, old, delete(1, 1)).await, fenced);
    assert_eq!(get(fixture, 1).await, Some(stored(1, 1, "one")));
    assert_eq!(commit(fixture, new, put(1, 1, "two")).await, Ok(()));
}

/// Whatever epoch is named.
pub async fn a_shard_without_an_owner_takes_no_write(fixture: &mut impl StoreFixture) {
    for epoch in [Epoch(0), Epoch(1)] {
        assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Err(StoreError::Fenced { shard: SHARD }));
    }
}

/// Only the current one writes.
pub async fn an_epoch_that_was_never_given_out_is_fenced(fixture: &mut impl StoreFixture) {
    let epoch = Epoch(fixture.claim(SHARD).await.0 + 1);
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Err(StoreError::Fenced { shard: SHARD }));
}

/// Each page begins after the last id of the one before.
pub async fn a_shard_is_loaded_in_pages_by_id(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    let ids = [u128::MAX, 5, 1 << 100, 2, 9];
    for id in ids {
        assert_eq!(commit(fixture, epoch, put(id, 0, "v")).await, Ok(()));
    }
    let sorted = [2, 5, 9, 1 << 100, u128::MAX].map(|id| stored(id, 1, "v"));
    assert_eq!(load(fixture, SHARD, None, 2).await, sorted[..2]);
    assert_eq!(load(fixture, SHARD, Some(vm(5)), 2).await, sorted[2..4]);
    assert_eq!(load(fixture, SHARD, Some(vm(6)), 10).await, sorted[2..]);
    assert_eq!(load(fixture, SHARD, Some(vm(u128::MAX)), 10).await, []);
    assert_eq!(load(fixture, SHARD, None, 0).await, sorted[..1], "a page that holds nothing would lead nowhere");
}

/// And the last one that there is none, full or not.
pub async fn a_page_says_where_the_next_begins(fixture: &mut impl StoreFixture) {
    assert_eq!(page(fixture, None, 2).await, Page::default());
    let epoch = fixture.claim(SHARD).await;
    for id in 1..5 {
        assert_eq!(commit(fixture, epoch, put(id, 0, "v")).await, Ok(()));
    }
    assert_eq!(page(fixture, None, 2).await.next, Some(vm(2)));
    assert_eq!(page(fixture, Some(vm(2)), 2).await.next, None);
    assert_eq!(page(fixture, Some(vm(2)), 3).await.next, None);
    assert_eq!(page(fixture, None, usize::MAX).await.next, None);
}

/// Wherever it is: at a page's begin or end, or alone on one.
pub async fn a_damaged_record_hides_no_other(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    for id in 1..8 {
        assert_eq!(commit(fixture, epoch, put(id, 0, "v")).await, Ok(()));
    }
    for id in [1, 4, 5, 9] {
        fixture.damage(SHARD, vm(id)).await;
    }
    for limit in [1, 2, 3, 100] {
        let (mut records, mut damaged, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = page(fixture, after, limit).await;
            assert!(page.records.len() + page.damaged.len() <= limit, "{page:?}");
            assert!(page.damaged.iter().all(|record| !record.why.is_empty()), "{page:?}");
            records.extend(page.records);
            damaged.extend(page.damaged.into_iter().map(|record| record.vm));
            assert!(page.next.is_none() || page.next > after, "it comes to an end");
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(records, [2, 3, 6, 7].map(|id| stored(id, 1, "v")), "in pages of {limit}");
        assert_eq!(damaged, [1, 4, 5, 9].map(vm), "in pages of {limit}");
    }
}

/// Nobody knows what is lost with it.
pub async fn a_damaged_record_is_neither_read_nor_changed(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Ok(()));
    fixture.damage(SHARD, vm(1)).await;
    let store = fixture.store();
    assert!(matches!(store.get(SHARD, vm(1)).await, Err(StoreError::Damaged(_))));
    for write in [put(1, 0, "new"), put(1, 1, "next"), delete(1, 1)] {
        let result = commit(fixture, epoch, write).await;
        assert!(matches!(result, Err(StoreError::Damaged(_))), "{result:?}");
    }
    assert_eq!(page(fixture, None, 10).await.damaged.len(), 1, "it is still there");
}

/// Neither by id nor by epoch.
pub async fn shards_do_not_mix(fixture: &mut impl StoreFixture) {
    let store = fixture.store();
    let shards = [ShardId(0), ShardId(1), ShardId(u16::MAX)];
    for shard in shards {
        let epoch = fixture.claim(shard).await;
        assert_eq!(store.commit(shard, epoch, put(1, 0, &format!("of {shard}"))).await, Ok(()));
    }
    fixture.claim(shards[1]).await;
    for shard in shards {
        let expected = stored(1, 1, &format!("of {shard}"));
        assert_eq!(store.get(shard, vm(1)).await, Ok(Some(expected.clone())));
        assert_eq!(load(fixture, shard, None, 10).await, [expected]);
    }
}

/// And the stored record is the winner's.
pub async fn of_concurrent_writes_of_one_generation_one_wins(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    let results = join_all((0..20).map(|n| commit(fixture, epoch, put(1, 0, &format!("writer {n}"))))).await;
    let winners: Vec<_> = results.iter().enumerate().filter(|(_, result)| result.is_ok()).map(|(n, _)| n).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert!(results.iter().all(|result| *result == Ok(()) || *result == conflict(1, 0)), "{results:?}");
    assert_eq!(get(fixture, 1).await, Some(stored(1, 1, &format!("writer {}", winners[0]))));
}

/// A failure of one is not a failure of those that are grouped with it.
pub async fn concurrent_writes_have_results_of_their_own(fixture: &mut impl StoreFixture) {
    let old = fixture.claim(SHARD).await;
    let epoch = fixture.claim(SHARD).await;
    let writes = (0..300u128).map(|n| match n % 3 {
        0 => (epoch, put(n, 0, "good")),
        1 => (epoch, put(n, 9, "wrong generation")),
        _ => (old, put(n, 0, "wrong epoch")),
    });
    let results = join_all(writes.map(|(epoch, write)| commit(fixture, epoch, write))).await;
    for (n, result) in (0u128..).zip(results) {
        let expected = match n % 3 {
            0 => Ok(()),
            1 => conflict(n, 9),
            _ => Err(StoreError::Fenced { shard: SHARD }),
        };
        assert_eq!(result, expected, "write {n}");
    }
    assert_eq!(load(fixture, SHARD, None, 1000).await.len(), 100);
}

/// With their generations, and the epoch stays what it was.
pub async fn committed_records_survive_a_restart(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 0, "one")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, put(2, 0, "two")).await, Ok(()));
    assert_eq!(commit(fixture, epoch, delete(2, 1)).await, Ok(()));
    fixture.restart().await;
    assert_eq!(load(fixture, SHARD, None, 10).await, [stored(1, 1, "one")]);
    let next = fixture.claim(SHARD).await;
    assert_eq!(commit(fixture, epoch, put(1, 1, "stale")).await, Err(StoreError::Fenced { shard: SHARD }));
    assert_eq!(commit(fixture, next, put(1, 1, "two")).await, Ok(()));
}

/// Records are small, but a long history may be beside one.
pub async fn a_large_record_is_read_back(fixture: &mut impl StoreFixture) {
    let epoch = fixture.claim(SHARD).await;
    let value = "x".repeat(512 * 1024);
    assert_eq!(commit(fixture, epoch, put(1, 0, &value)).await, Ok(()));
    assert_eq!(get(fixture, 1).await, Some(stored(1, 1, &value)));
}

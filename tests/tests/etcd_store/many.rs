//! Many records, large ones, and the transactions that carry them.

use bytes::Bytes;
use futures::future::join_all;
use reeve_ports::store::{RecordStore, StoreError};
use reeve_protocol::{Epoch, Generation, ShardId};

use crate::fixture::{Fixture, SHARD, put, vm};

/// etcd refuses a transaction with more operations; 500 writes one by one would be 500 transactions.
#[tokio::test]
async fn live_commits_of_one_moment_share_transactions_and_all_are_written() {
    let fixture = Fixture::shared().await;
    let epoch = fixture.claim(SHARD).await;
    let results = join_all((0..500).map(|n| fixture.commit(epoch, put(n, 0, format!("record {n}"))))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let transactions = fixture.store().transactions();
    assert!((4..=8).contains(&transactions), "{transactions} transactions");
    let records = fixture.store().load(SHARD, None, 1_000).await.unwrap().records;
    assert_eq!(records.len(), 500);
    for (n, record) in (0..500u128).zip(records) {
        assert_eq!((record.vm, record.generation), (vm(n), Generation(1)));
        assert_eq!(record.value, format!("record {n}").as_bytes());
    }
}

#[tokio::test]
async fn live_writes_of_one_record_at_one_moment_are_not_one_transaction() {
    let fixture = Fixture::shared().await;
    let epoch = fixture.claim(SHARD).await;
    let chain = join_all((0..30).map(|n| fixture.commit(epoch, put(1, n, format!("step {n}"))))).await;
    assert!(chain.iter().all(Result::is_ok), "{chain:?}");
    let last = fixture.get(1).await.unwrap();
    assert_eq!((last.generation, &last.value[..]), (Generation(30), &b"step 29"[..]));
}

#[tokio::test]
async fn live_a_shard_of_two_thousand_records_is_loaded_in_pages() {
    let fixture = Fixture::shared().await;
    let (epoch, other) = (fixture.claim(SHARD).await, fixture.claim(ShardId(30)).await);
    let value = Bytes::from(vec![b'x'; 1_000]);
    let written = join_all((0..2_000).map(|n| fixture.commit(epoch, put(n, 0, value.clone())))).await;
    assert!(written.iter().all(Result::is_ok));
    let neighbour = fixture.store().commit(ShardId(30), other, put(7, 0, value)).await;
    assert_eq!(neighbour, Ok(()));

    // In one call, which reads several pages, and in calls of a size that fits no page.
    let all = fixture.store().load(SHARD, None, usize::MAX).await.unwrap().records;
    assert_eq!(all.iter().map(|record| record.vm).collect::<Vec<_>>(), (0..2_000).map(vm).collect::<Vec<_>>());
    let (mut after, mut paged) = (None, Vec::new());
    loop {
        let page = fixture.store().load(SHARD, after, 777).await.unwrap();
        paged.extend(page.records);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(paged == all, "{} records in pages, {} at once", paged.len(), all.len());
}

#[tokio::test]
async fn live_more_than_a_transaction_holds_is_split() {
    let fixture = Fixture::shared().await;
    let epoch = fixture.claim(SHARD).await;
    let value = Bytes::from(vec![b'x'; 100 * 1024]);
    let results = join_all((0..40).map(|n| fixture.commit(epoch, put(n, 0, value.clone())))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let transactions = fixture.store().transactions();
    assert!((4..=8).contains(&transactions), "{transactions} transactions for 4 MB");
    let records = fixture.store().load(SHARD, None, 100).await.unwrap().records;
    assert!(records.len() == 40 && records.iter().all(|record| record.value == value));
}

#[tokio::test]
async fn live_the_largest_record_is_taken_and_a_larger_one_is_not_tried() {
    let fixture = Fixture::shared().await;
    let epoch = fixture.claim(SHARD).await;
    let largest = Bytes::from(vec![b'x'; 1536 * 1024 - 8 * 1024 - 10]);
    assert_eq!(fixture.commit(epoch, put(1, 0, largest.clone())).await, Ok(()));
    assert_eq!(fixture.get(1).await.unwrap().value, largest);
    // And again: the other branch of the transaction carries it back.
    assert_eq!(fixture.commit(epoch, put(1, 0, largest.clone())).await, Ok(()));
    let before = fixture.store().transactions();
    let larger = [&largest[..], b"x"].concat();
    let refused = fixture.commit(epoch, put(2, 0, larger)).await;
    assert!(matches!(&refused, Err(StoreError::Damaged(why)) if why.contains("etcd takes")), "{refused:?}");
    assert_eq!((fixture.get(2).await, fixture.store().transactions()), (None, before));
}

/// Nobody's epoch is of a shard whose key is gone, nor the former owner's of the one that was made again.
#[tokio::test]
async fn live_a_former_owner_is_fenced_without_an_owner_and_under_the_next() {
    let fixture = Fixture::shared().await;
    let old = fixture.claim(SHARD).await;
    assert_eq!(fixture.commit(old, put(1, 0, "of the old owner")).await, Ok(()));
    let fenced = Err(StoreError::Fenced { shard: SHARD });
    fixture.release(SHARD).await;
    assert_eq!(fixture.commit(old, put(1, 1, "late")).await, fenced);
    let new = fixture.claim(SHARD).await;
    assert!(new > old);
    let results = join_all((1..200).map(|n| fixture.commit(old, put(n, u64::from(n == 1), "later")))).await;
    assert!(results.iter().all(|result| *result == fenced), "{results:?}");
    assert_eq!(fixture.commit(Epoch(u64::MAX), put(1, 1, "no epoch at all")).await, fenced);
    let records = fixture.store().load(SHARD, None, 10).await.unwrap().records;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].value, "of the old owner");
    assert_eq!(fixture.commit(new, put(1, 1, "of the new owner")).await, Ok(()));
}

/// A record of a newer version of Reeve, one cut short, and keys that somebody put there by hand.
#[tokio::test]
async fn live_what_cannot_be_read_hides_nothing_beside_it() {
    let fixture = Fixture::shared().await;
    let epoch = fixture.claim(SHARD).await;
    for n in [2, 3, 5, 8] {
        assert_eq!(fixture.commit(epoch, put(n, 0, format!("record {n}"))).await, Ok(()));
    }
    fixture.put_raw(SHARD, vm(4).to_string(), &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'x']).await;
    fixture.put_raw(SHARD, vm(6).to_string(), &[1, 0]).await;
    // Before all records, between two of them, after all, and the id of one that is written in another way.
    let nobodys = ["#".to_owned(), format!("{}-copy", vm(3)), "note".to_owned(), vm(5).uuid().simple().to_string()];
    for name in &nobodys {
        fixture.put_raw(SHARD, name, b"what is this").await;
    }
    fixture.put_raw(SHARD, b"\xff\xfe", b"").await;
    for limit in [1, 2, 3, 4, 100] {
        let (mut records, mut damaged, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let page = fixture.store().load(SHARD, after, limit).await.unwrap();
            assert!(page.records.len() + page.damaged.len() <= limit);
            records.extend(page.records.into_iter().map(|record| record.vm));
            damaged.extend(page.damaged);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(records, [2, 3, 5, 8].map(vm), "in pages of {limit}");
        let told: Vec<_> = damaged.iter().map(|record| record.vm).collect();
        assert_eq!(told, [4, 6].map(vm), "in pages of {limit}");
        assert!(damaged[0].why.contains("newer") && damaged[1].why.contains("too short"), "{damaged:?}");
    }
    assert_eq!(fixture.commit(epoch, put(1, 0, "a neighbour")).await, Ok(()));
}

//! Groups across shards: what shards share, and what is each one's own.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use reeve_ports::store::{RecordStore, StoreError};
use reeve_protocol::{Epoch, Generation, ShardId};
use reeve_tests::harness::{Mode, Proxy};
use tokio::time::sleep;

use crate::fixture::{Fixture, put, shared, vm};

/// Every lane of the store has its share of these.
const SHARDS: u16 = 64;

async fn claim(fixture: &Fixture, shards: u16) -> BTreeMap<ShardId, Epoch> {
    let claims = (0..shards).map(ShardId).map(|shard| async move { (shard, fixture.claim(shard).await) });
    join_all(claims).await.into_iter().collect()
}

async fn generation(fixture: &Fixture, shard: ShardId, n: u128) -> Option<Generation> {
    let stored = fixture.store().get(shard, vm(n)).await.expect("a record can be read");
    stored.map(|stored| stored.generation)
}

#[tokio::test]
async fn live_writes_of_many_shards_share_transactions() {
    let fixture = Fixture::shared().await;
    let epochs = claim(&fixture, SHARDS).await;
    let writes = epochs.iter().map(|(shard, epoch)| fixture.store().commit(*shard, *epoch, put(1, 0, "one")));
    let results = join_all(writes).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let transactions = fixture.store().transactions();
    assert!(transactions <= u64::from(SHARDS / 8), "{transactions} transactions for {SHARDS} writes");
    for shard in epochs.into_keys() {
        assert_eq!(generation(&fixture, shard, 1).await, Some(Generation(1)), "of {shard}");
    }
}

#[tokio::test]
async fn live_a_fenced_shard_fails_its_own_writes_alone() {
    let fixture = Fixture::shared().await;
    let epochs = claim(&fixture, SHARDS).await;
    // Every third has a new owner, and every third after those has none.
    for shard in epochs.keys().filter(|shard| shard.0 % 3 == 0) {
        fixture.claim(*shard).await;
    }
    for shard in epochs.keys().filter(|shard| shard.0 % 3 == 1) {
        fixture.release(*shard).await;
    }
    let writes = epochs.iter().flat_map(|(shard, epoch)| {
        let store = fixture.store();
        (1..4).map(move |n| async move { (*shard, store.commit(*shard, *epoch, put(n, 0, "late?")).await) })
    });
    for (shard, result) in join_all(writes).await {
        let expected = if shard.0 % 3 == 2 { Ok(()) } else { Err(StoreError::Fenced { shard }) };
        assert_eq!(result, expected, "of {shard}");
    }
    let transactions = fixture.store().transactions();
    assert!(transactions <= u64::from(SHARDS / 8), "they shared {transactions} transactions");
    for shard in epochs.into_keys() {
        let expected = (shard.0 % 3 == 2).then_some(Generation(1));
        assert_eq!(generation(&fixture, shard, 3).await, expected, "of {shard}");
    }
}

#[tokio::test]
async fn live_a_conflict_and_a_damaged_record_are_their_own_writes_answers() {
    let fixture = Fixture::shared().await;
    let epochs = claim(&fixture, SHARDS).await;
    for shard in epochs.keys().filter(|shard| shard.0 % 4 == 1) {
        fixture.put_raw(*shard, vm(1).to_string(), &[9, 0]).await;
    }
    let expected = |shard: ShardId| if shard.0 % 4 == 2 { 7 } else { 0 };
    let writes = epochs.iter().map(|(shard, epoch)| {
        let (store, shard, epoch) = (fixture.store(), *shard, *epoch);
        async move { (shard, store.commit(shard, epoch, put(1, expected(shard), "one")).await) }
    });
    for (shard, result) in join_all(writes).await {
        match shard.0 % 4 {
            1 => assert!(matches!(result, Err(StoreError::Damaged(_))), "of {shard}: {result:?}"),
            2 => assert_eq!(result, Err(StoreError::Conflict { vm: vm(1), expected: Generation(7) }), "of {shard}"),
            _ => assert_eq!(result, Ok(()), "of {shard}"),
        }
    }
}

/// As many shards as a group takes in each lane, and more, some of them with more writes than their share. A group that is
/// one operation larger than etcd takes would be refused with all that is in it.
#[tokio::test]
async fn live_the_largest_group_is_one_that_etcd_takes() {
    const MANY: u16 = 320;
    let fixture = Fixture::shared().await;
    let epochs = claim(&fixture, MANY).await;
    let writes = epochs.iter().flat_map(|(shard, epoch)| {
        let (store, count) = (fixture.store(), if shard.0 % 32 < 3 { 150 } else { 1 });
        (0..count).map(move |n| store.commit(*shard, *epoch, put(n, 0, "record")))
    });
    let results = join_all(writes).await;
    let bad: Vec<_> = results.iter().filter(|result| result.is_err()).collect();
    assert!(bad.is_empty(), "{} of {}: {:?}", bad.len(), results.len(), bad[0]);
    let transactions = fixture.store().transactions();
    assert!(transactions <= 40, "{transactions} transactions for {} writes", results.len());
    for shard in epochs.into_keys() {
        let page = fixture.store().load(shard, None, usize::MAX).await.unwrap();
        assert_eq!(page.records.len(), if shard.0 % 32 < 3 { 150 } else { 1 }, "of {shard}");
    }
}

#[tokio::test]
async fn live_writes_of_one_record_keep_their_order_among_other_shards() {
    const STEPS: u64 = 12;
    let fixture = Fixture::shared().await;
    let epochs = claim(&fixture, SHARDS).await;
    let chains = epochs.iter().flat_map(|(shard, epoch)| {
        let store = fixture.store();
        (0..STEPS).map(move |step| store.commit(*shard, *epoch, put(1, step, format!("step {step}"))))
    });
    let results = join_all(chains).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    for shard in epochs.into_keys() {
        assert_eq!(generation(&fixture, shard, 1).await, Some(Generation(STEPS)), "of {shard}");
    }
}

/// What waits behind it is not failed by it, and what it carried is told as unknown or found to be there.
#[tokio::test]
async fn live_a_lane_that_stalls_delays_its_shards_and_fails_none() {
    let etcd = shared().await;
    let proxy = Proxy::start(etcd.address(0)).await.expect("a proxy starts");
    let fixture = Fixture::through(etcd, proxy.address()).await;
    let epochs = claim(&fixture, SHARDS).await;
    let commits = |n: u128| {
        let store = fixture.store();
        join_all(epochs.iter().map(move |(shard, epoch)| store.commit(*shard, *epoch, put(n, 0, "one"))))
    };
    assert!(commits(1).await.iter().all(Result::is_ok));
    proxy.set(Mode::DropAnswers);
    let behind = async {
        sleep(Duration::from_millis(200)).await;
        commits(3).await
    };
    let back = async {
        sleep(Duration::from_millis(600)).await;
        proxy.reset();
        proxy.set(Mode::Pass);
    };
    let (under_way, behind, ()) = tokio::join!(commits(2), behind, back);
    assert!(behind.iter().all(Result::is_ok), "{behind:?}");
    let known = |result: &Result<(), StoreError>| matches!(result, Ok(()) | Err(StoreError::Unknown(_)));
    assert!(under_way.iter().all(known), "{under_way:?}");
    for shard in epochs.into_keys() {
        for n in 1..4 {
            assert_eq!(generation(&fixture, shard, n).await, Some(Generation(1)), "record {n} of {shard}");
        }
    }
}

//! Answers that do not come, and servers that go away.

use std::time::Duration;

use futures::future::join_all;
use reeve_ports::store::{RecordStore, StoreError};
use reeve_protocol::{Epoch, Generation};
use reeve_tests::harness::{Etcd, Mode, Proxy};
use tokio::time::{sleep, timeout};

use crate::fixture::{Fixture, SHARD, put, shared};

const PATIENCE: Duration = Duration::from_secs(30);

async fn behind_a_proxy() -> (Proxy, Fixture, Epoch) {
    let etcd = shared().await;
    let proxy = Proxy::start(etcd.address(0)).await.expect("a proxy starts");
    let fixture = Fixture::through(etcd, proxy.address()).await;
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(fixture.commit(epoch, put(1, 0, "before")).await, Ok(()));
    (proxy, fixture, epoch)
}

#[tokio::test]
async fn live_a_commit_whose_answer_is_lost_is_unknown_and_a_read_tells() {
    let (proxy, fixture, epoch) = behind_a_proxy().await;
    proxy.set(Mode::DropAnswers);
    let lost = fixture.commit(epoch, put(1, 1, "heard by etcd alone")).await;
    assert!(matches!(lost, Err(StoreError::Unknown(_))), "{lost:?}");
    proxy.reset();
    proxy.set(Mode::Pass);
    let found = fixture.get(1).await.unwrap();
    assert_eq!((found.generation, &found.value[..]), (Generation(2), &b"heard by etcd alone"[..]));
    assert_eq!(fixture.commit(epoch, put(1, 1, "heard by etcd alone")).await, Ok(()), "the same again");
    assert_eq!(fixture.commit(epoch, put(1, 2, "next")).await, Ok(()));
}

#[tokio::test]
async fn live_a_commit_that_is_cut_off_is_never_called_done_and_works_afterwards() {
    let (proxy, fixture, epoch) = behind_a_proxy().await;
    proxy.set(Mode::Cut);
    let cut = fixture.commit(epoch, put(1, 1, "lost on the way")).await;
    assert!(matches!(cut, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))), "{cut:?}");
    proxy.reset();
    proxy.set(Mode::Pass);
    assert_eq!(fixture.get(1).await.unwrap().generation, Generation(1));
    assert_eq!(fixture.commit(epoch, put(1, 1, "at last")).await, Ok(()));
}

/// The frozen connections go on, and with them what was sent: under another owner by then.
#[tokio::test]
async fn live_a_write_that_arrives_late_finds_the_fence() {
    let (proxy, fixture, old) = behind_a_proxy().await;
    proxy.set(Mode::Cut);
    let cut = fixture.commit(old, put(1, 1, "late")).await;
    assert!(cut.is_err(), "{cut:?}");
    let new = fixture.claim(SHARD).await;
    proxy.set(Mode::Pass);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(fixture.get(1).await.unwrap().generation, Generation(1));
    assert_eq!(fixture.commit(new, put(1, 1, "of the new owner")).await, Ok(()));
}

#[tokio::test]
async fn live_nothing_is_written_while_etcd_is_down_and_everything_is_there_afterwards() {
    let mut etcd = Etcd::start(1).await.unwrap();
    let fixture = Fixture::on(&etcd, etcd.endpoints()).await;
    let epoch = fixture.claim(SHARD).await;
    assert_eq!(fixture.commit(epoch, put(1, 0, "before")).await, Ok(()));
    etcd.kill(0);
    // The first may find a connection that breaks under it.
    let first = fixture.commit(epoch, put(1, 1, "lost")).await;
    assert!(matches!(first, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))), "{first:?}");
    let down = join_all((2..20).map(|n| fixture.commit(epoch, put(n, 0, "down")))).await;
    assert!(down.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))), "{down:?}");
    etcd.restart(0).await.unwrap();
    let records = fixture.store().load(SHARD, None, 100).await.unwrap().records;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].generation, &records[0].value[..]), (Generation(1), &b"before"[..]));
    assert_eq!(fixture.commit(epoch, put(1, 1, "after")).await, Ok(()));
}

/// Each write is repeated until it is certain, as a supervisor does.
#[tokio::test]
async fn live_writes_go_on_over_a_killed_leader_and_none_is_lost_or_doubled() {
    const WRITERS: u128 = 50;
    const STEPS: u64 = 12;
    let mut etcd = Etcd::start(3).await.unwrap();
    let fixture = Fixture::on(&etcd, etcd.endpoints()).await;
    let epoch = fixture.claim(SHARD).await;
    let certain = |n: u128, step: u64| {
        let fixture = &fixture;
        async move {
            loop {
                match fixture.commit(epoch, put(n, step, format!("{n} {step}"))).await {
                    Ok(()) => return,
                    Err(StoreError::Unknown(_) | StoreError::Unavailable(_)) => sleep(Duration::from_millis(50)).await,
                    Err(error @ (StoreError::Fenced { .. } | StoreError::Conflict { .. } | StoreError::Damaged(_))) => {
                        panic!("write {step} of {n}: {error}")
                    }
                }
            }
        }
    };
    let writers = join_all((0..WRITERS).map(|n| {
        let certain = &certain;
        async move {
            for step in 0..STEPS {
                certain(n, step).await;
                sleep(Duration::from_millis(100)).await;
            }
        }
    }));
    let faults = async {
        sleep(Duration::from_millis(300)).await;
        let leader = etcd.leader().await.unwrap();
        etcd.kill(leader);
        etcd.restart(leader).await.unwrap();
    };
    let ((), _) = timeout(PATIENCE, async { tokio::join!(faults, writers) }).await.expect("all is written");
    let records = fixture.store().load(SHARD, None, 100).await.unwrap().records;
    assert_eq!(records.len(), 50);
    for (n, record) in (0..WRITERS).zip(records) {
        let expected = format!("{n} {}", STEPS - 1);
        assert_eq!((record.generation, &record.value[..]), (Generation(STEPS), expected.as_bytes()));
    }
}

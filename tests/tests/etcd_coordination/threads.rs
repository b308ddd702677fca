//! Callers whose thread is busy, as that of many VMs may be.

use std::sync::mpsc;
use std::time::Duration;

use reeve_cluster::etcd::{EtcdClient, EtcdError, EtcdStore, Keys};
use reeve_ports::store::{Change, RecordStore, Write};
use reeve_protocol::{Generation, ShardId, VmId};
use uuid::Uuid;

use crate::fixture::{PATIENCE, World};

/// A thread with a runtime of its own that begins something and is busy then, until this is dropped.
struct Busy {
    _kept: mpsc::Sender<()>,
}

impl Busy {
    /// Returns when the thread is busy.
    async fn after<F>(begin: impl FnOnce() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()>,
    {
        let (began, begun) = tokio::sync::oneshot::channel();
        let (sender, dropped) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                begin().await;
                let _ = began.send(());
                // The end of the test.
                let _ = dropped.recv();
            });
        });
        begun.await.expect("the thread begins");
        Self { _kept: sender }
    }
}

async fn read(client: &EtcdClient) -> Result<(), EtcdError> {
    client.ask(|etcd| async move { etcd.kv().get("key", None).await }, PATIENCE / 10).await.map(drop)
}

fn write(vm: u128) -> Write {
    let change = Change::Put { generation: Generation(1), value: "record".into() };
    Write { vm: VmId::new(Uuid::from_u128(vm)), expected: Generation(0), change }
}

#[tokio::test]
async fn live_a_connection_does_not_depend_on_the_thread_that_opened_it() {
    let world = World::new().await;
    let client = EtcdClient::new(&world.config("a")).unwrap();
    let opener = client.clone();
    let busy = Busy::after(async move || {
        read(&opener).await.expect("an answer");
    })
    .await;
    assert_eq!(read(&client).await, Ok(()), "the connection is dead while the thread is busy");
    drop(busy);
}

#[tokio::test]
async fn live_a_shards_writer_does_not_depend_on_the_thread_of_the_first_write() {
    let world = World::new().await;
    let a = world.join("a").await;
    let shard = ShardId(0);
    world.until("the shard is owned", || world.epochs_of("a").contains_key(&shard)).await;
    let epoch = world.epochs_of("a")[&shard];
    let store = EtcdStore::new(a.cluster.client(), Keys::new(&world.config("a").cluster));
    let first = store.clone();
    let busy = Busy::after(async move || {
        // Queued, and not awaited any further. On a busy machine it may be done before this thread goes on.
        let queued = tokio::time::timeout(Duration::ZERO, first.commit(shard, epoch, write(1))).await;
        assert!(!matches!(queued, Ok(Err(_))), "{queued:?}");
    })
    .await;
    assert_eq!(store.commit(shard, epoch, write(2)).await, Ok(()));
    drop(busy);
}

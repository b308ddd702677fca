//! The suites of the ports, each with two ways to end a life: in order, and killed.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use reeve_ports::conformance::bus::BusFixture;
use reeve_ports::conformance::coordination::CoordinationFixture;
use reeve_ports::conformance::store::StoreFixture;
use reeve_ports::{Bus, Coordination, Message, RecordStore};
use reeve_protocol::{Epoch, ShardId, VmId};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::super::tables::Tables;
use super::super::{BusLimits, EmbeddedBus, EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use super::open_bus;

/// How a life ends.
#[derive(Clone, Copy)]
enum End {
    InOrder,
    Killed,
}

struct Fixture {
    folder: TempDir,
    path: PathBuf,
    end: End,
    lives: u32,
    db: EmbeddedDb,
    bus: EmbeddedBus,
}

const LIMITS: BusLimits = BusLimits {
    queue_messages: 100,
    queue_bytes: 1 << 20,
    total_bytes: 1 << 20,
    message_bytes: 1 << 16,
    delivery_limit: 3,
    dead_letters: 100,
    history_events: 100,
};

impl Fixture {
    async fn new(end: End) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("reeve.redb");
        let db = EmbeddedDb::open(&path).await.unwrap();
        let bus = open_bus(&db, LIMITS).await;
        Self { folder, path, end, lives: 1, db, bus }
    }

    async fn end_life(&mut self) {
        match self.end {
            End::InOrder => self.db.close().await,
            End::Killed => {
                // What was settled is written without anybody waiting; this waits for it.
                self.db.write(|_| Ok(())).await.unwrap();
                // The file as a process that was killed now would leave it.
                self.lives += 1;
                let left = self.folder.path().join(format!("life-{}.redb", self.lives));
                std::fs::copy(&self.path, &left).unwrap();
                self.path = left;
            }
        }
        self.db = EmbeddedDb::open(&self.path).await.unwrap();
        self.bus = open_bus(&self.db, LIMITS).await;
    }
}

#[async_trait]
impl StoreFixture for Fixture {
    fn store(&self) -> Arc<dyn RecordStore> {
        Arc::new(EmbeddedStore::new(self.db.clone()))
    }

    async fn claim(&self, shard: ShardId) -> Epoch {
        EmbeddedCoordination::new(self.db.clone()).claim(shard).await.unwrap()
    }

    async fn restart(&mut self) {
        self.end_life().await;
    }

    async fn damage(&self, shard: ShardId, vm: VmId) {
        let key = (shard.0, vm.uuid().as_u128());
        let put_short = move |tables: &mut Tables<'_>| {
            tables.records.insert(key, [7u8; 3].as_slice())?;
            Ok(())
        };
        self.db.write(put_short).await.unwrap();
    }
}

#[async_trait]
impl CoordinationFixture for Fixture {
    fn coordination(&self) -> Arc<dyn Coordination> {
        Arc::new(EmbeddedCoordination::new(self.db.clone()))
    }

    async fn restart(&mut self) {
        self.end_life().await;
    }
}

#[async_trait]
impl BusFixture for Fixture {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    async fn restart(&mut self) {
        self.end_life().await;
    }

    async fn reply_queue(&self) -> (String, mpsc::Receiver<Message>) {
        let queue = self.bus.reply_queue();
        (queue.address, queue.messages)
    }

    fn delivery_limit(&self) -> u32 {
        LIMITS.delivery_limit
    }
}

mod store_closed_in_order {
    use super::*;
    reeve_ports::store_conformance!(
        #[tokio::test(start_paused = true)]
        Fixture::new(End::InOrder).await
    );
}

mod store_killed {
    use super::*;
    reeve_ports::store_conformance!(
        #[tokio::test(start_paused = true)]
        Fixture::new(End::Killed).await
    );
}

mod coordination_closed_in_order {
    use super::*;
    reeve_ports::coordination_conformance!(
        #[tokio::test(start_paused = true)]
        Fixture::new(End::InOrder).await
    );
}

mod coordination_killed {
    use super::*;
    reeve_ports::coordination_conformance!(
        #[tokio::test(start_paused = true)]
        Fixture::new(End::Killed).await
    );
}

mod bus_closed_in_order {
    use super::*;
    reeve_ports::bus_conformance!(
        #[tokio::test(start_paused = true)]
        Fixture::new(End::InOrder).await
    );
}

mod bus_killed {
    use super::*;
    reeve_ports::bus_conformance!(
        #[tokio::test(start_paused = true)]
        Fixture::new(End::Killed).await
    );
}

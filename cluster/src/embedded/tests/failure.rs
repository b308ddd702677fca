//! A disk that is full or fails, for a while.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use redb::backends::FileBackend;
use redb::{Database, StorageBackend};
use reeve_ports::store::{Page, StoreError};
use reeve_ports::{Address, Bus, BusError, Coordination, Queue, RecordStore, Settlement};
use reeve_protocol::ShardId;
use tempfile::TempDir;

use super::super::{EmbeddedCoordination, EmbeddedDb, EmbeddedStore, file};
use super::*;

const SHARD: ShardId = ShardId(0);

const BLOCK: u64 = 4096;

/// What fails at the moment.
#[derive(Debug, Default)]
struct Faults {
    /// As a full disk does: what needs a new block fails, what overwrites an old one does not.
    full: AtomicBool,
    /// Every write.
    write: AtomicBool,
    /// Every fsync.
    sync: AtomicBool,
    /// The blocks that the file has.
    blocks: Mutex<BTreeSet<u64>>,
}

impl Faults {
    fn check(fault: &AtomicBool) -> io::Result<()> {
        if fault.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn allocate(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset + u64::try_from(length).unwrap();
        let mut blocks = self.blocks.lock().unwrap();
        for block in offset / BLOCK..end.div_ceil(BLOCK) {
            if !blocks.contains(&block) {
                Self::check(&self.full)?;
                blocks.insert(block);
            }
        }
        Ok(())
    }
}

/// A file that fails on demand.
#[derive(Debug)]
struct FaultyFile {
    file: FileBackend,
    faults: Arc<Faults>,
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Faults::check(&self.faults.write)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Faults::check(&self.faults.sync)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Faults::check(&self.faults.write)?;
        self.faults.allocate(offset, data.len())?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

fn open_faulty(path: &Path, faults: &Arc<Faults>) -> Result<Database, redb::Error> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let file = FaultyFile { file: FileBackend::new(file)?, faults: Arc::clone(faults) };
    Ok(file::builder().create_with_backend(file)?)
}

fn faulty_db(folder: &TempDir) -> (EmbeddedDb, Arc<Faults>) {
    let (path, faults) = (folder.path().join("reeve.redb"), Arc::new(Faults::default()));
    let database = open_faulty(&path, &faults).unwrap();
    file::initialise(&database).unwrap();
    let (at, same) = (path.clone(), Arc::clone(&faults));
    (EmbeddedDb::new(path, database, Box::new(move || open_faulty(&at, &same))), faults)
}

#[tokio::test]
async fn a_full_disk_is_unavailable_until_there_is_room_again() {
    let folder = TempDir::new().unwrap();
    let (db, faults) = faulty_db(&folder);
    let epoch = EmbeddedCoordination::new(db.clone()).claim(SHARD).await.unwrap();
    let store = EmbeddedStore::new(db.clone());
    store.commit(SHARD, epoch, put(0, 0, b"before")).await.unwrap();

    for round in 0..3 {
        faults.full.store(true, Ordering::SeqCst);
        let results = join_all((1..50).map(|n| store.commit(SHARD, epoch, put(n, 0, &[7; 60_000])))).await;
        for result in results {
            assert!(matches!(&result, Err(StoreError::Unavailable(_))), "{result:?}");
        }
        let still = store.load(SHARD, None, 100).await.unwrap().records;
        assert_eq!(still.len(), 1, "what was there is read on a full disk");
        faults.full.store(false, Ordering::SeqCst);
        let again = store.commit(SHARD, epoch, put(0, round + 1, b"after")).await;
        assert_eq!(again, Ok(()), "the writer goes on");
        assert_eq!(store.load(SHARD, None, 100).await.unwrap().records.len(), 1, "nothing was written");
    }
    db.close().await;
    let path = folder.path().join("reeve.redb");
    let store = EmbeddedStore::new(EmbeddedDb::open(path).await.unwrap());
    assert_eq!(store.get(SHARD, vm(0)).await.unwrap().unwrap().generation, Generation(4));
}

#[tokio::test]
async fn a_disk_that_takes_no_write_at_all_is_never_reported_as_done() {
    let folder = TempDir::new().unwrap();
    let (db, faults) = faulty_db(&folder);
    let epoch = EmbeddedCoordination::new(db.clone()).claim(SHARD).await.unwrap();
    let store = EmbeddedStore::new(db.clone());
    faults.write.store(true, Ordering::SeqCst);
    for n in 1..10 {
        let result = store.commit(SHARD, epoch, put(n, 0, b"record")).await;
        assert!(matches!(&result, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))), "{result:?}");
    }
    faults.write.store(false, Ordering::SeqCst);
    assert_eq!(
        store.load(SHARD, None, 100).await,
        Ok(Page::default()),
        "reading opens the file again, without any write"
    );
    assert_eq!(store.commit(SHARD, epoch, put(1, 0, b"record")).await, Ok(()));
    assert_eq!(store.load(SHARD, None, 100).await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_failed_fsync_is_never_reported_as_done() {
    let folder = TempDir::new().unwrap();
    let (db, faults) = faulty_db(&folder);
    let epoch = EmbeddedCoordination::new(db.clone()).claim(SHARD).await.unwrap();
    let store = EmbeddedStore::new(db);
    faults.sync.store(true, Ordering::SeqCst);
    let result = store.commit(SHARD, epoch, put(1, 0, b"record")).await;
    assert!(matches!(&result, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))), "{result:?}");
    faults.sync.store(false, Ordering::SeqCst);
    // Whatever became of the first, the same again succeeds.
    assert_eq!(store.commit(SHARD, epoch, put(1, 0, b"record")).await, Ok(()));
    assert_eq!(store.get(SHARD, vm(1)).await.unwrap().unwrap().generation, Generation(1));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_takes_no_message_and_loses_none() {
    let folder = TempDir::new().unwrap();
    let (db, faults) = faulty_db(&folder);
    let bus = open_bus(&db, BusLimits { delivery_limit: 1, queue_messages: 3, ..BusLimits::default() }).await;
    for body in ["a", "b"] {
        bus.publish(&Address::Requests, message(body)).await.unwrap();
    }
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    let delivery = consumer.next().await.unwrap();

    faults.write.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        // Each gives back the room that it took, or the queue would be full.
        let result = bus.publish(&Address::Requests, message("c")).await;
        assert!(matches!(&result, Err(BusError::Unavailable(why)) if !why.contains("is full")), "{result:?}");
    }
    let result = delivery.settle.settle(Settlement::Dead("bad".into())).await;
    assert!(matches!(&result, Err(BusError::Unavailable(_))), "{result:?}");
    let again = consumer.next().await.unwrap();
    assert_eq!((again.message.body.as_ref(), again.redelivered), (b"a".as_slice(), 1));
    drop(again);
    // Over the limit now, and no dead letter can be written: it waits, and does not spin.
    // (Ends between two attempts, which are whole seconds.)
    assert!(tokio::time::timeout(Duration::from_millis(10_500), consumer.next()).await.is_err());

    faults.write.store(false, Ordering::SeqCst);
    let next = consumer.next().await.unwrap();
    assert_eq!(next.message.body, b"b".as_slice());
    let letters = bus.dead(0, 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.message.body.as_ref()).collect::<Vec<_>>(), [b"a"]);
    bus.publish(&Address::Requests, message("c")).await.unwrap();
}

#[tokio::test]
async fn a_write_that_panics_takes_nothing_else_with_it() {
    let folder = TempDir::new().unwrap();
    let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
    let coordination = EmbeddedCoordination::new(db.clone());
    let before = coordination.claim(SHARD).await.unwrap();
    let panicked = db.write(|_| -> Result<(), redb::Error> { panic!("a bug") }).await;
    assert!(panicked.is_err());
    assert!(coordination.claim(SHARD).await.unwrap() > before);
    db.close().await;
    EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
}

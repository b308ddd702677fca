//! A process killed in the middle of commits: whatever it was told is done, is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use futures::future::join_all;
use reeve_ports::{Address, Bus, Coordination, Queue, RecordStore, Settlement};
use reeve_protocol::ShardId;
use tempfile::TempDir;

use super::super::{EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use super::*;

const SHARD: ShardId = ShardId(5);
const WRITERS: u128 = 16;
const FILE: &str = "REEVE_CRASH_TEST_FILE";

fn value(writer: u128, generation: u64) -> Vec<u8> {
    format!("{writer} {generation} ").repeat(100).into_bytes()
}

/// Says that something was acknowledged, in one system call.
fn acknowledged(line: &str) {
    std::io::stdout().write_all(format!("\nacknowledged {line}\n").as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of the test below, which kills it"]
async fn child_that_writes_until_it_is_killed() {
    let db = EmbeddedDb::open(std::env::var_os(FILE).expect("run by the test below")).await.unwrap();
    let bus = open_bus(&db, BusLimits::default()).await;
    let epoch = EmbeddedCoordination::new(db.clone()).claim(SHARD).await.unwrap();
    let store = EmbeddedStore::new(db);
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            let mut generation = store.get(SHARD, vm(writer)).await.unwrap().map_or(0, |stored| stored.generation.0);
            loop {
                store.commit(SHARD, epoch, put(writer, generation, &value(writer, generation + 1))).await.unwrap();
                generation += 1;
                acknowledged(&format!("record {writer} {generation}"));
            }
        }
    });
    let publisher = async {
        loop {
            let id = Uuid::new_v4().to_string();
            bus.publish(&Address::Requests, message(&id)).await.unwrap();
            acknowledged(&format!("message {id} 0"));
        }
    };
    tokio::join!(join_all(writers), publisher);
}

/// Runs the child, kills it after so many acknowledgements, and returns all that it got.
fn kill_after(path: &Path, lines: usize) -> Vec<(String, String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::crash::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(line) = line.unwrap().strip_prefix("acknowledged ") {
            let words: Vec<&str> = line.split(' ').collect();
            acknowledged.push((words[0].to_owned(), words[1].to_owned(), words[2].parse().unwrap()));
            if acknowledged.len() == lines {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= lines, "the child ended on its own");
    acknowledged
}

#[tokio::test]
async fn every_acknowledged_write_is_there_after_a_kill() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("reeve.redb");
    let mut generations: BTreeMap<u128, u64> = BTreeMap::new();
    for round in 0..6 {
        let at = path.clone();
        let lines = tokio::task::spawn_blocking(move || kill_after(&at, 20 + 137 * round)).await.unwrap();
        let mut messages = Vec::new();
        for (kind, id, generation) in lines {
            if kind == "record" {
                generations.insert(id.parse().unwrap(), generation);
            } else {
                messages.push(id);
            }
        }
        let db = EmbeddedDb::open(&path).await.unwrap();
        check_records(&db, &mut generations).await;
        check_messages(&db, &messages).await;
        db.close().await;
    }
    assert_eq!(generations.len(), usize::try_from(WRITERS).unwrap());
}

/// Each record is what was acknowledged, or the one write after it that was under way.
async fn check_records(db: &EmbeddedDb, acknowledged: &mut BTreeMap<u128, u64>) {
    let store = EmbeddedStore::new(db.clone());
    for (writer, generation) in acknowledged {
        let stored = store.get(SHARD, vm(*writer)).await.unwrap().expect("an acknowledged record is there");
        let found = stored.generation.0;
        assert!(found == *generation || found == *generation + 1, "{found} is stored, {generation} was acknowledged");
        assert_eq!(stored.value, value(*writer, found), "of writer {writer}");
        *generation = found;
    }
}

/// Every acknowledged message is in the queue, in its order; there may be one more.
async fn check_messages(db: &EmbeddedDb, acknowledged: &[String]) {
    let bus = open_bus(db, BusLimits::default()).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    for id in acknowledged {
        let delivery = consumer.next().await.unwrap();
        assert_eq!(delivery.message.body, id.as_bytes());
        delivery.settle.settle(Settlement::Ack).await.unwrap();
    }
    if let Ok(Some(last)) = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await {
        last.settle.settle(Settlement::Ack).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_the_process_reaches_the_delivery_limit_all_the_same() {
    let folder = TempDir::new().unwrap();
    let mut path = folder.path().join("life-0.redb");
    let limits = BusLimits { delivery_limit: 3, ..BusLimits::default() };
    let db = EmbeddedDb::open(&path).await.unwrap();
    open_bus(&db, limits).await.publish(&Address::Requests, message("poison")).await.unwrap();
    let mut lives = 0;
    loop {
        lives += 1;
        // The file as it is at the moment of the kill.
        let left = folder.path().join(format!("life-{lives}.redb"));
        std::fs::copy(&path, &left).unwrap();
        path = left;
        let db = EmbeddedDb::open(&path).await.unwrap();
        let bus = open_bus(&db, limits).await;
        let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
        match tokio::time::timeout(Duration::from_secs(1), consumer.next()).await {
            Ok(delivery) => {
                assert_eq!(delivery.unwrap().redelivered, lives);
            }
            Err(_) => {
                let letters = bus.dead(0, 10).await.unwrap();
                assert_eq!(letters[0].reason, "delivery limit");
                break;
            }
        }
    }
    assert_eq!(lives, 4);
}

//! The bus beyond its suite: limits, bounds, the live feed and the history's index.

use reeve_ports::bus::Delivery;
use reeve_ports::{Address, Bus, BusError, Consumer, Queue, Settlement};
use reeve_protocol::event::{CloudEvent, Event, EventKind, EventSource};
use reeve_protocol::{CloudName, NodeId};
use tempfile::TempDir;

use super::super::{BusLimits, EmbeddedBus, EmbeddedDb};
use super::*;

async fn open(limits: BusLimits) -> (TempDir, EmbeddedDb, EmbeddedBus) {
    let folder = TempDir::new().unwrap();
    let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
    let bus = open_bus(&db, limits).await;
    (folder, db, bus)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_secs(5), consumer.next()).await.expect("a delivery comes").unwrap()
}

fn event(n: u64, at: Timestamp) -> CloudEvent {
    let source = EventSource { cluster: "standalone".into(), node: NodeId::new("n1").unwrap() };
    Event { sequence: n, at, vm: vm(1), kind: EventKind::VmTerminated }.to_cloud_event(&source)
}

async fn publish_event(bus: &EmbeddedBus, event: &CloudEvent) -> Result<(), BusError> {
    let body = serde_json::to_vec(event).unwrap().into();
    bus.publish(&Address::Events("vm.terminated".into()), Message { body, ..Message::default() }).await
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_takes_nothing_until_a_message_is_settled() {
    let limits = BusLimits { queue_messages: 2, queue_bytes: 100, total_bytes: 120, ..BusLimits::default() };
    let (_folder, _db, bus) = open(limits).await;
    let (east, west) = (CloudName::new("east").unwrap(), CloudName::new("west").unwrap());
    let (to, queue) = (Address::Intake(east.clone()), Queue::Intake(east));
    let large = "x".repeat(60);
    bus.publish(&to, message(&large)).await.unwrap();
    let full = bus.publish(&to, message(&large)).await;
    assert!(matches!(&full, Err(BusError::Unavailable(why)) if why.contains("reeve.intake.east is full")), "{full:?}");
    bus.publish(&to, message("small")).await.unwrap();
    assert!(matches!(bus.publish(&to, message("")).await, Err(BusError::Unavailable(_))), "two messages are the limit");
    let all = bus.publish(&Address::Intake(west.clone()), message(&large)).await;
    assert!(matches!(&all, Err(BusError::Unavailable(why)) if why.contains("all queues")), "{all:?}");

    let mut consumer = bus.consume(&queue, 10).await.unwrap();
    let first = next(&mut consumer).await;
    assert!(bus.publish(&to, message("")).await.is_err(), "what is held still counts");
    first.settle.settle(Settlement::Ack).await.unwrap();
    bus.publish(&to, message("")).await.unwrap();
    bus.publish(&Address::Intake(west), message(&large)).await.unwrap();
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let (_folder, _db, bus) = open(BusLimits { message_bytes: 10, ..BusLimits::default() }).await;
    let large = message("12345678901");
    assert!(matches!(bus.publish(&Address::Requests, large.clone()).await, Err(BusError::Refused(_))));
    assert!(matches!(bus.publish(&Address::Events("a".into()), large).await, Err(BusError::Refused(_))));
    bus.publish(&Address::Requests, message("1234567890")).await.unwrap();
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    for body in ["", "{}", "[[[["] {
        let refused = bus.publish(&Address::Events("vm.terminated".into()), message(body)).await;
        assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("no CloudEvent")), "{refused:?}");
    }
}

#[tokio::test]
async fn an_event_published_twice_is_in_the_history_once_and_seen_live_once() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    let mut live = bus.subscribe();
    for n in [1, 2, 1, 3, 2] {
        publish_event(&bus, &event(n, NOW)).await.unwrap();
    }
    let past = bus.history(Timestamp::EPOCH, None, 10).await.unwrap();
    assert_eq!(past.iter().map(|past| past.event.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    for expected in past {
        assert_eq!(live.try_recv().unwrap(), expected);
    }
    assert!(live.try_recv().is_err());
}

#[tokio::test]
async fn the_oldest_events_leave_a_full_history() {
    let (_folder, db, bus) = open(BusLimits { history_events: 3, ..BusLimits::default() }).await;
    for n in 1..=5 {
        publish_event(&bus, &event(n, NOW)).await.unwrap();
    }
    let past = bus.history(Timestamp::EPOCH, None, 10).await.unwrap();
    assert_eq!(
        past.iter().map(|past| (past.position, past.event.sequence)).collect::<Vec<_>>(),
        [(3, 3), (4, 4), (5, 5)]
    );
    let rows = db.read(|transaction| {
        use redb::ReadableTableMetadata;
        let times = transaction.open_table(super::super::tables::HISTORY_TIMES)?.len()?;
        Ok((times, transaction.open_table(super::super::tables::HISTORY_IDS)?.len()?))
    });
    assert_eq!(rows.await.unwrap(), (3, 3), "the indexes are bounded too");
}

#[tokio::test]
async fn a_large_history_is_read_from_a_time_as_a_small_one_is() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    let at = |n: u64| NOW + Duration::from_secs(n);
    // Every third is published late.
    let times: Vec<u64> = (0..6000).map(|n| if n % 3 == 0 { n / 2 } else { n }).collect();
    let events: Vec<_> = (1..).zip(&times).map(|(sequence, time)| event(sequence, at(*time))).collect();
    let published = futures::future::join_all(events.iter().map(|event| publish_event(&bus, event))).await;
    assert!(published.iter().all(Result::is_ok));
    let all = bus.history(Timestamp::EPOCH, None, 10_000).await.unwrap();
    assert_eq!(all.len(), events.len());
    for (since, after, limit) in
        [(0, None, 10), (10, Some(5), 100), (1000, None, 50), (5990, None, 100), (5000, Some(5500), 3)]
    {
        let found = bus.history(at(since), after, limit).await.unwrap();
        let slow: Vec<_> = all
            .iter()
            .filter(|past| past.event.time >= at(since) && past.position > after.unwrap_or(0))
            .take(limit)
            .cloned()
            .collect();
        assert!(found == slow, "since {since}, after {after:?}, limit {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_dead_letters_leave_when_there_are_too_many() {
    let (_folder, _db, bus) = open(BusLimits { dead_letters: 2, ..BusLimits::default() }).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    for body in ["a", "b", "c"] {
        bus.publish(&Address::Requests, message(body)).await.unwrap();
        next(&mut consumer).await.settle.settle(Settlement::Dead("x".repeat(5000))).await.unwrap();
    }
    let letters = bus.dead(0, 10).await.unwrap();
    let numbers: Vec<_> = letters.iter().map(|letter| (letter.number, letter.message.body.as_ref())).collect();
    assert_eq!(numbers, [(1, b"b".as_slice()), (2, b"c")]);
    assert_eq!((letters[0].reason.len(), letters[0].at), (1024, NOW));
}

#[tokio::test(start_paused = true)]
async fn a_number_is_never_given_to_another_dead_letter() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    let mut numbers = Vec::new();
    for body in ["a", "b"] {
        bus.publish(&Address::Requests, message(body)).await.unwrap();
        next(&mut consumer).await.settle.settle(Settlement::Dead("bad".into())).await.unwrap();
        let number = bus.dead(0, 10).await.unwrap()[0].number;
        bus.drop_dead(number).await.unwrap();
        numbers.push(number);
    }
    assert_ne!(numbers[0], numbers[1]);
}

#[tokio::test(start_paused = true)]
async fn a_next_that_was_abandoned_loses_no_message() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    bus.publish(&Address::Requests, message("a")).await.unwrap();
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    drop(next(&mut consumer).await);
    for _ in 0..20 {
        // Polled once, then dropped: a redelivery waits for its count to be written.
        let abandoned = futures::FutureExt::now_or_never(consumer.next());
        if let Some(delivery) = abandoned {
            assert_eq!(delivery.unwrap().redelivered, 1);
            return;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut consumer).await.redelivered, 1);
}

#[tokio::test(start_paused = true)]
async fn consumers_end_when_the_database_closes() {
    let (_folder, db, bus) = open(BusLimits::default()).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    let (ended, ()) = tokio::join!(consumer.next(), db.close());
    assert!(ended.is_none());
    assert!(consumer.next().await.is_none());
    assert!(matches!(bus.publish(&Address::Requests, message("a")).await, Err(BusError::Unavailable(_))));
    assert!(bus.consume(&Queue::Requests, 1).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_stops_waiting_leaves_its_message() {
    let (_folder, db, bus) = open(BusLimits::default()).await;
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    db.write_now(move |_| Ok(wait.recv().is_err()), |held| assert_eq!(held, Ok(true)));
    let abandoned = futures::FutureExt::now_or_never(bus.publish(&Address::Requests, message("a")));
    assert!(abandoned.is_none(), "the writer is held up");
    drop(go_on);
    db.write(|_| Ok(())).await.unwrap();
    let mut consumer = bus.consume(&Queue::Requests, 1).await.unwrap();
    assert_eq!(next(&mut consumer).await.message, message("a"));
}

#[tokio::test]
async fn replies_to_one_who_does_not_read_are_bounded() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    let mut queue = bus.reply_queue();
    for n in 0..1000 {
        bus.publish(&Address::Reply(queue.address.clone()), message(&n.to_string())).await.unwrap();
    }
    let mut read = 0;
    while queue.messages.try_recv().is_ok() {
        read += 1;
    }
    assert_eq!(read, 64);
}

#[tokio::test]
async fn a_prefetch_of_nothing_is_refused() {
    let (_folder, _db, bus) = open(BusLimits::default()).await;
    assert!(matches!(bus.consume(&Queue::Requests, 0).await, Err(BusError::Refused(_))));
}

#[tokio::test]
async fn rules_that_do_not_keep_up_hold_up_no_event_and_the_same_event_comes_to_them_once() {
    let (_folder, _db, bus) = open(BusLimits { queue_messages: 2, ..BusLimits::default() }).await;
    for n in [1, 1, 2, 3, 4] {
        let event = event(n, Timestamp::EPOCH);
        let body = serde_json::to_vec(&event).unwrap().into();
        let message = Message { body, message_id: Some(event.id.0), ..Message::default() };
        bus.publish(&Address::Events("backup.missed".into()), message).await.unwrap();
    }
    assert_eq!(bus.history(Timestamp::MIN, None, 10).await.unwrap().len(), 4, "every event is published");
    let mut rules = bus.consume(&Queue::Rules, 10).await.unwrap();
    for n in [1, 2] {
        let delivery = next(&mut rules).await;
        assert_eq!(delivery.message.message_id, Some(event(n, Timestamp::EPOCH).id.0));
        delivery.settle.settle(Settlement::Ack).await.unwrap();
    }
    publish_event(&bus, &event(5, Timestamp::EPOCH)).await.unwrap();
    assert!(futures::FutureExt::now_or_never(rules.next()).is_none(), "no rule is for that one");
}

//! A broker that is away, restarts, or is killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reeve_cluster::rabbitmq::{BusStatus, LinkStatus, RabbitBus};
use reeve_ports::{Address, Bus, BusError, Queue, Settlement};
use reeve_protocol::ShardId;
use reeve_tests::harness::Port;
use reeve_tests::harness::rabbitmq::REGISTRATION_FLUSH;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fixture::{Broker, Client, Fixture, PATIENCE, config, message, next, start, until, until_connected};

/// Publishes until it works, as the outbox does; what was confirmed counts once.
async fn publish_until_taken(bus: &RabbitBus, to: &Address, body: String) {
    while bus.publish(to, message(&body)).await.is_err() {}
}

#[tokio::test]
async fn live_the_bus_starts_without_a_broker_and_says_so() {
    let port = Port::reserve().expect("a free port");
    let mut config = config(&format!("amqp://reeve:s3cret@127.0.0.1:{}/%2f", port.number()));
    config.publish_timeout = Duration::from_millis(300);
    let began = Instant::now();
    let bus = start(config);
    let consuming = bus.consume(&Queue::Requests, 1).await;
    assert!(consuming.is_ok() && began.elapsed() < Duration::from_secs(1), "neither waits for the broker");
    let status =
        until(&bus, |status| matches!(&status.publishing, LinkStatus::Away { error, .. } if error.contains("refused")))
            .await;
    assert!(!format!("{status:?}").contains("s3cret"), "{status:?}");
    let refused = bus.publish(&Address::Requests, message("m")).await.expect_err("nobody takes it");
    assert!(matches!(&refused, BusError::Unavailable(why) if why.contains("away since")), "{refused}");
    assert!(!refused.to_string().contains("s3cret"), "{refused}");
}

#[tokio::test]
async fn live_a_peer_that_accepts_and_says_nothing_counts_as_away() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let bus = start(config(&format!("amqp://u:p@{address}/%2f")));
    let silent =
        |status: &BusStatus| matches!(&status.consuming, LinkStatus::Away { error, .. } if error.contains("no answer"));
    until(&bus, silent).await;
}

#[tokio::test]
async fn live_publishing_while_the_broker_is_away_fails_in_time_and_works_afterwards() {
    let mut broker = Broker::take().await;
    let mut config = config(&broker.url());
    config.publish_timeout = Duration::from_millis(500);
    let bus = start(config);
    until_connected(&bus).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.expect("consumed");
    broker.get().stop().await.expect("the broker stops");
    until(&bus, |status| !status.is_connected()).await;

    let began = Instant::now();
    let mut attempts = JoinSet::new();
    for n in 0..1_000 {
        let bus = bus.clone();
        attempts.spawn(async move { bus.publish(&Address::Requests, message(&format!("away {n}"))).await });
    }
    for result in attempts.join_all().await {
        assert!(matches!(result, Err(BusError::Unavailable(_))), "{result:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "all fail within the timeout, not one after the other");

    broker.get().restart().await.expect("the broker starts");
    until_connected(&bus).await;
    bus.publish(&Address::Requests, message("back")).await.expect("taken");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.body, b"back".as_slice(), "what failed while away was not kept");
    delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");
}

#[tokio::test]
async fn live_nothing_confirmed_is_lost_over_two_kills_of_the_broker() {
    const MESSAGES: usize = 2_000;
    let mut broker = Broker::own().await;
    let bus = start(config(&broker.url()));
    until_connected(&bus).await;
    let (to, queue) = (Address::Shard(ShardId(1)), Queue::Shard(ShardId(1)));
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut publishers = JoinSet::new();
    for lane in 0..20 {
        let (bus, to, taken) = (bus.clone(), to.clone(), taken.clone());
        publishers.spawn(async move {
            for n in 0..MESSAGES / 20 {
                publish_until_taken(&bus, &to, format!("{lane}-{n}")).await;
                taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
    }
    let consuming = tokio::spawn({
        let bus = bus.clone();
        async move {
            let mut consumer = bus.consume(&queue, 50).await.expect("consumed");
            let mut seen: BTreeSet<Bytes> = BTreeSet::new();
            while seen.len() < MESSAGES {
                // Two restarts in a row may pass without a delivery.
                let Ok(next) = tokio::time::timeout(PATIENCE * 4, consumer.next()).await else {
                    let (dead, status) = (bus.dead(0, 100).await, bus.status());
                    panic!("only {} of {MESSAGES} came; dead letters: {dead:?}; {status:?}", seen.len());
                };
                let delivery = next.expect("the bus is open");
                seen.insert(delivery.message.body.clone());
                // Late after a kill: then it comes again.
                let _ = delivery.settle.settle(Settlement::Ack).await;
            }
        }
    });
    for share in [MESSAGES / 4, MESSAGES / 2] {
        tokio::time::sleep(REGISTRATION_FLUSH).await;
        while taken.load(std::sync::atomic::Ordering::Relaxed) < share {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        broker.get().kill();
        until(&bus, |status| !status.is_connected()).await;
        broker.get().restart().await.expect("the broker starts again");
    }
    tokio::time::timeout(PATIENCE * 4, publishers.join_all()).await.expect("every message is taken in the end");
    let consumed = tokio::time::timeout(PATIENCE * 6, consuming).await.expect("in time");
    let waiting = Client::new(&broker.url()).await.waiting("reeve.shard.1").await;
    assert!(consumed.is_ok(), "not every message that was taken came; {waiting} wait in the queue");
}

#[tokio::test]
async fn live_a_consumer_made_while_the_broker_is_away_consumes_when_it_is_back() {
    let mut fixture = Fixture::new().await;
    fixture.bus.publish(&Address::Requests, message("waits")).await.expect("taken");
    fixture.broker.get().stop().await.expect("the broker stops");
    until(&fixture.bus, |status| !status.is_connected()).await;
    let mut consumer = fixture.bus.consume(&Queue::Requests, 1).await.expect("consumed");
    fixture.broker.get().restart().await.expect("the broker starts");
    assert_eq!(next(&mut consumer).await.message.body, b"waits".as_slice());
}

#[tokio::test]
async fn live_a_closed_bus_ends_its_consumers_and_gives_back_what_they_held() {
    let fixture = Fixture::new().await;
    fixture.bus.publish(&Address::Requests, message("held")).await.expect("taken");
    let mut consumer = fixture.bus.consume(&Queue::Requests, 1).await.expect("consumed");
    let held = next(&mut consumer).await;

    fixture.bus.close().await;

    assert!(tokio::time::timeout(PATIENCE, consumer.next()).await.expect("in time").is_none());
    assert!(held.settle.settle(Settlement::Ack).await.is_err());
    assert!(matches!(fixture.bus.publish(&Address::Requests, message("late")).await, Err(BusError::Unavailable(_))));
    assert_eq!(fixture.bus.status().publishing, LinkStatus::Closed);
    let other = start(config(&fixture.broker.url()));
    let mut consumer = other.consume(&Queue::Requests, 1).await.expect("consumed");
    assert_eq!(next(&mut consumer).await.message.body, b"held".as_slice());
}

/// Given up at any moment, nothing stays behind on the broker that holds messages.
#[tokio::test]
async fn live_consumers_and_readers_that_are_given_up_half_way_hold_nothing() {
    let broker = Broker::take().await;
    let mut config = config(&broker.url());
    // Every consumer that came to hold the message for a moment counts as a delivery.
    config.poison_limit = 900;
    let (bus, shard) = (start(config), ShardId(3));
    until_connected(&bus).await;
    for body in ["letter", "command"] {
        bus.publish(&Address::Shard(shard), message(body)).await.expect("taken");
    }
    let mut consumer = bus.consume(&Queue::Shard(shard), 1).await.expect("consumed");
    next(&mut consumer).await.settle.settle(Settlement::Dead("bad".into())).await.expect("given up");
    drop(consumer);
    for step in 0..100 {
        let moment = Duration::from_micros(step * 100);
        drop(tokio::time::timeout(moment, bus.consume(&Queue::Shard(shard), 1)).await);
        drop(tokio::time::timeout(moment, bus.dead(0, 10)).await);
    }
    let mut consumer = bus.consume(&Queue::Shard(shard), 1).await.expect("consumed");
    assert_eq!(next(&mut consumer).await.message.body, b"command".as_slice());
    let letters = async {
        while bus.dead(0, 10).await.expect("read").len() != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, letters).await.expect("the dead letter is back");
}

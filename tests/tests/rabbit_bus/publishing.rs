//! What a confirm means.

use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::types::ShortString;
use reeve_ports::{Address, Bus, BusError, Message, Queue, Settlement};
use reeve_protocol::ShardId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fixture::{Fixture, PATIENCE, message, next};

#[tokio::test]
async fn live_a_message_that_no_queue_takes_is_never_reported_as_taken() {
    let fixture = Fixture::new().await;
    fixture.client.delete_queue("reeve.shard.1").await;

    let mut attempts = JoinSet::new();
    for n in 0..400 {
        let (bus, shard) = (fixture.bus.clone(), ShardId(n % 2));
        attempts.spawn(async move {
            let result = bus.publish(&Address::Shard(shard), message(&n.to_string())).await;
            (shard, result.is_ok())
        });
    }
    let results = attempts.join_all().await;

    let taken = |shard| results.iter().filter(|result| **result == (ShardId(shard), true)).count();
    assert_eq!(taken(0), 200, "the other shard's messages are not mixed up with the lost ones");
    assert_eq!(u32::try_from(taken(1)).expect("few"), fixture.client.waiting("reeve.shard.1").await);
    assert!(taken(1) < 200, "at least one came before the queue was declared again");
}

#[tokio::test]
async fn live_a_queue_that_somebody_removed_is_declared_again() {
    let fixture = Fixture::new().await;
    fixture.client.delete_queue("reeve.requests").await;
    let lost = fixture.bus.publish(&Address::Requests, message("lost")).await;
    assert!(matches!(&lost, Err(BusError::Unavailable(why)) if why.contains("no queue is bound")), "{lost:?}");
    let taken = async { while fixture.bus.publish(&Address::Requests, message("taken")).await.is_err() {} };
    tokio::time::timeout(PATIENCE, taken).await.expect("the queue is back");
    let mut consumer = fixture.bus.consume(&Queue::Requests, 1).await.expect("consumed");
    assert_eq!(next(&mut consumer).await.message.body, b"taken".as_slice());
}

#[tokio::test]
async fn live_an_event_carries_its_id_and_type_and_needs_no_listener() {
    let fixture = Fixture::new().await;
    fixture.client.delete_queue("reeve.audit").await;
    let event = Message { content_type: None, ..message("event-1") };
    fixture.bus.publish(&Address::Events("vm.provisioned".into()), event.clone()).await.expect("nobody need listen");

    let channel = &fixture.client.channel;
    let queue = channel.queue_declare("".into(), lapin::options::QueueDeclareOptions::exclusive(), Default::default());
    let queue = queue.await.expect("declared").name().clone();
    let bound =
        channel.queue_bind(queue.clone(), "reeve.events".into(), "vm.*".into(), Default::default(), Default::default());
    bound.await.expect("bound");
    fixture.bus.publish(&Address::Events("vm.provisioned".into()), event).await.expect("taken");
    let got = channel.basic_get(queue, BasicGetOptions { no_ack: true }).await.expect("asked").expect("routed");
    assert_eq!(got.routing_key.as_str(), "vm.provisioned");
    let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
    assert_eq!(text(got.properties.content_type()).as_deref(), Some("application/cloudevents+json"));
    assert_eq!(text(got.properties.message_id()).as_deref(), Some("event-1"));
    assert_eq!(got.properties.delivery_mode(), &Some(2));
}

#[tokio::test]
async fn live_what_can_never_be_published_is_refused_at_once() {
    let fixture = Fixture::new().await;
    let big = Message { body: vec![0; (16 << 20) + 1].into(), ..Message::default() };
    let long = Message { correlation_id: Some("x".repeat(300)), ..Message::default() };
    let cases = [
        (Address::Shard(ShardId(999)), message("m"), "no shard 999"),
        (Address::Reply("reeve.shard.0".into()), message("m"), "no addresses for replies"),
        (Address::Reply("x".repeat(300)), message("m"), "reply_to has 300 bytes"),
        (Address::Requests, big, "the body has 16777217 bytes"),
        (Address::Requests, long, "correlation_id has 300 bytes"),
    ];
    for (to, message, why) in cases {
        let refused = fixture.bus.publish(&to, message).await;
        assert!(
            matches!(&refused, Err(BusError::Refused(text)) if text.contains(why)),
            "{refused:?}, expected {why:?}"
        );
    }
}

#[tokio::test]
async fn live_the_largest_message_goes_through() {
    let fixture = Fixture::new().await;
    let body = vec![7_u8; 16 << 20];
    fixture
        .bus
        .publish(&Address::Requests, Message { body: body.clone().into(), ..Message::default() })
        .await
        .expect("taken");
    let mut consumer = fixture.bus.consume(&Queue::Requests, 1).await.expect("consumed");
    let delivery = next(&mut consumer).await;
    assert!(delivery.message.body == body);
    delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");
}

#[tokio::test]
async fn live_many_publishes_are_on_their_way_at_once() {
    const MESSAGES: u32 = 5_000;
    let fixture = Fixture::new().await;
    let began = Instant::now();
    let mut attempts = JoinSet::new();
    for n in 0..MESSAGES {
        let bus = fixture.bus.clone();
        let to = Address::Shard(ShardId(u16::try_from(n % 8).expect("small")));
        attempts.spawn(async move { bus.publish(&to, message(&n.to_string())).await });
    }
    for result in attempts.join_all().await {
        result.expect("taken");
    }
    let took = began.elapsed();
    println!("{MESSAGES} confirmed in {took:?}: {:.0}/s", f64::from(MESSAGES) / took.as_secs_f64());
    // One after the other they would take 8 s and more.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

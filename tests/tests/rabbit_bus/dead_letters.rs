//! Poison, large bodies, and what a dead letter keeps.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use reeve_ports::{Address, Bus, BusError, DeadLetter, Message, Queue, Settlement};
use reeve_protocol::{ShardId, Timestamp};

use crate::fixture::{Broker, Client, Fixture, PATIENCE, POISON_LIMIT, config, message, next, start, until_connected};

async fn letters(bus: &dyn Bus, count: usize) -> Vec<DeadLetter> {
    let wait = async {
        loop {
            let letters = bus.dead(0, 100).await.expect("dead letters can be read");
            if letters.len() >= count {
                return letters;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let letters = tokio::time::timeout(PATIENCE, wait).await.expect("the dead letters come in time");
    assert_eq!(letters.len(), count);
    letters
}

/// A process that dies over one message, again and again, together with everything else that it holds.
#[tokio::test]
async fn live_a_message_that_kills_its_consumer_is_given_up_and_its_neighbours_are_not() {
    let fixture = Fixture::new().await;
    let (to, queue) = (Address::Shard(ShardId(0)), Queue::Shard(ShardId(0)));
    for body in ["poison", "a", "b", "c"] {
        fixture.bus.publish(&to, message(body)).await.expect("taken");
    }
    let mut done = Vec::new();
    let mut deaths = 0;
    while done.len() < 3 {
        let mut consumer = fixture.bus.consume(&queue, 10).await.expect("consumed");
        loop {
            let delivery = next(&mut consumer).await;
            if delivery.message.body == b"poison".as_slice() {
                deaths += 1;
                assert!(deaths <= POISON_LIMIT + 1, "it died {deaths} times");
                break;
            }
            done.push(delivery.message.body.clone());
            delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");
            if done.len() == 3 {
                break;
            }
        }
    }
    assert_eq!(done, ["a", "b", "c"].map(|body| Bytes::copy_from_slice(body.as_bytes())));
    let letters = letters(&*fixture.bus, 1).await;
    assert_eq!((letters[0].reason.as_str(), &letters[0].message.body[..]), ("delivery limit", b"poison".as_slice()));
}

#[tokio::test]
async fn live_a_body_over_the_limit_never_reaches_the_consumer() {
    let fixture = Fixture::new().await;
    let big = Message { body: vec![1; (16 << 20) + 1].into(), message_id: Some("big".into()), ..Message::default() };
    fixture.client.publish("cloud.east", "versioned_notifications.info", &big, BasicProperties::default()).await;
    fixture.client.notify("cloud.east", &message("small")).await;
    let mut consumer =
        fixture.bus.consume(&Queue::Intake(crate::fixture::cloud_name("east")), 5).await.expect("consumed");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.body, b"small".as_slice());
    delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");
    let letter = letters(&*fixture.bus, 1).await.remove(0);
    assert!(letter.reason.contains("16777217 bytes"), "{}", letter.reason);
    assert_eq!(letter.message.body.len(), 4 << 20, "its beginning is kept");
    let refused = fixture.bus.replay_dead(letter.number).await;
    assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("only the beginning")), "{refused:?}");
    fixture.bus.drop_dead(letter.number).await.expect("dropped");
    letters(&*fixture.bus, 0).await;
}

/// `user_id` of another login and `CC` would make the broker refuse or misroute the dead letter.
#[tokio::test]
async fn live_properties_of_a_stranger_do_not_hinder_the_dead_letter() {
    let fixture = Fixture::new().await;
    let mut headers = FieldTable::default();
    let routes = vec![AMQPValue::LongString("reeve.shard.0".into())];
    headers.insert("CC".into(), AMQPValue::FieldArray(FieldArray::from(routes)));
    headers.insert("x-reeve-source".into(), AMQPValue::LongString("reeve.shard.1".into()));
    headers.insert("x-one".into(), AMQPValue::LongString("1".into()));
    // 600 s, so that it does not expire here.
    let properties =
        BasicProperties::default().with_headers(headers).with_expiration("600000".into()).with_user_id("guest".into());
    fixture.client.publish("reeve.requests", "vm.start", &message("strange"), properties).await;
    let mut consumer = fixture.bus.consume(&Queue::Requests, 1).await.expect("consumed");
    next(&mut consumer).await.settle.settle(Settlement::Dead("strange".into())).await.expect("given up");
    let letter = letters(&*fixture.bus, 1).await.remove(0);
    assert_eq!((letter.source.as_str(), letter.message.headers.len()), ("reeve.requests", 1));
    fixture.bus.replay_dead(letter.number).await.expect("replayed");
    assert_eq!(next(&mut consumer).await.message.message_id.as_deref(), Some("strange"));
    assert_eq!(fixture.client.waiting("reeve.shard.0").await, 0, "no copy became a command");
}

#[tokio::test]
async fn live_a_letter_is_only_replayed_into_a_queue_of_reeve() {
    let fixture = Fixture::new().await;
    let mut headers = FieldTable::default();
    headers.insert("x-reeve-source".into(), AMQPValue::LongString("somebody.elses".into()));
    fixture
        .client
        .publish("reeve.dead", "", &message("forged"), BasicProperties::default().with_headers(headers))
        .await;
    let letter = letters(&*fixture.bus, 1).await.remove(0);
    assert_eq!(letter.reason, "unknown");
    let refused = fixture.bus.replay_dead(letter.number).await;
    assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("somebody.elses")), "{refused:?}");
    assert_eq!(letters(&*fixture.bus, 1).await[0].number, letter.number, "it stays");
}

/// A frame of properties over 128 KiB would end the connection, and the message would do it again and again.
#[tokio::test]
async fn live_headers_that_fill_a_frame_do_not_break_the_bus() {
    let fixture = Fixture::new().await;
    let mut headers = FieldTable::default();
    for n in 0..13 {
        headers.insert(format!("x-{n}").into(), AMQPValue::LongString("x".repeat(10_000).into()));
    }
    let properties = BasicProperties::default().with_headers(headers);
    fixture.client.publish("reeve.requests", "vm.start", &message("wide"), properties).await;
    let mut consumer = fixture.bus.consume(&Queue::Requests, 1).await.expect("consumed");
    next(&mut consumer).await.settle.settle(Settlement::Dead("wide".into())).await.expect("given up");
    let letter = letters(&*fixture.bus, 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.message.headers.len()), ("wide", 0));
}

#[tokio::test]
async fn live_what_the_broker_itself_gave_up_is_a_dead_letter_too() {
    let broker = Broker::take().await;
    let client = Client::new(&broker.url()).await;
    let mut config = config(&broker.url());
    (config.poison_limit, config.broker_delivery_limit) = (1, 2);
    let bus = start(config);
    until_connected(&bus).await;
    bus.publish(&Address::Requests, message("given up")).await.expect("taken");
    for _ in 0..=2 {
        let get = client.channel.basic_get("reeve.requests".into(), BasicGetOptions::default());
        let got = get.await.expect("asked").expect("still there");
        let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        got.acker.nack(back).await.expect("given back");
    }
    let letter = letters(&*bus, 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.source.as_str()), ("delivery limit", "reeve.requests"));
    assert!(letter.at > Timestamp::EPOCH, "{}", letter.at);
    assert_eq!(letter.message, message("given up"), "nothing of its death clings to it");
    bus.replay_dead(letter.number).await.expect("replayed");
    let mut consumer = bus.consume(&Queue::Requests, 1).await.expect("consumed");
    let again = next(&mut consumer).await;
    assert_eq!((again.redelivered, &again.message), (0, &message("given up")));
}

#[tokio::test]
async fn live_hundreds_of_letters_are_listed_in_their_order_and_stay() {
    let fixture = Fixture::new().await;
    let mut consumer = fixture.bus.consume(&Queue::Requests, 100).await.expect("consumed");
    for n in 0..300 {
        fixture.bus.publish(&Address::Requests, message(&n.to_string())).await.expect("taken");
    }
    for n in 0..300 {
        next(&mut consumer).await.settle.settle(Settlement::Dead(format!("bad {n}"))).await.expect("given up");
    }
    let all = fixture.bus.dead(0, 1_000).await.expect("read");
    assert_eq!(all.len(), 300);
    let reasons: Vec<_> = all.iter().map(|letter| letter.reason.clone()).collect();
    assert_eq!(reasons, (0..300).map(|n| format!("bad {n}")).collect::<Vec<_>>());
    assert_eq!(fixture.bus.dead(0, 1_000).await.expect("read"), all, "looking changes nothing");
}

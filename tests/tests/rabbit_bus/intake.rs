//! A cloud's notifications beside the cloud's own consumers.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use reeve_cluster::rabbitmq::IntakeStatus;
use reeve_ports::{Bus, Consumer, Queue, Settlement};

use crate::fixture::{
    Broker, Client, PATIENCE, TOPIC, cloud_name, config, intake, message, next, start, until, until_bound,
    until_connected,
};

async fn bodies(consumer: &mut Consumer, count: usize) -> BTreeSet<Bytes> {
    let mut bodies = BTreeSet::new();
    while bodies.len() < count {
        let delivery = next(consumer).await;
        bodies.insert(delivery.message.body.clone());
        delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");
    }
    bodies
}

#[tokio::test]
async fn live_the_consumer_of_the_default_queue_still_gets_every_notification() {
    let broker = Broker::take().await;
    let client = Client::new(&broker.url()).await;
    client.declare_as_nova_does("nova").await;
    let mut beside = client.bodies(&format!("{TOPIC}.info")).await;
    let mut config = config(&broker.url());
    config.intakes = vec![intake("east", "nova")];
    let bus = start(config);
    until_bound(&bus, "east").await;
    let mut ours = bus.consume(&Queue::Intake(cloud_name("east")), 10).await.expect("consumed");

    let sent: BTreeSet<Bytes> = (0..50).map(|n| Bytes::from(format!("n{n}"))).collect();
    for body in &sent {
        client.notify("nova", &message(std::str::from_utf8(body).expect("made of text"))).await;
    }

    assert_eq!(bodies(&mut ours, sent.len()).await, sent);
    let mut theirs = BTreeSet::new();
    while theirs.len() < sent.len() {
        let body = tokio::time::timeout(PATIENCE, beside.recv()).await.expect("in time").expect("the queue is there");
        theirs.insert(body);
    }
    assert_eq!(theirs, sent);
}

#[tokio::test]
async fn live_nova_can_still_declare_its_exchange_and_queues_after_reeve() {
    let broker = Broker::take().await;
    let mut config = config(&broker.url());
    config.intakes = vec![intake("east", "nova")];
    let bus = start(config);
    let east = cloud_name("east");
    until(&bus, |status| status.intakes[&east] == IntakeStatus::NoExchange).await;

    // With other properties than Nova's, the broker would answer PRECONDITION_FAILED here.
    let client = Client::new(&broker.url()).await;
    client.declare_as_nova_does("nova").await;

    until_bound(&bus, "east").await;
    client.notify("nova", &message("first")).await;
    let mut ours = bus.consume(&Queue::Intake(east), 10).await.expect("consumed");
    assert_eq!(bodies(&mut ours, 1).await, BTreeSet::from([Bytes::from_static(b"first")]));
}

#[tokio::test]
async fn live_a_binding_that_a_restart_took_away_is_made_again() {
    let mut broker = Broker::take().await;
    let client = Client::new(&broker.url()).await;
    client.declare_as_nova_does("nova").await;
    let mut config = config(&broker.url());
    config.intakes = vec![intake("east", "nova")];
    let bus = start(config);
    until_bound(&bus, "east").await;
    let east = cloud_name("east");
    let mut ours = bus.consume(&Queue::Intake(east.clone()), 10).await.expect("consumed");
    client.notify("nova", &message("before")).await;
    let held = next(&mut ours).await;
    assert_eq!(held.message.body, b"before".as_slice());

    broker.get().restart().await.expect("the broker restarts");
    until(&bus, |status| status.intakes[&east] == IntakeStatus::NoExchange).await;
    let late = held.settle.settle(Settlement::Ack).await;
    assert!(late.is_err(), "the broker has taken it back");
    let client = Client::new(&broker.url()).await;
    client.declare_as_nova_does("nova").await;
    until_bound(&bus, "east").await;
    client.notify("nova", &message("after")).await;

    let expected = ["before", "after"].map(|body| Bytes::copy_from_slice(body.as_bytes()));
    assert_eq!(bodies(&mut ours, 2).await, BTreeSet::from(expected));
}

#[tokio::test]
async fn live_a_binding_that_vanished_behind_our_back_is_made_again_by_the_timer() {
    let broker = Broker::take().await;
    let client = Client::new(&broker.url()).await;
    client.declare_as_nova_does("nova").await;
    let mut config = config(&broker.url());
    let mut east = intake("east", "nova");
    east.rebind_every = Duration::from_millis(200);
    config.intakes = vec![east];
    let bus = start(config);
    until_bound(&bus, "east").await;

    // What the loss of a broker with the transient exchange does in a cluster whose other nodes go on.
    client.channel.exchange_delete("nova".into(), Default::default()).await.expect("deleted");
    client.declare_as_nova_does("nova").await;

    let mut ours = bus.consume(&Queue::Intake(cloud_name("east")), 10).await.expect("consumed");
    let arrives = async {
        loop {
            client.notify("nova", &message("again")).await;
            if tokio::time::timeout(Duration::from_millis(100), ours.next()).await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, arrives).await.expect("bound again by the timer");
}

#[tokio::test]
async fn live_an_exchange_that_is_durable_is_bound_as_well() {
    let broker = Broker::take().await;
    let client = Client::new(&broker.url()).await;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = client.channel.exchange_declare("nova".into(), ExchangeKind::Topic, options, FieldTable::default());
    declared.await.expect("declared");
    let mut config = config(&broker.url());
    config.intakes = vec![intake("east", "nova")];
    let bus = start(config);
    until_connected(&bus).await;
    until_bound(&bus, "east").await;
}

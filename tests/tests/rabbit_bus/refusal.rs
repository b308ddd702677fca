//! Brokers that refuse: a wrong password, another authority, a queue that somebody declared otherwise.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use reeve_cluster::rabbitmq::{Authority, LinkStatus};
use reeve_ports::{Address, Bus, Queue, Settlement};
use reeve_tests::harness::RabbitMq;

use crate::fixture::{Broker, Client, config, message, next, start, until, until_connected};

fn error(link: &LinkStatus) -> &str {
    match link {
        LinkStatus::Away { error, .. } => error,
        LinkStatus::Connected { .. } | LinkStatus::Closed => "",
    }
}

#[tokio::test]
async fn live_a_wrong_password_is_a_clear_error_that_does_not_show_it() {
    let broker = Broker::take().await;
    let bus = start(config(&broker.url().replace("guest:guest@", "guest:s3cret-but-wrong@")));
    let status = until(&bus, |status| error(&status.consuming).contains("refused the login")).await;
    let text = error(&status.consuming);
    assert!(text.contains("guest:***@127.0.0.1") && text.contains("check user, password"), "{text}");
    assert!(!format!("{status:?} {bus:?}").contains("s3cret"), "{status:?}");
}

#[tokio::test]
async fn live_a_queue_that_somebody_declared_otherwise_is_named_with_what_to_do() {
    let broker = Broker::take().await;
    let client = Client::new(&broker.url()).await;
    let declared =
        client.channel.queue_declare("reeve.shard.3".into(), QueueDeclareOptions::durable(), FieldTable::default());
    declared.await.expect("declared");
    let bus = start(config(&broker.url()));
    let status = until(&bus, |status| error(&status.consuming).contains("reeve.shard.3")).await;
    let text = error(&status.consuming);
    assert!(text.contains("queue reeve.shard.3 exists with other properties (delete it"), "{text}");

    client.delete_queue("reeve.shard.3").await;
    until_connected(&bus).await;
}

#[tokio::test]
async fn live_another_retention_of_the_audit_stream_does_not_stop_the_bus() {
    let broker = Broker::take().await;
    let first = start(config(&broker.url()));
    until_connected(&first).await;
    let mut changed = config(&broker.url());
    changed.audit_retention = Duration::from_secs(3600);
    let second = start(changed);
    until_connected(&second).await;
}

#[tokio::test]
async fn live_tls_with_a_private_authority_works_and_without_it_does_not() {
    let broker = RabbitMq::start_tls().await.expect("the broker starts");
    let mut trusting = config(&broker.tls_url());
    trusting.ca = Some(Authority::File(broker.ca_pem_path().to_owned()));
    let bus = start(trusting);
    until_connected(&bus).await;
    bus.publish(&Address::Requests, message("over tls")).await.expect("taken");
    let mut consumer = bus.consume(&Queue::Requests, 1).await.expect("consumed");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.body, b"over tls".as_slice());
    delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");

    let stranger = start(config(&broker.tls_url()));
    until(&stranger, |status| error(&status.publishing).to_lowercase().contains("certificate")).await;
}

//! The harness's RabbitMQ is a real broker: it confirms, keeps what is durable over a restart, and speaks TLS.

use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use reeve_tests::harness::rabbitmq::REGISTRATION_FLUSH;
use reeve_tests::harness::{RabbitCluster, RabbitMq};
use tokio::time::{sleep, timeout};

const QUEUE: &str = "harness.durable";
const TRANSIENT: &str = "harness.transient";
const PERSISTENT: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn live_durable_messages_survive_a_restart_and_transient_exchanges_do_not() -> anyhow::Result<()> {
    let mut rabbit = RabbitMq::start().await?;
    let connection = connect(&rabbit).await?;
    let channel = connection.create_channel().await?;
    declare_quorum_queue(&channel).await?;
    let transient = ExchangeDeclareOptions { durable: false, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(TRANSIENT.into(), ExchangeKind::Direct, transient, FieldTable::default()).await?;
    let bind = QueueBindOptions::default();
    channel.queue_bind(QUEUE.into(), TRANSIENT.into(), "key".into(), bind, FieldTable::default()).await?;
    publish(&channel, "", QUEUE, b"first").await?;
    publish(&channel, TRANSIENT, "key", b"second").await?;

    rabbit.restart().await?;

    let connection = connect(&rabbit).await?;
    let channel = connection.create_channel().await?;
    assert_eq!(consume(&channel, 2).await?, [b"first".to_vec(), b"second".to_vec()]);
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let asked = channel.exchange_declare(TRANSIENT.into(), ExchangeKind::Direct, passive, FieldTable::default()).await;
    assert!(asked.unwrap_err().to_string().contains("NOT-FOUND"));
    rabbit.stop().await
}

#[tokio::test]
async fn live_confirmed_messages_survive_a_broker_that_is_killed() -> anyhow::Result<()> {
    let mut rabbit = RabbitMq::start().await?;
    let channel = connect(&rabbit).await?.create_channel().await?;
    declare_quorum_queue(&channel).await?;
    publish(&channel, "", QUEUE, b"kept").await?;

    sleep(REGISTRATION_FLUSH).await;
    rabbit.kill();
    assert!(connect(&rabbit).await.is_err());
    rabbit.restart().await?;

    let connection = connect(&rabbit).await?;
    assert_eq!(consume(&connection.create_channel().await?, 1).await?, [b"kept".to_vec()]);
    Ok(())
}

#[tokio::test]
async fn live_tls_is_trusted_through_the_private_authority_alone() -> anyhow::Result<()> {
    let rabbit = RabbitMq::start_tls().await?;
    let ca = std::fs::read_to_string(rabbit.ca_pem_path())?;
    let connection = connect_tls(&rabbit, Some(ca)).await?;
    let channel = connection.create_channel().await?;
    declare_quorum_queue(&channel).await?;
    publish(&channel, "", QUEUE, b"sealed").await?;
    assert_eq!(consume(&channel, 1).await?, [b"sealed".to_vec()]);

    assert!(connect_tls(&rabbit, None).await.is_err(), "an unknown authority must be refused");
    Ok(())
}

/// As long as two of three are there, a quorum queue takes and gives.
#[tokio::test]
async fn live_a_quorum_queue_of_three_brokers_survives_the_end_of_one() -> anyhow::Result<()> {
    let mut rabbits = RabbitCluster::start(3).await?;
    let first = connect_to(&rabbits.url(0)).await?;
    let channel = first.create_channel().await?;
    declare_quorum_queue(&channel).await?;
    publish(&channel, "", QUEUE, b"before").await?;
    sleep(REGISTRATION_FLUSH).await;

    // Its leader: a queue is led where it was declared.
    rabbits.kill(0);
    let second = connect_to(&rabbits.url(1)).await?;
    // A channel whose first publish found no leader goes on refusing after the election (3.10.8), a new one does not.
    let publishing = async {
        loop {
            let channel = second.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            if publish(&channel, "", QUEUE, b"without it").await.is_ok() {
                return anyhow::Ok(());
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, publishing).await.with_context(|| rabbits.log_tail(1))??;
    rabbits.restart(0).await?;
    rabbits.stop(1).await?;

    let third = connect_to(&rabbits.url(2)).await?;
    let channel = third.create_channel().await?;
    let consumed = timeout(PATIENCE, consume(&channel, 2)).await.with_context(|| rabbits.log_tail(2))??;
    assert_eq!(consumed, [b"before".to_vec(), b"without it".to_vec()]);
    Ok(())
}

/// The connection stays open and blocked, as with a disk that is really full.
#[tokio::test]
async fn live_a_full_disk_blocks_publishers_until_there_is_room() -> anyhow::Result<()> {
    let rabbit = RabbitMq::start().await?;
    let connection = connect(&rabbit).await?;
    let channel = connection.create_channel().await?;
    declare_quorum_queue(&channel).await?;
    rabbit.fill_disk().await?;
    let mut blocked = Box::pin(publish(&channel, "", QUEUE, b"patient"));
    let waited = timeout(Duration::from_secs(1), &mut blocked).await;
    assert!(waited.is_err(), "a full broker took a message: {waited:?}");
    rabbit.free_disk().await?;
    blocked.await?;
    Ok(())
}

async fn connect_to(url: &str) -> lapin::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await
}

async fn connect(rabbit: &RabbitMq) -> lapin::Result<Connection> {
    connect_to(&rabbit.url()).await
}

async fn connect_tls(rabbit: &RabbitMq, cert_chain: Option<String>) -> lapin::Result<Connection> {
    let tls = OwnedTLSConfig { identity: None, cert_chain };
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_with_config(&rabbit.tls_url(), ConnectionProperties::default(), tls, runtime).await
}

async fn declare_quorum_queue(channel: &Channel) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await
}

/// Publishes and waits for the confirmation. `mandatory`, since an acknowledgement alone does not mean "routed".
async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8]) -> anyhow::Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let confirmation = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await?;
    anyhow::ensure!(confirmation.is_ack(), "the broker refused the message");
    anyhow::ensure!(confirmation.take_message().is_none(), "the message was not routed");
    Ok(())
}

async fn consume(channel: &Channel, count: usize) -> anyhow::Result<Vec<Vec<u8>>> {
    let options = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(QUEUE.into(), "test".into(), options, FieldTable::default()).await?;
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let delivery = consumer.next().await.context("the consumer ended")??;
        delivery.ack(BasicAckOptions::default()).await?;
        bodies.push(delivery.data);
    }
    Ok(bodies)
}

//! The harness's RabbitMQ is a real broker: it confirms, keeps what is durable over a restart, and speaks TLS.

use anyhow::Context;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use reeve_tests::harness::RabbitMq;
use reeve_tests::harness::rabbitmq::REGISTRATION_FLUSH;

const QUEUE: &str = "harness.durable";
const TRANSIENT: &str = "harness.transient";
const PERSISTENT: u8 = 2;

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

    tokio::time::sleep(REGISTRATION_FLUSH).await;
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

async fn connect(rabbit: &RabbitMq) -> lapin::Result<Connection> {
    Connection::connect(&rabbit.url(), ConnectionProperties::default()).await
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

//! The shared broker, emptied for each test, a bus on it, and a plain AMQP client beside the bus.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use reeve_cluster::rabbitmq::{BusStatus, IntakeConfig, IntakeStatus, RabbitBus, RabbitConfig};
use reeve_ports::conformance::bus::BusFixture;
use reeve_ports::{Bus, Consumer, Delivery, Message, SystemClock};
use reeve_protocol::CloudName;
use reeve_tests::harness::RabbitMq;
use tokio::sync::{Mutex, MutexGuard, mpsc};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const SHARDS: u16 = 9;
pub(crate) const POISON_LIMIT: u32 = 3;
pub(crate) const TOPIC: &str = "versioned_notifications";

static BROKER: Mutex<Option<RabbitMq>> = Mutex::const_new(None);

/// A broker that runs and has nothing of an earlier test.
pub(crate) enum Broker {
    /// The binary's, for one test at a time.
    Shared(MutexGuard<'static, Option<RabbitMq>>),
    /// For a test that kills it: quorum queues that RabbitMQ 3.10 makes after that may refuse every message.
    Own(Box<RabbitMq>),
}

/// A bus on the broker.
pub(crate) struct Fixture {
    pub(crate) bus: Arc<RabbitBus>,
    pub(crate) client: Client,
    pub(crate) broker: Broker,
}

/// An AMQP client that is not Reeve.
pub(crate) struct Client {
    /// Ends with it.
    _connection: Connection,
    pub(crate) channel: Channel,
}

impl Broker {
    pub(crate) async fn take() -> Self {
        // Shown with a failed test, from the level in RUST_LOG on; another test may have set it up.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let mut slot = BROKER.lock().await;
        match slot.as_mut() {
            None => *slot = Some(RabbitMq::start().await.expect("the broker starts")),
            Some(broker) => {
                if Client::try_new(&broker.url()).await.is_err() {
                    broker.restart().await.expect("the broker starts again");
                }
            }
        }
        let broker = Self::Shared(slot);
        Client::new(&broker.url()).await.wipe().await;
        broker
    }

    pub(crate) async fn own() -> Self {
        Self::Own(Box::new(RabbitMq::start().await.expect("the broker starts")))
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Shared(slot) => slot.as_ref().expect("started when it was taken").url(),
            Self::Own(broker) => broker.url(),
        }
    }

    pub(crate) fn get(&mut self) -> &mut RabbitMq {
        match self {
            Self::Shared(slot) => slot.as_mut().expect("started when it was taken"),
            Self::Own(broker) => broker,
        }
    }
}

/// The smallest configuration that the suite can run on.
pub(crate) fn config(url: &str) -> RabbitConfig {
    let mut config = RabbitConfig::new(url.parse().expect("the harness gives a URL"));
    config.shards = SHARDS;
    config.poison_limit = POISON_LIMIT;
    config.rule_topics = vec!["backup.*".to_owned()];
    config.intakes = ["east", "west"].map(|cloud| intake(cloud, &format!("cloud.{cloud}"))).to_vec();
    config
}

pub(crate) fn intake(cloud: &str, exchange: &str) -> IntakeConfig {
    let mut intake = IntakeConfig::nova(cloud_name(cloud));
    intake.exchange = exchange.to_owned();
    intake
}

pub(crate) fn cloud_name(name: &str) -> CloudName {
    CloudName::new(name).expect("a name of a test")
}

pub(crate) fn start(config: RabbitConfig) -> Arc<RabbitBus> {
    Arc::new(RabbitBus::start(config, Arc::new(SystemClock)).expect("the configuration of a test is sound"))
}

/// Waits until the status is as wanted.
pub(crate) async fn until(bus: &RabbitBus, wanted: impl Fn(&BusStatus) -> bool) -> BusStatus {
    let wait = async {
        loop {
            let status = bus.status();
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never as wanted: {:?}", bus.status()))
}

pub(crate) async fn until_connected(bus: &RabbitBus) {
    until(bus, BusStatus::is_connected).await;
}

pub(crate) async fn until_bound(bus: &RabbitBus, cloud: &str) {
    let cloud = cloud_name(cloud);
    until(bus, |status| status.intakes.get(&cloud) == Some(&IntakeStatus::Bound)).await;
}

pub(crate) fn message(body: &str) -> Message {
    Message { body: Bytes::copy_from_slice(body.as_bytes()), message_id: Some(body.to_owned()), ..Message::default() }
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("a delivery comes in time").expect("the bus is open")
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let broker = Broker::take().await;
        let client = Client::new(&broker.url()).await;
        for cloud in ["east", "west"] {
            client.declare_as_nova_does(&format!("cloud.{cloud}")).await;
        }
        let bus = start(config(&broker.url()));
        until_connected(&bus).await;
        until_bound(&bus, "east").await;
        until_bound(&bus, "west").await;
        Self { bus, client, broker }
    }
}

#[async_trait]
impl BusFixture for Fixture {
    fn bus(&self) -> Arc<dyn Bus> {
        self.bus.clone()
    }

    async fn restart(&mut self) {
        self.broker.get().restart().await.expect("the broker restarts");
        self.client = Client::new(&self.broker.url()).await;
        until_connected(&self.bus).await;
    }

    async fn notify(&self, cloud: &CloudName, message: Message) {
        self.client.notify(&format!("cloud.{cloud}"), &message).await;
    }

    async fn reply_queue(&self) -> (String, mpsc::Receiver<Message>) {
        self.client.queue_of_replies().await
    }

    fn delivery_limit(&self) -> u32 {
        POISON_LIMIT
    }
}

impl Client {
    pub(crate) async fn new(url: &str) -> Self {
        Self::try_new(url).await.expect("the broker takes a client")
    }

    async fn try_new(url: &str) -> lapin::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel })
    }

    /// Removes whatever a test may have left.
    async fn wipe(&self) {
        let shards = (0..64).map(|shard| format!("reeve.shard.{shard}"));
        let others =
            ["reeve.requests", "reeve.dead", "reeve.audit", "reeve.rules", "reeve.intake.east", "reeve.intake.west"];
        let nova = [format!("{TOPIC}.info"), format!("{TOPIC}.error")];
        for queue in shards.chain(others.map(str::to_owned)).chain(nova) {
            self.delete_queue(&queue).await;
        }
        for exchange in
            ["reeve.requests", "reeve.shards", "reeve.events", "reeve.dead", "nova", "cloud.east", "cloud.west"]
        {
            let deleted = self.channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await;
            deleted.expect("deleting what is not there is no error");
        }
    }

    pub(crate) async fn delete_queue(&self, queue: &str) {
        let deleted = self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        deleted.expect("deleting what is not there is no error");
    }

    /// Messages that wait in a queue.
    pub(crate) async fn waiting(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions::durable().passive();
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        queue.expect("the queue is there").message_count()
    }

    /// The exchange with the flags of Nova's defaults: topic, transient, kept when unused. And, as oslo.messaging does
    /// before its first notification, the default queues named like the routing keys.
    pub(crate) async fn declare_as_nova_does(&self, exchange: &str) {
        let options =
            ExchangeDeclareOptions { durable: false, auto_delete: false, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Topic;
        self.channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await.expect("declared");
        for priority in ["info", "error"] {
            let key: ShortString = format!("{TOPIC}.{priority}").into();
            let transient = QueueDeclareOptions::default();
            self.channel.queue_declare(key.clone(), transient, FieldTable::default()).await.expect("declared");
            let options = QueueBindOptions::default();
            let bound = self.channel.queue_bind(key.clone(), exchange.into(), key, options, FieldTable::default());
            bound.await.expect("bound");
        }
    }

    /// Publishes a notification as Nova does: confirmed, not mandatory.
    pub(crate) async fn notify(&self, exchange: &str, message: &Message) {
        self.publish(exchange, &format!("{TOPIC}.info"), message, BasicProperties::default()).await;
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, message: &Message, properties: BasicProperties) {
        let properties = match &message.message_id {
            Some(id) => properties.with_message_id(id.as_str().into()),
            None => properties,
        };
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish(exchange.into(), key.into(), options, &message.body, properties).await;
        let confirm = sent.expect("published").await.expect("confirmed");
        assert!(confirm.is_ack());
    }

    /// Bodies that arrive in a queue, acknowledged as they come.
    pub(crate) async fn bodies(&self, queue: &str) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(10_000);
        let mut consumer = self.consumer(queue).await;
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                if sender.send(delivery.data.into()).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }

    async fn consumer(&self, queue: &str) -> lapin::Consumer {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        consuming.await.expect("the queue can be consumed")
    }

    async fn queue_of_replies(&self) -> (String, mpsc::Receiver<Message>) {
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let queue = self.channel.queue_declare("".into(), options, FieldTable::default()).await.expect("declared");
        let (sender, receiver) = mpsc::channel(16);
        let mut consumer = self.consumer(queue.name().as_str()).await;
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
                let message = Message {
                    content_type: text(delivery.properties.content_type()),
                    kind: text(delivery.properties.kind()),
                    message_id: text(delivery.properties.message_id()),
                    correlation_id: text(delivery.properties.correlation_id()),
                    reply_to: text(delivery.properties.reply_to()),
                    headers: BTreeMap::new(),
                    body: delivery.data.into(),
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        (queue.name().to_string(), receiver)
    }
}

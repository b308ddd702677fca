//! A plain AMQP client beside Reeve: plays Nova and the other users of a broker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};

use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm};
use tokio::time::{sleep, timeout};

/// Limit for whatever a test waits for at a broker.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Publishes whose confirmation is awaited together.
const WINDOW: usize = 200;

/// A connection with one channel that confirms. Ends when dropped.
#[derive(Debug)]
pub struct Peer {
    _connection: Connection,
    channel: Channel,
}

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// Exchange.
    pub exchange: String,
    /// Routing key.
    pub key: String,
    /// Properties.
    pub properties: BasicProperties,
    /// Body.
    pub body: Bytes,
}

/// A message that came.
#[derive(Debug, Clone)]
pub struct Received {
    /// Routing key.
    pub key: String,
    /// Properties.
    pub properties: BasicProperties,
    /// Body.
    pub body: Bytes,
}

/// Messages of a queue, taken as they come.
#[derive(Debug, Clone)]
pub struct Collected(Arc<Mutex<Vec<Received>>>);

impl Peer {
    /// Connects.
    ///
    /// # Errors
    /// When the broker does not take the connection.
    pub async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { _connection: connection, channel })
    }

    /// The exchange with the flags of Nova's defaults (topic, transient, kept when unused) and, as oslo.messaging does
    /// before its first notification, a default queue named like each routing key, bound with it.
    ///
    /// # Errors
    /// When one of them exists with other flags.
    pub async fn declare_as_nova_does(&self, exchange: &str, keys: &[&str]) -> Result<()> {
        let options =
            ExchangeDeclareOptions { durable: false, auto_delete: false, ..ExchangeDeclareOptions::default() };
        self.channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await?;
        for key in keys {
            let key = short(key)?;
            let transient = QueueDeclareOptions::default();
            self.channel.queue_declare(key.clone(), transient, FieldTable::default()).await?;
            let options = QueueBindOptions::default();
            self.channel.queue_bind(key.clone(), exchange.into(), key, options, FieldTable::default()).await?;
        }
        Ok(())
    }

    /// A durable quorum queue that gets everything of an exchange.
    ///
    /// # Errors
    /// When the exchange is not there.
    pub async fn queue_of_everything(&self, queue: &str, exchange: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        self.channel.queue_declare(short(queue)?, QueueDeclareOptions::durable(), arguments).await?;
        let options = QueueBindOptions::default();
        let bound =
            self.channel.queue_bind(short(queue)?, short(exchange)?, "#".into(), options, FieldTable::default());
        Ok(bound.await?)
    }

    /// A queue of this connection alone, and its name.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn private_queue(&self) -> Result<String> {
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let queue = self.channel.queue_declare("".into(), options, FieldTable::default()).await?;
        Ok(queue.name().to_string())
    }

    /// Messages that wait in a queue; those that a consumer holds do not count.
    ///
    /// # Errors
    /// When the queue is not there.
    pub async fn waiting(&self, queue: &str) -> Result<u32> {
        let options = QueueDeclareOptions::durable().passive();
        let queue = self.channel.queue_declare(short(queue)?, options, FieldTable::default()).await?;
        Ok(queue.message_count())
    }

    /// Waits until somebody takes the messages of a queue.
    ///
    /// # Errors
    /// When the queue is not there, or nobody does within [`PATIENCE`].
    pub async fn consumed(&self, queue: &str) -> Result<()> {
        let trying = async {
            loop {
                let options = QueueDeclareOptions::durable().passive();
                let declared = self.channel.queue_declare(short(queue)?, options, FieldTable::default()).await?;
                if declared.consumer_count() > 0 {
                    return Ok(());
                }
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, trying).await.with_context(|| format!("nobody takes from {queue}"))?
    }

    /// Removes a queue with all that waits in it: what was sent to it is lost.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.channel.queue_delete(short(queue)?, QueueDeleteOptions::default()).await?;
        Ok(())
    }

    /// Takes a queue's messages from now on, each acknowledged as it comes.
    ///
    /// # Errors
    /// When the queue is not there.
    pub async fn collect(&self, queue: &str) -> Result<Collected> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer = self.channel.basic_consume(short(queue)?, "".into(), options, FieldTable::default()).await?;
        let collected = Collected(Arc::default());
        let sink = collected.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                let (key, properties) = (delivery.routing_key.to_string(), delivery.properties);
                sink.locked().push(Received { key, properties, body: delivery.data.into() });
            }
        });
        Ok(collected)
    }

    /// Publishes all, mandatory and confirmed, in their order.
    ///
    /// # Errors
    /// When one is refused or no queue takes it.
    pub async fn publish_all(&self, parcels: impl IntoIterator<Item = Parcel>) -> Result<usize> {
        let mut under_way: Vec<PublisherConfirm> = Vec::new();
        let mut count = 0;
        for parcel in parcels {
            under_way.push(self.send(&parcel).await?);
            count += 1;
            if under_way.len() == WINDOW {
                confirmed(&mut under_way).await?;
            }
        }
        confirmed(&mut under_way).await?;
        Ok(count)
    }

    /// Publishes until a queue takes it: the way to see that somebody has bound one.
    ///
    /// # Errors
    /// When nobody has within [`PATIENCE`].
    pub async fn publish_until_taken(&self, parcel: &Parcel) -> Result<()> {
        let trying = async {
            loop {
                match self.send(parcel).await?.await? {
                    Confirmation::Ack(None) => return Ok(()),
                    Confirmation::Ack(Some(_)) | Confirmation::Nack(_) => sleep(POLL).await,
                    Confirmation::NotRequested => unreachable!("the channel confirms"),
                }
            }
        };
        timeout(PATIENCE, trying).await.with_context(|| format!("nobody has bound {}", parcel.key))?
    }

    async fn send(&self, parcel: &Parcel) -> Result<PublisherConfirm> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (short(&parcel.exchange)?, short(&parcel.key)?);
        Ok(self.channel.basic_publish(exchange, key, options, &parcel.body, parcel.properties.clone()).await?)
    }
}

impl Collected {
    /// How many have come.
    #[must_use]
    pub fn count(&self) -> usize {
        self.locked().len()
    }

    /// What has come so far.
    #[must_use]
    pub fn all(&self) -> Vec<Received> {
        self.locked().clone()
    }

    /// Waits until so many have come, and nothing more for a moment.
    ///
    /// # Errors
    /// When fewer have come within [`PATIENCE`].
    pub async fn reach(&self, count: usize) -> Result<()> {
        let waiting = async {
            while self.count() < count {
                sleep(POLL).await;
            }
        };
        let reached = timeout(PATIENCE, waiting).await;
        reached.with_context(|| format!("{} messages came, expected {count}", self.count()))
    }

    /// How many times each body has come.
    #[must_use]
    pub fn bodies(&self) -> BTreeMap<Bytes, usize> {
        let mut bodies = BTreeMap::new();
        for received in self.locked().iter() {
            *bodies.entry(received.body.clone()).or_insert(0) += 1;
        }
        bodies
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Received>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A header as text.
#[must_use]
pub fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

async fn confirmed(under_way: &mut Vec<PublisherConfirm>) -> Result<()> {
    for confirm in under_way.drain(..) {
        let confirmation = timeout(PATIENCE, confirm).await.context("no confirmation")??;
        ensure!(matches!(confirmation, Confirmation::Ack(None)), "a message was refused or not routed");
    }
    Ok(())
}

fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| anyhow::anyhow!("{} bytes are too many for a name", text.len()))
}

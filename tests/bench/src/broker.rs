//! A plain AMQP client beside Reeve's: fills queues, consumes with nothing of ours, listens to events, and sends at a
//! steady rate.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::names;
use tokio::task::JoinHandle;

/// Publishes whose confirms are awaited together.
const WINDOW: usize = 500;
/// Until so many messages have come.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(10);
/// How often a steady sender sends what is due.
const TICK: Duration = Duration::from_millis(2);

/// A connection with a channel.
pub(crate) struct Client {
    connection: Connection,
    channel: Channel,
}

/// When messages came, and the body of each if it is wanted.
#[derive(Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<Vec<(Duration, Bytes)>>>);

/// What is kept of a message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// When.
    Time,
    /// When, and what.
    Body,
}

/// A consumer's task; it ends with this.
pub(crate) struct Consuming {
    pub(crate) arrivals: Arrivals,
    task: JoinHandle<()>,
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As oslo.messaging sends them.
fn properties() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_priority(0)
}

fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| anyhow::anyhow!("{} bytes are too many for a name", text.len()))
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// A queue of the kind that Reeve takes notifications from.
    pub(crate) async fn declare_like_an_intake(&self, queue: &str) -> Result<()> {
        let mut arguments = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(text.into());
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000));
        arguments.insert("x-dead-letter-exchange".into(), text(names::DEAD));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        self.channel.queue_declare(short(queue)?, QueueDeclareOptions::durable(), arguments).await?;
        Ok(())
    }

    /// Waits until a queue is there: a node that has just started declares its own one after the other.
    pub(crate) async fn until_declared(&self, queue: &str) -> Result<()> {
        let began = SystemClock.elapsed();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        loop {
            // A question about a queue that is not there closes its channel.
            let channel = self.connection.create_channel().await?;
            if channel.queue_declare(short(queue)?, options, FieldTable::default()).await.is_ok() {
                return Ok(());
            }
            ensure!(SystemClock.elapsed().saturating_sub(began) < PATIENCE, "{queue} is not declared");
            tokio::time::sleep(POLL * 20).await;
        }
    }

    /// Puts messages into a queue, confirmed, in their order.
    pub(crate) async fn fill(&self, queue: &str, bodies: impl Iterator<Item = Vec<u8>>) -> Result<()> {
        let mut under_way = Vec::with_capacity(WINDOW);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut bodies = bodies.peekable();
        while let Some(body) = bodies.next() {
            let (exchange, key) = (ShortString::default(), short(queue)?);
            under_way.push(self.channel.basic_publish(exchange, key, options, &body, properties()).await?);
            if under_way.len() == WINDOW || bodies.peek().is_none() {
                for confirm in under_way.drain(..) {
                    ensure!(matches!(confirm.await?, Confirmation::Ack(None)), "a message was not taken by {queue}");
                }
            }
        }
        Ok(())
    }

    /// Takes what comes and acknowledges each message, and nothing else: what a consumer can do at most.
    pub(crate) async fn acknowledge_all(&self, queue: &str, prefetch: u16) -> Result<Consuming> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel.basic_consume(short(queue)?, "".into(), options, FieldTable::default()).await?;
        let arrivals = Arrivals::default();
        let noted = arrivals.clone();
        let task = tokio::spawn(async move {
            // The channel ends with its last handle.
            let _channel = channel;
            while let Some(Ok(delivery)) = consumer.next().await {
                if delivery.acker.ack(BasicAckOptions::default()).await.is_err() {
                    return;
                }
                noted.note(Bytes::new());
            }
        });
        Ok(Consuming { arrivals, task })
    }

    /// Listens to Reeve's events of one type.
    pub(crate) async fn listen(&self, routing_key: &str, keep: Keep) -> Result<Consuming> {
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?.name().clone();
        let (exchange, key) = (short(names::EVENTS)?, short(routing_key)?);
        channel.queue_bind(queue.clone(), exchange, key, QueueBindOptions::default(), FieldTable::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        let arrivals = Arrivals::default();
        let noted = arrivals.clone();
        let task = tokio::spawn(async move {
            let _channel = channel;
            while let Some(Ok(delivery)) = consumer.next().await {
                noted.note(if keep == Keep::Body { Bytes::from(delivery.data) } else { Bytes::new() });
            }
        });
        Ok(Consuming { arrivals, task })
    }

    /// Sends at this rate as Nova does, whether or not anybody keeps up; returns when each was due, by its name, in order.
    pub(crate) async fn send_steadily(
        &self,
        exchange: &str,
        per_second: f64,
        messages: impl Iterator<Item = (String, Vec<u8>)>,
    ) -> Result<BTreeMap<String, VecDeque<Duration>>> {
        let mut sent: BTreeMap<String, VecDeque<Duration>> = BTreeMap::new();
        let mut confirms = Vec::new();
        let began = SystemClock.elapsed();
        for (number, (name, body)) in messages.enumerate() {
            let due = began + Duration::from_secs_f64(number as f64 / per_second);
            while SystemClock.elapsed() < due {
                tokio::time::sleep(TICK.min(due.saturating_sub(SystemClock.elapsed()))).await;
            }
            // From when it was due: a sender that is late hides nothing.
            sent.entry(name).or_default().push_back(due);
            let (exchange, key) = (short(exchange)?, short("versioned_notifications.info")?);
            let options = BasicPublishOptions::default();
            confirms.push(self.channel.basic_publish(exchange, key, options, &body, properties()).await?);
        }
        for confirm in confirms {
            ensure!(matches!(confirm.await?, Confirmation::Ack(_)), "a notification was refused");
        }
        Ok(sent)
    }
}

impl Arrivals {
    fn note(&self, body: Bytes) {
        self.locked().push((SystemClock.elapsed(), body));
    }

    pub(crate) fn count(&self) -> usize {
        self.locked().len()
    }

    /// Waits until so many have come, and returns all.
    pub(crate) async fn reach(&self, count: usize) -> Result<Vec<(Duration, Bytes)>> {
        let began = SystemClock.elapsed();
        while self.count() < count {
            if SystemClock.elapsed().saturating_sub(began) > PATIENCE {
                bail!("{} of {count} messages came within {PATIENCE:?}", self.count());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(self.locked().clone())
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<(Duration, Bytes)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages per second between the first fifth and the last: what begins at the same time does not count.
pub(crate) fn steady_rate(arrivals: &[(Duration, Bytes)]) -> Result<f64> {
    let from = arrivals.len() / 5;
    let (first, last) = (arrivals.get(from).context("nothing came")?, arrivals.last().context("nothing came")?);
    Ok((arrivals.len() - from - 1) as f64 / last.0.saturating_sub(first.0).as_secs_f64())
}

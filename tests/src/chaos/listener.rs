//! Takes every event from a durable queue of our own, bound to `reeve.events`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::names::EVENTS;
use tokio::task::JoinHandle;

use super::commander::connect;
use super::history::{History, What};

const QUEUE: &str = "chaos.events";
const CALL: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// Listens until dropped.
#[derive(Debug)]
pub struct Listener {
    heard: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Declares the queue, so that nothing that is published from now on is missed, and begins to listen.
    ///
    /// # Errors
    /// When the broker does not take the declaration.
    pub async fn start(brokers: Vec<String>, history: History) -> Result<Self> {
        let first = brokers.first().context("a broker")?;
        let (_connection, channel) = connect(first).await?;
        declare(&channel).await?;
        let heard = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            let mut turn = 0;
            loop {
                if let Err(error) = listen(&brokers[turn % brokers.len()], &history, &counted).await {
                    tracing::debug!(%error, "events come over another connection");
                }
                turn += 1;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Ok(Self { heard, task })
    }

    /// How many messages have come.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn declare(channel: &Channel) -> Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(EVENTS.into(), ExchangeKind::Topic, options, FieldTable::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await?;
    let binding =
        channel.queue_bind(QUEUE.into(), EVENTS.into(), "#".into(), QueueBindOptions::default(), FieldTable::default());
    Ok(binding.await?)
}

async fn listen(url: &str, history: &History, heard: &AtomicU64) -> Result<()> {
    let (_connection, channel) = connect(url).await?;
    channel.basic_qos(512, BasicQosOptions::default()).await?;
    let consuming =
        channel.basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut events = tokio::time::timeout(CALL, consuming).await.context("no consumer")??;
    while let Some(delivery) = events.next().await {
        let delivery = delivery?;
        let event: CloudEvent = serde_json::from_slice(&delivery.data).context("an event of another form")?;
        history.write(What::Event { event: Box::new(event) });
        heard.fetch_add(1, Ordering::Relaxed);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the consumer has ended")
}

//! The intake of clouds that no broker speaks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reeve_drivers::cloud::sim::Sink;
use reeve_ports::bus::{Nothing, PastEvent};
use reeve_ports::{Address, Bus, BusError, Consumer, DeadLetter, Message, Queue};
use reeve_protocol::{CloudName, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Notifications of a simulated cloud that wait for the bus; further ones are lost, as a real cloud's may be, and the
/// next listing finds what they would have said.
const WAITING: usize = 10_000;

/// Takes the notifications of a simulated cloud and publishes them on the embedded bus, in order.
pub(crate) fn feed(cloud: CloudName, bus: Arc<dyn Bus>, background: &mut JoinSet<()>) -> Sink {
    let (sender, mut waiting) = mpsc::channel::<Vec<u8>>(WAITING);
    let to = Address::Intake(cloud.clone());
    background.spawn(async move {
        while let Some(body) = waiting.recv().await {
            let body = Bytes::from(body);
            let message = Message { body, content_type: Some("application/json".into()), ..Message::default() };
            if let Err(error) = bus.publish(&to, message).await {
                tracing::warn!(%error, "a notification of a simulated cloud is lost; the next listing makes up for it");
            }
        }
    });
    Arc::new(move |body| {
        if sender.try_send(body).is_err() {
            tracing::warn!(%cloud, "the bus is too slow for a simulated cloud; a notification is lost");
        }
    })
}

/// A bus on which some clouds are never heard of: their intake is empty instead of refused. Such a cloud is only asked.
pub(crate) struct QuietIntakes {
    inner: Arc<dyn Bus>,
    quiet: BTreeSet<CloudName>,
}

impl QuietIntakes {
    pub(crate) fn new(inner: Arc<dyn Bus>, quiet: BTreeSet<CloudName>) -> Self {
        Self { inner, quiet }
    }
}

#[async_trait]
impl Bus for QuietIntakes {
    async fn publish(&self, to: &Address, message: Message) -> Result<(), BusError> {
        self.inner.publish(to, message).await
    }

    async fn consume(&self, queue: &Queue, prefetch: u16) -> Result<Consumer, BusError> {
        match queue {
            Queue::Intake(cloud) if self.quiet.contains(cloud) => Ok(Box::new(Nothing)),
            Queue::Intake(_) | Queue::Requests | Queue::Shard(_) | Queue::Rules => {
                self.inner.consume(queue, prefetch).await
            }
        }
    }

    async fn intake_joined(&self, cloud: &CloudName, joined: u64) -> u64 {
        self.inner.intake_joined(cloud, joined).await
    }

    async fn dead(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.inner.dead(from, limit).await
    }

    async fn replay_dead(&self, number: u64) -> Result<(), BusError> {
        self.inner.replay_dead(number).await
    }

    async fn drop_dead(&self, number: u64) -> Result<(), BusError> {
        self.inner.drop_dead(number).await
    }

    async fn history(&self, since: Timestamp, after: Option<u64>, limit: usize) -> Result<Vec<PastEvent>, BusError> {
        self.inner.history(since, after, limit).await
    }
}

//! The bus: messages in and out, at least once. A message is acknowledged after its effect is committed, never before.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{CloudName, ShardId, Timestamp};

/// Where a message is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// Commands from producers.
    Requests,
    /// Commands to the owner of a shard.
    Shard(ShardId),
    /// Events, with their routing key.
    Events(String),
    /// A cloud's notifications. Only the embedded bus takes these: elsewhere the cloud publishes them itself.
    Intake(CloudName),
    /// The answer to a command: the `reply_to` of its message.
    Reply(String),
}

/// What is consumed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// Commands from producers.
    Requests,
    /// Commands to the owner of a shard.
    Shard(ShardId),
    /// A cloud's notifications.
    Intake(CloudName),
    /// The events that rules of the configuration may act on, for whichever node takes them. Bounded: over that, events
    /// are in the history alone.
    Rules,
}

impl Queue {
    /// The queue's name on the bus.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Requests => reeve_protocol::names::REQUESTS.to_owned(),
            Self::Shard(shard) => reeve_protocol::names::shard_queue(*shard),
            Self::Intake(cloud) => reeve_protocol::names::intake_queue(cloud),
            Self::Rules => reeve_protocol::names::RULES.to_owned(),
        }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The body.
    pub body: Bytes,
    /// Property `content_type`.
    pub content_type: Option<String>,
    /// Property `type`.
    pub kind: Option<String>,
    /// Property `message_id`.
    pub message_id: Option<String>,
    /// Property `correlation_id`.
    pub correlation_id: Option<String>,
    /// Property `reply_to`.
    pub reply_to: Option<String>,
    /// Headers with text values.
    pub headers: BTreeMap<String, String>,
}

/// Why the bus failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nobody took responsibility for the message; the same again may work.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Nobody can ever take it: no such queue, or over a limit.
    #[error("refused: {0}")]
    Refused(String),
}

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Its effect is committed: it is not delivered again.
    Ack,
    /// It can never be handled: it goes to the dead letters with this reason.
    Dead(String),
    /// Not now: it is delivered again, at the front, one delivery more. Used only on the way out of a queue's owner.
    Return,
}

/// A message delivered. It is settled exactly once; dropped unsettled it is delivered again.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// How many times it was delivered before.
    pub redelivered: u32,
    /// Settles it.
    pub settle: Box<dyn Settle>,
}

/// Settles one delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// Settles. An error means that the message may be delivered again, which every consumer must bear anyway.
    async fn settle(self: Box<Self>, settlement: Settlement) -> Result<(), BusError>;
}

/// A stream of deliveries. It outlives reconnects; dropped, it stops consuming and unsettled messages go back.
#[async_trait]
pub trait Consume: Send {
    /// The next delivery; `None` when the bus was closed for good.
    async fn next(&mut self) -> Option<Delivery>;
}

/// A consumer.
pub type Consumer = Box<dyn Consume>;

/// A queue to which nothing ever comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

#[async_trait]
impl Consume for Nothing {
    async fn next(&mut self) -> Option<Delivery> {
        std::future::pending().await
    }
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number, stable while it is there.
    pub number: u64,
    /// Why it is one.
    pub reason: String,
    /// The queue that it was taken from.
    pub source: String,
    /// When it was given up.
    pub at: Timestamp,
    /// The message.
    pub message: Message,
}

/// The bus.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Publishes, and returns when the bus has taken responsibility (publisher confirm). An error means that the
    /// message may be there or not.
    async fn publish(&self, to: &Address, message: Message) -> Result<(), BusError>;

    /// Consumes a queue with at most `prefetch` unsettled messages.
    async fn consume(&self, queue: &Queue, prefetch: u16) -> Result<Consumer, BusError>;

    /// Waits until the intake of a cloud was connected to what the cloud publishes more often than this, and says how
    /// often it was. What was published before may be missed. Never, where nothing can be missed.
    async fn intake_joined(&self, cloud: &CloudName, joined: u64) -> u64 {
        let _ = (cloud, joined);
        std::future::pending().await
    }

    /// The dead letters, oldest first, from this number on.
    async fn dead(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, BusError>;

    /// Publishes a dead letter to where it came from again, and removes it.
    async fn replay_dead(&self, number: u64) -> Result<(), BusError>;

    /// Removes a dead letter.
    async fn drop_dead(&self, number: u64) -> Result<(), BusError>;

    /// Past events since a time, oldest first, at most `limit`, after the position `after`.
    async fn history(&self, since: Timestamp, after: Option<u64>, limit: usize) -> Result<Vec<PastEvent>, BusError>;
}

/// An event of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct PastEvent {
    /// Its position in the history.
    pub position: u64,
    /// The event.
    pub event: CloudEvent,
}

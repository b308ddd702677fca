//! The exchanges and queues of the bus, declared durable. Declaring is idempotent, so every new connection does it.
//!
//! Every quorum queue states a delivery limit, because RabbitMQ 4 takes 20 where none is stated and then drops messages. Those
//! of work dead-letter with `at-least-once`, which needs `reject-publish`; that of the rules must never refuse.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use reeve_protocol::{ShardId, names};
use tokio::sync::Mutex;

use super::config::RabbitConfig;
use super::wire::short;

/// The dead letters are browsed by taking and giving back, which counts as a delivery each time.
const NEVER: i64 = 1_000_000_000;

/// Retention drops whole segments, so they are smaller than the default of 500 MB.
const AUDIT_SEGMENT_BYTES: i64 = 50_000_000;

/// The most events that wait for rules.
const RULES_MOST: i64 = 100_000;

/// After a week without a consumer the queue of the rules goes away.
const RULES_UNUSED_MS: i64 = 7 * 24 * 3_600_000;

const REPLY_NOT_FOUND: u16 = 404;
const REPLY_PRECONDITION_FAILED: u16 = 406;

/// What to declare.
#[derive(Debug)]
pub(crate) struct Topology {
    shards: u16,
    intakes: Vec<String>,
    rule_topics: Vec<String>,
    delivery_limit: u32,
    audit_retention: Duration,
    /// Both connections come up at once; a queue declared by two at a time is work for nothing.
    turn: Mutex<()>,
}

/// Why a declaration failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopologyError {
    #[error(
        "{kind} {name} exists with other properties (delete it or rename it on the broker, and Reeve declares it anew): {why}"
    )]
    Different { kind: &'static str, name: String, why: String },
    #[error("cannot declare {kind} {name}: {why}")]
    Failed { kind: &'static str, name: String, why: String },
}

impl Topology {
    pub(crate) fn new(config: &RabbitConfig) -> Self {
        Self {
            shards: config.shards,
            intakes: config.intakes.iter().map(|intake| names::intake_queue(&intake.cloud)).collect(),
            rule_topics: config.rule_topics.clone(),
            delivery_limit: config.broker_delivery_limit,
            audit_retention: config.audit_retention,
            turn: Mutex::new(()),
        }
    }

    /// How long declaring may take when no other broker is left to ask. A new quorum queue costs a broker 10 to 50 ms.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_secs(30) + Duration::from_millis(200) * u32::from(self.shards)
    }

    /// Whether this is a queue that messages are taken from and may be put back into.
    pub(crate) fn is_source(&self, queue: &str) -> bool {
        let shard = queue.strip_prefix("reeve.shard.").and_then(|number| number.parse().ok());
        queue == names::REQUESTS
            || (queue == names::RULES && self.has_rules())
            || shard.is_some_and(|shard: u16| shard < self.shards)
            || self.intakes.iter().any(|intake| intake == queue)
    }

    pub(crate) fn has_rules(&self) -> bool {
        !self.rule_topics.is_empty()
    }

    pub(crate) fn has_shard(&self, shard: ShardId) -> bool {
        shard.0 < self.shards
    }

    /// Declares everything.
    pub(crate) async fn declare(&self, connection: &Connection) -> Result<(), TopologyError> {
        let _turn = self.turn.lock().await;
        let channel = open(connection).await?;
        for (name, kind) in [
            (names::REQUESTS, ExchangeKind::Topic),
            (names::SHARDS, ExchangeKind::Direct),
            (names::EVENTS, ExchangeKind::Topic),
            (names::DEAD, ExchangeKind::Fanout),
        ] {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            let declared = channel.exchange_declare(short(name), kind, options, FieldTable::default()).await;
            declared.map_err(|error| explain("exchange", name, &error))?;
        }
        queue(&channel, names::DEAD, dead_arguments()).await?;
        bind(&channel, names::DEAD, names::DEAD, "").await?;
        queue(&channel, names::REQUESTS, self.work_arguments()).await?;
        bind(&channel, names::REQUESTS, names::REQUESTS, "#").await?;
        for shard in 0..self.shards {
            let mut arguments = self.work_arguments();
            arguments.insert(short("x-single-active-consumer"), AMQPValue::Boolean(true));
            let name = names::shard_queue(ShardId(shard));
            queue(&channel, &name, arguments).await?;
            bind(&channel, &name, names::SHARDS, &shard.to_string()).await?;
        }
        for intake in &self.intakes {
            queue(&channel, intake, self.work_arguments()).await?;
        }
        if self.has_rules() {
            queue(&channel, names::RULES, self.rules_arguments()).await?;
            // A binding of a rule that is no more stays: its events come, and no rule acts on them.
            for topic in &self.rule_topics {
                bind(&channel, names::RULES, names::EVENTS, topic).await?;
            }
        }
        self.declare_audit(connection, channel).await
    }

    /// The stream keeps the retention that it was made with: changing the configuration must not stop the bus.
    async fn declare_audit(&self, connection: &Connection, channel: Channel) -> Result<(), TopologyError> {
        let declared = queue(&channel, names::AUDIT, self.audit_arguments()).await;
        let channel = match declared {
            Ok(()) => channel,
            Err(TopologyError::Different { why, .. }) => {
                tracing::warn!(queue = names::AUDIT, %why, "keeps the retention that it was declared with");
                open(connection).await?
            }
            Err(error @ TopologyError::Failed { .. }) => return Err(error),
        };
        bind(&channel, names::AUDIT, names::EVENTS, "#").await?;
        // Best effort: an idle channel more does no harm.
        let _ = channel.close(200, short("OK")).await;
        Ok(())
    }

    fn work_arguments(&self) -> FieldTable {
        let mut arguments = quorum(i64::from(self.delivery_limit));
        arguments.insert(short("x-dead-letter-exchange"), text(names::DEAD));
        arguments.insert(short("x-dead-letter-strategy"), text("at-least-once"));
        arguments.insert(short("x-overflow"), text("reject-publish"));
        arguments
    }

    /// Bounded by dropping the oldest: a queue that refused would keep events from being published. One that nobody
    /// consumes any more, because the rules are gone, goes away.
    fn rules_arguments(&self) -> FieldTable {
        let mut arguments = quorum(i64::from(self.delivery_limit));
        arguments.insert(short("x-max-length"), AMQPValue::LongLongInt(RULES_MOST));
        arguments.insert(short("x-overflow"), text("drop-head"));
        arguments.insert(short("x-expires"), AMQPValue::LongLongInt(RULES_UNUSED_MS));
        arguments
    }

    fn audit_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert(short("x-queue-type"), text("stream"));
        arguments.insert(short("x-max-age"), text(&format!("{}s", self.audit_retention.as_secs())));
        arguments.insert(short("x-stream-max-segment-size-bytes"), AMQPValue::LongLongInt(AUDIT_SEGMENT_BYTES));
        arguments
    }
}

fn dead_arguments() -> FieldTable {
    quorum(NEVER)
}

fn quorum(delivery_limit: i64) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(short("x-queue-type"), text("quorum"));
    arguments.insert(short("x-delivery-limit"), AMQPValue::LongLongInt(delivery_limit));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

async fn open(connection: &Connection) -> Result<Channel, TopologyError> {
    let opened = connection.create_channel().await;
    opened.map_err(|error| explain("channel", "for declarations", &error))
}

async fn queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), TopologyError> {
    let declared = channel.queue_declare(short(name), QueueDeclareOptions::durable(), arguments).await;
    declared.map(drop).map_err(|error| explain("queue", name, &error))
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> Result<(), TopologyError> {
    let names: [ShortString; 3] = [short(queue), short(exchange), short(key)];
    let [queue_name, exchange, key] = names;
    let bound = channel.queue_bind(queue_name, exchange, key, QueueBindOptions::default(), FieldTable::default()).await;
    bound.map_err(|error| explain("binding of queue", queue, &error))
}

fn explain(kind: &'static str, name: &str, error: &lapin::Error) -> TopologyError {
    let (name, why) = (name.to_owned(), error.to_string());
    if reply_code(error) == Some(REPLY_PRECONDITION_FAILED) {
        TopologyError::Different { kind, name, why }
    } else {
        TopologyError::Failed { kind, name, why }
    }
}

/// The AMQP reply code (AMQP 0-9-1 section 1.2) of what the broker refused.
pub(crate) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(refused) => Some(refused.get_id()),
        _ => None,
    }
}

/// Whether the broker does not know the exchange or queue.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    reply_code(error) == Some(REPLY_NOT_FOUND)
}

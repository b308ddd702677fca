//! Sends commands as producers do, over the broker, and collects the answers.
//!
//! ```text
//! command ─► history ─► open ─► reeve.requests
//!              ▲          │ no answer for a while, or `unavailable`: again, with the same id
//!           answer ◄──────┴── chaos.answers (durable)
//! ```
//!
//! A command stays open until it is answered for good, over as many connections as that takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::names::REQUESTS;
use serde_json::Value;
use tokio::task::JoinSet;

use super::history::{History, Sent, What};

/// The queue of the answers. It outlives connections, so that no answer is lost with one.
const ANSWERS: &str = "chaos.answers";
/// After so long without an answer a command is sent again.
const AGAIN: Duration = Duration::from_secs(6);
/// After `unavailable` it is sent again sooner.
const SOON: Duration = Duration::from_secs(1);
/// For so long a VM that is not known may become known.
const UNKNOWN: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Open {
    sent: Sent,
    since: Duration,
    again_at: Duration,
}

type Shared = Arc<Mutex<BTreeMap<String, Open>>>;

/// Sends commands until dropped.
#[derive(Debug)]
pub struct Commander {
    open: Shared,
    history: History,
    outgoing: tokio::sync::mpsc::UnboundedSender<Sent>,
    _tasks: JoinSet<()>,
}

impl Commander {
    /// Begins, with these brokers; each is tried when the one before is away.
    #[must_use]
    pub fn start(brokers: Vec<String>, history: History) -> Self {
        let open = Shared::default();
        let (outgoing, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let (urls, asked) = (brokers.clone(), Arc::clone(&open));
        tasks.spawn(async move {
            let mut turn = 0;
            loop {
                if let Err(error) = publish(&urls[turn % urls.len()], &asked, &mut waiting).await {
                    tracing::debug!(%error, "commands go over another connection");
                }
                turn += 1;
                tokio::time::sleep(PAUSE).await;
            }
        });
        let (asked, told) = (Arc::clone(&open), history.clone());
        tasks.spawn(async move {
            let mut turn = 1;
            loop {
                if let Err(error) = collect(&brokers[turn % brokers.len()], &asked, &told).await {
                    tracing::debug!(%error, "answers come over another connection");
                }
                turn += 1;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { open, history, outgoing, _tasks: tasks }
    }

    /// Sends a command; it is in the history before it is sent.
    pub fn send(&self, sent: Sent) {
        let now = SystemClock.elapsed();
        self.history.write(What::Sent(sent.clone()));
        let open = Open { sent: sent.clone(), since: now, again_at: now + AGAIN };
        locked(&self.open).insert(sent.id.as_str().to_owned(), open);
        // The receiver lives as long as the task.
        let _ = self.outgoing.send(sent);
    }

    /// How many commands have no answer yet.
    #[must_use]
    pub fn open(&self) -> usize {
        locked(&self.open).len()
    }
}

/// Publishes new commands, and open ones again, until the connection ends.
async fn publish(url: &str, open: &Shared, waiting: &mut tokio::sync::mpsc::UnboundedReceiver<Sent>) -> Result<()> {
    let (connection, channel) = connect(url).await?;
    let mut tick = tokio::time::interval(PAUSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(sent) = waiting.recv() => send(&channel, &sent).await?,
            _ = tick.tick() => {
                anyhow::ensure!(connection.status().connected(), "the connection has ended");
                for sent in due(open) {
                    send(&channel, &sent).await?;
                }
            }
        }
    }
}

/// The commands that are to be sent again now.
fn due(open: &Shared) -> Vec<Sent> {
    let now = SystemClock.elapsed();
    let mut due = Vec::new();
    for open in locked(open).values_mut().filter(|open| open.again_at <= now) {
        open.again_at = now + AGAIN;
        due.push(open.sent.clone());
    }
    due
}

async fn send(channel: &Channel, sent: &Sent) -> Result<()> {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(sent.id.as_str().into())
        .with_correlation_id(sent.id.as_str().into())
        .with_type(sent.kind.as_str().into())
        .with_reply_to(ANSWERS.into());
    let body = sent.body.to_string();
    let options = BasicPublishOptions::default();
    // Without a confirmation: what is lost is sent again.
    let publishing =
        channel.basic_publish(REQUESTS.into(), sent.kind.as_str().into(), options, body.as_bytes(), properties);
    tokio::time::timeout(CALL, publishing).await.context("the broker takes nothing")??;
    Ok(())
}

/// Takes answers until the connection ends.
async fn collect(url: &str, open: &Shared, history: &History) -> Result<()> {
    let (_connection, channel) = connect(url).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let declaring = channel.queue_declare(ANSWERS.into(), QueueDeclareOptions::durable(), arguments);
    tokio::time::timeout(CALL, declaring).await.context("no queue")??;
    channel.basic_qos(256, BasicQosOptions::default()).await?;
    let consuming =
        channel.basic_consume(ANSWERS.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut answers = tokio::time::timeout(CALL, consuming).await.context("no consumer")??;
    while let Some(delivery) = answers.next().await {
        let delivery = delivery?;
        let id = delivery.properties.correlation_id().as_ref().map(ToString::to_string);
        if let (Some(id), Ok(answer)) = (id, serde_json::from_slice::<Value>(&delivery.data)) {
            answered(open, history, &id, answer);
        }
        delivery.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the consumer has ended")
}

fn answered(open: &Shared, history: &History, id: &str, answer: Value) {
    let code = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
    if let Ok(id) = id.parse() {
        history.write(What::Answered { id, answer });
    }
    let now = SystemClock.elapsed();
    let mut open = locked(open);
    let Some(asked) = open.get_mut(id) else { return };
    let again = match code.as_str() {
        "unavailable" => true,
        "not_found" => now.saturating_sub(asked.since) < UNKNOWN,
        _ => false,
    };
    if again {
        asked.again_at = now + SOON;
    } else {
        open.remove(id);
    }
}

pub(super) async fn connect(url: &str) -> Result<(Connection, Channel)> {
    let connecting = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        anyhow::Ok((connection, channel))
    };
    tokio::time::timeout(CALL, connecting).await.context("the broker does not answer")?
}

fn locked(open: &Shared) -> MutexGuard<'_, BTreeMap<String, Open>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

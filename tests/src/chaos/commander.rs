//! Sends commands as producers do, over the broker, and collects the answers.
//!
//! ```text
//! command ─► history ─► waiting ─► sent ─► confirmed by the broker
//!              ▲                    │         │ no answer for a while (unless answers are trusted), `unavailable`,
//!              │                    │         │ a VM that is not known yet: again, with the same id
//!              │                    └─────────┤ the connection ends unconfirmed: again
//!           answer ◄── chaos.answers (durable)┘
//! ```
//!
//! A command stays open until it is answered for good, over as many connections as that takes. Every sending after the
//! first is in the history with its reason.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, PublisherConfirm};
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::names::REQUESTS;
use serde_json::Value;
use tokio::task::JoinSet;

use super::history::{Again, History, Sent, What};

/// The queue of the answers. It outlives connections, so that no answer is lost with one.
const ANSWERS: &str = "chaos.answers";
/// After so long without an answer a command is sent again.
const IMPATIENT: Duration = Duration::from_secs(6);
/// After `unavailable` it is sent again sooner.
const SOON: Duration = Duration::from_secs(1);
/// For so long a VM that is not known may become known.
const UNKNOWN: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);

/// Whether an answer that does not come is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// The command is sent again.
    Short,
    /// It is waited for: that every answer comes shows that none was lost.
    Endless,
}

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// On no connection yet.
    Waiting,
    /// On a connection; the broker may not have taken it.
    Sent,
    /// The broker has it.
    Confirmed,
}

#[derive(Debug)]
struct Open {
    sent: Sent,
    since: Duration,
    stage: Stage,
    again: Option<(Duration, Again)>,
}

/// The commands without an answer for good.
#[derive(Debug)]
struct Desk {
    patience: Patience,
    open: BTreeMap<String, Open>,
}

impl Desk {
    fn impatient(&self, now: Duration) -> Option<(Duration, Again)> {
        match self.patience {
            Patience::Short => Some((now + IMPATIENT, Again::NoAnswer)),
            Patience::Endless => None,
        }
    }

    /// Takes a command in; says whether it is to be sent. Whoever trusts answers sends nothing twice.
    fn take(&mut self, sent: Sent, now: Duration) -> bool {
        let id = sent.id.as_str().to_owned();
        if self.patience == Patience::Endless && self.open.contains_key(&id) {
            return false;
        }
        self.open.insert(id, Open { sent, since: now, stage: Stage::Waiting, again: None });
        true
    }

    /// A command is on a connection: from now on its answer is awaited.
    fn sent(&mut self, id: &str, now: Duration) {
        let again = self.impatient(now);
        if let Some(open) = self.open.get_mut(id) {
            open.stage = Stage::Sent;
            open.again = again;
        }
    }

    /// The broker has a command. It may have its answer already, and be of no interest any more.
    fn confirmed(&mut self, id: &str) {
        if let Some(open) = self.open.get_mut(id) {
            open.stage = Stage::Confirmed;
        }
    }

    /// What the connection before this one took with it is to be sent again.
    fn connected(&mut self, now: Duration) {
        for open in self.open.values_mut().filter(|open| open.stage == Stage::Sent) {
            open.again = Some((now, Again::Unconfirmed));
        }
    }

    /// The commands that are to be sent again now, and why.
    fn due(&mut self, now: Duration) -> Vec<(Sent, Again)> {
        let next = self.impatient(now);
        let mut due = Vec::new();
        for open in self.open.values_mut() {
            if let Some((_, why)) = open.again.filter(|(at, _)| *at <= now) {
                open.again = next;
                open.stage = Stage::Sent;
                due.push((open.sent.clone(), why));
            }
        }
        due
    }

    /// An answer came. It is for good, unless it says that another time it may be another.
    fn answered(&mut self, id: &str, code: &str, now: Duration) {
        let Some(asked) = self.open.get_mut(id) else { return };
        let again = match code {
            "unavailable" => Some(Again::Unavailable),
            "not_found" if now.saturating_sub(asked.since) < UNKNOWN => Some(Again::NotFound),
            _ => None,
        };
        match again {
            Some(why) => asked.again = Some((now + SOON, why)),
            None => drop(self.open.remove(id)),
        }
    }
}

type Shared = Arc<Mutex<Desk>>;

/// Sends commands until dropped.
#[derive(Debug)]
pub struct Commander {
    desk: Shared,
    history: History,
    outgoing: tokio::sync::mpsc::UnboundedSender<Sent>,
    _tasks: JoinSet<()>,
}

impl Commander {
    /// Begins, with these brokers; each is tried when the one before is away.
    #[must_use]
    pub fn start(brokers: Vec<String>, history: History) -> Self {
        let desk = Arc::new(Mutex::new(Desk { patience: Patience::Short, open: BTreeMap::new() }));
        let (outgoing, mut waiting) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let (urls, asked, told) = (brokers.clone(), Arc::clone(&desk), history.clone());
        tasks.spawn(async move {
            let mut turn = 0;
            loop {
                if let Err(error) = publish(&urls[turn % urls.len()], &asked, &told, &mut waiting).await {
                    tracing::debug!(%error, "commands go over another connection");
                }
                turn += 1;
                tokio::time::sleep(PAUSE).await;
            }
        });
        let (asked, told) = (Arc::clone(&desk), history.clone());
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
        Self { desk, history, outgoing, _tasks: tasks }
    }

    /// From now on a command whose answer does not come is not sent again, nor one that is sent twice: then all that were
    /// sent are answered only if none was lost on the way, nor its answer.
    pub fn trust_answers(&self) {
        locked(&self.desk).patience = Patience::Endless;
    }

    /// Sends a command; it is in the history before it is sent.
    pub fn send(&self, sent: Sent) {
        if !locked(&self.desk).take(sent.clone(), SystemClock.elapsed()) {
            return;
        }
        self.history.write(What::Sent(sent.clone()));
        // The receiver lives as long as the task.
        let _ = self.outgoing.send(sent);
    }

    /// How many commands have no answer yet.
    #[must_use]
    pub fn open(&self) -> usize {
        locked(&self.desk).open.len()
    }
}

/// Publishes new commands, and open ones again, until the connection ends.
async fn publish(
    url: &str,
    desk: &Shared,
    history: &History,
    waiting: &mut tokio::sync::mpsc::UnboundedReceiver<Sent>,
) -> Result<()> {
    let (connection, channel) = connect(url).await?;
    let confirming = channel.confirm_select(ConfirmSelectOptions::default());
    tokio::time::timeout(CALL, confirming).await.context("the broker confirms nothing")??;
    locked(desk).connected(SystemClock.elapsed());
    let mut under_way = FuturesUnordered::new();
    let mut tick = tokio::time::interval(PAUSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(sent) = waiting.recv() => {
                locked(desk).sent(sent.id.as_str(), SystemClock.elapsed());
                under_way.push(confirmed(send(&channel, &sent).await?, sent));
            }
            Some(taken) = under_way.next() => locked(desk).confirmed(&taken?),
            _ = tick.tick() => {
                anyhow::ensure!(connection.status().connected(), "the connection has ended");
                let due = locked(desk).due(SystemClock.elapsed());
                for (sent, why) in due {
                    history.write(What::Resent { id: sent.id.clone(), why });
                    under_way.push(confirmed(send(&channel, &sent).await?, sent));
                }
            }
        }
    }
}

/// The id of a command once the broker has it.
async fn confirmed(confirm: PublisherConfirm, sent: Sent) -> Result<String> {
    match confirm.await? {
        Confirmation::Ack(_) | Confirmation::NotRequested => Ok(sent.id.as_str().to_owned()),
        Confirmation::Nack(_) => anyhow::bail!("the broker did not take {}", sent.id),
    }
}

async fn send(channel: &Channel, sent: &Sent) -> Result<PublisherConfirm> {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(sent.id.as_str().into())
        .with_correlation_id(sent.id.as_str().into())
        .with_type(sent.kind.as_str().into())
        .with_reply_to(ANSWERS.into());
    let body = sent.body.to_string();
    let options = BasicPublishOptions::default();
    let publishing =
        channel.basic_publish(REQUESTS.into(), sent.kind.as_str().into(), options, body.as_bytes(), properties);
    Ok(tokio::time::timeout(CALL, publishing).await.context("the broker takes nothing")??)
}

/// Takes answers until the connection ends.
async fn collect(url: &str, desk: &Shared, history: &History) -> Result<()> {
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
            answered(desk, history, &id, answer);
        }
        delivery.ack(BasicAckOptions::default()).await?;
    }
    anyhow::bail!("the consumer has ended")
}

fn answered(desk: &Shared, history: &History, id: &str, answer: Value) {
    let code = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
    if let Ok(id) = id.parse() {
        history.write(What::Answered { id, answer });
    }
    locked(desk).answered(id, &code, SystemClock.elapsed());
}

pub(super) async fn connect(url: &str) -> Result<(Connection, Channel)> {
    let connecting = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        anyhow::Ok((connection, channel))
    };
    tokio::time::timeout(CALL, connecting).await.context("the broker does not answer")?
}

fn locked(desk: &Shared) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use reeve_protocol::{MessageId, VmId};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn command() -> Sent {
        let id = MessageId::new("c-1").unwrap();
        Sent { id, vm: VmId::new(Uuid::from_u128(1)), kind: "vm.stop".to_owned(), body: json!({}) }
    }

    /// A desk at which a command was sent at second 0, and confirmed.
    fn desk(patience: Patience) -> Desk {
        let mut desk = Desk { patience, open: BTreeMap::new() };
        assert!(desk.take(command(), at(0)));
        desk.sent("c-1", at(0));
        desk.confirmed("c-1");
        desk
    }

    fn due(desk: &mut Desk, seconds: u64) -> Vec<Again> {
        desk.due(at(seconds)).into_iter().map(|(_, why)| why).collect()
    }

    #[test]
    fn what_is_not_answered_is_sent_again_and_again() {
        let mut desk = desk(Patience::Short);
        assert_eq!(due(&mut desk, 5), []);
        assert_eq!(due(&mut desk, 6), [Again::NoAnswer]);
        assert_eq!(due(&mut desk, 11), []);
        assert_eq!(due(&mut desk, 12), [Again::NoAnswer]);
        desk.answered("c-1", "", at(13));
        assert!(desk.open.is_empty());
    }

    #[test]
    fn whoever_trusts_answers_sends_nothing_twice() {
        let mut desk = desk(Patience::Endless);
        assert!(!desk.take(command(), at(1)));
        assert_eq!(due(&mut desk, 1_000), []);
        desk.connected(at(1_000));
        assert_eq!(due(&mut desk, 1_000), [], "the broker has it");
        assert_eq!(desk.open.len(), 1);
    }

    #[test]
    fn what_may_be_granted_later_is_asked_for_again_whoever_asks() {
        for patience in [Patience::Short, Patience::Endless] {
            let mut desk = desk(patience);
            desk.answered("c-1", "unavailable", at(2));
            assert_eq!(due(&mut desk, 3), [Again::Unavailable]);
            desk.answered("c-1", "not_found", at(4));
            assert_eq!(due(&mut desk, 5), [Again::NotFound]);
            desk.answered("c-1", "not_found", at(40));
            assert!(desk.open.is_empty(), "it is not known for good");
        }
    }

    #[test]
    fn what_a_connection_took_with_it_is_sent_again_whoever_asks() {
        for patience in [Patience::Short, Patience::Endless] {
            let mut desk = Desk { patience, open: BTreeMap::new() };
            desk.take(command(), at(0));
            desk.connected(at(1));
            assert_eq!(due(&mut desk, 100), [], "it still waits for a connection");
            desk.sent("c-1", at(100));
            assert_eq!(due(&mut desk, 101), [], "its answer is awaited from when it was sent");
            desk.connected(at(102));
            assert_eq!(due(&mut desk, 102), [Again::Unconfirmed]);
            desk.connected(at(103));
            assert_eq!(due(&mut desk, 103), [Again::Unconfirmed], "nor was it confirmed the second time");
        }
    }
}

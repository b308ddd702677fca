//! The in-process bus.
//!
//! ```text
//! publish ─► file ─► queue ─► consumer ─► ack:  out of queue and file
//!            (not the intake)     │    ─► dead: dead letters, in one transaction
//!                                 └─ dropped, returned, killed: at the front again, one delivery more;
//!                                    past the limit: dead letters
//! ```
//!
//! An event that a rule may act on goes into the queue of the rules in the transaction that makes it history.
//!
//! Requests, the shards' commands, dead letters and the history are in the file, and publishing them returns after the
//! commit. Notifications of a cloud in this process are in memory only. One bus per file.

use std::sync::Arc;

use async_trait::async_trait;
use reeve_ports::bus::PastEvent;
use reeve_ports::{Address, Bus, BusError, Clock, Consumer, DeadLetter, Message, Queue};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{Timestamp, rule};
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

use super::consumer::EmbeddedConsumer;
use super::db::EmbeddedDb;
use super::error::{EmbeddedError, ReadError, WriteError};
use super::ledger;
use super::shared::{BusLimits, Room, Shared};

/// How many events a live subscriber may be behind before it is told that it lagged.
const LIVE_EVENTS: usize = 4096;
/// How many replies wait for who reads them; further ones are dropped, as from a requester that is gone.
const WAITING_REPLIES: usize = 64;
/// The most rows of one page.
const MAX_PAGE: usize = 10_000;

/// The bus of a node without RabbitMQ. Clones are handles to the same.
#[derive(Clone)]
pub struct EmbeddedBus {
    shared: Arc<Shared>,
}

/// An address for replies and what arrives there, until the receiver is dropped.
pub struct ReplyQueue {
    /// What goes into `reply_to`.
    pub address: String,
    /// The replies.
    pub messages: mpsc::Receiver<Message>,
}

impl EmbeddedBus {
    /// Opens the bus on this file, with what an earlier life left in its queues.
    ///
    /// # Errors
    /// [`EmbeddedError`] when a stored message cannot be read.
    pub async fn open(db: EmbeddedDb, clock: Arc<dyn Clock>, limits: BusLimits) -> Result<Self, EmbeddedError> {
        let path = db.path().to_owned();
        let found = db.read(ledger::read_messages).await.map_err(|error| match error {
            ReadError::Damaged(why) => EmbeddedError::Damaged { path, why },
            ReadError::Unavailable(why) => EmbeddedError::Io { path, why },
        })?;
        let (live, _) = broadcast::channel(LIVE_EVENTS);
        let shared = Shared::new(db, clock, limits, live);
        shared.recover(found);
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The events that are published from now on, each once. A subscriber that is too slow is told how many it missed;
    /// [`Bus::history`] has them.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PastEvent> {
        self.shared.live.subscribe()
    }

    /// From now on events with these routing keys also go into [`Queue::Rules`]. Said once, before events are published.
    pub fn route_to_rules(&self, topics: Vec<String>) {
        if self.shared.rule_topics.set(topics).is_err() {
            tracing::error!("what goes to the rules was said before; the first word holds");
        }
    }

    /// Room for an event in the queue of the rules, if any rule may act on it.
    fn room_for_rules(&self, key: &str, message: &Message) -> Option<(Room, Vec<u8>)> {
        if !self.shared.rule_topics.get().is_some_and(|topics| rule::is_routed(topics, key)) {
            return None;
        }
        let room = self.shared.reserve(&Queue::Rules.name(), message);
        let encoded = ledger::encode_message(message);
        match (room, encoded) {
            (Ok(room), Ok(bytes)) => Some((room, bytes)),
            // The rules must not keep events from being published.
            (Err(error), _) => {
                tracing::warn!(%error, id = message.message_id.as_deref(), "no rule acts on an event");
                None
            }
            (_, Err(error)) => {
                tracing::warn!(%error, id = message.message_id.as_deref(), "no rule acts on an event");
                None
            }
        }
    }

    /// A new address for replies.
    #[must_use]
    pub fn reply_queue(&self) -> ReplyQueue {
        // Never used again, in no later life either: a late reply must not reach another requester.
        let address = format!("embedded.reply.{}", Uuid::new_v4());
        let (sender, messages) = mpsc::channel(WAITING_REPLIES);
        let mut state = self.shared.state();
        state.replies.retain(|_, sender| !sender.is_closed());
        state.replies.insert(address.clone(), sender);
        ReplyQueue { address, messages }
    }

    async fn publish_to(&self, queue: &Queue, message: Message) -> Result<(), BusError> {
        let name = queue.name();
        let room = self.shared.reserve(&name, &message)?;
        if self.shared.db.closed().is_cancelled() {
            return Err(unavailable(WriteError::closed()));
        }
        if !Shared::is_durable(queue) {
            room.fill(None, message);
            return Ok(());
        }
        let bytes = ledger::encode_message(&message).map_err(|error| BusError::Refused(error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        let store = self.shared.db.write_then(
            move |tables| ledger::put_message(tables, &name, &bytes),
            move |stored| {
                let stored = stored.map(|number| room.fill(Some(number), message));
                // The publisher may have gone; the message is there all the same.
                let _ = answer.send(stored);
            },
        );
        store.await;
        settled(answered).await
    }

    async fn publish_event(&self, key: &str, message: Message) -> Result<(), BusError> {
        let most = self.shared.limits.message_bytes;
        if message.body.len() > most {
            return Err(BusError::Refused(format!(
                "an event of {} bytes, at most {most} are taken",
                message.body.len()
            )));
        }
        let event: CloudEvent = serde_json::from_slice(&message.body)
            .map_err(|error| BusError::Refused(format!("the body is no CloudEvent: {error}")))?;
        let (live, most) = (self.shared.live.clone(), self.shared.limits.history_events);
        let (answer, answered) = oneshot::channel();
        let stored = event.clone();
        let (room, bytes) = self.room_for_rules(key, &message).unzip();
        let body = message.body.clone();
        let store = self.shared.db.write_then(
            // One transaction: an event that is published is one that the rules see, and the same event again is not.
            move |tables| match (ledger::put_event(tables, &stored, &body, most)?, bytes) {
                (Some(position), Some(bytes)) => {
                    let number = ledger::put_message(tables, &Queue::Rules.name(), &bytes)?;
                    Ok((Some(position), Some(number)))
                }
                (position, _) => Ok((position, None)),
            },
            move |stored| {
                if let (Ok((_, Some(number))), Some(room)) = (&stored, room) {
                    room.fill(Some(*number), message);
                }
                let position = stored.map(|(position, _)| position);
                if let Ok(Some(position)) = position {
                    // Nobody may be watching.
                    let _ = live.send(PastEvent { position, event });
                }
                // The publisher may have gone; the event is there all the same.
                let _ = answer.send(position.map(drop));
            },
        );
        store.await;
        settled(answered).await
    }

    fn reply(&self, address: &str, message: Message) {
        let mut state = self.shared.state();
        let delivered = state.replies.get(address).is_some_and(|sender| sender.try_send(message).is_ok());
        if !delivered {
            if state.replies.get(address).is_some_and(mpsc::Sender::is_closed) {
                state.replies.remove(address);
            }
            tracing::debug!(address, "nobody waits for a reply");
        }
    }

    /// Replaces a dead letter by a message in its queue, in one transaction.
    async fn revive(&self, letter: DeadLetter, room: Room) -> Result<(), BusError> {
        let bytes = ledger::encode_message(&letter.message).map_err(|error| BusError::Refused(error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        let (number, source, message) = (letter.number, letter.source, letter.message);
        let store = self.shared.db.write_then(
            move |tables| {
                if !ledger::remove_dead(tables, number)? {
                    return Ok(None);
                }
                // In the file even if it was a notification: it left the dead letters for this queue only.
                ledger::put_message(tables, &source, &bytes).map(Some)
            },
            move |stored| {
                let found = stored.map(|stored| stored.map(|stored| room.fill(Some(stored), message)).is_some());
                // The administrator may have gone; the message is there all the same.
                let _ = answer.send(found);
            },
        );
        store.await;
        if settled(answered).await? { Ok(()) } else { Err(no_letter(number)) }
    }
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, to: &Address, message: Message) -> Result<(), BusError> {
        match to {
            Address::Requests => self.publish_to(&Queue::Requests, message).await,
            Address::Shard(shard) => self.publish_to(&Queue::Shard(*shard), message).await,
            Address::Intake(cloud) => self.publish_to(&Queue::Intake(cloud.clone()), message).await,
            // The routing key is for the rules, and for subscribers of a broker; here the history has everything.
            Address::Events(key) => self.publish_event(key, message).await,
            Address::Reply(address) => {
                self.reply(address, message);
                Ok(())
            }
        }
    }

    async fn consume(&self, queue: &Queue, prefetch: u16) -> Result<Consumer, BusError> {
        if prefetch == 0 {
            return Err(BusError::Refused("a prefetch of 0: nothing could ever be delivered".into()));
        }
        if self.shared.db.closed().is_cancelled() {
            return Err(unavailable(WriteError::closed()));
        }
        Ok(Box::new(EmbeddedConsumer::new(Arc::clone(&self.shared), queue.name(), prefetch)))
    }

    async fn dead(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        let read = self.shared.db.read(move |transaction| ledger::read_dead(transaction, from, limit.min(MAX_PAGE)));
        read.await.map_err(unreadable)
    }

    async fn replay_dead(&self, number: u64) -> Result<(), BusError> {
        let letter = self.dead(number, 1).await?.into_iter().find(|letter| letter.number == number);
        let letter = letter.ok_or_else(|| no_letter(number))?;
        let room = self.shared.reserve(&letter.source, &letter.message)?;
        self.revive(letter, room).await
    }

    async fn drop_dead(&self, number: u64) -> Result<(), BusError> {
        let found =
            self.shared.db.write(move |tables| ledger::remove_dead(tables, number)).await.map_err(unavailable)?;
        if found { Ok(()) } else { Err(no_letter(number)) }
    }

    async fn history(&self, since: Timestamp, after: Option<u64>, limit: usize) -> Result<Vec<PastEvent>, BusError> {
        let (after, limit) = (after.unwrap_or(0), limit.min(MAX_PAGE));
        let read = self.shared.db.read(move |transaction| ledger::read_history(transaction, since, after, limit));
        read.await.map_err(unreadable)
    }
}

async fn settled<T>(answered: oneshot::Receiver<Result<T, WriteError>>) -> Result<T, BusError> {
    match answered.await {
        Ok(result) => result.map_err(unavailable),
        Err(_) => Err(BusError::Unavailable("the writer failed".into())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: WriteError) -> BusError {
    BusError::Unavailable(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: ReadError) -> BusError {
    BusError::Unavailable(error.to_string())
}

fn no_letter(number: u64) -> BusError {
    BusError::Refused(format!("there is no dead letter {number}"))
}

//! What the bus, its consumers and their deliveries share: the queues behind one short lock, and the file.
//!
//! The lock is never held over I/O. A message of a durable queue enters the queue in the callback of its commit, so the
//! queue's order is the file's, and a publisher that stops waiting changes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use reeve_ports::bus::PastEvent;
use reeve_ports::{BusError, Clock, Message, Queue};
use reeve_protocol::ShardId;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::db::EmbeddedDb;
use super::error::WriteError;
use super::ledger;
use super::queue::{Entry, QueueState};

/// The most bytes of a dead letter's reason.
const MAX_REASON: usize = 1024;

/// The bounds of the embedded bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusLimits {
    /// The most messages of one queue; over it publishing is unavailable. Default 20,000.
    pub queue_messages: usize,
    /// The most bytes of one queue's messages. Default 64 MiB.
    pub queue_bytes: usize,
    /// The most bytes of all queues' messages. Default 256 MiB.
    pub total_bytes: usize,
    /// The most bytes of one message; over it publishing is refused. Default 2 MiB.
    pub message_bytes: usize,
    /// How many times a message is redelivered before it is a dead letter. Default 50.
    pub delivery_limit: u32,
    /// The most dead letters; the oldest over it are dropped with a warning. Default 10,000.
    pub dead_letters: u64,
    /// The most events of the history; the oldest over it are dropped. Default 200,000.
    pub history_events: u64,
}

impl Default for BusLimits {
    fn default() -> Self {
        Self {
            queue_messages: 20_000,
            queue_bytes: 64 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
            message_bytes: 2 * 1024 * 1024,
            delivery_limit: 50,
            dead_letters: 10_000,
            history_events: 200_000,
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    queues: BTreeMap<String, QueueState>,
    pub(super) replies: BTreeMap<String, mpsc::Sender<Message>>,
    bytes: usize,
    next_order: u64,
    next_consumer: u64,
}

/// What everybody shares.
pub(super) struct Shared {
    pub(super) db: EmbeddedDb,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: BusLimits,
    pub(super) live: broadcast::Sender<PastEvent>,
    /// The routing keys of the events that go into the queue of the rules.
    pub(super) rule_topics: OnceLock<Vec<String>>,
    state: Mutex<State>,
}

impl State {
    /// The queue of this name.
    pub(super) fn queue(&mut self, name: &str) -> &mut QueueState {
        if !self.queues.contains_key(name) {
            self.queues.insert(name.to_owned(), QueueState::new(is_shard(name)));
        }
        self.queues.get_mut(name).expect("the queue was made just now")
    }

    pub(super) fn new_consumer(&mut self) -> u64 {
        self.next_consumer += 1;
        self.next_consumer
    }

    fn push(&mut self, queue: &str, number: Option<u64>, redelivered: u32, message: Message) {
        self.next_order += 1;
        let order = self.next_order;
        self.queue(queue).push(Entry { order, number, redelivered, message });
    }

    fn add(&mut self, queue: &str, bytes: usize) {
        self.bytes += bytes;
        let queue = self.queue(queue);
        queue.messages += 1;
        queue.bytes += bytes;
    }

    pub(super) fn subtract(&mut self, queue: &str, bytes: usize) {
        self.bytes -= bytes;
        let queue = self.queue(queue);
        queue.messages -= 1;
        queue.bytes -= bytes;
    }
}

/// A shard's queue has one active consumer.
fn is_shard(name: &str) -> bool {
    let first = Queue::Shard(ShardId(0)).name();
    name.starts_with(first.trim_end_matches('0'))
}

/// Room for a message in a queue; given back unless the message gets there.
pub(super) struct Room {
    shared: Arc<Shared>,
    queue: String,
    bytes: usize,
}

impl Room {
    /// Puts the message into the queue.
    pub(super) fn fill(mut self, number: Option<u64>, message: Message) {
        self.shared.state().push(&self.queue, number, 0, message);
        self.bytes = 0;
        self.queue.clear();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // A filled room has no queue any more.
        if !self.queue.is_empty() {
            self.shared.state().subtract(&self.queue, self.bytes);
        }
    }
}

impl Shared {
    pub(super) fn new(
        db: EmbeddedDb,
        clock: Arc<dyn Clock>,
        limits: BusLimits,
        live: broadcast::Sender<PastEvent>,
    ) -> Self {
        Self { db, clock, limits, live, rule_topics: OnceLock::new(), state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was found in the file. It may have been delivered in the former life, so it counts as redelivered.
    pub(super) fn recover(&self, found: Vec<ledger::FoundMessage>) {
        let mut state = self.state();
        for found in found {
            state.add(&found.queue, ledger::size(&found.message));
            let redelivered = found.deliveries.saturating_add(1);
            state.push(&found.queue, Some(found.number), redelivered, found.message);
        }
    }

    /// Reserves room for a message.
    pub(super) fn reserve(self: &Arc<Self>, queue: &str, message: &Message) -> Result<Room, BusError> {
        let (bytes, limits) = (ledger::size(message), &self.limits);
        if bytes > limits.message_bytes {
            let most = limits.message_bytes;
            return Err(BusError::Refused(format!("a message of {bytes} bytes, at most {most} are taken")));
        }
        let mut state = self.state();
        if state.bytes + bytes > limits.total_bytes {
            return Err(BusError::Unavailable(format!("all queues together hold {} bytes", state.bytes)));
        }
        let found = state.queue(queue);
        if found.messages >= limits.queue_messages || found.bytes + bytes > limits.queue_bytes {
            let (messages, bytes) = (found.messages, found.bytes);
            return Err(BusError::Unavailable(format!("{queue} is full: {messages} messages, {bytes} bytes")));
        }
        state.add(queue, bytes);
        Ok(Room { shared: Arc::clone(self), queue: queue.to_owned(), bytes })
    }

    /// Acknowledges: the file forgets the message with the next commit. Nobody waits for that: a crash before it means
    /// that the message comes again, as it may with every bus.
    pub(super) fn forget(&self, queue: &str, entry: &Entry) {
        self.state().subtract(queue, ledger::size(&entry.message));
        let Some(number) = entry.number else { return };
        let queue = queue.to_owned();
        self.db.write_now(
            move |tables| ledger::remove_message(tables, &queue, number),
            move |result| {
                if let Err(error) = result {
                    tracing::warn!(number, %error, "an acknowledged message stays in the file; it comes again after a restart");
                }
            },
        );
    }

    /// Makes a dead letter of an entry that is held for burial. On failure it is back in its queue.
    pub(super) fn bury(
        self: &Arc<Self>,
        queue: &str,
        entry: Entry,
        reason: &str,
    ) -> oneshot::Receiver<Result<(), WriteError>> {
        let (answer, answered) = oneshot::channel();
        let (shared, source, order, number) = (Arc::clone(self), queue.to_owned(), entry.order, entry.number);
        let bytes = match ledger::encode_dead(shorten(reason), queue, self.clock.now(), &entry.message) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.state().queue(queue).cancel_burial(order);
                // Nobody may be waiting for the answer.
                let _ = answer.send(Err(WriteError::NotWritten(error.to_string())));
                return answered;
            }
        };
        let (most, from) = (self.limits.dead_letters, source.clone());
        self.db.write_now(
            move |tables| {
                if let Some(number) = number {
                    ledger::remove_message(tables, &from, number)?;
                }
                ledger::put_dead(tables, &bytes, most)
            },
            move |result| {
                let result = shared.after_burial(&source, order, result);
                // Nobody may be waiting for the answer.
                let _ = answer.send(result);
            },
        );
        answered
    }

    fn after_burial(&self, queue: &str, order: u64, buried: Result<u64, WriteError>) -> Result<(), WriteError> {
        let mut state = self.state();
        match buried {
            Ok(dropped) => {
                if let Some(entry) = state.queue(queue).end_burial(order) {
                    state.subtract(queue, ledger::size(&entry.message));
                }
                drop(state);
                if dropped > 0 {
                    tracing::warn!(
                        dropped,
                        most = self.limits.dead_letters,
                        "too many dead letters: the oldest were dropped"
                    );
                }
                Ok(())
            }
            Err(error) => {
                state.queue(queue).cancel_burial(order);
                Err(error)
            }
        }
    }

    /// Whether the messages of a queue are kept in the file. A cloud's notifications are not: their producer lives in
    /// this process, and a scan finds what was lost with it.
    pub(super) fn is_durable(queue: &Queue) -> bool {
        match queue {
            Queue::Requests | Queue::Shard(_) | Queue::Rules => true,
            Queue::Intake(_) => false,
        }
    }
}

/// The start of a reason, at most [`MAX_REASON`] bytes.
fn shorten(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

//! Browsing the queue of dead letters. A queue can only be taken from, so each operation takes letters on a channel of
//! its own without acknowledging them, and closing the channel puts them back where they were.
//!
//! While one node browses, the letters that it holds are invisible to the others; operations of one node take turns.
//! At most the first [`WINDOW`] letters are seen.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use reeve_ports::{BusError, DeadLetter};
use reeve_protocol::names;
use tokio::sync::Mutex;

use super::ack::acknowledge;
use super::channel::OwnChannel;
use super::grave;
use super::link::{LinkWatch, Session};
use super::publisher::Publisher;
use super::topology::Topology;
use super::wire::short;

/// The most letters that are looked at.
const WINDOW: u16 = 10_000;

/// The most bytes of bodies that a list holds.
const LIST_BYTES: usize = 64 << 20;

/// A letter that does not come within this is not there.
const IDLE: Duration = Duration::from_secs(2);

/// Longest time until the letters are back in the queue after the channel was closed.
const BACK_DEADLINE: Duration = Duration::from_secs(2);

const BACK_LOOK: Duration = Duration::from_millis(5);

/// The queue of dead letters.
#[derive(Debug)]
pub(crate) struct Graveyard {
    link: LinkWatch,
    topology: Arc<Topology>,
    publisher: Arc<Publisher>,
    timeout: Duration,
    turn: Mutex<()>,
}

/// The letters in the queue, taken one after the other.
struct Browse {
    session: Session,
    channel: OwnChannel,
    deliveries: lapin::Consumer,
    /// Letters that were in the queue.
    ready: u32,
    left: u32,
}

impl Graveyard {
    pub(crate) fn new(link: LinkWatch, topology: Arc<Topology>, publisher: Arc<Publisher>, timeout: Duration) -> Self {
        Self { link, topology, publisher, timeout, turn: Mutex::new(()) }
    }

    /// The letters from a number on, in the order of the numbers.
    pub(crate) async fn list(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        let _turn = self.turn.lock().await;
        let Some(mut browse) = self.browse().await? else { return Ok(Vec::new()) };
        let mut letters: Vec<DeadLetter> = Vec::new();
        while let Some(delivery) = browse.next().await? {
            let letter = grave::read(&delivery.properties, Bytes::from(delivery.data));
            if letter.number >= from {
                let place = letters.partition_point(|other| other.number <= letter.number);
                letters.insert(place, letter);
                shorten(&mut letters, limit);
            }
        }
        browse.end(0).await;
        Ok(letters)
    }

    /// Publishes a letter to the queue that it came from, then removes it.
    pub(crate) async fn replay(&self, number: u64) -> Result<(), BusError> {
        let _turn = self.turn.lock().await;
        let Some((browse, delivery, letter)) = self.find(number).await? else { return Err(absent(number)) };
        let replayed = async {
            if !self.topology.is_source(&letter.source) {
                let source = &letter.source;
                return Err(BusError::Refused(format!(
                    "dead letter {number} came from {source:?}, which is no queue here"
                )));
            }
            let parcel = grave::revive(&letter, &delivery.properties)?;
            self.publisher.publish(&parcel).await
        };
        let replayed = replayed.await;
        browse.remove(delivery, replayed).await
    }

    /// Removes a letter.
    pub(crate) async fn remove(&self, number: u64) -> Result<(), BusError> {
        let _turn = self.turn.lock().await;
        let Some((browse, delivery, _)) = self.find(number).await? else { return Err(absent(number)) };
        browse.remove(delivery, Ok(())).await
    }

    async fn find(&self, number: u64) -> Result<Option<(Browse, lapin::message::Delivery, DeadLetter)>, BusError> {
        let Some(mut browse) = self.browse().await? else { return Ok(None) };
        while let Some(mut delivery) = browse.next().await? {
            let letter = grave::read(&delivery.properties, Bytes::from(std::mem::take(&mut delivery.data)));
            if letter.number == number {
                return Ok(Some((browse, delivery, letter)));
            }
        }
        browse.end(0).await;
        Ok(None)
    }

    /// Begins to take letters; `None` when there are none.
    async fn browse(&self) -> Result<Option<Browse>, BusError> {
        let mut link = self.link.clone();
        let opening = async {
            let session = link.session().await.ok_or_else(|| unavailable("the bus is closed"))?;
            let channel = OwnChannel::open(&session).await.map_err(unavailable)?;
            let ready = count(channel.get()).await?;
            if ready == 0 {
                return Ok(None);
            }
            let consuming = channel.subscribe(short(names::DEAD), WINDOW, FieldTable::default());
            let deliveries = consuming.await.map_err(unavailable)?;
            let left = ready.min(u32::from(WINDOW));
            Ok(Some(Browse { session, channel, deliveries, ready, left }))
        };
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(unavailable("the broker is away or does not answer")),
        }
    }
}

impl Browse {
    async fn next(&mut self) -> Result<Option<lapin::message::Delivery>, BusError> {
        if self.left == 0 {
            return Ok(None);
        }
        match tokio::time::timeout(IDLE, self.deliveries.next()).await {
            Ok(Some(Ok(delivery))) => {
                self.left -= 1;
                Ok(Some(delivery))
            }
            Ok(Some(Err(error))) => Err(unavailable(error)),
            Ok(None) => Err(unavailable("the channel was closed")),
            // Another node holds it at the moment.
            Err(_) => Ok(None),
        }
    }

    /// Removes one letter if `done`, and puts the others back.
    async fn remove(self, delivery: lapin::message::Delivery, done: Result<(), BusError>) -> Result<(), BusError> {
        if let Err(error) = done {
            self.end(0).await;
            return Err(error);
        }
        let removed = acknowledge(&delivery.acker).await;
        self.end(1).await;
        removed.map_err(|_| unavailable("the channel was closed; the dead letter may still be there"))
    }

    /// Puts back what was taken, and waits until it is back, so that the next to look sees it.
    async fn end(self, removed: u32) {
        let Self { session, channel, deliveries, ready, left: _ } = self;
        let back = async {
            channel.close().await;
            drop(deliveries);
            let channel = OwnChannel::open(&session).await.map_err(unavailable)?;
            while count(channel.get()).await? < ready.saturating_sub(removed) {
                tokio::time::sleep(BACK_LOOK).await;
            }
            Ok::<_, BusError>(())
        };
        // Only the comfort of the next reader depends on it; another node may have taken some.
        let _ = tokio::time::timeout(BACK_DEADLINE, back).await;
    }
}

/// Keeps the first `limit`, and of those what fits.
fn shorten(letters: &mut Vec<DeadLetter>, limit: usize) {
    letters.truncate(limit);
    let mut bytes = 0;
    let fits = letters.iter().take_while(|letter| {
        bytes += letter.message.body.len();
        bytes <= LIST_BYTES
    });
    let fits = fits.count().max(1);
    letters.truncate(fits);
}

async fn count(channel: &Channel) -> Result<u32, BusError> {
    let options = QueueDeclareOptions::durable().passive();
    let queue = channel.queue_declare(short(names::DEAD), options, FieldTable::default()).await;
    queue.map(|queue| queue.message_count()).map_err(unavailable)
}

fn absent(number: u64) -> BusError {
    BusError::Refused(format!("there is no dead letter {number} among the first {WINDOW}"))
}

fn unavailable(why: impl std::fmt::Display) -> BusError {
    BusError::Unavailable(why.to_string())
}

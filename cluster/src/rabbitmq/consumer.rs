//! Consuming a queue across reconnects.
//!
//! ```text
//!   waiting for a session ──► consuming (a term) ──► channel or session lost ──► waiting …
//!           └──────────── dropped, or the bus closed: channel closed, end ◄──────────┘
//! ```
//!
//! A task owns the channel and fills the [`Inbox`]; [`Consume::next`] empties it, so a caller may give up waiting at any
//! moment without losing anything. A message is never put back with `nack`, which would send it to the end of a quorum
//! queue: unsettled, it stays with its consumer, and closing the channel gives it back in the old order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use reeve_ports::bus::{Consume, Settle};
use reeve_ports::{BusError, Delivery, Message, Settlement};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::acks::Acks;
use super::backoff::Backoff;
use super::channel::OwnChannel;
use super::grave::{KEPT_BODY, Undertaker};
use super::inbox::{Inbox, Next, Offer};
use super::link::{LinkWatch, Session};
use super::topology::{Topology, is_not_found};
use super::wire::{self, MAX_BODY, try_short};

/// Longest time for opening a channel and subscribing: a quorum queue without a leader does not answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(15);

/// The reason of a dead letter that was delivered too often.
pub(crate) const DELIVERY_LIMIT: &str = "delivery limit";

/// A delivery as the broker made it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
    /// Of the body as it came: of one over the limit only the beginning is kept.
    pub(crate) size: usize,
    /// Its number on its channel.
    tag: u64,
    acks: Arc<Acks>,
}

impl Raw {
    /// Acknowledges it. An error means that it may be delivered again.
    async fn acknowledge(&self) -> Result<(), BusError> {
        self.acks.settle(self.tag).await
    }

    /// Whether the broker has taken it back, unless it was acknowledged.
    pub(crate) fn is_lost(&self) -> bool {
        self.acks.is_over()
    }
}

/// A delivery in an inbox.
pub(crate) type RawOffer = Offer<Arc<Raw>>;

/// What consuming needs.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) queue: String,
    pub(crate) prefetch: u16,
    pub(crate) link: LinkWatch,
    pub(crate) topology: Arc<Topology>,
    pub(crate) undertaker: Undertaker,
    pub(crate) stop: CancellationToken,
}

/// A consumer of the bus.
#[derive(Debug)]
pub(crate) struct RabbitConsumer {
    source: Arc<Source>,
    inbox: Arc<Inbox<Arc<Raw>>>,
    /// Ends the task.
    _guard: DropGuard,
}

struct Settler {
    source: Arc<Source>,
    inbox: Arc<Inbox<Arc<Raw>>>,
    offer: Option<RawOffer>,
}

impl RabbitConsumer {
    /// Starts to consume. The receiver tells when the broker has accepted the consumer for the first time.
    pub(crate) fn start(source: Source, poison_limit: u32) -> (Self, oneshot::Receiver<()>) {
        let (source, inbox) = (Arc::new(source), Arc::new(Inbox::new(poison_limit)));
        let dropped = source.stop.child_token();
        let (ready, is_ready) = oneshot::channel();
        tokio::spawn(run(source.clone(), inbox.clone(), dropped.clone(), ready));
        (Self { source, inbox, _guard: dropped.drop_guard() }, is_ready)
    }
}

#[async_trait]
impl Consume for RabbitConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            match self.inbox.take() {
                Next::Offer(offer) => return Some(self.delivery(offer)),
                Next::Poison(offer) => {
                    let settler = self.settler(offer);
                    tokio::spawn(async move { settler.bury(DELIVERY_LIMIT.to_owned()).await });
                }
                Next::Wait => self.inbox.news().await,
                Next::Closed => return None,
            }
        }
    }
}

impl RabbitConsumer {
    fn delivery(&self, offer: RawOffer) -> Delivery {
        let message: Message = wire::message(&offer.delivery.properties, offer.delivery.body.clone());
        let redelivered = offer.redelivered();
        Delivery { message, redelivered, settle: Box::new(self.settler(offer)) }
    }

    fn settler(&self, offer: RawOffer) -> Settler {
        Settler { source: self.source.clone(), inbox: self.inbox.clone(), offer: Some(offer) }
    }
}

#[async_trait]
impl Settle for Settler {
    async fn settle(mut self: Box<Self>, settlement: Settlement) -> Result<(), BusError> {
        match settlement {
            Settlement::Ack => {
                let offer = self.offer.take().expect("a delivery is settled once, as settling consumes it");
                self.inbox.settled(&offer);
                offer.delivery.acknowledge().await
            }
            Settlement::Dead(reason) => {
                let timeout = self.source.undertaker.timeout();
                // The task goes on when the caller does not: the message must not be lost half-way.
                let burial = tokio::spawn(async move { self.bury(reason).await });
                match tokio::time::timeout(timeout, burial).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(error)) => Err(BusError::Unavailable(format!("the dead letter was not written: {error}"))),
                    Err(_) => Err(BusError::Unavailable("the dead letter is not confirmed yet".to_owned())),
                }
            }
            // Dropping gives it back.
            Settlement::Return => Ok(()),
        }
    }
}

impl Settler {
    /// Writes the dead letter, then acknowledges. Tries until it works or the broker has taken the message back.
    async fn bury(mut self, reason: String) -> Result<(), BusError> {
        let offer = self.offer.take().expect("a delivery is settled once, as settling consumes it");
        let raw = &offer.delivery;
        self.source.undertaker.bury(raw, &self.source.queue, &reason, &self.source.stop).await?;
        self.inbox.settled(&offer);
        offer.delivery.acknowledge().await
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        if let Some(offer) = self.offer.take() {
            self.inbox.give_back(offer);
        }
    }
}

async fn run(source: Arc<Source>, inbox: Arc<Inbox<Arc<Raw>>>, dropped: CancellationToken, ready: oneshot::Sender<()>) {
    let mut backoff = Backoff::new();
    let mut ready = Some(ready);
    let mut link = source.link.clone();
    loop {
        let session = tokio::select! {
            () = dropped.cancelled() => break,
            session = link.session() => session,
        };
        let Some(session) = session else { break };
        let opened = tokio::select! {
            () = dropped.cancelled() => break,
            opened = open(&source, &session) => opened,
        };
        match opened {
            Ok((channel, deliveries)) => {
                backoff.reset();
                tracing::debug!(queue = source.queue, session = session.number, "consuming");
                // Nobody may be waiting for it.
                let _ = ready.take().map(|ready| ready.send(()));
                let acks = Arc::new(Acks::new(source.prefetch));
                let end = tokio::select! {
                    () = dropped.cancelled() => true,
                    () = fill(&source, &inbox, &acks, deliveries) => false,
                    () = acks.send(channel.get()) => false,
                    () = link.over(session.number) => false,
                };
                tracing::debug!(queue = source.queue, session = session.number, dropped = end, "no longer consuming");
                if end {
                    inbox.close();
                    acks.finish(channel.get()).await;
                    channel.close().await;
                    return;
                }
                acks.end();
                inbox.begin_term();
            }
            Err(error) => tracing::warn!(queue = source.queue, %error, "cannot consume; trying again"),
        }
        tokio::select! {
            () = dropped.cancelled() => break,
            () = backoff.wait() => {}
        }
    }
    inbox.close();
}

/// Puts what comes into the inbox, until the channel ends.
async fn fill(source: &Arc<Source>, inbox: &Arc<Inbox<Arc<Raw>>>, acks: &Arc<Acks>, mut deliveries: lapin::Consumer) {
    let term = inbox.begin_term();
    while let Some(Ok(delivery)) = deliveries.next().await {
        let (tag, before) = (delivery.delivery_tag, wire::delivery_count(&delivery.properties));
        acks.delivered(tag);
        let (properties, acks, mut body) = (delivery.properties, Arc::clone(acks), delivery.data);
        let size = body.len();
        if size > MAX_BODY {
            body.truncate(KEPT_BODY);
            body.shrink_to_fit();
        }
        let raw = Raw { properties, body: Bytes::from(body), size, tag, acks };
        if size > MAX_BODY {
            tokio::spawn(bury_oversized(source.clone(), raw));
        } else {
            inbox.push(term, tag, before, Arc::new(raw));
        }
    }
}

async fn bury_oversized(source: Arc<Source>, raw: Raw) {
    let reason = format!("the body has {} bytes, at most {MAX_BODY} are handled", raw.size);
    let buried = source.undertaker.bury(&raw, &source.queue, &reason, &source.stop).await;
    // Not buried or not acknowledged, the broker delivers it again.
    if buried.is_ok() {
        let _ = raw.acknowledge().await;
    }
}

async fn open(source: &Source, session: &Session) -> Result<(OwnChannel, lapin::Consumer), String> {
    let queue = try_short("the queue's name", &source.queue).map_err(|error| error.to_string())?;
    let opening = async {
        let channel = OwnChannel::open(session).await?;
        let consumer = channel.subscribe(queue, source.prefetch, FieldTable::default()).await?;
        Ok::<_, lapin::Error>((channel, consumer))
    };
    match tokio::time::timeout(OPEN_DEADLINE, opening).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => {
            if is_not_found(&error) {
                declare_again(source, session).await?;
            }
            Err(error.to_string())
        }
        Err(_) => Err(format!("no answer within {OPEN_DEADLINE:?}")),
    }
}

/// Somebody has removed the queue.
async fn declare_again(source: &Source, session: &Session) -> Result<(), String> {
    let declaring = source.topology.declare(&session.connection);
    match tokio::time::timeout(source.topology.deadline(), declaring).await {
        Ok(declared) => declared.map_err(|error| error.to_string()),
        Err(_) => Err("declaring it again takes too long".to_owned()),
    }
}

//! Publishing with confirms.
//!
//! ```text
//! must arrive ─► a channel of its own from the idle ones ─► confirmed, or returned ─► idle again
//! may vanish  ─► one of SHARED channels, in turn ─────────► confirmed
//!                                       no confirm, refused: the channel is left and closes with its last message
//! ```
//!
//! A message that must arrive has a channel to itself. lapin pairs a returned (unroutable) message with the first confirm
//! that arrives after it, and RabbitMQ sends returns at once but confirms late, so on a channel with several such messages
//! on their way a lost one would be reported as taken and a taken one as lost. With one a channel there is nothing to mix
//! up. What may vanish is never returned: many share a channel, so that the broker works on several at a time and
//! confirms them together, which costs it and us a good part less. Messages on different channels have no order among
//! them; who needs one awaits the confirm. When the broker closes a shared channel (its exchange is gone), what lapin still
//! has for it may end the connection as well; all that was on its way is then published again over the next.
//!
//! Bounds: [`LANES`] messages on their way, and [`LANES`] x [`LANE_BYTES`] bytes or one message.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use reeve_ports::BusError;
use tokio::sync::Semaphore;

use super::link::{LinkState, LinkWatch, Session};
use super::topology::{Topology, is_not_found};

/// Messages on their way at a time.
const LANES: u32 = 128;

/// A larger message takes the place of several.
const LANE_BYTES: usize = 256 << 10;

/// Channels for messages that may vanish.
const SHARED: usize = 4;

/// How often a blocked connection is looked at.
const BLOCKED_LOOK: Duration = Duration::from_millis(50);

/// What happens to a message that no queue takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// It is not published: somebody must take responsibility.
    Needed,
    /// It may vanish: nobody listens.
    Optional,
}

/// A message and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    pub(crate) route: Route,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// Publishes over one connection.
#[derive(Debug)]
pub(crate) struct Publisher {
    link: LinkWatch,
    topology: Arc<Topology>,
    timeout: Duration,
    places: Semaphore,
    lanes: Mutex<Lanes>,
    /// One shared channel is opened at a time.
    opening: tokio::sync::Mutex<()>,
    /// One repair of the topology at a time.
    repair: tokio::sync::Mutex<()>,
}

/// A channel with confirms. It closes with its last owner.
#[derive(Debug, Clone)]
struct Lane {
    session: u64,
    channel: Channel,
    /// One message is handed over at a time.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Nothing is on its way on these.
    idle: Vec<Lane>,
    /// On these several messages are; the one at the front is next.
    shared: VecDeque<Lane>,
}

/// A message on its way on a channel.
struct OnItsWay<'a> {
    publisher: &'a Publisher,
    route: Route,
    lane: Lane,
    confirmed: bool,
}

impl Lane {
    fn is(&self, other: &Self) -> bool {
        self.session == other.session && self.channel.id() == other.channel.id()
    }

    fn lives(&self, session: u64) -> bool {
        self.session == session && self.channel.status().connected()
    }

    /// Hands a message over; returns what its confirm comes to.
    async fn send(&self, parcel: &Parcel) -> lapin::Result<PublisherConfirm> {
        let options = BasicPublishOptions { mandatory: parcel.route == Route::Needed, immediate: false };
        let (exchange, key, properties) = (parcel.exchange.clone(), parcel.key.clone(), parcel.properties.clone());
        let mut sending = pin!(self.channel.basic_publish(exchange, key, options, &parcel.body, properties));
        // lapin first gives the message its number and then puts it into its queue, both while it is polled: of two that
        // did so at once, each could have the other's number, and be told the other's confirm.
        poll_fn(|context| {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            sending.as_mut().poll(context)
        })
        .await
    }
}

impl Lanes {
    /// One with nothing on its way.
    fn idle(&mut self, session: u64) -> Option<Lane> {
        self.idle.retain(|lane| lane.lives(session));
        self.idle.pop()
    }

    /// The next that is shared, if there are at least so many.
    fn shared(&mut self, session: u64, least: usize) -> Option<Lane> {
        self.shared.retain(|lane| lane.lives(session));
        if self.shared.len() < least {
            return None;
        }
        self.shared.rotate_left(1);
        self.shared.back().cloned()
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let mut lanes = self.publisher.lanes();
        match (self.route, self.confirmed) {
            (Route::Needed, true) => lanes.idle.push(self.lane.clone()),
            // Without a confirm nobody knows what the channel is good for.
            (Route::Needed, false) | (Route::Optional, true) => {}
            (Route::Optional, false) => lanes.shared.retain(|lane| !lane.is(&self.lane)),
        }
    }
}

impl Publisher {
    pub(crate) fn new(link: LinkWatch, topology: Arc<Topology>, timeout: Duration) -> Self {
        let (places, lanes) = (Semaphore::new(LANES as usize), Mutex::default());
        let (opening, repair) = Default::default();
        Self { link, topology, timeout, places, lanes, opening, repair }
    }

    /// Publishes, and returns when the broker has confirmed. Dropped half-way, the message may be there or not.
    pub(crate) async fn publish(&self, parcel: &Parcel) -> Result<(), BusError> {
        match tokio::time::timeout(self.timeout, self.attempt(parcel)).await {
            Ok(result) => result,
            Err(_) => Err(BusError::Unavailable(self.why_late())),
        }
    }

    /// Takes nothing more, and returns when nothing is on its way, or after the publish timeout.
    pub(crate) async fn close(&self) {
        let all = tokio::time::timeout(self.timeout, self.places.acquire_many(LANES)).await;
        if all.is_err() {
            tracing::warn!("closed the bus with messages on their way; whoever published them tries again");
        }
        self.places.close();
        *self.lanes() = Lanes::default();
    }

    async fn attempt(&self, parcel: &Parcel) -> Result<(), BusError> {
        let weight = u32::try_from(parcel.body.len() / LANE_BYTES).unwrap_or(LANES).saturating_add(1).min(LANES);
        let _place = self.places.acquire_many(weight).await.map_err(|_| closed())?;
        let session = self.ready().await?;
        let lane = self.lane(&session, parcel.route).await?;
        let mut on_its_way = OnItsWay { publisher: self, route: parcel.route, lane, confirmed: false };
        let sent = on_its_way.lane.send(parcel).await;
        let confirmed = match sent {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        match confirmed {
            Ok(Confirmation::Ack(None)) => {
                on_its_way.confirmed = true;
                Ok(())
            }
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
                on_its_way.confirmed = true;
                self.repair(&session).await;
                Err(BusError::Unavailable(format!("no queue is bound for {} {}", parcel.exchange, parcel.key)))
            }
            Ok(Confirmation::Nack(None)) => {
                // RabbitMQ 3.10 goes on refusing on this channel after the queue has a new leader: a new channel finds it.
                Err(BusError::Unavailable("the broker could not store it".to_owned()))
            }
            Ok(Confirmation::NotRequested) => unreachable!("every lane has confirms switched on"),
            Err(error) => {
                if is_not_found(&error) {
                    self.repair(&session).await;
                }
                Err(BusError::Unavailable(format!("lost before its confirm: {error}")))
            }
        }
    }

    /// The session, once there is one that takes messages: what is handed to a blocked connection only piles up.
    async fn ready(&self) -> Result<Session, BusError> {
        let mut link = self.link.clone();
        loop {
            let session = link.session().await.ok_or_else(closed)?;
            if !session.blocked() {
                return Ok(session);
            }
            tokio::time::sleep(BLOCKED_LOOK).await;
        }
    }

    async fn lane(&self, session: &Session, route: Route) -> Result<Lane, BusError> {
        match route {
            Route::Needed => {
                let idle = self.lanes().idle(session.number);
                match idle {
                    Some(lane) => Ok(lane),
                    None => open(session).await,
                }
            }
            Route::Optional => self.shared(session).await,
        }
    }

    /// A shared channel. While there are fewer than there should be, one message opens another and the rest take what there
    /// is.
    async fn shared(&self, session: &Session) -> Result<Lane, BusError> {
        let shared = |least| self.lanes().shared(session.number, least);
        if let Some(lane) = shared(SHARED) {
            return Ok(lane);
        }
        let _turn = match self.opening.try_lock() {
            Ok(turn) => turn,
            Err(_) => match shared(1) {
                Some(lane) => return Ok(lane),
                None => self.opening.lock().await,
            },
        };
        if let Some(lane) = shared(SHARED) {
            return Ok(lane);
        }
        match open(session).await {
            Ok(lane) => {
                self.lanes().shared.push_back(lane.clone());
                Ok(lane)
            }
            Err(error) => shared(1).ok_or(error),
        }
    }

    /// Somebody has removed a queue, a binding or an exchange of ours: declares them again, for the next attempt.
    async fn repair(&self, session: &Session) {
        let Ok(_turn) = self.repair.try_lock() else { return };
        tracing::warn!("an exchange, a queue or a binding of Reeve is gone from the broker; declaring them again");
        if let Err(error) = self.topology.declare(&session.connection).await {
            tracing::warn!(%error, "cannot declare");
        }
    }

    fn why_late(&self) -> String {
        match self.link.now() {
            LinkState::Away { since, error } => format!("the broker is away since {since}: {error}"),
            LinkState::Up(session) if session.blocked() => "the broker takes no messages for now".to_owned(),
            LinkState::Up(_) => format!("no confirm within {:?}", self.timeout),
            LinkState::Closed => "the bus is closed".to_owned(),
        }
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(session: &Session) -> Result<Lane, BusError> {
    let opened = async {
        let channel = session.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok::<_, lapin::Error>(channel)
    };
    let channel = opened.await.map_err(|error| BusError::Unavailable(format!("no channel: {error}")))?;
    Ok(Lane { session: session.number, channel, turn: Arc::default() })
}

fn closed() -> BusError {
    BusError::Unavailable("the bus is closed".to_owned())
}

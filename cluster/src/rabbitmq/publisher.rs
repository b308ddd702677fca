//! Publishing with confirms.
//!
//! A pool of channels, each with one message on its way. lapin pairs a returned (unroutable) message with the first
//! confirm that arrives after it, and RabbitMQ sends returns at once but confirms late, so on a channel with several
//! messages on their way a lost one would be reported as taken and a taken one as lost. With one a channel there is
//! nothing to mix up, and a channel whose confirm did not come is closed without harm to the others.
//!
//! Bounds: [`LANES`] messages on their way, and [`LANES`] x [`LANE_BYTES`] bytes or one message.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use reeve_ports::BusError;
use tokio::sync::Semaphore;

use super::link::{LinkState, LinkWatch, Session};
use super::topology::{Topology, is_not_found};

/// Messages on their way at a time.
const LANES: u32 = 128;

/// A larger message takes the place of several.
const LANE_BYTES: usize = 256 << 10;

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
    idle: Mutex<Vec<Lane>>,
    /// One repair of the topology at a time.
    repair: tokio::sync::Mutex<()>,
}

/// A channel with confirms that has nothing on its way.
#[derive(Debug)]
struct Lane {
    session: u64,
    channel: Channel,
}

impl Publisher {
    pub(crate) fn new(link: LinkWatch, topology: Arc<Topology>, timeout: Duration) -> Self {
        let (places, idle) = (Semaphore::new(LANES as usize), Mutex::new(Vec::new()));
        Self { link, topology, timeout, places, idle, repair: tokio::sync::Mutex::new(()) }
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
        self.idle().clear();
    }

    async fn attempt(&self, parcel: &Parcel) -> Result<(), BusError> {
        let weight = u32::try_from(parcel.body.len() / LANE_BYTES).unwrap_or(LANES).saturating_add(1).min(LANES);
        let _place = self.places.acquire_many(weight).await.map_err(|_| closed())?;
        let session = self.ready().await?;
        let lane = self.lane(&session).await?;
        let options = BasicPublishOptions { mandatory: parcel.route == Route::Needed, immediate: false };
        let (exchange, key, properties) = (parcel.exchange.clone(), parcel.key.clone(), parcel.properties.clone());
        // Any error and any early return drops the lane, which closes its channel.
        let sent = lane.channel.basic_publish(exchange, key, options, &parcel.body, properties).await;
        let confirmed = match sent {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        let result = match confirmed {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
                self.repair(&session).await;
                Err(BusError::Unavailable(format!("no queue is bound for {} {}", parcel.exchange, parcel.key)))
            }
            Ok(Confirmation::Nack(None)) => {
                // RabbitMQ 3.10 goes on refusing on this channel after the queue has a new leader: a new channel finds it.
                return Err(BusError::Unavailable("the broker could not store it".to_owned()));
            }
            Ok(Confirmation::NotRequested) => unreachable!("every lane has confirms switched on"),
            Err(error) => {
                if is_not_found(&error) {
                    self.repair(&session).await;
                }
                return Err(BusError::Unavailable(format!("lost before its confirm: {error}")));
            }
        };
        self.idle().push(lane);
        result
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

    async fn lane(&self, session: &Session) -> Result<Lane, BusError> {
        let idle = {
            let mut idle = self.idle();
            idle.retain(|lane| lane.session == session.number && lane.channel.status().connected());
            idle.pop()
        };
        if let Some(lane) = idle {
            return Ok(lane);
        }
        let opened = async {
            let channel = session.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = opened.await.map_err(|error| BusError::Unavailable(format!("no channel: {error}")))?;
        Ok(Lane { session: session.number, channel })
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

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> BusError {
    BusError::Unavailable("the bus is closed".to_owned())
}

//! The [`Bus`] port on RabbitMQ: start, stop, and where each operation goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lapin::types::ShortString;
use reeve_ports::bus::PastEvent;
use reeve_ports::{Address, Bus, BusError, Clock, Consumer, DeadLetter, Message, Queue};
use reeve_protocol::{CloudName, Timestamp, names};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::audit;
use super::config::{RabbitConfig, RabbitConfigError};
use super::consumer::{RabbitConsumer, Source};
use super::dead::Graveyard;
use super::grave::Undertaker;
use super::intake::{IntakeBoard, IntakeStatus, keep_bound};
use super::link::{Link, LinkState, LinkWatch};
use super::publisher::{Parcel, Publisher, Route};
use super::topology::Topology;
use super::wire::{self, short, try_short};

/// Content type of events (CloudEvents 1.0, structured mode).
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// The bus on RabbitMQ. Dropped, it lets go of the broker without waiting; [`RabbitBus::close`] waits.
#[derive(Debug)]
pub struct RabbitBus {
    config: Arc<RabbitConfig>,
    topology: Arc<Topology>,
    publisher: Arc<Publisher>,
    undertaker: Undertaker,
    graveyard: Graveyard,
    publish_link: LinkWatch,
    consume_link: LinkWatch,
    intakes: BTreeMap<CloudName, IntakeBoard>,
    /// Ends consumers and binders.
    stop_consuming: CancellationToken,
    /// Ends the connections.
    stop_links: CancellationToken,
    links: Mutex<Vec<Link>>,
    _guards: [DropGuard; 2],
}

/// How the bus stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusStatus {
    /// The connection that publishes.
    pub publishing: LinkStatus,
    /// The connection that consumes.
    pub consuming: LinkStatus,
    /// The clouds' notifications.
    pub intakes: BTreeMap<CloudName, IntakeStatus>,
}

/// How a connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStatus {
    /// There is one.
    Connected {
        /// Since when.
        since: Timestamp,
        /// The broker takes no messages for now: it is short of memory or disk.
        blocked: bool,
    },
    /// There is none; Reeve goes on trying.
    Away {
        /// Since when.
        since: Timestamp,
        /// Why, without the password.
        error: String,
    },
    /// The bus was closed.
    Closed,
}

impl BusStatus {
    /// Whether messages go out and come in.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let connected = |link: &LinkStatus| matches!(link, LinkStatus::Connected { blocked: false, .. });
        connected(&self.publishing) && connected(&self.consuming)
    }
}

impl RabbitBus {
    /// Starts the bus and returns at once; the connection is made in the background, however long the broker is away.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`RabbitConfigError`] when the configuration cannot work whatever the broker says.
    pub fn start(config: RabbitConfig, clock: Arc<dyn Clock>) -> Result<Self, RabbitConfigError> {
        config.check()?;
        let config = Arc::new(config);
        let topology = Arc::new(Topology::new(&config));
        let (stop_consuming, stop_links) = (CancellationToken::new(), CancellationToken::new());
        let link = |name| Link::start(name, config.clone(), topology.clone(), clock.clone(), stop_links.clone());
        let (publishing, consuming) = (link("publish"), link("consume"));
        let (publish_link, consume_link) = (publishing.watch(), consuming.watch());
        let timeout = config.publish_timeout;
        let publisher = Arc::new(Publisher::new(publish_link.clone(), topology.clone(), timeout));
        let undertaker = Undertaker::new(publisher.clone(), clock.clone(), timeout);
        let graveyard = Graveyard::new(consume_link.clone(), topology.clone(), publisher.clone(), timeout);
        let mut intakes = BTreeMap::new();
        for intake in &config.intakes {
            let board = IntakeBoard::new();
            intakes.insert(intake.cloud.clone(), board.clone());
            tokio::spawn(keep_bound(intake.clone(), board, consume_link.clone(), stop_consuming.clone()));
        }
        let guards = [stop_consuming.clone().drop_guard(), stop_links.clone().drop_guard()];
        Ok(Self {
            config,
            topology,
            publisher,
            undertaker,
            graveyard,
            publish_link,
            consume_link,
            intakes,
            stop_consuming,
            stop_links,
            links: Mutex::new(vec![publishing, consuming]),
            _guards: guards,
        })
    }

    /// How the bus stands now.
    #[must_use]
    pub fn status(&self) -> BusStatus {
        BusStatus {
            publishing: link_status(&self.publish_link),
            consuming: link_status(&self.consume_link),
            intakes: self.intakes.iter().map(|(cloud, board)| (cloud.clone(), board.now())).collect(),
        }
    }

    /// Waits until messages can go out and come in, or until the bus is closed.
    pub async fn connected(&self) {
        for mut link in [self.publish_link.clone(), self.consume_link.clone()] {
            // Closed: there is nothing to wait for.
            let _ = link.session().await;
        }
    }

    /// Ends the bus in good order: consumers end (what they held goes back), what is being published is confirmed or
    /// given up after the publish timeout, then the connections are closed. Publishing fails from now on.
    pub async fn close(&self) {
        self.stop_consuming.cancel();
        self.publisher.close().await;
        self.stop_links.cancel();
        let links = std::mem::take(&mut *self.links.lock().unwrap_or_else(PoisonError::into_inner));
        for link in links {
            link.ended().await;
        }
    }

    fn parcel(&self, to: &Address, message: &Message) -> Result<Parcel, BusError> {
        let mut properties = wire::properties(message)?;
        let (exchange, key, route): (&str, ShortString, Route) = match to {
            Address::Requests => {
                let key = message.kind.as_deref().unwrap_or_default();
                (names::REQUESTS, try_short("type", key)?, Route::Needed)
            }
            Address::Shard(shard) if self.topology.has_shard(*shard) => {
                (names::SHARDS, short(&shard.to_string()), Route::Needed)
            }
            Address::Shard(shard) => return Err(BusError::Refused(format!("there is no shard {shard}"))),
            Address::Events(key) => {
                if message.content_type.is_none() {
                    properties = properties.with_content_type(short(CLOUD_EVENT));
                }
                (names::EVENTS, try_short("the routing key", key)?, Route::Optional)
            }
            Address::Intake(cloud) => {
                return Err(BusError::Refused(format!("the cloud {cloud} publishes its notifications itself")));
            }
            // A stranger chose it: a reply must not turn up as a command.
            Address::Reply(queue) if queue.starts_with("reeve.") => {
                return Err(BusError::Refused(
                    "names that begin with \"reeve.\" are no addresses for replies".to_owned(),
                ));
            }
            Address::Reply(queue) => ("", try_short("reply_to", queue)?, Route::Optional),
        };
        Ok(Parcel { exchange: short(exchange), key, route, properties, body: message.body.clone() })
    }

    fn check_queue(&self, queue: &Queue) -> Result<(), BusError> {
        match queue {
            Queue::Requests => Ok(()),
            Queue::Rules if self.topology.has_rules() => Ok(()),
            Queue::Rules => Err(BusError::Refused("the bus has no queue for rules".to_owned())),
            Queue::Shard(shard) if self.topology.has_shard(*shard) => Ok(()),
            Queue::Shard(shard) => Err(BusError::Refused(format!("there is no shard {shard}"))),
            Queue::Intake(cloud) if self.intakes.contains_key(cloud) => Ok(()),
            Queue::Intake(cloud) => Err(BusError::Refused(format!("the bus has no intake for the cloud {cloud}"))),
        }
    }
}

#[async_trait]
impl Bus for RabbitBus {
    async fn publish(&self, to: &Address, message: Message) -> Result<(), BusError> {
        let parcel = self.parcel(to, &message)?;
        drop(message);
        self.publisher.publish(&parcel).await
    }

    async fn consume(&self, queue: &Queue, prefetch: u16) -> Result<Consumer, BusError> {
        self.check_queue(queue)?;
        let source = Source {
            queue: queue.name(),
            prefetch: prefetch.clamp(1, self.config.prefetch),
            link: self.consume_link.clone(),
            topology: self.topology.clone(),
            undertaker: self.undertaker.clone(),
            stop: self.stop_consuming.clone(),
        };
        let (consumer, ready) = RabbitConsumer::start(source, self.config.poison_limit);
        if matches!(self.consume_link.now(), LinkState::Up(_)) {
            // Whoever consumes first is first, where that can be had; otherwise it begins as soon as it can.
            let _ = tokio::time::timeout(self.config.publish_timeout, ready).await;
        }
        Ok(Box::new(consumer))
    }

    async fn intake_joined(&self, cloud: &CloudName, joined: u64) -> u64 {
        match self.intakes.get(cloud) {
            Some(board) => board.joined(joined).await,
            None => std::future::pending().await,
        }
    }

    async fn dead(&self, from: u64, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.graveyard.list(from, limit).await
    }

    async fn replay_dead(&self, number: u64) -> Result<(), BusError> {
        self.graveyard.replay(number).await
    }

    async fn drop_dead(&self, number: u64) -> Result<(), BusError> {
        self.graveyard.remove(number).await
    }

    async fn history(&self, since: Timestamp, after: Option<u64>, limit: usize) -> Result<Vec<PastEvent>, BusError> {
        audit::history(self.consume_link.clone(), self.config.publish_timeout, since, after, limit).await
    }
}

fn link_status(link: &LinkWatch) -> LinkStatus {
    match link.now() {
        LinkState::Up(session) => LinkStatus::Connected { since: session.since, blocked: session.blocked() },
        LinkState::Away { since, error } => LinkStatus::Away { since, error },
        LinkState::Closed => LinkStatus::Closed,
    }
}

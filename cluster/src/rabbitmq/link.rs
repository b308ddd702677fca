//! One connection to a broker of the cluster, kept up.
//!
//! ```text
//!            dialled and declared
//!   Away ──────────────────────────► Up
//!    ▲ ▲                              │
//!    │ └── the next broker; back-off, ┤ lost: socket, heartbeat, broker shut down
//!    │     100 ms to 5 s, when all    │
//!    │     have failed                │
//!    │                                │
//!    └──────── stop ──► Closed ◄──────┘ stop
//! ```
//!
//! Which broker is next: [`super::rotation`].
//!
//! Owner: the task that [`Link::start`] spawns. Everybody else watches the state. lapin's own recovery stays off: it
//! resumes consumers without telling them, and a consumer here must know that its deliveries are not its own any more.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use lapin::{Connection, Event};
use reeve_ports::Clock;
use reeve_protocol::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::config::RabbitConfig;
use super::dial::dial;
use super::rotation::Rotation;
use super::topology::Topology;
use super::wire::short;

/// How often the connection's state is looked at, should no event tell of its end.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A connection that held this long counts as a success for the back-off.
const HELD: Duration = Duration::from_secs(5);

/// Longest time for saying goodbye.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Whether there is a connection.
#[derive(Debug, Clone)]
pub(crate) enum LinkState {
    Away { since: Timestamp, error: String },
    Up(Session),
    Closed,
}

/// A connection while it lasts. `number` tells it from those before.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) connection: Arc<Connection>,
    pub(crate) since: Timestamp,
}

/// Watches a connection.
#[derive(Debug, Clone)]
pub(crate) struct LinkWatch(watch::Receiver<LinkState>);

/// A connection kept up by a task.
#[derive(Debug)]
pub(crate) struct Link {
    watch: LinkWatch,
    task: JoinHandle<()>,
}

struct Keeper {
    name: &'static str,
    config: Arc<RabbitConfig>,
    topology: Arc<Topology>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<LinkState>,
    stop: CancellationToken,
}

impl Link {
    /// Starts to connect, and goes on until `stop`.
    pub(crate) fn start(
        name: &'static str,
        config: Arc<RabbitConfig>,
        topology: Arc<Topology>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        let away = LinkState::Away { since: clock.now(), error: "not connected yet".to_owned() };
        let (state, watch) = watch::channel(away);
        let keeper = Keeper { name, config, topology, clock, state, stop };
        Self { watch: LinkWatch(watch), task: tokio::spawn(keeper.run()) }
    }

    pub(crate) fn watch(&self) -> LinkWatch {
        self.watch.clone()
    }

    /// Returns when the connection is closed after `stop`.
    pub(crate) async fn ended(self) {
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            tracing::error!(%error, "the keeper of a broker connection panicked");
        }
    }
}

impl LinkWatch {
    pub(crate) fn now(&self) -> LinkState {
        self.0.borrow().clone()
    }

    /// The session, once there is one; `None` when the bus was closed.
    pub(crate) async fn session(&mut self) -> Option<Session> {
        loop {
            match self.0.borrow_and_update().clone() {
                LinkState::Up(session) => return Some(session),
                LinkState::Closed => return None,
                LinkState::Away { .. } => {}
            }
            self.0.changed().await.ok()?;
        }
    }

    /// Returns when this session is over.
    pub(crate) async fn over(&mut self, number: u64) {
        while matches!(&*self.0.borrow_and_update(), LinkState::Up(session) if session.number == number) {
            if self.0.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Session {
    /// Whether the broker takes no messages at the moment (memory or disk alarm).
    pub(crate) fn blocked(&self) -> bool {
        self.connection.status().blocked()
    }
}

impl Keeper {
    async fn run(self) {
        let mut backoff = Backoff::new();
        let mut rotation = Rotation::new(self.config.url.brokers());
        let mut number = 0;
        let stop = self.stop.clone();
        loop {
            let broker = rotation.broker();
            let attempt = tokio::select! {
                () = stop.cancelled() => break,
                attempt = self.connect(number + 1, &rotation) => attempt,
            };
            let error = match attempt {
                Ok(session) => {
                    number = session.number;
                    let began = Instant::now();
                    let Some(error) = self.hold(session, broker).await else { break };
                    if began.elapsed() >= HELD {
                        backoff.reset();
                        rotation.succeeded();
                    }
                    error
                }
                Err(error) => error,
            };
            let round_is_over = rotation.failed(error);
            self.away(rotation.errors());
            if round_is_over {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = backoff.wait() => {}
                }
            }
        }
        self.state.send_replace(LinkState::Closed);
    }

    async fn connect(&self, number: u64, rotation: &Rotation) -> Result<Session, String> {
        let broker = rotation.broker();
        let connection = dial(&self.config, broker, &format!("reeve {}", self.name), rotation.limit()).await?;
        let limit = rotation.declare_limit(self.topology.deadline());
        let declared = tokio::time::timeout(limit, self.topology.declare(&connection)).await;
        let error = match declared {
            Ok(Ok(())) => return Ok(Session { number, connection: Arc::new(connection), since: self.clock.now() }),
            Ok(Err(error)) => self.config.url.mask(&error.to_string()),
            Err(_) => format!("declaring took longer than {limit:?}"),
        };
        Err(format!("{}: {error}", self.config.url.name(broker)))
    }

    /// Keeps the session until it is lost, which gives the reason, or until `stop`, which closes it.
    async fn hold(&self, session: Session, broker: usize) -> Option<String> {
        let broker = self.config.url.name(broker);
        tracing::info!(link = self.name, %broker, "connected to the broker");
        let connection = session.connection.clone();
        self.state.send_replace(LinkState::Up(session));
        tokio::select! {
            () = self.stop.cancelled() => {
                self.state.send_replace(LinkState::Closed);
                let closing = connection.close(200, short("OK"));
                // Gone or not, nothing more can be done.
                let _ = tokio::time::timeout(CLOSE_DEADLINE, closing).await;
                None
            }
            error = lost(&connection) => Some(format!("{broker}: {}", self.config.url.mask(&error))),
        }
    }

    /// Says it once for each reason, not at every attempt.
    fn away(&self, error: String) {
        let (since, news) = match &*self.state.borrow() {
            LinkState::Away { since, error: before } => (*since, *before != error),
            LinkState::Up(_) | LinkState::Closed => (self.clock.now(), true),
        };
        if news {
            tracing::warn!(link = self.name, %error, "the broker is away");
        } else {
            tracing::debug!(link = self.name, %error, "the broker is still away");
        }
        self.state.send_replace(LinkState::Away { since, error });
    }
}

/// Returns when the connection is lost, with the reason.
async fn lost(connection: &Connection) -> String {
    let mut events = Box::pin(connection.events_listener());
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) if !connection.status().connected() => return error.to_string(),
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(%reason, "the broker takes no messages for now");
                }
                Some(Event::ConnectionUnblocked) => tracing::info!("the broker takes messages again"),
                // A channel's error concerns its owner alone.
                Some(_) => {}
                None => return "the connection ended".to_owned(),
            },
            _ = look.tick() => {
                if !connection.status().connected() {
                    return "the connection ended".to_owned();
                }
            }
        }
    }
}

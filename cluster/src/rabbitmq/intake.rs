//! Binding an intake queue to a cloud's own exchange.
//!
//! ```text
//!   waiting for a session ──► binding ──► bound ──► (timer, or a new session) ──► binding …
//!                                └── 404: the cloud has not made its exchange yet, look again ──► binding …
//! ```
//!
//! The exchange belongs to the cloud and is never declared here: declared with other properties than the cloud's own, it
//! would make the cloud's publishing fail and its notifications be lost. By default it is transient, so a restart of the
//! broker takes it away together with our binding, and the cloud makes it again without us. Hence the binding is made
//! again after every reconnect and on a timer, which costs nothing where it is still there. What the cloud publishes
//! before that is missed here; the periodic scan of the cloud finds it.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::QueueBindOptions;
use lapin::types::{FieldTable, ShortString};
use reeve_protocol::names;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::config::IntakeConfig;
use super::link::{LinkWatch, Session};
use super::topology::is_not_found;
use super::wire::short;

/// How often a missing exchange is looked for: the sooner it is bound, the less is missed.
const MISSING_LOOK: Duration = Duration::from_millis(500);

/// After so many looks it is looked for less often, as the broker logs every one.
const MISSING_LOOKS: u32 = 120;
const MISSING_LATER: Duration = Duration::from_secs(5);

/// Longest time for one attempt.
const BIND_DEADLINE: Duration = Duration::from_secs(10);

/// How an intake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntakeStatus {
    /// The broker is away.
    Away,
    /// The cloud has not made its exchange yet, or a restart of the broker took it away.
    NoExchange,
    /// Notifications arrive.
    Bound,
    /// The broker refused the binding, with its reason.
    Refused(String),
}

/// Where the binder says how its intake stands.
#[derive(Debug, Clone)]
pub(crate) struct IntakeBoard(Arc<watch::Sender<Standing>>);

#[derive(Debug)]
struct Standing {
    status: IntakeStatus,
    /// How often it became bound.
    joined: u64,
}

impl IntakeBoard {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Standing { status: IntakeStatus::Away, joined: 0 })))
    }

    pub(crate) fn now(&self) -> IntakeStatus {
        self.0.borrow().status.clone()
    }

    /// Waits until it became bound more often than this; how often it did.
    pub(crate) async fn joined(&self, joined: u64) -> u64 {
        let mut standing = self.0.subscribe();
        let more = standing.wait_for(|standing| standing.joined > joined).await;
        more.expect("the sender lives in self, which this future borrows").joined
    }

    /// Whether this is news.
    fn set(&self, status: IntakeStatus) -> bool {
        self.0.send_if_modified(|now| {
            let news = now.status != status;
            now.joined += u64::from(news && status == IntakeStatus::Bound);
            now.status = status;
            news
        })
    }
}

/// Keeps an intake bound until `stop`.
pub(crate) async fn keep_bound(intake: IntakeConfig, board: IntakeBoard, mut link: LinkWatch, stop: CancellationToken) {
    let work = async {
        while let Some(session) = link.session().await {
            tokio::select! {
                () = link.over(session.number) => {
                    board.set(IntakeStatus::Away);
                }
                () = keep_bound_on(&intake, &board, &session) => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Binds again and again, as long as the session lasts.
async fn keep_bound_on(intake: &IntakeConfig, board: &IntakeBoard, session: &Session) {
    let mut channel: Option<Channel> = None;
    let mut missing = 0_u32;
    loop {
        let attempt = tokio::time::timeout(BIND_DEADLINE, bind(intake, session, &mut channel)).await;
        let status = attempt.unwrap_or_else(|_| IntakeStatus::Refused(format!("no answer within {BIND_DEADLINE:?}")));
        let pause = if status == IntakeStatus::Bound {
            missing = 0;
            intake.rebind_every
        } else {
            missing = missing.saturating_add(1);
            let look = if missing <= MISSING_LOOKS { MISSING_LOOK } else { MISSING_LATER };
            look.min(intake.rebind_every)
        };
        if status != IntakeStatus::Bound {
            // A refused binding has closed it.
            channel = None;
        }
        announce(intake, board, status);
        tokio::time::sleep(pause).await;
    }
}

fn announce(intake: &IntakeConfig, board: &IntakeBoard, status: IntakeStatus) {
    if !board.set(status.clone()) {
        return;
    }
    let (cloud, exchange) = (&intake.cloud, &intake.exchange);
    match status {
        IntakeStatus::Bound => tracing::info!(%cloud, exchange, "notifications are bound"),
        IntakeStatus::NoExchange => {
            tracing::warn!(%cloud, exchange, "the cloud's exchange does not exist; bound as soon as the cloud makes it");
        }
        IntakeStatus::Refused(why) => tracing::warn!(%cloud, exchange, why, "the broker refused the binding"),
        IntakeStatus::Away => {}
    }
}

async fn bind(intake: &IntakeConfig, session: &Session, channel: &mut Option<Channel>) -> IntakeStatus {
    let bound = async {
        let open = match channel.take() {
            Some(open) => open,
            None => session.connection.create_channel().await?,
        };
        let open = channel.insert(open);
        for topic in &intake.topics {
            let [queue, exchange, key] = binding(intake, topic);
            open.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await?;
        }
        Ok::<_, lapin::Error>(())
    };
    match bound.await {
        Ok(()) => IntakeStatus::Bound,
        Err(error) if is_not_found(&error) => IntakeStatus::NoExchange,
        Err(error) => IntakeStatus::Refused(error.to_string()),
    }
}

/// Lengths were checked with the configuration.
fn binding(intake: &IntakeConfig, topic: &str) -> [ShortString; 3] {
    [short(&names::intake_queue(&intake.cloud)), short(&intake.exchange), short(&format!("{topic}.*"))]
}

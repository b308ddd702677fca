//! Nova's notifications, on a broker.
//!
//! ```text
//! cloud ─► waiting (bounded) ─► window: publish, await confirms ─► next window
//!                                 └─ the broker is away ─► connect anew, declare, the same window again
//! ```
//!
//! As with oslo.messaging: a topic exchange that is not durable, no queue of its own, at least once and in order within
//! one connection. What finds no room to wait is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use reeve_drivers::cloud::sim::Sink;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Notifications that wait for the broker.
const WAITING: usize = 200_000;
/// How many are published before their confirms are awaited.
const WINDOW: usize = 256;
const AGAIN: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);
const KEY: &str = "versioned_notifications.info";

/// How many were published, and how many lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Published(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    confirmed: AtomicU64,
    lost: AtomicU64,
}

impl Published {
    pub(super) fn confirmed(&self) -> u64 {
        self.0.confirmed.load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// The sink of a cloud whose notifications go to this exchange.
pub(super) fn start(url: String, exchange: String, published: Published, tasks: &mut JoinSet<()>) -> Sink {
    let (sender, waiting) = mpsc::channel(WAITING);
    tasks.spawn(publish(url, exchange, published.clone(), waiting));
    Arc::new(move |body| {
        if sender.try_send(body).is_err() {
            published.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    })
}

async fn publish(url: String, exchange: String, published: Published, mut waiting: mpsc::Receiver<Vec<u8>>) {
    let mut window: Vec<Vec<u8>> = Vec::new();
    let mut broker: Option<Broker> = None;
    // The exchange is there before the first notification, so that whoever listens can bind to it.
    loop {
        if window.is_empty() && broker.is_some() && waiting.recv_many(&mut window, WINDOW).await == 0 {
            return;
        }
        let sent = async {
            let mut ready = match broker.take() {
                Some(ready) => ready,
                None => timeout(PATIENCE, Broker::connect(&url, &exchange)).await.context("no answer")??,
            };
            timeout(PATIENCE, ready.send(&exchange, &window)).await.context("no confirmation")??;
            anyhow::Ok(ready)
        };
        match sent.await {
            Ok(ready) => {
                published.0.confirmed.fetch_add(window.len() as u64, Ordering::Relaxed);
                window.clear();
                broker = Some(ready);
            }
            Err(error) => {
                // The URL holds a password; an error of lapin's does not repeat it.
                tracing::warn!(%error, waiting = window.len() + waiting.len(), "the broker is away");
                sleep(AGAIN).await;
            }
        }
    }
}

struct Broker {
    _connection: Connection,
    channel: Channel,
}

impl Broker {
    async fn connect(url: &str, exchange: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options =
            ExchangeDeclareOptions { durable: false, auto_delete: false, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(short(exchange)?, ExchangeKind::Topic, options, FieldTable::default()).await?;
        Ok(Self { _connection: connection, channel })
    }

    async fn send(&mut self, exchange: &str, window: &[Vec<u8>]) -> Result<()> {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(2)
            .with_priority(0);
        let mut under_way = Vec::with_capacity(window.len());
        for body in window {
            let options = BasicPublishOptions::default();
            let sent = self.channel.basic_publish(short(exchange)?, KEY.into(), options, body, properties.clone());
            under_way.push(sent.await?);
        }
        for confirm in under_way {
            ensure!(matches!(confirm.await?, Confirmation::Ack(_)), "the broker refused a notification");
        }
        Ok(())
    }
}

fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| anyhow::anyhow!("{} bytes are too many for a name", text.len()))
}

//! The history: reading the stream `reeve.audit`.

use std::time::Duration;

use futures::StreamExt;
use lapin::types::{AMQPValue, FieldTable};
use reeve_ports::BusError;
use reeve_ports::bus::PastEvent;
use reeve_protocol::event::CloudEvent;
use reeve_protocol::{Timestamp, names};

use super::ack::acknowledge;
use super::channel::OwnChannel;
use super::link::{LinkWatch, Session};
use super::wire::{self, short};

/// Where to begin, and where a message lies.
const OFFSET: &str = "x-stream-offset";

/// A stream is only delivered to consumers with a prefetch; acknowledging gives new credit.
const PREFETCH: u16 = 500;

/// The most events of one answer.
const MAX_EVENTS: usize = 10_000;

/// The most bytes of one answer.
const MAX_BYTES: usize = 64 << 20;

/// The stream's reader is slow to begin.
const FIRST_IDLE: Duration = Duration::from_millis(1_000);

/// Nothing for so long: the end.
const IDLE: Duration = Duration::from_millis(300);

/// An event may be published before its own time by a clock that is behind.
const CLOCK_SLACK: Duration = Duration::from_secs(600);

/// Past events since a time, in the stream's order, at most `limit`, after the position `after`.
pub(crate) async fn history(
    mut link: LinkWatch,
    timeout: Duration,
    since: Timestamp,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<PastEvent>, BusError> {
    let opening = async {
        let session = link.session().await.ok_or_else(|| unavailable("the bus is closed"))?;
        open(&session, offset(since, after)).await
    };
    let opened = tokio::time::timeout(timeout, opening).await;
    let (channel, deliveries) = opened.map_err(|_| unavailable("the broker is away or does not answer"))??;
    let collected = collect(deliveries, since, after, limit.min(MAX_EVENTS)).await;
    channel.close().await;
    collected
}

async fn open(session: &Session, offset: AMQPValue) -> Result<(OwnChannel, lapin::Consumer), BusError> {
    let channel = OwnChannel::open(session).await.map_err(unavailable)?;
    let mut arguments = FieldTable::default();
    arguments.insert(short(OFFSET), offset);
    let consumer = channel.subscribe(short(names::AUDIT), PREFETCH, arguments).await.map_err(unavailable)?;
    Ok((channel, consumer))
}

/// An event is published after it happened, so nothing before `since` in the stream's own time can be wanted.
fn offset(since: Timestamp, after: Option<u64>) -> AMQPValue {
    if let Some(after) = after {
        return AMQPValue::LongLongInt(i64::try_from(after).unwrap_or(i64::MAX).saturating_add(1));
    }
    match u64::try_from((since - CLOCK_SLACK).as_millis() / 1000) {
        Ok(seconds) if seconds > 0 => AMQPValue::Timestamp(seconds),
        Ok(_) | Err(_) => AMQPValue::LongString("first".into()),
    }
}

async fn collect(
    mut deliveries: lapin::Consumer,
    since: Timestamp,
    after: Option<u64>,
    limit: usize,
) -> Result<Vec<PastEvent>, BusError> {
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut idle = FIRST_IDLE;
    while events.len() < limit && bytes < MAX_BYTES {
        let delivery = match tokio::time::timeout(idle, deliveries.next()).await {
            Ok(Some(delivery)) => delivery.map_err(unavailable)?,
            Ok(None) => return Err(unavailable("the channel was closed")),
            Err(_) => break,
        };
        idle = IDLE;
        acknowledge(&delivery.acker).await?;
        let position = wire::header(&delivery.properties, OFFSET).and_then(wire::number);
        // The exchange takes messages of others too; what is no event is none of the history.
        let (Some(position), Ok(event)) = (position, serde_json::from_slice::<CloudEvent>(&delivery.data)) else {
            continue;
        };
        if after.is_none_or(|after| position > after) && event.time >= since {
            bytes += delivery.data.len();
            events.push(PastEvent { position, event });
        }
    }
    Ok(events)
}

fn unavailable(why: impl std::fmt::Display) -> BusError {
    BusError::Unavailable(why.to_string())
}

//! Dead letters on RabbitMQ: how one is written, read and numbered.
//!
//! The queue has no numbers of its own, so a letter carries one in `x-reeve-number`: milliseconds since the epoch and
//! 11 random bits, which sorts by age, fits the 53 bits of a JSON number, and is unique within a process. Letters that the broker
//! itself wrote (delivery limit) get one from their time and content.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use reeve_ports::{BusError, Clock, DeadLetter, Message};
use reeve_protocol::{Timestamp, names};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::consumer::{DELIVERY_LIMIT, Raw};
use super::publisher::{Parcel, Publisher, Route};
use super::wire::{self, short, try_short};

/// Number of a dead letter.
const HEADER_NUMBER: &str = "x-reeve-number";
/// Size that the body had, on a dead letter that holds only its beginning.
const HEADER_TRUNCATED: &str = "x-reeve-truncated";
const HEADER_DEATHS: &str = "x-death";
const HEADER_FIRST_QUEUE: &str = "x-first-death-queue";
const HEADER_FIRST_REASON: &str = "x-first-death-reason";

/// Of a larger body only the beginning is kept, which says enough about what it was.
pub(crate) const KEPT_BODY: usize = 4 << 20;

/// Longest reason, in bytes.
const KEPT_REASON: usize = 2_000;

const RANDOM_BITS: u32 = 11;

/// Writes dead letters.
#[derive(Debug, Clone)]
pub(crate) struct Undertaker {
    publisher: Arc<Publisher>,
    numbers: Arc<Numbers>,
    timeout: Duration,
}

/// Gives numbers that rise within this process.
pub(crate) struct Numbers {
    clock: Arc<dyn Clock>,
    last: AtomicU64,
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Numbers").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Undertaker {
    pub(crate) fn new(publisher: Arc<Publisher>, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self { publisher, numbers: Arc::new(Numbers { clock, last: AtomicU64::new(0) }), timeout }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Writes a dead letter, and tries again until the broker has it. An error means that the broker has taken the
    /// delivery back, or that the bus closes: the message is delivered again.
    pub(crate) async fn bury(
        &self,
        raw: &Raw,
        source: &str,
        reason: &str,
        stop: &CancellationToken,
    ) -> Result<(), BusError> {
        let parcel = self.letter(raw, source, reason);
        let mut backoff = Backoff::new();
        loop {
            let Err(error) = self.publisher.publish(&parcel).await else {
                tracing::warn!(source, reason = cut(reason), "a message became a dead letter");
                return Ok(());
            };
            if raw.is_lost() || stop.is_cancelled() {
                return Err(error);
            }
            tracing::debug!(source, %error, "the dead letter is not confirmed; trying again");
            tokio::select! {
                () = stop.cancelled() => return Err(error),
                () = backoff.wait() => {}
            }
        }
    }

    fn letter(&self, raw: &Raw, source: &str, reason: &str) -> Parcel {
        let (number, at) = self.numbers.next();
        let (properties, mut headers) = wire::forwarded(&raw.properties, |name| !name.starts_with("x-reeve-"));
        let mut set = |name: &str, value: String| {
            headers.insert(short(name), AMQPValue::LongString(value.into()));
        };
        set(names::HEADER_REASON, cut(reason).to_owned());
        set(names::HEADER_SOURCE, source.to_owned());
        set(names::HEADER_AT, at.to_string());
        set(HEADER_NUMBER, number.to_string());
        if raw.size > KEPT_BODY {
            set(HEADER_TRUNCATED, raw.size.to_string());
        }
        let body = raw.body.slice(..raw.body.len().min(KEPT_BODY));
        let properties = properties.with_headers(headers);
        Parcel { exchange: short(names::DEAD), key: short(""), route: Route::Needed, properties, body }
    }
}

impl Numbers {
    fn next(&self) -> (u64, Timestamp) {
        let at = self.clock.now();
        let random = u64::from(uuid::Uuid::new_v4().as_fields().0);
        let fresh = number_at(at, random);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(fresh.max(last + 1)));
        let last = last.unwrap_or_else(|last| last);
        (fresh.max(last + 1), at)
    }
}

fn number_at(at: Timestamp, low: u64) -> u64 {
    let ms = u64::try_from(at.as_millis()).unwrap_or(0);
    (ms << RANDOM_BITS) | (low & ((1 << RANDOM_BITS) - 1))
}

/// The reason within its bound, cut between characters.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(KEPT_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// A dead letter as it lies in the queue.
pub(crate) fn read(properties: &BasicProperties, body: Bytes) -> DeadLetter {
    let text = |name: &str| wire::header(properties, name).and_then(wire::text);
    let reason = text(names::HEADER_REASON).or_else(|| {
        text(HEADER_FIRST_REASON)
            .map(|reason| if reason == "delivery_limit" { DELIVERY_LIMIT.to_owned() } else { reason })
    });
    let source = text(names::HEADER_SOURCE).or_else(|| text(HEADER_FIRST_QUEUE));
    let at = text(names::HEADER_AT).and_then(|at| at.parse().ok()).or_else(|| time_of_death(properties));
    let (source, at) = (source.unwrap_or_default(), at.unwrap_or(Timestamp::EPOCH));
    let mut message = wire::message(properties, body);
    let number = text(HEADER_NUMBER).and_then(|number| number.parse().ok());
    let number = number.unwrap_or_else(|| number_at(at, fingerprint(&message, &source)));
    message.headers.retain(|name, _| clings_not(name));
    DeadLetter { number, reason: reason.unwrap_or_else(|| "unknown".to_owned()), source, at, message }
}

/// When the broker gave it up: whole seconds.
fn time_of_death(properties: &BasicProperties) -> Option<Timestamp> {
    let AMQPValue::FieldArray(deaths) = wire::header(properties, HEADER_DEATHS)? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().last()? else { return None };
    let seconds = wire::number(death.inner().get("time")?)?;
    Some(Timestamp::from_millis(i64::try_from(seconds.saturating_mul(1000)).ok()?))
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), because it is the same in every build.
fn fingerprint(message: &Message, source: &str) -> u64 {
    let id = message.message_id.as_deref().unwrap_or_default();
    let bytes = message.body.iter().chain(id.as_bytes()).chain(source.as_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The letter as the message that it was, for the queue that it came from.
pub(crate) fn revive(letter: &DeadLetter, properties: &BasicProperties) -> Result<Parcel, BusError> {
    if wire::header(properties, HEADER_TRUNCATED).is_some() {
        let number = letter.number;
        return Err(BusError::Refused(format!("dead letter {number} holds only the beginning of its body")));
    }
    let (properties, headers) = wire::forwarded(properties, clings_not);
    let properties = if headers == FieldTable::default() { properties } else { properties.with_headers(headers) };
    let key = try_short("the source", &letter.source)?;
    Ok(Parcel { exchange: short(""), key, route: Route::Needed, properties, body: letter.message.body.clone() })
}

/// Headers that belong to the message, not to its death.
fn clings_not(name: &str) -> bool {
    const OF_BROKER: [&str; 3] = [HEADER_DEATHS, "x-delivery-count", "x-acquired-count"];
    let ours = [names::HEADER_REASON, names::HEADER_SOURCE, names::HEADER_AT, HEADER_NUMBER, HEADER_TRUNCATED];
    let of_death = name.starts_with("x-first-death-") || name.starts_with("x-last-death-");
    !(of_death || OF_BROKER.contains(&name) || ours.contains(&name))
}

//! What of the bus is on disk: messages, dead letters and the history of events, as operations on the tables.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use reeve_ports::bus::PastEvent;
use reeve_ports::{DeadLetter, Message};
use reeve_protocol::Timestamp;
use reeve_protocol::codec::{self, CodecError};
use reeve_protocol::event::CloudEvent;
use serde::{Deserialize, Serialize};

use super::tables::{DEAD, DELIVERIES, HISTORY, HISTORY_TIMES, MESSAGES, Tables};

/// The format byte of messages and dead letters.
const FORMAT: u8 = 1;

/// Past this many events since a time, reading them by position is no slower than sorting those that the index names.
const INDEX_ROWS: usize = 4096;

#[derive(Serialize, Deserialize)]
struct MessageRow {
    body: Vec<u8>,
    content_type: Option<String>,
    kind: Option<String>,
    message_id: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    headers: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct DeadRow {
    reason: String,
    source: String,
    at: Timestamp,
    message: MessageRow,
}

impl From<&Message> for MessageRow {
    fn from(message: &Message) -> Self {
        Self {
            body: message.body.to_vec(),
            content_type: message.content_type.clone(),
            kind: message.kind.clone(),
            message_id: message.message_id.clone(),
            correlation_id: message.correlation_id.clone(),
            reply_to: message.reply_to.clone(),
            headers: message.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }
}

impl From<MessageRow> for Message {
    fn from(row: MessageRow) -> Self {
        Self {
            body: row.body.into(),
            content_type: row.content_type,
            kind: row.kind,
            message_id: row.message_id,
            correlation_id: row.correlation_id,
            reply_to: row.reply_to,
            headers: row.headers.into_iter().collect(),
        }
    }
}

/// A message as the file keeps it.
pub(super) fn encode_message(message: &Message) -> Result<Vec<u8>, CodecError> {
    codec::encode(FORMAT, &MessageRow::from(message))
}

/// A dead letter as the file keeps it.
pub(super) fn encode_dead(reason: &str, source: &str, at: Timestamp, message: &Message) -> Result<Vec<u8>, CodecError> {
    codec::encode(FORMAT, &DeadRow { reason: reason.into(), source: source.into(), at, message: message.into() })
}

fn decode_dead(number: u64, bytes: &[u8]) -> Result<DeadLetter, CodecError> {
    let (_, row) = codec::decode::<DeadRow>(FORMAT, bytes)?;
    Ok(DeadLetter { number, reason: row.reason, source: row.source, at: row.at, message: row.message.into() })
}

fn damaged(what: &str, number: u64, error: &CodecError) -> redb::Error {
    redb::Error::Corrupted(format!("{what} {number}: {error}"))
}

/// A message found at the start.
pub(super) struct FoundMessage {
    pub(super) queue: String,
    pub(super) number: u64,
    pub(super) deliveries: u32,
    pub(super) message: Message,
}

/// Every message, in the order of their numbers.
pub(super) fn read_messages(transaction: &ReadTransaction) -> Result<Vec<FoundMessage>, redb::Error> {
    let (messages, deliveries) = (transaction.open_table(MESSAGES)?, transaction.open_table(DELIVERIES)?);
    let mut found = Vec::new();
    for row in messages.iter()? {
        let (key, value) = row?;
        let (queue, number) = key.value();
        let (_, row) =
            codec::decode::<MessageRow>(FORMAT, value.value()).map_err(|error| damaged("message", number, &error))?;
        let deliveries = deliveries.get(number)?.map_or(0, |count| count.value());
        found.push(FoundMessage { queue: queue.to_owned(), number, deliveries, message: row.into() });
    }
    found.sort_by_key(|found| found.number);
    Ok(found)
}

/// Adds a message to a queue; returns its number.
pub(super) fn put_message(tables: &mut Tables<'_>, queue: &str, bytes: &[u8]) -> Result<u64, redb::Error> {
    let number = tables.count("message")?;
    tables.messages.insert((queue, number), bytes)?;
    Ok(number)
}

/// Removes a message.
pub(super) fn remove_message(tables: &mut Tables<'_>, queue: &str, number: u64) -> Result<(), redb::Error> {
    tables.messages.remove((queue, number))?;
    tables.deliveries.remove(number)?;
    Ok(())
}

/// Notes how many times a message was delivered before this time.
pub(super) fn note_deliveries(tables: &mut Tables<'_>, number: u64, count: u32) -> Result<(), redb::Error> {
    tables.deliveries.insert(number, count)?;
    Ok(())
}

/// Adds a dead letter and drops the oldest over the bound; returns how many were dropped.
pub(super) fn put_dead(tables: &mut Tables<'_>, bytes: &[u8], most: u64) -> Result<u64, redb::Error> {
    let number = tables.count("dead")?;
    tables.dead.insert(number, bytes)?;
    let mut dropped = 0;
    while tables.dead.len()? > most.max(1) {
        tables.dead.pop_first()?;
        dropped += 1;
    }
    Ok(dropped)
}

/// Removes a dead letter. Whether it was there.
pub(super) fn remove_dead(tables: &mut Tables<'_>, number: u64) -> Result<bool, redb::Error> {
    Ok(tables.dead.remove(number)?.is_some())
}

/// The dead letters from a number on.
pub(super) fn read_dead(
    transaction: &ReadTransaction,
    from: u64,
    limit: usize,
) -> Result<Vec<DeadLetter>, redb::Error> {
    let dead = transaction.open_table(DEAD)?;
    let rows = dead.range(from..)?.take(limit);
    rows.map(|row| {
        let (number, bytes) = row?;
        let number = number.value();
        decode_dead(number, bytes.value()).map_err(|error| damaged("dead letter", number, &error))
    })
    .collect()
}

/// Adds an event and drops the oldest over the bound; returns its position, or `None` when it is there already.
pub(super) fn put_event(
    tables: &mut Tables<'_>,
    event: &CloudEvent,
    json: &[u8],
    most: u64,
) -> Result<Option<u64>, redb::Error> {
    let id = event.id.0.as_str();
    if tables.history_ids.get(id)?.is_some() {
        return Ok(None);
    }
    let position = tables.count("event")? + 1;
    let time = event.time.as_millis();
    tables.history.insert(position, (time, json))?;
    tables.history_times.insert((time, position), ())?;
    tables.history_ids.insert(id, position)?;
    while tables.history.len()? > most.max(1) {
        drop_oldest_event(tables)?;
    }
    Ok(Some(position))
}

fn drop_oldest_event(tables: &mut Tables<'_>) -> Result<(), redb::Error> {
    let Some((position, row)) = tables.history.pop_first()? else { return Ok(()) };
    let (position, (time, json)) = (position.value(), row.value());
    tables.history_times.remove((time, position))?;
    match decode_event(position, json) {
        Ok(event) => {
            tables.history_ids.remove(event.event.id.0.as_str())?;
        }
        // A damaged old event must not keep new ones out.
        Err(error) => tracing::warn!(position, %error, "a damaged event leaves the history"),
    }
    Ok(())
}

fn decode_event(position: u64, json: &[u8]) -> Result<PastEvent, redb::Error> {
    let event = serde_json::from_slice(json)
        .map_err(|error| redb::Error::Corrupted(format!("event at position {position}: {error}")))?;
    Ok(PastEvent { position, event })
}

/// The events not before a time and after a position, by position. Events are published in an order that is not that of
/// their times, so a time says nothing about positions.
pub(super) fn read_history(
    transaction: &ReadTransaction,
    since: Timestamp,
    after: u64,
    limit: usize,
) -> Result<Vec<PastEvent>, redb::Error> {
    let history = transaction.open_table(HISTORY)?;
    let (since, from) = (since.as_millis(), after.saturating_add(1));
    let times = transaction.open_table(HISTORY_TIMES)?;
    let mut positions = Vec::new();
    for row in times.range((since, 0)..)?.take(INDEX_ROWS + 1) {
        positions.push(row?.0.value().1);
    }
    let mut events = Vec::new();
    if positions.len() <= INDEX_ROWS {
        positions.sort_unstable();
        for position in positions.into_iter().filter(|position| *position >= from).take(limit) {
            if let Some(row) = history.get(position)? {
                events.push(decode_event(position, row.value().1)?);
            }
        }
        return Ok(events);
    }
    for row in history.range(from..)? {
        if events.len() == limit {
            break;
        }
        let (position, row) = row?;
        let (time, json) = row.value();
        if time >= since {
            events.push(decode_event(position.value(), json)?);
        }
    }
    Ok(events)
}

/// How many bytes a message takes, for limits.
pub(super) fn size(message: &Message) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    message.body.len()
        + text(&message.content_type)
        + text(&message.kind)
        + text(&message.message_id)
        + text(&message.correlation_id)
        + text(&message.reply_to)
        + headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_message_of_format_1() {
        let message = Message {
            body: b"{}".as_slice().into(),
            kind: Some("a".into()),
            headers: [("h".to_owned(), "v".to_owned())].into(),
            ..Message::default()
        };
        #[rustfmt::skip]
        let golden = [
            1,
            2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}',
            0,
            1, 1, 0, 0, 0, 0, 0, 0, 0, b'a',
            0, 0, 0,
            1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'h', 1, 0, 0, 0, 0, 0, 0, 0, b'v',
        ];
        assert_eq!(encode_message(&message).unwrap(), golden);
        let dead = encode_dead("r", "s", Timestamp::from_millis(5), &message).unwrap();
        assert_eq!(
            dead[..27],
            [&[1, 1, 0, 0, 0, 0, 0, 0, 0, b'r', 1, 0, 0, 0, 0, 0, 0, 0, b's'][..], &5i64.to_le_bytes()].concat()
        );
        assert_eq!(dead[27..], golden[1..]);
    }
}

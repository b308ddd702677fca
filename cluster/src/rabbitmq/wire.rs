//! Messages as AMQP 0-9-1 carries them.

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use reeve_ports::{BusError, Message};

/// The largest body that is published or handled. RabbitMQ itself takes 128 MiB.
pub(crate) const MAX_BODY: usize = 16 << 20;

/// The most bytes of headers. Properties travel in one frame, 128 KiB by default, and a larger one ends the connection.
const MAX_HEADERS: usize = 64 << 10;

/// Delivery mode of messages that survive the broker's restart.
const PERSISTENT: u8 = 2;

/// A text of ours as a short string: our own names are far below its limit of 255 bytes.
pub(crate) fn short(text: &str) -> ShortString {
    ShortString::try_new(text).expect("a name of ours has at most 255 bytes; foreign ones go through `try_short`")
}

/// A foreign text as a short string. The conversions of the library panic over 255 bytes.
pub(crate) fn try_short(what: &str, text: &str) -> Result<ShortString, BusError> {
    ShortString::try_new(text)
        .map_err(|_| BusError::Refused(format!("{what} has {} bytes (at most 255 are possible)", text.len())))
}

/// The properties of a message of ours.
pub(crate) fn properties(message: &Message) -> Result<BasicProperties, BusError> {
    if message.body.len() > MAX_BODY {
        let size = message.body.len();
        return Err(BusError::Refused(format!("the body has {size} bytes (at most {MAX_BODY} are possible)")));
    }
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(text) = &message.content_type {
        properties = properties.with_content_type(try_short("content_type", text)?);
    }
    if let Some(text) = &message.kind {
        properties = properties.with_type(try_short("type", text)?);
    }
    if let Some(text) = &message.message_id {
        properties = properties.with_message_id(try_short("message_id", text)?);
    }
    if let Some(text) = &message.correlation_id {
        properties = properties.with_correlation_id(try_short("correlation_id", text)?);
    }
    if let Some(text) = &message.reply_to {
        properties = properties.with_reply_to(try_short("reply_to", text)?);
    }
    let mut headers = FieldTable::default();
    for (name, value) in message.headers.iter().filter(|(name, _)| !routes(name)) {
        headers.insert(try_short("the name of a header", name)?, AMQPValue::LongString(value.as_str().into()));
    }
    let size = weight(&headers);
    if size > MAX_HEADERS {
        return Err(BusError::Refused(format!("the headers have {size} bytes (at most {MAX_HEADERS} are possible)")));
    }
    Ok(if headers.inner().is_empty() { properties } else { properties.with_headers(headers) })
}

/// A message as it came.
pub(crate) fn message(properties: &BasicProperties, body: Bytes) -> Message {
    let own = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    Message {
        body,
        content_type: own(properties.content_type()),
        kind: own(properties.kind()),
        message_id: own(properties.message_id()),
        correlation_id: own(properties.correlation_id()),
        reply_to: own(properties.reply_to()),
        headers: text_headers(properties.headers().as_ref()),
    }
}

fn text_headers(headers: Option<&FieldTable>) -> BTreeMap<String, String> {
    let entries = headers.into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?))).collect()
}

/// The value as text, if it is one.
pub(crate) fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// The value as a whole number that is not negative, whatever width it came in.
pub(crate) fn number(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::ShortShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::ShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::Timestamp(n) => Some(*n),
        _ => None,
    }
}

/// A header.
pub(crate) fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// How often the broker delivered the message before.
pub(crate) fn delivery_count(properties: &BasicProperties) -> u32 {
    let count = header(properties, "x-delivery-count").and_then(number).unwrap_or(0);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The properties for publishing a received message again, with the headers that `keep` keeps, unless they are so large
/// that ours would not fit beside them.
///
/// `user_id` must name the publisher's own login, `expiration` would remove the message unseen, and `CC` and `BCC` are
/// further routes: none of them may come from a stranger.
pub(crate) fn forwarded(properties: &BasicProperties, keep: impl Fn(&str) -> bool) -> (BasicProperties, FieldTable) {
    let mut out = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! copy {
        ($($get:ident $with:ident),*) => {
            $(if let Some(value) = properties.$get() { out = out.$with(value.clone()); })*
        };
    }
    copy!(content_type with_content_type, content_encoding with_content_encoding, correlation_id with_correlation_id,
          reply_to with_reply_to, message_id with_message_id, kind with_type, app_id with_app_id);
    if let Some(at) = properties.timestamp() {
        out = out.with_timestamp(*at);
    }
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().iter().flatten() {
        if !routes(name.as_str()) && keep(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    if weight(&headers) > MAX_HEADERS {
        headers = FieldTable::default();
        headers.insert(short("x-reeve-headers-dropped"), AMQPValue::Boolean(true));
    }
    (out, headers)
}

/// About how many bytes a table takes on the wire.
fn weight(table: &FieldTable) -> usize {
    table.inner().iter().map(|(name, value)| name.as_str().len() + 2 + weight_of(value)).sum()
}

fn weight_of(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.len() + 4,
        AMQPValue::ShortString(text) => text.as_str().len() + 1,
        AMQPValue::ByteArray(bytes) => bytes.len() + 4,
        AMQPValue::FieldTable(table) => weight(table) + 4,
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(|value| weight_of(value) + 1).sum::<usize>() + 4,
        _ => 8,
    }
}

/// RabbitMQ's sender-selected distribution: these headers are further routing keys.
fn routes(header: &str) -> bool {
    header == "CC" || header == "BCC"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Message {
        Message {
            body: Bytes::from_static(b"\xff\x00"),
            content_type: Some("application/json".into()),
            kind: Some("lease.extend".into()),
            message_id: Some("m".into()),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            headers: BTreeMap::from([("x-one".into(), "ü".into())]),
        }
    }

    #[test]
    fn a_message_survives_the_way_there_and_back() {
        let properties = properties(&sent()).unwrap();
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(message(&properties, sent().body), sent());
    }

    #[test]
    fn what_the_protocol_cannot_carry_is_refused_and_no_panic() {
        let long = "x".repeat(256);
        let mut message = Message { message_id: Some(long.clone()), ..Message::default() };
        assert!(matches!(properties(&message), Err(BusError::Refused(why)) if why.contains("message_id has 256")));
        message = Message { headers: BTreeMap::from([(long, String::new())]), ..Message::default() };
        assert!(matches!(properties(&message), Err(BusError::Refused(_))));
        let huge = BTreeMap::from([("h".to_owned(), "x".repeat(MAX_HEADERS))]);
        message = Message { headers: huge, ..Message::default() };
        assert!(matches!(properties(&message), Err(BusError::Refused(why)) if why.contains("the headers have")));
        message = Message { body: vec![0; MAX_BODY + 1].into(), ..Message::default() };
        assert!(matches!(properties(&message), Err(BusError::Refused(_))));
    }

    #[test]
    fn only_headers_with_text_are_shown() {
        let mut headers = FieldTable::default();
        headers.insert(short("a"), AMQPValue::LongString("text".into()));
        headers.insert(short("b"), AMQPValue::LongLongInt(7));
        headers.insert(short("c"), AMQPValue::LongString(vec![0xff, 0xfe].into()));
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(message(&properties, Bytes::new()).headers, BTreeMap::from([("a".into(), "text".into())]));
    }

    #[test]
    fn a_strangers_routes_and_login_are_not_passed_on() {
        let mut headers = FieldTable::default();
        for name in ["CC", "BCC", "x-one", "x-two"] {
            headers.insert(short(name), AMQPValue::LongString("reeve.shard.0".into()));
        }
        let received = BasicProperties::default()
            .with_headers(headers)
            .with_user_id(short("nova"))
            .with_expiration(short("1"))
            .with_delivery_mode(1);
        let (properties, headers) = forwarded(&received, |name| name != "x-two");
        assert_eq!((properties.user_id(), properties.expiration()), (&None, &None));
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(headers.inner().keys().map(ShortString::as_str).collect::<Vec<_>>(), ["x-one"]);
    }

    #[test]
    fn headers_that_would_not_fit_beside_ours_are_dropped() {
        let mut inner = FieldTable::default();
        inner.insert(short("deep"), AMQPValue::LongString("x".repeat(MAX_HEADERS).into()));
        let mut headers = FieldTable::default();
        headers.insert(short("x-one"), AMQPValue::FieldTable(inner));
        let (_, headers) = forwarded(&BasicProperties::default().with_headers(headers), |_| true);
        assert_eq!(headers.inner().keys().map(ShortString::as_str).collect::<Vec<_>>(), ["x-reeve-headers-dropped"]);
    }

    #[test]
    fn the_brokers_count_is_read_in_any_width() {
        for value in [AMQPValue::LongLongInt(3), AMQPValue::LongInt(3), AMQPValue::ShortShortUInt(3)] {
            let mut headers = FieldTable::default();
            headers.insert(short("x-delivery-count"), value);
            assert_eq!(delivery_count(&BasicProperties::default().with_headers(headers)), 3);
        }
        assert_eq!(delivery_count(&BasicProperties::default()), 0);
    }
}

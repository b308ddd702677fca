//! The frame that oslo.messaging puts around a message.
//!
//! With the driver `messagingv2` a body is `{"oslo.version": "2.0", "oslo.message": "<JSON as a string>"}`, with
//! `messaging` it is the message itself; oslo's own consumers take both (oslo_messaging/_drivers/common.py). Of the
//! message only six keys are read: `_context_*` holds tokens and service catalogs on older clouds and is never looked at.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::check_depth;
use super::error::{DecodeError, Part};
use super::field::{self, Field};
use super::times;
use crate::MessageId;
use crate::observation::Said;

const KNOWN_MAJOR: &str = "2";

/// Both forms of a body: those keys that stand there tell which one it is.
#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(rename = "oslo.version", borrow, default, deserialize_with = "field::present")]
    version: Field<'a>,
    #[serde(rename = "oslo.message", borrow, default, deserialize_with = "field::present")]
    message: Field<'a>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    message_id: Field<'a>,
    #[serde(borrow)]
    event_type: Field<'a>,
    #[serde(borrow)]
    publisher_id: Field<'a>,
    #[serde(borrow)]
    timestamp: Field<'a>,
    #[serde(borrow, default, deserialize_with = "field::present")]
    payload: Field<'a>,
}

/// A message without its frame; the payload is still text.
pub(super) struct Message<'a> {
    pub(super) id: MessageId,
    pub(super) event_type: String,
    pub(super) publisher: String,
    pub(super) said: Said,
    pub(super) payload: &'a RawValue,
}

/// Takes the message out of its envelope, if it has one.
pub(super) fn open(body: &str) -> Result<Cow<'_, str>, DecodeError> {
    let outer: Outer<'_> = field::object(Part::Body, "body", body)?;
    if outer.version.is_none() && outer.message.is_none() {
        return Ok(Cow::Borrowed(body));
    }
    let version = field::required_text(Part::Body, "oslo.version", outer.version)?;
    if version.split('.').next() != Some(KNOWN_MAJOR) {
        let found = version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').take(16).collect();
        return Err(DecodeError::UnknownEnvelope { found });
    }
    let message = field::required_text(Part::Body, "oslo.message", outer.message)?;
    check_depth(Part::Message, &message)?;
    Ok(Cow::Owned(message))
}

/// Reads the message.
pub(super) fn read(message: &str) -> Result<Message<'_>, DecodeError> {
    let inner: Inner<'_> = field::object(Part::Message, "message", message)?;
    let expected = "an id of at most 255 characters";
    let id = field::id("message_id", inner.message_id, expected, |text| MessageId::new(text))?
        .ok_or(DecodeError::Missing { part: Part::Message, key: "message_id" })?;
    let event_type = field::required_text(Part::Message, "event_type", inner.event_type)?;
    if event_type.chars().count() > field::MAX_TEXT_CHARS || event_type.chars().any(char::is_control) {
        return Err(field::wrong_text("event_type", &event_type, "an event type of at most 255 characters"));
    }
    let payload = inner.payload.ok_or(DecodeError::Missing { part: Part::Message, key: "payload" })?;
    Ok(Message {
        said: Said::new(said_at(inner.timestamp)?, id.as_str()),
        publisher: publisher(inner.publisher_id),
        id,
        event_type,
        payload,
    })
}

/// When the message was said, in microseconds. Every oslo.messaging writes it; a message without it counts as the
/// oldest of all, so that it never overwrites what is known.
fn said_at(timestamp: Field<'_>) -> Result<i64, DecodeError> {
    match field::text("timestamp", timestamp)? {
        None => Ok(0),
        Some(text) => times::micros(&text).ok_or_else(|| field::wrong_text("timestamp", &text, times::EXPECTED)),
    }
}

/// The publisher is shown and never decided by, so whatever it is does not refuse the message.
fn publisher(field: Field<'_>) -> String {
    field::word("publisher_id", field).ok().flatten().unwrap_or_default()
}

//! What OpenStack Nova puts on the wire: notifications, versioned and legacy, out of oslo.messaging's envelope.
//!
//! ```text
//! bytes ─ body (length, zlib, UTF-8, nesting) ─ envelope (oslo 2.x or bare) ─ event type ┬ versioned ┬ Notification
//!                                                                                      └ legacy ───┘
//! ```
//!
//! Only the keys that are used are read: request contexts with live tokens travel beside and inside payloads
//! (`_context_auth_token`, `request_spec`), and nothing of them becomes a value, a debug text or an error.

mod body;
mod change;
mod describe;
mod envelope;
mod error;
mod fault;
mod field;
mod legacy;
mod metadata;
mod times;
mod versioned;
mod vm;

use serde::Serialize;

pub use self::body::{MAX_BODY_BYTES, MAX_INFLATED_BYTES};
pub use self::describe::{Line, MAX_DOCUMENT_BYTES, describe, documents};
pub use self::error::{DecodeError, Kind, Part};
pub use self::fault::MAX_FAULT_BYTES;
use crate::observation::{Said, VmNotification};
use crate::{HostName, MessageId, Timestamp, VmId};

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Its id: the same in every copy of the message.
    pub message_id: MessageId,
    /// Its type, for example `instance.create.end`; at most 255 characters.
    pub event_type: String,
    /// Who says so, for example `nova-compute:host1`; empty if nobody. Not the host of the VM.
    pub publisher: String,
    /// How the payload is written.
    pub format: Format,
    /// When it was said. A message without a time counts as said at 0.
    pub said: Said,
    /// What it is about.
    pub about: About,
    /// The cloud's own word for the state of the VM, known or not; at most 255 characters.
    pub state_word: Option<String>,
}

impl Notification {
    /// Which of Nova's two families it is of.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.format {
            Format::Versioned { .. } => Family::Versioned,
            Format::Legacy => Family::Legacy,
        }
    }
}

/// How a payload is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// As a versioned object.
    Versioned {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
        /// `nova_object.name`, at most 255 characters; nothing is decided by it.
        object: String,
    },
    /// As a flat dictionary, or whatever else has no version.
    Legacy,
}

/// Nova's two families of notifications. With `notification_format = both` a cloud tells every fact in each, under
/// different ids: read one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `instance.*`, topic `versioned_notifications`.
    Versioned,
    /// `compute.instance.*`, topic `notifications`.
    Legacy,
}

/// What a notification is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The life of a VM.
    Vm(Box<VmNotification>),
    /// A service of the cloud.
    Service(ServiceFacts),
    /// Anything else.
    Other {
        /// Why it is not looked at.
        reason: String,
        /// The VM that it names nevertheless.
        vm: Option<VmId>,
    },
}

/// What a cloud says of one of its services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    /// The host that it runs on.
    pub host: HostName,
    /// Its program, for example `nova-compute`.
    pub binary: String,
    /// Taken out of scheduling by an administrator.
    pub disabled: bool,
    /// Declared dead by an administrator or a monitor.
    pub forced_down: bool,
    /// When it last reported.
    pub last_seen_up: Option<Timestamp>,
}

/// Reads a notification from the body of an AMQP message; a zlib body is known by its first bytes.
///
/// # Errors
/// [`DecodeError`]: the body is over a bound, is no notification, or is of a version that is not known. Event types
/// that are not known are no error.
pub fn decode(body: &[u8]) -> Result<Notification, DecodeError> {
    decode_with(body, None)
}

/// Like [`decode`], with the AMQP header `compression` of the message.
///
/// # Errors
/// As [`decode`], and [`DecodeError::UnknownCompression`].
pub fn decode_with(body: &[u8], compression: Option<&str>) -> Result<Notification, DecodeError> {
    let body = body::text(body, compression)?;
    let text = envelope::open(&body)?;
    let message = envelope::read(&text)?;
    let subject = change::subject(&message.event_type);
    let (format, (about, state_word)) = match versioned::object(message.payload)? {
        Some(object) => (object.format(), object.about(subject, &message)?),
        None => (Format::Legacy, legacy::about(subject, &message)?),
    };
    Ok(Notification {
        message_id: message.id,
        event_type: message.event_type,
        publisher: message.publisher,
        format,
        said: message.said,
        about,
        state_word,
    })
}

//! What `reeve decode` prints: one flat line for one input document.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::body::{self, MAX_BODY_BYTES};
use super::error::{DecodeError, Kind, Part};
use super::field::{self, Field};
use super::{About, Family, Notification, ServiceFacts, decode_with};
use crate::observation::{Fault, Phase, PowerState, VmChange, VmNotification};
use crate::{HostName, MessageId, ProjectId, Timestamp, UserId, VmId};

/// The most bytes that one document may have: a body of full length within a record, most of it escaped.
pub const MAX_DOCUMENT_BYTES: usize = 4 * MAX_BODY_BYTES;

/// What one document says. Keys stand in this order; what is not said is `null`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// The file that the document came from, as it was named.
    pub file: String,
    /// The family of the notification.
    pub format: Option<Family>,
    /// The type of the event.
    pub event_type: Option<String>,
    /// The id of the message.
    pub message_id: Option<MessageId>,
    /// The VM.
    pub vm: Option<VmId>,
    /// Its project.
    pub project: Option<ProjectId>,
    /// Its host, or the host of the service.
    pub host: Option<HostName>,
    /// The cloud's own word for its state.
    pub state: Option<String>,
    /// `vm`, `service` or `other`.
    pub about: &'static str,
    /// Where in its course the change is.
    pub phase: Option<Phase>,
    /// What changed.
    pub change: Option<&'static str>,
    /// What the cloud is doing with the VM, in its own word.
    pub task_state: Option<String>,
    /// Its power state.
    pub power_state: Option<PowerState>,
    /// Its name.
    pub name: Option<String>,
    /// Its user.
    pub user: Option<UserId>,
    /// When the notification was said.
    pub said_at: Option<Timestamp>,
    /// When the VM was created.
    pub created_at: Option<Timestamp>,
    /// When it was first launched.
    pub launched_at: Option<Timestamp>,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// The failure that the notification tells of.
    pub fault: Option<Fault>,
    /// Why the notification is not about a VM.
    pub reason: Option<String>,
    /// Why the document was refused.
    pub error: Option<String>,
}

impl Line {
    /// Whether the document was refused.
    #[must_use]
    pub const fn refused(&self) -> bool {
        self.error.is_some()
    }

    fn empty(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            format: None,
            event_type: None,
            message_id: None,
            vm: None,
            project: None,
            host: None,
            state: None,
            about: "other",
            phase: None,
            change: None,
            task_state: None,
            power_state: None,
            name: None,
            user: None,
            said_at: None,
            created_at: None,
            launched_at: None,
            deleted_at: None,
            fault: None,
            reason: None,
            error: None,
        }
    }
}

/// What Reeve makes of one document: a body as it was on the wire, or a record of one, that is an object with `body` or
/// `raw_body` (a text, or the message itself) or `body_base64`, and perhaps `headers.compression`.
#[must_use]
pub fn describe(file: &str, document: &[u8]) -> Line {
    let line = Line::empty(file);
    match read(document) {
        Ok(notification) => filled(line, notification),
        Err(error) => Line { error: Some(error.to_string()), ..line },
    }
}

/// The documents of an input: the whole of it, or its lines if they are JSON lines.
///
/// An input that is neither one JSON document nor has a line that looks like one is one document, to be refused once.
#[must_use]
pub fn documents(input: &[u8]) -> Vec<&[u8]> {
    if body::looks_like_zlib(input) || serde_json::from_slice::<IgnoredAny>(input).is_ok() {
        return vec![input];
    }
    let lines = || input.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    // Within a printed document only the outermost brackets stand at the start of a line, and not both on one.
    if lines().any(|line| line.starts_with(b"{") && line.ends_with(b"}")) {
        return lines().filter(|line| !line.is_empty()).collect();
    }
    vec![input]
}

/// A record of a message, or neither key if the document is the body itself.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    body: Field<'a>,
    #[serde(borrow)]
    raw_body: Field<'a>,
    #[serde(borrow)]
    body_base64: Field<'a>,
    #[serde(borrow)]
    headers: Field<'a>,
    #[serde(borrow)]
    properties: Field<'a>,
}

#[derive(Deserialize)]
struct Properties<'a> {
    #[serde(borrow)]
    headers: Field<'a>,
    #[serde(borrow)]
    application_headers: Field<'a>,
}

#[derive(Deserialize)]
struct Headers<'a> {
    #[serde(borrow)]
    compression: Field<'a>,
}

fn read(document: &[u8]) -> Result<Notification, DecodeError> {
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(DecodeError::TooLarge { found: document.len(), limit: MAX_DOCUMENT_BYTES });
    }
    if document.is_empty() || body::looks_like_zlib(document) {
        return decode_with(document, None);
    }
    let text = body::utf8(document)?;
    body::check_depth(Part::Document, text)?;
    let record: Record<'_> = field::object(Part::Document, "document", text)?;
    if let Some(encoded) = field::text("body_base64", record.body_base64)? {
        return decode_with(&bytes(&encoded)?, compression(&record)?.as_deref());
    }
    match record.body.or(record.raw_body) {
        Some(raw) => decode_with(body_text(raw).as_bytes(), compression(&record)?.as_deref()),
        None => decode_with(document, None),
    }
}

fn bytes(encoded: &str) -> Result<Vec<u8>, DecodeError> {
    let expected = "base64 (RFC 4648, section 4)";
    STANDARD.decode(encoded.trim_ascii()).map_err(|_| field::wrong_text("body_base64", encoded, expected))
}

fn body_text(raw: &RawValue) -> Cow<'_, str> {
    match field::kind(raw) {
        Kind::Text => Cow::Owned(field::string(raw)),
        Kind::Null | Kind::Bool | Kind::Number | Kind::List | Kind::Object => Cow::Borrowed(raw.get()),
    }
}

/// `headers.compression`, or where kombu's own records keep it.
fn compression(record: &Record<'_>) -> Result<Option<String>, DecodeError> {
    let mut headers = record.headers;
    if let Some(raw) = record.properties.filter(|raw| field::kind(raw) == Kind::Object) {
        let properties: Properties<'_> = field::object(Part::Document, "properties", raw.get())?;
        headers = headers.or(properties.headers).or(properties.application_headers);
    }
    match headers.filter(|raw| field::kind(raw) == Kind::Object) {
        Some(raw) => {
            let headers: Headers<'_> = field::object(Part::Document, "headers", raw.get())?;
            field::word("compression", headers.compression)
        }
        None => Ok(None),
    }
}

fn filled(line: Line, notification: Notification) -> Line {
    let line = Line {
        format: Some(notification.family()),
        event_type: Some(notification.event_type),
        message_id: Some(notification.message_id),
        said_at: (notification.said.at_us != 0).then(|| notification.said.at()),
        state: notification.state_word,
        ..line
    };
    match notification.about {
        About::Vm(vm) => of_vm(line, *vm),
        About::Service(ServiceFacts { host, .. }) => Line { about: "service", host: Some(host), ..line },
        About::Other { reason, vm } => Line { reason: Some(reason), vm, ..line },
    }
}

fn of_vm(line: Line, said: VmNotification) -> Line {
    let facts = said.facts;
    Line {
        about: "vm",
        vm: Some(facts.vm),
        project: facts.project,
        host: facts.host,
        phase: Some(said.phase),
        change: Some(change_word(said.change)),
        task_state: facts.task,
        power_state: facts.power,
        name: Some(facts.name).filter(|name| !name.is_empty()),
        user: facts.user,
        created_at: facts.created_at,
        launched_at: facts.launched_at,
        deleted_at: facts.deleted_at,
        fault: said.fault,
        ..line
    }
}

const fn change_word(change: VmChange) -> &'static str {
    match change {
        VmChange::Create => "create",
        VmChange::Delete => "delete",
        VmChange::SoftDelete => "soft_delete",
        VmChange::Restore => "restore",
        VmChange::Operation => "operation",
        VmChange::Update => "update",
    }
}

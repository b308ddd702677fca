//! Versioned payloads: `{"nova_object.name", "nova_object.version", "nova_object.data": {…}}`.
//!
//! The contract (nova, doc/source/admin/notifications.rst): a minor version adds keys, a major version may change them,
//! and the name of the object is not to be relied on. So any minor is read, an unknown major is refused where its data
//! would be used, and the event type decides what the data is.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::change::Subject;
use super::envelope::Message;
use super::error::{DecodeError, Kind, Part};
use super::field::{self, Field};
use super::vm::{self, Said};
use super::{About, Format, ServiceFacts, fault, metadata};
use crate::HostName;
use crate::observation::{PowerState, VmFacts};

/// Payloads whose second major version (nova 26: audit period and block devices) reads like the first.
const EVENTS_WITH_SECOND_MAJOR: [&str; 2] = ["instance.update", "instance.exists"];

/// The frame of a payload object.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "nova_object.name", borrow)]
    name: Field<'a>,
    #[serde(rename = "nova_object.version", borrow)]
    version: Field<'a>,
    #[serde(rename = "nova_object.data", borrow)]
    data: Field<'a>,
}

/// A payload object out of its frame.
pub(super) struct NovaObject<'a> {
    name: String,
    major: u32,
    minor: u32,
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct InstanceData<'a> {
    #[serde(borrow)]
    uuid: Field<'a>,
    #[serde(borrow)]
    display_name: Field<'a>,
    #[serde(borrow)]
    tenant_id: Field<'a>,
    #[serde(borrow)]
    user_id: Field<'a>,
    #[serde(borrow)]
    host: Field<'a>,
    #[serde(borrow)]
    state: Field<'a>,
    #[serde(borrow)]
    task_state: Field<'a>,
    #[serde(borrow)]
    power_state: Field<'a>,
    #[serde(borrow)]
    locked: Field<'a>,
    #[serde(borrow)]
    created_at: Field<'a>,
    #[serde(borrow)]
    launched_at: Field<'a>,
    #[serde(borrow)]
    deleted_at: Field<'a>,
    #[serde(borrow)]
    terminated_at: Field<'a>,
    #[serde(borrow)]
    metadata: Field<'a>,
    #[serde(borrow)]
    fault: Field<'a>,
}

#[derive(Deserialize)]
struct TaskData<'a> {
    #[serde(borrow)]
    instance_uuid: Field<'a>,
    #[serde(borrow)]
    state: Field<'a>,
    #[serde(borrow)]
    reason: Field<'a>,
    #[serde(borrow)]
    request_spec: Field<'a>,
}

#[derive(Deserialize)]
struct RequestSpec<'a> {
    #[serde(borrow)]
    project_id: Field<'a>,
    #[serde(borrow)]
    user_id: Field<'a>,
}

#[derive(Deserialize)]
struct ServiceData<'a> {
    #[serde(borrow)]
    host: Field<'a>,
    #[serde(borrow)]
    binary: Field<'a>,
    #[serde(borrow)]
    disabled: Field<'a>,
    #[serde(borrow)]
    forced_down: Field<'a>,
    #[serde(borrow)]
    last_seen_up: Field<'a>,
}

/// The payload as a versioned object, `None` if it is none.
pub(super) fn object(payload: &RawValue) -> Result<Option<NovaObject<'_>>, DecodeError> {
    if field::kind(payload) != Kind::Object {
        return Ok(None);
    }
    let frame: Frame<'_> = field::object(Part::Payload, "payload", payload.get())?;
    if frame.name.is_none() && frame.version.is_none() && frame.data.is_none() {
        return Ok(None);
    }
    let version = field::required_text(Part::Payload, "nova_object.version", frame.version)?;
    let (major, minor) = major_and_minor(&version)
        .ok_or_else(|| field::wrong_text("nova_object.version", &version, "a version such as 1.9"))?;
    let data = frame.data.ok_or(DecodeError::Missing { part: Part::Payload, key: "nova_object.data" })?;
    let name = field::word("nova_object.name", frame.name)?.unwrap_or_default();
    Ok(Some(NovaObject { name, major, minor, data }))
}

/// What follows the minor version is of no account.
fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().map_or(Some(0), |minor| minor.parse().ok())?;
    Some((major, minor))
}

impl NovaObject<'_> {
    /// How the message says it is written.
    pub(super) fn format(&self) -> Format {
        Format::Versioned { major: self.major, minor: self.minor, object: self.name.clone() }
    }

    /// What the message is about, and the cloud's own word for the state of its VM.
    pub(super) fn about(
        &self,
        subject: Subject,
        message: &Message<'_>,
    ) -> Result<(About, Option<String>), DecodeError> {
        match subject {
            Subject::Instance(change, phase) => {
                self.check_major(&message.event_type)?;
                vm::notification(message, change, phase, self.instance()?)
            }
            Subject::Task(change, phase) => {
                self.check_major(&message.event_type)?;
                match self.task()? {
                    Some(said) => vm::notification(message, change, phase, said),
                    None => Ok((vm::task_without_vm(), None)),
                }
            }
            Subject::Service => {
                self.check_major(&message.event_type)?;
                Ok((About::Service(self.service()?), None))
            }
            Subject::Other => Ok((vm::other(&message.event_type, self.data), None)),
        }
    }

    fn check_major(&self, event_type: &str) -> Result<(), DecodeError> {
        let second = EVENTS_WITH_SECOND_MAJOR.contains(&event_type);
        if self.major == 1 || (second && self.major == 2) {
            return Ok(());
        }
        Err(DecodeError::UnknownMajor {
            object: if self.name.is_empty() { "payload".to_owned() } else { self.name.clone() },
            found: self.major,
            supported: if second { "1 or 2" } else { "1" },
        })
    }

    fn instance(&self) -> Result<Said, DecodeError> {
        let data: InstanceData<'_> = field::object(Part::Payload, "nova_object.data", self.data.get())?;
        let state_word = field::word("state", data.state)?;
        let deleted_at = field::time("deleted_at", data.deleted_at)?;
        let terminated_at = field::time("terminated_at", data.terminated_at)?;
        let facts = VmFacts {
            vm: vm::id("uuid", data.uuid)?.ok_or(DecodeError::Missing { part: Part::Payload, key: "uuid" })?,
            name: vm::name(data.display_name)?,
            project: vm::project("tenant_id", data.tenant_id)?,
            user: vm::user(data.user_id)?,
            host: vm::host(data.host)?,
            state: vm::state(state_word.as_deref()),
            task: field::word("task_state", data.task_state)?,
            power: field::word("power_state", data.power_state)?.as_deref().and_then(power),
            locked: field::flag("locked", data.locked)?,
            created_at: field::time("created_at", data.created_at)?,
            launched_at: field::time("launched_at", data.launched_at)?,
            deleted_at: deleted_at.or(terminated_at),
            metadata: metadata::read(data.metadata)?,
        };
        Ok(Said { facts, state_word, fault: fault::read("fault", data.fault)? })
    }

    /// What a failed task says of its VM, `None` if it names none.
    fn task(&self) -> Result<Option<Said>, DecodeError> {
        let data: TaskData<'_> = field::object(Part::Payload, "nova_object.data", self.data.get())?;
        let Some(vm) = vm::id("instance_uuid", data.instance_uuid)? else { return Ok(None) };
        let mut said = vm::of_task(vm, data.state, data.reason)?;
        let spec = match data.request_spec.filter(|raw| field::kind(raw) == Kind::Object) {
            Some(raw) => field::object::<Frame<'_>>(Part::Nested, "request_spec", raw.get())?.data,
            None => None,
        };
        if let Some(raw) = spec.filter(|raw| field::kind(raw) == Kind::Object) {
            let spec: RequestSpec<'_> = field::object(Part::Nested, "request_spec", raw.get())?;
            said.facts.project = vm::project("project_id", spec.project_id)?;
            said.facts.user = vm::user(spec.user_id)?;
        }
        Ok(Some(said))
    }

    fn service(&self) -> Result<ServiceFacts, DecodeError> {
        let data: ServiceData<'_> = field::object(Part::Payload, "nova_object.data", self.data.get())?;
        let host: Option<HostName> = vm::host(data.host)?;
        let binary = field::word("binary", data.binary)?;
        Ok(ServiceFacts {
            host: host.ok_or(DecodeError::Missing { part: Part::Payload, key: "host" })?,
            binary: binary.ok_or(DecodeError::Missing { part: Part::Payload, key: "binary" })?,
            disabled: field::flag("disabled", data.disabled)?.unwrap_or(false),
            forced_down: field::flag("forced_down", data.forced_down)?.unwrap_or(false),
            last_seen_up: field::time("last_seen_up", data.last_seen_up)?,
        })
    }
}

/// A word that is none of Nova's counts as not said.
fn power(word: &str) -> Option<PowerState> {
    match word {
        "pending" => Some(PowerState::Pending),
        "running" => Some(PowerState::Running),
        "paused" => Some(PowerState::Paused),
        "shutdown" => Some(PowerState::Shutdown),
        "crashed" => Some(PowerState::Crashed),
        "suspended" => Some(PowerState::Suspended),
        _ => None,
    }
}

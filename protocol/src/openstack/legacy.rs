//! Legacy (unversioned) payloads: flat, with `""` for nothing and two ways to write a time in one payload.
//!
//! Keys as in nova/notifications/base.py (`info_from_instance`) and nova/conductor/manager.py
//! (`set_vm_state_and_notify`). A serialised request context with a live token can sit in `request_spec`; only two keys
//! of it are looked at.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::About;
use super::change::Subject;
use super::envelope::Message;
use super::error::{DecodeError, Kind, Part};
use super::field::{self, Field};
use super::vm::{self, Said};
use super::{fault, metadata};
use crate::observation::{Phase, VmFacts};

#[derive(Deserialize)]
struct Instance<'a> {
    #[serde(borrow)]
    instance_id: Field<'a>,
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
    state_description: Field<'a>,
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
    exception: Field<'a>,
    #[serde(borrow)]
    message: Field<'a>,
    #[serde(borrow)]
    code: Field<'a>,
}

#[derive(Deserialize)]
struct Task<'a> {
    #[serde(borrow)]
    instance_id: Field<'a>,
    #[serde(borrow)]
    state: Field<'a>,
    #[serde(borrow)]
    reason: Field<'a>,
    #[serde(borrow)]
    instance_properties: Field<'a>,
}

#[derive(Deserialize)]
struct InstanceProperties<'a> {
    #[serde(borrow)]
    project_id: Field<'a>,
    #[serde(borrow)]
    user_id: Field<'a>,
}

/// What the message is about, and the cloud's own word for the state of its VM.
pub(super) fn about(subject: Subject, message: &Message<'_>) -> Result<(About, Option<String>), DecodeError> {
    match subject {
        Subject::Instance(change, phase) => vm::notification(message, change, phase, instance(message.payload, phase)?),
        Subject::Task(change, phase) => match task(message.payload)? {
            Some(said) => vm::notification(message, change, phase, said),
            None => Ok((vm::task_without_vm(), None)),
        },
        // Services speak only versioned; what else has such a name is the name of a function that failed.
        Subject::Service | Subject::Other => Ok((vm::other(&message.event_type, message.payload), None)),
    }
}

fn instance(payload: &RawValue, phase: Phase) -> Result<Said, DecodeError> {
    let data: Instance<'_> = field::object(Part::Payload, "payload", payload.get())?;
    let state_word = field::word("state", data.state)?;
    let deleted_at = field::time("deleted_at", data.deleted_at)?;
    let terminated_at = field::time("terminated_at", data.terminated_at)?;
    let vm = vm::id("instance_id", data.instance_id)?;
    let facts = VmFacts {
        vm: vm.ok_or(DecodeError::Missing { part: Part::Payload, key: "instance_id" })?,
        name: vm::name(data.display_name)?,
        project: vm::project("tenant_id", data.tenant_id)?,
        user: vm::user(data.user_id)?,
        host: vm::host(data.host)?,
        state: vm::state(state_word.as_deref()),
        task: field::word("state_description", data.state_description)?,
        power: None,
        locked: None,
        created_at: field::time("created_at", data.created_at)?,
        launched_at: field::time("launched_at", data.launched_at)?,
        deleted_at: deleted_at.or(terminated_at),
        metadata: metadata::read(data.metadata)?,
    };
    // `message` is "Success" where nothing failed.
    let failed = phase == Phase::Error || data.exception.is_some();
    let fault = if failed { fault::read_legacy(data.exception, data.message, data.code)? } else { None };
    Ok(Said { facts, state_word, fault })
}

/// What a failed task says of its VM, `None` if it names none.
fn task(payload: &RawValue) -> Result<Option<Said>, DecodeError> {
    if field::kind(payload) != Kind::Object {
        return Ok(None);
    }
    let task: Task<'_> = field::object(Part::Payload, "payload", payload.get())?;
    let Some(vm) = vm::id("instance_id", task.instance_id)? else { return Ok(None) };
    let mut said = vm::of_task(vm, task.state, task.reason)?;
    if let Some(raw) = task.instance_properties.filter(|raw| field::kind(raw) == Kind::Object) {
        let properties: InstanceProperties<'_> = field::object(Part::Nested, "instance_properties", raw.get())?;
        said.facts.project = vm::project("project_id", properties.project_id)?;
        said.facts.user = vm::user(properties.user_id)?;
    }
    Ok(Some(said))
}

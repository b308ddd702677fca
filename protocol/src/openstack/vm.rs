//! What versioned and legacy payloads say of a VM in the same way.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::envelope::Message;
use super::error::{DecodeError, Kind, Part};
use super::field::{self, Field};
use super::{About, fault};
use crate::observation::{Fault, Phase, VmChange, VmFacts, VmNotification, VmState};
use crate::{HostName, ProjectId, UserId, VmId};

const EXPECTED_ID: &str = "an id of at most 255 bytes without control characters";

/// What one payload says.
pub(super) struct Said {
    pub(super) facts: VmFacts,
    /// The cloud's own word for the state.
    pub(super) state_word: Option<String>,
    pub(super) fault: Option<Fault>,
}

/// Puts the message and what its payload says together.
#[expect(clippy::unnecessary_wraps, reason = "the last step of functions that do fail")]
pub(super) fn notification(
    message: &Message<'_>,
    change: VmChange,
    phase: Phase,
    said: Said,
) -> Result<(About, Option<String>), DecodeError> {
    let notification = VmNotification {
        id: message.id.clone(),
        said: message.said,
        event_type: message.event_type.clone(),
        change,
        phase,
        facts: said.facts,
        fault: said.fault,
    };
    Ok((About::Vm(Box::new(notification)), said.state_word))
}

/// A failed task tells little of its VM: its state and why.
pub(super) fn of_task(vm: VmId, state: Field<'_>, reason: Field<'_>) -> Result<Said, DecodeError> {
    let state_word = field::word("state", state)?;
    let facts = VmFacts {
        vm,
        name: String::new(),
        project: None,
        user: None,
        host: None,
        state: self::state(state_word.as_deref()),
        task: None,
        power: None,
        locked: None,
        created_at: None,
        launched_at: None,
        deleted_at: None,
        metadata: BTreeMap::new(),
    };
    Ok(Said { facts, state_word, fault: fault::read("reason", reason)? })
}

pub(super) fn task_without_vm() -> About {
    About::Other { reason: "a failed task that names no VM".to_owned(), vm: None }
}

/// What is not about a VM's life may still name a VM (`volume.usage`, `scheduler.select_destinations`). Never fails:
/// on `notifications.error` any payload may arrive.
pub(super) fn other(event_type: &str, payload: &RawValue) -> About {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        instance_uuid: Field<'a>,
        #[serde(borrow)]
        instance_id: Field<'a>,
    }
    let named = (field::kind(payload) == Kind::Object)
        .then(|| field::object::<Named<'_>>(Part::Payload, "payload", payload.get()).ok())
        .flatten();
    let vm = named.and_then(|named| {
        let of = |field: Field<'_>| id("instance_uuid", field).ok().flatten();
        of(named.instance_uuid).or_else(|| of(named.instance_id))
    });
    About::Other { reason: format!("{event_type} does not tell of a VM's life"), vm }
}

pub(super) fn id(key: &'static str, field: Field<'_>) -> Result<Option<VmId>, DecodeError> {
    field::id(key, field, "a UUID", str::parse)
}

pub(super) fn project(key: &'static str, field: Field<'_>) -> Result<Option<ProjectId>, DecodeError> {
    field::id(key, field, EXPECTED_ID, |text| ProjectId::new(text))
}

pub(super) fn user(field: Field<'_>) -> Result<Option<UserId>, DecodeError> {
    field::id("user_id", field, EXPECTED_ID, |text| UserId::new(text))
}

pub(super) fn host(field: Field<'_>) -> Result<Option<HostName>, DecodeError> {
    field::id("host", field, EXPECTED_ID, |text| HostName::new(text))
}

/// Empty if the cloud gives none.
pub(super) fn name(field: Field<'_>) -> Result<String, DecodeError> {
    Ok(field::word("display_name", field)?.unwrap_or_default())
}

pub(super) fn state(word: Option<&str>) -> VmState {
    word.map_or(VmState::Unknown, VmState::from_nova)
}

//! Nova's notifications: those that a real Nova sent when a VM was stopped and started, told again of other VMs.
//!
//! Everything but the ids and the times is as it was captured, so that what is decoded is as long and as nested as what a
//! cloud sends.

use anyhow::{Context, Result, ensure};
use reeve_protocol::{Timestamp, VmId};
use serde_json::Value;
use uuid::Uuid;

/// The streams of a real Nova, one message a line.
const CAPTURED: &str = include_str!("../../data/nova/captured/libvirt.jsonl");

/// What a message tells: the state of its VM afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Stopped,
    Active,
}

impl Told {
    /// Every VM is stopped first and started then, over and over.
    pub(crate) const fn of_turn(turn: usize) -> Self {
        if turn.is_multiple_of(2) { Self::Stopped } else { Self::Active }
    }
}

/// The two messages.
#[derive(Debug, Clone)]
pub(crate) struct Nova {
    stopped: Captured,
    active: Captured,
}

/// A captured message, and what of it is replaced.
#[derive(Debug, Clone)]
struct Captured {
    body: String,
    vm: String,
    message: String,
    unique: String,
    sent: String,
    created: String,
    launched: String,
}

impl Nova {
    /// Reads the captures.
    pub(crate) fn read() -> Result<Self> {
        Ok(Self {
            stopped: Captured::find("instance.power_off.end")?,
            active: Captured::find("instance.power_on.end")?,
        })
    }

    /// The body of a message about a VM that was launched long ago, sent at so many microseconds since the epoch.
    pub(crate) fn body(&self, told: Told, vm: VmId, launched: Timestamp, at_us: i64) -> Vec<u8> {
        match told {
            Told::Stopped => self.stopped.about(vm, launched, at_us),
            Told::Active => self.active.about(vm, launched, at_us),
        }
    }
}

impl Captured {
    fn find(event: &str) -> Result<Self> {
        for line in CAPTURED.lines() {
            let record: Value = serde_json::from_str(line)?;
            let body = record["raw_body"].as_str().context("a capture has a body")?;
            if record["routing_key"] != "versioned_notifications.info" || !body.contains(event) {
                continue;
            }
            let envelope: Value = serde_json::from_str(body)?;
            let message = envelope["oslo.message"].as_str().context("an envelope has a message")?;
            let message: Value = serde_json::from_str(message)?;
            if message["event_type"] == event {
                return Self::new(body, &message);
            }
        }
        anyhow::bail!("no {event} was captured")
    }

    fn new(body: &str, message: &Value) -> Result<Self> {
        let data = &message["payload"]["nova_object.data"];
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
        let captured = Self {
            body: body.to_owned(),
            vm: text(&data["uuid"])?,
            message: text(&message["message_id"])?,
            unique: text(&message["_unique_id"])?,
            sent: text(&message["timestamp"])?,
            created: text(&data["created_at"])?,
            launched: text(&data["launched_at"])?,
        };
        ensure!(captured.sent.len() == 26, "a time with microseconds: {}", captured.sent);
        Ok(captured)
    }

    fn about(&self, vm: VmId, launched: Timestamp, at_us: i64) -> Vec<u8> {
        let id = Uuid::new_v4();
        let second = |at: Timestamp| at.to_string()[..19].to_owned();
        let sent = second(Timestamp::from_millis(at_us.div_euclid(1000))).replace('T', " ");
        let sent = format!("{sent}.{:06}", at_us.rem_euclid(1_000_000));
        let launched = format!("{}Z", second(launched));
        self.body
            .replace(&self.vm, &vm.to_string())
            .replace(&self.message, &id.to_string())
            .replace(&self.unique, &id.simple().to_string())
            .replace(&self.sent, &sent)
            .replace(&self.created, &launched)
            .replace(&self.launched, &launched)
            .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use reeve_lifecycle::{Verdict, VmInput, invariants, step};
    use reeve_protocol::event::EventKind;
    use reeve_protocol::observation::VmState;
    use reeve_protocol::openstack::{About, decode_with};

    use super::*;
    use crate::records;

    #[test]
    fn each_message_is_understood_and_changes_the_state_of_its_vm() {
        let nova = Nova::read().unwrap();
        let now = Timestamp::from_millis(1_900_000_000_123);
        let mut record = records::record(7, now);
        let launched = record.facts.launched_at.unwrap();
        for turn in 0..6 {
            let told = Told::of_turn(turn);
            let at_us = now.as_millis() * 1000 + i64::try_from(turn).unwrap();
            let decoded = decode_with(&nova.body(told, record.vm, launched, at_us), None).unwrap();
            let About::Vm(notification) = decoded.about else { panic!("about a VM") };
            assert_eq!(notification.said.at_us, at_us);
            let step = step(&record, VmInput::Notified(*notification), now);
            assert_eq!(step.verdict, Verdict::Accepted(None));
            let state = if told == Told::Stopped { VmState::Stopped } else { VmState::Active };
            assert_eq!(step.record.facts.state, state);
            // What `intake` counts; another tells that the VM is watched no longer, or again.
            let changes = step.events.iter().filter(|event| matches!(event.kind, EventKind::VmStateChanged { .. }));
            assert_eq!(changes.count(), 1, "{:#?}", step.events);
            assert_eq!(invariants::check(&step.record), Ok(()));
            record = step.record;
        }
    }
}

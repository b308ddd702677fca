//! The ten commonest inputs of a VM in the middle of an ordinary life.

use anyhow::{Context, Result};
use reeve_lifecycle::policy::ProbeKind;
use reeve_lifecycle::record::Lease;
use reeve_lifecycle::{Done, Outcome, ProbeVerdict, VmInput, VmRecord, step};
use reeve_protocol::command::{Command, CommandKind, Requester};
use reeve_protocol::observation::{Phase, Said, VmChange, VmFacts, VmNotification};
use reeve_protocol::{HostName, MessageId, Span, Timestamp};

use crate::node::facts_of;
use crate::records;

/// One input and the record that it meets.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) record: VmRecord,
    pub(super) input: VmInput,
    pub(super) now: Timestamp,
}

impl Case {
    pub(super) fn changes(&self) -> bool {
        step(&self.record, self.input.clone(), self.now).changed
    }
}

/// The same moment in every run.
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn said(id: &str) -> Said {
    Said::new(NOW.as_millis() * 1000, id)
}

fn notification(id: &str, facts: VmFacts) -> Result<VmInput> {
    Ok(VmInput::Notified(VmNotification {
        id: MessageId::new(id)?,
        said: said(id),
        event_type: "instance.update".to_owned(),
        change: VmChange::Update,
        phase: Phase::Whole,
        facts,
        fault: None,
    }))
}

/// Every input.
pub(super) fn all() -> Result<Vec<Case>> {
    let quiet = records::record(1, NOW);
    let facts = facts_of(quiet.clone());
    let moved = VmFacts { host: Some(HostName::new("compute-99999.example.net")?), ..facts.clone() };
    let known = "12345678-aaaa-bbbb-cccc-1234567890ab";
    let mut heard = quiet.clone();
    heard.seen.push(Said::new(0, known).tie);
    let mut due = quiet.clone();
    if let Lease::Running { term, .. } = &mut due.lease {
        term.ends_at = NOW + Span::from_days(7).duration();
    }
    let warned = step(&due, VmInput::Tick, NOW);
    let key = warned.effects.first().context("a notice has an effect")?.key;
    let published = VmInput::Published { through: warned.record.sequence };
    let extend = Command {
        id: MessageId::new("00000000-0000-0000-0000-000000000001")?,
        vm: quiet.vm,
        by: Requester::Operator("bench".to_owned()),
        kind: CommandKind::LeaseExtend { by: None },
    };
    let up = VmInput::Probed { probe: ProbeKind::GuestAgent, verdict: ProbeVerdict::Up };
    let inputs = [
        ("probed-up", quiet.clone(), up),
        ("listed-same", quiet.clone(), VmInput::Listed { facts: facts.clone(), said: said("list") }),
        ("notified-same", quiet.clone(), notification("exists", facts.clone())?),
        ("notified-moved", quiet.clone(), notification("moved", moved)?),
        ("notified-twice", heard, notification(known, facts)?),
        ("tick-idle", quiet.clone(), VmInput::Tick),
        ("tick-warning", due, VmInput::Tick),
        ("notice-sent", warned.record.clone(), VmInput::EffectDone { key, outcome: Outcome::Done(Done::Plain) }),
        ("published", warned.record, published),
        ("lease-extended", quiet, VmInput::Commanded { command: extend, policy: None }),
    ];
    Ok(inputs.into_iter().map(|(name, record, input)| Case { name, record, input, now: NOW }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_does_what_its_name_says() {
        // A message that says nothing new is a change all the same: when the cloud last spoke, and that it was heard.
        let changing =
            ["notified-same", "notified-moved", "tick-warning", "notice-sent", "published", "lease-extended"];
        for case in all().unwrap() {
            assert_eq!(case.changes(), changing.contains(&case.name), "{}", case.name);
        }
    }
}

//! A month of an ordinary VM, played through the core: how often its record is written, what it weighs, and what is told
//! of it. Every effect has its ordinary outcome at once, every event is published, and a notice is answered with an
//! extension.
//!
//! ```text
//! deadline ─► Tick ┐
//! notification ────┼─► step ─► commit ─► effects ─► outcomes ─► step …
//! extension ───────┘             └─► events ─► confirmed ─► written with the next step, or alone when none follows
//! ```

use anyhow::{Result, ensure};
use reeve_lifecycle::effect::{Inventory, Snapshot, StoredDisk};
use reeve_lifecycle::policy::ProbeKind;
use reeve_lifecycle::record::RECORD_FORMAT;
use reeve_lifecycle::{Done, Effect, Outcome, PendingEffect, ProbeVerdict, Reason, VmInput, VmRecord};
use reeve_lifecycle::{confirm, next_deadline, step};
use reeve_protocol::command::{Command, CommandKind, Requester};
use reeve_protocol::event::EventSource;
use reeve_protocol::observation::{Phase, PowerState, Said, VmChange, VmNotification, VmState};
use reeve_protocol::{MessageId, NodeId, Span, Timestamp, codec};

use crate::node::facts_of;
use crate::records;

/// How long it is played: before the first notice until after it, by the default policy.
const DAYS: u32 = 28;
/// The most inputs that follow from one.
const MOST_FOLLOWING: usize = 1_000;

/// What a VM's day comes to, on the average of a month.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Life {
    /// Writes of its record.
    pub(super) commits: f64,
    /// Events told.
    pub(super) events: f64,
    /// Bytes of an event.
    pub(super) event_bytes: f64,
    /// Bytes of the record as it is written, on the average of all writes.
    pub(super) written_bytes: f64,
    /// Bytes of the record between two days, at the end of the month.
    pub(super) resting_bytes: f64,
    /// Backups that it has then.
    pub(super) backups: usize,
}

impl Life {
    /// Plays a month with so many notifications a day that change something.
    pub(super) fn play(changes_per_day: u32) -> Result<Self> {
        let mut vm = Vm::new()?;
        for day in 0..DAYS {
            for change in 0..changes_per_day {
                vm.live_until(
                    vm.began + Span::from_days(day.into()).duration() + DAY / (changes_per_day + 1) * (change + 1),
                )?;
                vm.change()?;
            }
            vm.live_until(vm.began + Span::from_days(u64::from(day) + 1).duration())?;
        }
        let days = f64::from(DAYS);
        let (commits, events) = (vm.commits as f64, vm.events as f64);
        Ok(Self {
            commits: commits / days,
            events: events / days,
            event_bytes: vm.event_bytes as f64 / events.max(1.0),
            written_bytes: vm.written as f64 / commits.max(1.0),
            resting_bytes: bytes(&vm.record)? as f64,
            backups: vm.record.backups.len(),
        })
    }
}

/// What parts of a record weigh: its bytes, and its bytes without each.
pub(super) fn weights() -> Result<Vec<(&'static str, f64)>> {
    let mut vm = Vm::new()?;
    vm.live_until(vm.began + Span::from_days(u64::from(DAYS)).duration())?;
    let whole = bytes(&vm.record)? as f64;
    let without = |change: &dyn Fn(&mut VmRecord)| -> Result<f64> {
        let mut record = vm.record.clone();
        change(&mut record);
        Ok(whole - bytes(&record)? as f64)
    };
    let older = |record: &mut VmRecord| {
        let last = record.backups.len().saturating_sub(1);
        record.backups.iter_mut().take(last).for_each(|entry| entry.inventory = Inventory::default());
    };
    let bare = |record: &mut VmRecord| {
        record.backups.iter_mut().for_each(|entry| entry.inventory = Inventory::default());
    };
    let listed = without(&|record| record.backups.clear())?;
    // Less the byte of the format.
    let terms = codec::encode(RECORD_FORMAT, &vm.record.policy.terms)?.len() as f64 - 1.0;
    Ok(vec![
        ("what each backup but the latest was made of", without(&older)?),
        ("everything else of the backups", listed - without(&bare)?),
        ("the terms of the policy, spelled out in each record", terms),
        ("the history", without(&|record| record.history.clear())?),
        ("the ids of messages that were seen", without(&|record| record.seen.clear())?),
        ("the answers to commands", without(&|record| record.answers.clear())?),
    ])
}

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

struct Vm {
    record: VmRecord,
    began: Timestamp,
    now: Timestamp,
    inventory: Inventory,
    source: EventSource,
    messages: u64,
    commits: u64,
    written: u64,
    events: u64,
    event_bytes: u64,
}

impl Vm {
    fn new() -> Result<Self> {
        let began = Timestamp::from_millis(1_800_000_000_000);
        let record = records::record(1, began);
        let inventory = record.backups.last().map(|entry| entry.inventory.clone()).unwrap_or_default();
        let source = EventSource { cluster: "reeve".to_owned(), node: NodeId::new("control-01")? };
        let (messages, commits, written, events, event_bytes) = (0, 0, 0, 0, 0);
        Ok(Self { record, began, now: began, inventory, source, messages, commits, written, events, event_bytes })
    }

    /// Everything that comes due by itself until then.
    fn live_until(&mut self, until: Timestamp) -> Result<()> {
        while let Some((at, reason)) = next_deadline(&self.record).filter(|(at, _)| *at <= until) {
            let before = (self.record.generation, at.max(self.now));
            self.now = before.1;
            self.take(VmInput::Tick)?;
            if reason == Reason::Warning {
                self.extend()?;
            }
            ensure!(
                self.record.generation != before.0 || next_deadline(&self.record).map(|due| due.0) != Some(at),
                "{reason:?} comes due for ever"
            );
        }
        self.now = until;
        Ok(())
    }

    /// It is stopped, or started, by its owner.
    fn change(&mut self) -> Result<()> {
        let mut facts = facts_of(self.record.clone());
        let runs = facts.state == VmState::Active;
        (facts.state, facts.power) = if runs {
            (VmState::Stopped, Some(PowerState::Shutdown))
        } else {
            (VmState::Active, Some(PowerState::Running))
        };
        let id = self.message("notification")?;
        let said = Said::new(self.now.as_millis() * 1000, id.as_str());
        let (change, phase, fault) = (VmChange::Update, Phase::Whole, None);
        let event_type = "instance.update".to_owned();
        self.take(VmInput::Notified(VmNotification { id, said, event_type, change, phase, facts, fault }))
    }

    fn extend(&mut self) -> Result<()> {
        let (id, vm) = (self.message("extension")?, self.record.vm);
        let command = Command {
            id,
            vm,
            by: Requester::Operator("owner".to_owned()),
            kind: CommandKind::LeaseExtend { by: None },
        };
        self.take(VmInput::Commanded { command, policy: None })
    }

    fn message(&mut self, what: &str) -> Result<MessageId> {
        self.messages += 1;
        Ok(MessageId::new(format!("{what}-{:028}", self.messages))?)
    }

    /// An input, and all that follows from it: outcomes, published events, the probes after it.
    fn take(&mut self, input: VmInput) -> Result<()> {
        let mut waiting = vec![input];
        let mut steps = 0;
        let mut unrecorded = None;
        while let Some(input) = waiting.pop().or_else(|| unrecorded.map(|through| VmInput::Published { through })) {
            steps += 1;
            ensure!(steps <= MOST_FOLLOWING, "what follows from an input has no end");
            let done = step(&self.record, input, self.now);
            if !done.changed {
                continue;
            }
            self.commits += 1;
            self.record = done.record;
            self.written += bytes(&self.record)?;
            for event in &done.events {
                self.events += 1;
                self.event_bytes += serde_json::to_vec(&event.to_cloud_event(&self.source))?.len() as u64;
            }
            waiting.push(VmInput::Probed { probe: ProbeKind::GuestAgent, verdict: ProbeVerdict::Up });
            waiting.extend(done.effects.iter().map(|pending| self.outcome(pending)));
            unrecorded = done.events.last().map(|event| event.sequence);
            if let Some(through) = unrecorded {
                confirm(&mut self.record, through);
            }
        }
        Ok(())
    }

    /// What the world answers when all is well.
    fn outcome(&self, pending: &PendingEffect) -> VmInput {
        let done = match &pending.effect {
            Effect::TakeInventory => Done::Inventory(self.inventory.clone()),
            Effect::SnapshotDisk { disk, .. } => {
                Done::Snapshot(Snapshot { disk: disk.clone(), id: self.record.vm.to_string() })
            }
            Effect::StoreDisk { snapshot, .. } => {
                let disk = snapshot.disk.clone();
                Done::Stored(StoredDisk { disk, bytes: 20 << 30, blake3: [1; 32], sha256: [2; 32] })
            }
            Effect::VerifyBackup { .. } => Done::Verified { bytes: 60 << 30 },
            Effect::Retest { .. } => Done::Probed(ProbeVerdict::Up),
            Effect::Launch { .. } => Done::Launched { new_vm: self.record.vm },
            Effect::Notify { .. }
            | Effect::Start
            | Effect::Stop
            | Effect::HardReboot
            | Effect::Suspend
            | Effect::Resume
            | Effect::SealBackup { .. }
            | Effect::DropSnapshots { .. }
            | Effect::DeleteBackup { .. }
            | Effect::DeleteServer
            | Effect::DeleteVolume { .. }
            | Effect::ReleaseAddress { .. }
            | Effect::RestoreInPlace { .. }
            | Effect::Introduce { .. }
            | Effect::CheckPlan
            | Effect::MakePart { .. }
            | Effect::AwaitReady { .. }
            | Effect::TakeBack
            | Effect::Report { .. } => Done::Plain,
        };
        VmInput::EffectDone { key: pending.key, outcome: Outcome::Done(done) }
    }
}

fn bytes(record: &VmRecord) -> Result<u64> {
    Ok(codec::encode(RECORD_FORMAT, record)?.len() as u64)
}

#[cfg(test)]
mod tests {
    use reeve_lifecycle::invariants;
    use reeve_lifecycle::record::{Health, Lease};

    use super::*;

    #[test]
    fn a_month_is_a_backup_a_day_and_an_extended_lease() {
        let mut vm = Vm::new().unwrap();
        for day in 1..=u64::from(DAYS) {
            vm.live_until(vm.began + Span::from_days(day).duration()).unwrap();
            assert_eq!(invariants::check(&vm.record), Ok(()));
            assert!(vm.record.operation.is_none() && vm.record.effects.is_empty() && vm.record.outbox.is_empty());
        }
        assert_eq!(vm.record.health, Health::Up);
        let Lease::Running { term, .. } = &vm.record.lease else { panic!("{:?}", vm.record.lease) };
        assert_eq!(term.extensions, 2);
        // A backup of the root and three volumes: its beginning, 11 outcomes, and a write for its last event.
        let life = Life::play(0).unwrap();
        assert!((14.0..20.0).contains(&life.commits), "{life:?}");
        assert!(life.backups > 5 && life.resting_bytes > 1_000.0, "{life:?}");
    }

    #[test]
    fn each_change_more_is_two_writes_and_an_event_more() {
        let (none, two) = (Life::play(0).unwrap(), Life::play(2).unwrap());
        // Hours lie between them, so that an event is out is a write of its own; once it is one with a warning's.
        assert!((3.9..=4.5).contains(&(two.commits - none.commits)), "{none:?} {two:?}");
        assert!(two.events - none.events >= 2.0, "{none:?} {two:?}");
        assert!(two.resting_bytes >= none.resting_bytes);
    }

    #[test]
    fn the_parts_of_a_record_are_less_than_the_whole() {
        let whole = Life::play(0).unwrap().resting_bytes;
        let parts: f64 = weights().unwrap().iter().map(|(_, bytes)| *bytes).sum();
        assert!(parts > whole / 2.0 && parts < whole, "{parts} of {whole}");
    }
}

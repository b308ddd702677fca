//! Watches a run: compares each committed step with the slow model, and looks at what the cloud is asked to destroy in
//! the moment in which it is asked.

use std::collections::{BTreeMap, BTreeSet};

use reeve_drivers::cloud::sim::GroundTruth;
use reeve_lifecycle::effect::{Effect, EffectKey, Outcome};
use reeve_lifecycle::input::{Ignored, Step};
use reeve_lifecycle::record::{Lease, VmRecord};
use reeve_lifecycle::{Done, Verdict, VmInput};
use reeve_protocol::command::{Answer, BackupFirst, Command, CommandKind, RefusalCode, Requester, Switch};
use reeve_protocol::event::{Alert, Event, EventKind, LeaseEndReason};
use reeve_protocol::observation::{VmChange, VmState};
use reeve_protocol::{Timestamp, UserId, VmId};

use super::model::{Creation, Fact, Model, State, WithBackup, is_near};
use super::policies::EXTEND_ROLE;
use super::vault::SimVault;

/// What is known of one VM.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) model: Model,
    /// Every committed event.
    pub(super) events: Vec<Event>,
    /// How many of them came out of the bus.
    pub(super) published: usize,
    /// Commands that were accepted.
    pub(super) accepted: Vec<(Timestamp, CommandKind)>,
    pub(super) maintenance: bool,
    pub(super) delegates: Vec<UserId>,
    /// The record as it was last committed.
    pub(super) last: VmRecord,
    /// Whether the record was removed because nothing is left to remember.
    pub(super) purged: bool,
    /// What was on the disks when Reeve asked the cloud to destroy the VM, where the plan backs up.
    pub(super) destroyed_with: Option<BTreeSet<String>>,
    /// Whether Reeve asked the cloud to destroy it.
    pub(super) destroying: bool,
    alerts: BTreeSet<Alert>,
    step_open: bool,
}

/// The oracle of a run.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) vms: BTreeMap<VmId, Watched>,
    /// The first answer to each command.
    pub(super) answers: BTreeMap<String, Answer>,
    /// Volumes by id: whose they are, and whether they go with the VM.
    pub(super) volumes: BTreeMap<String, (VmId, bool)>,
    pub(super) addresses: BTreeMap<String, VmId>,
    /// How many times each decision to reboot rebooted the VM.
    pub(super) reboots: BTreeMap<(VmId, EffectKey), usize>,
    broken: Option<String>,
}

impl Oracle {
    /// The first rule that was broken.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub(super) fn break_rule(&mut self, vm: VmId, why: impl AsRef<str>) {
        self.broken.get_or_insert_with(|| format!("VM {vm}: {}", why.as_ref()));
    }

    fn watched(&mut self, record: &VmRecord) -> &mut Watched {
        self.vms.entry(record.vm).or_insert_with(|| Watched {
            model: Model::new(record.policy.terms.clone()),
            events: Vec::new(),
            published: 0,
            accepted: Vec::new(),
            maintenance: false,
            delegates: Vec::new(),
            last: record.clone(),
            purged: false,
            destroyed_with: None,
            destroying: false,
            alerts: BTreeSet::new(),
            step_open: false,
        })
    }

    /// A step was committed.
    pub(super) fn committed(&mut self, before: &VmRecord, input: &VmInput, step: &Step, now: Timestamp) {
        let vm = before.vm;
        let watched = self.watched(before);
        let result = watched
            .take_input(before, input, step, now)
            .and_then(|()| watched.take_events(input, step, now))
            .and_then(|()| watched.compare(&step.record, now));
        watched.last.clone_from(&step.record);
        watched.purged = step.purge;
        if let Err(why) = result {
            self.break_rule(vm, why);
        }
    }

    /// A command was answered. The same command again must get the same answer, unless nothing was known of the VM.
    pub(super) fn answered(&mut self, command: &Command, verdict: &Verdict) {
        let (Verdict::Accepted(Some(answer))
        | Verdict::Denied(answer)
        | Verdict::Ignored(Ignored::Duplicate(Some(answer)))) = verdict
        else {
            return self.break_rule(command.vm, format!("command {} got no answer: {verdict:?}", command.id));
        };
        if matches!(answer, Err(refusal) if refusal.code == RefusalCode::NotFound) {
            return;
        }
        let first = self.answers.entry(command.id.as_str().to_owned()).or_insert_with(|| answer.clone());
        if first != answer {
            let why = format!("command {} was answered {first:?}, then {answer:?}", command.id);
            self.break_rule(command.vm, why);
        }
    }

    /// An event came out of the bus.
    pub(super) fn published(&mut self, event: &Event) {
        let Some(watched) = self.vms.get_mut(&event.vm) else { return };
        let at = usize::try_from(event.sequence).unwrap_or(usize::MAX) - 1;
        let why = if watched.events.get(at) != Some(event) {
            format!("published another event {} than was committed", event.sequence)
        } else if at > watched.published {
            format!("event {} is published after {}", event.sequence, watched.published)
        } else {
            watched.published = watched.published.max(at + 1);
            return;
        };
        self.break_rule(event.vm, why);
    }

    /// Reeve asks the cloud to destroy a VM.
    pub(super) fn destroying(&mut self, vm: VmId, truth: Option<&GroundTruth>, vault: &SimVault, now: Timestamp) {
        let Some(truth) = truth.filter(|truth| !truth.gone) else { return };
        let Some(watched) = self.vms.get_mut(&vm) else {
            return self.break_rule(vm, "it is destroyed and not known");
        };
        watched.destroying = true;
        let may = watched.model.may_end(now);
        let lease = watched.model.lease();
        if watched.model.needs_backup() {
            watched.destroyed_with = Some(hashes(truth));
            for (disk, content) in &truth.disks {
                if !in_vault(vault, vm, &disk.object_name(), &content.blake3) {
                    let why = format!("it is destroyed before {} is verified in the vault", disk.object_name());
                    return self.break_rule(vm, why);
                }
            }
        }
        if !may {
            self.break_rule(vm, format!("it is destroyed at {now}, before its end: {lease:?}"));
        }
    }

    /// Reeve asks the cloud to destroy a volume.
    pub(super) fn destroying_volume(
        &mut self,
        volume: &str,
        truth: impl Fn(VmId) -> Option<GroundTruth>,
        vault: &SimVault,
    ) {
        let Some((vm, own)) = self.volumes.get(volume).copied() else { return };
        let Some(watched) = self.vms.get(&vm) else { return };
        let truth = truth(vm);
        let why = if !own {
            "a volume that is not its own is destroyed"
        } else if truth.as_ref().is_some_and(|truth| !truth.gone) {
            "a volume is destroyed before the VM"
        } else if watched.model.needs_backup()
            && let Some(truth) = truth
            && truth.disks.iter().any(|(disk, content)| {
                disk.object_name() == format!("volume-{volume}")
                    && !in_vault(vault, vm, &disk.object_name(), &content.blake3)
            })
        {
            "a volume is destroyed before it is verified in the vault"
        } else {
            return;
        };
        self.break_rule(vm, why);
    }

    /// Reeve gives an address back.
    pub(super) fn releasing(&mut self, address: &str, truth: impl Fn(VmId) -> Option<GroundTruth>) {
        let Some(vm) = self.addresses.get(address).copied() else { return };
        if truth(vm).is_some_and(|truth| !truth.gone) {
            self.break_rule(vm, "an address is given back before the VM is destroyed");
        }
    }

    /// A new VM was made out of a backup of this one.
    pub(super) fn launched(&mut self, old: VmId, new: &GroundTruth, vault: &SimVault) {
        let new_disks = hashes(new);
        let same = vault.of(old).iter().any(|(_, kept)| {
            kept.verified
                && kept.objects.values().map(|bytes| super::vault::hex_hash(bytes)).collect::<BTreeSet<_>>()
                    == new_disks
        });
        let destroyed_with = self.vms.get(&old).and_then(|watched| watched.destroyed_with.clone());
        if !same {
            self.break_rule(old, "the revived VM's disks equal no verified backup");
        }
        if destroyed_with.is_some_and(|disks| disks != new_disks) {
            self.break_rule(old, "the revived VM's disks are not what was destroyed");
        }
    }
}

fn hashes(truth: &GroundTruth) -> BTreeSet<String> {
    truth.disks.iter().map(|(_, content)| content.blake3.clone()).collect()
}

/// Whether a verified backup of the VM holds this content under this name.
fn in_vault(vault: &SimVault, vm: VmId, name: &str, blake3: &str) -> bool {
    vault.of(vm).iter().any(|(_, kept)| {
        let listed = kept.manifest.as_ref().is_some_and(|manifest| {
            manifest.objects.iter().any(|object| object.name == name && object.blake3 == blake3)
        });
        listed && kept.verified && kept.objects.get(name).is_some_and(|bytes| super::vault::hex_hash(bytes) == blake3)
    })
}

impl Watched {
    fn take_input(&mut self, before: &VmRecord, input: &VmInput, step: &Step, now: Timestamp) -> Result<(), String> {
        match input {
            VmInput::Notified(said) => {
                if matches!(step.verdict, Verdict::Ignored(Ignored::Duplicate(_))) {
                    return Ok(());
                }
                let is_creation = said.change == VmChange::Create;
                let creation = if is_creation { Creation::Seen } else { Creation::Notification };
                self.model.told(now, &said.facts, said.said, creation);
            }
            VmInput::Listed { facts, said } => self.model.told(now, facts, *said, Creation::Listing),
            VmInput::Introduced { facts, said, .. } => self.model.told(now, facts, *said, Creation::Seen),
            VmInput::Commanded { command, policy } => match &step.verdict {
                Verdict::Accepted(Some(Ok(_))) => {
                    self.check_extension(command, Granted::Yes, now)?;
                    // A policy that wants no end, or a later one, takes an end back.
                    let taken_back =
                        step.events.iter().any(|event| matches!(event.kind, EventKind::LeaseEndCancelled { .. }));
                    if taken_back && command.kind != CommandKind::LeaseCancelEnd {
                        self.model.add(now, Fact::EndCancelled);
                    }
                    let policy = policy.as_ref().map(|policy| Box::new(policy.terms.clone()));
                    self.accept(command, policy, now);
                }
                Verdict::Denied(Err(refusal))
                    if refusal.code == RefusalCode::Conflict && self.model.lease().state == State::Kept =>
                {
                    // A kept VM is started again with its extension, and something else is under way with it.
                }
                Verdict::Denied(_) => self.check_extension(command, Granted::No, now)?,
                Verdict::Accepted(_) | Verdict::Ignored(_) | Verdict::Busy => {}
            },
            VmInput::Missing { .. }
            | VmInput::Asked { .. }
            | VmInput::Probed { .. }
            | VmInput::EffectDone { .. }
            | VmInput::Published { .. }
            | VmInput::PolicyAssigned { .. }
            | VmInput::HoldRaised(_)
            | VmInput::HoldLifted(_)
            | VmInput::ChildExhausted(_)
            | VmInput::ChildRecovered(_)
            | VmInput::Tick => {}
        }
        if step.effects.iter().any(|pending| pending.effect == Effect::DeleteServer) {
            self.model.add(now, Fact::Destroying);
        }
        if !before.is_gone() && step.record.is_gone() {
            self.model.add(now, Fact::Gone);
        }
        Ok(())
    }

    fn check_extension(&self, command: &Command, granted: Granted, now: Timestamp) -> Result<(), String> {
        let CommandKind::LeaseExtend { by } = &command.kind else { return Ok(()) };
        let may = self.may_extend(&command.by);
        let must = if may { self.model.must_extend(*by, now) } else { Some(false) };
        match (must, granted) {
            (Some(true), Granted::No) => Err(format!("extension {} was denied; it was possible", command.id)),
            (Some(false), Granted::Yes) => Err(format!("extension {} was granted; it was not allowed", command.id)),
            (Some(true), Granted::Yes) | (Some(false), Granted::No) | (None, _) => Ok(()),
        }
    }

    fn may_extend(&self, by: &Requester) -> bool {
        match by {
            Requester::Operator(_) => true,
            Requester::User { id, project, roles } => {
                self.last.facts.user.as_ref() == Some(id)
                    || self.delegates.contains(id)
                    || (project.is_some()
                        && *project == self.last.facts.project
                        && roles.iter().any(|role| role == EXTEND_ROLE))
            }
        }
    }

    fn accept(&mut self, command: &Command, policy: Option<Box<reeve_lifecycle::Policy>>, now: Timestamp) {
        self.accepted.push((now, command.kind.clone()));
        let fact = match &command.kind {
            CommandKind::LeaseExtend { by } => Fact::Extended(*by),
            CommandKind::LeaseEnd => Fact::EndAsked,
            CommandKind::LeaseCancelEnd => Fact::EndCancelled,
            CommandKind::VmDelete { backup: BackupFirst::No } => Fact::DeleteAsked(WithBackup::No),
            CommandKind::VmDelete { backup: BackupFirst::AsPolicy } => {
                let backs_up = self.model.policy().lease.on_end != reeve_lifecycle::policy::OnEnd::Delete;
                Fact::DeleteAsked(if backs_up { WithBackup::Yes } else { WithBackup::No })
            }
            CommandKind::LeaseExempt(Switch::On) => Fact::Exempted,
            CommandKind::LeaseExempt(Switch::Off) if self.model.lease().state == State::Exempt => {
                return self.model.unexempt(now);
            }
            CommandKind::LeaseSetPolicy { .. } => match policy {
                Some(policy) => Fact::Policy(policy),
                None => return,
            },
            CommandKind::VmMaintenance(switch) => {
                self.maintenance = *switch == Switch::On;
                return;
            }
            CommandKind::LeaseSetDelegates { delegates } => {
                self.delegates.clone_from(delegates);
                return;
            }
            _ => return,
        };
        self.model.add(now, fact);
    }

    fn take_events(&mut self, input: &VmInput, step: &Step, now: Timestamp) -> Result<(), String> {
        for event in &step.events {
            let last = self.events.last().map_or(0, |event| event.sequence);
            if event.sequence != last + 1 {
                return Err(format!("event {} follows {last}", event.sequence));
            }
            self.events.push(event.clone());
            match &event.kind {
                EventKind::LeaseExpired { grace_until, .. } => {
                    let lease = self.model.lease();
                    if lease.state == State::Running && now < lease.ends && !is_near(now, lease.ends) {
                        return Err(format!("its lease ended early: {now} is before {}", lease.ends));
                    }
                    self.model.add(now, grace_until.map_or(Fact::Told, Fact::Grace));
                }
                EventKind::LeaseExpiring { .. } => self.model.add(now, Fact::Told),
                EventKind::VmTerminating { .. } => {
                    if !self.model.may_end(now) {
                        return Err(format!("its end begins at {now}, before its time: {:?}", self.model.lease()));
                    }
                    self.model.add(now, Fact::EndBegun);
                }
                EventKind::LeaseEnded {
                    reason: LeaseEndReason::Stopped | LeaseEndReason::Suspended | LeaseEndReason::Notified,
                } => self.model.add(now, Fact::Kept),
                EventKind::AlertRaised { alert, .. } if !self.alerts.insert(*alert) => {
                    return Err(format!("{alert:?} was raised twice in one episode"));
                }
                EventKind::AlertCleared { alert } if !self.alerts.remove(alert) => {
                    return Err(format!("{alert:?} was cleared and not raised"));
                }
                kind => self.take_repair(kind, input, &step.record)?,
            }
        }
        Ok(())
    }

    /// Every step of a repair ends with a retest of what started it.
    fn take_repair(&mut self, kind: &EventKind, input: &VmInput, record: &VmRecord) -> Result<(), String> {
        match kind {
            EventKind::RepairStarted { .. } => self.step_open = false,
            EventKind::RepairStepStarted { step } if std::mem::replace(&mut self.step_open, true) => {
                return Err(format!("repair step {step} begins before the one before it was tested"));
            }
            EventKind::RepairStepFinished { step, .. } => {
                self.step_open = false;
                let tested = matches!(input, VmInput::EffectDone { key, outcome: Outcome::Done(Done::Probed(_)) }
                if self.last.effects.iter().any(|pending| {
                    pending.key == *key && matches!(pending.effect, Effect::Retest { .. })
                }));
                // A VM that was stopped or deleted meanwhile has nothing left to test.
                let runs = matches!(record.facts.state, VmState::Active | VmState::Error);
                if !tested && runs {
                    return Err(format!("repair step {step} is over without a retest"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The record's lease must be the model's.
    fn compare(&self, record: &VmRecord, now: Timestamp) -> Result<(), String> {
        let model = self.model.lease();
        let same = match (&record.lease, model.state) {
            (_, State::Gone) => true,
            (Lease::None, State::None) | (Lease::Exempt, State::Exempt) | (Lease::Ended { .. }, State::Kept) => true,
            (Lease::Parked { term, .. }, State::Parked) | (Lease::Running { term, .. }, State::Running) => {
                is_near(term.ends_at, model.ends)
                    && term.extensions == model.extensions
                    && is_near(term.started_at, model.started)
            }
            (
                Lease::None | Lease::Exempt | Lease::Ended { .. } | Lease::Parked { .. } | Lease::Running { .. },
                State::None | State::Exempt | State::Kept | State::Parked | State::Running,
            ) => false,
        };
        if same { Ok(()) } else { Err(format!("at {now} its lease is {:?}, the model has {model:?}", record.lease)) }
    }
}

#[derive(Debug, Clone, Copy)]
enum Granted {
    Yes,
    No,
}

//! The world: time, the record, what is being performed.

use reeve_lifecycle::effect::{Disk, Snapshot, StoredDisk};
use reeve_lifecycle::input::{Reason, VmInput};
use reeve_lifecycle::operation::Operation;
use reeve_lifecycle::policy::ProbeKind;
use reeve_lifecycle::record::{Lease, LeasePhase, MAX_BACKUPS, MAX_EFFECTS, RECORD_FORMAT, Term};
use reeve_lifecycle::{
    Done, Effect, Outcome, PendingEffect, Policy, ProbeVerdict, Verdict, VmRecord, invariants, next_deadline, recover,
    step,
};
use reeve_protocol::codec;
use reeve_protocol::command::{Answer, CommandKind, Requester};
use reeve_protocol::event::{Alert, Event, EventKind};
use reeve_protocol::observation::{Phase, VmChange, VmFacts, VmState};
use reeve_protocol::provision::Part;
use reeve_protocol::{BackupId, Span, Timestamp};

use super::build::{T0, asked, cloud, command, delete_end, facts, inventory, named, note, other_vm, vm};

pub(crate) struct World {
    pub(crate) rec: VmRecord,
    pub(crate) now: Timestamp,
    pub(crate) events: Vec<Event>,
    /// What workers are performing.
    pub(crate) running: Vec<PendingEffect>,
    /// Everything that was ever issued.
    pub(crate) issued: Vec<PendingEffect>,
    /// What a retest sees.
    pub(crate) guest_is_up: bool,
    /// Whether the bus confirms events at once.
    pub(crate) bus_is_up: bool,
    pub(crate) purged: bool,
    messages: u32,
}

impl World {
    /// A world in which nothing is known of the VM yet.
    pub(crate) fn unseen(policy: Policy) -> Self {
        Self {
            rec: VmRecord::unseen(vm(), cloud(), named(policy)),
            now: T0,
            events: Vec::new(),
            running: Vec::new(),
            issued: Vec::new(),
            guest_is_up: true,
            bus_is_up: true,
            purged: false,
            messages: 0,
        }
    }

    /// A VM whose creation was seen, launched at `T0`.
    pub(crate) fn created(policy: Policy) -> Self {
        let mut world = Self::unseen(policy);
        world.notify(VmChange::Create, Phase::Start, facts(VmState::Building));
        world.now = T0 + Span::from_millis(1);
        world.notify(VmChange::Create, Phase::End, facts(VmState::Active));
        world
    }

    /// A VM that a listing finds at this time, launched at `T0`.
    pub(crate) fn found(policy: Policy, now: Timestamp) -> Self {
        let mut world = Self::unseen(policy);
        world.now = now;
        world.list(facts(VmState::Active));
        world
    }

    /// A created VM whose end has begun.
    pub(crate) fn ending(policy: Policy) -> Self {
        let mut world = Self::created(policy);
        world.go(world.term().ends_at);
        assert!(matches!(world.phase(), LeasePhase::Ending { .. }), "{:?}", world.rec.lease);
        world
    }

    /// A VM that is gone after its end; its final backup is kept.
    pub(crate) fn destroyed(policy: Policy) -> Self {
        let mut world = Self::ending(policy);
        world.finish();
        assert!(world.rec.is_gone());
        world
    }

    /// One step, with every rule checked.
    pub(crate) fn input(&mut self, input: VmInput) -> Verdict {
        let shown = format!("{input:?}");
        let decision = step(&self.rec, input, self.now);
        invariants::check_step(&self.rec, &decision, self.now)
            .unwrap_or_else(|broken| panic!("{broken}\nby {shown}\nat {}\nfrom {:#?}", self.now, self.rec));
        self.rec = decision.record;
        self.check_more();
        self.purged |= decision.purge;
        self.events.extend(decision.events);
        self.issued.extend(decision.effects.iter().cloned());
        self.running.retain(|running| self.rec.effects.iter().any(|kept| kept.key == running.key));
        for effect in decision.effects {
            assert!(self.running.iter().all(|running| running.key != effect.key), "{effect:?} is issued while it runs");
            self.running.push(effect);
        }
        if self.bus_is_up && !self.rec.outbox.is_empty() {
            let through = self.rec.sequence;
            self.input(VmInput::Published { through });
        }
        decision.verdict
    }

    /// Rules beyond the crate's own.
    fn check_more(&self) {
        let rec = &self.rec;
        assert!(rec.effects.len() <= MAX_EFFECTS + MAX_BACKUPS + 2, "{} effects", rec.effects.len());
        let bytes = codec::encode(RECORD_FORMAT, rec).unwrap();
        assert_eq!(codec::decode::<VmRecord>(RECORD_FORMAT, &bytes).unwrap(), (RECORD_FORMAT, rec.clone()));
        let is_ending = rec.end_request.is_some() || matches!(rec.operation, Some(Operation::Ending(_)));
        if matches!(rec.lease, Lease::Running { phase: LeasePhase::Ending { .. }, .. }) {
            assert!(is_ending, "the lease is ending and nothing ends it");
        }
        if matches!(rec.lease, Lease::Running { phase: LeasePhase::Active, .. }) {
            assert!(!is_ending, "the VM is being ended under an active lease");
        }
    }

    pub(crate) fn notify(&mut self, change: VmChange, phase: Phase, facts: VmFacts) -> Verdict {
        self.messages += 1;
        let id = format!("n-{}", self.messages);
        self.input(VmInput::Notified(note(&id, self.now, change, phase, facts)))
    }

    /// The cloud tells that the VM is in this state now.
    pub(crate) fn becomes(&mut self, state: VmState) {
        self.now = self.now + Span::from_millis(1);
        self.notify(VmChange::Update, Phase::Whole, facts(state));
    }

    /// The cloud tells that it does this with the VM now, or nothing any more.
    pub(crate) fn cloud_does(&mut self, task: Option<&str>) {
        self.now = self.now + Span::from_millis(1);
        let facts = VmFacts { task: task.map(str::to_owned), ..facts(self.rec.facts.state) };
        self.notify(VmChange::Update, Phase::Whole, facts);
    }

    pub(crate) fn list(&mut self, facts: VmFacts) -> Verdict {
        self.input(VmInput::Listed { facts, said: asked(self.now) })
    }

    /// The owner deletes the VM.
    pub(crate) fn vanish(&mut self) {
        self.messages += 1;
        let id = format!("n-{}", self.messages);
        self.now = self.now + Span::from_millis(1);
        self.input(VmInput::Notified(delete_end(&id, self.now)));
    }

    pub(crate) fn ask(&mut self, by: Requester, kind: CommandKind) -> Answer {
        self.messages += 1;
        let id = format!("c-{}", self.messages);
        self.ask_as(&id, by, kind)
    }

    pub(crate) fn ask_as(&mut self, id: &str, by: Requester, kind: CommandKind) -> Answer {
        match self.input(VmInput::Commanded { command: command(id, by, kind), policy: None }) {
            Verdict::Accepted(Some(answer)) | Verdict::Denied(answer) => answer,
            verdict @ (Verdict::Accepted(None) | Verdict::Ignored(_) | Verdict::Busy) => panic!("{verdict:?}"),
        }
    }

    /// Another policy rules from now on.
    pub(crate) fn assign(&mut self, policy: Policy) {
        self.input(VmInput::PolicyAssigned { policy: named(policy), unknown: None });
    }

    pub(crate) fn probe(&mut self, up: bool) -> Verdict {
        let verdict = if up { ProbeVerdict::Up } else { ProbeVerdict::Down { cause: "no answer".into() } };
        self.input(VmInput::Probed { probe: ProbeKind::GuestAgent, verdict })
    }

    pub(crate) fn tick(&mut self) {
        self.input(VmInput::Tick);
    }

    /// It is this time now.
    pub(crate) fn go(&mut self, at: Timestamp) {
        self.now = at;
        self.tick();
    }

    pub(crate) fn pass(&mut self, span: Span) {
        self.go(self.now + span);
    }

    /// Sleeps until the record wants to be woken.
    pub(crate) fn wake(&mut self) -> Reason {
        let (at, reason) = next_deadline(&self.rec).expect("something is due one day");
        self.go(at);
        reason
    }

    /// The node dies: what was being performed is lost, and performed again.
    pub(crate) fn crash(&mut self) {
        self.running = recover(&self.rec, self.now);
    }

    /// The one effect that an operation waits for and a worker performs.
    pub(crate) fn work(&self) -> Option<&PendingEffect> {
        self.running.iter().find(|running| !is_background(&running.effect))
    }

    pub(crate) fn effect(&self) -> Effect {
        self.work().unwrap_or_else(|| panic!("nothing is performed: {:?}", self.rec.operation)).effect.clone()
    }

    /// The worker of the operation's effect answers.
    pub(crate) fn answer(&mut self, outcome: Outcome) -> Verdict {
        let key = self.work().expect("something is performed").key;
        self.running.retain(|running| running.key != key);
        self.input(VmInput::EffectDone { key, outcome })
    }

    pub(crate) fn done(&mut self) -> Verdict {
        let effect = self.effect();
        let done = self.natural(&effect);
        self.answer(Outcome::Done(done))
    }

    /// The operation's effect fails so many times, each retried when it is due.
    pub(crate) fn fail(&mut self, times: u32) {
        for _ in 0..times {
            if self.work().is_none() {
                self.wake();
            }
            self.answer(Outcome::Retryable { reason: "the cloud is busy".into() });
        }
    }

    /// Answers every effect with success until this one is performed.
    pub(crate) fn done_until(&mut self, wanted: impl Fn(&Effect) -> bool) {
        for _ in 0..100 {
            if self.work().is_some_and(|running| wanted(&running.effect)) {
                return;
            }
            if self.work().is_some() {
                self.done();
            } else {
                self.wake();
            }
        }
        panic!("never performed; {:?}", self.rec.operation);
    }

    /// Answers background effects with success.
    pub(crate) fn background(&mut self) {
        while let Some(running) = self.running.iter().find(|running| is_background(&running.effect)).cloned() {
            self.running.retain(|other| other.key != running.key);
            self.input(VmInput::EffectDone { key: running.key, outcome: Outcome::Done(Done::Plain) });
        }
    }

    /// Answers everything with success until no operation is under way.
    pub(crate) fn finish(&mut self) {
        for _ in 0..200 {
            self.background();
            if self.rec.operation.is_none() {
                return;
            }
            if self.work().is_some() {
                self.done();
            } else {
                self.wake();
            }
        }
        panic!("never done: {:?}", self.rec.operation);
    }

    /// What a worker that succeeds answers.
    pub(crate) fn natural(&self, effect: &Effect) -> Done {
        match effect {
            Effect::TakeInventory => Done::Inventory(inventory()),
            Effect::SnapshotDisk { disk, .. } => {
                Done::Snapshot(Snapshot { disk: disk.clone(), id: format!("snap-{}", disk.object_name()) })
            }
            Effect::StoreDisk { snapshot, .. } => Done::Stored(stored(&snapshot.disk)),
            Effect::VerifyBackup { .. } => Done::Verified { bytes: 3 << 30 },
            Effect::Launch { .. } => Done::Launched { new_vm: other_vm() },
            Effect::Retest { .. } if self.guest_is_up => Done::Probed(ProbeVerdict::Up),
            Effect::Retest { .. } => Done::Probed(ProbeVerdict::Down { cause: "no answer".into() }),
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
            | Effect::CheckPlan
            | Effect::AwaitReady { .. }
            | Effect::TakeBack
            | Effect::Report { .. }
            | Effect::Introduce { .. } => Done::Plain,
            Effect::MakePart { part: Part::Server } => Done::Launched { new_vm: other_vm() },
            Effect::MakePart { part } => Done::Part { addresses: addresses(*part) },
        }
    }

    /// A backup on request, done; returns which.
    pub(crate) fn back_up(&mut self) -> BackupId {
        self.ask(super::operator(), CommandKind::BackupRun).unwrap();
        self.finish();
        self.rec.latest_verified().expect("the backup is verified").id
    }

    pub(crate) fn term(&self) -> Term {
        *self.rec.term().expect("there is a lease")
    }

    pub(crate) fn phase(&self) -> LeasePhase {
        match &self.rec.lease {
            Lease::Running { phase, .. } => *phase,
            lease @ (Lease::None | Lease::Exempt | Lease::Parked { .. } | Lease::Ended { .. }) => panic!("{lease:?}"),
        }
    }

    /// How many events of this type there were.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event.kind.type_name() == kind).count()
    }

    /// The last event of this type.
    pub(crate) fn last(&self, kind: &str) -> &EventKind {
        let event = self.events.iter().rev().find(|event| event.kind.type_name() == kind);
        &event.unwrap_or_else(|| panic!("there was no {kind}")).kind
    }

    /// How many times this alert was raised.
    pub(crate) fn raised(&self, wanted: Alert) -> usize {
        let raised = |event: &&Event| matches!(&event.kind, EventKind::AlertRaised { alert, .. } if *alert == wanted);
        self.events.iter().filter(raised).count()
    }

    /// How many times an effect was issued.
    pub(crate) fn times(&self, wanted: impl Fn(&Effect) -> bool) -> usize {
        self.issued.iter().filter(|pending| wanted(&pending.effect)).count()
    }
}

pub(crate) const fn is_background(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Notify { .. } | Effect::Report { .. } | Effect::DropSnapshots { .. } | Effect::DeleteBackup { .. }
    )
}

fn stored(disk: &Disk) -> StoredDisk {
    StoredDisk { disk: disk.clone(), bytes: 1 << 30, blake3: [1; 32], sha256: [2; 32] }
}

fn addresses(part: Part) -> Vec<String> {
    match part {
        Part::Port => vec!["10.0.0.5".into()],
        Part::Address => vec!["203.0.113.7".into()],
        Part::Firewall | Part::Volume(_) | Part::Server => Vec::new(),
    }
}

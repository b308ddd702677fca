//! What the node does with what it hears: one step of the core, checked, committed, acknowledged and only then acted
//! upon.

use reeve_lifecycle::input::Step;
use reeve_lifecycle::invariants::check_step;
use reeve_lifecycle::record::{Hold, RECORD_FORMAT};
use reeve_lifecycle::{Admission, Verdict, VmInput, VmRecord, confirm, confirmed, next_deadline, step};
use reeve_protocol::command::CommandKind;
use reeve_protocol::event::EventKind;
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::openstack::{self, About};
use reeve_protocol::{Span, Timestamp, VmId, codec};

use super::bus::Incoming;
use super::faults::{Port, Trouble};
use super::node::{Job, Live, Word};
use super::scenario::Crashes;
use super::words::{brief, name, verdict};
use super::world::World;

/// After so many failed listings the cloud counts as unreadable.
const UNREADABLE_AFTER: u32 = 3;

/// How long a VM that is asked for may take until it is ready.
const WITHIN: Span = Span::from_hours(1);

/// What came of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is committed, or changes nothing.
    Yes,
    /// It is not committed, as far as the node knows: it must be offered again.
    No,
    /// It is committed, and the node died before it could say so.
    Died,
}

impl World {
    /// A task tells something.
    pub(super) fn hear(&mut self, word: Word) -> Result<(), String> {
        match word {
            Word::Input { vm, input, done } => {
                let taken = self.handle(vm, *input)?;
                if let (Some(done), Taken::Yes) = (done, taken) {
                    let _ = done.send(());
                }
            }
            Word::Published { vm, through } => self.published(vm, through),
            Word::PublishAgain(vm) => self.publish(vm),
            Word::Record(vm) => self.record(vm)?,
            Word::Listing { asked_at, found, readable } => self.listing(asked_at, found, readable)?,
        }
        Ok(())
    }

    fn listing(
        &mut self,
        asked_at: Timestamp,
        found: Option<Vec<(VmFacts, Said)>>,
        readable: bool,
    ) -> Result<(), String> {
        let Some(node) = &mut self.node else { return Ok(()) };
        let known: Vec<VmId> = node.vms.keys().copied().collect();
        node.failed_listings = if readable { 0 } else { node.failed_listings + 1 };
        let hold = match node.failed_listings {
            0 => Some(VmInput::HoldLifted(Hold::CloudUnreadable)),
            UNREADABLE_AFTER => Some(VmInput::HoldRaised(Hold::CloudUnreadable)),
            _ => None,
        };
        let mut inputs: Vec<(VmId, VmInput)> = Vec::new();
        if let Some(hold) = hold {
            inputs.extend(known.iter().map(|vm| (*vm, hold.clone())));
        }
        if let Some(found) = found {
            let listed: Vec<VmId> = found.iter().map(|(facts, _)| facts.vm).collect();
            inputs.extend(found.into_iter().map(|(facts, said)| (facts.vm, VmInput::Listed { facts, said })));
            let missing = known.into_iter().filter(|vm| !listed.contains(vm));
            inputs.extend(missing.map(|vm| (vm, VmInput::Missing { asked_at })));
        }
        for (vm, input) in inputs {
            if self.node.is_none() || self.handle(vm, input)? == Taken::Died {
                break;
            }
        }
        Ok(())
    }

    /// The bus delivers a message.
    pub(super) fn take_in(&mut self, message: Incoming) -> Result<(), String> {
        let (vm, input) = match message {
            Incoming::Notification(body) => match openstack::decode(&body).map_err(|error| error.to_string())?.about {
                About::Vm(notification) => (notification.facts.vm, VmInput::Notified(*notification)),
                About::Service(_) | About::Other { .. } => {
                    self.bus.acknowledge();
                    return Ok(());
                }
            },
            Incoming::Command(command) if matches!(command.kind, CommandKind::VmProvision(_)) => {
                let admission = Ok(Admission { user_data: String::new(), within: WITHIN });
                (command.vm, VmInput::Asked { command, admission, reply: None })
            }
            Incoming::Command(command) => {
                let policy = match &command.kind {
                    CommandKind::LeaseSetPolicy { policy } => self.policies.get(policy),
                    _ => None,
                };
                (command.vm, VmInput::Commanded { command, policy })
            }
        };
        match self.handle(vm, input)? {
            Taken::Yes => self.bus.acknowledge(),
            // Dead between the commit and the acknowledgement, or right after it.
            Taken::Died if self.chance.per_mille(500) => self.bus.acknowledge(),
            Taken::Died => {}
            Taken::No => {
                let again = self.now() + Span::from_secs(1);
                if let Some(node) = &mut self.node {
                    node.intake_at = again;
                }
            }
        }
        Ok(())
    }

    /// One step of a VM's life, from the input to the effects.
    pub(super) fn handle(&mut self, vm: VmId, input: VmInput) -> Result<Taken, String> {
        let now = self.now();
        let Some(node) = &self.node else { return Ok(Taken::No) };
        let before = match node.vms.get(&vm) {
            Some(live) => live.record.clone(),
            None => match self.unseen(vm, &input) {
                Some(record) => record,
                None => return Ok(Taken::Yes),
            },
        };
        let step = step(&before, input.clone(), now);
        check_step(&before, &step, now).map_err(|broken| format!("VM {vm} at {now}, {}: {broken}", name(&input)))?;
        if step.verdict == Verdict::Busy {
            return Ok(Taken::No);
        }
        if !step.changed && !step.purge {
            if !step.effects.is_empty() {
                return Err(format!("VM {vm}: effects without a commit after {}", name(&input)));
            }
            self.answer(&input, &step);
            return Ok(Taken::Yes);
        }
        match self.faults.next(Port::Store) {
            None => {}
            Some(Trouble::LostAfter) => {
                self.commit(&before, &input, &step, now)?;
                self.restart_supervisor(vm)?;
                return Ok(Taken::No);
            }
            Some(_) => {
                self.restart_supervisor(vm)?;
                return Ok(Taken::No);
            }
        }
        self.commit(&before, &input, &step, now)?;
        if self.dies_now() {
            self.crash("after a commit");
            return Ok(Taken::Died);
        }
        self.answer(&input, &step);
        self.act(step);
        Ok(Taken::Yes)
    }

    /// The record of a VM that nothing is known of, if the input is a reason to begin one.
    fn unseen(&self, vm: VmId, input: &VmInput) -> Option<VmRecord> {
        let policy = match input {
            VmInput::Notified(notification) => self.policies.resolve(&notification.facts).policy,
            VmInput::Listed { facts, .. } | VmInput::Introduced { facts, .. } => self.policies.resolve(facts).policy,
            VmInput::Commanded { .. } | VmInput::Asked { .. } => self.policies.get("default")?,
            _ => return None,
        };
        Some(VmRecord::unseen(vm, Self::cloud_name(), policy))
    }

    fn answer(&self, input: &VmInput, step: &Step) {
        if let VmInput::Commanded { command, .. } | VmInput::Asked { command, .. } = input {
            self.oracle().answered(command, &step.verdict);
            self.say(format_args!("{} {} answered {:?}", command.vm, command.id, step.verdict));
        }
    }

    fn commit(&mut self, before: &VmRecord, input: &VmInput, step: &Step, now: Timestamp) -> Result<(), String> {
        self.commits += 1;
        let record = &step.record;
        let effects: Vec<String> =
            step.effects.iter().map(|one| format!("{} {}", one.key, brief(&one.effect))).collect();
        let events: Vec<&str> = step.events.iter().map(|event| event.kind.type_name()).collect();
        self.say(format_args!(
            "{} g{} {} -> {} [{}] [{}]",
            record.vm,
            record.generation,
            name(input),
            verdict(&step.verdict),
            effects.join(", "),
            events.join(" ")
        ));
        if step.purge {
            self.store.remove(&record.vm);
        } else {
            let bytes = codec::encode(RECORD_FORMAT, record).map_err(|error| error.to_string())?;
            self.store.insert(record.vm, bytes);
        }
        self.oracle().committed(before, input, step, now);
        for event in &step.events {
            let gone = || self.sim.ground_truth(record.vm).is_some_and(|truth| truth.gone);
            if matches!(event.kind, EventKind::VmTerminated | EventKind::VmVanished { .. }) && !gone() {
                return Err(format!("VM {} is said to be gone, and lives", record.vm));
            }
            if let EventKind::VmRevived { new_vm, .. } = event.kind {
                self.revived.insert(new_vm);
            }
        }
        Ok(())
    }

    fn dies_now(&mut self) -> bool {
        match self.scenario.crashes {
            Crashes::None => false,
            Crashes::AfterCommit(commit) => self.commits == commit,
            Crashes::Random { commit, .. } => !self.is_calm && self.chance.per_mille(commit),
        }
    }

    /// What follows a commit: the new record rules, its effects begin, its events go out.
    fn act(&mut self, step: Step) {
        let now = self.now();
        let Some(node) = &mut self.node else { return };
        let vm = step.record.vm;
        if step.purge {
            node.vms.remove(&vm);
            node.tasks.retain(|job| job.vm() != Some(vm));
            return;
        }
        let deadline = next_deadline(&step.record).map(|(at, _)| at);
        let poll_at = node.vms.get(&vm).map_or(now + Span::from_secs(60), |live| live.poll_at);
        // What is no longer wanted is dropped in the middle.
        let pending = &step.record.effects;
        node.tasks.retain(|job| match job {
            Job::Effect(of, key) if *of == vm => pending.iter().any(|pending| pending.key == *key),
            Job::Effect(..) | Job::Probe(_) | Job::Publish(_) | Job::Record(_) | Job::Reconcile => true,
        });
        for pending in step.effects {
            node.start(&step.record, pending);
        }
        node.vms.insert(vm, Live { record: step.record, unrecorded: false, deadline, poll_at });
        self.publish(vm);
    }

    /// The bus has confirmed events: they are out of the outbox here, and out of the stored one with the next commit.
    fn published(&mut self, vm: VmId, through: u64) {
        if let Some(node) = &mut self.node
            && let Some(live) = node.vms.get_mut(&vm)
            && confirm(&mut live.record, through)
        {
            live.unrecorded = true;
            live.deadline = next_deadline(&live.record).map(|(at, _)| at);
            node.record_later(vm);
        }
        self.publish(vm);
    }

    /// Nothing was committed that wrote down what is confirmed.
    fn record(&mut self, vm: VmId) -> Result<(), String> {
        let live = self.node.as_ref().and_then(|node| node.vms.get(&vm));
        let Some(record) = live.filter(|live| live.unrecorded).map(|live| &live.record) else { return Ok(()) };
        let through = confirmed(record);
        if self.handle(vm, VmInput::Published { through })? == Taken::No
            && let Some(node) = &mut self.node
        {
            node.record_later(vm);
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, vm: VmId) {
        let Some(node) = &mut self.node else { return };
        let Some(live) = node.vms.get(&vm) else { return };
        if live.record.outbox.is_empty() || node.tasks.is_running(&Job::Publish(vm)) {
            return;
        }
        let events = live.record.outbox.clone();
        node.publish(vm, events, &self.bus, &self.faults);
    }
}

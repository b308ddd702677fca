//! What the node does with what it hears: one step of the core, checked, committed, acknowledged and only then acted
//! upon. And how it dies and comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_lifecycle::input::Step;
use reeve_lifecycle::invariants::check_step;
use reeve_lifecycle::record::{Hold, Presence, RECORD_FORMAT};
use reeve_lifecycle::{Verdict, VmInput, VmRecord, next_deadline, recover, step};
use reeve_protocol::event::EventKind;
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::openstack::{self, About};
use reeve_protocol::{Epoch, ShardId, Span, Timestamp, VmId, codec};
use reeve_runtime::{Ownership, Ports, Timeouts};

use super::bus::Incoming;
use super::executor::Executor;
use super::faults::{Port, Trouble};
use super::node::{Inbox, Job, Live, Node, SimIntroducer, SimOwnership, SimPost, Word};
use super::scenario::Crashes;
use super::world::World;

/// The time between two listings.
const RECONCILE: Span = Span::from_secs(900);
/// The time between two probes and two listings once all is calm.
const CALM_INTERVAL: Span = Span::from_secs(1_800);
/// After so many failed listings the cloud counts as unreadable.
const UNREADABLE_AFTER: u32 = 3;

/// What came of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// It is committed, or changes nothing.
    Yes,
    /// It is not committed, as far as the node knows: it must be offered again.
    No,
    /// It is committed, and the node died before it could say so.
    Died,
}

impl World {
    /// The node comes up from what is stored.
    pub(super) fn start_node(&mut self) -> Result<(), String> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let inbox = Inbox::default();
        let coordination = SimOwnership { epoch: Arc::clone(&self.epoch), faults: self.faults.clone() };
        let name = Self::cloud_name();
        let ports = Ports {
            clock: Arc::new(self.clock.clone()),
            cloud: BTreeMap::from([(name.clone(), self.cloud_port())]),
            probe: BTreeMap::from([(name, Arc::clone(&self.cloud) as Arc<dyn reeve_ports::GuestProbe>)]),
            vault: Arc::new(self.vault.clone()),
            notifier: Arc::new(SimPost {
                clock: self.clock.clone(),
                faults: self.faults.clone(),
                letters: Arc::clone(&self.letters),
            }),
            timeouts: Timeouts {
                settle: Duration::from_secs(60),
                look_every: Duration::from_secs(2),
                ..Timeouts::default()
            },
        };
        let ownership = Ownership {
            shard: ShardId(0),
            epoch: Epoch(epoch),
            coordination: Arc::new(coordination),
            introducer: Arc::new(SimIntroducer(Arc::clone(&inbox))),
        };
        self.node = Some(Node {
            tasks: Executor::new(),
            inbox,
            vms: BTreeMap::new(),
            ports,
            ownership: Arc::new(ownership),
            reconcile_at: self.now(),
            failed_listings: 0,
            intake_at: self.now(),
        });
        self.say(format_args!("the node is up"));
        let stored: Vec<VmId> = self.store.keys().copied().collect();
        stored.into_iter().try_for_each(|vm| self.load(vm))
    }

    /// Starts the supervisor of a stored VM: what was under way is performed again.
    fn load(&mut self, vm: VmId) -> Result<(), String> {
        let Some(bytes) = self.store.get(&vm) else { return Ok(()) };
        let (_, record): (u8, VmRecord) = codec::decode(RECORD_FORMAT, bytes).map_err(|error| error.to_string())?;
        let committed = self.oracle().vms.get(&vm).is_some_and(|watched| watched.last == record);
        if !committed {
            return Err(format!("VM {vm}: what is stored does not decode to what was committed"));
        }
        let effects = recover(&record, self.now());
        let now = self.now();
        let deadline = next_deadline(&record).map(|(at, _)| at);
        let live = Live { record: record.clone(), deadline, poll_at: now + Span::from_secs(30) };
        let Some(node) = &mut self.node else { return Ok(()) };
        node.vms.insert(vm, live);
        for pending in effects {
            node.start(&record, pending);
        }
        self.publish(vm);
        Ok(())
    }

    /// The node dies: everything in its memory is gone, in the middle of whatever it did.
    pub(super) fn crash(&mut self, when: &str) {
        let Some(mut node) = self.node.take() else { return };
        node.tasks.retain(|_| false);
        self.crashes += 1;
        let down = match self.chance.below(10) {
            0 => self.chance.seconds(600..=3 * 3_600),
            1..=3 => self.chance.seconds(10..=600),
            _ => Span::from_millis(self.chance.within(0..=5_000)),
        };
        self.starts_at = self.now() + down;
        self.say(format_args!("the node dies {when}, for {down}"));
    }

    /// What is due by the node's own timers.
    pub(super) fn wake_node(&mut self, now: Timestamp) -> Result<(), String> {
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.reconcile_at <= now {
            node.reconcile_at = now + if self.is_calm { CALM_INTERVAL } else { RECONCILE };
            if !node.tasks.is_running(&Job::Reconcile) {
                let cloud = self.cloud_port();
                if let Some(node) = &mut self.node {
                    node.reconcile(cloud);
                }
            }
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        let calm = self.is_calm;
        let mut due = Vec::new();
        let mut polls = Vec::new();
        for (vm, live) in &mut node.vms {
            if live.deadline.is_some_and(|at| at <= now) {
                due.push(*vm);
            }
            if live.poll_at <= now {
                let interval = live.record.policy.terms.health.interval;
                live.poll_at = now + if calm { interval.max(CALM_INTERVAL) } else { interval };
                if !matches!(live.record.health, reeve_lifecycle::record::Health::Paused { .. }) {
                    polls.push(live.record.clone());
                }
            }
        }
        for record in polls {
            if !node.tasks.is_running(&Job::Probe(record.vm)) {
                node.probe(&record);
            }
        }
        for vm in due {
            if self.node.is_none() || self.handle(vm, VmInput::Tick)? == Taken::Died {
                break;
            }
        }
        Ok(())
    }

    /// A task tells something.
    pub(super) fn hear(&mut self, word: Word) -> Result<(), String> {
        match word {
            Word::Input { vm, input, done } => {
                let taken = self.handle(vm, input)?;
                if let (Some(done), Taken::Yes) = (done, taken) {
                    let _ = done.send(());
                }
            }
            Word::PublishAgain(vm) => self.publish(vm),
            Word::Listing { asked_at, found, readable } => self.listing(asked_at, found, readable)?,
        }
        Ok(())
    }

    fn listing(&mut self, asked_at: Timestamp, found: Option<Vec<(VmFacts, Said)>>, readable: bool) -> Result<(), String> {
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
            Incoming::Command(command) => {
                let policy = match &command.kind {
                    reeve_protocol::command::CommandKind::LeaseSetPolicy { policy } => self.policies.get(policy),
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
    fn handle(&mut self, vm: VmId, input: VmInput) -> Result<Taken, String> {
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
            VmInput::Commanded { .. } => self.policies.get("default")?,
            _ => return None,
        };
        Some(VmRecord::unseen(vm, Self::cloud_name(), policy))
    }

    fn answer(&self, input: &VmInput, step: &Step) {
        if let VmInput::Commanded { command, .. } = input {
            self.oracle().answered(command, &step.verdict);
            self.say(format_args!("{} {} answered {:?}", command.vm, command.id, step.verdict));
        }
    }

    fn commit(&mut self, before: &VmRecord, input: &VmInput, step: &Step, now: Timestamp) -> Result<(), String> {
        self.commits += 1;
        let record = &step.record;
        let effects: Vec<String> = step.effects.iter().map(|one| format!("{} {}", one.key, brief(&one.effect))).collect();
        let events: Vec<&str> = step.events.iter().map(|event| event.kind.type_name()).collect();
        self.say(format_args!(
            "{} g{} {} -> {} [{}] [{}]",
            record.vm, record.generation, name(input), verdict(&step.verdict), effects.join(", "), events.join(" ")
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

    /// The supervisor of one VM is started again, because it does not know what is stored.
    fn restart_supervisor(&mut self, vm: VmId) -> Result<(), String> {
        self.say(format_args!("{vm} its supervisor is restarted: the store gave no answer"));
        if let Some(node) = &mut self.node {
            node.vms.remove(&vm);
            node.tasks.retain(|job| job.vm() != Some(vm));
        }
        self.load(vm)
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
            Job::Effect(..) | Job::Probe(_) | Job::Publish(_) | Job::Reconcile => true,
        });
        for pending in step.effects {
            node.start(&step.record, pending);
        }
        node.vms.insert(vm, Live { record: step.record, deadline, poll_at });
        self.publish(vm);
    }

    fn publish(&mut self, vm: VmId) {
        let Some(node) = &mut self.node else { return };
        let Some(live) = node.vms.get(&vm) else { return };
        if live.record.outbox.is_empty() || node.tasks.is_running(&Job::Publish(vm)) {
            return;
        }
        let events = live.record.outbox.clone();
        node.publish(vm, events, &self.bus, &self.faults);
    }
}

/// The beginning of what it is, for the log.
fn brief(what: &impl std::fmt::Debug) -> String {
    struct Short(String);
    impl std::fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.push_str(text);
            if self.0.len() > 100 { Err(std::fmt::Error) } else { Ok(()) }
        }
    }
    let mut short = Short(String::new());
    // An error here is no more than the end of the room.
    let _ = std::fmt::Write::write_fmt(&mut short, format_args!("{what:?}"));
    short.0
}

fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted(_) => "accepted",
        Verdict::Ignored(_) => "ignored",
        Verdict::Denied(_) => "denied",
        Verdict::Busy => "busy",
    }
}

fn name(input: &VmInput) -> String {
    match input {
        VmInput::Notified(said) => format!("{} ({})", said.event_type, said.facts.state.as_nova()),
        VmInput::Listed { facts, .. } => format!("listed ({})", facts.state.as_nova()),
        VmInput::Missing { .. } => "missing".into(),
        VmInput::Probed { verdict, .. } => format!("probed {verdict:?}"),
        VmInput::Commanded { command, .. } => format!("{} {:?}", command.id, command.kind),
        VmInput::EffectDone { key, outcome } => format!("{key} {}", brief(outcome)),
        VmInput::Published { through } => format!("published {through}"),
        VmInput::PolicyAssigned { policy, .. } => format!("policy {}", policy.name),
        VmInput::HoldRaised(hold) => format!("held: {}", hold.name()),
        VmInput::HoldLifted(hold) => format!("no longer held: {}", hold.name()),
        VmInput::ChildExhausted(child) => format!("{child:?} exhausted"),
        VmInput::ChildRecovered(child) => format!("{child:?} recovered"),
        VmInput::Introduced { revived_from, .. } => format!("introduced as the successor of {revived_from}"),
        VmInput::Tick => "tick".into(),
    }
}

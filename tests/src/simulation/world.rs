//! A run: the world around the node, and the loop that moves the time.
//!
//! ```text
//! a word in the inbox │ a task that can go on │ a message on the bus ─► take it      nothing of these ─► move the clock
//! ```
//!
//! First the wild part: errands, faults, crashes. Then the calm: nothing goes wrong any more, and everything must come
//! to its end. What lives here outlives the node: the cloud, the vault, the store, the bus.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use reeve_drivers::{SimCloud, SimConfig};
use reeve_lifecycle::{EffectKey, Policies};
use reeve_ports::notifier::Letter;
use reeve_ports::{Clock, Cloud};
use reeve_protocol::command::{Command, Requester};
use reeve_protocol::{CloudName, ProjectId, Span, Timestamp, UserId, VmId};

use super::bus::{Incoming, SimBus};
use super::chance::Chance;
use super::clock::{BEGIN, SimClock};
use super::cloud::WatchedCloud;
use super::faults::FaultPlan;
use super::finish;
use super::node::Node;
use super::oracle::Oracle;
use super::people::{self, Deed};
use super::policies::{NAMES, policies};
use super::scenario::{Crashes, Log, Report, Scenario};
use super::vault::SimVault;

/// How long people have errands.
const WILD: Span = Span::from_hours(14);
/// How long after that everything must have come to its end.
const CALM: Span = Span::from_hours(72);
/// The most turns of a run: more means that something goes round in a circle.
const MAX_TURNS: u64 = 3_000_000;

/// What is to happen at a time.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    Boot(usize),
    Request(u32),
    Deed(VmId, Deed),
}

/// The world of a run.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) clock: SimClock,
    pub(super) faults: FaultPlan,
    pub(super) sim: Arc<SimCloud>,
    pub(super) cloud: Arc<WatchedCloud>,
    pub(super) vault: SimVault,
    pub(super) oracle: Arc<Mutex<Oracle>>,
    pub(super) bus: SimBus,
    pub(super) letters: Arc<Mutex<BTreeMap<(VmId, EffectKey), Letter>>>,
    /// The stored records, as bytes.
    pub(super) store: BTreeMap<VmId, Vec<u8>>,
    pub(super) epoch: Arc<AtomicU64>,
    pub(super) policies: Policies,
    pub(super) node: Option<Node>,
    pub(super) starts_at: Timestamp,
    pub(super) chance: Chance,
    pub(super) log: Log,
    pub(super) is_calm: bool,
    pub(super) commits: u64,
    pub(super) crashes: u64,
    pub(super) revived: BTreeSet<VmId>,
    plans: BTreeMap<(Timestamp, u64), Plan>,
    planned: u64,
    asked: u64,
}

impl World {
    pub(super) fn new(scenario: &Scenario, log: Log) -> Self {
        let seed = scenario.seed;
        let clock = SimClock::default();
        let faults = FaultPlan::new(scenario.faults, seed);
        let config = SimConfig {
            seed,
            vms: scenario.found,
            volumes_per_vm: [0, 2],
            shared_volume_percent: 25,
            disk_bytes: [64, 512],
            addresses_per_vm: [0, 2],
            page: 4,
            lost_per_mille: scenario.noise,
            doubled_per_mille: scenario.noise,
            late_per_mille: scenario.noise,
            ..SimConfig::default()
        };
        let sim = Arc::new(SimCloud::new(Arc::new(clock.clone()), config).expect("the configuration is within limits"));
        let vault = SimVault::new(clock.clone(), faults.clone());
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let bus = SimBus::default();
        let sink = bus.clone();
        sim.notify(Arc::new(move |body| sink.push(Incoming::Notification(body))));
        let cloud = Arc::new(WatchedCloud {
            sim: Arc::clone(&sim),
            clock: clock.clone(),
            faults: faults.clone(),
            vault: vault.clone(),
            oracle: Arc::clone(&oracle),
        });
        let mut world = Self {
            scenario: scenario.clone(),
            chance: Chance::new(seed, "order"),
            policies: policies(seed),
            clock,
            faults,
            sim,
            cloud,
            vault,
            oracle,
            bus,
            letters: Arc::default(),
            store: BTreeMap::new(),
            epoch: Arc::default(),
            node: None,
            starts_at: BEGIN,
            log,
            is_calm: false,
            commits: 0,
            crashes: 0,
            revived: BTreeSet::new(),
            plans: BTreeMap::new(),
            planned: 0,
            asked: 0,
        };
        world.plan_fleet();
        world
    }

    fn plan_fleet(&mut self) {
        let mut chance = Chance::new(self.scenario.seed, "fleet");
        for vm in self.sim.vm_ids() {
            // Half of those that were there before name a policy.
            if chance.per_mille(500) {
                let policy: &&str = chance.pick(&NAMES);
                let _ = self.sim.set_metadata(vm, "reeve_policy", policy);
            }
            self.welcome(vm);
        }
        for n in 0..self.scenario.made {
            let at = BEGIN + chance.seconds(60..=2 * 3_600);
            self.plan(at, Plan::Boot(usize::try_from(n).expect("a small number")));
        }
        for n in 0..self.scenario.asked {
            self.plan(BEGIN + chance.seconds(60..=2 * 3_600), Plan::Request(n));
        }
    }

    fn plan(&mut self, at: Timestamp, plan: Plan) {
        self.planned += 1;
        self.plans.insert((at, self.planned), plan);
    }

    /// A VM that people made: what belongs to it, and what is to happen to it.
    fn welcome(&mut self, vm: VmId) {
        if let Some(Ok(inventory)) = self.sim.inventory(vm).now_or_never() {
            self.cloud.learn(vm, &inventory);
        }
        let mut chance = Chance::new(self.scenario.seed, &format!("errands/{vm}"));
        let left = Span::from((BEGIN + WILD).since(self.now()));
        for (at, vm, deed) in people::errands(&mut chance, vm, self.now(), self.scenario.errands, left) {
            self.plan(at, Plan::Deed(vm, deed));
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().expect("nothing panics while the oracle is locked")
    }

    pub(super) fn say(&self, what: std::fmt::Arguments<'_>) {
        self.log.line(format_args!("{:>11} {what}", self.now().since(BEGIN).as_millis()));
    }

    /// Runs to the end; the error is the first rule that was broken.
    pub(super) fn run(mut self) -> Result<Report, String> {
        let mut deadline = BEGIN + WILD + CALM;
        for turn in 0.. {
            if turn > MAX_TURNS {
                return Err("it goes round in a circle".into());
            }
            self.look_out()?;
            if self.take_turn()? {
                continue;
            }
            if !self.is_calm && self.plans.is_empty() {
                self.calm_down();
                deadline = self.now() + CALM;
            }
            if self.is_calm && finish::is_at_rest(&self) {
                break;
            }
            let next = self.next_moment();
            if next > deadline {
                return Err(format!("not at rest after {CALM}: {}", finish::unrest(&self)));
            }
            self.clock.advance(next);
            self.do_due()?;
        }
        finish::check(&self)?;
        Ok(finish::report(&self))
    }

    /// Looks at what came out of the bus, and whether a rule was broken.
    fn look_out(&self) -> Result<(), String> {
        let outgoing = std::mem::take(&mut self.bus.lock().outgoing);
        let mut oracle = self.oracle();
        for event in &outgoing {
            oracle.published(event);
        }
        oracle.broken().map_or(Ok(()), |why| Err(why.to_owned()))
    }

    /// Takes one step that needs no time; false when there is none.
    fn take_turn(&mut self) -> Result<bool, String> {
        let now = self.now();
        let Some(node) = &mut self.node else { return Ok(false) };
        let word = node.inbox.lock().expect("nothing panics while the inbox is locked").pop_front();
        if let Some(word) = word {
            self.hear(word)?;
            return Ok(true);
        }
        let message = if node.intake_at <= now { self.bus.first() } else { None };
        if let Some(message) = message
            && self.chance.per_mille(500)
        {
            self.take_in(message)?;
            return Ok(true);
        }
        let went = self.node.as_mut().is_some_and(|node| node.tasks.run_one(&mut self.chance));
        if went {
            if let Crashes::Random { midst, .. } = self.scenario.crashes
                && !self.is_calm
                && self.chance.per_mille(midst)
            {
                self.crash("in the midst");
            }
            return Ok(true);
        }
        let waits = self.node.as_ref().is_some_and(|node| node.intake_at <= now);
        Ok(waits && self.bus.first().is_some())
    }

    fn calm_down(&mut self) {
        self.say(format_args!("calm"));
        self.is_calm = true;
        self.faults.end();
        self.sim.clear_faults();
        people::calm(&self.sim);
    }

    fn next_moment(&self) -> Timestamp {
        let node = self.node.as_ref();
        let vms = node.iter().flat_map(|node| node.vms.values());
        let wakes = vms.flat_map(|live| [live.deadline, Some(live.poll_at)]).flatten();
        let node_times = node.map(|node| {
            let intake = self.bus.first().map(|_| node.intake_at);
            [Some(node.reconcile_at), intake].into_iter().flatten()
        });
        let start = if node.is_none() { Some(self.starts_at) } else { None };
        let planned = self.plans.first_key_value().map(|((at, _), _)| *at);
        let next = wakes
            .chain(node_times.into_iter().flatten())
            .chain([start, planned, self.clock.next_timer(), self.sim.next_change()].into_iter().flatten())
            .min();
        next.unwrap_or(Timestamp::MAX).max(self.now())
    }

    fn do_due(&mut self) -> Result<(), String> {
        let now = self.now();
        self.sim.settle();
        while let Some(entry) = self.plans.first_entry()
            && entry.key().0 <= now
        {
            let plan = entry.remove();
            self.carry_out(plan);
        }
        if self.node.is_none() && self.starts_at <= now {
            self.start_node()?;
        }
        self.wake_node(now)
    }

    fn carry_out(&mut self, plan: Plan) {
        match plan {
            Plan::Boot(n) => {
                let mut chance = Chance::new(self.scenario.seed, &format!("boot/{n}"));
                let project = ProjectId::new(format!("project-{}", n % 2)).expect("a short name");
                let user = UserId::new(format!("user-{n}")).expect("a short name");
                let policy = (*chance.pick(&NAMES)).to_owned();
                let metadata = BTreeMap::from([("reeve_policy".to_owned(), policy)]);
                if let Ok(vm) = self.sim.boot_vm(&format!("made-{n}"), project, user, metadata) {
                    self.say(format_args!("{vm} is made"));
                    self.welcome(vm);
                }
            }
            Plan::Request(n) => {
                let command = people::request(n);
                self.say(format_args!("{} {} asks for a VM", command.vm, command.id));
                self.push_command(command);
            }
            Plan::Deed(vm, Deed::Ask(who, kind)) => {
                let owner = self.sim.ground_truth(vm).and_then(|truth| Some((truth.facts.user?, truth.facts.project?)));
                let Some(owner) = owner else { return };
                self.asked += 1;
                let command = people::command(self.asked, vm, (who, kind), owner);
                let by = match &command.by {
                    Requester::Operator(name) => name.clone(),
                    Requester::User { id, .. } => id.to_string(),
                };
                self.say(format_args!("{vm} {} asked by {by}: {:?}", command.id, command.kind));
                self.push_command(command);
            }
            Plan::Deed(vm, deed) => {
                let model = self.oracle().vms.get(&vm).map(|watched| watched.model.clone());
                let may_write = model.is_none_or(|model| !model.may_end(self.now()));
                let came = people::do_past_reeve(&self.sim, vm, &deed, may_write);
                self.say(format_args!("{vm} {deed:?}: {came}"));
            }
        }
    }

    /// The bus delivers at least once, and people press the button twice.
    fn push_command(&mut self, command: Command) {
        if self.chance.per_mille(u64::from(self.scenario.noise)) {
            self.bus.push(Incoming::Command(command.clone()));
        }
        self.bus.push(Incoming::Command(command));
    }

    /// The only cloud there is.
    pub(super) fn cloud_name() -> CloudName {
        CloudName::new("sim").expect("a short name")
    }

    pub(super) fn cloud_port(&self) -> Arc<dyn Cloud> {
        Arc::clone(&self.cloud) as Arc<dyn Cloud>
    }
}

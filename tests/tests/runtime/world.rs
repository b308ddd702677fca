//! A node on the embedded engine with a simulated cloud, a clock that tests move and a store that fails when told.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use reeve_cluster::embedded::{BusLimits, EmbeddedBus, EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use reeve_drivers::{MemoryNotifier, OpendalVault, SimCloud, SimConfig};
use reeve_lifecycle::policy::{HealthPolicy, LeasePolicy, Policy, RepairPolicy};
use reeve_lifecycle::{Policies, policy};
use reeve_ports::{Address, AdminService, Bus, Clock, Message, RecordStore, Sleep, SystemClock};
use reeve_protocol::admin::{AdminReply, AdminRequest, VmView};
use reeve_protocol::command::{Command, CommandKind, Requester};
use reeve_protocol::event::CloudEvent;
use reeve_protocol::rule::{self, Rule};
use reeve_protocol::{CloudName, MessageId, NodeId, ProjectId, Span, Timestamp, UserId, VmId};
use reeve_runtime::{Adapters, ClockLimits, Node, NodeConfig, NodeHandle, Ports, RuntimeConfig, Timeouts};

use crate::faulty::{FlakyBus, FlakyCoordination, FlakyProbe, FlakyStore};

/// How much faster than real time the tests' clock goes.
const SCALE: u32 = 20;
/// How many VMs a second a node wakes that missed something.
pub(crate) const WAKEUPS: u32 = 10;
/// The longest that a test waits for something, in real time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that goes so many times as fast as the machine's, and that tests set and put to sleep.
pub(crate) struct TestClock {
    began: (Timestamp, Duration),
    scale: u32,
    wall_ms: AtomicI64,
    asleep_ms: AtomicI64,
}

impl TestClock {
    pub(crate) fn new() -> Self {
        Self::scaled(SCALE)
    }

    /// One that goes so many times as fast.
    pub(crate) fn scaled(scale: u32) -> Self {
        let began = (SystemClock.now(), SystemClock.elapsed());
        Self { began, scale, wall_ms: AtomicI64::new(0), asleep_ms: AtomicI64::new(0) }
    }

    /// Sets the wall clock.
    pub(crate) fn step(&self, by_ms: i64) {
        self.wall_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// Suspends the machine: both clocks go on, timers stand still.
    pub(crate) fn suspend(&self, span: Span) {
        let ms = i64::try_from(span.as_millis()).unwrap();
        self.asleep_ms.fetch_add(ms, Ordering::SeqCst);
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn run(&self) -> Duration {
        (SystemClock.elapsed() - self.began.1) * self.scale
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let wall = self.wall_ms.load(Ordering::SeqCst);
        Timestamp::from_millis((self.began.0 + self.run()).as_millis() + wall)
    }

    fn elapsed(&self) -> Duration {
        let asleep = u64::try_from(self.asleep_ms.load(Ordering::SeqCst)).unwrap();
        self.run() + Duration::from_millis(asleep)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration / self.scale))
    }
}

/// A node and its world.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) sim: Arc<SimCloud>,
    pub(crate) bus: EmbeddedBus,
    pub(crate) store: Arc<FlakyStore>,
    /// The bus as the node sees it.
    pub(crate) outward: Arc<FlakyBus>,
    pub(crate) coordination: Arc<FlakyCoordination>,
    pub(crate) probe: Arc<FlakyProbe>,
    pub(crate) node: NodeHandle,
    /// What people were told since the node's start.
    pub(crate) letters: MemoryNotifier,
    db: EmbeddedDb,
    policies: Policies,
    rules: Vec<Rule>,
    driver: tokio::task::JoinHandle<()>,
    vault: Arc<OpendalVault>,
}

pub(crate) fn cloud() -> CloudName {
    CloudName::new("sim").unwrap()
}

/// Policies with `default` as given.
pub(crate) fn policies(default: Policy) -> Policies {
    Policies::new(BTreeMap::from([(policy::DEFAULT_POLICY.to_owned(), default)])).unwrap()
}

/// A lease of this length with everything else out of the way.
pub(crate) fn short(duration: Span) -> Policy {
    Policy {
        lease: LeasePolicy {
            duration,
            warn_before: vec![Span::from_secs(2)],
            min_notice: Span::from_secs(1),
            extension: Span::from_days(30),
            max_total: Span::from_days(400),
            ..LeasePolicy::default()
        },
        health: HealthPolicy { interval: Span::from_secs(1), timeout: Span::from_secs(5), ..HealthPolicy::default() },
        repair: RepairPolicy { boot_wait: Span::from_secs(2), ..RepairPolicy::default() },
        ..Policy::default()
    }
}

/// A test inside of a system, with a limit in real time.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    reeve_runtime::run_system(|| async {
        tokio::time::timeout(PATIENCE * 3, test()).await.expect("the test ends in time");
    });
}

/// Waits until something is so.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

impl World {
    pub(crate) async fn new(vms: u32, default: Policy) -> Self {
        Self::with(SimConfig { vms, ..SimConfig::default() }, default).await
    }

    pub(crate) async fn with(sim: SimConfig, default: Policy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::new());
        let sim = Arc::new(SimCloud::new(Arc::clone(&clock) as Arc<dyn Clock>, sim).unwrap());
        let vault = Arc::new(OpendalVault::in_folder(folder.path().join("vault")).unwrap());
        Self::over(folder, clock, sim, vault, (policies(default), Vec::new()), |_| {}).await
    }

    /// A world of some VMs with rules.
    pub(crate) async fn ruled(vms: u32, default: Policy, rules: Vec<Rule>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::new());
        let sim = SimConfig { vms, ..SimConfig::default() };
        let sim = Arc::new(SimCloud::new(Arc::clone(&clock) as Arc<dyn Clock>, sim).unwrap());
        let vault = Arc::new(OpendalVault::in_folder(folder.path().join("vault")).unwrap());
        Self::over(folder, clock, sim, vault, (policies(default), rules), |_| {}).await
    }

    async fn over(
        folder: tempfile::TempDir,
        clock: Arc<TestClock>,
        sim: Arc<SimCloud>,
        vault: Arc<OpendalVault>,
        (policies, rules): (Policies, Vec<Rule>),
        prepare: impl FnOnce(&FlakyStore),
    ) -> Self {
        let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
        let bus =
            EmbeddedBus::open(db.clone(), Arc::clone(&clock) as Arc<dyn Clock>, BusLimits::default()).await.unwrap();
        bus.route_to_rules(rule::topics(&rules));
        let store = Arc::new(FlakyStore::new(EmbeddedStore::new(db.clone())));
        prepare(&store);
        let outward = Arc::new(FlakyBus::new(bus.clone()));
        let coordination = Arc::new(FlakyCoordination::new(EmbeddedCoordination::new(db.clone())));
        let probe = Arc::new(FlakyProbe::new(Arc::clone(&sim)));
        let letters = MemoryNotifier::new(10_000);
        let ports = Ports {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            cloud: BTreeMap::from([(cloud(), Arc::clone(&sim) as Arc<dyn reeve_ports::Cloud>)]),
            probe: BTreeMap::from([(cloud(), Arc::clone(&probe) as Arc<dyn reeve_ports::GuestProbe>)]),
            vault: Arc::clone(&vault) as Arc<dyn reeve_ports::Vault>,
            notifier: Arc::new(letters.clone()),
            timeouts: Timeouts { look_every: Duration::from_millis(200), ..Timeouts::default() },
        };
        let runtime = RuntimeConfig {
            shards: 4,
            arbiters: 2,
            reconcile_every: Span::from_secs(20),
            wakeups_per_second: WAKEUPS,
            clock: ClockLimits { stable: Duration::from_secs(30), ..ClockLimits::default() },
            rules: rules.clone(),
            ..RuntimeConfig::default()
        };
        let config = NodeConfig { node: NodeId::new("test").unwrap(), cluster: "standalone".to_owned(), runtime };
        let adapters = Adapters {
            store: Arc::clone(&store) as Arc<dyn RecordStore>,
            bus: Arc::clone(&outward) as Arc<dyn Bus>,
            coordination: Arc::clone(&coordination) as Arc<dyn reeve_ports::Coordination>,
            peers: Arc::new(reeve_ports::NoPeers),
            ports,
            policies: policies.clone(),
        };
        let driver = drive(Arc::clone(&sim), bus.clone());
        let node = Node::start(config, adapters).await.unwrap();
        node.ready().await;
        Self {
            folder,
            clock,
            sim,
            bus,
            store,
            outward,
            coordination,
            probe,
            node,
            letters,
            db,
            policies,
            rules,
            driver,
            vault,
        }
    }

    /// Stops the node in order.
    pub(crate) async fn stop(self) -> Stopped {
        assert!(self.node.stop(Duration::from_secs(10)).await, "the node stops in order within 10 s");
        self.driver.abort();
        self.db.close().await;
        let Self { folder, clock, sim, policies, rules, vault, .. } = self;
        Stopped { folder, clock, sim, policies, rules, vault }
    }

    pub(crate) async fn ask(&self, request: AdminRequest) -> AdminReply {
        self.node.ask(&reeve_protocol::admin::Principal::local(), request).await
    }

    pub(crate) async fn list(&self) -> Vec<VmView> {
        match self.ask(AdminRequest::VmList { limit: 1000, marker: None, lease: None }).await {
            AdminReply::Vms(vms) => vms,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn show(&self, vm: VmId) -> Option<VmView> {
        match self.ask(AdminRequest::VmShow(vm)).await {
            AdminReply::Vm(view) => Some(*view),
            AdminReply::Refused(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until every VM of the cloud has a lease in this state.
    pub(crate) async fn all_leases(&self, vms: usize, state: &str) -> Vec<VmView> {
        until(&format!("{vms} leases are {state}"), || async {
            let list = self.list().await;
            (list.iter().filter(|vm| vm.lease.state == state).count() == vms).then_some(list)
        })
        .await
    }

    pub(crate) async fn command(&self, id: &str, vm: VmId, kind: CommandKind) -> AdminReply {
        self.ask(AdminRequest::Command(command(id, vm, kind))).await
    }

    /// Every published event, and that each VM's sequence is gapless and each id there once.
    pub(crate) async fn events(&self) -> Vec<CloudEvent> {
        let past = self.bus.history(Timestamp::MIN, None, 10_000).await.unwrap();
        let events: Vec<CloudEvent> = past.into_iter().map(|past| past.event).collect();
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &events {
            let last = last.entry(&event.subject).or_default();
            assert!(event.sequence <= *last + 1, "{} jumps from {last} to {}", event.subject, event.sequence);
            *last = event.sequence.max(*last);
        }
        events
    }
}

/// A world whose node was stopped.
pub(crate) struct Stopped {
    folder: tempfile::TempDir,
    clock: Arc<TestClock>,
    sim: Arc<SimCloud>,
    policies: Policies,
    rules: Vec<Rule>,
    vault: Arc<OpendalVault>,
}

impl Stopped {
    /// Changes what is stored while nobody runs.
    pub(crate) async fn with_store<F: Future<Output = ()>>(
        &self,
        change: impl FnOnce(EmbeddedStore, EmbeddedCoordination) -> F,
    ) {
        let db = EmbeddedDb::open(self.folder.path().join("reeve.redb")).await.unwrap();
        change(EmbeddedStore::new(db.clone()), EmbeddedCoordination::new(db.clone())).await;
        db.close().await;
    }

    /// A user deletes a VM while nobody runs, and it is gone.
    pub(crate) async fn delete(&self, vm: VmId) {
        self.sim.owner_delete(vm).unwrap();
        while self.sim.vm_ids().contains(&vm) {
            // The cloud's own time passes.
            let _ = self.sim.ground_truth(vm);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A user makes a VM and deletes it, while nobody runs.
    pub(crate) async fn boot_and_delete(&self, name: &str) -> VmId {
        let (project, user) = (ProjectId::new("p").unwrap(), UserId::new("u").unwrap());
        let vm = self.sim.boot_vm(name, project, user, BTreeMap::new()).unwrap();
        self.delete(vm).await;
        vm
    }

    pub(crate) async fn start(self) -> World {
        self.start_with(|_| {}).await
    }

    /// Starts with a store that is told something before.
    pub(crate) async fn start_with(self, prepare: impl FnOnce(&FlakyStore)) -> World {
        World::over(self.folder, self.clock, self.sim, self.vault, (self.policies, self.rules), prepare).await
    }
}

pub(crate) fn command(id: &str, vm: VmId, kind: CommandKind) -> Command {
    Command { id: MessageId::new(id).unwrap(), vm, by: Requester::Operator("test".to_owned()), kind }
}

/// Lets the cloud's time pass, and carries what it says to the intake.
pub(crate) fn drive(sim: Arc<SimCloud>, bus: EmbeddedBus) -> tokio::task::JoinHandle<()> {
    let (sender, mut bodies) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    sim.notify(Arc::new(move |body| {
        let _ = sender.send(body);
    }));
    tokio::spawn(async move {
        let carry = async {
            while let Some(body) = bodies.recv().await {
                let message = Message { body: body.into(), ..Message::default() };
                bus.publish(&Address::Intake(cloud()), message).await.unwrap();
            }
        };
        tokio::join!(sim.drive(), carry);
    })
}

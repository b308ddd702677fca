//! Several nodes in one process that share a store, a bus, a simulated cloud and a [`Council`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reeve_cluster::embedded::{BusLimits, EmbeddedBus, EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use reeve_drivers::{MemoryNotifier, OpendalVault, SimCloud, SimConfig};
use reeve_lifecycle::policy::Policy;
use reeve_ports::{AdminService, Bus, Clock, RecordStore};
use reeve_protocol::admin::{ActorView, AdminReply, AdminRequest, Principal, Role, VmView};
use reeve_protocol::command::CommandKind;
use reeve_protocol::{NodeId, ShardId, Span, VmId};
use reeve_runtime::{Adapters, Node, NodeConfig, NodeHandle, Ports, RuntimeConfig, Timeouts};

use crate::council::{Council, Lines, Seat, Wires};
use crate::faulty::{FlakyBus, FlakyStore};
use crate::world::{TestClock, cloud, command, drive, policies, until};

pub(crate) const SHARDS: u16 = 4;

/// A node of the realm.
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) handle: NodeHandle,
    /// The store as this node sees it.
    pub(crate) store: Arc<FlakyStore>,
    /// The bus as this node sees it.
    pub(crate) outward: Arc<FlakyBus>,
}

/// What a realm is made of.
pub(crate) struct Plan {
    pub(crate) vms: u32,
    pub(crate) policy: Policy,
    pub(crate) clock: TestClock,
    pub(crate) quarantine: Duration,
}

impl Plan {
    pub(crate) fn new(vms: u32, policy: Policy) -> Self {
        Self { vms, policy, clock: TestClock::new(), quarantine: Duration::ZERO }
    }
}

/// Two nodes, `a` and `b`; at first everything is `a`'s.
pub(crate) struct Realm {
    pub(crate) sim: Arc<SimCloud>,
    pub(crate) bus: EmbeddedBus,
    pub(crate) council: Arc<Council>,
    pub(crate) wires: Arc<Wires>,
    pub(crate) a: Member,
    pub(crate) b: Member,
    db: EmbeddedDb,
    driver: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

pub(crate) fn shards() -> impl Iterator<Item = ShardId> {
    (0..SHARDS).map(ShardId)
}

impl Realm {
    pub(crate) async fn new(plan: Plan) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(plan.clock);
        let port = || Arc::clone(&clock) as Arc<dyn Clock>;
        let sim = SimConfig { vms: plan.vms, ..SimConfig::default() };
        let sim = Arc::new(SimCloud::new(port(), sim).unwrap());
        let vault = Arc::new(OpendalVault::in_folder(folder.path().join("vault")).unwrap());
        let db = EmbeddedDb::open(folder.path().join("reeve.redb")).await.unwrap();
        let bus = EmbeddedBus::open(db.clone(), port(), BusLimits::default()).await.unwrap();
        let council = Council::new(EmbeddedCoordination::new(db.clone()), SHARDS);
        let wires = Arc::new(Wires::default());
        let driver = drive(Arc::clone(&sim), bus.clone());
        let ports = Ports {
            clock: port(),
            cloud: BTreeMap::from([(cloud(), Arc::clone(&sim) as Arc<dyn reeve_ports::Cloud>)]),
            probe: BTreeMap::from([(cloud(), Arc::clone(&sim) as Arc<dyn reeve_ports::GuestProbe>)]),
            vault: vault as Arc<dyn reeve_ports::Vault>,
            notifier: Arc::new(MemoryNotifier::new(10_000)),
            timeouts: Timeouts { look_every: Duration::from_millis(200), ..Timeouts::default() },
        };
        let start = async |name: &str| {
            let id = NodeId::new(name).unwrap();
            let store = Arc::new(FlakyStore::new(EmbeddedStore::new(db.clone())));
            let outward = Arc::new(FlakyBus::new(bus.clone()));
            let adapters = Adapters {
                store: Arc::clone(&store) as Arc<dyn RecordStore>,
                bus: Arc::clone(&outward) as Arc<dyn Bus>,
                coordination: Arc::new(Seat::new(&council, &id)),
                peers: Arc::new(Lines { me: id.clone(), wires: Arc::clone(&wires) }),
                ports: ports.clone(),
                policies: policies(plan.policy.clone()),
            };
            let runtime = RuntimeConfig {
                shards: SHARDS,
                arbiters: 2,
                reconcile_every: Span::from_secs(20),
                quarantine: plan.quarantine,
                ..RuntimeConfig::default()
            };
            let config = NodeConfig { node: id.clone(), cluster: "realm".to_owned(), runtime };
            let handle = Node::start(config, adapters).await.unwrap();
            wires.connect(&id, handle.clone());
            Member { id, handle, store, outward }
        };
        let (a, b) = (start("a").await, start("b").await);
        assert!(!b.handle.is_ready(), "nothing is planned yet");
        shards().for_each(|shard| council.plan(shard, &a.id));
        a.handle.ready().await;
        b.handle.ready().await;
        Self { sim, bus, council, wires, a, b, db, driver, _folder: folder }
    }

    /// Waits until a node owns a shard and has loaded it.
    pub(crate) async fn until_owned(&self, shard: ShardId, node: &Member) {
        until(&format!("{} owns shard {shard}", node.id), || async {
            let is_loaded = node.handle.is_ready();
            (self.council.owner(shard).as_ref() == Some(&node.id) && is_loaded).then_some(())
        })
        .await;
    }

    /// Waits until every VM has a lease in this state.
    pub(crate) async fn all_leases(&self, vms: usize, state: &str) -> Vec<VmView> {
        until(&format!("{vms} leases are {state}"), || async {
            let AdminReply::Vms(list) = self.b.ask(list()).await else { return None };
            (list.iter().filter(|vm| vm.lease.state == state).count() == vms).then_some(list)
        })
        .await
    }

    /// The cloud says nothing by itself any more: what happens is found by listings.
    pub(crate) fn silence_the_cloud(&self) {
        self.driver.abort();
    }

    pub(crate) async fn stop(self) {
        // Side by side, as the nodes of a machine that is switched off.
        let patience = Duration::from_secs(10);
        let (a, b) = tokio::join!(self.a.handle.stop(patience), self.b.handle.stop(patience));
        assert!(a && b, "the nodes stop in order");
        for shard in shards() {
            assert_eq!(self.council.owner(shard), None, "a node that stops releases its shards");
        }
        self.driver.abort();
        self.db.close().await;
    }
}

pub(crate) fn list() -> AdminRequest {
    AdminRequest::VmList { limit: 1000, marker: None, lease: None }
}

impl Member {
    pub(crate) async fn ask(&self, request: AdminRequest) -> AdminReply {
        self.handle.ask(&Principal::local(), request).await
    }

    /// Asks this node alone.
    pub(crate) async fn ask_alone(&self, request: AdminRequest) -> AdminReply {
        let node = Principal { role: Role::Node, name: "test".to_owned() };
        let request = AdminRequest::Forwarded { by: Principal::local(), request: Box::new(request) };
        self.handle.ask(&node, request).await
    }

    pub(crate) async fn command(&self, id: &str, vm: VmId, kind: CommandKind) -> AdminReply {
        self.ask(AdminRequest::Command(command(id, vm, kind))).await
    }

    pub(crate) async fn show(&self, vm: VmId) -> Option<VmView> {
        match self.ask(AdminRequest::VmShow(vm)).await {
            AdminReply::Vm(view) => Some(*view),
            AdminReply::Refused(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// The live tree of a VM, if this very node supervises it.
    pub(crate) async fn tree_alone(&self, vm: VmId) -> Option<ActorView> {
        match self.ask_alone(AdminRequest::ActorTree(Some(vm))).await {
            AdminReply::Actors(tree) => Some(*tree),
            AdminReply::Refused(_) => None,
            other => panic!("{other:?}"),
        }
    }
}

//! The stage of the demo: a simulated cloud that outlives the node, and a node on the embedded engine that is taken down
//! and put up again in the middle.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reeve_cluster::embedded::{BusLimits, EmbeddedBus, EmbeddedCoordination, EmbeddedDb, EmbeddedStore};
use reeve_drivers::{LogNotifier, OpendalVault, SimCloud};
use reeve_lifecycle::Policies;
use reeve_ports::{Address, Bus, Clock, Cloud, GuestProbe, Message, SystemClock};
use reeve_protocol::{CloudName, NodeId, Span};
use reeve_runtime::{Adapters, Caps, Node, NodeConfig, NodeHandle, Ports, RuntimeConfig, Timeouts};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long the node may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// What outlives the node.
pub(super) struct Stage {
    pub(super) cloud: Arc<SimCloud>,
    pub(super) name: CloudName,
    pub(super) vault: Arc<OpendalVault>,
    folder: tempfile::TempDir,
    policies: Policies,
}

/// A node at play.
pub(super) struct Play {
    pub(super) bus: Arc<EmbeddedBus>,
    pub(super) node: NodeHandle,
    db: EmbeddedDb,
    notifications: JoinHandle<()>,
}

impl Stage {
    pub(super) fn new(cloud: SimCloud, policies: Policies) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("reeve-demo-").tempdir()?;
        let vault = Arc::new(OpendalVault::in_folder(folder.path().join("vault"))?);
        let name = CloudName::new("demo")?;
        Ok(Self { cloud: Arc::new(cloud), name, vault, folder, policies })
    }

    /// Puts a node up on what is there.
    pub(super) async fn raise(&self) -> anyhow::Result<Play> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let db = EmbeddedDb::open(self.store()).await?;
        let bus = Arc::new(EmbeddedBus::open(db.clone(), Arc::clone(&clock), BusLimits::default()).await?);
        let notifications = self.forward(Arc::clone(&bus));
        let timeouts = Timeouts { look_every: Duration::from_millis(50), ..Timeouts::default() };
        let cloud: Arc<dyn Cloud> = Arc::clone(&self.cloud) as _;
        let probe: Arc<dyn GuestProbe> = Arc::clone(&self.cloud) as _;
        let ports = Ports {
            clock,
            cloud: BTreeMap::from([(self.name.clone(), cloud)]),
            probe: BTreeMap::from([(self.name.clone(), probe)]),
            vault: Arc::clone(&self.vault) as _,
            notifier: Arc::new(LogNotifier),
            timeouts,
        };
        let runtime = RuntimeConfig {
            reconcile_every: Span::from_secs(2),
            caps: Caps { backups: 32, backups_per_cloud: 32, backups_per_host: 32, ..Caps::default() },
            timeouts,
            ..RuntimeConfig::default()
        };
        let config = NodeConfig { node: NodeId::new("demo")?, cluster: "standalone".into(), runtime };
        let adapters = Adapters {
            store: Arc::new(EmbeddedStore::new(db.clone())),
            bus: Arc::clone(&bus) as _,
            coordination: Arc::new(EmbeddedCoordination::new(db.clone())),
            peers: Arc::new(reeve_ports::NoPeers),
            ports,
            policies: self.policies.clone(),
        };
        let node = Node::start(config, adapters).await?;
        node.ready().await;
        Ok(Play { bus, node, db, notifications })
    }

    fn store(&self) -> std::path::PathBuf {
        Path::new(self.folder.path()).join("reeve.redb")
    }

    /// Brings the cloud's notifications to the bus, as a cloud's own publisher would.
    fn forward(&self, bus: Arc<EmbeddedBus>) -> JoinHandle<()> {
        let (sender, mut receiver) = mpsc::unbounded_channel::<Vec<u8>>();
        // A node that is down hears nothing; the next listing tells it.
        self.cloud.notify(Arc::new(move |body| drop(sender.send(body))));
        let to = Address::Intake(self.name.clone());
        tokio::spawn(async move {
            while let Some(body) = receiver.recv().await {
                let message = Message { body: body.into(), ..Message::default() };
                if let Err(error) = bus.publish(&to, message).await {
                    tracing::warn!(%error, "a notification is lost");
                }
            }
        })
    }
}

impl Play {
    /// Takes the node down in order.
    pub(super) async fn fall(self) {
        if !self.node.stop(STOP_WITHIN).await {
            tracing::warn!("the node did not stop in order");
        }
        self.notifications.abort();
        self.db.close().await;
    }
}

//! A simulated OpenStack in this process and a driver on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reeve_drivers::cloud::openstack::{OpenStackCloud, OpenStackConfig};
use reeve_drivers::cloud::sim::{Cure, catalog};
use reeve_drivers::{SimCloud, SimConfig};
use reeve_ports::conformance::cloud::CloudFixture;
use reeve_ports::conformance::probe::ProbeFixture;
use reeve_ports::{Clock, Cloud, GuestProbe, Sleep, SystemClock};
use reeve_protocol::provision::ServerPlan;
use reeve_protocol::{CloudName, HostName, ProjectId, Span, Timestamp, UserId, VmId};
use reeve_tests::sim_cloud::{SimCloudOptions, SimCloudServer, SimControl};

pub(crate) struct Fixture {
    pub(crate) server: SimCloudServer,
    pub(crate) driver: Arc<OpenStackCloud>,
    pub(crate) control: SimControl,
}

/// A cloud that is quick and has something of everything.
pub(crate) fn config() -> SimConfig {
    let quick = [Span::from_millis(5), Span::from_millis(20)];
    SimConfig {
        vms: 5,
        volumes_per_vm: [1, 2],
        shared_volume_percent: 0,
        addresses_per_vm: [1, 1],
        disk_bytes: [40_000, 50_000],
        build: quick,
        boot: quick,
        power: quick,
        delete: quick,
        snapshot: quick,
        restore: quick,
        page: 1_000,
        ..SimConfig::default()
    }
}

pub(crate) fn options() -> SimCloudOptions {
    SimCloudOptions { sim: config(), ..SimCloudOptions::default() }
}

pub(crate) fn driver_config(server: &SimCloudServer) -> OpenStackConfig {
    OpenStackConfig::new(server.auth())
}

pub(crate) fn driver(config: OpenStackConfig) -> Arc<OpenStackCloud> {
    driver_at(config, Arc::new(SystemClock))
}

pub(crate) fn driver_at(config: OpenStackConfig, clock: Arc<dyn Clock>) -> Arc<OpenStackCloud> {
    let name = CloudName::new("sim").expect("a short name is one");
    Arc::new(OpenStackCloud::new(name, config, clock, "reeve/test node/n1").expect("a driver"))
}

/// The machine's clock, which tests move forward.
#[derive(Default)]
pub(crate) struct MovedClock(AtomicU64);

impl MovedClock {
    pub(crate) fn pass(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_millis()).expect("a short time"), Ordering::SeqCst);
    }

    fn passed(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.passed()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed() + self.passed()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        SystemClock.sleep(duration)
    }
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: SimCloudOptions) -> Self {
        // Another test of this process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = SimCloudServer::start(options).await.expect("the cloud starts");
        let driver = driver(OpenStackConfig { page: 2, timeout: Span::from_secs(20), ..driver_config(&server) });
        let control = SimControl::new(server.url()).expect("a client");
        Self { server, driver, control }
    }

    pub(crate) fn sim(&self) -> &Arc<SimCloud> {
        self.server.sim()
    }

    pub(crate) fn first(&self) -> VmId {
        self.sim().vm_ids()[0]
    }

    fn boot_named(&self, name: &str) -> VmId {
        let (project, user) = (ProjectId::new("p").expect("an id"), UserId::new("u").expect("an id"));
        self.sim().boot_vm(name, project, user, BTreeMap::new()).expect("there is room")
    }
}

async fn moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[async_trait]
impl CloudFixture for Fixture {
    fn cloud(&self) -> Arc<dyn Cloud> {
        Arc::<OpenStackCloud>::clone(&self.driver)
    }

    async fn boot(&self, name: &str) -> VmId {
        self.boot_named(name)
    }

    fn plan(&self) -> ServerPlan {
        catalog::plan_of_all()
    }

    async fn wait(&self) {
        moment().await;
    }
}

#[async_trait]
impl ProbeFixture for Fixture {
    fn probe(&self) -> Arc<dyn GuestProbe> {
        Arc::<OpenStackCloud>::clone(&self.driver)
    }

    async fn boot(&self) -> (VmId, HostName) {
        let vm = self.boot_named("probed");
        (vm, self.sim().ground_truth(vm).and_then(|truth| truth.facts.host).expect("a VM has a host"))
    }

    async fn hang(&self, vm: VmId) {
        self.sim().hang_guest(vm, Cure::Reboot).expect("the VM is there");
    }

    async fn host_down(&self, host: &HostName) {
        self.sim().host_down(host).expect("the host is there");
    }

    async fn host_up(&self, host: &HostName) {
        self.sim().host_up(host).expect("the host is there");
    }

    async fn wait(&self) {
        moment().await;
    }
}

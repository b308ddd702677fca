//! What the simulated cloud promises. The clock of these tests goes on only when somebody sleeps.

mod durable;
mod faults;
mod life;
mod parts;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::conformance::cloud::CloudFixture;
use reeve_ports::conformance::probe::ProbeFixture;
use reeve_ports::{Cloud, Freshness, GuestProbe, Sleep};
use reeve_protocol::provision::ServerPlan;
use reeve_protocol::{HostName, ProjectId, Span, UserId};

use super::*;

/// A clock that stands still until somebody sleeps, and then jumps.
pub(super) struct SteppedClock(Mutex<Timestamp>);

impl SteppedClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Timestamp::from_millis(1_800_000_000_000))))
    }

    pub(super) fn step(&self, by: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = *now + by;
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn elapsed(&self) -> Duration {
        self.now().since(Timestamp::EPOCH)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.step(duration);
        Box::pin(std::future::ready(()))
    }
}

pub(super) struct Fixture {
    pub(super) clock: Arc<SteppedClock>,
    pub(super) cloud: Arc<SimCloud>,
}

pub(super) fn config() -> SimConfig {
    SimConfig {
        vms: 3,
        volumes_per_vm: [1, 2],
        shared_volume_percent: 0,
        addresses_per_vm: [1, 1],
        disk_bytes: [40_000, 50_000],
        page: 2,
        ..SimConfig::default()
    }
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: SimConfig) -> Self {
        let clock = SteppedClock::new();
        let cloud = Arc::new(SimCloud::new(clock.clone(), config).unwrap());
        Self { clock, cloud }
    }

    pub(super) fn first(&self) -> VmId {
        self.cloud.vm_ids()[0]
    }

    pub(super) fn boot_named(&self, name: &str) -> VmId {
        let (project, user) = (ProjectId::new("p").unwrap(), UserId::new("u").unwrap());
        self.cloud.boot_vm(name, project, user, BTreeMap::new()).unwrap()
    }

    /// Long enough for any task and any boot.
    pub(super) fn later(&self) {
        self.clock.step(Duration::from_secs(10));
    }

    pub(super) fn truth(&self, vm: VmId) -> GroundTruth {
        self.cloud.ground_truth(vm).unwrap()
    }

    pub(super) async fn probed(&self, vm: VmId) -> ProbeVerdict {
        self.cloud.probe(vm, None, ProbeKind::GuestAgent, Freshness::Now, Duration::from_secs(1)).await
    }
}

#[async_trait]
impl CloudFixture for Fixture {
    fn cloud(&self) -> Arc<dyn Cloud> {
        self.cloud.clone()
    }

    async fn boot(&self, name: &str) -> VmId {
        self.boot_named(name)
    }

    fn plan(&self) -> ServerPlan {
        catalog::plan_of_all()
    }

    async fn wait(&self) {
        self.clock.step(Duration::from_millis(100));
    }
}

#[async_trait]
impl ProbeFixture for Fixture {
    fn probe(&self) -> Arc<dyn GuestProbe> {
        self.cloud.clone()
    }

    async fn boot(&self) -> (VmId, HostName) {
        let vm = self.boot_named("probed");
        (vm, self.truth(vm).facts.host.unwrap())
    }

    async fn hang(&self, vm: VmId) {
        self.cloud.hang_guest(vm, Cure::Reboot).unwrap();
    }

    async fn host_down(&self, host: &HostName) {
        self.cloud.host_down(host).unwrap();
    }

    async fn host_up(&self, host: &HostName) {
        self.cloud.host_up(host).unwrap();
    }

    async fn wait(&self) {
        self.clock.step(Duration::from_millis(100));
    }
}

/// Polls without any runtime.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(futures::task::noop_waker_ref());
    for _ in 0..1_000_000 {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("it waits for something that never comes");
}

fn assert_driver<T: Send + Sync + 'static>() {}

#[test]
fn a_simulated_cloud_may_go_to_any_thread() {
    fn assert_send<T: Send>(_: &T) {}
    assert_driver::<SimCloud>();
    assert_send(&Fixture::new().cloud.drive());
}

#[test]
fn it_passes_the_suites_without_any_runtime() {
    block_on(reeve_ports::conformance::cloud::run(&Fixture::new()));
    block_on(reeve_ports::conformance::probe::run(&Fixture::new()));
}

#[test]
fn a_key_out_of_its_limits_is_named() {
    let clock = SteppedClock::new();
    let mut bad = config();
    bad.power = [Span::from_millis(2), Span::from_millis(1)];
    let Err(SimError::Config(error)) = SimCloud::new(clock.clone(), bad) else { panic!("it was taken") };
    assert!(error.to_string().starts_with("power: "), "{error}");
    let Err(SimError::Config(error)) = SimCloud::new(clock, SimConfig { hosts: 0, ..config() }) else {
        panic!("it was taken")
    };
    assert_eq!(error.to_string(), "hosts: 0 is not allowed, expected 1 to 1000");
}

#[test]
fn configuration_refuses_unknown_keys() {
    let parsed: Result<SimConfig, _> = serde_json::from_str(r#"{"seed": 3, "boot": ["1s", "2s"]}"#);
    assert_eq!(parsed.unwrap().boot, [Span::from_secs(1), Span::from_secs(2)]);
    assert!(serde_json::from_str::<SimConfig>(r#"{"sede": 3}"#).is_err());
}

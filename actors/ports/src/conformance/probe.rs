//! What every [`GuestProbe`] must do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_protocol::{HostName, VmId};
use uuid::Uuid;

use crate::probe::{Freshness, GuestProbe};

const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the suite asks again before it gives up.
const MAX_LOOKS: usize = 600;

/// A prober under test, and what its VMs may be made to do.
#[async_trait]
pub trait ProbeFixture: Send + Sync {
    /// The probe.
    fn probe(&self) -> Arc<dyn GuestProbe>;

    /// Makes a VM whose guest answers after a while, and names its host.
    async fn boot(&self) -> (VmId, HostName);

    /// Makes its guest hang.
    async fn hang(&self, vm: VmId);

    /// Takes its host away.
    async fn host_down(&self, host: &HostName);

    /// Brings its host back.
    async fn host_up(&self, host: &HostName);

    /// Lets some time pass.
    async fn wait(&self);
}

/// Runs the whole suite.
///
/// # Panics
/// When the probe breaks a rule; the message says which.
pub async fn run(fixture: &dyn ProbeFixture) {
    let probe = fixture.probe();
    let (vm, host) = fixture.boot().await;
    until_up(fixture, vm, &host).await;
    for freshness in [Freshness::Within(TIMEOUT), Freshness::Now] {
        let verdict = probe.probe(vm, Some(&host), ProbeKind::Cloud, freshness, TIMEOUT).await;
        assert_eq!(verdict, ProbeVerdict::Up, "the cloud's own view: {freshness:?}");
    }
    assert_eq!(
        probe.probe(vm, None, ProbeKind::GuestAgent, Freshness::Now, TIMEOUT).await,
        ProbeVerdict::Up,
        "a host need not be known"
    );

    let nobody = VmId::new(Uuid::new_v4());
    for kind in [ProbeKind::GuestAgent, ProbeKind::Cloud] {
        let verdict = probe.probe(nobody, Some(&host), kind, Freshness::Within(TIMEOUT), TIMEOUT).await;
        assert!(matches!(verdict, ProbeVerdict::Inconclusive { .. }), "a VM that never was: {kind:?}: {verdict:?}");
    }

    fixture.hang(vm).await;
    let verdict = probe.probe(vm, Some(&host), ProbeKind::GuestAgent, Freshness::Now, TIMEOUT).await;
    assert!(matches!(verdict, ProbeVerdict::Down { .. }), "a guest that hangs on a healthy host: {verdict:?}");

    fixture.host_down(&host).await;
    for kind in [ProbeKind::GuestAgent, ProbeKind::Cloud] {
        let verdict = probe.probe(vm, Some(&host), kind, Freshness::Now, TIMEOUT).await;
        assert!(matches!(verdict, ProbeVerdict::Inconclusive { .. }), "{kind:?} under a dead host: {verdict:?}");
    }
    fixture.host_up(&host).await;
    let verdict = probe.probe(vm, Some(&host), ProbeKind::GuestAgent, Freshness::Now, TIMEOUT).await;
    assert!(matches!(verdict, ProbeVerdict::Down { .. }), "still hung once its host is back: {verdict:?}");
}

async fn until_up(fixture: &dyn ProbeFixture, vm: VmId, host: &HostName) {
    for _ in 0..MAX_LOOKS {
        match fixture.probe().probe(vm, Some(host), ProbeKind::GuestAgent, Freshness::Now, TIMEOUT).await {
            ProbeVerdict::Up => return,
            ProbeVerdict::Down { .. } | ProbeVerdict::Inconclusive { .. } => fixture.wait().await,
        }
    }
    panic!("the guest of {vm} never answered")
}

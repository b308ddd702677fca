//! A probe of a VM.

use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_protocol::{HostName, VmId};

/// Looks at a VM from outside or through the agent inside it.
#[async_trait]
pub trait GuestProbe: Send + Sync + 'static {
    /// Asks once and waits at most `timeout`. A probe that fails because of something above the VM (its host, the
    /// cloud's API, the prober's own network) says `Inconclusive`, never `Down`.
    async fn probe(&self, vm: VmId, host: Option<&HostName>, kind: ProbeKind, timeout: Duration) -> ProbeVerdict;
}

//! A probe of a VM.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_protocol::{HostName, VmId};

/// How old may be what is answered, so that one look at a cloud can answer for many of its VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Seen after it was asked.
    Now,
    /// Seen at most so long before it was asked. What was seen so may say that the VM is up, or that nobody can tell; that
    /// it is down is said by what was seen after it was asked alone, so that an old view raises no false alarm.
    Within(Duration),
}

/// Looks at a VM from outside or through the agent inside it.
#[async_trait]
pub trait GuestProbe: Send + Sync + 'static {
    /// Asks once and waits at most `timeout`. A probe that fails because of something above the VM (its host, the
    /// cloud's API, the prober's own network) says `Inconclusive`, never `Down`. A prober that has no cheaper way than
    /// to look each time may do so, whatever age is good enough.
    async fn probe(
        &self,
        vm: VmId,
        host: Option<&HostName>,
        kind: ProbeKind,
        freshness: Freshness,
        timeout: Duration,
    ) -> ProbeVerdict;

    /// Whether an address takes TCP connections on a port, within `timeout`.
    async fn connects(&self, address: IpAddr, port: u16, timeout: Duration) -> bool;
}

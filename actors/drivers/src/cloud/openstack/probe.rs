//! What the cloud's API can tell of a guest: Nova's view of the server, and of the guest the hypervisor's diagnostics.

use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::{CloudError, GuestProbe};
use reeve_protocol::observation::{PowerState, VmState};
use reeve_protocol::{HostName, VmId};
use serde::Deserialize;

use super::OpenStackCloud;
use super::api::{Api, Ask};
use super::session::Service;

#[derive(Deserialize)]
struct Diagnostics {
    state: String,
}

#[async_trait]
impl GuestProbe for OpenStackCloud {
    async fn probe(&self, vm: VmId, _host: Option<&HostName>, kind: ProbeKind, timeout: Duration) -> ProbeVerdict {
        let look = async {
            match kind {
                ProbeKind::Cloud => self.api.cloud_view(vm).await,
                ProbeKind::GuestAgent => self.api.guest_view(vm).await,
            }
        };
        let seen = tokio::time::timeout(timeout, look).await;
        let why = match seen {
            Ok(Ok(verdict)) => return verdict,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the cloud's API did not answer in time".to_owned(),
        };
        ProbeVerdict::Inconclusive { why }
    }
}

impl Api {
    async fn cloud_view(&self, vm: VmId) -> Result<ProbeVerdict, CloudError> {
        let (server, _) = self.server(vm).await?;
        let host = server.host_status.clone().unwrap_or_default();
        let facts = server.facts();
        // Where the policy hides it, the host is not in doubt.
        if matches!(host.as_str(), "DOWN" | "UNKNOWN") {
            return Ok(ProbeVerdict::Inconclusive { why: format!("the host of the VM is {host}") });
        }
        Ok(match (facts.state, facts.power) {
            (VmState::Active, Some(PowerState::Running)) => ProbeVerdict::Up,
            (state, power) => ProbeVerdict::Down { cause: format!("vm_state {}, power {power:?}", state.as_nova()) },
        })
    }

    async fn guest_view(&self, vm: VmId) -> Result<ProbeVerdict, CloudError> {
        let ask = Ask::get(Service::Compute, format!("/servers/{vm}/diagnostics"));
        let diagnostics: Diagnostics = self.ask(ask).await?.json()?;
        Ok(match diagnostics.state.as_str() {
            "running" => ProbeVerdict::Up,
            state @ ("pending" | "paused" | "shutdown" | "crashed" | "suspended") => {
                ProbeVerdict::Down { cause: format!("the hypervisor says that the guest is {state}") }
            }
            _ => {
                ProbeVerdict::Inconclusive { why: "the hypervisor says nothing that is known of the guest".to_owned() }
            }
        })
    }
}

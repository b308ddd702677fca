//! What the cloud's API can tell of a guest: Nova's view of the server, which one listing tells of many
//! ([`super::bulk`]), and of the guest the hypervisor's diagnostics, which are one call a VM.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use reeve_lifecycle::effect::ProbeVerdict;
use reeve_lifecycle::policy::ProbeKind;
use reeve_ports::{CloudError, Freshness, GuestProbe};
use reeve_protocol::{HostName, VmId};
use serde::Deserialize;
use tokio::net::TcpStream;

use super::OpenStackCloud;
use super::api::{Api, Ask};
use super::session::Service;

#[derive(Deserialize)]
struct Diagnostics {
    state: String,
}

#[async_trait]
impl GuestProbe for OpenStackCloud {
    async fn probe(
        &self,
        vm: VmId,
        _host: Option<&HostName>,
        kind: ProbeKind,
        freshness: Freshness,
        timeout: Duration,
    ) -> ProbeVerdict {
        let look = async {
            match kind {
                ProbeKind::Cloud => self.bulk.cloud_view(vm, freshness).await,
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

    async fn connects(&self, address: IpAddr, port: u16, timeout: Duration) -> bool {
        matches!(tokio::time::timeout(timeout, TcpStream::connect((address, port))).await, Ok(Ok(_)))
    }
}

impl Api {
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

//! Ports and public addresses in Neutron.

use reeve_ports::CloudError;
use reeve_protocol::VmId;
use serde::Deserialize;
use serde_json::json;

use super::api::{Api, Ask};
use super::images::harmless;
use super::pages::Item;
use super::server::Record;
use super::session::Service;

#[derive(Deserialize)]
pub(super) struct FloatingIp {
    pub(super) id: String,
    pub(super) floating_ip_address: String,
    /// The port that it is bound to.
    #[serde(default)]
    pub(super) port_id: Option<String>,
    #[serde(default)]
    pub(super) created_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct PortRecord {
    pub(super) id: String,
    network_id: String,
    /// What uses it: a server, or nothing if empty.
    #[serde(default)]
    pub(super) device_id: String,
    #[serde(default)]
    pub(super) fixed_ips: Vec<FixedIp>,
    #[serde(default)]
    pub(super) created_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct FixedIp {
    pub(super) ip_address: String,
}

#[derive(Deserialize)]
pub(super) struct Network {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(rename = "router:external", default)]
    pub(super) external: bool,
}

impl Item for FloatingIp {
    const LIST: &'static str = "floatingips";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

impl Item for PortRecord {
    const LIST: &'static str = "ports";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

impl Item for Network {
    const LIST: &'static str = "networks";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

#[derive(Deserialize)]
struct OnePort {
    port: PortRecord,
}

impl Api {
    /// The ids of a public address that is held; none if it is free.
    pub(super) async fn floating_ips(&self, address: &str) -> Result<Vec<String>, CloudError> {
        let ask = Ask::get(Service::Network, "/v2.0/floatingips").query("floating_ip_address", address);
        let found: Vec<FloatingIp> = self.every(ask).await?;
        Ok(found.into_iter().map(|found| found.id).collect())
    }

    pub(super) async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        self.ask(Ask::delete(Service::Network, format!("/v2.0/floatingips/{id}"))).await.map(|_| ())
    }

    /// A port by this name with so many public addresses; what an earlier attempt has made is taken.
    pub(super) async fn port(&self, name: &str, like: &Record, addresses: usize) -> Result<String, CloudError> {
        let ask = Ask::get(Service::Network, "/v2.0/ports").query("name", name);
        let found: Vec<PortRecord> = self.every(ask).await?;
        let port = match found.into_iter().next() {
            Some(port) => port,
            None => {
                let network = self.network_of(like).await?;
                let body = json!({ "port": { "name": name, "network_id": network, "admin_state_up": true } });
                let made = self.ask(Ask::post(Service::Network, "/v2.0/ports", body)).await.map_err(harmless)?;
                made.json::<OnePort>().map_err(harmless)?.port
            }
        };
        let ask = Ask::get(Service::Network, "/v2.0/floatingips").query("port_id", port.id.clone());
        let held = self.every::<FloatingIp>(ask).await?.len();
        if held < addresses {
            let outside = self.networks("router:external", "true").await?.into_iter().next();
            let outside =
                outside.ok_or_else(|| CloudError::Refused("there is no external network for addresses".to_owned()))?;
            for _ in held..addresses {
                let body = json!({ "floatingip": {
                    "floating_network_id": outside, "port_id": port.id, "description": name,
                } });
                let made = self.ask(Ask::post(Service::Network, "/v2.0/floatingips", body)).await;
                made.map_err(harmless)?;
            }
        }
        Ok(port.id)
    }

    /// The network of a server: that of its first port; once it is gone the one that was called like it, or the only one.
    async fn network_of(&self, like: &Record) -> Result<String, CloudError> {
        if let Some(network) = self.network_of_port(like.id).await? {
            return Ok(network);
        }
        for name in like.networks() {
            if let Some(network) = self.networks("name", name).await?.into_iter().next() {
                return Ok(network);
            }
        }
        let mut inner = self.networks("router:external", "false").await?;
        match (inner.pop(), inner.len()) {
            (Some(only), 0) => Ok(only),
            (_, others) => Err(CloudError::Refused(format!(
                "the network of {} is not known, and there are {others} others to choose from",
                like.id
            ))),
        }
    }

    async fn network_of_port(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        let ask = Ask::get(Service::Network, "/v2.0/ports").query("device_id", vm.to_string());
        let ports: Vec<PortRecord> = self.every(ask).await?;
        Ok(ports.into_iter().next().map(|port| port.network_id))
    }

    async fn networks(&self, key: &'static str, value: &str) -> Result<Vec<String>, CloudError> {
        let found: Vec<Network> = self.every(Ask::get(Service::Network, "/v2.0/networks").query(key, value)).await?;
        Ok(found.into_iter().map(|network| network.id).collect())
    }
}

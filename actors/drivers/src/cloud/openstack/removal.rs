//! What is taken back, and what outlives a server that is deleted.
//!
//! ```text
//! remove_parts:    servers ─ gone ─► addresses ─► ports ─► security groups ─► volumes, images ─► a look: nothing left
//! delete_server:   port and group of the server's operation are noted as its own ─► DELETE
//! remove_remains:  what is noted ─► ports ─► security groups ─► a look: nothing left
//! ```
//!
//! Neutron forgets whose a port was when its server goes, so that is noted in its description before. A crash between the
//! note and the deletion is harmless: both are done again.

use reeve_ports::CloudError;
use reeve_ports::cloud::OPERATION_KEY;
use reeve_protocol::VmId;
use reeve_protocol::observation::VmState;
use serde_json::json;

use super::api::{Api, Ask};
use super::images::Image;
use super::launch::operation_tag;
use super::network::PortRecord;
use super::parts::{TAG_KEY, VolumeItem};
use super::server::Record;
use super::session::Service;
use super::twins::Twin;

/// How a port or group says that it goes with a server.
fn note_of(vm: VmId) -> String {
    format!("reeve-of-{vm}")
}

/// What a deletion that was asked for left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

impl Left {
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => Self::Nothing,
            (Self::Something, _) | (_, Self::Something) => Self::Something,
        }
    }
}

impl Api {
    pub(super) async fn remove_parts(&self, operation: &str) -> Result<bool, CloudError> {
        let tag = operation_tag(operation);
        let servers = self.servers_of(&tag).await?;
        if !servers.is_empty() {
            for server in servers.iter().filter(|server| !server.is_going()) {
                self.gone_or_not_yet(server).await?;
            }
            return Ok(false);
        }
        let network =
            if self.has(Service::Network).await? { self.remove_network(&tag, operation).await? } else { Left::Nothing };
        let volumes = if self.has(Service::Volume).await? { self.remove_volumes(&tag).await? } else { Left::Nothing };
        let images = self.remove_images(&tag).await?;
        // A launch whose answer was lost may have made a server of them meanwhile.
        let servers = self.servers_of(&tag).await?;
        Ok(servers.is_empty() && network.and(volumes).and(images) == Left::Nothing)
    }

    async fn remove_network(&self, tag: &str, operation: &str) -> Result<Left, CloudError> {
        let ports = self.ports("name", tag).await?;
        if self.is_one_anothers(&ports, |server| made_by(server, operation)).await? {
            return Ok(Left::Nothing);
        }
        let mut left = Left::Nothing;
        for address in self.addresses_of(tag).await? {
            left = left.and(self.gone_or_not_yet(&address).await?);
        }
        for port in ports {
            left = left.and(self.gone_or_not_yet(&port).await?);
        }
        for group in self.groups("name", tag).await? {
            left = left.and(self.gone_or_not_yet(&group).await?);
        }
        let is_empty = self.addresses_of(tag).await?.is_empty()
            && self.ports("name", tag).await?.is_empty()
            && self.groups("name", tag).await?.is_empty();
        Ok(if is_empty { left } else { Left::Something })
    }

    /// A volume is gone only some time after its deletion is taken.
    async fn remove_volumes(&self, tag: &str) -> Result<Left, CloudError> {
        let filter = json!({ TAG_KEY: tag }).to_string();
        let ask = Ask::get(Service::Volume, "/volumes/detail").query("metadata", filter);
        let found: Vec<VolumeItem> = self.every(ask).await?;
        for volume in found.iter().filter(|volume| volume.status != "deleting") {
            self.gone_or_not_yet(volume).await?;
        }
        Ok(if found.is_empty() { Left::Nothing } else { Left::Something })
    }

    /// Removes the disks that were uploaded for a launch or a restore which is over.
    pub(super) async fn drop_sources(&self, operation: &str) -> Result<(), CloudError> {
        match self.remove_images(&operation_tag(operation)).await? {
            Left::Nothing => Ok(()),
            Left::Something => Err(CloudError::Unavailable("uploaded disks are still there".to_owned())),
        }
    }

    /// Uploaded disks.
    async fn remove_images(&self, tag: &str) -> Result<Left, CloudError> {
        let images = async || self.every::<Image>(Ask::get(Service::Image, "/v2/images").query("tag", tag)).await;
        let found = images().await?;
        for image in &found {
            match self.delete_image(&image.id).await {
                Ok(()) | Err(CloudError::NotFound(_)) => {}
                Err(error) => not_yet(error)?,
            }
        }
        Ok(if found.is_empty() || images().await?.is_empty() { Left::Nothing } else { Left::Something })
    }

    /// Notes what goes with a server that is about to be deleted.
    pub(super) async fn note_remains(&self, vm: VmId) -> Result<(), CloudError> {
        let (server, _) = self.server(vm).await?;
        let Some(operation) = server.metadata.get(OPERATION_KEY) else { return Ok(()) };
        if !self.has(Service::Network).await? {
            return Ok(());
        }
        let tag = operation_tag(operation);
        self.note(vm, &tag).await.map_err(|error| {
            CloudError::Unavailable(format!(
                "the port of server {vm} cannot be noted as its own, and it stays: {error}"
            ))
        })
    }

    async fn note(&self, vm: VmId, tag: &str) -> Result<(), CloudError> {
        let note = note_of(vm);
        let ports = self.ports("name", tag).await?;
        // Metadata are its owner's to write: another's port is not noted because of them.
        if ports.iter().any(|port| port.in_use() && port.device_id != vm.to_string()) {
            return Ok(());
        }
        for port in ports {
            let body = json!({ "port": { "description": note } });
            self.ask(Ask::put(Service::Network, format!("/v2.0/ports/{}", port.id), body)).await?;
        }
        for group in self.groups("name", tag).await? {
            let body = json!({ "security_group": { "description": note } });
            self.ask(Ask::put(Service::Network, format!("/v2.0/security-groups/{}", group.id), body)).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_remains(&self, vm: VmId) -> Result<bool, CloudError> {
        if !self.has(Service::Network).await? {
            return Ok(true);
        }
        let ghost = match self.server_or_ghost(vm).await {
            Ok(server) if server.state() != VmState::Deleted => return Ok(false),
            Ok(server) => Some(server),
            Err(CloudError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        let note = note_of(vm);
        let mut left = self.remove_its("description", &note).await?;
        // One that others deleted has no note, but Nova remembers it for a while.
        if let Some(operation) = ghost.as_ref().and_then(|ghost| ghost.metadata.get(OPERATION_KEY)) {
            left = left.and(self.remove_its("name", &operation_tag(operation)).await?);
        }
        Ok(left == Left::Nothing)
    }

    /// Removes ports and groups, unless another server has got such a port: metadata are their owner's to write.
    async fn remove_its(&self, key: &'static str, value: &str) -> Result<Left, CloudError> {
        let ports = self.ports(key, value).await?;
        if self.is_one_anothers(&ports, |_| false).await? {
            return Ok(Left::Nothing);
        }
        let mut left = Left::Nothing;
        for port in ports {
            left = left.and(self.gone_or_not_yet(&port).await?);
        }
        for group in self.groups(key, value).await? {
            left = left.and(self.gone_or_not_yet(&group).await?);
        }
        Ok(left)
    }

    /// Whether somebody has given such a port to another server, which must not lose it: then nothing about it is removed.
    async fn is_one_anothers(
        &self,
        ports: &[PortRecord],
        is_own: impl Fn(&Record) -> bool,
    ) -> Result<bool, CloudError> {
        for device in ports.iter().filter_map(|port| port.device_id.parse::<VmId>().ok()) {
            match self.server(device).await {
                Ok((server, _)) if is_own(&server) => {}
                Ok(_) => {
                    tracing::warn!(cloud = %self.name, server = %device, "a port that was made for another server stays");
                    return Ok(true);
                }
                Err(CloudError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Asks for a deletion. What is still in use stays for now.
    async fn gone_or_not_yet<T: Twin>(&self, item: &T) -> Result<Left, CloudError> {
        match self.delete_of(item).await {
            Ok(()) | Err(CloudError::NotFound(_)) => Ok(Left::Nothing),
            Err(error) => not_yet(error).map(|()| Left::Something),
        }
    }
}

/// Neutron, Nova and Glance say 409 of what is in use, Cinder 400.
fn not_yet(error: CloudError) -> Result<(), CloudError> {
    match error {
        CloudError::Refused(why) if why.starts_with("409") || why.starts_with("400") => Ok(()),
        CloudError::NotFound(_) | CloudError::Refused(_) | CloudError::Unavailable(_) | CloudError::Unknown(_) => {
            Err(error)
        }
    }
}

fn made_by(server: &Record, operation: &str) -> bool {
    server.metadata.get(OPERATION_KEY).is_some_and(|by| by == operation)
}

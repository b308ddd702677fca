//! The parts of a server that is made from a plan: each is looked for by the operation's tag, and made if it is not there.
//!
//! ```text
//! security group ─► port ─► floating IP (bound as it is made) ─┐
//!                   volumes (by name, `<tag>-<index>`) ────────┴─► POST /servers, tagged
//! ```
//!
//! Group and port carry the tag as their name, a floating IP as its description.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reeve_ports::CloudError;
use reeve_ports::cloud::{Blueprint, PartState};
use reeve_protocol::observation::VmState;
use reeve_protocol::provision::Part;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Ask};
use super::launch::operation_tag;
use super::network::{FloatingIp, PortRecord};
use super::pages::Item;
use super::server::Record;
use super::session::Service;

/// Metadata key on a volume: the tag of the operation that made it.
pub(super) const TAG_KEY: &str = "reeve_tag";
/// A server that went within this time was made: it is not made again because somebody removed it.
const LONGEST_PROVISION: Duration = Duration::from_secs(86_400);

/// A volume, as a listing has it.
#[derive(Deserialize)]
pub(super) struct VolumeItem {
    pub(super) id: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) created_at: Option<String>,
}

impl Item for VolumeItem {
    const LIST: &'static str = "volumes";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

impl VolumeItem {
    fn state(self) -> PartState {
        match self.status.as_str() {
            "available" | "in-use" | "attaching" | "reserved" => {
                PartState::Ready { id: self.id, addresses: Vec::new() }
            }
            error if error.starts_with("error") => PartState::Failed(format!("volume {} is {error}", self.id)),
            _ => PartState::Pending,
        }
    }
}

fn volume_name(tag: &str, index: u16) -> String {
    format!("{tag}-{index}")
}

fn not_yet(what: &str) -> CloudError {
    CloudError::Unavailable(format!("the {what} of the server is not there yet"))
}

impl Api {
    pub(super) async fn find_part(&self, blueprint: &Blueprint, part: Part) -> Result<PartState, CloudError> {
        let tag = operation_tag(&blueprint.operation);
        Ok(match part {
            Part::Firewall => self.find_firewall(&tag, &blueprint.plan).await?,
            Part::Port => match self.port_of(&tag).await? {
                Some(port) => {
                    let addresses = port.fixed_ips.into_iter().map(|fixed| fixed.ip_address).collect();
                    PartState::Ready { id: port.id, addresses }
                }
                None => PartState::Absent,
            },
            Part::Address => match (self.address_of(&tag).await?, self.port_of(&tag).await?) {
                (Some(held), Some(port)) if held.port_id.as_ref() == Some(&port.id) => {
                    let address = held.floating_ip_address;
                    PartState::Ready { id: address.clone(), addresses: vec![address] }
                }
                // Making it binds the one that is there.
                (Some(_) | None, Some(_) | None) => PartState::Absent,
            },
            Part::Volume(index) => self.volume_of(&tag, index).await?.map_or(PartState::Absent, VolumeItem::state),
            Part::Server => self.find_server(&blueprint.operation, &tag).await?,
        })
    }

    pub(super) async fn make_part(&self, blueprint: &Blueprint, part: Part) -> Result<(), CloudError> {
        let tag = operation_tag(&blueprint.operation);
        match part {
            Part::Firewall => self.make_firewall(&tag, &blueprint.plan).await,
            Part::Port => self.make_port(&tag, blueprint).await,
            Part::Address => self.make_address(&tag, blueprint).await,
            Part::Volume(index) => self.make_volume(&tag, blueprint, index).await,
            Part::Server => match self.find_server(&blueprint.operation, &tag).await? {
                PartState::Absent => self.make_server(&tag, blueprint).await,
                PartState::Pending | PartState::Ready { .. } | PartState::Failed(_) => Ok(()),
            },
        }
    }

    async fn port_of(&self, tag: &str) -> Result<Option<PortRecord>, CloudError> {
        let found = self.ports("name", tag).await?;
        self.the_one(found).await
    }

    pub(super) async fn ports(&self, key: &'static str, value: &str) -> Result<Vec<PortRecord>, CloudError> {
        self.every(Ask::get(Service::Network, "/v2.0/ports").query(key, value)).await
    }

    async fn address_of(&self, tag: &str) -> Result<Option<FloatingIp>, CloudError> {
        let found = self.addresses_of(tag).await?;
        self.the_one(found).await
    }

    pub(super) async fn addresses_of(&self, tag: &str) -> Result<Vec<FloatingIp>, CloudError> {
        self.every(Ask::get(Service::Network, "/v2.0/floatingips").query("description", tag)).await
    }

    async fn volume_of(&self, tag: &str, index: u16) -> Result<Option<VolumeItem>, CloudError> {
        let ask = Ask::get(Service::Volume, "/volumes/detail").query("name", volume_name(tag, index));
        let mut found: Vec<VolumeItem> = self.every(ask).await?;
        found.retain(|volume| volume.status != "deleting");
        self.the_one(found).await
    }

    async fn find_server(&self, operation: &str, tag: &str) -> Result<PartState, CloudError> {
        let tagged = self.servers_of(tag).await?;
        let Some(server) = self.the_one(tagged).await? else {
            let since = self.clock.now().saturating_sub(LONGEST_PROVISION);
            let went = self.launched_and_gone(operation, since).await?;
            return Ok(went
                .first()
                .map_or(PartState::Absent, |went| PartState::Failed(format!("server {} was removed", went.vm))));
        };
        Ok(match server.state() {
            VmState::Building => PartState::Pending,
            VmState::Error => {
                let fault = server.fault.as_ref().map_or("no fault is told", |fault| fault.message.as_str());
                let fault: String = fault.chars().filter(|c| !c.is_control()).take(300).collect();
                PartState::Failed(format!("server {} is in error: {fault}", server.id))
            }
            VmState::Deleted | VmState::SoftDeleted => PartState::Failed(format!("server {} was removed", server.id)),
            VmState::Active
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved
            | VmState::ShelvedOffloaded => PartState::Ready { id: server.id.to_string(), addresses: Vec::new() },
            VmState::Unknown => PartState::Pending,
        })
    }

    /// The living servers of a tag. Where a cell does not answer nothing is said.
    pub(super) async fn servers_of(&self, tag: &str) -> Result<Vec<Record>, CloudError> {
        let tagged: Vec<Record> = self.every(Ask::servers().query("tags", tag)).await?;
        if tagged.iter().any(Record::is_partial) {
            return Err(CloudError::Unavailable("a cell does not answer".to_owned()));
        }
        Ok(tagged)
    }

    async fn make_port(&self, tag: &str, blueprint: &Blueprint) -> Result<(), CloudError> {
        if self.port_of(tag).await?.is_some() {
            return Ok(());
        }
        let network = self.find_network(&blueprint.plan.network).await?.id;
        let group = self.group(tag).await?.ok_or_else(|| not_yet("security group"))?.id;
        let body = json!({ "port": {
            "name": tag, "network_id": network, "security_groups": [group], "admin_state_up": true,
        } });
        self.ask(Ask::post(Service::Network, "/v2.0/ports", body)).await.map(|_| ())
    }

    async fn make_address(&self, tag: &str, blueprint: &Blueprint) -> Result<(), CloudError> {
        let port = self.port_of(tag).await?.ok_or_else(|| not_yet("port"))?.id;
        if let Some(held) = self.address_of(tag).await? {
            if held.port_id.as_ref() == Some(&port) {
                return Ok(());
            }
            let body = json!({ "floatingip": { "port_id": port } });
            let ask = Ask::put(Service::Network, format!("/v2.0/floatingips/{}", held.id), body);
            return self.ask(ask).await.map(|_| ());
        }
        let outside = blueprint.plan.public_network.as_deref().unwrap_or_default();
        let outside = self.find_network(outside).await?.id;
        let body = json!({ "floatingip": {
            "floating_network_id": outside, "port_id": port, "description": tag,
        } });
        self.ask(Ask::post(Service::Network, "/v2.0/floatingips", body)).await.map(|_| ())
    }

    async fn make_volume(&self, tag: &str, blueprint: &Blueprint, index: u16) -> Result<(), CloudError> {
        if self.volume_of(tag, index).await?.is_some() {
            return Ok(());
        }
        let wanted = blueprint.plan.volumes.get(usize::from(index));
        let wanted = wanted.ok_or_else(|| CloudError::Refused(format!("400 the plan has no volume {index}")))?;
        let mut volume = json!({ "size": wanted.gib, "name": volume_name(tag, index), "metadata": { TAG_KEY: tag } });
        if let Some(kind) = &wanted.kind {
            volume["volume_type"] = json!(kind);
        }
        self.ask(Ask::post(Service::Volume, "/volumes", json!({ "volume": volume }))).await.map(|_| ())
    }

    async fn make_server(&self, tag: &str, blueprint: &Blueprint) -> Result<(), CloudError> {
        let plan = &blueprint.plan;
        let port = self.port_of(tag).await?.ok_or_else(|| not_yet("port"))?;
        if !port.device_id.is_empty() {
            // Its server is not listed: it comes or goes.
            return Err(CloudError::Unavailable(format!("port {} is in use by {}", port.id, port.device_id)));
        }
        let (image, flavor) = (self.find_image(&plan.image).await?.id, self.find_flavor(&plan.flavor).await?.id);
        let mut disks = vec![json!({
            "boot_index": 0, "uuid": image, "source_type": "image", "destination_type": "local",
            "delete_on_termination": true,
        })];
        for (index, _) in (0_u16..).zip(&plan.volumes) {
            let volume = self.volume_of(tag, index).await?.ok_or_else(|| not_yet("volume"))?;
            disks.push(json!({
                "boot_index": -1, "uuid": volume.id, "source_type": "volume", "destination_type": "volume",
                "delete_on_termination": true,
            }));
        }
        let mut metadata = plan.metadata.clone();
        metadata.extend(blueprint.metadata.clone());
        let mut server = json!({
            "name": plan.name,
            "flavorRef": flavor,
            "imageRef": image,
            "networks": [{ "port": port.id }],
            "metadata": metadata,
            "tags": [tag],
            "block_device_mapping_v2": disks,
        });
        let mut set = |key: &str, value: Option<&str>| {
            if let Some(value) = value {
                server[key] = Value::from(value);
            }
        };
        set("key_name", plan.key.as_deref());
        set("availability_zone", plan.zone.as_deref());
        let user_data = (!blueprint.user_data.is_empty()).then(|| STANDARD.encode(&blueprint.user_data));
        set("user_data", user_data.as_deref());
        self.ask(Ask::post(Service::Compute, "/servers", json!({ "server": server }))).await.map(|_| ())
    }
}

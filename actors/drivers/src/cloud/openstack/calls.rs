//! The port: every call of [`Cloud`] as requests.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_lifecycle::effect::{Disk, Inventory, Volume};
use reeve_ports::cloud::{Blueprint, CloudSnapshot, DiskSource, HostHealth, LaunchSpec, ListPage, PartState};
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{HostName, Timestamp, VmId};
use serde::Deserialize;
use serde_json::json;

use super::OpenStackCloud;
use super::api::{Api, Ask};
use super::server::{Page, Record};
use super::session::Service;

const GIB: u64 = 1 << 30;
/// The most volumes and addresses of a VM that are looked at.
const MAX_PARTS: usize = 64;

#[derive(Deserialize)]
struct Attachments {
    #[serde(rename = "volumeAttachments")]
    attachments: Vec<Attachment>,
}

#[derive(Deserialize)]
struct Attachment {
    #[serde(rename = "volumeId")]
    volume: String,
    /// Whether it goes with the server (2.79).
    #[serde(default)]
    delete_on_termination: bool,
}

#[derive(Deserialize)]
struct OneVolume {
    volume: VolumeRecord,
}

#[derive(Deserialize)]
struct VolumeRecord {
    /// In GiB.
    size: u64,
}

#[derive(Deserialize)]
struct Services {
    services: Vec<ServiceRecord>,
}

#[derive(Deserialize)]
struct ServiceRecord {
    host: String,
    state: String,
    #[serde(default)]
    forced_down: bool,
}

#[async_trait]
impl Cloud for OpenStackCloud {
    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError> {
        self.api.listed(Ask::servers(), from).await
    }

    async fn changed(&self, since: Timestamp, from: Option<String>) -> Result<Option<ListPage>, CloudError> {
        let changed = Ask::servers().query("changes-since", since.to_string());
        self.api.listed(changed, from).await.map(Some)
    }

    async fn show(&self, vm: VmId) -> Result<(VmFacts, Said), CloudError> {
        let (server, said) = self.api.server(vm).await?;
        Ok((server.facts(), said))
    }

    async fn inventory(&self, vm: VmId) -> Result<Inventory, CloudError> {
        let mut addresses = self.api.server(vm).await?.0.floating_addresses();
        addresses.truncate(MAX_PARTS);
        let ask = Ask::get(Service::Compute, format!("/servers/{vm}/os-volume_attachments"));
        let attached: Attachments = self.api.ask(ask).await?.json()?;
        let mut volumes = Vec::new();
        for attachment in attached.attachments.into_iter().take(MAX_PARTS) {
            // One that went meanwhile is no part any more.
            if let Some(bytes) = self.api.volume_bytes(&attachment.volume).await? {
                volumes.push(Volume { id: attachment.volume, own: attachment.delete_on_termination, bytes });
            }
        }
        Ok(Inventory { volumes, addresses })
    }

    async fn start(&self, vm: VmId) -> Result<(), CloudError> {
        self.api.act_towards(vm, json!({ "os-start": null }), VmState::Active).await
    }

    async fn stop(&self, vm: VmId) -> Result<(), CloudError> {
        self.api.act_towards(vm, json!({ "os-stop": null }), VmState::Stopped).await
    }

    async fn hard_reboot(&self, vm: VmId) -> Result<(), CloudError> {
        self.api.act(vm, json!({ "reboot": { "type": "HARD" } })).await
    }

    async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        self.api.last_reboot(vm).await
    }

    async fn suspend(&self, vm: VmId) -> Result<(), CloudError> {
        self.api.act_towards(vm, json!({ "suspend": null }), VmState::Suspended).await
    }

    async fn resume(&self, vm: VmId) -> Result<(), CloudError> {
        self.api.act_towards(vm, json!({ "resume": null }), VmState::Active).await
    }

    async fn snapshot(&self, vm: VmId, disk: &Disk, name: &str) -> Result<(), CloudError> {
        match disk {
            Disk::Root => self.api.act(vm, json!({ "createImage": { "name": name, "metadata": {} } })).await,
            Disk::Volume(volume) => {
                let body = json!({ "os-volume_upload_image": {
                    "image_name": name, "force": true, "disk_format": "raw", "container_format": "bare",
                } });
                self.api.ask(Ask::post(Service::Volume, format!("/volumes/{volume}/action"), body)).await.map(|_| ())
            }
        }
    }

    async fn find_snapshots(&self, vm: VmId, name: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        let vm = vm.to_string();
        let images = self.api.images_named(name).await?;
        let own = images.iter().filter(|image| image.instance_uuid.as_ref().is_none_or(|of| *of == vm));
        Ok(own.map(super::images::Image::as_snapshot).collect())
    }

    async fn read_snapshot(
        &self,
        _vm: VmId,
        id: &str,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError> {
        self.api.read_image(id).await
    }

    async fn delete_snapshot(&self, _vm: VmId, id: &str) -> Result<(), CloudError> {
        self.api.delete_image(id).await
    }

    async fn delete_server(&self, vm: VmId) -> Result<(), CloudError> {
        self.api.note_remains(vm).await?;
        self.api.ask(Ask::delete(Service::Compute, format!("/servers/{vm}"))).await.map(|_| ())
    }

    async fn volume_exists(&self, volume: &str) -> Result<bool, CloudError> {
        Ok(self.api.volume_bytes(volume).await?.is_some())
    }

    async fn delete_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.api.ask(Ask::delete(Service::Volume, format!("/volumes/{volume}"))).await.map(|_| ())
    }

    async fn address_held(&self, address: &str) -> Result<bool, CloudError> {
        Ok(!self.api.floating_ips(address).await?.is_empty())
    }

    async fn release_address(&self, address: &str) -> Result<(), CloudError> {
        let held = self.api.floating_ips(address).await?;
        if held.is_empty() {
            return Err(CloudError::NotFound(format!("address {address}")));
        }
        for id in held {
            self.api.delete_floating_ip(&id).await?;
        }
        Ok(())
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError> {
        self.api.launch(spec).await
    }

    async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        self.api.find_launched(operation, since).await
    }

    async fn restore_in_place(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError> {
        self.api.restore(vm, operation, disks).await
    }

    async fn drop_sources(&self, operation: &str) -> Result<(), CloudError> {
        self.api.drop_sources(operation).await
    }

    async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        self.api.last_restore(vm).await
    }

    async fn check_plan(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        self.api.check_plan(plan).await
    }

    async fn find_part(&self, blueprint: &Blueprint, part: Part) -> Result<PartState, CloudError> {
        self.api.find_part(blueprint, part).await
    }

    async fn make_part(&self, blueprint: &Blueprint, part: Part) -> Result<(), CloudError> {
        self.api.make_part(blueprint, part).await
    }

    async fn remove_parts(&self, operation: &str) -> Result<bool, CloudError> {
        self.api.remove_parts(operation).await
    }

    async fn remove_remains(&self, vm: VmId) -> Result<bool, CloudError> {
        self.api.remove_remains(vm).await
    }

    async fn console(&self, vm: VmId) -> Result<String, CloudError> {
        self.api.console(vm).await
    }

    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError> {
        let ask = Ask::get(Service::Compute, "/os-services").query("binary", "nova-compute");
        let found: Services = self.api.ask(ask).await?.json()?;
        // Nova has no pages of these.
        let hosts = found.services.into_iter().filter_map(|service| {
            let up = service.state == "up" && !service.forced_down;
            Some(HostHealth { host: HostName::new(service.host).ok()?, up })
        });
        Ok(hosts.collect())
    }
}

impl Api {
    async fn listed(&self, listing: Ask, from: Option<String>) -> Result<ListPage, CloudError> {
        let answer = self.ask(self.page(listing, from)).await?;
        let page: Page = answer.json()?;
        let next = page.next();
        let complete = !page.servers.iter().any(Record::is_partial);
        let whole = page.servers.into_iter().filter(|server| !server.is_partial());
        Ok(ListPage { vms: whole.map(Record::facts).collect(), said: self.said(&answer), next, complete })
    }

    /// The page of a listing that begins after this server, or the first.
    pub(super) fn page(&self, listing: Ask, after: Option<String>) -> Ask {
        let page = listing.query("limit", self.config.page.to_string());
        match after {
            Some(marker) => page.query("marker", marker),
            None => page,
        }
    }

    /// The size of a volume; `None` if there is none.
    async fn volume_bytes(&self, volume: &str) -> Result<Option<u64>, CloudError> {
        match self.ask(Ask::get(Service::Volume, format!("/volumes/{volume}"))).await {
            Ok(answer) => Ok(Some(answer.json::<OneVolume>()?.volume.size.saturating_mul(GIB))),
            Err(CloudError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

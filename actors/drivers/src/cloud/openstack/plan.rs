//! What a plan names, looked for in the cloud before anything is made: each refusal says what, what was asked for and what
//! is possible. A reference is an id, or a name that exactly one has.

use reeve_ports::CloudError;
use reeve_protocol::provision::ServerPlan;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::api::{Api, Ask};
use super::images::Image;
use super::network::Network;
use super::pages::Item;
use super::session::Service;

/// The most names that a refusal lists.
const MAX_NAMED: usize = 12;

/// What a plan refers to.
pub(super) trait Referred: Item {
    /// What it is, for people.
    const WHAT: &'static str;

    fn id(&self) -> &str;

    fn name(&self) -> &str;
}

#[derive(Deserialize)]
pub(super) struct Flavor {
    pub(super) id: String,
    name: String,
    pub(super) vcpus: i64,
    /// In MiB.
    pub(super) ram: i64,
    /// Of the root disk, in GiB; 0 where it is as large as the image.
    disk: u64,
}

#[derive(Deserialize)]
struct KeyPair {
    keypair: Key,
}

#[derive(Deserialize)]
struct Key {
    name: String,
}

#[derive(Deserialize)]
struct Zones {
    #[serde(rename = "availabilityZoneInfo")]
    zones: Vec<Zone>,
}

#[derive(Deserialize)]
struct Zone {
    #[serde(rename = "zoneName")]
    name: String,
    #[serde(rename = "zoneState")]
    state: ZoneState,
}

#[derive(Deserialize)]
struct ZoneState {
    available: bool,
}

#[derive(Deserialize)]
struct VolumeType {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct VolumeTypes {
    volume_types: Vec<VolumeType>,
}

impl Item for Flavor {
    const LIST: &'static str = "flavors";

    fn marker(&self) -> String {
        self.id.clone()
    }
}

impl Referred for Flavor {
    const WHAT: &'static str = "flavor";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Item for KeyPair {
    const LIST: &'static str = "keypairs";

    fn marker(&self) -> String {
        self.keypair.name.clone()
    }
}

impl Referred for Network {
    const WHAT: &'static str = "network";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Referred for Image {
    const WHAT: &'static str = "image";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

impl Api {
    pub(super) async fn check_plan(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        let image = self.find_image(&plan.image).await?;
        let flavor = self.find_flavor(&plan.flavor).await?;
        image_is_active(&image)?;
        image_fits(&image, &flavor)?;
        self.find_network(&plan.network).await?;
        if let Some(outside) = &plan.public_network {
            let network = self.find_network(outside).await?;
            if !network.external {
                return Err(refused(format!("network {outside:?} is not external: it gives no public addresses")));
            }
        }
        if let Some(key) = &plan.key {
            self.check_key(key).await?;
        }
        if let Some(zone) = &plan.zone {
            self.check_zone(zone).await?;
        }
        self.check_volumes(plan).await?;
        self.check_quota(plan, flavor.vcpus, flavor.ram).await
    }

    pub(super) async fn find_image(&self, wanted: &str) -> Result<Image, CloudError> {
        let by_name = Ask::get(Service::Image, "/v2/images").query("name", wanted);
        self.referred(wanted, Some(format!("/v2/images/{wanted}")), by_name, |image: Image| image).await
    }

    pub(super) async fn find_network(&self, wanted: &str) -> Result<Network, CloudError> {
        #[derive(Deserialize)]
        struct One {
            network: Network,
        }
        let by_name = Ask::get(Service::Network, "/v2.0/networks").query("name", wanted);
        self.referred(wanted, Some(format!("/v2.0/networks/{wanted}")), by_name, |one: One| one.network).await
    }

    /// All flavors are listed, public or not: Nova finds none by its name.
    pub(super) async fn find_flavor(&self, wanted: &str) -> Result<Flavor, CloudError> {
        let all = Ask::get(Service::Compute, "/flavors/detail").query("is_public", "None");
        self.referred(wanted, None, all, |flavor: Flavor| flavor).await
    }

    /// The one that this names: by its id, else by a name that only one has.
    async fn referred<T: Referred, O: DeserializeOwned>(
        &self,
        wanted: &str,
        by_id: Option<String>,
        listing: Ask,
        one: impl Fn(O) -> T,
    ) -> Result<T, CloudError> {
        let service = listing.service;
        if let Some(path) = by_id.filter(|_| may_be_id(wanted)) {
            match self.ask(Ask::get(service, path)).await {
                Ok(answer) => return answer.json::<O>().map(one),
                // Glance answers 400 to what is no UUID, others 404.
                Err(CloudError::NotFound(_) | CloudError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        choose(self.every(listing).await?, wanted)
    }

    async fn check_key(&self, wanted: &str) -> Result<(), CloudError> {
        let keys: Vec<KeyPair> = self.every(Ask::get(Service::Compute, "/os-keypairs")).await?;
        let names: Vec<String> = keys.into_iter().map(|pair| pair.keypair.name).collect();
        is_among("key pair", wanted, &names)
    }

    async fn check_zone(&self, wanted: &str) -> Result<(), CloudError> {
        let told: Zones = self.ask(Ask::get(Service::Compute, "/os-availability-zone")).await?.json()?;
        let zones = told.zones.into_iter().filter(|zone| zone.state.available);
        is_among("availability zone", wanted, &zones.map(|zone| zone.name).collect::<Vec<_>>())
    }

    async fn check_volumes(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        if plan.volumes.is_empty() {
            return Ok(());
        }
        if !self.has(Service::Volume).await? {
            return Err(refused(format!("{} volumes are asked for, and the cloud has no Cinder", plan.volumes.len())));
        }
        if let Some(index) = plan.volumes.iter().position(|volume| volume.gib == 0) {
            return Err(refused(format!("volume {index} has 0 GiB, 1 is the least")));
        }
        let kinds: Vec<&String> = plan.volumes.iter().filter_map(|volume| volume.kind.as_ref()).collect();
        if kinds.is_empty() {
            return Ok(());
        }
        let told: VolumeTypes = self.ask(Ask::get(Service::Volume, "/types")).await?.json()?;
        for wanted in kinds {
            if !told.volume_types.iter().any(|kind| kind.id == *wanted) {
                let names: Vec<String> = told.volume_types.iter().map(|kind| kind.name.clone()).collect();
                is_among("volume type", wanted, &names)?;
            }
        }
        Ok(())
    }
}

pub(super) fn refused(why: String) -> CloudError {
    CloudError::Refused(why)
}

/// Whether a reference can stand in a path.
fn may_be_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// By id, else by a name that exactly one has.
fn choose<T: Referred>(mut found: Vec<T>, wanted: &str) -> Result<T, CloudError> {
    if let Some(at) = found.iter().position(|item| item.id() == wanted) {
        return Ok(found.swap_remove(at));
    }
    let listed: Vec<String> = found.iter().map(|item| item.name().to_owned()).collect();
    let mut named: Vec<T> = found.into_iter().filter(|item| item.name() == wanted).collect();
    match (named.pop(), named.len()) {
        (Some(only), 0) => Ok(only),
        (Some(last), _) => {
            let ids: Vec<&str> = named.iter().map(Referred::id).chain([last.id()]).take(MAX_NAMED).collect();
            let count = named.len() + 1;
            Err(refused(format!("{} {wanted:?} names {count}: {}; use the id", T::WHAT, ids.join(", "))))
        }
        (None, _) => is_among(T::WHAT, wanted, &listed).and(Err(refused(format!("no {} {wanted:?}", T::WHAT)))),
    }
}

fn is_among(what: &str, wanted: &str, names: &[String]) -> Result<(), CloudError> {
    if names.iter().any(|name| name == wanted) {
        return Ok(());
    }
    let mut named = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMED {
        named.push_str(", …");
    }
    let there = if named.is_empty() { String::new() } else { format!("; there are: {named}") };
    Err(refused(format!("there is no {what} {wanted:?}{there}")))
}

fn image_is_active(image: &Image) -> Result<(), CloudError> {
    if image.status == "active" {
        return Ok(());
    }
    let (name, status) = (image.name(), &image.status);
    Err(refused(format!("image {name:?} ({}) is {status}; it has to be active", image.id)))
}

/// Nova refuses it too, but only once everything else is made.
fn image_fits(image: &Image, flavor: &Flavor) -> Result<(), CloudError> {
    let ram = u64::try_from(flavor.ram).unwrap_or_default();
    if image.min_ram > ram {
        let (needed, name) = (image.min_ram, &flavor.name);
        return Err(refused(format!(
            "image {:?} needs {needed} MiB of memory, flavor {name:?} has {ram}",
            image.name()
        )));
    }
    if flavor.disk > 0 && image.min_disk > flavor.disk {
        let (needed, name, disk) = (image.min_disk, &flavor.name, flavor.disk);
        return Err(refused(format!(
            "image {:?} needs {needed} GiB of disk, flavor {name:?} has {disk}",
            image.name()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flavor(id: &str, name: &str) -> Flavor {
        Flavor { id: id.to_owned(), name: name.to_owned(), vcpus: 1, ram: 512, disk: 1 }
    }

    fn why<T>(answer: Result<T, CloudError>) -> String {
        answer.err().unwrap().to_string()
    }

    #[test]
    fn a_reference_is_an_id_or_a_name_that_one_has() {
        let all = || vec![flavor("1", "tiny"), flavor("2", "1"), flavor("3", "twin"), flavor("4", "twin")];
        assert_eq!(choose(all(), "tiny").unwrap().id, "1");
        assert_eq!(choose(all(), "1").unwrap().id, "1", "an id wins over a name");
        assert_eq!(why(choose(all(), "twin")), r#"refused: flavor "twin" names 2: 3, 4; use the id"#);
        let none = r#"refused: there is no flavor "large"; there are: tiny, 1, twin, twin"#;
        assert_eq!(why(choose(all(), "large")), none);
        assert_eq!(why(choose(Vec::<Flavor>::new(), "large")), r#"refused: there is no flavor "large""#);
    }

    #[test]
    fn an_image_has_to_be_active_and_to_fit() {
        let image = |status: &str, min_disk: u64, min_ram: u64| -> Image {
            serde_json::from_value(json!({
                "id": "i", "name": "debian", "status": status, "min_disk": min_disk, "min_ram": min_ram,
            }))
            .unwrap()
        };
        let queued = r#"refused: image "debian" (i) is queued; it has to be active"#;
        assert_eq!(why(image_is_active(&image("queued", 0, 0))), queued);
        assert_eq!(image_is_active(&image("active", 0, 0)), Ok(()));
        assert_eq!(image_fits(&image("active", 1, 512), &flavor("1", "tiny")), Ok(()));
        let disk = r#"refused: image "debian" needs 2 GiB of disk, flavor "tiny" has 1"#;
        assert_eq!(why(image_fits(&image("active", 2, 0), &flavor("1", "tiny"))), disk);
        let memory = r#"refused: image "debian" needs 513 MiB of memory, flavor "tiny" has 512"#;
        assert_eq!(why(image_fits(&image("active", 0, 513), &flavor("1", "tiny"))), memory);
        assert_eq!(image_fits(&image("active", 9, 0), &Flavor { disk: 0, ..flavor("1", "tiny") }), Ok(()));
    }
}

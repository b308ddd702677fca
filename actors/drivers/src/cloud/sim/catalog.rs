//! What plans may name in a simulated cloud. Each is known by its id and by its name.

use std::collections::BTreeMap;

use reeve_ports::CloudError;
use reeve_protocol::provision::{Ingress, IpProtocol, Readiness, ServerPlan, VolumePlan};

use super::fleet;
use super::world::World;
use super::{Act, Done};

/// Something that a plan names: its id and its name.
pub type Named = (&'static str, &'static str);

/// The one image.
pub const IMAGE: Named = ("1a000000-0000-4000-8000-000000000001", "sim-image");
/// The one flavor.
pub const FLAVOR: Named = ("a22d5517-147c-4147-a0d1-e698df5cd4e3", "sim.small");
/// The network inside.
pub const INSIDE: Named = ("1d000000-0000-4000-8000-000000000001", "sim-net");
/// The network that public addresses are taken from.
pub const OUTSIDE: Named = ("1d000000-0000-4000-8000-000000000002", "sim-public");
/// The one key pair, which is known by its name alone.
pub const KEY: &str = "sim-key";
/// The one availability zone, which is known by its name alone.
pub const ZONE: &str = "nova";
/// The one type of volumes.
pub const VOLUME_TYPE: Named = ("7e000000-0000-4000-8000-000000000001", "sim-disk");

/// A plan that names all of it.
///
/// # Panics
/// Never: what it reads is constant.
#[must_use]
pub fn plan_of_all() -> ServerPlan {
    let ingress = |protocol, ports, from: Option<&str>| {
        let from = from.map(|from| from.parse().expect("a prefix is one"));
        Ingress { protocol, ports, from }
    };
    ServerPlan {
        name: "planned".to_owned(),
        image: IMAGE.1.to_owned(),
        flavor: FLAVOR.1.to_owned(),
        network: INSIDE.1.to_owned(),
        key: Some(KEY.to_owned()),
        zone: Some(ZONE.to_owned()),
        ingress: vec![
            ingress(IpProtocol::Tcp, Some((22, 22)), None),
            ingress(IpProtocol::Udp, None, Some("2001:db8::/32")),
            ingress(IpProtocol::Icmp, None, Some("192.0.2.0/24")),
        ],
        public_network: Some(OUTSIDE.1.to_owned()),
        volumes: vec![VolumePlan { gib: 1, kind: None }, VolumePlan { gib: 2, kind: Some(VOLUME_TYPE.1.to_owned()) }],
        metadata: BTreeMap::new(),
        ready: Readiness::Active,
    }
}

pub(super) fn check_plan(world: &World, plan: &ServerPlan) -> Act<()> {
    is_one("image", &plan.image, IMAGE)?;
    is_one("flavor", &plan.flavor, FLAVOR)?;
    is_one("network", &plan.network, INSIDE)?;
    if let Some(outside) = &plan.public_network {
        is_one("external network", outside, OUTSIDE)?;
    }
    if let Some(key) = &plan.key {
        is_one("key pair", key, (KEY, KEY))?;
    }
    if let Some(zone) = &plan.zone {
        is_one("availability zone", zone, (ZONE, ZONE))?;
    }
    for (index, volume) in plan.volumes.iter().enumerate() {
        if volume.gib == 0 {
            return Err(CloudError::Refused(format!("volume {index} has 0 GiB, 1 is the least")));
        }
        if let Some(kind) = &volume.kind {
            is_one("volume type", kind, VOLUME_TYPE)?;
        }
    }
    fleet::check_quota(world)?;
    Ok(Done::looked(()))
}

fn is_one(what: &str, wanted: &str, (id, name): Named) -> Result<(), CloudError> {
    if wanted == id || wanted == name {
        return Ok(());
    }
    Err(CloudError::Refused(format!("there is no {what} {wanted:?}; there are: {name}")))
}

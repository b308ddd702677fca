//! What plans may name in a simulated cloud. Each is known by its id and by its name.

use reeve_ports::CloudError;
use reeve_protocol::provision::ServerPlan;

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

//! Things that carry one tag although one was wanted: what a lost answer leaves. The one in use counts, else the oldest;
//! the others are removed unless they are in use.

use reeve_ports::CloudError;

use super::api::{Api, Ask};
use super::firewall::Group;
use super::images::harmless;
use super::network::{FloatingIp, PortRecord};
use super::pages::Item;
use super::parts::VolumeItem;
use super::server::Record;
use super::session::Service;

/// What there may be several of.
pub(super) trait Twin: Item {
    /// Whose it is.
    const SERVICE: Service;
    /// Where it is, without its id.
    const PATH: &'static str;

    /// When it was made, as the service writes it: texts of one form, so they are in order.
    fn made_at(&self) -> &str;

    /// Whether something uses it.
    fn in_use(&self) -> bool;
}

impl Api {
    /// The one that counts.
    pub(super) async fn the_one<T: Twin>(&self, mut found: Vec<T>) -> Result<Option<T>, CloudError> {
        found.sort_by_key(order);
        let mut found = found.into_iter();
        let Some(one) = found.next() else { return Ok(None) };
        for other in found.filter(|other| !other.in_use()) {
            tracing::info!(cloud = %self.name, list = T::LIST, id = other.marker(), "one too many is removed");
            match self.delete_of::<T>(&other).await {
                // Cinder removes none that is being made: it would be forgotten once the other one is ready.
                Err(CloudError::Refused(why)) if T::SERVICE == Service::Volume => {
                    return Err(CloudError::Unavailable(format!("one volume too many is not removed yet: {why}")));
                }
                // One that cannot be removed is in use after all.
                Ok(()) | Err(CloudError::NotFound(_) | CloudError::Refused(_)) => {}
                Err(error) => return Err(harmless(error)),
            }
        }
        Ok(Some(one))
    }

    pub(super) async fn delete_of<T: Twin>(&self, item: &T) -> Result<(), CloudError> {
        self.ask(Ask::delete(T::SERVICE, format!("{}/{}", T::PATH, item.marker()))).await.map(|_| ())
    }
}

fn order<T: Twin>(item: &T) -> (bool, String, String) {
    (!item.in_use(), item.made_at().to_owned(), item.marker())
}

impl Twin for Group {
    const PATH: &'static str = "/v2.0/security-groups";
    const SERVICE: Service = Service::Network;

    fn made_at(&self) -> &str {
        self.created_at.as_deref().unwrap_or_default()
    }

    /// Neutron removes none that is.
    fn in_use(&self) -> bool {
        false
    }
}

impl Twin for PortRecord {
    const PATH: &'static str = "/v2.0/ports";
    const SERVICE: Service = Service::Network;

    fn made_at(&self) -> &str {
        self.created_at.as_deref().unwrap_or_default()
    }

    fn in_use(&self) -> bool {
        !self.device_id.is_empty()
    }
}

impl Twin for FloatingIp {
    const PATH: &'static str = "/v2.0/floatingips";
    const SERVICE: Service = Service::Network;

    fn made_at(&self) -> &str {
        self.created_at.as_deref().unwrap_or_default()
    }

    fn in_use(&self) -> bool {
        self.port_id.is_some()
    }
}

impl Twin for VolumeItem {
    const PATH: &'static str = "/volumes";
    const SERVICE: Service = Service::Volume;

    fn made_at(&self) -> &str {
        self.created_at.as_deref().unwrap_or_default()
    }

    fn in_use(&self) -> bool {
        matches!(self.status.as_str(), "in-use" | "attaching" | "reserved")
    }
}

impl Twin for Record {
    const PATH: &'static str = "/servers";
    const SERVICE: Service = Service::Compute;

    fn made_at(&self) -> &str {
        self.created.as_deref().unwrap_or_default()
    }

    /// Nobody was told of it yet.
    fn in_use(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(id: &str, made_at: &str, device: &str) -> PortRecord {
        serde_json::from_value(json!({ "id": id, "network_id": "n", "device_id": device, "created_at": made_at }))
            .unwrap()
    }

    #[test]
    fn the_one_in_use_counts_and_else_the_oldest() {
        let (early, late) = ("2026-11-22T21:00:00Z", "2026-11-22T21:00:01Z");
        let first = |mut ports: Vec<PortRecord>| {
            ports.sort_by_key(order);
            ports.remove(0).id
        };
        assert_eq!(first(vec![port("a", late, ""), port("b", early, "")]), "b");
        assert_eq!(first(vec![port("b", early, ""), port("a", early, "")]), "a", "whoever looks chooses the same");
        assert_eq!(first(vec![port("a", late, "vm"), port("b", early, "")]), "a");
    }
}

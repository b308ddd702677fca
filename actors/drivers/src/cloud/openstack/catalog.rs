//! The services, and where the catalog says that they are.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::config::OpenStackConfig;

/// A service that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    Identity,
    Compute,
    Volume,
    Image,
    Network,
}

impl Service {
    /// Those that are found by the catalog.
    pub(super) const LISTED: [Self; 4] = [Self::Compute, Self::Volume, Self::Image, Self::Network];

    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Compute => "compute",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Network => "network",
        }
    }

    /// What the catalog may call it.
    const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Identity => &["identity"],
            Self::Compute => &["compute"],
            Self::Volume => &["volumev3", "block-storage", "volume"],
            Self::Image => &["image"],
            Self::Network => &["network"],
        }
    }
}

#[derive(Deserialize)]
pub(super) struct CatalogEntry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region_id: Option<String>,
    url: String,
}

/// Where each service is, without a slash at the end: the first endpoint that fits.
pub(super) fn endpoints(catalog: &[CatalogEntry], config: &OpenStackConfig) -> BTreeMap<Service, String> {
    let mut found = BTreeMap::new();
    for service in Service::LISTED {
        let named = service.types().iter().find_map(|kind| catalog.iter().find(|entry| entry.kind == *kind));
        let mut fitting = named.into_iter().flat_map(|entry| &entry.endpoints).filter(|endpoint| {
            endpoint.interface == config.interface.as_catalog()
                && config.region_name.as_ref().is_none_or(|region| endpoint.region_id.as_ref() == Some(region))
        });
        if let Some(endpoint) = fitting.next() {
            let url = endpoint.url.trim_end_matches('/');
            // Some catalogs name the version, others do not; the paths of this driver do.
            let url = match service {
                Service::Image => url.strip_suffix("/v2").unwrap_or(url),
                Service::Network => url.strip_suffix("/v2.0").unwrap_or(url),
                Service::Identity | Service::Compute | Service::Volume => url,
            };
            found.insert(service, url.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::login::{Credential, Login, OpenStackAuth};
    use super::*;
    use crate::cloud::openstack::Interface;

    fn config() -> OpenStackConfig {
        let login = Login::ApplicationCredential { credential: Credential::Id("1".to_owned()), secret: "s".to_owned() };
        let auth = OpenStackAuth { auth_url: "http://k/identity/v3/".to_owned(), login };
        let region_name = Some("B".to_owned());
        OpenStackConfig { region_name, interface: Interface::Internal, ..OpenStackConfig::new(auth) }
    }

    #[test]
    fn the_catalog_is_read_by_type_interface_and_region() {
        let endpoint = |interface: &str, region: &str, url: &str| json!({ "interface": interface, "region_id": region, "url": url });
        let catalog: Vec<CatalogEntry> = serde_json::from_value(json!([
            { "type": "compute", "endpoints": [endpoint("public", "B", "http://p/"), endpoint("internal", "A", "http://a"),
                endpoint("internal", "B", "http://b/v2.1/")] },
            { "type": "image", "endpoints": [endpoint("internal", "B", "http://g/v2/")] },
            { "type": "block-storage", "endpoints": [endpoint("internal", "B", "http://c/v3/1")] },
            { "type": "network", "endpoints": [endpoint("public", "B", "http://n")] },
        ]))
        .unwrap();
        let found = endpoints(&catalog, &config());
        assert_eq!(found[&Service::Compute], "http://b/v2.1");
        assert_eq!(found[&Service::Image], "http://g");
        assert_eq!(found[&Service::Volume], "http://c/v3/1");
        assert_eq!(found.get(&Service::Network), None);
    }
}

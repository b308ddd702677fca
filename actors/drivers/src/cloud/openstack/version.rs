//! Microversions: what a service offers, and which of it is asked for.
//!
//! Each service has a floor, without which nothing of this driver works, and the newest version whose answers are known.
//! Between them the newest that the cloud offers is asked for. A single call may be written for one version, or need more
//! than the floor.

use std::fmt;

use reeve_ports::CloudError;
use serde::Deserialize;

use super::session::Service;

/// A microversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Micro(pub(super) u16, pub(super) u16);

impl Micro {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Micro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// What every call needs.
    Usual,
    /// This version, because answers of others are written otherwise.
    Exactly(Micro),
    /// At least this version.
    AtLeast(Micro),
}

/// The versions of a service that this driver knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// How the header `OpenStack-API-Version` calls the service.
    pub(super) word: &'static str,
    floor: Micro,
    /// The release that has the floor, for people.
    release: &'static str,
    newest: Micro,
}

impl Service {
    /// The service's versions, if it has any.
    pub(super) const fn known(self) -> Option<Known> {
        match self {
            // Train; 2.96 is Caracal's. Later ones change what is read of servers or how volumes are attached.
            Self::Compute => {
                Some(Known { word: "compute", floor: Micro(2, 79), release: "Train", newest: Micro(2, 96) })
            }
            // An upload with `visibility` and `protected` is 3.1; `os-reimage` is 3.68 and asked for where it is needed.
            Self::Volume => Some(Known { word: "volume", floor: Micro(3, 1), release: "Ocata", newest: Micro(3, 68) }),
            Self::Identity | Self::Image | Self::Network => None,
        }
    }
}

/// What a service offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) least: Micro,
    pub(super) most: Micro,
}

impl Known {
    /// What is assumed of a service that does not tell: the floor alone.
    pub(super) const fn assumed(self) -> Offer {
        Offer { least: self.floor, most: self.floor }
    }

    /// The version that is asked for.
    pub(super) fn choose(self, need: Need, offer: Offer) -> Result<Micro, CloudError> {
        let word = self.word;
        let offered = || format!("{word} of this cloud offers the microversions {} to {}", offer.least, offer.most);
        if offer.most < self.floor || offer.least > self.newest {
            // For people to put right: what is to be done in the cloud is not given up for it.
            let why = format!("{}, and {} to {} are spoken here", offered(), self.floor, self.newest);
            return Err(CloudError::Unavailable(format!("{why} ({} and later)", self.release)));
        }
        let usual = offer.most.min(self.newest);
        let (chosen, wanted, fits) = match need {
            Need::Usual => return Ok(usual),
            Need::Exactly(wanted) => (wanted, wanted, (offer.least..=offer.most).contains(&wanted)),
            Need::AtLeast(wanted) => (usual, wanted, usual >= wanted),
        };
        if fits {
            Ok(chosen)
        } else {
            Err(CloudError::Refused(format!("{}, and {wanted} is needed for this", offered())))
        }
    }
}

/// Where a service tells its versions: its endpoint up to the version, without the project that may follow.
pub(super) fn document_url(endpoint: &str) -> String {
    let is_version = |segment: &str| {
        let rest = segment.strip_prefix('v').unwrap_or_default();
        rest.starts_with(|c: char| c.is_ascii_digit()) && rest.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let mut end = endpoint.len();
    for segment in endpoint.rsplit('/').take(2) {
        if is_version(segment) {
            return format!("{}/", &endpoint[..end]);
        }
        end = end.saturating_sub(segment.len() + 1);
    }
    format!("{endpoint}/")
}

#[derive(Deserialize)]
struct Document {
    version: Option<Entry>,
    #[serde(default)]
    versions: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    /// `version` in most services, `max_version` in some.
    #[serde(default, alias = "max_version")]
    version: String,
    #[serde(default)]
    min_version: String,
}

/// What a document of versions offers of the major version that this driver speaks.
pub(super) fn offer(known: Known, document: &[u8]) -> Option<Offer> {
    let Document { version, versions } = serde_json::from_slice(document).ok()?;
    let offers = version.into_iter().chain(versions).filter_map(|entry| {
        Some(Offer { least: Micro::parse(&entry.min_version)?, most: Micro::parse(&entry.version)? })
    });
    offers.filter(|offer| offer.most.0 == known.floor.0).max_by_key(|offer| offer.most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(service: Service) -> Known {
        service.known().unwrap()
    }

    fn compute(least: u16, most: u16) -> Offer {
        Offer { least: Micro(2, least), most: Micro(2, most) }
    }

    #[test]
    fn the_newest_that_both_know_is_asked_for() {
        let nova = known(Service::Compute);
        assert_eq!(nova.choose(Need::Usual, compute(1, 79)), Ok(Micro(2, 79)));
        assert_eq!(nova.choose(Need::Usual, compute(1, 93)), Ok(Micro(2, 93)));
        assert_eq!(nova.choose(Need::Usual, compute(1, 104)), Ok(Micro(2, 96)));
        assert_eq!(nova.choose(Need::Exactly(Micro(2, 46)), compute(1, 104)), Ok(Micro(2, 46)));
        assert_eq!(nova.choose(Need::Usual, nova.assumed()), Ok(Micro(2, 79)));
        let cinder = known(Service::Volume);
        let zed = Offer { least: Micro(3, 0), most: Micro(3, 70) };
        assert_eq!(cinder.choose(Need::AtLeast(Micro(3, 68)), zed), Ok(Micro(3, 68)));
    }

    #[test]
    fn a_cloud_that_is_too_old_is_told_with_what_it_offers_and_what_is_needed() {
        let nova = known(Service::Compute);
        let told = nova.choose(Need::Usual, compute(1, 53)).unwrap_err();
        let said = "unavailable: compute of this cloud offers the microversions 2.1 to 2.53, and 2.79 to 2.96 are spoken \
                    here (Train and later)";
        assert_eq!(told.to_string(), said);
        assert!(nova.choose(Need::Usual, compute(97, 104)).is_err(), "one that has dropped all that is known");
        let old = Offer { least: Micro(3, 0), most: Micro(3, 59) };
        let told = known(Service::Volume).choose(Need::AtLeast(Micro(3, 68)), old).unwrap_err();
        let said = "refused: volume of this cloud offers the microversions 3.0 to 3.59, and 3.68 is needed for this";
        assert_eq!(told.to_string(), said, "one thing it cannot do is no reason not to do the rest");
    }

    #[test]
    fn documents_are_read_in_the_forms_of_the_services() {
        let nova = br#"{"version": {"id": "v2.1", "status": "CURRENT", "version": "2.93", "min_version": "2.1"}}"#;
        assert_eq!(offer(known(Service::Compute), nova), Some(compute(1, 93)));
        let root = br#"{"versions": [{"id": "v2.0", "status": "SUPPORTED", "version": "", "min_version": ""},
            {"id": "v2.1", "version": "2.95", "min_version": "2.1"}, {"id": "v3", "version": "3.4", "min_version": "3.0"}]}"#;
        assert_eq!(offer(known(Service::Compute), root), Some(compute(1, 95)));
        let cinder = br#"{"versions": [{"id": "v3.0", "min_version": "3.0", "version": "3.70", "updated": "x"}]}"#;
        let zed = Offer { least: Micro(3, 0), most: Micro(3, 70) };
        assert_eq!(offer(known(Service::Volume), cinder), Some(zed));
        for text in ["", "<html>", "{}", r#"{"version": {"id": "v2.0"}}"#, r#"{"versions": [{"version": "2"}]}"#] {
            assert_eq!(offer(known(Service::Compute), text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_document_is_above_the_project() {
        for (endpoint, document) in [
            ("http://c/compute/v2.1", "http://c/compute/v2.1/"),
            ("http://c:8774/v2.1/5a1d", "http://c:8774/v2.1/"),
            ("http://c/volume/v3/5a1d", "http://c/volume/v3/"),
            ("http://c:8776/v3", "http://c:8776/v3/"),
            ("http://c/compute", "http://c/compute/"),
            ("http://volumes", "http://volumes/"),
        ] {
            assert_eq!(document_url(endpoint), document);
        }
    }
}

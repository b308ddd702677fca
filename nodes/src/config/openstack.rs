//! `[[cloud]] driver = "openstack"`: the driver's keys, said here or in a `clouds.yaml`.
//!
//! ```text
//! auth = { … }              ─► AuthSection ─┐
//! clouds_yaml, cloud ─► the file, with secure.yaml laid over it ─► AuthSection, region, interface, cacert ─┤
//! region_name, interface, cacert … said here win ─────────────────────────────────────────────────────────┴─► OpenStackConfig
//! ```

use std::path::PathBuf;

use reeve_drivers::cloud::openstack::{self, Interface, OpenStackAuth, OpenStackConfig};
use reeve_protocol::Span;
use serde::{Deserialize, Serialize};

use super::openstack_auth::AuthSection;
use super::openstack_clouds::{self, CloudEntry};
use super::secret::{Secret, SecretError};

/// The keys of an OpenStack; the names are those of `clouds.yaml` where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenStackSection {
    /// `auth = { … }`: who logs in, where, and for which project. This, or `clouds_yaml` and `cloud`, is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSection>,
    /// A `clouds.yaml`; secrets may be in a `secure.yaml` beside it. Read at the start. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clouds_yaml: Option<PathBuf>,
    /// Which cloud of `clouds_yaml`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// The region whose endpoints are used. Default: that of `clouds_yaml`, else the first one of the catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_name: Option<String>,
    /// Which endpoints are used: `public`, `internal` or `admin`. Default: that of `clouds_yaml`, else `public`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// A file of PEM certificates that are trusted besides those of the system. Default: that of `clouds_yaml`, else none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    /// How long a call may take, and how long a transfer of content may stand still, `1s` to `10m`. Default `30s`.
    #[serde(default = "openstack::default_timeout")]
    pub timeout: Span,
    /// How long connecting may take, `100ms` to `1m`. Default `5s`.
    #[serde(default = "openstack::default_connect_timeout")]
    pub connect_timeout: Span,
    /// How many calls are under way at once, 1 to 1000; others wait. Default 32.
    #[serde(default = "openstack::default_max_concurrent")]
    pub max_concurrent: u16,
    /// How many servers are asked for on one page of a listing, 1 to 1000. Default 1000.
    #[serde(default = "openstack::default_page")]
    pub page: u16,
}

/// What is wrong with the keys of an OpenStack, or with a file that they name.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {why}")]
pub struct OpenStackProblem {
    /// Which key of the section.
    pub key: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// In words; no value is repeated.
    #[error("{0}")]
    Said(String),
    /// Its secret cannot be had.
    #[error("{0}")]
    Secret(SecretError),
}

impl OpenStackProblem {
    pub(super) fn said(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self { key: key.into(), why: Why::Said(why.into()) }
    }
}

impl OpenStackSection {
    /// As the driver takes it: reads `clouds_yaml` and every secret.
    ///
    /// # Errors
    /// [`OpenStackProblem`] when a file cannot be read, lacks a key, or a key has a value that cannot be.
    pub fn resolve(&self) -> Result<OpenStackConfig, OpenStackProblem> {
        let reveal = |secret: &Secret| secret.reveal();
        match self.source()? {
            Source::Here(auth) => {
                let auth = auth.to_auth(&reveal).map_err(|problem| within("auth", problem))?;
                self.config(auth, CloudEntry::default())
            }
            Source::File(path, cloud) => {
                let in_file = |problem: OpenStackProblem| {
                    let OpenStackProblem { key, why } = problem;
                    OpenStackProblem::said("clouds_yaml", format!("{key}: {why}"))
                };
                let mut entry = openstack_clouds::read(path, cloud).map_err(in_file)?;
                let auth = std::mem::take(&mut entry.auth).to_auth(&reveal);
                let place = format!("{}: clouds.{cloud}.auth", path.display());
                let auth = auth.map_err(|problem| in_file(within(&place, problem)))?;
                self.config(auth, entry)
            }
        }
    }

    /// The first key that makes no sense, and what was expected. No file is read and no secret revealed.
    pub(super) fn wrong(&self) -> Option<OpenStackProblem> {
        self.check().err()
    }

    fn check(&self) -> Result<(), OpenStackProblem> {
        let unread = |_: &Secret| Ok(super::secret::Revealed::new("unread"));
        let auth = match self.source()? {
            Source::Here(auth) => auth.to_auth(&unread).map_err(|problem| within("auth", problem))?,
            // Whatever it is, it is no key of this file.
            Source::File(..) => openstack_clouds::stand_in(),
        };
        self.config(auth, CloudEntry::default()).map(|_| ())
    }

    fn source(&self) -> Result<Source<'_>, OpenStackProblem> {
        match (&self.auth, &self.clouds_yaml, &self.cloud) {
            (Some(auth), None, None) => Ok(Source::Here(auth)),
            (None, Some(path), Some(cloud)) => Ok(Source::File(path, cloud)),
            (None, Some(_), None) => {
                Err(OpenStackProblem::said("cloud", "expected the name of a cloud of clouds_yaml"))
            }
            (_, None, Some(_)) => Err(OpenStackProblem::said("clouds_yaml", "expected the file that has this cloud")),
            (Some(_), Some(_), _) => {
                Err(OpenStackProblem::said("auth", "expected either auth or clouds_yaml, not both"))
            }
            (None, None, None) => Err(OpenStackProblem::said("auth", "expected auth, or clouds_yaml and cloud")),
        }
    }

    fn config(&self, auth: OpenStackAuth, entry: CloudEntry) -> Result<OpenStackConfig, OpenStackProblem> {
        let config = OpenStackConfig {
            region_name: self.region_name.clone().or(entry.region_name),
            interface: self.interface.or(entry.interface).unwrap_or_default(),
            cacert: self.cacert.clone().or(entry.cacert),
            timeout: self.timeout,
            connect_timeout: self.connect_timeout,
            max_concurrent: self.max_concurrent,
            page: self.page,
            ..OpenStackConfig::new(auth)
        };
        config.validate().map_err(|error| {
            let error = error.to_string();
            let (key, expected) = error.split_once(": ").unwrap_or(("auth", &error));
            OpenStackProblem::said(key, expected)
        })?;
        Ok(config)
    }
}

/// Where the login is said.
enum Source<'a> {
    Here(&'a AuthSection),
    File(&'a PathBuf, &'a str),
}

fn within(place: &str, problem: OpenStackProblem) -> OpenStackProblem {
    let OpenStackProblem { key, why } = problem;
    OpenStackProblem { key: format!("{place}.{key}"), why }
}

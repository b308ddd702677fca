//! `[[cloud]] driver = "openstack"`: the driver's keys, with the password as a secret.

use std::path::PathBuf;

use reeve_drivers::cloud::openstack::{self, Interface, OpenStackAuth, OpenStackConfig};
use reeve_protocol::Span;
use serde::{Deserialize, Serialize};

use super::secret::{Password, Revealed};

/// The keys of an OpenStack; the names are those of `clouds.yaml` where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenStackSection {
    /// `auth = { … }`: who logs in, where, and for which project. Required.
    pub auth: AuthSection,
    /// The region whose endpoints are used. Default: the first one of the catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_name: Option<String>,
    /// Which endpoints are used: `public`, `internal` or `admin`. Default `public`.
    #[serde(default)]
    pub interface: Interface,
    /// A file of PEM certificates that are trusted besides those of the system. Default none.
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

/// `auth`. Who logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSection {
    /// Keystone, with or without `/v3`. Required.
    pub auth_url: String,
    /// The user. Required.
    pub username: String,
    /// The user's password; may be `{ file = "PATH" }` or `{ credential = "NAME" }`. Required.
    pub password: Password,
    /// The name of the project that the token is for; this or `project_id` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// The id of the project, instead of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// The domain of the user, by name. Default `Default`.
    #[serde(default = "openstack::default_domain")]
    pub user_domain_name: String,
    /// The domain of the project, by name. Default `Default`.
    #[serde(default = "openstack::default_domain")]
    pub project_domain_name: String,
}

impl OpenStackSection {
    /// As the driver takes it.
    #[must_use]
    pub fn to_config(&self, password: &Revealed) -> OpenStackConfig {
        let Self { auth, region_name, interface, cacert, timeout, connect_timeout, max_concurrent, page } =
            self.clone();
        let auth = OpenStackAuth {
            auth_url: auth.auth_url,
            username: auth.username,
            password: password.expose().to_owned(),
            project_name: auth.project_name,
            project_id: auth.project_id,
            user_domain_name: auth.user_domain_name,
            project_domain_name: auth.project_domain_name,
        };
        OpenStackConfig {
            region_name,
            interface,
            cacert,
            timeout,
            connect_timeout,
            max_concurrent,
            page,
            ..OpenStackConfig::new(auth)
        }
    }

    /// The first key that makes no sense, and what was expected.
    pub(super) fn wrong(&self) -> Option<(String, String)> {
        let error = self.to_config(&Revealed::new("")).validate().err()?.to_string();
        let (key, expected) = error.split_once(": ").unwrap_or(("auth", &error));
        Some((key.to_owned(), expected.to_owned()))
    }
}

//! How an OpenStack is reached: the keys of `[[cloud]] driver = "openstack"`.

use std::fmt;
use std::path::PathBuf;

use reeve_protocol::Span;
use serde::{Deserialize, Serialize};

/// The keys of an OpenStack. The names are those of `clouds.yaml` where it has one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenStackConfig {
    /// Who logs in, where, and for which project.
    pub auth: OpenStackAuth,
    /// The region whose endpoints are used. Default: the first one of the catalog.
    #[serde(default)]
    pub region_name: Option<String>,
    /// Which endpoints are used: `public`, `internal` or `admin`. Default `public`.
    #[serde(default)]
    pub interface: Interface,
    /// Certificates (PEM) that are trusted besides those of the system. Default: none.
    #[serde(default)]
    pub cacert: Option<PathBuf>,
    /// How long a call may take, and how long a transfer of content may stand still. `1s` to `10m`. Default `30s`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How long connecting may take. `100ms` to `1m`. Default `5s`.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Span,
    /// How many calls are under way at once; others wait. 1 to 1,000. Default 32.
    #[serde(default = "default_max_concurrent")]
    pub max_concurrent: u16,
    /// How many servers are asked for on one page of a listing. 1 to 1,000. Default 1,000.
    #[serde(default = "default_page")]
    pub page: u16,
}

/// The table `auth`, with a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenStackAuth {
    /// Keystone, with or without `/v3`.
    pub auth_url: String,
    /// The user.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// The name of the project that the token is for.
    #[serde(default)]
    pub project_name: Option<String>,
    /// The id of the project, instead of its name.
    #[serde(default)]
    pub project_id: Option<String>,
    /// The domain of the user, by name. Default `Default`.
    #[serde(default = "default_domain")]
    pub user_domain_name: String,
    /// The domain of the project, by name. Default `Default`.
    #[serde(default = "default_domain")]
    pub project_domain_name: String,
}

impl fmt::Debug for OpenStackAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStackAuth")
            .field("auth_url", &self.auth_url)
            .field("username", &self.username)
            .field("password", &"<hidden>")
            .field("project_name", &self.project_name)
            .field("project_id", &self.project_id)
            .field("user_domain_name", &self.user_domain_name)
            .field("project_domain_name", &self.project_domain_name)
            .finish()
    }
}

/// Which of a service's endpoints is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// For everybody.
    #[default]
    Public,
    /// Within the provider's network.
    Internal,
    /// For administrators.
    Admin,
}

impl Interface {
    /// The catalog's word for it.
    pub(super) const fn as_catalog(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

/// The name of the domain that every OpenStack is made with.
#[must_use]
pub fn default_domain() -> String {
    "Default".to_owned()
}

/// How long a call may take where nothing is said.
#[must_use]
pub const fn default_timeout() -> Span {
    Span::from_secs(30)
}

/// How long connecting may take where nothing is said.
#[must_use]
pub const fn default_connect_timeout() -> Span {
    Span::from_secs(5)
}

/// How many calls are under way at once where nothing is said.
#[must_use]
pub const fn default_max_concurrent() -> u16 {
    32
}

/// How many servers are asked for at once where nothing is said.
#[must_use]
pub const fn default_page() -> u16 {
    1_000
}

/// A key of an OpenStack has a value that cannot be. Its value is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: expected {expected}")]
pub struct OpenStackConfigError {
    key: &'static str,
    expected: &'static str,
}

impl OpenStackConfig {
    /// With every default.
    #[must_use]
    pub fn new(auth: OpenStackAuth) -> Self {
        Self {
            auth,
            region_name: None,
            interface: Interface::default(),
            cacert: None,
            timeout: default_timeout(),
            connect_timeout: default_connect_timeout(),
            max_concurrent: default_max_concurrent(),
            page: default_page(),
        }
    }

    /// Checks every key.
    ///
    /// # Errors
    /// [`OpenStackConfigError`] names the first key that is out of its limits.
    pub fn validate(&self) -> Result<(), OpenStackConfigError> {
        let wrong = |key, expected| Err(OpenStackConfigError { key, expected });
        let url = reqwest::Url::parse(&self.auth.auth_url).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.password().is_none());
        if url.is_none() {
            return wrong("auth.auth_url", "an http or https URL without a password");
        }
        if self.auth.username.is_empty() {
            return wrong("auth.username", "a name");
        }
        if self.auth.project_name.is_some() == self.auth.project_id.is_some() {
            return wrong("auth.project_name", "either project_name or project_id");
        }
        if !(1_000..=600_000).contains(&self.timeout.as_millis()) {
            return wrong("timeout", "1s to 10m");
        }
        if !(100..=60_000).contains(&self.connect_timeout.as_millis()) {
            return wrong("connect_timeout", "100ms to 1m");
        }
        if !(1..=1_000).contains(&self.max_concurrent) {
            return wrong("max_concurrent", "1 to 1000");
        }
        if !(1..=1_000).contains(&self.page) {
            return wrong("page", "1 to 1000");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        r#"{"auth": {"auth_url": "http://k/v3", "username": "u", "password": "hush", "project_name": "p"}}"#;

    #[test]
    fn the_least_that_must_be_said_is_enough_and_the_password_is_never_shown() {
        let config: OpenStackConfig = serde_json::from_str(LEAST).unwrap();
        assert_eq!(config, OpenStackConfig::new(config.auth.clone()));
        assert_eq!(config.validate(), Ok(()));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn a_key_that_cannot_be_is_named_without_its_value() {
        let config: OpenStackConfig = serde_json::from_str(LEAST).unwrap();
        let mut urls = config.clone();
        urls.auth.auth_url = "http://u:hush@k/v3".to_owned();
        let error = urls.validate().unwrap_err().to_string();
        assert!(error.starts_with("auth.auth_url") && !error.contains("hush"), "{error}");
        let mut both = config.clone();
        both.auth.project_id = Some("1".to_owned());
        assert!(both.validate().is_err());
        assert!(OpenStackConfig { max_concurrent: 0, ..config.clone() }.validate().is_err());
        assert!(OpenStackConfig { timeout: Span::ZERO, ..config }.validate().is_err());
        assert!(serde_json::from_str::<OpenStackConfig>(&LEAST.replace("username", "user")).is_err());
    }
}

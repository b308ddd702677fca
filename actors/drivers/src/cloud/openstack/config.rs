//! How an OpenStack is reached. Where the keys come from is the node's business.

use std::path::PathBuf;

use reeve_protocol::Span;
use serde::{Deserialize, Serialize};

use super::login::OpenStackAuth;

/// What a driver is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStackConfig {
    /// Who logs in, where, and for which project.
    pub auth: OpenStackAuth,
    /// The region whose endpoints are used. Default: the first one of the catalog.
    pub region_name: Option<String>,
    /// Which endpoints are used. Default `public`.
    pub interface: Interface,
    /// Certificates (PEM) that are trusted besides those of the system. Default: none.
    pub cacert: Option<PathBuf>,
    /// How long a call may take, and how long a transfer of content may stand still. `1s` to `10m`. Default `30s`.
    pub timeout: Span,
    /// How long connecting may take. `100ms` to `1m`. Default `5s`.
    pub connect_timeout: Span,
    /// How many calls are under way at once; others wait. 1 to 1,000. Default 32.
    pub max_concurrent: u16,
    /// How many servers are asked for on one page of a listing. 1 to 1,000. Default 1,000.
    pub page: u16,
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
        if let Some((key, expected)) = self.auth.login.wrong() {
            return wrong(key, expected);
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
    use super::super::login::{Domain, Login, Reference};
    use super::*;

    fn config() -> OpenStackConfig {
        let named = |name: &str| Reference::Named { name: name.to_owned(), domain: Domain::default() };
        let login = Login::Password { user: named("u"), password: "hush".to_owned(), project: named("p") };
        OpenStackConfig::new(OpenStackAuth { auth_url: "http://k/v3".to_owned(), login })
    }

    #[test]
    fn the_defaults_are_sound_and_the_password_is_never_shown() {
        assert_eq!(config().validate(), Ok(()));
        assert!(!format!("{:?}", config()).contains("hush"));
    }

    #[test]
    fn a_key_that_cannot_be_is_named_without_its_value() {
        let mut urls = config();
        urls.auth.auth_url = "http://u:hush@k/v3".to_owned();
        let error = urls.validate().unwrap_err().to_string();
        assert!(error.starts_with("auth.auth_url") && !error.contains("hush"), "{error}");
        assert!(OpenStackConfig { max_concurrent: 0, ..config() }.validate().is_err());
        assert!(OpenStackConfig { timeout: Span::ZERO, ..config() }.validate().is_err());
    }
}

//! `[notify]`: how people are told, beside the log and the events.

use std::collections::BTreeMap;
use std::path::PathBuf;

use reeve_drivers::{EmailConfig, SettingError, SmtpLogin, SmtpTls, WebhookConfig, WebhookSecret};
use reeve_protocol::Span;
use reeve_protocol::link::LinkKey;
use serde::{Deserialize, Serialize};

use super::secret::{Password, Revealed};
use super::sections::host_name;

/// `[notify]`. How people are told, beside the log, which has every notice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifySection {
    /// A folder of templates that replace the built-in ones: `NAME.txt` for the notices `lease-created`, `lease-expiring`,
    /// `lease-expired`, `lease-extended`, `lease-ended`, `revived` and `alert`. Read once at the start. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<PathBuf>,
    /// `[notify.link]`: the links that extend a lease. Default none: notices carry no link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkSection>,
    /// `[notify.email]`: e-mail by SMTP. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailSection>,
    /// `[notify.webhook]`: a signed POST to a web service. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookSection>,
}

/// `[notify.link]`. The links in lease notices: whoever has one may extend that lease once, as its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSection {
    /// The page that takes the links, `https://HOST/extend`; `?token=…` is added. Required.
    pub url: String,
    /// What signs the links, at least 32 bytes, the same on every node of a cluster; a new one ends all links that are out.
    /// May be `{ file = "PATH" }` or `{ credential = "NAME" }`. Required.
    pub secret: Password,
}

/// `[notify.email]`. E-mail by SMTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSection {
    /// The mail server: a name, which its certificate must be good for. Required.
    pub host: String,
    /// Its port. Default: 587 with `starttls`, 465 with `tls`, 25 with `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `starttls`, `tls` (from the first byte), or `none` for a relay on this machine alone. Default `starttls`.
    #[serde(default)]
    pub tls: SmtpTls,
    /// A file of PEM certificates of the authority that signed the server's. Default: the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Who logs in. Together with `password`. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password; may be `{ file = "PATH" }` or `{ credential = "NAME" }`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Password>,
    /// Whom mail is from: `reeve@example.org` or `Reeve <reeve@example.org>`. Required.
    pub from: String,
    /// The addresses of the operators, at most 32. Default none: operators get no mail.
    #[serde(default)]
    pub operators: Vec<String>,
    /// The addresses of users, by the cloud's id of each. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, String>,
    /// The domain of the users that `addresses` does not have: the user `ann` gets mail at `ann@DOMAIN`. Default none: only who
    /// is named, or whose id is an address, gets mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// How long connecting and logging in, and then sending, may take, `100ms` to `1m`. Default `10s`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many mails are sent at once, 1 to 64. Default 4.
    #[serde(default = "default_connections")]
    pub connections: usize,
}

/// `[notify.webhook]`. A signed POST to a web service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSection {
    /// `https://HOST/PATH`, or `http://` on this machine alone; may be `{ file = "PATH" }` or `{ credential = "NAME" }`.
    /// Required.
    pub url: Password,
    /// What signs, shared with the receiver: `whsec_` and base64, or any text; 24 to 64 bytes. May be `{ file = "PATH" }` or
    /// `{ credential = "NAME" }`. Required.
    pub secret: Password,
    /// A file of PEM certificates that are trusted besides those of the system. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How long a call may take, `100ms` to `1m`. Default `10s`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How many calls are under way at once, 1 to 64. Default 4.
    #[serde(default = "default_connections")]
    pub connections: usize,
}

const fn default_timeout() -> Span {
    Span::from_secs(10)
}

const fn default_connections() -> usize {
    4
}

impl LinkSection {
    /// The key, of a secret that was got.
    ///
    /// # Errors
    /// When it is too short; the secret is not repeated.
    pub fn key(secret: &Revealed) -> Result<LinkKey, SettingError> {
        LinkKey::new(secret.expose().as_bytes())
            .map_err(|error| SettingError { key: "secret".into(), why: error.to_string() })
    }
}

impl EmailSection {
    /// As the driver takes it.
    #[must_use]
    pub fn to_config(&self, password: Option<&Revealed>) -> EmailConfig {
        let Self { host, port, tls, ca, user, password: _, from, operators, addresses, domain, timeout, connections } =
            self.clone();
        let login =
            user.zip(password).map(|(user, password)| SmtpLogin { user, password: password.expose().to_owned() });
        let hello = Some(host_name()).filter(|name| crate::config::is_host_port(&format!("{name}:1")));
        EmailConfig {
            port: port.unwrap_or(tls.port()),
            tls,
            ca,
            login,
            hello,
            operators,
            addresses,
            domain,
            timeout: timeout.duration(),
            connections,
            ..EmailConfig::new(host, from)
        }
    }
}

impl WebhookSection {
    /// As the driver takes it.
    ///
    /// # Errors
    /// When the secret is none to sign with; it is not repeated.
    pub fn to_config(&self, url: &Revealed, secret: &Revealed) -> Result<WebhookConfig, SettingError> {
        let secret = WebhookSecret::new(secret.expose())
            .map_err(|error| SettingError { key: "secret".into(), why: error.to_string() })?;
        Ok(WebhookConfig {
            ca: self.ca.clone(),
            timeout: self.timeout.duration(),
            connections: self.connections,
            ..WebhookConfig::new(url.expose(), secret)
        })
    }
}

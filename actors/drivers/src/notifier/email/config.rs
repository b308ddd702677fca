//! How mail is sent, and to which addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lettre::Address;
use lettre::message::Mailbox;
use reeve_lifecycle::effect::Audience;
use reeve_protocol::UserId;
use serde::{Deserialize, Serialize};

use super::super::setting::{SettingError, is_loopback};

/// The most addresses that are named.
const MAX_ADDRESSES: usize = 100_000;
/// The most addresses of operators.
const MAX_OPERATORS: usize = 32;
/// The most connections at once.
const MAX_CONNECTIONS: usize = 64;

/// How a connection to a mail server is kept from others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// Begins in the clear and must become TLS before anything is said: port 587, RFC 3207.
    #[default]
    Starttls,
    /// TLS from the first byte: port 465, RFC 8314.
    Tls,
    /// None: for a relay on this machine alone, port 25.
    None,
}

impl SmtpTls {
    /// The port where nothing else is said.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// Who logs in. Shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpLogin {
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: String,
}

impl fmt::Debug for SmtpLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmtpLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How mail is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailConfig {
    /// The mail server: a name, which its certificate must be good for, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is kept from others.
    pub tls: SmtpTls,
    /// A file of PEM certificates of the authority that signed the server's. None: the system's authorities.
    pub ca: Option<PathBuf>,
    /// Who logs in. None: nobody.
    pub login: Option<SmtpLogin>,
    /// How this machine names itself to the server. None: by its address.
    pub hello: Option<String>,
    /// Whom mail is from: `Reeve <reeve@example.org>` or `reeve@example.org`.
    pub from: String,
    /// Whom the operators' notices go to, at most 32.
    pub operators: Vec<String>,
    /// The addresses of users by the cloud's id of each.
    pub addresses: BTreeMap<String, String>,
    /// The domain of users who are not in `addresses`: the user `ann` has `ann@DOMAIN`. None: only a user whose id is an
    /// address itself has one.
    pub domain: Option<String>,
    /// How long connecting and logging in, and then sending, may take.
    pub timeout: Duration,
    /// How many mails are sent at once.
    pub connections: usize,
}

/// The recipients of a notice.
pub(super) struct Recipients {
    pub(super) known: BTreeSet<Address>,
    /// Those who have no address, in words.
    pub(super) lacking: Vec<String>,
}

impl EmailConfig {
    /// By this server, over STARTTLS, without a login.
    #[must_use]
    pub fn new(host: impl Into<String>, from: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: SmtpTls::Starttls.port(),
            tls: SmtpTls::Starttls,
            ca: None,
            login: None,
            hello: None,
            from: from.into(),
            operators: Vec::new(),
            addresses: BTreeMap::new(),
            domain: None,
            timeout: Duration::from_secs(10),
            connections: 4,
        }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// The first setting that does not.
    pub fn validate(&self) -> Result<(), SettingError> {
        let error = |key: &str, why: String| Err(SettingError::new(key, why));
        if self.host.is_empty() || self.host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            return error("host", "expected the name or address of a mail server".into());
        }
        if self.port == 0 {
            return error("port", "is 0, expected 1 to 65535".into());
        }
        if self.tls == SmtpTls::None && !is_loopback(&self.host) {
            let why = "is \"none\", which is for a relay on this machine alone: expected \"starttls\" or \"tls\"";
            return error("tls", why.into());
        }
        if self.tls == SmtpTls::None && self.ca.is_some() {
            return error("ca", "is set, but tls is \"none\", which has no certificate".into());
        }
        mailbox("from", &self.from)?;
        if self.operators.len() > MAX_OPERATORS {
            return error("operators", format!("names {}, expected at most {MAX_OPERATORS}", self.operators.len()));
        }
        for (index, address) in self.operators.iter().enumerate() {
            parse(&format!("operators[{index}]"), address)?;
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return error("addresses", format!("names {}, expected at most {MAX_ADDRESSES}", self.addresses.len()));
        }
        for (user, address) in &self.addresses {
            parse(&format!("addresses.{user}"), address)?;
        }
        if let Some(domain) = &self.domain {
            let example = Address::new("user", domain);
            if example.is_err() {
                return error("domain", format!("is {domain:?}, expected for example example.org"));
            }
        }
        if self.timeout < Duration::from_millis(100) || self.timeout > Duration::from_secs(60) {
            return error("timeout", "expected 100ms to 1m".into());
        }
        if self.connections == 0 || self.connections > MAX_CONNECTIONS {
            return error("connections", format!("is {}, expected 1 to {MAX_CONNECTIONS}", self.connections));
        }
        Ok(())
    }

    /// Whom a notice goes to.
    pub(super) fn recipients(&self, to: &Audience) -> Recipients {
        let mut recipients = Recipients { known: BTreeSet::new(), lacking: Vec::new() };
        match to {
            Audience::Operators => {
                recipients.known.extend(self.operators.iter().filter_map(|address| address.parse::<Address>().ok()));
                if recipients.known.is_empty() {
                    recipients.lacking.push("the operators have no address".to_owned());
                }
            }
            Audience::Owner { users } => {
                for user in users {
                    match self.address(user) {
                        Some(address) => drop(recipients.known.insert(address)),
                        None => recipients.lacking.push(format!("user {user} has no address")),
                    }
                }
            }
        }
        recipients
    }

    fn address(&self, user: &UserId) -> Option<Address> {
        let user = user.as_str();
        let named = self.addresses.get(user).map(String::as_str);
        let known = named.unwrap_or(user).parse::<Address>().ok();
        known.or_else(|| Address::new(user, self.domain.as_deref()?).ok())
    }
}

fn parse(key: &str, text: &str) -> Result<Address, SettingError> {
    text.parse()
        .map_err(|_| SettingError::new(key, format!("{text:?} is no address, expected for example ann@example.org")))
}

/// Reads `NAME <ADDRESS>` or an address.
pub(super) fn mailbox(key: &str, text: &str) -> Result<Mailbox, SettingError> {
    let expected = "expected for example Reeve <reeve@example.org>";
    text.parse().map_err(|_| SettingError::new(key, format!("{text:?} is no address, {expected}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EmailConfig {
        EmailConfig {
            addresses: [("9f1c".to_owned(), "ann@example.org".to_owned())].into(),
            operators: vec!["ops@example.org".into()],
            ..EmailConfig::new("mail.example.org", "Reeve <reeve@example.org>")
        }
    }

    fn recipients(config: &EmailConfig, users: &[&str]) -> (Vec<String>, Vec<String>) {
        let users = users.iter().map(|user| UserId::new(*user).unwrap()).collect();
        let Recipients { known, lacking } = config.recipients(&Audience::Owner { users });
        (known.iter().map(ToString::to_string).collect(), lacking)
    }

    #[test]
    fn a_user_has_the_named_address_or_is_one_or_belongs_to_the_domain() {
        let (known, lacking) = recipients(&config(), &["9f1c", "bob@example.com", "carol"]);
        assert_eq!(known, ["ann@example.org", "bob@example.com"]);
        assert_eq!(lacking, ["user carol has no address"]);
        let config = EmailConfig { domain: Some("example.net".into()), ..config() };
        let (known, lacking) = recipients(&config, &["carol", "eve@ <x>", "9f1c"]);
        assert_eq!(known, ["ann@example.org", "carol@example.net"]);
        assert_eq!(lacking.len(), 1, "what is no name is no address: {lacking:?}");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let wrong = |change: fn(&mut EmailConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().expect_err("it is refused").key
        };
        config().validate().unwrap();
        assert_eq!(wrong(|config| config.host = "a b".into()), "host");
        assert_eq!(wrong(|config| config.port = 0), "port");
        assert_eq!(wrong(|config| config.tls = SmtpTls::None), "tls");
        assert_eq!(wrong(|config| config.from = "nobody".into()), "from");
        assert_eq!(wrong(|config| config.operators.push("ops".into())), "operators[1]");
        assert_eq!(wrong(|config| config.domain = Some("no domain".into())), "domain");
        assert_eq!(wrong(|config| drop(config.addresses.insert("x".into(), "y".into()))), "addresses.x");
        assert_eq!(wrong(|config| config.timeout = Duration::ZERO), "timeout");
        assert_eq!(wrong(|config| config.connections = 0), "connections");
        let local = EmailConfig { host: "127.0.0.1".into(), tls: SmtpTls::None, ..config() };
        local.validate().unwrap();
    }

    #[test]
    fn a_password_is_never_shown() {
        let login = Some(SmtpLogin { user: "reeve".into(), password: "s3cr3t".into() });
        assert!(!format!("{:?}", EmailConfig { login, ..config() }).contains("s3cr3t"));
    }
}

//! What the RabbitMQ bus is told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reeve_protocol::CloudName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::broker_url::BrokerUrl;

/// The configuration of a [`super::RabbitBus`].
#[derive(Debug, Clone)]
pub struct RabbitConfig {
    /// Where the brokers are.
    pub url: BrokerUrl,
    /// Who signed the broker's certificate. `None`: the authorities of the machine. Set, only these are trusted.
    pub ca: Option<Authority>,
    /// The most unsettled messages of one consumer, whatever it asks for. Default 1,024.
    pub prefetch: u16,
    /// How long a publish may take until the broker has confirmed it. Default 5 s.
    pub publish_timeout: Duration,
    /// The clouds whose notifications are taken in.
    pub intakes: Vec<IntakeConfig>,
    /// The number of shards, each with a queue. Default 64.
    pub shards: u16,
    /// The routing keys of the events that the rules of the configuration may act on, at most `lease.*` or `#` of a topic
    /// exchange. None (the default): there is no queue for rules.
    pub rule_topics: Vec<String>,
    /// How long the stream `reeve.audit` keeps events. Default 90 days. Read only when the stream is made.
    pub audit_retention: Duration,
    /// Redeliveries after which the broker itself gives a message up. It drops everything that the consumer holds, not
    /// only the poisonous message, so it is high. Default 1,000.
    pub broker_delivery_limit: u32,
    /// Redeliveries after which a message is given up as poisonous. Default 50.
    pub poison_limit: u32,
}

/// A cloud whose notifications are taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeConfig {
    /// The cloud.
    pub cloud: CloudName,
    /// The cloud's own exchange, `nova` by default. Never declared by Reeve.
    pub exchange: String,
    /// The topics, `versioned_notifications` by default. The queue is bound with `<topic>.*`.
    pub topics: Vec<String>,
    /// How often the binding is made again, because it vanishes with a transient exchange. Default 30 s.
    pub rebind_every: Duration,
}

/// Who signed the broker's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// A file with certificates in PEM form. Read at every connect, so that it can be renewed.
    File(PathBuf),
    /// Certificates in PEM form.
    Pem(String),
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RabbitConfigError {
    /// A certificate authority is set, and the URL does not use TLS.
    #[error("[bus] ca is set, but the url is amqp:// (expected amqps://)")]
    AuthorityWithoutTls,
    /// The file of the certificate authority cannot be used.
    #[error("[bus] ca {path:?}: {why}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A number is out of its range.
    #[error("[bus] {key} is {value} (expected {expected})")]
    Range {
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// An intake cannot work.
    #[error("[[cloud]] {cloud}: notifications.{key} {value:?} (expected {expected})")]
    Intake {
        /// The cloud.
        cloud: CloudName,
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
}

impl RabbitConfig {
    /// The defaults for a broker.
    #[must_use]
    pub fn new(url: BrokerUrl) -> Self {
        Self {
            url,
            ca: None,
            prefetch: 1_024,
            publish_timeout: Duration::from_secs(5),
            intakes: Vec::new(),
            shards: 64,
            rule_topics: Vec::new(),
            audit_retention: Duration::from_secs(90 * 86_400),
            broker_delivery_limit: 1_000,
            poison_limit: 50,
        }
    }

    /// Checks what can be checked without a broker.
    ///
    /// # Errors
    /// [`RabbitConfigError`] names the key, its value and what was expected.
    pub fn check(&self) -> Result<(), RabbitConfigError> {
        if let Some(ca) = &self.ca {
            if !self.url.is_tls() {
                return Err(RabbitConfigError::AuthorityWithoutTls);
            }
            ca.certificates()?;
        }
        let range = |good: bool, key, value: String, expected| {
            if good { Ok(()) } else { Err(RabbitConfigError::Range { key, value, expected }) }
        };
        range(self.prefetch > 0, "prefetch", self.prefetch.to_string(), "1 to 65535")?;
        range(self.shards > 0, "shards", self.shards.to_string(), "1 to 65535")?;
        let timeout = self.publish_timeout;
        let in_range = timeout >= Duration::from_millis(100) && timeout <= Duration::from_secs(600);
        range(in_range, "publish_timeout", format!("{timeout:?}"), "100ms to 10m")?;
        let retention = self.audit_retention;
        range(retention >= Duration::from_secs(60), "audit_retention", format!("{retention:?}"), "1m or more")?;
        let poison = self.poison_limit;
        let below = poison > 0 && poison < self.broker_delivery_limit;
        range(below, "poison_limit", poison.to_string(), "1 or more, and less than broker_delivery_limit")?;
        self.intakes.iter().try_for_each(IntakeConfig::check)
    }
}

impl IntakeConfig {
    /// Nova's own defaults.
    #[must_use]
    pub fn nova(cloud: CloudName) -> Self {
        Self {
            cloud,
            exchange: "nova".to_owned(),
            topics: vec!["versioned_notifications".to_owned()],
            rebind_every: Duration::from_secs(30),
        }
    }

    fn check(&self) -> Result<(), RabbitConfigError> {
        let refuse = |key, value: &str, expected| {
            let (cloud, value) = (self.cloud.clone(), value.to_owned());
            Err(RabbitConfigError::Intake { cloud, key, value, expected })
        };
        let exchange = self.exchange.as_str();
        if exchange.is_empty() || exchange.len() > 255 || exchange.starts_with("reeve.") {
            return refuse("exchange", exchange, "the cloud's own exchange, 1 to 255 bytes");
        }
        if self.topics.is_empty() {
            return refuse("topics", "", "one topic or more");
        }
        // Two bytes go to `.*`, and a queue name of 255 bytes is the protocol's limit.
        if let Some(topic) = self.topics.iter().find(|topic| topic.is_empty() || topic.len() > 250) {
            return refuse("topics", topic, "topics of 1 to 250 bytes");
        }
        if self.cloud.as_str().len() > 200 {
            return refuse("name", self.cloud.as_str(), "a name of at most 200 bytes, as it becomes part of a queue's");
        }
        if self.rebind_every < Duration::from_millis(100) {
            return refuse("rebind_every", &format!("{:?}", self.rebind_every), "100ms or more");
        }
        Ok(())
    }
}

impl Authority {
    /// The certificates.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, RabbitConfigError> {
        match self {
            Self::File(path) => {
                let refuse = |why: String| RabbitConfigError::Authority { path: path.clone(), why };
                let pem = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
                parse_certificates(&pem).map_err(refuse)
            }
            Self::Pem(pem) => parse_certificates(pem.as_bytes())
                .map_err(|why| RabbitConfigError::Authority { path: Path::new("(given as text)").to_owned(), why }),
        }
    }
}

fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is no PEM file: {error}"))?;
    if certificates.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BrokerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn the_password_is_never_shown() {
        let config = RabbitConfig::new(url("amqps://reeve:s3cret@rabbit.example:5671/cloud%2f1"));
        assert!(!format!("{config:?} {config:#?}").contains("s3cret"));
    }

    #[test]
    fn an_authority_needs_tls_and_a_certificate() {
        let mut config = RabbitConfig::new(url("amqp://u:p@h"));
        config.ca = Some(Authority::Pem("nothing".into()));
        assert_eq!(config.check(), Err(RabbitConfigError::AuthorityWithoutTls));
        config.url = url("amqps://u:p@h");
        assert!(config.check().unwrap_err().to_string().contains("holds no certificate"));
    }

    #[test]
    fn the_own_limit_stays_below_the_brokers() {
        let mut config = RabbitConfig::new(url("amqp://u:p@h"));
        assert_eq!(config.check(), Ok(()));
        config.poison_limit = config.broker_delivery_limit;
        assert!(config.check().unwrap_err().to_string().contains("poison_limit is 1000"));
    }

    #[test]
    fn an_intake_never_names_an_exchange_of_ours() {
        let mut config = RabbitConfig::new(url("amqp://u:p@h"));
        let mut intake = IntakeConfig::nova(CloudName::new("east").unwrap());
        intake.exchange = "reeve.events".into();
        config.intakes.push(intake);
        assert!(config.check().unwrap_err().to_string().contains("notifications.exchange \"reeve.events\""));
    }
}

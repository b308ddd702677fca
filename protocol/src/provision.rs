//! What is asked for by `vm.provision`: a server, and what belongs to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{CloudName, Span, UserId};

/// The most volumes of one request.
pub const MAX_VOLUMES: usize = 16;
/// The most rules of one request.
pub const MAX_RULES: usize = 32;
/// The most parameters of a template, and the most metadata keys.
pub const MAX_PAIRS: usize = 64;
/// The most bytes of a name, a reference or a value.
pub const MAX_TEXT: usize = 255;
/// The largest volume in GiB.
pub const MAX_VOLUME_GIB: u32 = 65_536;
/// The most bytes of user data before Nova's base64 (its limit is 65,535 after it).
pub const MAX_USER_DATA: usize = 48 * 1024;

/// A server that is wanted. Images, flavors, networks and keys are named by the cloud's id or by a name that only one has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlan {
    /// Its name.
    pub name: String,
    /// The image that its root disk is made of.
    pub image: String,
    /// Its size.
    pub flavor: String,
    /// The network that its port is on.
    pub network: String,
    /// The key pair that lets its owner in; none if absent.
    pub key: Option<String>,
    /// The availability zone; the cloud's choice if absent.
    pub zone: Option<String>,
    /// What may come in from outside; what goes out is not barred.
    pub ingress: Vec<Ingress>,
    /// The external network that a public address is taken from; no public address if absent.
    pub public_network: Option<String>,
    /// Volumes that are made for it, attached, and go with it.
    pub volumes: Vec<VolumePlan>,
    /// Metadata of its owner's.
    pub metadata: BTreeMap<String, String>,
    /// When it counts as ready.
    pub ready: Readiness,
}

/// A volume that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumePlan {
    /// Its size in GiB.
    pub gib: u32,
    /// Its type; the cloud's default if absent.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
}

/// What may come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingress {
    /// The protocol.
    pub protocol: IpProtocol,
    /// The first and last port; all if absent, and without meaning for ICMP.
    #[serde(default)]
    pub ports: Option<(u16, u16)>,
    /// Where from, as address and prefix length; anywhere if absent.
    #[serde(default)]
    pub from: Option<Prefix>,
}

/// A network prefix such as `192.0.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub length: u8,
}

/// A protocol that a rule lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, of the address family of the rule.
    Icmp,
}

/// When a new server counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The cloud says that it runs.
    #[default]
    Active,
    /// Its public address, or else its own, takes TCP connections on this port.
    Tcp(u16),
    /// Its console shows this text.
    Console(String),
}

/// A part of what is made for a plan, in the order of making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// The security group with its rules.
    Firewall,
    /// The port on the network.
    Port,
    /// The public address, bound to the port.
    Address,
    /// The volume of this index in the plan.
    Volume(u16),
    /// The server.
    Server,
}

/// What a request for a server names beside the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvisionRequest {
    /// The cloud; may be absent where only one is configured.
    pub cloud: Option<CloudName>,
    /// Whom the VM belongs to; whoever asks, if absent. Only an operator asks for somebody else.
    pub owner: Option<UserId>,
    /// The server.
    pub plan: ServerPlan,
    /// The template of its user data; no user data if absent.
    pub template: Option<String>,
    /// What the template is filled with.
    pub parameters: BTreeMap<String, String>,
    /// The policy of its lease; chosen by its project if absent.
    pub policy: Option<String>,
    /// How long it may take until it is ready; the configured time if absent.
    pub within: Option<Span>,
}

/// What is wrong with a request: the key, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key:?}: {why}")]
pub struct PlanError {
    /// The key, as the body of the command has it.
    pub key: &'static str,
    /// What was found and what was expected.
    pub why: String,
}

/// The metadata keys that Reeve writes itself begin so.
const OWN_METADATA: &str = "reeve_";

impl ProvisionRequest {
    /// Checks the sizes: what is over a limit would be refused by the cloud, or would not fit into a record.
    ///
    /// # Errors
    /// [`PlanError`] names the first key that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        self.plan.check()?;
        pairs("parameters", &self.parameters)?;
        optional("template", self.template.as_deref())?;
        optional("policy", self.policy.as_deref())?;
        if self.within.is_some_and(Span::is_zero) {
            return Err(wrong("within", "expected more than no time"));
        }
        if self.template.is_none() && !self.parameters.is_empty() {
            return Err(wrong("parameters", "there is no template for them to fill"));
        }
        Ok(())
    }
}

impl ServerPlan {
    fn check(&self) -> Result<(), PlanError> {
        let named =
            [("name", &self.name), ("image", &self.image), ("flavor", &self.flavor), ("network", &self.network)];
        for (key, value) in named {
            text(key, value)?;
        }
        optional("key", self.key.as_deref())?;
        optional("zone", self.zone.as_deref())?;
        optional("public_network", self.public_network.as_deref())?;
        if self.ingress.len() > MAX_RULES {
            return Err(wrong("ingress", format!("{} rules, at most {MAX_RULES}", self.ingress.len())));
        }
        if self.ingress.iter().any(|rule| rule.ports.is_some_and(|(first, last)| first > last || first == 0)) {
            return Err(wrong("ingress", "expected ports from 1 on, the first not after the last"));
        }
        if self.volumes.len() > MAX_VOLUMES {
            return Err(wrong("volumes", format!("{} volumes, at most {MAX_VOLUMES}", self.volumes.len())));
        }
        for volume in &self.volumes {
            if volume.gib == 0 || volume.gib > MAX_VOLUME_GIB {
                return Err(wrong("volumes", format!("{} GiB, expected 1 to {MAX_VOLUME_GIB}", volume.gib)));
            }
            optional("volumes", volume.kind.as_deref())?;
        }
        pairs("metadata", &self.metadata)?;
        if let Some(key) = self.metadata.keys().find(|key| key.starts_with(OWN_METADATA)) {
            return Err(wrong("metadata", format!("{key:?} is Reeve's own")));
        }
        match &self.ready {
            Readiness::Active => Ok(()),
            Readiness::Tcp(0) => Err(wrong("ready", "port 0 is none")),
            Readiness::Tcp(_) => Ok(()),
            Readiness::Console(pattern) => text("ready", pattern),
        }
    }

    /// The parts that are made for it, in the order of making.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let volumes = (0_u16..).zip(&self.volumes).map(|(index, _)| Part::Volume(index));
        let address = self.public_network.as_ref().map(|_| Part::Address);
        [Part::Firewall, Part::Port].into_iter().chain(address).chain(volumes).chain([Part::Server])
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl std::str::FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{:?} is no prefix (expected for example 192.0.2.0/24)", text.chars().take(64).collect::<String>())
        };
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            return Err(wrong());
        }
        Ok(Self { address, length })
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn wrong(key: &'static str, why: impl Into<String>) -> PlanError {
    PlanError { key, why: why.into() }
}

fn text(key: &'static str, value: &str) -> Result<(), PlanError> {
    if value.is_empty() {
        return Err(wrong(key, "is missing or empty"));
    }
    if value.len() > MAX_TEXT {
        return Err(wrong(key, format!("{} bytes, at most {MAX_TEXT}", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(wrong(key, "holds a control character"));
    }
    Ok(())
}

fn optional(key: &'static str, value: Option<&str>) -> Result<(), PlanError> {
    value.map_or(Ok(()), |value| text(key, value))
}

fn pairs(key: &'static str, pairs: &BTreeMap<String, String>) -> Result<(), PlanError> {
    if pairs.len() > MAX_PAIRS {
        return Err(wrong(key, format!("{} entries, at most {MAX_PAIRS}", pairs.len())));
    }
    for (name, value) in pairs {
        text(key, name)?;
        if value.len() > MAX_TEXT {
            return Err(wrong(key, format!("{name:?} has {} bytes, at most {MAX_TEXT}", value.len())));
        }
    }
    Ok(())
}

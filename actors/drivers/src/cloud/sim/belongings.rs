//! What belongs to a server and is made beside it: ports and security groups. Volumes and addresses are in `model`.

use reeve_protocol::provision::{Ingress, IpProtocol, Prefix};
use reeve_protocol::{Timestamp, VmId};
use serde::{Deserialize, Serialize};

/// A port on the one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its id.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its description.
    pub note: String,
    /// Its security group, if any.
    pub group: Option<String>,
    /// Its address.
    pub address: String,
    /// The server that it was given to, gone or not.
    pub server: Option<VmId>,
    /// When it was made.
    pub made_at: Timestamp,
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its description.
    pub note: String,
    /// What it lets in.
    pub rules: Vec<SecurityRule>,
    /// When it was made.
    pub made_at: Timestamp,
}

/// A rule of a security group: what it lets in of one address family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityRule {
    /// Whether it is about IPv4, else IPv6.
    pub v4: bool,
    /// The protocol.
    pub protocol: IpProtocol,
    /// The first and last port; all if absent.
    pub ports: Option<(u16, u16)>,
    /// Where from; anywhere if absent.
    pub from: Option<Prefix>,
}

impl SecurityRule {
    /// The rules that let this in: of both families where it may come from anywhere.
    pub(super) fn of(ingress: &Ingress) -> Vec<Self> {
        let families = match ingress.from {
            None => vec![true, false],
            Some(prefix) => vec![prefix.address.is_ipv4()],
        };
        let ports = match ingress.protocol {
            IpProtocol::Tcp | IpProtocol::Udp => ingress.ports,
            IpProtocol::Icmp => None,
        };
        let rule = |v4| Self { v4, protocol: ingress.protocol, ports, from: ingress.from };
        families.into_iter().map(rule).collect()
    }
}

/// What a thing is that an operation made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MadeKind {
    /// A server that is not gone.
    Server,
    /// A volume that is not gone.
    Volume,
    /// A public address that is held.
    Address,
    /// A port.
    Port,
    /// A security group.
    Firewall,
}

/// A thing that exists and that an operation made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Made {
    /// The tag of the operation.
    pub tag: String,
    /// What it is.
    pub kind: MadeKind,
    /// Its id; of an address the address itself.
    pub id: String,
}

//! `[cluster]` and `[rpc]`: who this node works with, and where it is asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use reeve_protocol::Span;
use serde::{Deserialize, Serialize};

use super::pem::PemFile;
use super::secret::Password;

/// `[cluster]`. The nodes that share the work, by etcd. Needs `[bus]`, `rpc.listen` and a `vault.url` that all nodes share;
/// a simulated cloud cannot be shared and is refused. Every node of a cluster has the same `name` and `shards`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// What the cluster is called: 1 to 63 letters, digits, `-`, `_`, `.`. It is part of every key in etcd and of every
    /// certificate, and never changes. Required.
    pub name: String,
    /// etcd's client URLs, `https://HOST:PORT`, or `http://HOST:PORT` where the network is trusted; 1 to 16. Required.
    pub etcd: Vec<String>,
    /// A file of PEM certificates of the authority that signed etcd's, or `{ credential = "NAME" }`. Required with
    /// `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_ca: Option<PemFile>,
    /// The certificate that this node shows to etcd (PEM); its common name is etcd's user where etcd asks for
    /// certificates. Together with `etcd_key`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_cert: Option<PemFile>,
    /// The private key of `etcd_cert` (PEM). Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_key: Option<PemFile>,
    /// etcd's user, where it asks for passwords. Together with `etcd_password`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_user: Option<String>,
    /// The user's password; may be `{ file = "PATH" }` or `{ credential = "NAME" }`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_password: Option<Password>,
    /// Into how many shards the VMs are divided, 1 to 1024. Set once, by the first node. Default 64.
    #[serde(default = "default_shards")]
    pub shards: u16,
    /// After how long without a sign of life a node has lost its shards, `2s` to `1m`. Default `5s`.
    #[serde(default = "default_lease_ttl")]
    pub lease_ttl: Span,
    /// How far this node's wall clock may be from the others' until it ends no lease and destroys nothing, `100ms` to
    /// `1h`. Default `5s`.
    #[serde(default = "default_max_clock_skew")]
    pub max_clock_skew: Span,
    /// How large this node's share is against the others', 0.1 to 100. Default 1.0.
    #[serde(default = "default_weight")]
    pub weight: f64,
}

const fn default_shards() -> u16 {
    64
}

const fn default_lease_ttl() -> Span {
    Span::from_secs(5)
}

const fn default_max_clock_skew() -> Span {
    Span::from_secs(5)
}

const fn default_weight() -> f64 {
    1.0
}

/// `[rpc]`. Where administrators and the other nodes are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcSection {
    /// The path of the private socket, mode 0600, at most 107 bytes. Default `<data_dir>/reeve.sock`.
    pub socket: PathBuf,
    /// `ADDRESS:PORT` to answer at over mutual TLS, for example `0.0.0.0:7471`; needs `cert`, `key` and `ca`. Default: none,
    /// only the socket is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// `HOST:PORT` at which the other nodes reach `listen`. Default: `listen`, or the machine's host name with its port
    /// where `listen` is every address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// This node's certificate (PEM), of `reeve cert issue --role node --name ID`, or `{ credential = "NAME" }`. It is of
    /// the cluster's name, which is `standalone` without `[cluster]`. Read again at SIGHUP. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PemFile>,
    /// The private key of `cert` (PEM). Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PemFile>,
    /// The certificate of the authority whose certificates are believed (PEM). Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PemFile>,
}

//! What a node is told of its cluster and of the way to etcd.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reeve_protocol::NodeId;

use super::error::EtcdError;

/// etcd grants no shorter lease.
const MIN_TTL: Duration = Duration::from_secs(2);
/// Longer than this, a dead node's VMs would be unattended for minutes.
const MAX_TTL: Duration = Duration::from_secs(600);
/// The cluster's name is part of every key.
const MAX_CLUSTER_NAME: usize = 64;

/// The configuration of a node of a cluster.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// The members of etcd, as `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// The name of the cluster. Its keys begin with `/reeve/<name>/`.
    pub cluster: String,
    /// This node.
    pub node: NodeId,
    /// The number of shards, fixed when the cluster is made. Default 64.
    pub shards: u16,
    /// How long a node is a member after its last sign of life, whole seconds from 2 s. Default 5 s.
    pub lease_ttl: Duration,
    /// By how much this node's wall clock may differ from the median of all. Default 5 s.
    pub max_clock_skew: Duration,
    /// How many shards this node takes, compared with others. Default 1.
    pub weight: f64,
    /// The version that it runs, for people.
    pub version: String,
    /// Where its RPC listens, as `HOST:PORT`, if it does.
    pub address: Option<String>,
    /// The files for TLS. Needed with `https`.
    pub tls: Option<EtcdTls>,
    /// As whom to log in. `None`: not at all, or as the client certificate says.
    pub auth: Option<EtcdUser>,
}

/// The files for TLS, in PEM form. Read at every connect, so that they can be renewed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Who signed etcd's certificates.
    pub ca: Option<PathBuf>,
    /// This node's certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// The password. Never shown.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// The defaults for a node of a cluster.
    #[must_use]
    pub fn new(endpoints: Vec<String>, cluster: impl Into<String>, node: NodeId) -> Self {
        Self {
            endpoints,
            cluster: cluster.into(),
            node,
            shards: 64,
            lease_ttl: Duration::from_secs(5),
            max_clock_skew: Duration::from_secs(5),
            weight: 1.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: None,
            tls: None,
            auth: None,
        }
    }

    /// Checks what can be checked without etcd.
    ///
    /// # Errors
    /// [`EtcdError::Config`] names the key, its value and what was expected.
    pub fn check(&self) -> Result<(), EtcdError> {
        let refuse = |key: &str, value: &dyn fmt::Debug, expected: &str| {
            Err(EtcdError::Config(format!("[cluster] {key} is {value:?} (expected {expected})")))
        };
        if self.endpoints.is_empty() {
            return refuse("etcd", &self.endpoints, "one URL or more");
        }
        let secure = self.endpoints.iter().filter(|url| url.starts_with("https://")).count();
        if let Some(url) = self.endpoints.iter().find(|url| !url.starts_with("https://") && !url.starts_with("http://"))
        {
            return refuse("etcd", url, "http://HOST:PORT or https://HOST:PORT");
        }
        if secure != 0 && secure != self.endpoints.len() {
            return refuse("etcd", &self.endpoints, "all with https:// or all with http://");
        }
        if (secure != 0) != self.tls.is_some() {
            return refuse("etcd_ca", &self.tls, "the authority's certificate with https://, nothing with http://");
        }
        if let Some(tls) = &self.tls {
            if tls.ca.is_none() {
                return refuse("etcd_ca", &tls.ca, "the certificate of who signed etcd's");
            }
            if tls.cert.is_some() != tls.key.is_some() {
                return refuse("etcd_cert", &tls.cert, "etcd_cert and etcd_key together");
            }
        }
        let name = self.cluster.as_str();
        if name.is_empty() || name.len() > MAX_CLUSTER_NAME || name.contains(['/', '\0']) {
            return refuse("name", &self.cluster, "1 to 64 bytes without a slash");
        }
        if self.shards == 0 {
            return refuse("shards", &self.shards, "1 to 65535");
        }
        if self.lease_ttl < MIN_TTL || self.lease_ttl > MAX_TTL || self.lease_ttl.subsec_nanos() != 0 {
            return refuse("lease_ttl", &self.lease_ttl, "whole seconds, 2s to 10m");
        }
        if self.max_clock_skew.is_zero() {
            return refuse("max_clock_skew", &self.max_clock_skew, "more than 0s");
        }
        if !(self.weight.is_finite() && (0.01..=100.0).contains(&self.weight)) {
            return refuse("weight", &self.weight, "0.01 to 100");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EtcdConfig {
        EtcdConfig::new(vec!["http://127.0.0.1:2379".into()], "test", NodeId::new("n1").unwrap())
    }

    fn refused(change: impl FnOnce(&mut EtcdConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn a_password_is_never_shown() {
        let mut config = config();
        config.auth = Some(EtcdUser { name: "reeve".into(), password: "hush".into() });
        let shown = format!("{config:?}");
        assert!(shown.contains("reeve") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(config().check(), Ok(()));
        assert!(refused(|c| c.endpoints.clear()).contains("etcd"));
        assert!(refused(|c| c.endpoints = vec!["127.0.0.1:2379".into()]).contains("http://"));
        assert!(refused(|c| c.endpoints.push("https://127.0.0.1:2379".into())).contains("all with"));
        assert!(refused(|c| c.endpoints = vec!["https://127.0.0.1:2379".into()]).contains("etcd_ca"));
        assert!(refused(|c| c.tls = Some(EtcdTls::default())).contains("etcd_ca"));
        assert!(refused(|c| c.cluster = "a/b".into()).contains("name"));
        assert!(refused(|c| c.shards = 0).contains("shards"));
        assert!(refused(|c| c.lease_ttl = Duration::from_secs(1)).contains("lease_ttl"));
        assert!(refused(|c| c.lease_ttl = Duration::from_millis(2500)).contains("lease_ttl"));
        assert!(refused(|c| c.weight = f64::NAN).contains("weight"));
        assert!(refused(|c| c.weight = 0.0).contains("weight"));
    }
}

//! Where nodes answer: `unix:PATH` or `tls://HOST:PORT`, several separated by commas; and what is shown to them.

use std::path::PathBuf;
use std::str::FromStr;

use reeve_cluster::rpc::TlsFiles;

use super::fail::{Code, Failure};
use crate::config::is_host_port;

/// One place where a node may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A private socket of this machine.
    Unix(PathBuf),
    /// `HOST:PORT`, over mutual TLS.
    Tls(String),
}

impl FromStr for Endpoint {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(Failure::new(Code::Usage, "endpoint unix: names no socket").because("expected unix:PATH"));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let address = text.strip_prefix("tls://").filter(|address| is_host_port(address));
        address.map(|address| Self::Tls(address.to_owned())).ok_or_else(|| {
            let failure = Failure::new(Code::Usage, format!("endpoint {text:?}"));
            failure.because("expected unix:PATH or tls://HOST:PORT")
        })
    }
}

/// Reads a list of places.
pub(super) fn list(text: &str) -> Result<Vec<Endpoint>, Failure> {
    text.split(',').map(|one| one.trim().parse()).collect()
}

/// What is shown to nodes, and what is believed of them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Identity {
    /// Your certificate (PEM), for tls://
    #[arg(long, global = true, env = "REEVE_CERT", value_name = "FILE", help_heading = "Common options")]
    cert: Option<PathBuf>,
    /// The private key of your certificate (PEM)
    #[arg(long, global = true, env = "REEVE_KEY", value_name = "FILE", help_heading = "Common options")]
    key: Option<PathBuf>,
    /// The certificate of the cluster's authority (PEM)
    #[arg(long, global = true, env = "REEVE_CA", value_name = "FILE", help_heading = "Common options")]
    ca: Option<PathBuf>,
}

impl Identity {
    /// The files; all of them are needed.
    pub(super) fn files(&self) -> Result<TlsFiles, Failure> {
        let (Some(cert), Some(key), Some(ca)) = (&self.cert, &self.key, &self.ca) else {
            let there = [("--cert", &self.cert), ("--key", &self.key), ("--ca", &self.ca)];
            let missing: Vec<&str> =
                there.into_iter().filter(|(_, file)| file.is_none()).map(|(name, _)| name).collect();
            let failure = Failure::new(Code::Usage, format!("an endpoint tls:// needs {}", missing.join(", ")));
            return Err(failure.because("also as REEVE_CERT, REEVE_KEY, REEVE_CA"));
        };
        Ok(TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_socket_or_a_host_with_a_port() {
        for (text, address) in [("tls://a.example:99", "a.example:99"), ("tls://[::1]:7471", "[::1]:7471")] {
            assert_eq!(text.parse(), Ok(Endpoint::Tls(address.into())));
        }
        for wrong in ["tls://", "tls://a", "tls://a:0", "tls://:1", "tls://u@a:1", "unix:", "a:7471", "http://a:1", ""]
        {
            assert_eq!(wrong.parse::<Endpoint>().unwrap_err().code, Code::Usage, "{wrong}");
        }
        let both = list("tls://a:7471, unix:/run/x").unwrap();
        assert_eq!(both, [Endpoint::Tls("a:7471".into()), Endpoint::Unix("/run/x".into())]);
        assert!(list("tls://a:7471,").is_err());
    }
}

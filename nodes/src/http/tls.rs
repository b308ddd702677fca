//! The certificate that browsers are shown, read again when the process is told to.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, anyhow};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::certified;

/// A certificate and its key in two files.
pub(super) struct ServerCertificate {
    files: [PathBuf; 2],
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    /// Reads certificate and key.
    pub(super) fn read(files: [PathBuf; 2]) -> anyhow::Result<Self> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// Reads them again; new connections see what was read.
    pub(super) fn reload(&self) -> anyhow::Result<()> {
        let fresh = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn read([cert, key]: &[PathBuf; 2]) -> anyhow::Result<CertifiedKey> {
    certified(cert, key).map_err(|why| anyhow!(why))
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// TLS 1.2 and 1.3 with the one crypto provider there is; nobody shows a certificate of their own.
pub(super) fn server_config(certificate: &Arc<ServerCertificate>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let resolver: Arc<dyn ResolvesServerCert> = Arc::<ServerCertificate>::clone(certificate);
    Ok(versions.context("TLS cannot be set up")?.with_no_client_auth().with_cert_resolver(resolver))
}

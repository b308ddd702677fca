//! Files of certificates and private keys: named by their path or as a credential of systemd.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::secret::{SecretError, credential_path, plain_credential};

/// The most bytes that such a file may have.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// A file in PEM: `"PATH"`, or `{ credential = "NAME" }` for what systemd's `LoadCredential=NAME:…` provides. What systemd
/// provides is read once by it: where certificates are to be renewed without a restart, name a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"PATH\" or { credential = \"NAME\" }")]
pub enum PemFile {
    /// A path.
    Path(PathBuf),
    /// A credential.
    Credential(Credential),
}

/// The name of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// A plain name, without `/` and not beginning with a dot.
    #[serde(deserialize_with = "plain_credential")]
    pub credential: String,
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Credential(Credential { credential }) => write!(f, "credential {credential}"),
        }
    }
}

impl PemFile {
    /// Where the file is.
    ///
    /// # Errors
    /// [`SecretError::NoCredentials`] when systemd gave this process none.
    pub fn path(&self) -> Result<PathBuf, SecretError> {
        match self {
            Self::Path(path) => Ok(path.clone()),
            Self::Credential(Credential { credential }) => credential_path(credential),
        }
    }
}

/// What is wrong with a file of certificates, if anything is.
pub(super) fn wrong_certificates(path: &Path) -> Option<String> {
    certificates(path).err()
}

/// A certificate with its key, as a server shows it.
///
/// # Errors
/// What is wrong with either file, or that they do not go together.
pub(crate) fn certified(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(certificates(cert)?, private_key(key)?, &provider)
        .map_err(|error| format!("{} does not go with the certificate {}: {error}", key.display(), cert.display()))
}

/// What is wrong with a certificate and its key; the first is about the certificate, the second about the key.
pub(super) fn wrong_pair(cert: &Path, key: &Path) -> [Option<String>; 2] {
    let (chain, key) = match (certificates(cert), private_key(key)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return [chain.err(), key.err()],
    };
    // Says as well when the key belongs to another certificate.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => [None, None],
        Err(error) => [None, Some(format!("does not go with the certificate {}: {error}", cert.display()))],
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(format!("{} holds no certificate in PEM", path.display())),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("{} is no PEM: {error}", path.display())),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    // The error is not shown: it could quote the file.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| format!("{} holds no private key in PEM", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;

    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(format!("{} is larger than 1 MiB", path.display()));
    }
    Ok(bytes)
}

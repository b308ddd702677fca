//! A private certificate authority, made anew for each server, one certificate for loopback and one for a client.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Certificate files of one test server, in PEM.
#[derive(Debug)]
pub struct Certificates {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    client_certificate: PathBuf,
    client_key: PathBuf,
}

impl Certificates {
    /// Makes an authority, a server certificate for `localhost`, `127.0.0.1` and `::1` and a client certificate for the
    /// user `reeve`, and writes them to `folder`.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Reeve test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "localhost");
        // etcd's own gateway is a client of its server, with the same certificate.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let server_key = KeyPair::generate()?;
        let server = params.signed_by(&server_key, &authority)?;

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "reeve");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let client_key = KeyPair::generate()?;
        let client = params.signed_by(&client_key, &authority)?;

        Ok(Self {
            ca: write(folder, "ca.pem", &authority.pem())?,
            certificate: write(folder, "server.pem", &server.pem())?,
            key: write(folder, "server-key.pem", &server_key.serialize_pem())?,
            client_certificate: write(folder, "client.pem", &client.pem())?,
            client_key: write(folder, "client-key.pem", &client_key.serialize_pem())?,
        })
    }

    /// The authority's certificate, which a client has to trust.
    #[must_use]
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// The server's certificate.
    #[must_use]
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// The server's key, PKCS #8.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// The client's certificate, user `reeve`.
    #[must_use]
    pub fn client_certificate(&self) -> &Path {
        &self.client_certificate
    }

    /// The client's key, PKCS #8.
    #[must_use]
    pub fn client_key(&self) -> &Path {
        &self.client_key
    }
}

fn write(folder: &Path, name: &str, pem: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, pem).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

//! A private authority for one cluster, and the certificates that it signs.
//!
//! ```text
//! init ─► DIR/ca.pem, ca.key ──issue──► NAME.pem, NAME.key    reeve://<cluster>/<role>/<name> names whoever shows it
//! ```
//!
//! The name of the cluster is the organization in the authority's subject. Keys are made here, on curve P-256, written
//! with mode 0600, whole or not at all, and never shown. What is there already is not overwritten unasked.

use std::fmt;
use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use reeve_cluster::rpc::Identity;
use reeve_protocol::admin::{Principal, Role};
use reeve_protocol::{ProjectId, Span, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::is_plain_name;

/// How much earlier than now a certificate is good: clocks differ.
const BACKDATED: Span = Span::from_hours(1);
/// The authority's certificate and key, in its folder.
const AUTHORITY: &str = "ca";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file or folder cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would be overwritten.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// The folder's authority is not one of ours, or damaged.
    #[error("{} is not usable: {why}", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Request(String),
    /// The cryptography failed.
    #[error("the certificate cannot be made")]
    Crypto(#[from] rcgen::Error),
}

/// Who shows the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// Somebody whom Reeve knows: a node or a person.
    Reeve(Role),
    /// A server beside Reeve, such as a member of etcd or RabbitMQ. Reeve itself answers it nothing.
    Server,
    /// A client of such a server.
    Client,
}

impl FromStr for Bearer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "node" => Ok(Self::Reeve(Role::Node)),
            "viewer" => Ok(Self::Reeve(Role::Viewer)),
            "operator" => Ok(Self::Reeve(Role::Operator)),
            "admin" => Ok(Self::Reeve(Role::Admin)),
            "server" => Ok(Self::Server),
            "client" => Ok(Self::Client),
            _ => {
                let expected = "expected node, viewer, operator, admin, tenant:PROJECT, server or client";
                let project = text.strip_prefix("tenant:").ok_or(expected)?;
                if !is_plain_name(project) {
                    return Err(format!("project {project:?} is not made of letters, digits, - _ ."));
                }
                let project = ProjectId::new(project).map_err(|error| error.to_string())?;
                Ok(Self::Reeve(Role::Tenant(project)))
            }
        }
    }
}

impl Bearer {
    /// Whether it is connected to, by the names in its certificate.
    const fn is_connected_to(&self) -> bool {
        match self {
            Self::Reeve(Role::Node) | Self::Server => true,
            Self::Reeve(Role::Viewer | Role::Operator | Role::Admin | Role::Tenant(_)) | Self::Client => false,
        }
    }
}

/// A name by which something is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A DNS name.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        DnsName::try_from(text)
            .map(|name| Self::Name(name.as_ref().to_owned()))
            .map_err(|_| format!("{text:?} is neither a DNS name nor an address"))
    }
}

/// What is to be certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who shows the certificate.
    pub bearer: Bearer,
    /// Its name: of the node, or of the person.
    pub name: String,
    /// By what it is connected to.
    pub hosts: Vec<Host>,
    /// For how long.
    pub valid: Span,
}

/// A certificate and its key.
pub struct Issued {
    /// In PEM.
    pub cert: String,
    /// In PEM. For its file alone.
    pub key: String,
    /// The name that Reeve reads in it, if it has one.
    pub uri: Option<String>,
    /// Until when it is good.
    pub ends_at: Timestamp,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("uri", &self.uri).field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

/// What happens to files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are kept, and that is an error.
    Keep,
    /// They are replaced.
    Replace,
}

/// An authority.
pub struct Authority {
    cluster: String,
    ends_at: Timestamp,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority in a folder, which is made if it is missing.
    ///
    /// # Errors
    /// [`CertError`]; an authority that is there is never replaced.
    pub fn init(folder: &Path, cluster: &str, valid: Span, now: Timestamp) -> Result<Timestamp, CertError> {
        if !is_plain_name(cluster) {
            let message = format!("the cluster's name is {cluster:?}, expected 1 to 63 letters, digits, - _ .");
            return Err(CertError::Request(message));
        }
        let key = KeyPair::generate()?;
        let ends_at = now + valid;
        let mut params = params(&format!("{cluster} Reeve CA"), now, ends_at);
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key)?;
        let issued = Issued { cert: cert.pem(), key: key.serialize_pem(), uri: None, ends_at };
        save(&issued, folder, AUTHORITY, Existing::Keep)?;
        Ok(ends_at)
    }

    /// Opens the authority of a folder.
    ///
    /// # Errors
    /// [`CertError`] when it is not there, damaged, not made by [`Authority::init`], or over.
    pub fn open(folder: &Path, now: Timestamp) -> Result<Self, CertError> {
        let [cert_path, key_path] = paths(folder, AUTHORITY);
        let unusable = |path: &Path, why: &str| CertError::Authority { path: path.to_owned(), why: why.to_owned() };
        let text = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| CertError::Io { path: path.to_owned(), source })
        };
        let (cert, key) = (text(&cert_path)?, text(&key_path)?);
        let der = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|_| unusable(&cert_path, "it holds no certificate in PEM"))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unusable(&cert_path, "it is no certificate"))?;
        // The error is not shown: it could quote the file.
        let key = KeyPair::from_pem(&key).map_err(|_| unusable(&key_path, "it holds no private key in PEM"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(unusable(&key_path, "it is not the key of ca.pem"));
        }
        let cluster = parsed.subject().iter_organization().next().and_then(|name| name.as_str().ok());
        let cluster = cluster.filter(|name| is_plain_name(name) && parsed.is_ca());
        let cluster = cluster
            .ok_or_else(|| unusable(&cert_path, "it names no cluster: make an authority by `reeve cert init`"))?
            .to_owned();
        let ends_at = Timestamp::from_millis(parsed.validity().not_after.timestamp().saturating_mul(1000));
        if ends_at <= now {
            return Err(unusable(&cert_path, &format!("it was good until {ends_at}")));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { cluster, ends_at, issuer })
    }

    /// Signs a certificate for a new key. It ends with the authority's own at the latest.
    ///
    /// # Errors
    /// [`CertError::Request`] when the request makes no sense.
    pub fn issue(&self, request: &Request, now: Timestamp) -> Result<Issued, CertError> {
        let Request { bearer, name, hosts, valid } = request;
        if !is_file_name(name) || name == AUTHORITY {
            let message =
                format!("the name is {name:?}, expected 1 to 63 letters, digits, - _ . @ + and not {AUTHORITY}");
            return Err(CertError::Request(message));
        }
        let connected_to = bearer.is_connected_to();
        // Nodes know each other by their ids; a host is for whatever else looks at a node's certificate.
        if *bearer == Bearer::Server && hosts.is_empty() {
            return Err(CertError::Request(
                "a server needs a host: by what name or address is it connected to?".into(),
            ));
        }
        if !connected_to && !hosts.is_empty() {
            return Err(CertError::Request("a client has no host: nobody connects to it".into()));
        }
        let uri = match bearer {
            Bearer::Reeve(role) => {
                let principal = Principal { role: role.clone(), name: name.clone() };
                let identity = Identity::new(self.cluster.as_str(), principal);
                Some(identity.map_err(|error| CertError::Request(error.to_string()))?.to_string())
            }
            Bearer::Server | Bearer::Client => None,
        };
        let ends_at = (now + *valid).min(self.ends_at);
        let mut params = params(name, now, ends_at);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if connected_to {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if let Some(uri) = &uri {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        for host in hosts {
            params.subject_alt_names.push(match host {
                Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
                Host::Address(address) => SanType::IpAddress(*address),
            });
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem(), uri, ends_at })
    }
}

fn params(common_name: &str, now: Timestamp, ends_at: Timestamp) -> CertificateParams {
    let at = |time: Timestamp| {
        let seconds = u64::try_from(time.as_millis() / 1000).unwrap_or_default();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let mut params = CertificateParams::default();
    params.not_before = at(now - BACKDATED);
    params.not_after = at(ends_at);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// Whether a person's or a node's name can be that of files: people may be named as in mail.
fn is_file_name(name: &str) -> bool {
    is_plain_name(&name.replace(['@', '+'], "-")) && !name.starts_with(['@', '+'])
}

/// Where a certificate and its key are kept.
fn paths(folder: &Path, name: &str) -> [PathBuf; 2] {
    // Not `with_extension`: names have dots in them.
    ["pem", "key"].map(|kind| folder.join(format!("{name}.{kind}")))
}

/// Writes `NAME.pem` and `NAME.key` into a folder, which is made if it is missing, and says where.
///
/// # Errors
/// [`CertError`]; each file is written whole or not at all.
pub fn save(issued: &Issued, folder: &Path, name: &str, existing: Existing) -> Result<[PathBuf; 2], CertError> {
    let [cert, key] = paths(folder, name);
    if existing == Existing::Keep
        && let Some(there) = [&cert, &key].into_iter().find(|path| path.symlink_metadata().is_ok())
    {
        return Err(CertError::Exists(there.clone()));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| CertError::Io { path: folder.to_owned(), source })?;
    write(&key, &issued.key, 0o600, existing)?;
    write(&cert, &issued.cert, 0o644, existing)?;
    Ok([cert, key])
}

fn write(path: &Path, text: &str, mode: u32, existing: Existing) -> Result<(), CertError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CertError::Exists(path.to_owned()),
        _ => CertError::Io { path: path.to_owned(), source },
    };
    let folder = path.parent().expect("the path is a folder and a name");
    // Its mode is 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let named = match existing {
        Existing::Keep => file.persist_noclobber(path),
        Existing::Replace => file.persist(path),
    };
    named.map_err(|error| failed(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

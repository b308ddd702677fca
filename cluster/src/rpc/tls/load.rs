//! Reads certificate files and checks them as the other side will.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reeve_ports::{Clock, SystemClock};
use reeve_protocol::{NodeId, Timestamp};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use x509_parser::parse_x509_certificate;

use super::verify::{self, NodeVerifier};
use super::{ALPN, Identity, TlsError, TlsFiles};

/// The most bytes of a file that are read.
const MAX_FILE: u64 = 1024 * 1024;
/// How long before its end a certificate is warned of.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

const CERTIFICATES: &str = "certificates in PEM (BEGIN CERTIFICATE)";
const KEY: &str = "a private key in PEM, PKCS #8, PKCS #1 or SEC1, without a password (BEGIN PRIVATE KEY)";
const AUTHORITIES: &str = "certificates of authorities in PEM (BEGIN CERTIFICATE)";

/// What a handshake needs.
pub(super) struct Loaded {
    pub(super) identity: Identity,
    pub(super) server: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: Arc<CertifiedKey>,
}

impl Loaded {
    /// Reads and checks; with `node_of`, the certificate must be of a node of that cluster.
    pub(super) fn read(files: &TlsFiles, node_of: Option<&str>) -> Result<Self, TlsError> {
        let chain = certificates(&files.cert, CERTIFICATES)?;
        let content = |path: &Path, expected| TlsError::Content { path: path.to_owned(), expected };
        let key = PrivateKeyDer::from_pem_slice(&contents(&files.key)?).map_err(|_| content(&files.key, KEY))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.ca, AUTHORITIES)? {
            roots.add(authority).map_err(|_| content(&files.ca, AUTHORITIES))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = provider.key_provider.load_private_key(key).map_err(|_| content(&files.key, KEY))?;
        let own = CertifiedKey::new(chain, key);
        own.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::KeyMismatch { key: files.key.clone(), cert: files.cert.clone() }
            }
            _ => content(&files.cert, CERTIFICATES),
        })?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let clients = clients.map_err(|error| TlsError::Setup(error.to_string()))?;
        let identity = check_own(files, &own, clients.as_ref(), node_of)?;
        let own = Arc::new(own);
        let server = server_config(Arc::clone(&provider), clients, Arc::clone(&own))?;
        let loaded = Self { identity, server, provider, roots, own };
        if node_of.is_some() {
            loaded.check_as_server(files)?;
        }
        Ok(loaded)
    }

    /// How to call a node of the own cluster: a certain one, or any.
    pub(super) fn client(&self, expected: Option<&NodeId>) -> Result<Arc<ClientConfig>, TlsError> {
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.verifier(expected)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.own))));
        let mut config = config;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    fn verifier(&self, expected: Option<&NodeId>) -> NodeVerifier {
        let algorithms = self.provider.signature_verification_algorithms;
        let cluster = self.identity.cluster().to_owned();
        NodeVerifier::new(Arc::clone(&self.roots), algorithms, cluster, expected.cloned())
    }

    /// A node's certificate has to serve for both directions; better known at the start than by each caller.
    fn check_as_server(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let Some((own, between)) = self.own.cert.split_first() else { return Ok(()) };
        let verified = self.verifier(None).verify_server_cert(own, between, &verify::no_name(), &[], now());
        verified.map(drop).map_err(|error| not_accepted(files, &error))
    }
}

/// Checks the own certificate as whoever is called will: a wrong one shall be known where it can be mended.
fn check_own(
    files: &TlsFiles,
    own: &CertifiedKey,
    clients: &dyn ClientCertVerifier,
    node_of: Option<&str>,
) -> Result<Identity, TlsError> {
    let Some((leaf, between)) = own.cert.split_first() else {
        return Err(TlsError::Content { path: files.cert.clone(), expected: CERTIFICATES });
    };
    let (_, parsed) = parse_x509_certificate(leaf)
        .map_err(|_| TlsError::Content { path: files.cert.clone(), expected: CERTIFICATES })?;
    let now_at = SystemClock.now();
    let from = time(parsed.validity().not_before.timestamp());
    let until = time(parsed.validity().not_after.timestamp());
    if now_at > until {
        return Err(TlsError::Expired { path: files.cert.clone(), at: until });
    }
    if now_at < from {
        return Err(TlsError::NotYetValid { path: files.cert.clone(), at: from });
    }
    clients.verify_client_cert(leaf, between, now()).map_err(|error| not_accepted(files, &error))?;
    let identity = Identity::of_certificate(leaf);
    let identity = identity.map_err(|why| TlsError::Identity { path: files.cert.clone(), why })?;
    if let Some(cluster) = node_of
        && (identity.cluster() != cluster || identity.node().is_none())
    {
        let found = Box::new(identity);
        return Err(TlsError::NotANode { path: files.cert.clone(), found, cluster: cluster.to_owned() });
    }
    if until.since(now_at) < ENDS_SOON {
        tracing::warn!(cert = %files.cert.display(), %until, "a TLS certificate ends soon: issue a new one");
    }
    Ok(identity)
}

fn server_config(
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    own: Arc<CertifiedKey>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Nobody resumes: who was turned out must not come back with a ticket.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn not_accepted(files: &TlsFiles, error: &rustls::Error) -> TlsError {
    let why = match error {
        rustls::Error::InvalidCertificate(error) => reason(error),
        other => other.to_string(),
    };
    TlsError::NotAccepted { cert: files.cert.clone(), ca: files.ca.clone(), why }
}

/// Why a certificate is not accepted, for people.
pub(super) fn reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "another authority signed it".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it lacks the extended key usage (a node needs serverAuth and clientAuth, others clientAuth)".to_owned()
        }
        CertificateError::Other(error) => error.to_string(),
        // Theirs, and open ended.
        other => other.to_string(),
    }
}

fn certificates(path: &Path, expected: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = contents(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        // What the parser says may quote the file.
        Ok(_) | Err(_) => Err(TlsError::Content { path: path.to_owned(), expected }),
    }
}

fn contents(path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(SystemClock.now().since(Timestamp::EPOCH))
}

//! Authorities, certificates of every kind, and nodes that serve with them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use reeve_cluster::rpc::{Credentials, RpcClient, RpcError, TlsFiles, TlsLimits, TlsServer};
use reeve_ports::AdminService;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A folder of files and the authority that signs them.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Valid {
    Now,
    Past,
    Future,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Reeve test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate of `reeve://north/<who>`.
    pub(crate) fn of(&self, who: &str) -> TlsFiles {
        self.issue(&[&format!("reeve://north/{who}")], Valid::Now, &both())
    }

    /// A certificate with any URI names.
    pub(crate) fn issue(&self, uris: &[&str], valid: Valid, usages: &[ExtendedKeyUsagePurpose]) -> TlsFiles {
        let number = fs::read_dir(self.folder.path()).unwrap().count();
        let files = TlsFiles {
            cert: self.path(&format!("{number}.pem")),
            key: self.path(&format!("{number}-key.pem")),
            ca: self.path("ca.pem"),
        };
        self.issue_to(&files, uris, valid, usages);
        files
    }

    /// Replaces the certificate and its key as a tool would that renews them.
    pub(crate) fn issue_to(&self, to: &TlsFiles, uris: &[&str], valid: Valid, usages: &[ExtendedKeyUsagePurpose]) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "somebody");
        params.extended_key_usages = usages.to_vec();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1)),
            Valid::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Valid::Future => (date_time_ymd(2119, 1, 1), date_time_ymd(2120, 1, 1)),
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        replace(&to.key, &key.serialize_pem());
        replace(&to.cert, &certificate.pem());
    }
}

pub(crate) fn both() -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
}

/// Writes beside the file and renames: it is there whole or not at all.
pub(crate) fn replace(path: &Path, text: &str) {
    let beside = path.with_added_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) credentials: Credentials,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Node {
    pub(crate) fn start(files: &TlsFiles, service: Arc<dyn AdminService>) -> Self {
        Self::start_with(files, service, TlsLimits::default())
    }

    pub(crate) fn start_with(files: &TlsFiles, service: Arc<dyn AdminService>, limits: TlsLimits) -> Self {
        Self::start_at("127.0.0.1:0", files, service, limits)
    }

    pub(crate) fn start_at(at: &str, files: &TlsFiles, service: Arc<dyn AdminService>, limits: TlsLimits) -> Self {
        let server = TlsServer::bind(at, files.clone(), "north").unwrap().with_tls_limits(limits);
        let (address, credentials) = (server.address().to_string(), server.credentials());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.serve(service, async {
            let _ = stopped.await;
        }));
        Self { address, credentials, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    pub(crate) async fn client(&self, files: &TlsFiles) -> Result<RpcClient, RpcError> {
        RpcClient::connect_tls(&self.address, files).await
    }
}

/// How a client behaves that is not ours: it trusts anybody, and shows any certificate or none.
pub(crate) struct Stranger {
    pub(crate) files: Option<TlsFiles>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) version: &'static SupportedProtocolVersion,
}

impl Stranger {
    pub(crate) fn with(files: &TlsFiles) -> Self {
        Self { files: Some(files.clone()), alpn: vec![b"reeve/1".to_vec()], version: &rustls::version::TLS13 }
    }

    pub(crate) async fn connect(self, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match self.files {
            Some(files) => {
                let (chain, key) = read(&files);
                config.with_client_auth_cert(chain, key).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn;
        let stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).await?;
        let name = ServerName::try_from("anybody.invalid").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

pub(crate) fn read(files: &TlsFiles) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

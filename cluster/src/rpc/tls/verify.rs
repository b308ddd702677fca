//! Who may answer: a node of our cluster, wherever it is.
//!
//! A host name says where a node is, and nodes move between addresses; what a caller means is the node. So the chain,
//! the times, the usage and the handshake's signature are checked by webpki as ever, and in place of the host name the
//! URI `reeve://<cluster>/node/<id>`, which the authority signed as it signs host names. Only a node has one: whoever
//! holds an operator's certificate cannot pose as a node.

use std::sync::Arc;

use reeve_protocol::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use super::{Identity, IdentityError};

/// Why a certificate is not that of the node that was meant.
#[derive(Debug, thiserror::Error)]
enum WrongNode {
    #[error(transparent)]
    Nobody(IdentityError),
    #[error("it is of {found}, and a node reeve://{cluster}/node/{} was meant", expected.as_deref().unwrap_or("ID"))]
    Another { found: Identity, cluster: String, expected: Option<String> },
}

/// Accepts the nodes of a cluster, or one of them.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    cluster: String,
    expected: Option<NodeId>,
}

impl NodeVerifier {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        algorithms: WebPkiSupportedAlgorithms,
        cluster: String,
        expected: Option<NodeId>,
    ) -> Self {
        Self { roots, algorithms, cluster, expected }
    }

    fn check_node(&self, certificate: &[u8]) -> Result<(), WrongNode> {
        let found = Identity::of_certificate(certificate).map_err(WrongNode::Nobody)?;
        let is_meant = match (found.node(), &self.expected) {
            (Some(node), Some(expected)) => node == *expected,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_meant && found.cluster() == self.cluster {
            return Ok(());
        }
        let expected = self.expected.as_ref().map(ToString::to_string);
        Err(WrongNode::Another { found, cluster: self.cluster.clone(), expected })
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        match self.check_node(end_entity) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(wrong) => Err(CertificateError::Other(OtherError(Arc::new(wrong))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The library wants a host's name for a handshake; it is neither sent nor checked.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::try_from("node.reeve.invalid").expect("a literal host name is one")
}

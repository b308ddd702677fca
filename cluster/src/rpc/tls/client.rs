//! The caller's end of a TLS connection.

use std::io;
use std::time::Duration;

use reeve_protocol::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{ALPN, Credentials, TlsFiles, load, socket, verify};
use crate::rpc::client::{RpcClient, RpcError};

/// How long connecting may take, with the handshake.
const CONNECT: Duration = Duration::from_secs(5);

impl RpcClient {
    /// Connects to any node at `HOST:PORT`, within 5 s. The cluster is the one that the own certificate names.
    ///
    /// # Errors
    /// [`RpcError::Files`] when the files cannot be used, [`RpcError::Unreachable`] when nobody answers there,
    /// [`RpcError::Untrusted`] when it is no node of the cluster. Whether the node accepts the certificate is known with
    /// the first call.
    pub async fn connect_tls(address: &str, files: &TlsFiles) -> Result<Self, RpcError> {
        let credentials = Credentials::client(files.clone()).map_err(|error| RpcError::Files(error.with_source()))?;
        connect(address, &credentials, None).await
    }

    /// Connects to a certain node at `HOST:PORT`, within 5 s, with credentials that were read before.
    ///
    /// # Errors
    /// As [`RpcClient::connect_tls`], and [`RpcError::Untrusted`] when another node answers.
    pub async fn connect_tls_to(address: &str, credentials: &Credentials, node: &NodeId) -> Result<Self, RpcError> {
        connect(address, credentials, Some(node)).await
    }
}

async fn connect(address: &str, credentials: &Credentials, node: Option<&NodeId>) -> Result<RpcClient, RpcError> {
    let config = credentials.current().client(node);
    let unreachable = |why: String| RpcError::Unreachable { endpoint: format!("tls://{address}"), why };
    let config = config.map_err(|error| unreachable(error.to_string()))?;
    let connecting = async {
        let stream = TcpStream::connect(address).await.map_err(|error| unreachable(error.to_string()))?;
        socket::prepare(&stream).map_err(|error| unreachable(error.to_string()))?;
        let stream = TlsConnector::from(config).connect(verify::no_name(), socket::by_records(stream)).await;
        let stream = stream.map_err(|error| handshake_error(address, &error))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(unreachable("it does not speak reeve/1".to_owned()));
        }
        Ok(RpcClient::new(stream))
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(unreachable(format!("no connection within {} ms", CONNECT.as_millis()))),
    }
}

fn handshake_error(address: &str, error: &io::Error) -> RpcError {
    let endpoint = format!("tls://{address}");
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(error)) => {
            RpcError::Untrusted { endpoint, why: format!("its certificate: {}", load::reason(error)) }
        }
        // Theirs, and open ended.
        Some(other) => RpcError::Unreachable { endpoint, why: format!("no TLS handshake: {other}") },
        None => RpcError::Unreachable { endpoint, why: format!("no TLS handshake: {error}") },
    }
}

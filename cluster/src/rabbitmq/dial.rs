//! Opens a connection to one broker: TCP, TLS, the AMQP handshake, all within a limit.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use lapin::uri::AMQPUri;
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Error, ErrorKind};

use super::config::RabbitConfig;

/// The socket of a connection that is being opened. lapin opens connections in a thread of its own, which waits on a
/// silent peer for ever; only the end of its socket ends it.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

/// Shuts the socket down when opening fails, takes too long or is given up.
struct Attempt(Socket);

/// Opens a connection to a broker of the list, within `limit`; `name` is how the broker's own tools show it. The error
/// is for people, names the broker, and shows no password.
pub(crate) async fn dial(
    config: &RabbitConfig,
    broker: usize,
    name: &str,
    limit: Duration,
) -> Result<Connection, String> {
    let tls = if config.url.is_tls() { Some(connector(config)?) } else { None };
    let attempt = Attempt(Socket::default());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
    let (kept, reactor) = (attempt.0.clone(), runtime.clone());
    let connect = async move |uri: AMQPUri, _| {
        let stream = async {
            let (host, port) = (uri.authority.host.as_str(), uri.authority.port);
            let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
            let stream = AsyncTcpStream::connect(&reactor, addresses).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                kept.keep(TcpStream::from(plain.get_ref().as_fd().try_clone_to_owned()?));
            }
            match &tls {
                Some(tls) => stream.into_rustls(tls, host).await,
                None => Ok(stream),
            }
        };
        Ok(tokio::time::timeout(limit, stream).await.map_err(std::io::Error::from)??)
    };
    let opening = Connection::connector(config.url.uri(broker).clone(), runtime, connect, properties);
    match tokio::time::timeout(limit, opening).await {
        Ok(Ok(connection)) => {
            attempt.succeeded();
            Ok(connection)
        }
        Ok(Err(error)) => Err(describe(config, broker, &error)),
        Err(_) => Err(format!("no answer from {} within {limit:?}", config.url.name(broker))),
    }
}

fn connector(config: &RabbitConfig) -> Result<RustlsConnector, String> {
    let connector = match &config.ca {
        Some(ca) => {
            let certificates = ca.certificates().map_err(|error| error.to_string())?;
            RustlsConnectorConfig::default().with_parsable_certificates(certificates)
        }
        None => RustlsConnectorConfig::new_with_platform_verifier(),
    };
    connector.connector_with_no_client_auth().map_err(|error| format!("cannot set up TLS: {error}"))
}

/// What went wrong, for people: where, and for a refused login what to look at.
fn describe(config: &RabbitConfig, broker: usize, error: &Error) -> String {
    let name = config.url.name(broker);
    let text = config.url.mask(&error.to_string());
    match error.kind() {
        ErrorKind::ProtocolError(refused) if refused.get_id() == 403 => {
            format!("{name} refused the login (check user, password and virtual host of [bus] url): {text}")
        }
        _ => format!("{name}: {text}"),
    }
}

impl Attempt {
    fn succeeded(self) {
        drop(self.0.slot().take());
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(stream) = self.0.slot().take() {
            // It may have been closed already, which is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Socket {
    fn keep(&self, stream: TcpStream) {
        *self.slot() = Some(stream);
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<TcpStream>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

//! The port that nodes and the command line call.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, Principal};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ALPN, Credentials, Identity, TlsError, TlsFiles, load, socket};
use crate::rpc::frame::{CONNECTION, Reply};
use crate::rpc::outgoing::Outgoing;
use crate::rpc::server::{Limits, serve_connection};

/// How long calls under way may take when the server is told to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a peer that is turned away may take to read why, and then to hear that this was all.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Bounds on who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsLimits {
    /// How long a handshake may take. Default 5 s.
    pub handshake: Duration,
    /// How many handshakes may be under way; a further connection is closed. Default 128.
    pub handshakes: usize,
    /// How many connections may be open; a further one is told so and closed. Default 1024.
    pub connections: usize,
    /// How many of them may be of one name; a further one is told so and closed. Default 64.
    pub per_name: usize,
    /// How often the files are looked at. Default 2 s.
    pub refresh: Duration,
}

impl Default for TlsLimits {
    fn default() -> Self {
        let (handshake, refresh) = (Duration::from_secs(5), Duration::from_secs(2));
        Self { handshake, handshakes: 128, connections: 1024, per_name: 64, refresh }
    }
}

/// A bound port for callers with a certificate.
#[derive(Debug)]
pub struct TlsServer {
    listener: TcpListener,
    address: SocketAddr,
    credentials: Credentials,
    limits: Limits,
    tls_limits: TlsLimits,
}

impl TlsServer {
    /// Binds `HOST:PORT` for a node of a cluster. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`]: a file cannot be used, or nothing can listen there.
    pub fn bind(address: &str, files: TlsFiles, cluster: &str) -> Result<Self, TlsError> {
        let credentials = Credentials::node(files, cluster)?;
        let bind = |source| TlsError::Bind { address: address.to_owned(), source };
        let listener = std::net::TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let listener = TcpListener::from_std(listener).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (limits, tls_limits) = (Limits::default(), TlsLimits::default());
        Ok(Self { listener, address, credentials, limits, tls_limits })
    }

    /// With other bounds on what one peer may take.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// With other bounds on who connects.
    #[must_use]
    pub fn with_tls_limits(self, tls_limits: TlsLimits) -> Self {
        Self { tls_limits, ..self }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The node's credentials: to read them again now, and to call other nodes with.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// Serves until `stop` is ready, then lets calls under way finish for at most 2 s.
    pub async fn serve(self, service: Arc<dyn AdminService>, stop: impl Future<Output = ()>) {
        let Self { listener, credentials, limits, tls_limits, .. } = self;
        let handshakes = Arc::new(Semaphore::new(tls_limits.handshakes));
        let door = Arc::new(Door {
            credentials: credentials.clone(),
            service,
            limits,
            tls_limits,
            taken: Mutex::new(BTreeMap::new()),
        });
        let refreshing = tokio::spawn(refresh(credentials, tls_limits.refresh));
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match Arc::clone(&handshakes).try_acquire_owned() {
                    Ok(permit) => {
                        connections.spawn(Arc::clone(&door).welcome(stream, peer, permit));
                    }
                    Err(_) => tracing::warn!(%peer, "too many TLS handshakes are under way; a connection is closed"),
                },
                Err(error) => {
                    // Out of descriptors, most likely: it passes when a connection ends.
                    tracing::warn!(%error, "a connection to the RPC port could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        refreshing.abort();
        let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    }
}

/// Looks at the files now and then. Files may lie on a slow disk, so a thread that may block does it.
async fn refresh(credentials: Credentials, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let credentials = credentials.clone();
        let _ = tokio::task::spawn_blocking(move || credentials.refresh()).await;
    }
}

/// Lets people in, or tells them why not.
struct Door {
    credentials: Credentials,
    service: Arc<dyn AdminService>,
    limits: Limits,
    tls_limits: TlsLimits,
    /// How many connections are open, by the name they are of.
    taken: Mutex<BTreeMap<String, usize>>,
}

/// The right to one connection. Dropped, it is given back.
struct Place {
    door: Arc<Door>,
    name: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.door.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.name);
            }
        }
    }
}

impl Door {
    async fn welcome(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, handshaking: OwnedSemaphorePermit) {
        let Some(stream) = self.handshake(stream, peer).await else { return };
        drop(handshaking);
        match self.admit(&stream) {
            Ok((by, place)) => {
                tracing::debug!(%peer, name = place.name, "an RPC connection is open");
                serve_connection(stream, Arc::clone(&self.service), by, self.limits).await;
            }
            Err(refusal) => {
                tracing::warn!(%peer, why = %refusal, "an RPC connection was refused");
                turn_away(stream, refusal).await;
            }
        }
    }

    async fn handshake(&self, stream: TcpStream, peer: SocketAddr) -> Option<TlsStream<socket::Socket>> {
        let longest = self.tls_limits.handshake;
        if let Err(error) = socket::prepare(&stream) {
            tracing::debug!(%peer, %error, "an RPC connection ended at once");
            return None;
        }
        let acceptor = TlsAcceptor::from(Arc::clone(&self.credentials.current().server));
        match tokio::time::timeout(longest, acceptor.accept(socket::by_records(stream)).into_fallible()).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err((error, mut stream))) => {
                let why = handshake_failure(&error);
                tracing::warn!(%peer, why, "a TLS handshake failed; its connection is closed");
                let _ = stream.shutdown().await;
                socket::linger(stream).await;
                None
            }
            Err(_) => {
                let ms = longest.as_millis();
                tracing::warn!(%peer, "no TLS handshake within {ms} ms; the connection is closed");
                None
            }
        }
    }

    /// Who has connected, if it may, and its place.
    fn admit(self: &Arc<Self>, stream: &TlsStream<socket::Socket>) -> Result<(Principal, Place), Refusal> {
        let denied = |why: String| Refusal::new(RefusalCode::Denied, why);
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(ALPN) {
            return Err(denied("the handshake did not name the protocol reeve/1 (ALPN)".to_owned()));
        }
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        // The handshake fails without one; were that ever otherwise, nobody gets in by it.
        let certificate = certificate.ok_or_else(|| denied("a certificate is needed".to_owned()))?;
        let identity = Identity::of_certificate(certificate);
        let identity = identity.map_err(|error| denied(format!("your certificate: {error}")))?;
        let own = self.credentials.current();
        let cluster = own.identity.cluster();
        if identity.cluster() != cluster {
            return Err(denied(format!("your certificate is of {identity}, and this is a node of cluster {cluster}")));
        }
        let place = self.place(&identity)?;
        Ok((identity.principal().clone(), place))
    }

    fn place(self: &Arc<Self>, identity: &Identity) -> Result<Place, Refusal> {
        let TlsLimits { connections, per_name, .. } = self.tls_limits;
        let name = identity.to_string();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |most: usize, whose: &str| {
            Refusal::new(RefusalCode::Unavailable, format!("{most} connections{whose} are open already"))
        };
        if taken.values().sum::<usize>() >= connections {
            return Err(full(connections, ""));
        }
        let count = taken.entry(name.clone()).or_default();
        if *count >= per_name {
            return Err(full(per_name, &format!(" of {name}")));
        }
        *count += 1;
        Ok(Place { door: Arc::clone(self), name })
    }
}

fn handshake_failure(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(error)) => format!("its certificate: {}", load::reason(error)),
        // Theirs, and open ended.
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

/// Tells a peer why it is not served.
async fn turn_away(stream: impl AsyncRead + AsyncWrite + Send, refusal: Refusal) {
    let (read, write) = tokio::io::split(stream);
    let reply = Reply { id: CONNECTION, reply: AdminReply::Refused(refusal) };
    let mut outgoing = Outgoing::new(write);
    if outgoing.push(&reply).is_ok() {
        outgoing.finish(LAST_WORDS).await;
    }
    socket::linger(read).await;
}

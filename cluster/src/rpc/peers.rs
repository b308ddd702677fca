//! Asks other nodes, over one connection to each.
//!
//! ```text
//!              first ask                     connected
//! (nothing) ──────────────► Connecting ─────────────────► Open ── calls, any number at once
//!                            │      ▲  failed: all that wait  │ ended · address or certificates changed ·
//!                            ▼      │  are told so            │ a call timed out and nothing was heard meanwhile
//!                          Failed ──┴─────────────────────────┘
//!                                next ask, 100 ms after the last attempt at the earliest
//! ```
//!
//! Whoever asks while a connection is made waits for that one. A connection is made by a task of its own, so that it is
//! no matter if the one who asked first gives up. Nothing is asked twice: whoever asks knows whether that is safe.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use reeve_ports::Peers;
use reeve_protocol::NodeId;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::time::Instant;

use super::client::{RpcClient, RpcError};
use super::tls::Credentials;

/// The least time between two attempts to connect to one node.
const RETRY: Duration = Duration::from_millis(100);

/// Where a node's RPC listens, as `HOST:PORT`, if it is known.
type Addresses = dyn Fn(&NodeId) -> Option<String> + Send + Sync;

/// The other nodes, over mutual TLS.
pub struct RpcPeers {
    credentials: Credentials,
    addresses: Box<Addresses>,
    connections: Mutex<BTreeMap<NodeId, Connection>>,
}

/// A connection, made or being made.
struct Connection {
    address: String,
    begins: Instant,
    /// Not to be used for another call.
    doubtful: bool,
    made: Making,
}

type Making = Shared<BoxFuture<'static, Result<Open, RpcError>>>;

#[derive(Clone)]
struct Open {
    client: Arc<RpcClient>,
    /// Of the credentials with which it was made.
    version: u64,
}

impl fmt::Debug for RpcPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcPeers").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl RpcPeers {
    /// Peers that are called with a node's credentials at the addresses that `addresses` knows at the time.
    pub fn new(
        credentials: Credentials,
        addresses: impl Fn(&NodeId) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self { credentials, addresses: Box::new(addresses), connections: Mutex::default() }
    }

    async fn exchange(
        &self,
        node: &NodeId,
        address: String,
        request: AdminRequest,
        patience: Duration,
    ) -> Result<AdminReply, RpcError> {
        let until = Instant::now() + patience;
        let making = self.connection(node, address);
        let made = tokio::time::timeout_at(until, making.clone()).await;
        let Open { client, .. } = made.map_err(|_| RpcError::TimedOut(patience))??;
        let heard = client.heard();
        let answer = client.call(request, until.saturating_duration_since(Instant::now())).await;
        if matches!(answer, Err(RpcError::TimedOut(_))) && client.heard() == heard {
            self.doubt(node, &making);
        }
        answer
    }

    /// The connection to a node, or the attempt at one.
    fn connection(&self, node: &NodeId, address: String) -> Making {
        let version = self.credentials.version();
        let mut connections = self.lock();
        let last = connections.get(node);
        if let Some(last) = last.filter(|last| last.is_good(&address, version)) {
            return last.made.clone();
        }
        let now = Instant::now();
        let begins = last.map_or(now, |last| now.max(last.begins + RETRY));
        let task = tokio::spawn(connect(node.clone(), address.clone(), self.credentials.clone(), begins));
        let made = async move { task.await.unwrap_or_else(|error| Err(RpcError::Closed(error.to_string()))) };
        let made = made.boxed().shared();
        connections.insert(node.clone(), Connection { address, begins, doubtful: false, made: made.clone() });
        made
    }

    /// A call timed out and nothing at all came meanwhile: the next call shall have another connection. Calls under way
    /// keep this one.
    fn doubt(&self, node: &NodeId, making: &Making) {
        if let Some(connection) = self.lock().get_mut(node)
            && connection.made.ptr_eq(making)
        {
            connection.doubtful = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Connection>> {
        // Every change under the lock is one step, so a panic elsewhere leaves it sound.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn is_good(&self, address: &str, version: u64) -> bool {
        let usable = match self.made.peek() {
            None => true,
            Some(Ok(open)) => open.version == version && !open.client.is_closed(),
            Some(Err(_)) => false,
        };
        usable && !self.doubtful && self.address == address
    }
}

async fn connect(node: NodeId, address: String, credentials: Credentials, begins: Instant) -> Result<Open, RpcError> {
    tokio::time::sleep_until(begins).await;
    // A certificate that was renewed a moment ago may be why the last attempt failed.
    let looked = credentials.clone();
    let _ = tokio::task::spawn_blocking(move || looked.refresh()).await;
    let version = credentials.version();
    let client = RpcClient::connect_tls_to(&address, &credentials, &node).await?;
    Ok(Open { client: Arc::new(client), version })
}

#[async_trait]
impl Peers for RpcPeers {
    async fn ask(&self, node: &NodeId, by: &Principal, request: AdminRequest, patience: Duration) -> AdminReply {
        let unavailable = |why: String| AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, why));
        let Some(address) = (self.addresses)(node) else {
            self.lock().remove(node);
            return unavailable(format!("node {node} cannot be asked: it is not there, or has no address for it"));
        };
        let request = AdminRequest::Forwarded { by: by.clone(), request: Box::new(request) };
        match self.exchange(node, address, request, patience).await {
            // Of several nodes that work on a request, the asker shall know which one could not.
            Ok(AdminReply::Refused(refusal)) if refusal.code == RefusalCode::Unavailable => {
                unavailable(format!("node {node} says: {refusal}"))
            }
            Ok(reply) => reply,
            Err(RpcError::TimedOut(_)) => {
                unavailable(format!("node {node} gave no answer within {} ms", patience.as_millis()))
            }
            Err(error) => unavailable(format!("node {node} cannot be asked: {error}")),
        }
    }
}

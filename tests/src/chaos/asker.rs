//! Asks the nodes over their private sockets; a connection that has ended is made anew.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use reeve_cluster::rpc::{RpcClient, RpcError};
use reeve_protocol::admin::{AdminReply, AdminRequest, MAX_LIMIT, VmView};
use reeve_protocol::{NodeId, VmId};

/// A node that can be asked.
#[derive(Debug)]
pub struct Door {
    /// Its id.
    pub node: NodeId,
    socket: PathBuf,
    client: Mutex<Option<Arc<RpcClient>>>,
    /// One connects at a time, and the others wait for it.
    turn: tokio::sync::Mutex<()>,
}

impl Door {
    /// The door of a node that listens on this socket, or will.
    #[must_use]
    pub fn new(node: NodeId, socket: PathBuf) -> Self {
        Self { node, socket, client: Mutex::new(None), turn: tokio::sync::Mutex::new(()) }
    }

    /// Another way to the same node.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.node.clone(), self.socket.clone())
    }

    /// Asks.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn ask(&self, request: AdminRequest, patience: Duration) -> Result<AdminReply, RpcError> {
        let client = self.connected(patience).await?;
        let answer = client.call(request, patience).await;
        // After a call that took too long the connection may be sound; after anything else it has ended.
        if !matches!(answer, Ok(_) | Err(RpcError::TimedOut(_))) {
            self.forget(&client);
        }
        answer
    }

    /// Whether the node says that it supervises the VM, by itself or through its peers.
    pub async fn attends(&self, vm: VmId, patience: Duration) -> bool {
        matches!(self.ask(AdminRequest::ActorTree(Some(vm)), patience).await, Ok(AdminReply::Actors(_)))
    }

    /// All VMs that the node tells of.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn vms(&self, patience: Duration) -> Result<Vec<VmView>> {
        let mut all: Vec<VmView> = Vec::new();
        loop {
            let marker = all.last().map(|vm| vm.id);
            match self.ask(AdminRequest::VmList { limit: MAX_LIMIT, marker, lease: None }, patience).await? {
                AdminReply::Vms(page) if page.is_empty() => return Ok(all),
                AdminReply::Vms(page) => all.extend(page),
                other => bail!("{} answered a listing with {other:?}", self.node),
            }
        }
    }

    /// Ends the connection: the node was ended.
    pub fn shut(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn connected(&self, patience: Duration) -> Result<Arc<RpcClient>, RpcError> {
        if let Some(client) = self.known() {
            return Ok(client);
        }
        let connecting = async {
            let _turn = self.turn.lock().await;
            match self.known() {
                Some(client) => Ok(client),
                None => RpcClient::connect_unix(&self.socket).await.map(|client| {
                    let client = Arc::new(client);
                    *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&client));
                    client
                }),
            }
        };
        tokio::time::timeout(patience, connecting).await.map_err(|_| RpcError::TimedOut(patience))?
    }

    fn known(&self) -> Option<Arc<RpcClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self, ended: &Arc<RpcClient>) {
        let mut known = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        known.take_if(|client| Arc::ptr_eq(client, ended));
    }
}

//! The other nodes of the cluster.

use std::time::Duration;

use async_trait::async_trait;
use reeve_protocol::NodeId;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};

/// Reaches other nodes.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Asks a node in the name of `by`; that node answers from what it has itself and asks nobody else. Every failure is
    /// an [`AdminReply::Refused`] of code `unavailable`, and the request may then have been carried out.
    async fn ask(&self, node: &NodeId, by: &Principal, request: AdminRequest, patience: Duration) -> AdminReply;
}

/// A node without peers.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[async_trait]
impl Peers for NoPeers {
    async fn ask(&self, node: &NodeId, _: &Principal, _: AdminRequest, _: Duration) -> AdminReply {
        use reeve_protocol::command::{Refusal, RefusalCode};

        let message = format!("node {node} is not known: this one runs without a cluster");
        AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, message))
    }
}

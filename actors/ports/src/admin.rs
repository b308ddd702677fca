//! What answers administrators: a node.

use async_trait::async_trait;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};

/// Answers administrators' requests.
#[async_trait]
pub trait AdminService: Send + Sync + 'static {
    /// Answers what `by` asks. Every failure is a [`AdminReply::Refused`].
    async fn ask(&self, by: &Principal, request: AdminRequest) -> AdminReply;
}

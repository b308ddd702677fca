//! Asks the node on its own runtime.
//!
//! The threads that answer HTTP have a runtime each, which ends with the edge. What a question opens on its way, such as a
//! connection to another node, must outlive it: it is asked where the node lives. Who goes away is not answered any more.

use std::sync::Arc;

use async_trait::async_trait;
use reeve_ports::AdminService;
use reeve_protocol::admin::{AdminReply, AdminRequest, Principal};
use reeve_protocol::command::{Refusal, RefusalCode};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// A service that is asked on a runtime.
pub(super) struct AtHome {
    pub(super) service: Arc<dyn AdminService>,
    pub(super) runtime: Handle,
}

#[async_trait]
impl AdminService for AtHome {
    async fn ask(&self, by: &Principal, request: AdminRequest) -> AdminReply {
        let (service, by) = (Arc::clone(&self.service), by.clone());
        // Dropped, it ends what it asked.
        let mut asked = JoinSet::new();
        asked.spawn_on(async move { service.ask(&by, request).await }, &self.runtime);
        match asked.join_next().await {
            Some(Ok(reply)) => reply,
            // It panicked, which is logged, or the runtime ends.
            Some(Err(_)) | None => {
                AdminReply::Refused(Refusal::new(RefusalCode::Unavailable, "the node gives no answer"))
            }
        }
    }
}

//! Puts a node together out of the parts that the configuration names.

use std::sync::Arc;

use reeve_ports::{AdminService, Bus};

use crate::config::Config;

/// A running node.
pub struct Running {
    service: Arc<dyn AdminService>,
    bus: Arc<dyn Bus>,
}

impl Running {
    /// What answers administrators.
    #[must_use]
    pub fn service(&self) -> Arc<dyn AdminService> {
        Arc::clone(&self.service)
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.bus)
    }

    /// Stops it.
    pub async fn stop(self) {}
}

/// Starts a node.
///
/// # Errors
/// When a part cannot be opened.
pub async fn start(_config: &Config) -> anyhow::Result<Running> {
    anyhow::bail!("not yet")
}

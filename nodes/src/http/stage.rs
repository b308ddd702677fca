//! How far the process is, for those who ask it over HTTP.
//!
//! ```text
//! Starting ──serves──► Serving ──stopping──► Stopping
//! ```
//!
//! Owner: the node's process, through [`Edge`](super::Edge). Handlers only look.

use std::sync::{Arc, PoisonError, RwLock};

use reeve_ports::AdminService;

/// What a node still lacks to be of use.
pub trait Readiness: Send + Sync + 'static {
    /// One sentence for each; empty when the node serves. Says nothing that is not for everybody, and asks nobody.
    fn lacks(&self) -> Vec<String>;
}

/// How far the process is.
#[derive(Default)]
pub(super) struct Stage(RwLock<State>);

#[derive(Default, Clone)]
pub(super) enum State {
    /// There is no node yet: etcd may be away.
    #[default]
    Starting,
    /// There is one.
    Serving { service: Arc<dyn AdminService>, readiness: Arc<dyn Readiness> },
    /// It stops, and answers as long as it can.
    Stopping { service: Arc<dyn AdminService> },
}

impl Stage {
    pub(super) fn serves(&self, service: Arc<dyn AdminService>, readiness: Arc<dyn Readiness>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = State::Serving { service, readiness };
    }

    pub(super) fn stopping(&self) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Serving { service, .. } = &*state {
            *state = State::Stopping { service: Arc::clone(service) };
        }
    }

    pub(super) fn now(&self) -> State {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who answers for VMs, once there is somebody.
    pub(super) fn service(&self) -> Option<Arc<dyn AdminService>> {
        match self.now() {
            State::Starting => None,
            State::Serving { service, .. } | State::Stopping { service } => Some(service),
        }
    }
}

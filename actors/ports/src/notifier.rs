//! A channel to people.

use async_trait::async_trait;
use reeve_lifecycle::effect::{Audience, EffectKey, Notice};
use reeve_protocol::VmId;

/// A notice on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// About which VM.
    pub vm: VmId,
    /// Its name, for people.
    pub vm_name: String,
    /// The same key again is the same notice: a channel that can, drops the second.
    pub key: EffectKey,
    /// Whom it is for.
    pub to: Audience,
    /// What it says.
    pub notice: Notice,
}

/// Why a notice was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifierError {
    /// It may work later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It will never work: nobody to tell, or an address that is refused.
    #[error("undeliverable: {0}")]
    Undeliverable(String),
    /// It may have been delivered or not.
    #[error("no answer: {0}")]
    Unknown(String),
}

/// A channel to people.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Delivers a notice, at least once.
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError>;
}

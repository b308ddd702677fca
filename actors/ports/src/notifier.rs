//! A channel to people.

use async_trait::async_trait;
use reeve_lifecycle::Extendable;
use reeve_lifecycle::effect::{Audience, EffectKey, Notice};
use reeve_protocol::{Timestamp, VmId};

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
    /// When it was decided. Every attempt has the same.
    pub at: Timestamp,
    /// The extension that it offers, if the offer still stands.
    pub extendable: Option<Extendable>,
}

/// Why a notice was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifierError {
    /// It may work later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It will never work for somebody whom it is for: nobody to tell, or an address that is refused. Whoever else it is for
    /// has it.
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

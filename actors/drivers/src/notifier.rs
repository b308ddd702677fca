//! Notifiers: how people are told.
//!
//! ```text
//!             ┌─► LogNotifier
//! FanOut ─────┼─► EmailNotifier ───┐
//!             └─► WebhookNotifier ─┴─► Wording ─► Templates, links that extend
//! ```

pub mod email;
pub mod signature;
pub mod templates;
pub mod webhook;
pub mod wording;

mod breaker;
mod channel;
mod fan_out;
mod progress;
mod samples;
mod setting;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use reeve_lifecycle::effect::Audience;
use reeve_ports::Notifier;
use reeve_ports::notifier::{Letter, NotifierError};

pub use fan_out::FanOut;
pub use setting::SettingError;

/// Writes each notice to the log: who by id, never an address.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogNotifier;

#[async_trait]
impl Notifier for LogNotifier {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let to = match &letter.to {
            Audience::Owner { users } => users.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            Audience::Operators => "operators".to_owned(),
        };
        let Letter { vm, vm_name, key, notice, .. } = letter;
        tracing::info!(%vm, name = vm_name, %key, to, notice = notice.name(), "notice");
        Ok(())
    }
}

/// Keeps the latest letters: for `reeve demo`, `reeve dev` and tests. The same key about the same VM again is dropped as
/// long as the first is kept.
#[derive(Debug, Clone)]
pub struct MemoryNotifier {
    letters: Arc<Mutex<VecDeque<Letter>>>,
    most: usize,
}

impl MemoryNotifier {
    /// Keeps at most so many letters; the oldest go first.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { letters: Arc::default(), most: most.max(1) }
    }

    /// What is kept, oldest first.
    #[must_use]
    pub fn letters(&self) -> Vec<Letter> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Letter>> {
        // A queue of letters is whole between any two of its own calls.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Notifier for MemoryNotifier {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let mut letters = self.lock();
        if letters.iter().any(|kept| kept.vm == letter.vm && kept.key == letter.key) {
            return Ok(());
        }
        if letters.len() == self.most {
            letters.pop_front();
        }
        letters.push_back(letter.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests;

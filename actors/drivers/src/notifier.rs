//! Notifiers: how people are told.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use reeve_lifecycle::effect::{Audience, EffectKey, Notice};
use reeve_ports::Notifier;
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_protocol::VmId;

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
        tracing::info!(%vm, name = vm_name, %key, to, notice = name_of(notice), "notice");
        Ok(())
    }
}

const fn name_of(notice: &Notice) -> &'static str {
    match notice {
        Notice::LeaseCreated { .. } => "lease created",
        Notice::Expiring { .. } => "lease expiring",
        Notice::Expired { .. } => "lease expired",
        Notice::Extended { .. } => "lease extended",
        Notice::Ended => "lease ended",
        Notice::Revived { .. } => "revived",
        Notice::Alert { .. } => "alert",
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

/// The most notices that a [`FanOut`] remembers as delivered in part.
const MAX_PARTLY: usize = 4_096;

/// A notice that some channels have and others do not yet.
struct Partly {
    vm: VmId,
    key: EffectKey,
    delivered: BTreeSet<usize>,
}

/// Delivers through several channels. It is delivered when every channel has it or can never have it, and at least one
/// has; until then the caller tries again, and only the channels that lack it are asked. Which those are is forgotten
/// when the process ends: then a channel may get a notice twice, as [`Notifier`] allows.
#[derive(Default)]
pub struct FanOut {
    channels: Vec<Arc<dyn Notifier>>,
    partly: Mutex<VecDeque<Partly>>,
}

impl FanOut {
    /// Through these, in this order.
    #[must_use]
    pub fn new(channels: Vec<Arc<dyn Notifier>>) -> Self {
        Self { channels, partly: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Partly>> {
        self.partly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_delivered(&self, letter: &Letter) -> BTreeSet<usize> {
        let mut partly = self.lock();
        let at = partly.iter().position(|partly| partly.vm == letter.vm && partly.key == letter.key);
        at.and_then(|at| partly.remove(at)).map(|partly| partly.delivered).unwrap_or_default()
    }

    fn remember(&self, letter: &Letter, delivered: BTreeSet<usize>) {
        let mut partly = self.lock();
        if partly.len() == MAX_PARTLY {
            partly.pop_front();
        }
        partly.push_back(Partly { vm: letter.vm, key: letter.key, delivered });
    }
}

/// Who has a letter already, written back if it is to be sent again: also when its delivery is dropped on the way.
struct Progress<'a> {
    channels: &'a FanOut,
    letter: &'a Letter,
    delivered: BTreeSet<usize>,
    is_over: bool,
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if !self.is_over && !self.delivered.is_empty() {
            self.channels.remember(self.letter, std::mem::take(&mut self.delivered));
        }
    }
}

#[async_trait]
impl Notifier for FanOut {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let delivered = self.take_delivered(letter);
        let mut progress = Progress { channels: self, letter, delivered, is_over: false };
        let mut unavailable = None;
        let mut refused = NotifierError::Undeliverable("no channel is configured".to_owned());
        for (index, channel) in self.channels.iter().enumerate() {
            if progress.delivered.contains(&index) {
                continue;
            }
            match channel.deliver(letter).await {
                Ok(()) => {
                    progress.delivered.insert(index);
                }
                Err(error) => {
                    tracing::warn!(vm = %letter.vm, key = %letter.key, %error, "a channel did not deliver a notice");
                    match error {
                        NotifierError::Unavailable(_) | NotifierError::Unknown(_) => unavailable = Some(error),
                        NotifierError::Undeliverable(_) => refused = error,
                    }
                }
            }
        }
        if let Some(error) = unavailable {
            return Err(error);
        }
        progress.is_over = true;
        if progress.delivered.is_empty() { Err(refused) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;

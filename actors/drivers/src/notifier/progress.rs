//! Who has a notice already, of those that are to get it: kept between two attempts at it.
//!
//! It is kept in memory and bounded. After a restart, or when much else was in between, somebody may get a notice twice, as
//! [`Notifier`](reeve_ports::Notifier) allows.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use reeve_lifecycle::effect::EffectKey;
use reeve_ports::notifier::Letter;
use reeve_protocol::VmId;

/// The most notices that are remembered as delivered in part.
const MAX_PARTLY: usize = 4_096;

/// A notice that some have and others do not yet.
struct Partly<T> {
    vm: VmId,
    key: EffectKey,
    reached: BTreeSet<T>,
}

/// What was reached of each notice that is to be tried again.
pub(super) struct Progress<T>(Mutex<VecDeque<Partly<T>>>);

impl<T> Default for Progress<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Ord> Progress<T> {
    /// Begins another attempt at a notice.
    pub(super) fn resume(&self, letter: &Letter) -> Attempt<'_, T> {
        let mut partly = self.lock();
        let at = partly.iter().position(|partly| partly.vm == letter.vm && partly.key == letter.key);
        let reached = at.and_then(|at| partly.remove(at)).map(|partly| partly.reached).unwrap_or_default();
        Attempt { progress: self, vm: letter.vm, key: letter.key, reached, is_over: false }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Partly<T>>> {
        // A queue is whole between any two of its own calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt at a notice. What it reached is remembered unless it was the last, also when it is dropped on the way.
pub(super) struct Attempt<'a, T: Ord> {
    progress: &'a Progress<T>,
    vm: VmId,
    key: EffectKey,
    reached: BTreeSet<T>,
    is_over: bool,
}

impl<T: Ord> Attempt<'_, T> {
    /// Whether this was reached, now or before.
    pub(super) fn has(&self, what: &T) -> bool {
        self.reached.contains(what)
    }

    /// Whether anything of this kind was reached.
    pub(super) fn has_any(&self, wanted: impl Fn(&T) -> bool) -> bool {
        self.reached.iter().any(wanted)
    }

    pub(super) fn reached(&mut self, what: T) {
        self.reached.insert(what);
    }

    /// There is no other attempt.
    pub(super) fn over(mut self) {
        self.is_over = true;
    }
}

impl<T: Ord> Drop for Attempt<'_, T> {
    fn drop(&mut self) {
        if self.is_over || self.reached.is_empty() {
            return;
        }
        let mut partly = self.progress.lock();
        if partly.len() == MAX_PARTLY {
            partly.pop_front();
        }
        let reached = std::mem::take(&mut self.reached);
        partly.push_back(Partly { vm: self.vm, key: self.key, reached });
    }
}

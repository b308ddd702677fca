//! Reminds supervisors to write down that their events are out, when no decision has done so for a while.
//!
//! ```text
//! supervisor, events confirmed ─► Unrecorded ─ RECORD_AFTER ─► Record ─► nothing was written since: a commit
//!                                     ▲                          └ something was, and more is confirmed: again
//!                                     └───────────────────────────────┘
//! ```
//!
//! One reminder a VM, so memory is bounded. Those that are due at about the same time go out together, so that their
//! commits share transactions.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reeve_protocol::Generation;
use tokio::sync::Notify;

use crate::actor::{ToVm, VmHandle};
use crate::shared::Shared;

/// How long what is confirmed waits for a decision to be written with. What a crash publishes twice was confirmed within
/// twice as long.
const RECORD_AFTER: Duration = Duration::from_secs(5);
/// What is due within this goes out together.
const TOGETHER: Duration = Duration::from_millis(100);

/// A reminder: when it is due by the boot-time clock, and what it says to whom.
struct Reminder {
    at: Duration,
    since: Generation,
    to: VmHandle,
}

/// The VMs whose stored outbox has events that are out, in the order of their reminders.
#[derive(Default)]
pub(crate) struct Unrecorded {
    waiting: Mutex<VecDeque<Reminder>>,
    added: Notify,
}

impl Unrecorded {
    /// Events of a VM are confirmed now and not written down. Its supervisor asks once until it is reminded.
    pub(crate) fn add(&self, now: Duration, since: Generation, to: VmHandle) {
        let reminder = Reminder { at: now + RECORD_AFTER, since, to };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(reminder);
        self.added.notify_one();
    }

    /// The next reminder if it is due, else when it is.
    fn take(&self, now: Duration) -> Result<Reminder, Option<Duration>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.front().map(|first| first.at) {
            Some(at) if at > now => Err(Some(at)),
            Some(_) | None => waiting.pop_front().ok_or(None),
        }
    }
}

/// Reminds for ever.
pub(super) async fn remind(shared: &Shared) {
    loop {
        let now = shared.clock.elapsed();
        match shared.unrecorded.take(now) {
            Ok(Reminder { since, to, .. }) => to.send(ToVm::Record { since }),
            Err(Some(at)) => shared.clock.sleep(at.saturating_sub(now).max(TOGETHER)).await,
            Err(None) => shared.unrecorded.added.notified().await,
        }
    }
}

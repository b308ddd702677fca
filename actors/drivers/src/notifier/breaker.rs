//! Remembers for a moment that a server is away, so that a thousand notices do not each wait for it.
//!
//! ```text
//! closed ── no connection ─► open, every call fails at once ── a moment later ─► closed
//! ```
//!
//! Notices share the places of a node's other work in the cloud and with people: a mail server that hangs for hours must
//! not hold up the end of a lease.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reeve_ports::Clock;

/// How long nobody asks a server that could not be reached.
const HOLDS: Duration = Duration::from_secs(15);

/// Until when a server is left alone, and why.
#[derive(Default)]
pub(super) struct Breaker(Mutex<Option<(Duration, String)>>);

impl Breaker {
    /// Why the server is not asked now.
    pub(super) fn is_open(&self, clock: &dyn Clock) -> Option<String> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.as_ref().is_some_and(|(until, _)| clock.elapsed() >= *until) {
            *state = None;
        }
        state.as_ref().map(|(_, why)| why.clone())
    }

    /// The server could not be reached.
    pub(super) fn open(&self, clock: &dyn Clock, why: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = Some((clock.elapsed() + HOLDS, why.to_owned()));
    }
}

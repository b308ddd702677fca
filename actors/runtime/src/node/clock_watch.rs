//! Watches the wall clock against the boot-time clock, once a second.
//!
//! ```text
//! Believed ─ leap forward > doubt ─► Doubted (every lease end holds) ─ even for `stable`, or confirmed ─► Believed
//!     └ step > 2 s, or a second that took long (suspend) ─► every timer looks again
//! ```
//!
//! Why a leap is doubted, and why only forward, is told at [`crate::trust`].

use std::sync::Arc;
use std::time::Duration;

use reeve_lifecycle::record::Hold;

use super::shard::Broadcast;
use crate::shared::Shared;
use crate::trust::Course;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A look that comes this late comes after a suspend, in which the timers stood still.
const LATE: Duration = Duration::from_secs(10);
/// Between two words that the clock is trusted.
const SAY_EVERY: Duration = Duration::from_secs(300);

/// Watches for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let stable = shared.config.runtime.clock.stable;
    let mut even_since = shared.clock.elapsed();
    // A predecessor may have crashed in doubt: its hold is in the records until this watch has seen the clock go evenly.
    let mut doubted = true;
    let mut said_at = even_since;
    loop {
        let before = shared.clock.elapsed();
        shared.clock.sleep(EVERY).await;
        let elapsed = shared.clock.elapsed();
        if let Course::Stepped(by_ms) = shared.trust.look() {
            tracing::warn!(by_ms, "the wall clock was set");
            even_since = elapsed;
            shared.router.broadcast(&Broadcast::Rearm);
        } else if elapsed.saturating_sub(before) > LATE {
            shared.router.broadcast(&Broadcast::Rearm);
        }
        if shared.trust.is_doubted() {
            if !doubted {
                tracing::warn!("the wall clock leapt forward; lease ends are on hold");
                doubted = true;
            }
            if even_since == elapsed {
                shared.router.broadcast(&Broadcast::Hold { cloud: None, hold: Hold::ClockUntrusted, begins: true });
            }
        }
        let even = elapsed.saturating_sub(even_since) >= stable;
        if doubted && even {
            shared.trust.believe();
        }
        // Said again and again: a VM that was being started again does not hear what is said once.
        if even && (doubted || elapsed.saturating_sub(said_at) >= SAY_EVERY) {
            doubted = false;
            said_at = elapsed;
            shared.router.broadcast(&Broadcast::Hold { cloud: None, hold: Hold::ClockUntrusted, begins: false });
        }
    }
}

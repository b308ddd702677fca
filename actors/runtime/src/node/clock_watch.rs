//! Watches the wall clock against the boot-time clock and against those of the other nodes, once a second.
//!
//! ```text
//! Believed ─ leap forward > doubt ─► Doubted (every lease end holds) ─ even for `stable`, or confirmed ─► Believed
//!     │ └─── unlike the other nodes' ─┘
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
    let mut skewed = false;
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
        let is_doubted = shared.trust.is_doubted();
        if is_doubted && !doubted {
            tracing::warn!("the wall clock leapt forward; lease ends, and VMs that listings find, are on hold");
        }
        let skew = shared.coordination.skew();
        if skew.exceeded && !skewed {
            tracing::warn!(
                by_ms = skew.by_ms,
                "the wall clock differs from the other nodes'; lease ends, and VMs that listings find, are on hold"
            );
        } else if skewed && !skew.exceeded {
            tracing::info!(by_ms = skew.by_ms, "the wall clock agrees with the other nodes' again");
        }
        let begins = skew.exceeded && !skewed || is_doubted && even_since == elapsed;
        skewed = skew.exceeded;
        if skewed {
            even_since = elapsed;
        }
        if is_doubted || skewed {
            doubted = true;
            shared.trust.settle(false);
            if begins || elapsed.saturating_sub(said_at) >= SAY_EVERY {
                said_at = elapsed;
                hold(&shared, true);
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
            shared.trust.settle(true);
            hold(&shared, false);
        }
    }
}

fn hold(shared: &Shared, begins: bool) {
    shared.router.broadcast(&Broadcast::Hold { cloud: None, hold: Hold::ClockUntrusted, begins });
}

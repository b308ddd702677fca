//! Self-fencing: until when a node may act on what it owns.
//!
//! ```text
//! sent            answered                     acts until      lease may end
//!  │────────────────│─────────────────────────────│───── margin ────│
//!  └────────────────────────── TTL ─────────────────────────────────┘
//! ```
//!
//! A beat is a keep-alive and a sign of life, sent together; the right grows only when etcd has confirmed both, and
//! counts from before both were sent. etcd renews a lease when the request reaches it, and others hear a sign of life
//! when it is written ([`super::silence`]), neither of which is before the sending. So the right ends before the lease
//! does and before its node counts as silent, however late the answers are. The margin covers clocks of different rates
//! and the moment between looking at the clock and acting.

use std::time::Duration;

/// The least margin.
const MIN_MARGIN: Duration = Duration::from_millis(100);

/// The right to act that one confirmed beat gives. All times are of the boot-time clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// From before its keep-alive and its sign of life were sent.
    pub sent_at: Duration,
    /// What the lease was renewed to.
    pub ttl: Duration,
    /// How long before that the right ends: see [`margin`].
    pub margin: Duration,
}

/// The margin for leases of this length: a tenth, at least 100 ms.
#[must_use]
pub fn margin(ttl: Duration) -> Duration {
    (ttl / 10).max(MIN_MARGIN)
}

impl Right {
    /// The right that a beat sent at this time gives once both its parts are confirmed.
    #[must_use]
    pub fn new(sent_at: Duration, ttl: Duration) -> Self {
        Self { sent_at, ttl, margin: margin(ttl) }
    }

    /// When it ends.
    #[must_use]
    pub fn acts_until(&self) -> Duration {
        self.sent_at + self.ttl.saturating_sub(self.margin)
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn allows(&self, now: Duration) -> bool {
        now < self.acts_until()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_right_counts_from_the_sending_and_ends_before_the_lease() {
        let right = Right::new(100 * SECOND, 5 * SECOND);
        assert_eq!(right.acts_until(), Duration::from_millis(104_500));
        assert!(right.allows(Duration::from_millis(104_499)));
        assert!(!right.allows(Duration::from_millis(104_500)));
    }

    #[test]
    fn an_answer_that_comes_after_the_lease_gives_no_right() {
        let sent_at = 100 * SECOND;
        assert!(!Right::new(sent_at, 5 * SECOND).allows(sent_at + 6 * SECOND));
    }

    #[test]
    fn a_short_lease_has_the_least_margin() {
        assert_eq!(margin(Duration::from_millis(500)), MIN_MARGIN);
        assert_eq!(Right::new(SECOND, Duration::from_millis(50)).acts_until(), SECOND);
    }
}

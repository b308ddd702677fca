//! Spreads what a fleet missed: after an outage every VM has something overdue, and all of it at once would hit the
//! clouds, the store and people in the same second.
//!
//! Slots are given in the order of asking, evenly apart. Only what was found overdue at the start of a supervisor asks
//! for one; what comes due in normal operation never does.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Gives slots.
pub(crate) struct Pacer {
    apart: Duration,
    /// When the next slot is free, by the boot-time clock.
    next: Mutex<Duration>,
}

impl Pacer {
    /// So many slots a second; 0 sets no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        let apart = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { apart, next: Mutex::default() }
    }

    /// Takes the next slot; how long it is until then.
    pub(crate) fn slot(&self, elapsed: Duration) -> Duration {
        if self.apart.is_zero() {
            return Duration::ZERO;
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = (*next).max(elapsed);
        *next = slot + self.apart;
        slot - elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_apart_and_an_idle_time_leaves_no_debt_and_no_credit() {
        let pacer = Pacer::new(100);
        let ms = Duration::from_millis;
        let waits: Vec<Duration> = (0..4).map(|_| pacer.slot(ms(1000))).collect();
        assert_eq!(waits, [ms(0), ms(10), ms(20), ms(30)]);
        assert_eq!(pacer.slot(ms(5000)), ms(0));
        assert_eq!(pacer.slot(ms(5000)), ms(10));
    }

    #[test]
    fn no_limit_is_no_wait() {
        let pacer = Pacer::new(0);
        assert!((0..1000).all(|_| pacer.slot(Duration::ZERO).is_zero()));
    }
}

//! How fast a node's vault may be written and read. The rule is pure; the gate waits by the clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use reeve_ports::Clock;

/// What may be used at once after a pause.
const BURST: Duration = Duration::from_secs(1);

/// Bytes per second, shared by all that the node moves to and from its vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    /// Up to when the budget is spoken for.
    booked: Duration,
}

impl Throttle {
    /// # Panics
    /// Without a rate.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "no throttle at all is no rate of 0");
        Self { bytes_per_second, booked: Duration::ZERO }
    }

    /// Books bytes, and says how long from `now` to wait before they are moved. Who asks first goes first.
    pub(super) fn book(&mut self, now: Duration, bytes: u64) -> Duration {
        let from = self.booked.max(now.saturating_sub(BURST));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.booked = from.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        self.booked.saturating_sub(now)
    }
}

/// A throttle with its clock, or none. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Gate(Option<Arc<Gated>>);

struct Gated {
    throttle: Mutex<Throttle>,
    clock: Arc<dyn Clock>,
}

impl Gate {
    pub(super) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self(Some(Arc::new(Gated { throttle: Mutex::new(Throttle::new(bytes_per_second)), clock })))
    }

    /// Waits until these bytes may be moved.
    pub(super) async fn pass(&self, bytes: u64) {
        let Some(Gated { throttle, clock }) = self.0.as_deref() else { return };
        let now = clock.elapsed();
        let until = {
            let mut throttle = throttle.lock().expect("nothing panics while the throttle is locked");
            now.saturating_add(throttle.book(now, bytes))
        };
        loop {
            let left = until.saturating_sub(clock.elapsed());
            if left.is_zero() {
                return;
            }
            clock.sleep(left).await;
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Gate").field(&self.0.as_ref().map(|gated| &gated.throttle)).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn after_a_pause_one_second_is_free_and_then_each_byte_takes_its_time() {
        let mut throttle = Throttle::new(100);
        assert_eq!(throttle.book(SECOND * 1000, 100), Duration::ZERO);
        assert_eq!(throttle.book(SECOND * 1000, 50), SECOND / 2);
        assert_eq!(throttle.book(SECOND * 1000, 50), SECOND);
        assert_eq!(throttle.book(SECOND * 1001, 0), Duration::ZERO, "what was waited for is paid");
    }

    #[test]
    fn what_is_larger_than_a_second_goes_when_it_is_paid() {
        let mut throttle = Throttle::new(10);
        assert_eq!(throttle.book(SECOND * 60, 100), SECOND * 9);
    }

    proptest! {
        /// Whoever waits as told never moves more than the rate allows, whatever the order of calls.
        #[test]
        fn in_no_time_more_goes_than_the_rate_and_a_burst(
            calls in prop::collection::vec((0_u64..3_000, 0_u64..5_000), 1..50),
        ) {
            let rate = 1_000;
            let mut throttle = Throttle::new(rate);
            let mut now = Duration::from_secs(10);
            let began = now;
            let mut moved = 0;
            for (pause, bytes) in calls {
                now += Duration::from_millis(pause);
                let at = now + throttle.book(now, bytes);
                moved += bytes;
                let allowed = (at - began + BURST).as_millis() * u128::from(rate) / 1_000;
                prop_assert!(u128::from(moved) <= allowed + 1, "{moved} bytes at {at:?}, {allowed} allowed");
            }
        }
    }
}

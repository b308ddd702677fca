//! Whether the wall clock may be believed.
//!
//! Leases end by the wall clock. A clock that leaps forward by an hour or a year (a dead battery, a wrong time server)
//! would end all of them at once, and what they destroy does not come back when the clock does. So a forward leap
//! beyond `doubt` puts every lease end on hold until the clock has gone evenly for `stable`: long enough for a time
//! daemon that set it wrong to set it right again, short enough not to matter after an outage that was real. A leap
//! back ends nothing early and needs no hold.
//!
//! The leap is found where the clock is read for a decision, not only by the watch that looks once a second: a timer
//! that happens to wake in between must not decide by the new time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use reeve_ports::Clock;
use reeve_protocol::Timestamp;

use crate::config::ClockLimits;

/// The wall clock, and whether it may be believed.
pub(crate) struct ClockTrust {
    clock: Arc<dyn Clock>,
    limits: ClockLimits,
    /// Wall clock less boot-time clock when last found in order, in milliseconds.
    offset_ms: AtomicI64,
    doubted: AtomicBool,
}

/// How the wall clock went since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// Evenly.
    Even,
    /// It was set by this many milliseconds.
    Stepped(i64),
}

impl ClockTrust {
    pub(crate) fn new(clock: Arc<dyn Clock>, limits: ClockLimits) -> Self {
        let offset_ms = AtomicI64::new(offset(clock.as_ref()));
        Self { clock, limits, offset_ms, doubted: AtomicBool::new(false) }
    }

    /// The time, and whether it may be believed.
    pub(crate) fn read(&self) -> (Timestamp, bool) {
        let leap = offset(self.clock.as_ref()) - self.offset_ms.load(Ordering::Relaxed);
        if leap > millis(self.limits.doubt) {
            self.doubted.store(true, Ordering::Relaxed);
        }
        (self.clock.now(), !self.doubted.load(Ordering::Relaxed))
    }

    /// Looks how the clock went since the last look, and takes its present course as the even one.
    pub(crate) fn look(&self) -> Course {
        let now = offset(self.clock.as_ref());
        let leap = now - self.offset_ms.load(Ordering::Relaxed);
        if leap > millis(self.limits.doubt) {
            self.doubted.store(true, Ordering::Relaxed);
        }
        self.offset_ms.store(now, Ordering::Relaxed);
        if leap.abs() > millis(self.limits.step) { Course::Stepped(leap) } else { Course::Even }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Believes the clock again.
    pub(crate) fn believe(&self) {
        self.offset_ms.store(offset(self.clock.as_ref()), Ordering::Relaxed);
        self.doubted.store(false, Ordering::Relaxed);
    }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn offset(clock: &dyn Clock) -> i64 {
    clock.now().as_millis().saturating_sub(millis(clock.elapsed()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;

    struct Hands(Mutex<(i64, u64)>);

    #[async_trait]
    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.lock().unwrap().0)
        }
        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().1)
        }
        async fn sleep(&self, _: Duration) {}
    }

    impl Hands {
        fn pass(&self, wall_ms: i64, boot_ms: u64) {
            let mut hands = self.0.lock().unwrap();
            hands.0 += wall_ms;
            hands.1 += boot_ms;
        }
    }

    #[test]
    fn a_leap_forward_is_doubted_by_the_next_reader_and_a_step_back_is_not() {
        let hands = Arc::new(Hands(Mutex::new((1_000_000, 5_000))));
        let trust = ClockTrust::new(hands.clone(), ClockLimits::default());
        hands.pass(86_400_000, 86_400_000);
        assert!(trust.read().1, "a day that both clocks saw is no leap");
        hands.pass(-3_600_000, 0);
        assert!(trust.read().1, "a step back ends nothing early");
        assert_eq!(trust.look(), Course::Stepped(-3_600_000));
        hands.pass(3_600_000, 1_000);
        assert!(!trust.read().1, "an hour that only the wall clock saw");
        assert_eq!(trust.look(), Course::Stepped(3_599_000));
        assert!(!trust.read().1, "it stays in doubt until it is believed again");
        trust.believe();
        assert!(trust.read().1);
    }
}

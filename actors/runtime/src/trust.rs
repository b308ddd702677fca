//! Whether the wall clock may be believed.
//!
//! Leases end by the wall clock. A clock that leaps forward by an hour or a year (a dead battery, a wrong time server)
//! would end all of them at once, and what they destroy does not come back when the clock does. So a forward leap
//! beyond `doubt` puts every lease end on hold until the clock has gone evenly for `stable`: long enough for a time
//! daemon that set it wrong to set it right again, short enough not to matter after an outage that was real. A leap
//! back ends nothing early and needs no hold.
//!
//! The leap is found where the time is read for a decision, not only by the watch that looks once a second: whatever is
//! decided in doubt, before or after the hold has reached a record, is decided by the old time, carried on by the
//! boot-time clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use reeve_ports::Clock;
use reeve_protocol::Timestamp;

use crate::config::ClockLimits;

/// The wall clock, and whether it may be believed.
pub(crate) struct ClockTrust {
    clock: Arc<dyn Clock>,
    limits: ClockLimits,
    /// Wall clock less boot-time clock at the last look, in milliseconds.
    seen_ms: AtomicI64,
    /// The same when the wall clock was last believed.
    believed_ms: AtomicI64,
    doubted: AtomicBool,
    /// It went evenly, like those of the others, for long enough.
    settled: AtomicBool,
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
        let offset = offset(clock.as_ref());
        Self {
            clock,
            limits,
            seen_ms: AtomicI64::new(offset),
            believed_ms: AtomicI64::new(offset),
            doubted: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        }
    }

    /// The time to decide by: the wall clock's, or in doubt what it would be without the leap.
    pub(crate) fn now(&self) -> Timestamp {
        let (now, elapsed) = (self.clock.now(), millis(self.clock.elapsed()));
        self.doubt_a_leap(now.as_millis().saturating_sub(elapsed));
        if self.is_doubted() {
            Timestamp::from_millis(elapsed.saturating_add(self.believed_ms.load(Ordering::Relaxed)))
        } else {
            now
        }
    }

    /// Finds a leap before something is done that cannot be undone.
    pub(crate) fn look_for_a_leap(&self) {
        self.doubt_a_leap(offset(self.clock.as_ref()));
    }

    /// Looks how the clock went since the last look.
    pub(crate) fn look(&self) -> Course {
        let now = offset(self.clock.as_ref());
        self.doubt_a_leap(now);
        if !self.is_doubted() {
            self.believed_ms.store(now, Ordering::Relaxed);
        }
        let step = now - self.seen_ms.swap(now, Ordering::Relaxed);
        if step.abs() > millis(self.limits.step) { Course::Stepped(step) } else { Course::Even }
    }

    fn doubt_a_leap(&self, offset: i64) {
        if offset - self.believed_ms.load(Ordering::Relaxed) > millis(self.limits.doubt) {
            self.doubted.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// Whether nothing speaks against the clock since it went evenly for long enough.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// What the watch makes of the clock.
    pub(crate) fn settle(&self, settled: bool) {
        self.settled.store(settled, Ordering::Relaxed);
    }

    /// Believes the clock again.
    pub(crate) fn believe(&self) {
        self.believed_ms.store(offset(self.clock.as_ref()), Ordering::Relaxed);
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

    use reeve_ports::Sleep;

    use super::*;

    struct Hands(Mutex<(i64, u64)>);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.lock().unwrap().0)
        }
        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().1)
        }
        fn sleep(&self, _: Duration) -> Sleep {
            Box::pin(std::future::ready(()))
        }
    }

    impl Hands {
        fn pass(&self, wall_ms: i64, boot_ms: u64) {
            let mut hands = self.0.lock().unwrap();
            hands.0 += wall_ms;
            hands.1 += boot_ms;
        }
    }

    #[test]
    fn in_doubt_decisions_go_by_the_old_time_carried_on() {
        let hands = Arc::new(Hands(Mutex::new((1_000_000, 5_000))));
        let trust = ClockTrust::new(hands.clone(), ClockLimits::default());
        hands.pass(86_400_000, 86_400_000);
        assert_eq!(trust.now(), hands.now(), "a day that both clocks saw is no leap");
        hands.pass(-3_600_000, 0);
        assert_eq!(trust.now(), hands.now(), "a step back ends nothing early");
        assert_eq!(trust.look(), Course::Stepped(-3_600_000));
        let before = hands.now();
        hands.pass(3_601_000, 1_000);
        assert_eq!(trust.now(), before + Duration::from_secs(1), "an hour that only the wall clock saw");
        assert_eq!(trust.look(), Course::Stepped(3_600_000));
        assert_eq!(trust.look(), Course::Even);
        assert_eq!(trust.now(), before + Duration::from_secs(1), "it stays in doubt until it is believed again");
        trust.believe();
        assert_eq!(trust.now(), hands.now());
    }
}

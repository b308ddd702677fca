//! How often something may be restarted, and how long to wait before.
//!
//! ```text
//! calm ─ fails ─► restarted soon (back-off) ─ more than `most` in `window` ─► exhausted (long back-off) ─ quiet ─► calm
//! ```
//!
//! Nobody is given up: past the limit somebody is told and the tries go on, further apart.

use std::time::Duration;

/// A restart intensity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// How many restarts in `window` are borne.
    pub(crate) most: u32,
    /// The time over which restarts are counted; also how long it must be quiet to be calm again.
    pub(crate) window: Duration,
    /// The wait before the second restart; it doubles with each.
    pub(crate) first_wait: Duration,
    /// The wait between tries past the limit.
    pub(crate) exhausted_wait: Duration,
}

impl Limit {
    /// For a VM's children and supervisors: five in a minute leave room for a chaos test and for a port that fails at
    /// every call for a moment, and end a busy loop within a second.
    pub(crate) const VM: Self = Self {
        most: 5,
        window: Duration::from_secs(60),
        first_wait: Duration::from_millis(50),
        exhausted_wait: Duration::from_secs(30),
    };
    /// For the node's own actors: they carry everything, so they are tried again sooner.
    pub(crate) const NODE: Self = Self {
        most: 10,
        window: Duration::from_secs(60),
        first_wait: Duration::from_millis(50),
        exhausted_wait: Duration::from_secs(5),
    };
}

/// What to do about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// How long to wait before the restart.
    pub(crate) wait: Duration,
    /// Whether the limit has just been passed.
    pub(crate) exhausted: bool,
}

/// The restarts of one actor.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intensity {
    window_began: Duration,
    in_window: u32,
    last: Duration,
    is_exhausted: bool,
}

impl Intensity {
    /// Counts an end at this time of the boot-time clock.
    pub(crate) fn ended(&mut self, limit: Limit, elapsed: Duration) -> Attempt {
        if elapsed.saturating_sub(self.window_began) > limit.window {
            self.window_began = elapsed;
            self.in_window = 0;
        }
        self.in_window += 1;
        self.last = elapsed;
        let exhausted = self.in_window > limit.most && !self.is_exhausted;
        self.is_exhausted = self.is_exhausted || exhausted;
        let wait = if self.is_exhausted {
            limit.exhausted_wait
        } else {
            // The first restart is at once.
            let doublings = self.in_window.saturating_sub(2).min(16);
            if self.in_window < 2 { Duration::ZERO } else { limit.first_wait * 2u32.pow(doublings) }
        };
        Attempt { wait, exhausted }
    }

    /// Whether the limit was passed and it is not calm again.
    pub(crate) const fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Whether it was exhausted and has been quiet since for a window: then it is calm again.
    pub(crate) fn recovers(&mut self, limit: Limit, elapsed: Duration) -> bool {
        let quiet = elapsed.saturating_sub(self.last) >= limit.window;
        let recovers = self.is_exhausted && quiet;
        if recovers {
            *self = Self::default();
        }
        recovers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_end_in_a_minute_exhausts_once_and_a_quiet_minute_recovers() {
        let mut intensity = Intensity::default();
        let at = Duration::from_secs;
        let ends: Vec<Attempt> = (100..107).map(|second| intensity.ended(Limit::VM, at(second))).collect();
        assert_eq!(ends[0], Attempt { wait: Duration::ZERO, exhausted: false });
        assert_eq!(ends[1].wait, Limit::VM.first_wait);
        assert_eq!(ends[2].wait, Limit::VM.first_wait * 2);
        let exhausted: Vec<bool> = ends.iter().map(|end| end.exhausted).collect();
        assert_eq!(exhausted, [false, false, false, false, false, true, false]);
        assert_eq!(ends[6].wait, Limit::VM.exhausted_wait);
        assert!(!intensity.recovers(Limit::VM, at(165)));
        assert!(intensity.recovers(Limit::VM, at(166)));
        assert!(!intensity.recovers(Limit::VM, at(300)), "it recovers once");
    }

    #[test]
    fn ends_far_apart_never_exhaust() {
        let mut intensity = Intensity::default();
        for hour in 1..100 {
            let attempt = intensity.ended(Limit::VM, Duration::from_secs(hour * 3600));
            assert_eq!(attempt, Attempt { wait: Duration::ZERO, exhausted: false });
        }
    }
}

//! Whether a service of a cloud is asked at all: a service that fails as a whole is left alone for a while.
//!
//! ```text
//!             FAILURES in a row                    the wait is over
//!  closed ─────────────────────► open ─────────────────────────────► half-open: one call goes
//!    ▲                            ▲                                   │ │
//!    │                            └── it failed: twice as long a wait ┘ │
//!    └──────────────────────────────── it was answered ◄───────────────┘
//! ```
//!
//! Decisions alone; the time is an argument. [`super::gate`] keeps one for each service of a cloud: a Cinder that is down
//! must not keep Nova's VMs from being watched.
//!
//! Only what tells of the service as a whole counts. An answer, whatever it says, shows that it lives. What may be about a
//! single server, such as a call that waits for its host, is no sign of either. What was asked before the breaker opened or
//! closed says nothing after it, so that calls that end late neither prolong an outage nor end it.
//!
//! A service may also say how long it wants to be left alone (`Retry-After`). That is no outage: nobody is told of it.

use std::time::Duration;

/// So many calls in a row without any answer that came between.
pub(super) const FAILURES: u32 = 5;
/// How long a service is left alone at first; each failed try doubles it.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait: a service that is back is noticed within it.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a call tells of the service as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers.
    Alive,
    /// It does not.
    Dead,
    /// Nothing.
    None,
}

/// What is said to a call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It goes, and is followed by [`Breaker::sign`].
    Go(Admitted),
    /// The service wants to be left alone for so long.
    Wait(Duration),
    /// The service does not answer, and is not asked for so long.
    Refused(Duration),
}

/// A call that was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    era: u64,
}

/// What has changed for whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The service does not answer any more.
    Lost,
    /// It answers again.
    Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, wait: Duration },
    HalfOpen { probing: bool, wait: Duration },
}

/// The breaker of a service. Times are of the clock that never steps.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// Counts the changes of the state.
    era: u64,
    /// Until when the service wants to be left alone.
    rests_until: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 }, era: 0, rests_until: Duration::ZERO }
    }
}

impl Breaker {
    /// Whether a call goes now.
    pub(super) fn admit(&mut self, now: Duration) -> Admission {
        if now < self.rests_until {
            return Admission::Wait(self.rests_until - now);
        }
        match self.state {
            State::Closed { .. } => {}
            State::Open { until, .. } if now < until => return Admission::Refused(until - now),
            // Whoever comes while one call tries comes again after it.
            State::HalfOpen { probing: true, .. } => return Admission::Refused(FIRST_WAIT),
            State::Open { wait, .. } | State::HalfOpen { probing: false, wait } => {
                self.turn_to(State::HalfOpen { probing: true, wait });
            }
        }
        Admission::Go(Admitted { era: self.era })
    }

    /// What came of a call.
    pub(super) fn sign(&mut self, of: Admitted, sign: Sign, now: Duration) -> Option<Turn> {
        if of.era != self.era {
            return None;
        }
        match (self.state, sign) {
            (State::Closed { .. }, Sign::Alive) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Sign::Dead) if failures + 1 >= FAILURES => {
                self.open(FIRST_WAIT, now);
                return Some(Turn::Lost);
            }
            (State::Closed { failures }, Sign::Dead) => self.state = State::Closed { failures: failures + 1 },
            (State::HalfOpen { .. }, Sign::Alive) => {
                self.turn_to(State::Closed { failures: 0 });
                return Some(Turn::Back);
            }
            (State::HalfOpen { wait, .. }, Sign::Dead) => self.open((wait * 2).min(LONGEST_WAIT), now),
            (State::HalfOpen { wait, .. }, Sign::None) => self.turn_to(State::HalfOpen { probing: false, wait }),
            // No call goes while it is open.
            (State::Closed { .. }, Sign::None) | (State::Open { .. }, Sign::Alive | Sign::Dead | Sign::None) => {}
        }
        None
    }

    /// The service wants to be left alone for so long.
    pub(super) fn rest(&mut self, span: Duration, now: Duration) {
        self.rests_until = self.rests_until.max(now + span);
    }

    fn open(&mut self, wait: Duration, now: Duration) {
        self.turn_to(State::Open { until: now + wait, wait });
    }

    const fn turn_to(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn go(breaker: &mut Breaker, now: Duration) -> Admitted {
        match breaker.admit(now) {
            Admission::Go(admitted) => admitted,
            other @ (Admission::Wait(_) | Admission::Refused(_)) => panic!("{other:?} at {now:?}"),
        }
    }

    fn call(breaker: &mut Breaker, sign: Sign, now: Duration) -> Option<Turn> {
        let admitted = go(breaker, now);
        breaker.sign(admitted, sign, now)
    }

    fn opened(at: Duration) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert_eq!(call(&mut breaker, Sign::Dead, at), None);
        }
        assert_eq!(call(&mut breaker, Sign::Dead, at), Some(Turn::Lost));
        breaker
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_tells_it_once() {
        let mut breaker = opened(s(10));
        assert_eq!(breaker.admit(s(11)), Admission::Refused(s(4)));
        for now in [15, 25, 45, 75] {
            assert_eq!(call(&mut breaker, Sign::Dead, s(now)), None, "it is the same outage");
        }
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_anew_and_what_says_nothing_does_not() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 1..FAILURES {
                assert_eq!(call(&mut breaker, Sign::Dead, s(1)), None);
            }
            assert_eq!(call(&mut breaker, Sign::Alive, s(1)), None);
        }
        for _ in 0..100 {
            assert_eq!(call(&mut breaker, Sign::None, s(1)), None, "single servers never open it");
        }
        for _ in 1..FAILURES {
            assert_eq!(call(&mut breaker, Sign::Dead, s(1)), None);
            assert_eq!(call(&mut breaker, Sign::None, s(1)), None);
        }
        assert_eq!(call(&mut breaker, Sign::Dead, s(1)), Some(Turn::Lost));
    }

    #[test]
    fn one_call_tries_and_its_answer_closes_it() {
        let mut breaker = opened(s(0));
        let probe = go(&mut breaker, FIRST_WAIT);
        assert_eq!(breaker.admit(FIRST_WAIT), Admission::Refused(FIRST_WAIT), "one at a time");
        assert_eq!(breaker.sign(probe, Sign::Alive, s(6)), Some(Turn::Back));
        go(&mut breaker, s(6));
        for _ in 1..FAILURES {
            assert_eq!(call(&mut breaker, Sign::Dead, s(7)), None, "the count begins anew");
        }
    }

    #[test]
    fn each_failed_try_doubles_the_wait_up_to_the_longest() {
        let mut breaker = opened(s(0));
        let mut now = s(0);
        for wait in [5, 10, 20, 30, 30] {
            assert_eq!(breaker.admit(now), Admission::Refused(s(wait)));
            now += s(wait);
            call(&mut breaker, Sign::Dead, now);
        }
        now += LONGEST_WAIT;
        assert_eq!(call(&mut breaker, Sign::Alive, now), Some(Turn::Back));
        for _ in 0..FAILURES {
            call(&mut breaker, Sign::Dead, now);
        }
        assert_eq!(breaker.admit(now), Admission::Refused(FIRST_WAIT), "another outage begins with the first wait");
    }

    #[test]
    fn a_try_that_comes_to_nothing_leaves_the_next_call_to_try() {
        let mut breaker = opened(s(0));
        assert_eq!(call(&mut breaker, Sign::None, s(5)), None);
        assert_eq!(call(&mut breaker, Sign::Alive, s(5)), Some(Turn::Back));
    }

    #[test]
    fn what_was_asked_before_it_opened_says_nothing_after() {
        let mut breaker = Breaker::default();
        let (early, late) = (go(&mut breaker, s(0)), go(&mut breaker, s(0)));
        for _ in 0..FAILURES {
            call(&mut breaker, Sign::Dead, s(1));
        }
        assert_eq!(breaker.sign(early, Sign::Alive, s(2)), None);
        assert_eq!(breaker.sign(late, Sign::Dead, s(3)), None);
        assert_eq!(breaker.admit(s(3)), Admission::Refused(s(3)), "neither closed nor prolonged");
    }

    #[test]
    fn who_asks_to_be_left_alone_is_and_nobody_is_told() {
        let mut breaker = Breaker::default();
        breaker.rest(s(10), s(0));
        breaker.rest(s(2), s(1));
        assert_eq!(breaker.admit(s(4)), Admission::Wait(s(6)), "the longest wish counts");
        go(&mut breaker, s(10));
    }
}

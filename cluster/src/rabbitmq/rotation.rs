//! Which broker of the list comes next. Pure.
//!
//! ```text
//! first ──failed──► second ──failed──► … ──failed──► last ──failed──► first, after a pause
//!   │                  │                                              (a round is over)
//!   └── succeeded: it stays; the round begins anew with its loss
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

/// Longest time until a connection is open.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// The same while other brokers have not been asked yet: one that is silent must not keep a node from those that live.
const FIRST_DEADLINE: Duration = Duration::from_secs(3);
/// As that, for declaring what is there already: a member without a majority answers every other question.
const FIRST_DECLARE_DEADLINE: Duration = Duration::from_secs(10);

/// The brokers in their order, and who failed since the last success.
#[derive(Debug)]
pub(crate) struct Rotation {
    brokers: usize,
    next: usize,
    /// How many failed in this round.
    tried: usize,
    /// Whether a whole round has failed.
    desperate: bool,
    errors: BTreeMap<usize, String>,
}

impl Rotation {
    /// For so many brokers, at least one.
    pub(crate) fn new(brokers: usize) -> Self {
        Self { brokers, next: 0, tried: 0, desperate: false, errors: BTreeMap::new() }
    }

    /// The broker to ask now.
    pub(crate) fn broker(&self) -> usize {
        self.next
    }

    /// How long it may take to answer.
    pub(crate) fn limit(&self) -> Duration {
        if self.is_choosy() { FIRST_DEADLINE } else { DIAL_DEADLINE }
    }

    /// How long declaring may take that needs so long at the most.
    pub(crate) fn declare_limit(&self, most: Duration) -> Duration {
        if self.is_choosy() { most.min(FIRST_DECLARE_DEADLINE) } else { most }
    }

    /// Whether another broker may be better.
    fn is_choosy(&self) -> bool {
        self.brokers > 1 && !self.desperate
    }

    /// The broker did its work for a while.
    pub(crate) fn succeeded(&mut self) {
        (self.tried, self.desperate) = (0, false);
        self.errors.clear();
    }

    /// The broker failed, or was lost: on to the next. True when all have failed, and a pause is due.
    pub(crate) fn failed(&mut self, error: String) -> bool {
        self.errors.insert(self.next, error);
        self.next = (self.next + 1) % self.brokers;
        self.tried += 1;
        let over = self.tried == self.brokers;
        if over {
            (self.tried, self.desperate) = (0, true);
        }
        over
    }

    /// The last error of each broker that failed, each of which names its broker.
    pub(crate) fn errors(&self) -> String {
        self.errors.values().map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(rotation: &mut Rotation) -> (usize, bool) {
        let broker = rotation.broker();
        (broker, rotation.failed(format!("{broker} is away")))
    }

    #[test]
    fn a_pause_is_due_only_when_all_have_failed() {
        let mut rotation = Rotation::new(3);
        let failed: Vec<_> = (0..6).map(|_| fail(&mut rotation)).collect();
        assert_eq!(failed, [(0, false), (1, false), (2, true), (0, false), (1, false), (2, true)]);
        assert_eq!(rotation.errors(), "0 is away; 1 is away; 2 is away");
        let mut alone = Rotation::new(1);
        assert_eq!([fail(&mut alone), fail(&mut alone)], [(0, true), (0, true)]);
    }

    #[test]
    fn a_broker_that_was_held_stays_until_it_fails_and_then_all_others_come_before_a_pause() {
        let mut rotation = Rotation::new(3);
        fail(&mut rotation);
        fail(&mut rotation);
        rotation.succeeded();
        assert_eq!((rotation.broker(), rotation.errors().as_str()), (2, ""));
        let failed: Vec<_> = (0..3).map(|_| fail(&mut rotation)).collect();
        assert_eq!(failed, [(2, false), (0, false), (1, true)]);
    }

    #[test]
    fn a_silent_broker_gets_less_time_while_others_have_not_been_asked() {
        let mut rotation = Rotation::new(2);
        assert_eq!(rotation.limit(), FIRST_DEADLINE);
        fail(&mut rotation);
        assert_eq!(rotation.limit(), FIRST_DEADLINE);
        fail(&mut rotation);
        assert_eq!(rotation.limit(), DIAL_DEADLINE);
        rotation.succeeded();
        assert_eq!(rotation.limit(), FIRST_DEADLINE);
        assert_eq!(Rotation::new(1).limit(), DIAL_DEADLINE);
    }

    #[test]
    fn a_broker_that_cannot_declare_gets_less_time_while_others_have_not_been_asked() {
        let (most, mut rotation) = (Duration::from_secs(40), Rotation::new(2));
        assert_eq!(rotation.declare_limit(most), FIRST_DECLARE_DEADLINE);
        assert_eq!(rotation.declare_limit(Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!([fail(&mut rotation), fail(&mut rotation)], [(0, false), (1, true)]);
        assert_eq!(rotation.declare_limit(most), most);
        assert_eq!(Rotation::new(1).declare_limit(most), most);
    }
}

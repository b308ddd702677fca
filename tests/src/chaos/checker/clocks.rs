//! When an event was decided, by the machine's clock. An event carries the time of the node that decided it, and a node's
//! clock may have been stepped.
//!
//! ```text
//! written by the node ─ less each offset that a node's clock had by then ─► candidates
//!      none before the run, or before the VM's event before it        ─┐
//!      none after it was heard                                        ─┴─► from the earliest to the latest
//! ```
//!
//! Who publishes an event need not be who decided it, so every node's clock counts. A step that was healed still counts: a
//! node that doubts its clock goes on by the time that it believed before.

use std::collections::BTreeMap;
use std::time::Duration;

use reeve_protocol::{NodeId, Timestamp};

use super::case::SLACK;

/// How long after a clock was set right its node may still doubt it, and hold what a wrong clock could harm.
const SETTLES: Duration = Duration::from_secs(30);

/// When something was decided, as far as that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decided {
    /// Not before.
    pub(super) earliest: Timestamp,
    /// Not after.
    pub(super) latest: Timestamp,
}

/// The clocks that there were.
#[derive(Debug)]
pub(super) struct Clocks {
    begun: Timestamp,
    /// From when on a clock was off by so much.
    steps: Vec<(Timestamp, i64)>,
    /// For each node from when until when its clock was off.
    off: BTreeMap<NodeId, Vec<(Timestamp, Timestamp)>>,
}

impl Default for Clocks {
    fn default() -> Self {
        Self { begun: Timestamp::EPOCH, steps: Vec::new(), off: BTreeMap::new() }
    }
}

impl Clocks {
    /// The run begins; the clocks are right.
    pub(super) fn begin(&mut self, at: Timestamp) {
        self.begun = at;
    }

    /// The clock of a node is off from now on, or right again.
    pub(super) fn step(&mut self, at: Timestamp, node: &NodeId, offset_ms: i64) {
        let off = self.off.entry(node.clone()).or_default();
        if let Some(last) = off.last_mut() {
            last.1 = last.1.min(at);
        }
        if offset_ms != 0 {
            off.push((at, Timestamp::MAX));
            self.steps.push((at, offset_ms));
        }
    }

    /// Whether in this time a node may have held VMs because it did not trust its clock; no event tells of that.
    pub(super) fn may_be_doubted(&self, from: Timestamp, to: Timestamp) -> bool {
        let settled = |right_at: Timestamp| if right_at == Timestamp::MAX { right_at } else { right_at + SETTLES };
        self.off.values().flatten().any(|(off_at, right_at)| *off_at <= to && from <= settled(*right_at))
    }

    /// When an event was decided whose node wrote this time, which was heard then, and came after what was decided not
    /// before `after`.
    pub(super) fn decided(&self, written: Timestamp, heard: Timestamp, after: Option<Timestamp>) -> Decided {
        let floor = self.begun.max(after.unwrap_or(self.begun));
        let right = std::iter::once((self.begun, 0));
        let candidates = right.chain(self.steps.iter().copied()).filter_map(|(from, offset_ms)| {
            let at = Timestamp::from_millis(written.as_millis().saturating_sub(offset_ms));
            (at + SLACK >= floor.max(from) && at <= heard + SLACK).then_some(at)
        });
        let candidates: Vec<Timestamp> = candidates.collect();
        let (earliest, latest) = (candidates.iter().min().copied(), candidates.iter().max().copied());
        // By no clock that there was: all that is known is the order.
        Decided { earliest: earliest.unwrap_or(floor.min(heard)), latest: latest.unwrap_or(heard).min(heard) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const BEGUN: i64 = 10 * HOUR_MS;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(BEGUN + ms)
    }

    fn clocks() -> Clocks {
        let (one, other) = (NodeId::new("n1").unwrap(), NodeId::new("n2").unwrap());
        let mut clocks = Clocks::default();
        clocks.begin(at(0));
        clocks.step(at(10_000), &one, HOUR_MS);
        clocks.step(at(20_000), &one, 0);
        clocks.step(at(140_000), &other, -HOUR_MS);
        clocks.step(at(150_000), &one, 0);
        clocks
    }

    #[test]
    fn a_clock_is_doubted_while_it_is_off_and_until_its_node_has_settled() {
        let doubted = |from: i64, to: i64| clocks().may_be_doubted(at(from), at(to));
        assert!(!doubted(0, 9_000));
        assert!(doubted(0, 10_000) && doubted(12_000, 13_000) && doubted(49_000, 60_000));
        assert!(!doubted(51_000, 139_000));
        assert!(doubted(51_000, 140_000) && doubted(300_000, 301_000), "that of the other was never set right");
    }

    fn decided(written: i64, heard: i64) -> (i64, i64) {
        let decided = clocks().decided(at(written), at(heard), None);
        (decided.earliest.as_millis() - BEGUN, decided.latest.as_millis() - BEGUN)
    }

    #[test]
    fn a_time_of_a_right_clock_is_taken_as_it_is_although_another_was_off() {
        assert_eq!(decided(50_000, 60_000), (50_000, 50_000));
    }

    #[test]
    fn a_time_of_a_clock_that_was_off_is_set_right() {
        assert_eq!(decided(15_000 + HOUR_MS, 16_000), (15_000, 15_000));
        assert_eq!(decided(145_000 - HOUR_MS, 146_000), (145_000, 145_000));
        assert_eq!(decided(23_000 + HOUR_MS, 24_000), (23_000, 23_000), "a doubted clock is believed for a while");
    }

    #[test]
    fn a_time_by_no_clock_tells_only_the_order() {
        assert_eq!(decided(5_000 + HOUR_MS, 9_000), (0, 9_000), "no clock was off yet");
        let decided = clocks().decided(at(5 * HOUR_MS), at(9_000), Some(at(7_000)));
        assert_eq!((decided.earliest, decided.latest), (at(7_000), at(9_000)));
    }

    #[test]
    fn what_came_after_another_event_is_not_older() {
        let long = 3 * HOUR_MS;
        let free = clocks().decided(at(long), at(long + 1_000), None);
        assert_eq!((free.earliest, free.latest), (at(long - HOUR_MS), at(long)));
        let bound = clocks().decided(at(long), at(long + 1_000), Some(at(long - 5_000)));
        assert_eq!((bound.earliest, bound.latest), (at(long), at(long)));
    }
}

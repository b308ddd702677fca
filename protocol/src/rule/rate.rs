//! How often rules have acted, for each rule and subject.
//!
//! Kept in memory by each node that acts: after a restart it begins anew, and of several nodes each counts what it takes,
//! so that a cluster of N acts at most N times as often. It is a guard against loops, not an account.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Rule;
use crate::event::CloudEvent;
use crate::{EventId, Span, Timestamp};

/// The most pairs of rule and subject that are remembered; the one that acted longest ago is forgotten first.
const MAX_PAIRS: usize = 10_000;

/// Whether a rule may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// It may.
    Yes,
    /// It has acted too often.
    No,
}

/// The count.
#[derive(Debug, Default)]
pub struct Rate {
    acted: BTreeMap<(String, String), VecDeque<(Timestamp, EventId)>>,
    /// In the order of their last acts.
    order: BTreeSet<(Timestamp, String, String)>,
}

impl Rate {
    /// Whether a rule may act on an event now; if so it is counted. The same event again is the same act: it is allowed if it
    /// was before, and counted once.
    pub fn take(&mut self, rule: &Rule, event: &CloudEvent, now: Timestamp) -> Allowed {
        let pair = (rule.name.clone(), event.subject.clone());
        let acts = self.acted.entry(pair.clone()).or_default();
        let last = acts.back().map(|(at, _)| *at);
        if acts.iter().any(|(_, id)| *id == event.id) {
            return Allowed::Yes;
        }
        // A clock that was set back must not forbid for longer than it would have.
        let is_recent = |at: Timestamp| at <= now && now < at + rule.at_most.per;
        acts.retain(|(at, _)| is_recent(*at));
        let allowed = acts.len() < usize::try_from(rule.at_most.times).unwrap_or(usize::MAX);
        if allowed {
            acts.push_back((now, event.id.clone()));
        }
        let latest = acts.back().map(|(at, _)| *at);
        self.reorder(pair, last, latest);
        if allowed { Allowed::Yes } else { Allowed::No }
    }

    fn reorder(&mut self, (rule, subject): (String, String), last: Option<Timestamp>, latest: Option<Timestamp>) {
        if let Some(last) = last {
            self.order.remove(&(last, rule.clone(), subject.clone()));
        }
        if let Some(latest) = latest {
            self.order.insert((latest, rule, subject));
        }
        while self.order.len() > MAX_PAIRS
            && let Some((_, rule, subject)) = self.order.pop_first()
        {
            self.acted.remove(&(rule, subject));
        }
    }
}

/// The shortest and the longest time that may be counted over.
pub(super) const PER: (Span, Span) = (Span::from_secs(1), Span::from_days(30));

//! Who is answered by what one sweep over all servers saw, who waits for a sweep, and who has a look of its own.
//!
//! ```text
//!                  a probe finds no view that is new enough
//!  ┌─────────────────────────┐              ┌──────────┐
//!  │ a view, none, a failure │ ───────────► │ sweeping │ ─┬─ whole ──► a view; the next sweep rests a little
//!  └─────────────────────────┘              └──────────┘  └─ failed ─► the view before; for a while a failure
//! ```
//!
//! Decisions alone: what is done about them is done by [`super::bulk`].
//!
//! * One sweep at a time. Whoever comes meanwhile and needs a newer view than there is waits for it.
//! * A view that was seen after a probe was asked is as good as a look of its own, and says whatever it shows. An older
//!   one, if the probe is content with its age, says that a VM is up or that nobody can tell. It never says that a VM is
//!   down: who is suspected by it, however old it is, is looked at by itself. So is who asks for now.
//! * Not more looks than a sweep takes calls, or than are made at once: beyond that a sweep is the cheaper look, so that a
//!   cloud in which everything goes down at once is asked no more than it would be by sweeps back to back.
//! * A cloud that takes longer for a sweep than a probe has time is another matter. Its view may be older by as long as the
//!   next one takes, or no view would ever be new enough; and who is looked at by itself waits for its turn, because a
//!   sweep would come too late.
//! * After a failure nobody sweeps for a while, and who would have waited is told so.

use std::time::Duration;

use reeve_lifecycle::effect::ProbeVerdict;
use reeve_ports::probe::Freshness;
use reeve_protocol::VmId;

use super::view::{Sight, View};

/// How long a sweep that failed is everybody's answer.
pub(super) const FAILURE_HOLDS: Duration = Duration::from_secs(5);
/// The least time between two sweeps, however many ask for now.
pub(super) const LEAST_REST: Duration = Duration::from_secs(1);
/// A cloud that takes long for a sweep rests for this part of it.
const REST_SHARE: u32 = 4;
/// A sweep that takes longer may come too late for the probes that wait for it: by default they have five seconds.
const SLOW: Duration = Duration::from_secs(3);

/// A probe that is to be answered. Times are of the clock that never steps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    vm: VmId,
    asked: Duration,
    /// What was seen before this is too old.
    since: Duration,
}

impl Question {
    pub(super) const fn new(vm: VmId, freshness: Freshness, now: Duration) -> Self {
        let since = match freshness {
            Freshness::Now => now,
            Freshness::Within(age) => now.saturating_sub(age),
        };
        Self { vm, asked: now, since }
    }
}

/// What is to be done for a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing more: this is its answer.
    Answer(ProbeVerdict),
    /// Look at this VM alone; to be followed by [`Sweeps::looked`].
    Look,
    /// Begin a sweep, to be followed by [`Sweeps::ended`], and ask again after it.
    Sweep,
    /// A sweep is under way: ask again after it.
    Wait,
}

#[derive(Debug)]
struct Failure {
    until: Duration,
    why: String,
}

/// The sweeps of a cloud.
#[derive(Debug)]
pub(super) struct Sweeps {
    view: Option<View>,
    sweeping: bool,
    failure: Option<Failure>,
    rest_until: Duration,
    /// How long the last sweep took.
    took: Duration,
    /// How many looks are under way or wait for others.
    looks: usize,
    /// How many looks are made at once.
    at_once: usize,
}

impl Sweeps {
    pub(super) const fn new(at_once: usize) -> Self {
        let (rest_until, took) = (Duration::ZERO, Duration::ZERO);
        Self { view: None, sweeping: false, failure: None, rest_until, took, looks: 0, at_once }
    }

    /// What is to be done for a question now.
    pub(super) fn next(&mut self, question: &Question, now: Duration) -> Next {
        let asks_for_now = question.since == question.asked;
        let grace = if asks_for_now { Duration::ZERO } else { self.grace() };
        let mut looks_itself = asks_for_now;
        if let Some(view) = &self.view {
            let sight = view.of(question.vm);
            if view.began >= question.asked {
                return Next::Answer(sight.verdict());
            }
            match sight {
                Sight::Up | Sight::Host(_) | Sight::Silent if view.began + grace >= question.since => {
                    return Next::Answer(sight.verdict());
                }
                Sight::Up | Sight::Host(_) | Sight::Silent => {}
                Sight::Down { .. } | Sight::Unlisted => looks_itself = true,
            }
        }
        if looks_itself && (self.looks < self.most_looks() || self.took > SLOW) {
            self.looks += 1;
            return Next::Look;
        }
        if let Some(failure) = self.failure.as_ref().filter(|failure| now < failure.until) {
            return Next::Answer(ProbeVerdict::Inconclusive { why: format!("listing the servers: {}", failure.why) });
        }
        if std::mem::replace(&mut self.sweeping, true) { Next::Wait } else { Next::Sweep }
    }

    /// A look is over.
    pub(super) const fn looked(&mut self) {
        self.looks = self.looks.saturating_sub(1);
    }

    /// How long the cloud rests before the sweep that was begun.
    pub(super) const fn rest(&self, now: Duration) -> Duration {
        self.rest_until.saturating_sub(now)
    }

    /// The sweep is over. One that failed leaves the view before it.
    pub(super) fn ended(&mut self, sweep: Result<View, String>, now: Duration) {
        self.sweeping = false;
        match sweep {
            Ok(view) => {
                self.took = now.saturating_sub(view.began);
                self.rest_until = now + LEAST_REST.max(self.took / REST_SHARE);
                self.failure = None;
                self.view = Some(view);
            }
            Err(why) => self.failure = Some(Failure { until: now + FAILURE_HOLDS, why }),
        }
    }

    /// By how much a view may be older than a probe wants it: while the next one is made there is no other.
    fn grace(&self) -> Duration {
        if self.took > SLOW { self.took + self.took / REST_SHARE } else { Duration::ZERO }
    }

    fn most_looks(&self) -> usize {
        self.view.as_ref().map_or(0, |view| view.calls).max(self.at_once)
    }
}

#[cfg(test)]
mod tests;

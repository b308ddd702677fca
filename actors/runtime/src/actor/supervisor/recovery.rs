//! How a supervisor goes on where its predecessor ended.
//!
//! ```text
//! Begin ─ nothing missed ──────────────────────► timer, poller
//!   └─ overdue, or effects left ─► slot ─► Wake ─► looks, notices ─► timer
//!                                                  └─ what changes the world ─ quarantine ─► Wake ─► performed
//! ```
//!
//! The predecessor's last call to a cloud may still be on its way when another takes over; nothing can fence it. So what
//! it left undone waits out the longest call before it is tried again, and then looks first, as every attempt does. It
//! answers and decides meanwhile; what is decided anew is performed at once.

use std::time::Duration;

use actix::Context;
use reeve_lifecycle::input::Reason;
use reeve_lifecycle::{Outcome, PendingEffect, VmInput, next_deadline, recover};
use reeve_protocol::Timestamp;
use reeve_protocol::event::{Alert, Child};

use super::VmSupervisor;
use crate::actor::ToVm;

impl VmSupervisor {
    /// Goes on where the predecessor ended.
    pub(super) fn begin(&mut self, ctx: &mut Context<Self>) {
        if !self.is_stored() {
            return;
        }
        self.announce(ctx);
        self.watch(None, ctx);
        let deadline = next_deadline(&self.record);
        match self.slot(deadline) {
            None => self.arm_for(deadline, ctx),
            Some(wait) if wait.is_zero() => self.wake(ctx),
            Some(wait) => {
                self.queues.slot = Some(self.term.shared.clock.elapsed() + wait);
                self.arm_for(deadline, ctx);
                self.after(wait, ToVm::Wake, ctx);
            }
        }
        if self.record.alerts.contains(&Alert::SupervisionExhausted) {
            // Whichever child it was of the predecessor's.
            self.recovered_later(Child::Poller, ctx);
        }
        if let Some(policy) = self.term.shared.policies.newer(&self.record.policy) {
            self.input_later(VmInput::PolicyAssigned { policy, unknown: None }, ctx);
        }
    }

    /// How long what was missed waits for its slot; nothing, if nothing was.
    fn slot(&self, deadline: Option<(Timestamp, Reason)>) -> Option<Duration> {
        let shared = &self.term.shared;
        let now = shared.trust.now();
        let is_overdue = deadline.is_some_and(|(at, _)| at <= now);
        let has_missed = is_overdue || !recover(&self.record, now).is_empty();
        has_missed.then(|| shared.pacer.slot(shared.clock.elapsed()))
    }

    /// Whether a deadline that has come waits for its slot.
    pub(super) fn waits_for_slot(&self) -> bool {
        self.queues.slot.is_some_and(|slot| self.term.shared.clock.elapsed() < slot)
    }

    /// A wait is over: goes on with what was missed.
    pub(super) fn wake(&mut self, ctx: &mut Context<Self>) {
        if let Some(queues) = self.queues.any() {
            queues.slot = None;
        }
        self.recover(|_| true, ctx);
        self.arm(ctx);
    }

    /// Hands out again what was being tried when a worker or a supervisor ended. What destroys or replaces is put off
    /// while the VM is held: the hold may be younger than the decision, and the core issues it again once it is lifted.
    pub(super) fn recover(&mut self, wanted: impl Fn(&PendingEffect) -> bool, ctx: &mut Context<Self>) {
        let lost = recover(&self.record, self.term.shared.trust.now()).into_iter();
        // What has answered, but could not be decided yet, is not tried again.
        let lost = lost.filter(|pending| wanted(pending) && !self.has_answered(pending));
        let left = self.term.quarantine.saturating_sub(self.term.shared.clock.elapsed());
        let (quarantined, lost): (Vec<_>, Vec<_>) =
            lost.partition(|pending| !left.is_zero() && pending.effect.changes_the_world());
        let is_held = !self.record.holds.is_empty();
        let (held, free): (Vec<_>, Vec<_>) =
            lost.into_iter().partition(|pending| is_held && pending.effect.is_destructive());
        if quarantined.iter().any(|pending| !self.is_running(pending)) {
            // Spread anew: the quarantine ends for the whole shard at once.
            let elapsed = self.term.shared.clock.elapsed();
            let wait = left + self.term.shared.quarantine_pacer.slot(elapsed + left);
            self.after(wait, ToVm::Wake, ctx);
        }
        self.dispatch(free, ctx);
        let reasons: Vec<&str> = self.record.holds.iter().map(|hold| hold.name()).collect();
        for pending in held {
            let outcome = Outcome::Retryable { reason: format!("held: {}", reasons.join(", ")) };
            self.input_later(VmInput::EffectDone { key: pending.key, outcome }, ctx);
        }
    }

    fn is_running(&self, pending: &PendingEffect) -> bool {
        self.queues.running.iter().any(|(key, _)| *key == pending.key)
    }

    fn has_answered(&self, pending: &PendingEffect) -> bool {
        let answers = |input: &VmInput| matches!(input, VmInput::EffectDone { key, .. } if *key == pending.key);
        self.queues.next.iter().chain(&self.queues.held).any(|envelope| answers(&envelope.input))
    }
}

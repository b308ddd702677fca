//! The events of a VM on their way out, and how a supervisor ends.
//!
//! ```text
//!             ┌──────────────── here ───────────────┐   ┌────────────── in the store ──────────────┐
//! committed ─► announced ─► published, confirmed ─► out of the outbox ─ the next commit ─► out of it there
//!                                                     ├ none for a while ─► a commit of its own ─┤
//!                                                     └ Halt, Restart ─► a commit, then the end ─┘
//! ```
//!
//! That an event is out decides nothing, and a write of the whole record for it would cost as much as the decision did.
//! So it waits for the next decision about the VM, which is made as if it had been written already. Until then the record
//! here is the stored one without what is confirmed; nothing else ever differs. A supervisor that dies meanwhile is started
//! from the store, and what is in the outbox there goes out again: the same events, in their order, under the same ids.

use actix::Context;
use reeve_lifecycle::{Step, VmInput, confirmed, next_deadline};
use reeve_protocol::Generation;

use super::commit::Committed;
use super::{Progress, Stage, VmSupervisor};
use crate::actor::{End, Envelope, InputReply, ToVm};

/// How far the events of a VM are.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The publisher knows that events wait here.
    announced: bool,
    /// The store has events in its outbox that are confirmed.
    unrecorded: bool,
    /// A reminder to write that down is on its way.
    reminded: bool,
    /// The supervisor ends in order to be started again.
    restarts: bool,
}

impl Outgoing {
    /// The record here is the stored one.
    pub(super) const fn is_recorded(&mut self) {
        self.unrecorded = false;
    }

    /// The supervisor is not to be started again by who awaits its end.
    pub(super) const fn stay_down(&mut self) {
        self.restarts = false;
    }

    /// How a supervisor ends in order.
    const fn end(&self) -> End {
        if self.restarts { End::Restart } else { End::Halted }
    }
}

impl VmSupervisor {
    /// Tells the publisher, once, that events wait.
    pub(super) fn announce(&mut self, ctx: &Context<Self>) {
        if !self.outgoing.announced && self.record.events() > 0 {
            self.outgoing.announced = true;
            self.term.shared.unpublished.add(self.record.vm, self.handle_of(ctx));
        }
    }

    /// The bus has confirmed events.
    pub(super) fn confirmed(&mut self, through: u64, ctx: &mut Context<Self>) {
        self.outgoing.announced = false;
        let deadline = next_deadline(&self.record);
        if self.strike(through) {
            self.remind(ctx);
        }
        self.announce(ctx);
        // With a full outbox nothing is due, and a tombstone stays until its last event is out.
        if next_deadline(&self.record) != deadline {
            self.arm(ctx);
        }
        // There may be room now: what waited is decided before anything in the mailbox, in its order.
        if let Some(queues) = self.queues.any() {
            queues.next.append(&mut queues.held);
        }
        self.proceed(ctx);
    }

    /// Takes what is confirmed out of the outbox here.
    fn strike(&mut self, through: u64) -> bool {
        let before = self.record.events();
        let is_news = self.record.confirm(through);
        if is_news {
            self.outgoing.unrecorded = true;
            self.count_outbox(before);
        }
        is_news
    }

    /// Asks, once, to be reminded of what is not written down.
    fn remind(&mut self, ctx: &Context<Self>) {
        if !self.outgoing.reminded {
            self.outgoing.reminded = true;
            let shared = &self.term.shared;
            shared.unrecorded.add(shared.clock.elapsed(), self.record.generation, self.handle_of(ctx));
        }
    }

    /// Writes down what is confirmed, unless that was confirmed only recently: a decision was written since.
    pub(super) fn record_confirmed(&mut self, since: Generation, ctx: &mut Context<Self>) {
        self.outgoing.reminded = false;
        if !self.outgoing.unrecorded {
            return;
        }
        if self.record.generation == since {
            let recording = self.recording();
            self.take(recording, ctx);
        } else {
            self.remind(ctx);
        }
    }

    fn recording(&self) -> Box<Envelope> {
        Box::new(Envelope::new(VmInput::Published { through: confirmed(&self.record) }, None))
    }

    /// Ends in order, to be started again.
    pub(super) fn finish_to_restart(&mut self, ctx: &mut Context<Self>) {
        self.outgoing.restarts = true;
        self.finish_confirmed(ctx);
    }

    /// Ends in order, when what is confirmed is written down.
    fn finish(&mut self, ctx: &mut Context<Self>) {
        if self.outgoing.unrecorded {
            self.stage = Stage::Halting;
            self.abandon_children();
            let recording = self.recording();
            if self.decide(recording, 0, ctx) == Progress::Waits {
                return;
            }
        }
        self.end(self.outgoing.end(), ctx);
    }

    /// The commit under way is over and the supervisor ends: what is committed is answered, its effects are left to the
    /// next owner.
    pub(super) fn halted(&mut self, committed: Committed, mut envelope: Envelope, step: Step, ctx: &mut Context<Self>) {
        let end = match committed {
            Committed::Yes => {
                envelope.answer(InputReply::Verdict(step.verdict));
                if !step.purge {
                    self.keep(step.record);
                    return self.finish_confirmed(ctx);
                }
                self.outgoing.end()
            }
            Committed::Reload(_) | Committed::GivenUp => {
                envelope.wait();
                self.outgoing.end()
            }
            Committed::Fenced => End::Fenced,
            Committed::Parked(why) => End::Parked(why),
        };
        self.end(end, ctx);
    }

    /// Ends with what was confirmed and not looked at yet. One batch of events is on its way at most, and no other is
    /// announced.
    pub(super) fn finish_confirmed(&mut self, ctx: &mut Context<Self>) {
        while let Some(message) = self.queues.any().and_then(|queues| queues.later.pop_front()) {
            if let ToVm::Published { through } = message {
                self.strike(through);
            }
        }
        self.finish(ctx);
    }
}

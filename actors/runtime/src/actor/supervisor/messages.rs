//! The mailbox of a supervisor: what is served at once, what waits for a commit, what waits for the slot of a cold start.
//!
//! ```text
//! look, tree, kill, halt ─► at once, whatever is awaited; after a halt only what the bus has confirmed is heard
//! the rest ─ a commit is awaited ─► later, in its order (what comes again by itself is turned away past a bound)
//!     └─ missed things wait for their slot ─► later, or turned away; people and clouds are heard
//! ```

use actix::{Context, Handler};
use reeve_lifecycle::VmInput;

use super::{MAX_LATER, Stage, VmSupervisor};
use crate::actor::{End, Envelope, InputReply, ToVm, Told};

/// Whether a message comes again by itself.
fn comes_again(message: &ToVm) -> bool {
    match message {
        ToVm::Absent { .. } => true,
        ToVm::Input(envelope) => envelope.input.comes_again(),
        ToVm::Hold { .. }
        | ToVm::Rearm
        | ToVm::Look(_)
        | ToVm::Tree(_)
        | ToVm::Begin
        | ToVm::Kill(..)
        | ToVm::Restart(..)
        | ToVm::Halt
        | ToVm::Wake
        | ToVm::ChildAgain(_)
        | ToVm::Published { .. }
        | ToVm::Record { .. }
        | ToVm::Performed { .. }
        | ToVm::ChildDown { .. } => false,
    }
}

/// Whether it tells what the bus has confirmed, which is heard to the end.
const fn is_confirm(message: &ToVm) -> bool {
    matches!(message, ToVm::Published { .. })
}

/// Tells whoever waits for an answer to come again.
fn turn_away(message: ToVm) {
    if let ToVm::Input(envelope) = message {
        envelope.answer(InputReply::Busy);
    }
}

impl Handler<ToVm> for VmSupervisor {
    type Result = ();

    fn handle(&mut self, message: ToVm, ctx: &mut Context<Self>) {
        self.depth.received();
        match message {
            ToVm::Look(look) => look(&self.record),
            ToVm::Tree(reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.tree());
            }
            ToVm::Kill(child, reply) => {
                let told = match child {
                    Some(child) => self.kill_child(child),
                    None => {
                        self.end(End::Killed, ctx);
                        Told::Yes
                    }
                };
                // Whoever asked may have gone.
                let _ = reply.send(told);
            }
            ToVm::Rearm => self.rearm(),
            ToVm::Halt => self.halt(ctx),
            later @ (ToVm::Input(_)
            | ToVm::Absent { .. }
            | ToVm::Hold { .. }
            | ToVm::Begin
            | ToVm::Restart(..)
            | ToVm::Wake
            | ToVm::ChildAgain(_)
            | ToVm::Published { .. }
            | ToVm::Record { .. }
            | ToVm::Performed { .. }
            | ToVm::ChildDown { .. }) => match self.stage {
                Stage::Free if self.waits_for_slot() => self.serve_early(later, ctx),
                Stage::Free => self.serve(later, ctx),
                Stage::Committing if self.queues.later.len() >= MAX_LATER && comes_again(&later) => turn_away(later),
                Stage::Committing => self.queues.later.push_back(later),
                Stage::Halting if is_confirm(&later) => self.queues.later.push_back(later),
                // Dropped: whoever waits for an answer learns that nobody heard.
                Stage::Halting | Stage::Ended => {}
            },
        }
        self.rest_record();
    }
}

impl VmSupervisor {
    pub(super) fn is_committing(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Halting)
    }

    /// How many messages wait, in the mailbox and behind a commit or the outbox.
    pub(super) fn waiting(&self) -> u32 {
        let here = self.queues.next.len() + self.queues.later.len() + self.queues.held.len();
        self.depth.now().saturating_add(u32::try_from(here).unwrap_or(u32::MAX))
    }

    /// Ends in order, after the commit under way, and when what is confirmed is written down.
    fn halt(&mut self, ctx: &mut Context<Self>) {
        match self.stage {
            Stage::Free => self.finish_confirmed(ctx),
            Stage::Committing | Stage::Halting => {
                self.stage = Stage::Halting;
                self.outgoing.stay_down();
                if let Some(queues) = self.queues.any() {
                    queues.next.clear();
                    queues.later.retain(is_confirm);
                }
                self.abandon_children();
            }
            Stage::Ended => {}
        }
    }

    /// Takes a message before the slot of what was missed: every decision does what is due as well, so only what people
    /// and clouds say is decided, and what was begun for it.
    fn serve_early(&mut self, message: ToVm, ctx: &mut Context<Self>) {
        if comes_again(&message) {
            return turn_away(message);
        }
        let waits = match &message {
            // Written down with a decision, which does what is due as well.
            ToVm::Hold { .. } | ToVm::Record { .. } => true,
            // There may be room now for what waits to be decided.
            ToVm::Published { .. } => !self.queues.held.is_empty(),
            ToVm::Input(envelope) => match &envelope.input {
                VmInput::PolicyAssigned { .. }
                | VmInput::Published { .. }
                | VmInput::HoldRaised(_)
                | VmInput::HoldLifted(_)
                | VmInput::ChildExhausted(_)
                | VmInput::ChildRecovered(_) => true,
                VmInput::Notified(_)
                | VmInput::Commanded { .. }
                | VmInput::Asked { .. }
                | VmInput::Introduced { .. }
                | VmInput::EffectDone { .. }
                | VmInput::Listed { .. }
                | VmInput::Missing { .. }
                | VmInput::Probed { .. }
                | VmInput::Tick => false,
            },
            ToVm::Absent { .. }
            | ToVm::Rearm
            | ToVm::Look(_)
            | ToVm::Tree(_)
            | ToVm::Begin
            | ToVm::Kill(..)
            | ToVm::Restart(..)
            | ToVm::Halt
            | ToVm::Wake
            | ToVm::ChildAgain(_)
            | ToVm::Performed { .. }
            | ToVm::ChildDown { .. } => false,
        };
        if waits {
            self.queues.later.push_back(message);
        } else {
            self.serve(message, ctx);
        }
    }

    /// Takes a message while no commit is awaited.
    pub(super) fn serve(&mut self, message: ToVm, ctx: &mut Context<Self>) {
        match message {
            ToVm::Input(envelope) => self.take(envelope, ctx),
            ToVm::Absent { cloud, asked_at } => {
                if self.record.cloud == *cloud && !self.record.is_gone() {
                    let input = VmInput::Missing { asked_at };
                    self.take(Box::new(Envelope::new(input, None)), ctx);
                }
            }
            ToVm::Hold { cloud, hold, begins } => {
                // An end may still be under way for what is gone, so a hold is lifted from that too.
                let concerns = !begins || !self.record.is_gone();
                if concerns && cloud.is_none_or(|cloud| self.record.cloud == *cloud) {
                    let input = if begins { VmInput::HoldRaised(hold) } else { VmInput::HoldLifted(hold) };
                    self.take(Box::new(Envelope::new(input, None)), ctx);
                }
            }
            ToVm::Begin => self.begin(ctx),
            ToVm::Wake => {
                self.wake(ctx);
                self.resume(ctx);
            }
            ToVm::Restart(child, reply) => {
                let told = match child {
                    Some(child) => self.restart_child(child, ctx),
                    None => {
                        self.finish_to_restart(ctx);
                        Told::Yes
                    }
                };
                // Whoever asked may have gone.
                let _ = reply.send(told);
            }
            ToVm::Published { through } => self.confirmed(through, ctx),
            ToVm::Record { since } => self.record_confirmed(since, ctx),
            ToVm::Performed { key, outcome } => {
                self.not_running(|(running, _)| *running != key);
                let input = VmInput::EffectDone { key, outcome };
                self.take(Box::new(Envelope::new(input, None)), ctx);
            }
            ToVm::ChildDown { child, incarnation } => self.child_down(child, incarnation, ctx),
            ToVm::ChildAgain(child) => self.child_again(child, ctx),
            // Served at once, whatever is awaited.
            ToVm::Look(_) | ToVm::Tree(_) | ToVm::Kill(..) | ToVm::Rearm | ToVm::Halt => {}
        }
    }
}

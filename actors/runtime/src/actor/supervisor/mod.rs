//! The supervisor of one VM: owns its record, and is the only one that calls `step()`.
//!
//! ```text
//! Input ─► step ─ changed ─► commit (later inputs wait) ─► reply ─► outbox ─► workers, timer, poller
//!           │ unchanged: reply at once
//!           └ busy: held until events are published
//! ```
//!
//! Persist, then acknowledge, then act: nothing is answered, published or performed before the commit. It never waits
//! for a worker: they answer by a message, which is an input like any other.
//!
//! While a commit is awaited it goes on showing what is committed, and can be killed or halted: a store that is away
//! must not hide the VMs.

mod children;
mod commit;
mod events;
mod kept;
mod messages;
mod queues;
mod recovery;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, ActorState, AsyncContext, Context, WrapFuture};
use reeve_lifecycle::policy::POLICY_KEY;
use reeve_lifecycle::record::{Hold, Presence};
use reeve_lifecycle::{EffectKey, Ignored, ProbeVerdict, Step, Verdict, VmInput, VmRecord, step};
use reeve_protocol::Timestamp;
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::event::Child;

use self::children::Children;
use self::commit::{Committed, commit, write_of};
use self::events::Outgoing;
pub(super) use self::kept::Kept;
use self::queues::Queues;
use super::link::VmLink;
use super::seldom::Seldom;
use super::sleeping::staying;
use super::{Depth, End, Envelope, InputReply, ShardTerm, ToVm, VmHandle};

/// How many inputs wait for the outbox to have room. Past it senders are told to come again.
const MAX_HELD: usize = 64;
/// How many messages wait for a commit before what comes again by itself is turned away.
const MAX_LATER: usize = 64;
/// How many times one input is decided again because the store held another record.
const MAX_REDECIDED: u32 = 5;

/// Whether the next input can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// This one is through.
    Done,
    /// A commit is awaited, or the supervisor ends.
    Waits,
}

/// What a supervisor is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It takes what comes.
    Free,
    /// It awaits a commit.
    Committing,
    /// It awaits a commit, and ends then.
    Halting,
    /// It has ended.
    Ended,
}

/// The supervisor.
pub(super) struct VmSupervisor {
    term: Arc<ShardTerm>,
    record: Kept,
    since: Timestamp,
    /// What is performed and what waits.
    queues: Seldom<Queues>,
    stage: Stage,
    depth: Depth,
    /// The policy that the VM's metadata last named.
    wanted: Option<Box<str>>,
    outgoing: Outgoing,
    children: Children,
    link: VmLink,
}

impl VmSupervisor {
    pub(super) fn new(term: Arc<ShardTerm>, record: Kept, link: VmLink, depth: Depth) -> Self {
        let since = term.shared.clock.now();
        term.shared.counters.vms.fetch_add(1, Ordering::Relaxed);
        let supervisor = Self {
            term,
            record,
            since,
            queues: Seldom::default(),
            stage: Stage::Free,
            depth,
            wanted: None,
            outgoing: Outgoing::default(),
            children: Children::default(),
            link,
        };
        supervisor.count_outbox(0);
        supervisor
    }

    fn count_outbox(&self, before: usize) {
        let change = self.record.events().cast_signed() - before.cast_signed();
        self.term.shared.counters.outbox.fetch_add(change as i64, Ordering::Relaxed);
    }

    /// This is the stored record now; returns the one before.
    fn keep(&mut self, record: VmRecord) -> Kept {
        let before = std::mem::replace(&mut self.record, Kept::new(record));
        self.outgoing.is_recorded();
        self.count_outbox(before.events());
        before
    }

    /// Reads the record, before any message; with one that cannot be read it ends, and hears nothing.
    fn read(&mut self, ctx: &mut Context<Self>) {
        let before = self.record.events();
        match self.record.read() {
            Ok(()) => self.count_outbox(before),
            Err(why) => {
                self.end(End::Parked(why), ctx);
            }
        }
    }

    fn is_stored(&self) -> bool {
        self.record.presence != Presence::Unseen
    }

    fn end(&mut self, end: End, ctx: &mut Context<Self>) -> Progress {
        self.link.ending(end);
        self.stage = Stage::Ended;
        ctx.stop();
        Progress::Waits
    }

    fn handle_of(&self, ctx: &Context<Self>) -> VmHandle {
        VmHandle { address: ctx.address().downgrade(), depth: self.depth.clone() }
    }

    /// Nobody looks at the record until the next message.
    fn rest_record(&mut self) {
        if self.stage == Stage::Free {
            self.record.rest();
        }
        self.queues.rest();
    }

    /// Sends itself this after a wait.
    fn after(&self, wait: Duration, message: ToVm, ctx: &mut Context<Self>) {
        let clock = Arc::clone(&self.term.shared.clock);
        let sleep = async move {
            if !wait.is_zero() {
                clock.sleep(wait).await;
            }
        };
        // By a message, because a commit may be awaited then.
        ctx.spawn(sleep.into_actor(self).map(|(), supervisor, ctx| supervisor.handle_of(ctx).send(message)));
    }

    /// Decides this after the messages that wait already.
    fn input_later(&self, input: VmInput, ctx: &Context<Self>) {
        self.handle_of(ctx).send(ToVm::Input(Box::new(Envelope::new(input, None))));
    }

    /// Takes an input, after those that are to be decided before it.
    fn take(&mut self, mut envelope: Box<Envelope>, ctx: &mut Context<Self>) {
        envelope.decide();
        if self.says_nothing(&envelope.input) {
            return envelope.answer(InputReply::Verdict(Verdict::Ignored(Ignored::Nothing)));
        }
        if let Some(assigned) = self.policy_named(&envelope.input) {
            self.input_later(assigned, ctx);
        }
        // What waits already goes first; what frees the way, and what comes again by itself, does not wait.
        let waits = !self.queues.held.is_empty()
            && matches!(
                envelope.input,
                VmInput::Notified(_) | VmInput::Commanded { .. } | VmInput::Asked { .. } | VmInput::Introduced { .. }
            );
        if waits {
            return self.hold(envelope);
        }
        envelope.wait();
        if !self.queues.next.is_empty() {
            self.queues.next.push_back(envelope);
        } else if self.decide(envelope, 0, ctx) == Progress::Waits {
            return;
        }
        self.proceed(ctx);
    }

    /// Decides what is next, until a commit has to be awaited.
    fn proceed(&mut self, ctx: &mut Context<Self>) {
        while let Some(envelope) = self.queues.any().and_then(|queues| queues.next.pop_front()) {
            if self.decide(envelope, 0, ctx) == Progress::Waits {
                return;
            }
        }
    }

    /// Goes on after a commit: with what is next, then with what came meanwhile.
    fn resume(&mut self, ctx: &mut Context<Self>) {
        self.proceed(ctx);
        while self.stage == Stage::Free
            && let Some(message) = self.queues.any().and_then(|queues| queues.later.pop_front())
        {
            self.serve(message, ctx);
        }
    }

    /// A transition is stored, a sign of life is not; a hold that stands needs no second.
    fn says_nothing(&self, input: &VmInput) -> bool {
        match input {
            // What nobody can tell changes nothing about a VM that is well, and may be said of a whole cloud at once.
            VmInput::Probed { verdict: ProbeVerdict::Up | ProbeVerdict::Inconclusive { .. }, .. } => {
                self.record.is_up()
            }
            VmInput::Probed { verdict: ProbeVerdict::Down { .. }, .. } => false,
            VmInput::HoldRaised(hold) => self.record.holds.contains(hold) || !self.is_stored(),
            VmInput::HoldLifted(hold) => !(self.record.is_held() && self.record.holds.contains(hold)),
            VmInput::Notified(_)
            | VmInput::Listed { .. }
            | VmInput::Missing { .. }
            | VmInput::Commanded { .. }
            | VmInput::Asked { .. }
            | VmInput::EffectDone { .. }
            | VmInput::Published { .. }
            | VmInput::PolicyAssigned { .. }
            | VmInput::ChildExhausted(_)
            | VmInput::ChildRecovered(_)
            | VmInput::Introduced { .. }
            | VmInput::Tick => false,
        }
    }

    /// The policy that the VM's metadata names, if it names another than before. What it named when this supervisor
    /// first heard of it counts as known: a policy given by command must not fall back at the next listing.
    fn policy_named(&mut self, input: &VmInput) -> Option<VmInput> {
        let facts = input.facts()?;
        let named = facts.metadata.get(POLICY_KEY)?;
        if self.wanted.as_deref() == Some(named.as_str()) {
            return None;
        }
        let first = self.wanted.replace(named.as_str().into()).is_none();
        let resolved = self.term.shared.policies.resolve(facts);
        let changed = !first && resolved.policy != self.record.policy;
        (changed || resolved.unknown.is_some())
            .then_some(VmInput::PolicyAssigned { policy: resolved.policy, unknown: resolved.unknown })
    }

    /// Steps, and commits what changed. `again` counts how often this input was decided before.
    fn decide(&mut self, mut envelope: Box<Envelope>, again: u32, ctx: &mut Context<Self>) -> Progress {
        envelope.decide();
        let now = self.term.shared.trust.now();
        let step = step(&self.record, envelope.input.clone(), now);
        if step.verdict == Verdict::Busy {
            self.hold(envelope);
            return Progress::Done;
        }
        if !step.changed && !step.purge {
            return self.decided(*envelope, step, ctx);
        }
        let record = (!step.purge).then_some(&step.record);
        let write = match write_of(self.record.vm, self.record.generation, record) {
            Ok(write) => write,
            Err(error) => {
                tracing::error!(vm = %self.record.vm, %error, "a record cannot be written; the input is refused");
                let message = format!("the record of {} cannot be written: {error}", self.record.vm);
                envelope.answer(InputReply::Refused(Refusal::new(RefusalCode::Unavailable, message)));
                return Progress::Done;
            }
        };
        let term = Arc::clone(&self.term);
        let committing = Box::pin(async move { commit(&term, write).await });
        if self.stage != Stage::Halting {
            self.stage = Stage::Committing;
        }
        ctx.spawn(committing.into_actor(self).map(move |committed, supervisor, ctx| {
            if supervisor.stage == Stage::Halting {
                return supervisor.halted(committed, *envelope, step, ctx);
            }
            supervisor.stage = Stage::Free;
            if supervisor.committed(committed, envelope, step, again, ctx) == Progress::Done {
                supervisor.resume(ctx);
            }
            supervisor.rest_record();
        }));
        Progress::Waits
    }

    fn committed(
        &mut self,
        committed: Committed,
        envelope: Box<Envelope>,
        step: Step,
        again: u32,
        ctx: &mut Context<Self>,
    ) -> Progress {
        match committed {
            Committed::Yes => self.decided(*envelope, step, ctx),
            Committed::Reload(Some(stored)) if again < MAX_REDECIDED => {
                tracing::warn!(vm = %self.record.vm, "the store holds another record; the input is decided again");
                self.keep(*stored);
                // With a full outbox the input is held, and this is what frees the way.
                self.announce(ctx);
                self.decide(envelope, again + 1, ctx)
            }
            // The owner starts a new supervisor from what is stored, and the sender sends again.
            Committed::Reload(_) => self.end(End::Lost, ctx),
            Committed::Fenced => self.end(End::Fenced, ctx),
            Committed::Parked(why) => self.end(End::Parked(why), ctx),
            Committed::GivenUp => self.end(End::Halted, ctx),
        }
    }

    /// A decision is committed, or changed nothing: acknowledge, then act.
    fn decided(&mut self, envelope: Envelope, step: Step, ctx: &mut Context<Self>) -> Progress {
        let Step { record, changed, purge, effects, events: _, verdict } = step;
        let before = changed.then(|| self.keep(record));
        let woken = matches!(envelope.input, VmInput::Tick);
        envelope.answer(InputReply::Verdict(verdict));
        if purge {
            return self.end(End::Purged, ctx);
        }
        if !self.is_stored() && self.record.effects.is_empty() {
            return self.end(End::Idle, ctx);
        }
        self.announce(ctx);
        self.dispatch(effects, ctx);
        self.rest();
        if changed {
            self.watch(before.as_deref(), ctx);
        }
        if changed || woken {
            self.arm(ctx);
        }
        Progress::Done
    }

    fn hold(&mut self, mut envelope: Box<Envelope>) {
        envelope.wait();
        match &envelope.input {
            // The next listing, probe or wake-up says it again.
            VmInput::Listed { .. } | VmInput::Missing { .. } | VmInput::Probed { .. } | VmInput::Tick => {
                envelope.answer(InputReply::Busy);
            }
            VmInput::Notified(_) | VmInput::Commanded { .. } | VmInput::Asked { .. } | VmInput::Introduced { .. } => {
                if self.queues.held.len() < MAX_HELD {
                    self.queues.held.push_back(envelope);
                } else {
                    envelope.answer(InputReply::Busy);
                }
            }
            // Nobody says these again, so none is turned away; the latest word on each matter is enough.
            VmInput::EffectDone { .. }
            | VmInput::Published { .. }
            | VmInput::PolicyAssigned { .. }
            | VmInput::HoldRaised(_)
            | VmInput::HoldLifted(_)
            | VmInput::ChildExhausted(_)
            | VmInput::ChildRecovered(_) => {
                let matter = matter(&envelope.input);
                self.queues.held.retain(|held| self::matter(&held.input) != matter);
                self.queues.held.push_back(envelope);
            }
        }
    }
}

/// What an input of our own is about. A later one about the same replaces it, which bounds how many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matter {
    Effect(EffectKey),
    Policy,
    Hold(Hold),
    Child(Child),
}

fn matter(input: &VmInput) -> Option<Matter> {
    match input {
        VmInput::EffectDone { key, .. } => Some(Matter::Effect(*key)),
        VmInput::PolicyAssigned { .. } => Some(Matter::Policy),
        VmInput::HoldRaised(hold) | VmInput::HoldLifted(hold) => Some(Matter::Hold(*hold)),
        VmInput::ChildExhausted(child) | VmInput::ChildRecovered(child) => Some(Matter::Child(*child)),
        VmInput::Notified(_)
        | VmInput::Listed { .. }
        | VmInput::Missing { .. }
        | VmInput::Probed { .. }
        | VmInput::Commanded { .. }
        | VmInput::Asked { .. }
        | VmInput::Published { .. }
        | VmInput::Introduced { .. }
        | VmInput::Tick => None,
    }
}

impl Drop for VmSupervisor {
    fn drop(&mut self) {
        let waiting = self.record.events().cast_signed() as i64;
        let counters = &self.term.shared.counters;
        counters.outbox.fetch_sub(waiting, Ordering::Relaxed);
        counters.vms.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Actor for VmSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // One that was never polled is started while it goes down with its arbiter: it has nothing to say of its record.
        if ctx.state() == ActorState::Running {
            self.read(ctx);
        }
        staying(ctx);
    }
}

//! The children of a supervisor: who exists, and what is done when one ends.
//!
//! Strategy: one for one; a child's end touches no other. Intensity: [`Limit::VM`], per child. Past it the core raises
//! an alert (`ChildExhausted`), and the supervisor keeps trying, further apart; a quiet minute ends the alert.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::dev::ToEnvelope;
use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, WeakAddr, WrapFuture};
use reeve_lifecycle::input::Reason;
use reeve_lifecycle::{EffectKey, PendingEffect, VmInput, VmRecord, Worker, next_deadline};
use reeve_protocol::Timestamp;
use reeve_protocol::admin::ActorView;
use reeve_protocol::event::{Alert, Child};

use super::VmSupervisor;
use crate::actor::effect_worker::{EffectWorker, ToWorker};
use crate::actor::intensity::{Intensity, Limit};
use crate::actor::lease_timer::{LeaseTimer, ToTimer};
use crate::actor::link::ChildLink;
use crate::actor::poller::{Poller, Target, ToPoller};
use crate::actor::seldom::{Blank, Seldom};
use crate::actor::{ToVm, Told};
use crate::perform::EffectContext;
use crate::performer::Job;

/// A child that runs.
pub(super) struct Running<A: Actor> {
    address: WeakAddr<A>,
    incarnation: u32,
    since: Timestamp,
}

impl<A: Actor> Running<A> {
    /// Tells it, if it still lives.
    fn tell<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        if let Some(address) = self.address.upgrade() {
            address.do_send(message);
        }
    }
}

/// The children of a supervisor.
#[derive(Default)]
pub(super) struct Children {
    timer: Option<Running<LeaseTimer>>,
    poller: Option<Running<Poller>>,
    incarnations: u32,
    few: Seldom<Few>,
}

/// What few supervisors have: children that work, and children that ended by themselves.
#[derive(Default)]
pub(super) struct Few {
    workers: Vec<(Child, Running<EffectWorker>)>,
    troubles: Vec<Trouble>,
}

impl Blank for Few {
    const BLANK: &'static Self = &Self { workers: Vec::new(), troubles: Vec::new() };

    fn is_blank(&self) -> bool {
        let Self { workers, troubles } = self;
        workers.is_empty() && troubles.is_empty()
    }
}

/// The restarts of one child.
struct Trouble {
    child: Child,
    restarts: u64,
    intensity: Intensity,
    /// A restart is awaited.
    waiting: bool,
}

/// Which child performs the effects of a worker.
const fn child_of(worker: Worker) -> Child {
    match worker {
        Worker::Repair => Child::Repairer,
        Worker::Backup => Child::BackupWorker,
        Worker::Action => Child::ActionWorker,
    }
}

const fn name(child: Child) -> &'static str {
    match child {
        Child::LeaseTimer => "lease-timer",
        Child::Poller => "poller",
        Child::Repairer => "repairer",
        Child::BackupWorker => "backup-worker",
        Child::ActionWorker => "action-worker",
    }
}

impl Children {
    fn incarnation(&self, child: Child) -> Option<u32> {
        match child {
            Child::LeaseTimer => self.timer.as_ref().map(|running| running.incarnation),
            Child::Poller => self.poller.as_ref().map(|running| running.incarnation),
            Child::Repairer | Child::BackupWorker | Child::ActionWorker => {
                self.few.workers.iter().find(|(role, _)| *role == child).map(|(_, running)| running.incarnation)
            }
        }
    }

    fn remove(&mut self, child: Child) {
        match child {
            Child::LeaseTimer => self.timer = None,
            Child::Poller => self.poller = None,
            Child::Repairer | Child::BackupWorker | Child::ActionWorker => {
                if let Some(few) = self.few.any() {
                    few.workers.retain(|(role, _)| *role != child);
                }
                self.few.rest();
            }
        }
    }

    fn trouble(&mut self, child: Child) -> &mut Trouble {
        let troubles = &mut self.few.troubles;
        let at = troubles.iter().position(|trouble| trouble.child == child).unwrap_or_else(|| {
            troubles.push(Trouble { child, restarts: 0, intensity: Intensity::default(), waiting: false });
            troubles.len() - 1
        });
        &mut troubles[at]
    }

    fn waits(&self, child: Child) -> bool {
        self.few.troubles.iter().any(|trouble| trouble.child == child && trouble.waiting)
    }

    /// Ends a child, as if by a fault (`kill`) or in order.
    fn end(&self, child: Child, kill: bool) {
        match child {
            Child::LeaseTimer => {
                if let Some(timer) = &self.timer {
                    timer.tell(if kill { ToTimer::Kill } else { ToTimer::Halt });
                }
            }
            Child::Poller => {
                if let Some(poller) = &self.poller {
                    poller.tell(if kill { ToPoller::Kill } else { ToPoller::Halt });
                }
            }
            Child::Repairer | Child::BackupWorker | Child::ActionWorker => {
                if let Some((_, worker)) = self.few.workers.iter().find(|(role, _)| *role == child) {
                    worker.tell(if kill { ToWorker::Kill } else { ToWorker::Halt });
                }
            }
        }
    }
}

impl Drop for Children {
    /// However the supervisor ends, its children end with it.
    fn drop(&mut self) {
        for child in ALL {
            self.end(child, false);
        }
    }
}

const ALL: [Child; 5] = [Child::LeaseTimer, Child::Poller, Child::Repairer, Child::BackupWorker, Child::ActionWorker];

impl VmSupervisor {
    fn link(&mut self, child: Child, ctx: &Context<Self>) -> ChildLink {
        self.children.incarnations += 1;
        ChildLink::new(self.handle_of(ctx), child, self.children.incarnations)
    }

    fn running<A: Actor>(&self, address: &Addr<A>) -> Running<A> {
        Running {
            address: address.downgrade(),
            incarnation: self.children.incarnations,
            since: self.term.shared.clock.now(),
        }
    }

    /// Tells the timer the next deadline.
    pub(super) fn arm(&mut self, ctx: &Context<Self>) {
        self.arm_for(next_deadline(&self.record), ctx);
    }

    /// Tells the timer this deadline, which is the next.
    pub(super) fn arm_for(&mut self, deadline: Option<(Timestamp, Reason)>, ctx: &Context<Self>) {
        // Its slot wakes what was missed.
        let deadline = deadline.filter(|(at, _)| !self.waits_for_slot() || *at > self.term.shared.trust.now());
        match &self.children.timer {
            Some(timer) => timer.tell(ToTimer::Arm(deadline)),
            None if self.children.waits(Child::LeaseTimer) => {}
            None => {
                let link = self.link(Child::LeaseTimer, ctx);
                let timer = LeaseTimer::new(Arc::clone(&self.term.shared), link, deadline).start();
                self.children.timer = Some(self.running(&timer));
            }
        }
    }

    /// Starts, stops or redirects the poller, as the record wants it.
    pub(super) fn watch(&mut self, before: Option<&VmRecord>, ctx: &Context<Self>) {
        let target = Target::of(&self.record);
        match (target, &self.children.poller) {
            (None, Some(_)) => self.stop_child(Child::Poller),
            (None, None) => {}
            (Some(target), Some(poller)) => {
                if before.and_then(Target::of).as_ref() != Some(&target) {
                    poller.tell(ToPoller::Retarget(Box::new(target)));
                }
            }
            (Some(target), None) => {
                if !self.children.waits(Child::Poller) {
                    let link = self.link(Child::Poller, ctx);
                    let poller = Poller::new(Arc::clone(&self.term.shared), link, Box::new(target)).start();
                    self.children.poller = Some(self.running(&poller));
                }
            }
        }
    }

    /// Hands effects to their workers. One that runs is not handed out again.
    pub(super) fn dispatch(&mut self, effects: Vec<PendingEffect>, ctx: &Context<Self>) {
        for pending in effects {
            if self.queues.running.iter().any(|(key, _)| *key == pending.key) {
                continue;
            }
            let child = child_of(pending.effect.worker());
            if self.children.waits(child) {
                // Its restart hands out everything again.
                continue;
            }
            if self.children.incarnation(child).is_none() {
                let link = self.link(child, ctx);
                let worker = EffectWorker::new(Arc::clone(&self.term.shared), link).start();
                let running = self.running(&worker);
                self.children.few.workers.push((child, running));
            }
            self.queues.running.push((pending.key, child));
            let ownership = Arc::clone(&self.term.ownership);
            let context = EffectContext::new(&self.record, &pending.effect, ownership);
            if let Some((_, worker)) = self.children.few.workers.iter().find(|(role, _)| *role == child) {
                worker.tell(ToWorker::Perform(Box::new(Job { context, pending })));
            }
        }
    }

    /// Of the effects that are being performed only these still are.
    pub(super) fn not_running(&mut self, still: impl Fn(&(EffectKey, Child)) -> bool) {
        if let Some(queues) = self.queues.any() {
            queues.running.retain(still);
        }
    }

    /// Ends the workers that have nothing to do.
    pub(super) fn rest(&mut self) {
        for child in [Child::Repairer, Child::BackupWorker, Child::ActionWorker] {
            let busy = self.queues.running.iter().any(|(_, role)| *role == child);
            if !busy && self.children.incarnation(child).is_some() {
                self.stop_child(child);
            }
        }
    }

    /// Ends every child: the supervisor ends soon, and nothing is begun any more.
    pub(super) fn abandon_children(&mut self) {
        for child in ALL {
            self.stop_child(child);
        }
    }

    fn stop_child(&mut self, child: Child) {
        self.children.end(child, false);
        self.children.remove(child);
    }

    /// A child ended by itself.
    pub(super) fn child_down(&mut self, child: Child, incarnation: u32, ctx: &mut Context<Self>) {
        if self.children.incarnation(child) != Some(incarnation) {
            return;
        }
        self.children.remove(child);
        self.not_running(|(_, role)| *role != child);
        let shared = Arc::clone(&self.term.shared);
        shared.counters.child_restarts.fetch_add(1, Ordering::Relaxed);
        let elapsed = shared.clock.elapsed();
        let trouble = self.children.trouble(child);
        trouble.restarts += 1;
        let attempt = trouble.intensity.ended(Limit::VM, elapsed);
        trouble.waiting = !attempt.wait.is_zero();
        tracing::warn!(vm = %self.record.vm, child = name(child), wait = ?attempt.wait, "a child ended; it is restarted");
        if attempt.exhausted {
            self.input_later(VmInput::ChildExhausted(child), ctx);
        }
        if attempt.wait.is_zero() {
            return self.child_again(child, ctx);
        }
        self.after(attempt.wait, ToVm::ChildAgain(child), ctx);
    }

    /// Starts a child that ended, and tells it everything it needs.
    pub(super) fn child_again(&mut self, child: Child, ctx: &mut Context<Self>) {
        self.children.trouble(child).waiting = false;
        match child {
            Child::LeaseTimer => self.arm(ctx),
            Child::Poller => self.watch(None, ctx),
            Child::Repairer | Child::BackupWorker | Child::ActionWorker => {
                self.recover(|pending| child_of(pending.effect.worker()) == child, ctx);
            }
        }
        // One that is not exhausted has nothing to recover from, and an alert of the predecessor's is looked at from the start.
        if self.children.trouble(child).intensity.is_exhausted() {
            self.recovered_later(child, ctx);
        }
    }

    /// Ends the alert after a quiet window, if no child is in trouble then.
    pub(super) fn recovered_later(&self, child: Child, ctx: &mut Context<Self>) {
        let clock = Arc::clone(&self.term.shared.clock);
        let quiet = async move { clock.sleep(Limit::VM.window).await };
        ctx.spawn(quiet.into_actor(self).map(move |(), supervisor, ctx| {
            let elapsed = supervisor.term.shared.clock.elapsed();
            // The alert may be a predecessor's: then no trouble of this supervisor's stands for it.
            let _ = supervisor.children.trouble(child).intensity.recovers(Limit::VM, elapsed);
            let is_open = supervisor.record.alerts.contains(&Alert::SupervisionExhausted);
            if is_open && !supervisor.children.few.troubles.iter().any(|trouble| trouble.intensity.is_exhausted()) {
                supervisor.input_later(VmInput::ChildRecovered(child), ctx);
            }
        }));
    }

    /// Kills a child; its link tells when it is down.
    pub(super) fn kill_child(&self, child: Child) -> Told {
        if self.children.incarnation(child).is_none() {
            return Told::NoSuchChild;
        }
        self.children.end(child, true);
        Told::Yes
    }

    /// Stops a child in order and starts it again.
    pub(super) fn restart_child(&mut self, child: Child, ctx: &mut Context<Self>) -> Told {
        if self.children.incarnation(child).is_none() {
            return Told::NoSuchChild;
        }
        self.stop_child(child);
        self.not_running(|(_, role)| *role != child);
        self.children.trouble(child).restarts += 1;
        self.child_again(child, ctx);
        Told::Yes
    }

    pub(super) fn rearm(&self) {
        self.children.timer.iter().for_each(|timer| timer.tell(ToTimer::Rearm));
    }

    fn state(&self) -> String {
        let operation = self.record.operation.as_ref().map_or("idle", |operation| operation.name());
        if self.is_committing() { format!("{operation}, awaits the store") } else { operation.to_owned() }
    }

    /// The actors, for administrators.
    pub(super) fn tree(&self) -> ActorView {
        let view = |child: Child, state: String, since: Timestamp| ActorView {
            name: name(child).to_owned(),
            state,
            restarts: self.children.few.troubles.iter().find(|one| one.child == child).map_or(0, |one| one.restarts),
            since,
            mailbox: None,
            children: Vec::new(),
        };
        let mut children = Vec::new();
        if let Some(timer) = &self.children.timer {
            let state = match next_deadline(&self.record) {
                Some((at, reason)) => format!("asleep until {at} ({reason:?})"),
                None => "idle".to_owned(),
            };
            children.push(view(Child::LeaseTimer, state, timer.since));
        }
        if let Some(poller) = &self.children.poller {
            children.push(view(Child::Poller, "polling".to_owned(), poller.since));
        }
        for (child, worker) in &self.children.few.workers {
            let busy = self.queues.running.iter().filter(|(_, role)| role == child).count();
            children.push(view(*child, format!("{busy} effects"), worker.since));
        }
        ActorView {
            name: format!("vm/{}", self.record.vm),
            state: self.state(),
            restarts: 0,
            since: self.since,
            mailbox: Some(self.waiting()),
            children,
        }
    }
}

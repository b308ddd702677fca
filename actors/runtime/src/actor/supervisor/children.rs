//! The children of a supervisor: who exists, and what is done when one ends.
//!
//! Strategy: one for one; a child's end touches no other. Intensity: [`Limit::VM`], per child. Past it the core raises
//! an alert (`ChildExhausted`), and the supervisor keeps trying, further apart; a quiet minute ends the alert.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, WrapFuture};
use reeve_lifecycle::{PendingEffect, VmInput, VmRecord, Worker, next_deadline};
use reeve_protocol::Timestamp;
use reeve_protocol::admin::ActorView;
use reeve_protocol::event::{Alert, Child};

use super::VmSupervisor;
use crate::actor::effect_worker::{EffectWorker, ToWorker};
use crate::actor::intensity::{Intensity, Limit};
use crate::actor::lease_timer::{LeaseTimer, ToTimer};
use crate::actor::link::ChildLink;
use crate::actor::poller::{Poller, Target, ToPoller};
use crate::actor::{ToVm, Told};
use crate::perform::EffectContext;
use crate::performer::Job;

/// A child that runs.
pub(super) struct Running<A: Actor> {
    address: Addr<A>,
    incarnation: u32,
    since: Timestamp,
}

/// The children of a supervisor. What counts restarts is made when the first is needed.
#[derive(Default)]
pub(super) struct Children {
    timer: Option<Running<LeaseTimer>>,
    poller: Option<Running<Poller>>,
    workers: Vec<(Child, Running<EffectWorker>)>,
    incarnations: u32,
    troubles: Vec<Trouble>,
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
                self.workers.iter().find(|(role, _)| *role == child).map(|(_, running)| running.incarnation)
            }
        }
    }

    fn remove(&mut self, child: Child) {
        match child {
            Child::LeaseTimer => self.timer = None,
            Child::Poller => self.poller = None,
            Child::Repairer | Child::BackupWorker | Child::ActionWorker => {
                self.workers.retain(|(role, _)| *role != child);
            }
        }
    }

    fn trouble(&mut self, child: Child) -> &mut Trouble {
        let at = self.troubles.iter().position(|trouble| trouble.child == child).unwrap_or_else(|| {
            self.troubles.push(Trouble { child, restarts: 0, intensity: Intensity::default(), waiting: false });
            self.troubles.len() - 1
        });
        &mut self.troubles[at]
    }

    fn waits(&self, child: Child) -> bool {
        self.troubles.iter().any(|trouble| trouble.child == child && trouble.waiting)
    }

    /// Ends a child, as if by a fault (`kill`) or in order.
    fn end(&self, child: Child, kill: bool) {
        match child {
            Child::LeaseTimer => {
                if let Some(timer) = &self.timer {
                    timer.address.do_send(if kill { ToTimer::Kill } else { ToTimer::Halt });
                }
            }
            Child::Poller => {
                if let Some(poller) = &self.poller {
                    poller.address.do_send(if kill { ToPoller::Kill } else { ToPoller::Halt });
                }
            }
            Child::Repairer | Child::BackupWorker | Child::ActionWorker => {
                if let Some((_, worker)) = self.workers.iter().find(|(role, _)| *role == child) {
                    worker.address.do_send(if kill { ToWorker::Kill } else { ToWorker::Halt });
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
        ChildLink::new(self.weak_handle(ctx), child, self.children.incarnations)
    }

    fn running<A: Actor>(&self, address: Addr<A>) -> Running<A> {
        Running { address, incarnation: self.children.incarnations, since: self.term.shared.clock.now() }
    }

    /// Tells the timer the next deadline.
    pub(super) fn arm(&mut self, ctx: &Context<Self>) {
        if self.children.timer.is_none() {
            if self.children.waits(Child::LeaseTimer) {
                return;
            }
            let timer = LeaseTimer::new(Arc::clone(&self.term.shared), self.link(Child::LeaseTimer, ctx)).start();
            self.children.timer = Some(self.running(timer));
        }
        if let Some(timer) = &self.children.timer {
            let deadline = next_deadline(&self.record);
            let now = self.term.shared.trust.now();
            // Its slot wakes what was missed.
            let deadline = deadline.filter(|(at, _)| *at > now || !self.waits_for_slot());
            timer.address.do_send(ToTimer::Arm(deadline));
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
                    poller.address.do_send(ToPoller::Retarget(Box::new(target)));
                }
            }
            (Some(target), None) => {
                if !self.children.waits(Child::Poller) {
                    let link = self.link(Child::Poller, ctx);
                    let poller = Poller::new(Arc::clone(&self.term.shared), link, Box::new(target)).start();
                    self.children.poller = Some(self.running(poller));
                }
            }
        }
    }

    /// Hands effects to their workers. One that runs is not handed out again.
    pub(super) fn dispatch(&mut self, effects: Vec<PendingEffect>, ctx: &Context<Self>) {
        for pending in effects {
            if self.running.iter().any(|(key, _)| *key == pending.key) {
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
                let running = self.running(worker);
                self.children.workers.push((child, running));
            }
            self.running.push((pending.key, child));
            let ownership = Arc::clone(&self.term.ownership);
            let context = EffectContext::new(&self.record, &pending.effect, ownership);
            if let Some((_, worker)) = self.children.workers.iter().find(|(role, _)| *role == child) {
                worker.address.do_send(ToWorker::Perform(Box::new(Job { context, pending })));
            }
        }
    }

    /// Ends the workers that have nothing to do.
    pub(super) fn rest(&mut self) {
        for child in [Child::Repairer, Child::BackupWorker, Child::ActionWorker] {
            let busy = self.running.iter().any(|(_, role)| *role == child);
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
        self.running.retain(|(_, role)| *role != child);
        let shared = Arc::clone(&self.term.shared);
        shared.counters.child_restarts.fetch_add(1, Ordering::Relaxed);
        let elapsed = shared.clock.elapsed();
        let trouble = self.children.trouble(child);
        trouble.restarts += 1;
        trouble.waiting = true;
        let attempt = trouble.intensity.ended(Limit::VM, elapsed);
        tracing::warn!(vm = %self.record.vm, child = name(child), wait = ?attempt.wait, "a child ended; it is restarted");
        if attempt.exhausted {
            self.input_later(VmInput::ChildExhausted(child), ctx);
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
        self.recovered_later(child, ctx);
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
            if is_open && !supervisor.children.troubles.iter().any(|trouble| trouble.intensity.is_exhausted()) {
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
        self.running.retain(|(_, role)| *role != child);
        self.children.trouble(child).restarts += 1;
        self.child_again(child, ctx);
        Told::Yes
    }

    pub(super) fn rearm(&self) {
        self.children.timer.iter().for_each(|timer| timer.address.do_send(ToTimer::Rearm));
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
            restarts: self.children.troubles.iter().find(|one| one.child == child).map_or(0, |one| one.restarts),
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
        for (child, worker) in &self.children.workers {
            let busy = self.running.iter().filter(|(_, role)| role == child).count();
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

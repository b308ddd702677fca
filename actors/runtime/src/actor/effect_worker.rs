//! Performs effects for one VM: the repairer, the backup worker and the action worker are this type in three roles.
//!
//! It exists while there is work, holds nothing worth keeping, and answers by posting the outcome to the supervisor.
//! When it ends, its tasks end; whoever performs their effects again looks before acting. Between two steps of a backup it
//! keeps the backup's pass.

use std::sync::Arc;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, WeakAddr};
use reeve_lifecycle::{Done, EffectKey, Outcome};

use super::ToVm;
use super::link::ChildLink;
use super::sleeping::staying;
use crate::passes::Pass;
use crate::performer::{Job, TakeOutcome, Task};
use crate::shared::Shared;

/// What a worker is told.
pub(super) enum ToWorker {
    /// Perform this.
    Perform(Box<Job>),
    /// A task has ended.
    Ended(EffectKey, Outcome, Option<Pass>),
    /// End, as if by a fault.
    Kill,
    /// End in order.
    Halt,
}

impl Message for ToWorker {
    type Result = ();
}

/// A worker.
pub(super) struct EffectWorker {
    shared: Arc<Shared>,
    link: ChildLink,
    tasks: Vec<(EffectKey, Task)>,
    /// The pass of a backup whose next step is on its way here.
    pass: Option<Pass>,
}

impl EffectWorker {
    pub(super) fn new(shared: Arc<Shared>, link: ChildLink) -> Self {
        Self { shared, link, tasks: Vec::new(), pass: None }
    }
}

impl Actor for EffectWorker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        staying(ctx);
    }
}

impl Handler<ToWorker> for EffectWorker {
    type Result = ();

    fn handle(&mut self, message: ToWorker, ctx: &mut Context<Self>) {
        match message {
            ToWorker::Perform(job) => {
                let key = job.pending.key;
                let to = Reply { worker: ctx.address().downgrade(), key };
                let kept = if job.burden().is_some() { self.pass.take() } else { None };
                self.tasks.push((key, self.shared.performer.start(*job, kept, to)));
            }
            ToWorker::Ended(key, outcome, pass) => {
                self.tasks.retain(|(running, _)| *running != key);
                self.pass = pass.filter(|_| goes_on(&outcome)).or(self.pass.take());
                self.link.tell(ToVm::Performed { key, outcome });
            }
            ToWorker::Kill => ctx.stop(),
            ToWorker::Halt => {
                self.link.disarm();
                ctx.stop();
            }
        }
    }
}

/// Whether a backup's next step follows at once. A failed one is tried again later, and queues anew.
const fn goes_on(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done(Done::Inventory(_) | Done::Snapshot(_) | Done::Stored(_) | Done::Plain) => true,
        Outcome::Done(
            Done::Verified { .. } | Done::Damaged { .. } | Done::Launched { .. } | Done::Probed(_) | Done::Part { .. },
        )
        | Outcome::NotApplied { .. }
        | Outcome::Retryable { .. }
        | Outcome::Unknown { .. } => false,
    }
}

struct Reply {
    worker: WeakAddr<EffectWorker>,
    key: EffectKey,
}

impl TakeOutcome for Reply {
    fn take(&self, outcome: Outcome, pass: Option<Pass>) {
        // A worker that has ended is not told: its effects are performed again by the next.
        let worker: Option<Addr<EffectWorker>> = self.worker.upgrade();
        if let Some(worker) = worker {
            worker.do_send(ToWorker::Ended(self.key, outcome, pass));
        }
    }
}

//! Runs effects: one task each on the multi-thread runtime, so that hashing and copying never hold up an arbiter.
//!
//! ```text
//! start ─► turn (one task per effect) ─► pass of a backup, or caps (per host, per cloud, per node) ─► perform ─► answer
//! ```
//!
//! An effect never runs twice at the same time: a task takes its turn at the effect's gate, and a task that was
//! aborted holds its turn until it has really ended. It never changes a record; dropping the handle aborts the task.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::BoxFuture;
use reeve_lifecycle::{Effect, EffectKey, Outcome, PendingEffect, Worker};
use reeve_protocol::{CloudName, VmId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Caps;
use crate::passes::{Burden, Hosts, Pass, Passes, Queue};
use crate::perform::{EffectContext, Ports, perform};

/// An effect and what performing it needs to know.
pub(crate) struct Job {
    pub(crate) context: EffectContext,
    pub(crate) pending: PendingEffect,
}

impl Job {
    /// What it burdens as a step of a backup.
    pub(crate) fn burden(&self) -> Option<Burden> {
        // An ending without a backup looks what there is, too: it waits for no backup.
        Burden::of(&self.pending.effect).filter(|_| self.context.is_of_a_backup)
    }
}

/// Takes the outcome of an effect.
pub(crate) trait TakeOutcome: Send + 'static {
    /// `pass` is what the next step of a backup goes on with.
    fn take(&self, outcome: Outcome, pass: Option<Pass>);
}

/// A task that ends when this is dropped.
pub(crate) struct Task(tokio::task::AbortHandle);

impl Task {
    pub(crate) fn new<T>(handle: &tokio::task::JoinHandle<T>) -> Self {
        Self(handle.abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How many bytes of the disk that is being stored are on their way, of each VM of which one is.
type Moving = Mutex<BTreeMap<VmId, Weak<AtomicU64>>>;

type Gates = Mutex<BTreeMap<(VmId, EffectKey), Weak<Semaphore>>>;

/// Runs effects.
pub(crate) struct Performer {
    ports: Arc<Ports>,
    gates: Arc<Gates>,
    passes: Passes,
    moving: Moving,
    actions: Arc<Semaphore>,
    repairs_in_clouds: BTreeMap<CloudName, Arc<Semaphore>>,
    repairs_on_hosts: Hosts,
    tokio: tokio::runtime::Handle,
}

impl Performer {
    pub(crate) fn new(ports: Ports, caps: Caps, tokio: tokio::runtime::Handle) -> Self {
        let repairs = || Arc::new(Semaphore::new(caps.repairs_per_cloud.max(1)));
        Self {
            repairs_in_clouds: ports.cloud.keys().map(|cloud| (cloud.clone(), repairs())).collect(),
            repairs_on_hosts: Hosts::new(caps.repairs_per_host),
            passes: Passes::new(ports.cloud.keys(), &caps),
            ports: Arc::new(ports),
            moving: Mutex::default(),
            gates: Arc::default(),
            actions: Arc::new(Semaphore::new(caps.actions.max(1))),
            tokio,
        }
    }

    /// Begins an attempt, with the pass that the step before left. The outcome is handed over exactly once, unless the
    /// task is dropped before.
    pub(crate) fn start(&self, job: Job, kept: Option<Pass>, to: impl TakeOutcome) -> Task {
        let ports = Arc::clone(&self.ports);
        let gate = Gate::of(&self.gates, (job.context.vm, job.pending.key));
        let way = self.way_of(&job);
        self.watch(&job);
        let running: BoxFuture<'static, ()> = Box::pin(async move {
            let answer = Answer { to: Some(to) };
            let _turn = gate.turn().await;
            let leave = way.go(kept).await;
            let outcome = perform(&ports, &job.context, &job.pending).await;
            answer.give(outcome, leave.pass);
        });
        Task::new(&self.tokio.spawn(running))
    }

    /// How many bytes of the VM's disk that is being stored are on their way, if one is.
    pub(crate) fn moved(&self, vm: VmId) -> Option<u64> {
        let moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.get(&vm).and_then(Weak::upgrade).map(|moved| moved.load(Ordering::Relaxed))
    }

    fn watch(&self, job: &Job) {
        if matches!(job.pending.effect, Effect::StoreDisk { .. }) {
            let mut moving = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
            moving.retain(|_, moved| moved.strong_count() > 0);
            moving.insert(job.context.vm, Arc::downgrade(&job.context.moved));
        }
    }

    /// What an effect waits for, in an order that is the same for all, so that none waits for another in a circle.
    fn way_of(&self, job: &Job) -> Way {
        let (cloud, host) = (&job.context.cloud, job.context.host.as_ref());
        if let Some(burden) = job.burden() {
            return Way::Backup(self.passes.queue(burden, cloud, host));
        }
        Way::Caps(match (&job.pending.effect, job.pending.effect.worker()) {
            (Effect::HardReboot, _) => {
                let host = host.map(|host| self.repairs_on_hosts.of(cloud, host));
                host.into_iter().chain(self.repairs_in_clouds.get(cloud).cloned()).collect()
            }
            // A retest only looks; it must not wait behind reboots.
            (_, Worker::Repair) => Vec::new(),
            // As much is moved as by a backup.
            (Effect::RestoreInPlace { .. }, _) => vec![self.passes.node()],
            // What a backup leaves to be removed goes without waiting for other backups, which may take hours.
            (_, Worker::Backup | Worker::Action) => vec![Arc::clone(&self.actions)],
        })
    }
}

/// What is waited for before an effect is performed.
enum Way {
    /// A place for each of these.
    Caps(Vec<Arc<Semaphore>>),
    /// A backup's pass.
    Backup(Queue),
}

/// What is kept while an effect is performed.
struct Leave {
    pass: Option<Pass>,
    _caps: Vec<OwnedSemaphorePermit>,
}

impl Way {
    async fn go(self, kept: Option<Pass>) -> Leave {
        match self {
            Self::Backup(queue) => Leave { pass: Some(queue.pass(kept).await), _caps: Vec::new() },
            Self::Caps(caps) => {
                // Not a step of a backup: the pass is of no use any more.
                drop(kept);
                let mut permits = Vec::with_capacity(caps.len());
                for cap in caps {
                    permits.push(cap.acquire_owned().await.expect("caps are never closed"));
                }
                Leave { pass: None, _caps: permits }
            }
        }
    }
}

/// Hands over an outcome; whoever waits is told even when performing panicked.
struct Answer<T: TakeOutcome> {
    to: Option<T>,
}

impl<T: TakeOutcome> Answer<T> {
    fn give(mut self, outcome: Outcome, pass: Option<Pass>) {
        if let Some(to) = self.to.take() {
            to.take(outcome, pass);
        }
    }
}

impl<T: TakeOutcome> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            if std::thread::panicking() {
                tracing::error!("performing an effect panicked");
            }
            to.take(Outcome::Unknown { reason: "performing was interrupted".to_owned() }, None);
        }
    }
}

/// Lets one task at a time perform an effect.
struct Gate {
    gates: Arc<Gates>,
    key: (VmId, EffectKey),
    semaphore: Option<Arc<Semaphore>>,
}

impl Gate {
    fn of(gates: &Arc<Gates>, key: (VmId, EffectKey)) -> Self {
        let mut open = gates.lock().unwrap_or_else(PoisonError::into_inner);
        let semaphore = open.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| Arc::new(Semaphore::new(1)));
        open.insert(key, Arc::downgrade(&semaphore));
        drop(open);
        Self { gates: Arc::clone(gates), key, semaphore: Some(semaphore) }
    }

    async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        let semaphore = self.semaphore.as_ref().expect("a gate has its semaphore until it is dropped");
        semaphore.acquire().await.expect("gates are never closed")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut open = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        self.semaphore = None;
        if open.get(&self.key).is_some_and(|semaphore| semaphore.strong_count() == 0) {
            open.remove(&self.key);
        }
    }
}

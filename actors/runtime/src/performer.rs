//! Runs effects: one task each on the multi-thread runtime, so that hashing and copying never hold up an arbiter.
//!
//! ```text
//! start ─► turn (one task per effect) ─► cap (per node, per host, per cloud) ─► perform ─► answer
//! ```
//!
//! An effect never runs twice at the same time: a task takes its turn at the effect's gate, and a task that was
//! aborted holds its turn until it has really ended. It never changes a record; dropping the handle aborts the task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::BoxFuture;
use reeve_lifecycle::{Effect, EffectKey, Outcome, PendingEffect, Worker};
use reeve_protocol::{CloudName, HostName, VmId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Caps;
use crate::perform::{EffectContext, Ports, perform};

/// An effect and what performing it needs to know.
pub(crate) struct Job {
    pub(crate) context: EffectContext,
    pub(crate) pending: PendingEffect,
}

/// Takes the outcome of an effect.
pub(crate) trait TakeOutcome: Send + 'static {
    fn take(&self, outcome: Outcome);
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

type Gates = Mutex<BTreeMap<(VmId, EffectKey), Weak<Semaphore>>>;

/// Runs effects.
pub(crate) struct Performer {
    ports: Arc<Ports>,
    caps: Caps,
    gates: Arc<Gates>,
    backups: Arc<Semaphore>,
    actions: Arc<Semaphore>,
    clouds: BTreeMap<CloudName, Arc<Semaphore>>,
    hosts: Mutex<BTreeMap<(CloudName, HostName), Weak<Semaphore>>>,
    tokio: tokio::runtime::Handle,
}

impl Performer {
    pub(crate) fn new(ports: Ports, caps: Caps, tokio: tokio::runtime::Handle) -> Self {
        let repairs = || Arc::new(Semaphore::new(caps.repairs_per_cloud.max(1)));
        Self {
            clouds: ports.cloud.keys().map(|cloud| (cloud.clone(), repairs())).collect(),
            ports: Arc::new(ports),
            gates: Arc::default(),
            backups: Arc::new(Semaphore::new(caps.backups.max(1))),
            actions: Arc::new(Semaphore::new(caps.actions.max(1))),
            hosts: Mutex::default(),
            caps,
            tokio,
        }
    }

    /// Begins an attempt. The outcome is handed over exactly once, unless the task is dropped before.
    pub(crate) fn start(&self, job: Job, to: impl TakeOutcome) -> Task {
        let ports = Arc::clone(&self.ports);
        let gate = Gate::of(&self.gates, (job.context.vm, job.pending.key));
        let caps = self.caps_of(&job);
        let running: BoxFuture<'static, ()> = Box::pin(async move {
            let answer = Answer { to: Some(to) };
            let _turn = gate.turn().await;
            let mut permits: Vec<OwnedSemaphorePermit> = Vec::with_capacity(caps.len());
            for cap in caps {
                permits.push(cap.acquire_owned().await.expect("caps are never closed"));
            }
            let outcome = perform(&ports, &job.context, &job.pending).await;
            answer.give(outcome);
        });
        Task::new(&self.tokio.spawn(running))
    }

    /// What an effect waits for, in an order that is the same for all, so that none waits for another in a circle.
    fn caps_of(&self, job: &Job) -> Vec<Arc<Semaphore>> {
        match (&job.pending.effect, job.pending.effect.worker()) {
            (Effect::HardReboot, _) => {
                let cloud = self.clouds.get(&job.context.cloud).cloned();
                let host = job.context.host.clone().map(|host| self.host(&job.context.cloud, host));
                host.into_iter().chain(cloud).collect()
            }
            // A retest only looks; it must not wait behind reboots.
            (_, Worker::Repair) => Vec::new(),
            (_, Worker::Backup) => vec![Arc::clone(&self.backups)],
            (_, Worker::Action) => vec![Arc::clone(&self.actions)],
        }
    }

    fn host(&self, cloud: &CloudName, host: HostName) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, semaphore| semaphore.strong_count() > 0);
        let key = (cloud.clone(), host);
        if let Some(semaphore) = hosts.get(&key).and_then(Weak::upgrade) {
            return semaphore;
        }
        let semaphore = Arc::new(Semaphore::new(self.caps.repairs_per_host.max(1)));
        hosts.insert(key, Arc::downgrade(&semaphore));
        semaphore
    }
}

/// Hands over an outcome; whoever waits is told even when performing panicked.
struct Answer<T: TakeOutcome> {
    to: Option<T>,
}

impl<T: TakeOutcome> Answer<T> {
    fn give(mut self, outcome: Outcome) {
        if let Some(to) = self.to.take() {
            to.take(outcome);
        }
    }
}

impl<T: TakeOutcome> Drop for Answer<T> {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            if std::thread::panicking() {
                tracing::error!("performing an effect panicked");
            }
            to.take(Outcome::Unknown { reason: "performing was interrupted".to_owned() });
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

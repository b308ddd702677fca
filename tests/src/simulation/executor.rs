//! Runs the tasks of a node on one thread, in an order that follows from the seed. Dropping a task drops its future in
//! the middle of whatever it awaits, as the death of a process does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::chance::Chance;

type Ready = Arc<Mutex<BTreeSet<u64>>>;

struct Call {
    task: u64,
    ready: Ready,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.ready.lock().expect("nothing panics while the run queue is locked").insert(self.task);
    }
}

/// The tasks of a node, each with a name of type `K`.
pub(super) struct Executor<K> {
    tasks: BTreeMap<u64, (K, LocalBoxFuture<'static, ()>)>,
    ready: Ready,
    spawned: u64,
}

impl<K: PartialEq> Executor<K> {
    pub(super) fn new() -> Self {
        Self { tasks: BTreeMap::new(), ready: Ready::default(), spawned: 0 }
    }

    pub(super) fn spawn(&mut self, name: K, future: impl Future<Output = ()> + 'static) {
        self.spawned += 1;
        self.tasks.insert(self.spawned, (name, future.boxed_local()));
        self.ready.lock().expect("nothing panics while the run queue is locked").insert(self.spawned);
    }

    pub(super) fn is_running(&self, name: &K) -> bool {
        self.tasks.values().any(|(running, _)| running == name)
    }

    /// Drops every task that is not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.tasks.retain(|_, (name, _)| keep(name));
    }

    /// Polls one of the tasks that can go on; false when none can.
    pub(super) fn run_one(&mut self, chance: &mut Chance) -> bool {
        let task = {
            let mut ready = self.ready.lock().expect("nothing panics while the run queue is locked");
            ready.retain(|task| self.tasks.contains_key(task));
            if ready.is_empty() {
                return false;
            }
            let nth = chance.below(ready.len());
            let task = *ready.iter().nth(nth).expect("it was counted");
            ready.remove(&task);
            task
        };
        let waker = Waker::from(Arc::new(Call { task, ready: Arc::clone(&self.ready) }));
        let (_, future) = self.tasks.get_mut(&task).expect("only living tasks are ready");
        if future.poll_unpin(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(&task);
        }
        true
    }
}

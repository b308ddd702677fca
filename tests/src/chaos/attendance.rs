//! How long VMs are without anybody: some VMs of every shard are asked for again and again, and a gap between two answers
//! is written down.
//!
//! Measured is that some node answers for the VM by its supervisor. Not measured is whether that node may act at that
//! moment: one that is cut off from etcd still shows its VMs. Gaps of less than a second are not told: a busy machine makes
//! them between two questions.
//!
//! Each VM is asked for by itself, so that one without an answer makes no other look worse than it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::VmId;

use super::asker::Door;
use super::history::{History, What};

/// One question at one node; one that is stopped does not answer at all.
const PATIENCE: Duration = Duration::from_millis(500);
/// A node that has not answered by then is not waited for alone.
const HEDGE: Duration = Duration::from_millis(100);
/// Between two questions for one VM.
const EVERY: Duration = Duration::from_millis(250);
/// Shorter gaps than this are those between two questions on a busy machine, and are not told.
const NOTABLE: Duration = Duration::from_millis(1_000);

/// Asks for ever; drop the future to end it. A VM that is not attended when it ends is told by [`Attendance::close`].
#[derive(Debug)]
pub struct Attendance {
    doors: Vec<Arc<Door>>,
    history: History,
    answered_at: Mutex<BTreeMap<VmId, Duration>>,
}

impl Attendance {
    /// Will ask for these VMs.
    #[must_use]
    pub fn new(doors: Vec<Arc<Door>>, history: History, vms: impl IntoIterator<Item = VmId>) -> Self {
        let now = SystemClock.elapsed();
        let answered_at = vms.into_iter().map(|vm| (vm, now)).collect();
        Self { doors, history, answered_at: Mutex::new(answered_at) }
    }

    /// Asks, for each VM each time at another node first.
    pub async fn run(&self) {
        let vms: Vec<VmId> = self.times().keys().copied().collect();
        let count = u32::try_from(vms.len()).unwrap_or(u32::MAX).max(1);
        let mut asking: FuturesUnordered<_> =
            vms.into_iter().zip(0_u32..).map(|(vm, number)| self.follow(vm, EVERY * number / count)).collect();
        while asking.next().await.is_some() {}
        // There was no VM to ask for; whoever waits for this and for something else waits for the other.
        std::future::pending::<()>().await;
    }

    async fn follow(&self, vm: VmId, first_after: Duration) {
        // So that not all are asked for at once.
        tokio::time::sleep(first_after).await;
        for turn in 0.. {
            if attended(&self.doors, vm, turn).await {
                let now = SystemClock.elapsed();
                let before = self.times().insert(vm, now).unwrap_or(now);
                self.note(vm, now.saturating_sub(before));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Tells the gaps that are open.
    pub fn close(&self) {
        let now = SystemClock.elapsed();
        for (vm, answered_at) in self.times().iter() {
            self.note(*vm, now.saturating_sub(*answered_at));
        }
    }

    fn times(&self) -> std::sync::MutexGuard<'_, BTreeMap<VmId, Duration>> {
        self.answered_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, vm: VmId, gap: Duration) {
        if gap >= NOTABLE {
            self.history.write(What::Unattended { vm, ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX) });
        }
    }
}

/// Whether any node attends the VM.
async fn attended(doors: &[Arc<Door>], vm: VmId, turn: usize) -> bool {
    let first = turn % doors.len();
    let asked = |at: usize, after: Duration| async move {
        tokio::time::sleep(after).await;
        doors[at].attends(vm, PATIENCE).await
    };
    let wait = |at: usize| if at == first { Duration::ZERO } else { HEDGE };
    let mut asking: FuturesUnordered<_> = (0..doors.len()).map(|at| asked(at, wait(at))).collect();
    while let Some(is_attended) = asking.next().await {
        if is_attended {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn without_a_vm_to_ask_for_it_ends_nobodys_run() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::create(&folder.path().join("history.jsonl")).unwrap();
        let attendance = Attendance::new(Vec::new(), history, []);
        assert!(attendance.run().now_or_never().is_none());
    }
}

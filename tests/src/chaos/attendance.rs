//! How long VMs are without anybody: some VMs of every shard are asked for again and again, and a gap between two answers
//! is written down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use reeve_ports::{Clock, SystemClock};
use reeve_protocol::VmId;

use super::asker::Door;
use super::history::{History, What};

/// One question; a stopped node does not answer at all.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between two rounds.
const EVERY: Duration = Duration::from_millis(250);
/// Shorter gaps than this are those between two questions.
const NOTABLE: Duration = Duration::from_millis(1_000);

/// Asks for ever; drop the future to end it. A VM that is not attended when it ends is told by [`Attendance::close`].
#[derive(Debug)]
pub struct Attendance {
    doors: Vec<Arc<Door>>,
    history: History,
    answered_at: BTreeMap<VmId, Duration>,
    round: usize,
}

impl Attendance {
    /// Will ask for these VMs.
    #[must_use]
    pub fn new(doors: Vec<Arc<Door>>, history: History, vms: impl IntoIterator<Item = VmId>) -> Self {
        let now = SystemClock.elapsed();
        Self { doors, history, answered_at: vms.into_iter().map(|vm| (vm, now)).collect(), round: 0 }
    }

    /// Asks once for each VM, each time at another node first, and at all others if that one says nothing.
    pub async fn round(&mut self) {
        self.round += 1;
        let mut asking: FuturesUnordered<_> =
            self.answered_at.keys().map(|vm| attended(&self.doors, *vm, self.round)).collect();
        let mut answered = Vec::new();
        while let Some((vm, is_attended)) = asking.next().await {
            if is_attended {
                answered.push((vm, SystemClock.elapsed()));
            }
        }
        drop(asking);
        for (vm, now) in answered {
            let before = self.answered_at.insert(vm, now).unwrap_or(now);
            self.note(vm, now.saturating_sub(before));
        }
    }

    /// Goes round and round.
    pub async fn run(&mut self) {
        loop {
            self.round().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Tells the gaps that are open.
    pub fn close(&self) {
        let now = SystemClock.elapsed();
        for (vm, answered_at) in &self.answered_at {
            self.note(*vm, now.saturating_sub(*answered_at));
        }
    }

    fn note(&self, vm: VmId, gap: Duration) {
        if gap >= NOTABLE + EVERY {
            self.history.write(What::Unattended { vm, ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX) });
        }
    }
}

async fn attended(doors: &[Arc<Door>], vm: VmId, round: usize) -> (VmId, bool) {
    let first = round % doors.len();
    if doors[first].attends(vm, PATIENCE).await {
        return (vm, true);
    }
    let others = doors.iter().enumerate().filter(|(at, _)| *at != first);
    let mut asking: FuturesUnordered<_> = others.map(|(_, door)| door.attends(vm, PATIENCE)).collect();
    while let Some(is_attended) = asking.next().await {
        if is_attended {
            return (vm, true);
        }
    }
    (vm, false)
}

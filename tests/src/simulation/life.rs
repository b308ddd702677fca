//! How the node comes up, wakes, and dies: everything in its memory goes, and comes again from the stored bytes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_lifecycle::record::{Health, RECORD_FORMAT};
use reeve_lifecycle::{VmInput, VmRecord, next_deadline, recover};
use reeve_protocol::{Epoch, ShardId, Span, Timestamp, VmId, codec};
use reeve_runtime::{Acts, Ownership, Ports, Timeouts};

use super::commit::Taken;
use super::executor::Executor;
use super::node::{Inbox, Job, Live, Node, SimIntroducer, SimOwnership, SimPost};
use super::world::World;

/// The time between two listings.
const RECONCILE: Span = Span::from_secs(900);
/// The time between two probes and two listings once all is calm.
const CALM_INTERVAL: Span = Span::from_secs(1_800);

impl World {
    /// The node comes up from what is stored.
    pub(super) fn start_node(&mut self) -> Result<(), String> {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let inbox = Inbox::default();
        let coordination = SimOwnership { epoch: Arc::clone(&self.epoch), faults: self.faults.clone() };
        let name = Self::cloud_name();
        let ports = Ports {
            clock: Arc::new(self.clock.clone()),
            cloud: BTreeMap::from([(name.clone(), self.cloud_port())]),
            probe: BTreeMap::from([(name, Arc::clone(&self.cloud) as Arc<dyn reeve_ports::GuestProbe>)]),
            vault: Arc::new(self.vault.clone()),
            notifier: Arc::new(SimPost {
                clock: self.clock.clone(),
                faults: self.faults.clone(),
                letters: Arc::clone(&self.letters),
            }),
            timeouts: Timeouts {
                settle: Duration::from_secs(60),
                look_every: Duration::from_secs(2),
                ..Timeouts::default()
            },
        };
        let ownership = Ownership {
            shard: ShardId(0),
            epoch: Epoch(epoch),
            coordination: Arc::new(coordination),
            introducer: Arc::new(SimIntroducer(Arc::clone(&inbox))),
            acts: Acts::default(),
        };
        self.node = Some(Node {
            tasks: Executor::new(),
            inbox,
            vms: BTreeMap::new(),
            ports,
            ownership: Arc::new(ownership),
            reconcile_at: self.now(),
            failed_listings: 0,
            intake_at: self.now(),
        });
        self.say(format_args!("the node is up"));
        let stored: Vec<VmId> = self.store.keys().copied().collect();
        stored.into_iter().try_for_each(|vm| self.load(vm))
    }

    /// Starts the supervisor of a stored VM: what was under way is performed again.
    fn load(&mut self, vm: VmId) -> Result<(), String> {
        let Some(bytes) = self.store.get(&vm) else { return Ok(()) };
        let (_, record): (u8, VmRecord) = codec::decode(RECORD_FORMAT, bytes).map_err(|error| error.to_string())?;
        let committed = self.oracle().vms.get(&vm).is_some_and(|watched| watched.last == record);
        if !committed {
            return Err(format!("VM {vm}: what is stored does not decode to what was committed"));
        }
        let effects = recover(&record, self.now());
        let now = self.now();
        let deadline = next_deadline(&record).map(|(at, _)| at);
        let poll_at = now + Span::from_secs(30);
        let live = Live { record: record.clone(), unrecorded: false, deadline, poll_at };
        let Some(node) = &mut self.node else { return Ok(()) };
        node.vms.insert(vm, live);
        for pending in effects {
            node.start(&record, pending);
        }
        self.publish(vm);
        Ok(())
    }

    /// The node dies: everything in its memory is gone, in the middle of whatever it did.
    pub(super) fn crash(&mut self, when: &str) {
        let Some(mut node) = self.node.take() else { return };
        node.tasks.retain(|_| false);
        self.crashes += 1;
        let down = match self.chance.below(10) {
            0 => self.chance.seconds(600..=3 * 3_600),
            1..=3 => self.chance.seconds(10..=600),
            _ => Span::from_millis(self.chance.within(0..=5_000)),
        };
        self.starts_at = self.now() + down;
        self.say(format_args!("the node dies {when}, for {down}"));
    }

    /// What is due by the node's own timers.
    pub(super) fn wake_node(&mut self, now: Timestamp) -> Result<(), String> {
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.reconcile_at <= now {
            node.reconcile_at = now + if self.is_calm { CALM_INTERVAL } else { RECONCILE };
            if !node.tasks.is_running(&Job::Reconcile) {
                let cloud = self.cloud_port();
                if let Some(node) = &mut self.node {
                    node.reconcile(cloud);
                }
            }
        }
        let Some(node) = &mut self.node else { return Ok(()) };
        let calm = self.is_calm;
        let mut due = Vec::new();
        let mut polls = Vec::new();
        for (vm, live) in &mut node.vms {
            if live.deadline.is_some_and(|at| at <= now) {
                due.push(*vm);
            }
            if live.poll_at <= now {
                let interval = live.record.policy.terms.health.interval;
                live.poll_at = now + if calm { interval.max(CALM_INTERVAL) } else { interval };
                if !matches!(live.record.health, Health::Paused { .. }) {
                    polls.push(live.record.clone());
                }
            }
        }
        for record in polls {
            if !node.tasks.is_running(&Job::Probe(record.vm)) {
                node.probe(&record);
            }
        }
        for vm in due {
            if self.node.is_none() || self.handle(vm, VmInput::Tick)? == Taken::Died {
                break;
            }
        }
        Ok(())
    }

    /// The supervisor of one VM is started again, because it does not know what is stored.
    pub(super) fn restart_supervisor(&mut self, vm: VmId) -> Result<(), String> {
        self.say(format_args!("{vm} its supervisor is restarted: the store gave no answer"));
        if let Some(node) = &mut self.node {
            node.vms.remove(&vm);
            node.tasks.retain(|job| job.vm() != Some(vm));
        }
        self.load(vm)
    }
}

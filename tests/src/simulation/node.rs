//! The node of a simulation: what lives in the memory of a process and dies with it. It stands where the actors of the
//! product stand, and does with the core and the performer what they do.
//!
//! ```text
//! message, outcome, probe, listing, deadline ─► step ─► check ─► commit ─► (crash?) ─► acknowledge ─► effects as tasks
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use reeve_lifecycle::operation::ReplyTo;
use reeve_lifecycle::{EffectKey, PendingEffect, ProbeVerdict, VmInput, VmRecord};
use reeve_ports::cloud::ListPage;
use reeve_ports::coordination::CoordinationError;
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_ports::{Clock, Cloud, Coordination, Freshness, Notifier};
use reeve_protocol::event::Event;
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::{CloudName, Epoch, ShardId, Timestamp, VmId};
use reeve_runtime::{EffectContext, Introducer, Ownership, Ports, perform};

use super::bus::SimBus;
use super::clock::SimClock;
use super::executor::Executor;
use super::faults::{FaultPlan, Port, Trouble};

const UNPOISONED: &str = "nothing panics while this is locked";

/// What a task tells the node.
pub(super) enum Word {
    /// An input for a VM; who waits is told once it is committed.
    Input { vm: VmId, input: Box<VmInput>, done: Option<oneshot::Sender<()>> },
    /// A listing of the cloud: every VM, or `None` when it failed or was incomplete.
    Listing { asked_at: Timestamp, found: Option<Vec<(VmFacts, Said)>>, readable: bool },
    /// The bus has confirmed the events up to this sequence.
    Published { vm: VmId, through: u64 },
    /// Publishing stopped before its end.
    PublishAgain(VmId),
    /// What is confirmed is to be written down.
    Record(VmId),
}

pub(super) type Inbox = Arc<Mutex<VecDeque<Word>>>;

/// Names the tasks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Job {
    Effect(VmId, EffectKey),
    Probe(VmId),
    Publish(VmId),
    Record(VmId),
    Reconcile,
}

impl Job {
    pub(super) const fn vm(&self) -> Option<VmId> {
        match self {
            Self::Effect(vm, _) | Self::Probe(vm) | Self::Publish(vm) | Self::Record(vm) => Some(*vm),
            Self::Reconcile => None,
        }
    }
}

/// One VM under care.
pub(super) struct Live {
    /// The stored one, without the events that are confirmed since.
    pub(super) record: VmRecord,
    /// Whether there are such.
    pub(super) unrecorded: bool,
    pub(super) deadline: Option<Timestamp>,
    pub(super) poll_at: Timestamp,
}

/// The node.
pub(super) struct Node {
    pub(super) tasks: Executor<Job>,
    pub(super) inbox: Inbox,
    pub(super) vms: BTreeMap<VmId, Live>,
    pub(super) ports: Ports,
    pub(super) ownership: Arc<Ownership>,
    pub(super) reconcile_at: Timestamp,
    pub(super) failed_listings: u32,
    /// When the bus is asked for the next message, after one that could not be taken.
    pub(super) intake_at: Timestamp,
}

impl Node {
    /// Begins to perform an effect.
    pub(super) fn start(&mut self, record: &VmRecord, pending: PendingEffect) {
        let (vm, key) = (record.vm, pending.key);
        let job = Job::Effect(vm, key);
        assert!(!self.tasks.is_running(&job), "effect {key} of VM {vm} is issued while it is performed");
        let context = EffectContext::new(record, &pending.effect, Arc::clone(&self.ownership));
        let (ports, inbox) = (self.ports.clone(), Arc::clone(&self.inbox));
        self.tasks.spawn(job, async move {
            let outcome = perform(&ports, &context, &pending).await;
            post(&inbox, Word::Input { vm, input: Box::new(VmInput::EffectDone { key, outcome }), done: None });
        });
    }

    /// Asks the probe of a VM.
    pub(super) fn probe(&mut self, record: &VmRecord) {
        let (vm, host) = (record.vm, record.facts.host.clone());
        let health = &record.policy.terms.health;
        let (kind, timeout) = (health.probe, health.timeout.duration());
        let Some(probe) = self.ports.probe.get(&record.cloud).cloned() else { return };
        let inbox = Arc::clone(&self.inbox);
        self.tasks.spawn(Job::Probe(vm), async move {
            let verdict: ProbeVerdict = probe.probe(vm, host.as_ref(), kind, Freshness::Now, timeout).await;
            post(&inbox, Word::Input { vm, input: Box::new(VmInput::Probed { probe: kind, verdict }), done: None });
        });
    }

    /// Publishes the outbox of a VM, event by event, each confirmed before the next.
    pub(super) fn publish(&mut self, vm: VmId, events: Vec<Event>, bus: &SimBus, faults: &FaultPlan) {
        let (bus, faults, inbox) = (bus.clone(), faults.clone(), Arc::clone(&self.inbox));
        let clock = Arc::clone(&self.ports.clock);
        self.tasks.spawn(Job::Publish(vm), async move {
            let mut through = None;
            for event in events {
                let sequence = event.sequence;
                let trouble = faults.next(Port::Bus);
                // A confirm takes time: the node may die between an event and its confirmation.
                let before = matches!(trouble, None | Some(Trouble::LostAfter | Trouble::Slow));
                if before {
                    bus.lock().outgoing.push(event);
                }
                clock.sleep(Duration::from_millis(5)).await;
                if matches!(trouble, None | Some(Trouble::Slow)) {
                    through = Some(sequence);
                } else {
                    clock.sleep(Duration::from_secs(2)).await;
                    break;
                }
            }
            match through {
                Some(through) => post(&inbox, Word::Published { vm, through }),
                None => post(&inbox, Word::PublishAgain(vm)),
            }
        });
    }

    /// Writes down later what is confirmed now.
    pub(super) fn record_later(&mut self, vm: VmId) {
        if self.tasks.is_running(&Job::Record(vm)) {
            return;
        }
        let (clock, inbox) = (Arc::clone(&self.ports.clock), Arc::clone(&self.inbox));
        self.tasks.spawn(Job::Record(vm), async move {
            clock.sleep(Duration::from_secs(5)).await;
            post(&inbox, Word::Record(vm));
        });
    }

    /// Lists the cloud, page by page.
    pub(super) fn reconcile(&mut self, cloud: Arc<dyn Cloud>) {
        let inbox = Arc::clone(&self.inbox);
        let clock = Arc::clone(&self.ports.clock);
        self.tasks.spawn(Job::Reconcile, async move {
            let asked_at = clock.now();
            let (found, readable) = list_all(cloud.as_ref()).await;
            post(&inbox, Word::Listing { asked_at, found, readable });
        });
    }
}

async fn list_all(cloud: &dyn Cloud) -> (Option<Vec<(VmFacts, Said)>>, bool) {
    let mut found = Vec::new();
    let mut from = None;
    let mut complete = true;
    loop {
        let Ok(ListPage { vms, said, next, complete: whole }) = cloud.list(from.take()).await else {
            return (None, false);
        };
        complete &= whole;
        found.extend(vms.into_iter().map(|facts| (facts, said)));
        match next {
            Some(next) => from = Some(next),
            None => return (complete.then_some(found), true),
        }
    }
}

pub(super) fn post(inbox: &Inbox, word: Word) {
    inbox.lock().expect(UNPOISONED).push_back(word);
}

/// Who owns the shards: this node, in its latest life.
pub(super) struct SimOwnership {
    pub(super) epoch: Arc<AtomicU64>,
    pub(super) faults: FaultPlan,
}

#[async_trait]
impl Coordination for SimOwnership {
    async fn claim(&self, _: ShardId) -> Result<Epoch, CoordinationError> {
        Ok(Epoch(self.epoch.fetch_add(1, Ordering::Relaxed) + 1))
    }

    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        if self.faults.next(Port::Coordination).is_some() {
            return Err(CoordinationError::Unavailable("no answer".into()));
        }
        if epoch.0 == self.epoch.load(Ordering::Relaxed) { Ok(()) } else { Err(CoordinationError::NotOwner(shard)) }
    }
}

/// Hands a new VM to its own supervisor, through the inbox.
pub(super) struct SimIntroducer(pub(super) Inbox);

#[async_trait]
impl Introducer for SimIntroducer {
    async fn introduce(&self, vm: VmId, _: &CloudName, input: VmInput) -> Result<(), String> {
        let (done, committed) = oneshot::channel();
        post(&self.0, Word::Input { vm, input: Box::new(input), done: Some(done) });
        committed.await.map_err(|_| "the supervisor was restarted".to_owned())
    }

    async fn report(&self, _: &ReplyTo, _: &str, _: Vec<u8>) -> Result<(), String> {
        Ok(())
    }
}

/// Letters to people, kept by their key.
pub(super) struct SimPost {
    pub(super) clock: SimClock,
    pub(super) faults: FaultPlan,
    pub(super) letters: Arc<Mutex<BTreeMap<(VmId, EffectKey), Letter>>>,
}

#[async_trait]
impl Notifier for SimPost {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let deliver = || {
            let before = self.letters.lock().expect(UNPOISONED).insert((letter.vm, letter.key), letter.clone());
            // The users of a letter may have changed between two tries; what it says may not.
            assert!(before.is_none_or(|before| before.notice == letter.notice), "one key, two letters: {letter:?}");
        };
        match self.faults.next(Port::Notifier) {
            None => deliver(),
            Some(Trouble::Slow) => {
                self.clock.sleep(Duration::from_secs(20)).await;
                deliver();
            }
            Some(Trouble::LostAfter) => {
                deliver();
                return Err(NotifierError::Unavailable("the answer was lost".into()));
            }
            Some(_) => return Err(NotifierError::Unavailable("503".into())),
        }
        Ok(())
    }
}

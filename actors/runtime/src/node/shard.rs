//! The owner of a shard: claims it, loads its records, and keeps one supervisor per VM.
//!
//! ```text
//! Claiming ─► Loading (page by page) ─► Open ─ fenced ─► stops; the node starts it anew, with a new claim
//!   │  ▲ asks again
//!   └──┴ Elsewhere: another node owns it; nothing is taken in for it here
//!
//! a VM:  Loading ─► Live ─ ended ─► Loading (from the store, after a wait) …
//!           └─ unreadable ─► Parked (said once, listed, never overwritten)
//! ```
//!
//! What arrives before a record is loaded waits: nothing is taken for a new VM that is in the store.
//!
//! Strategy: one for one. Intensity: `Limit::VM` per VM, from the outside the same as for a supervisor's own children.

mod load;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use reeve_lifecycle::record::Hold;
use reeve_lifecycle::{Ignored, Verdict, VmInput, VmRecord};
use reeve_ports::store::Stored;
use reeve_protocol::command::{CommandKind, Refusal, RefusalCode};
use reeve_protocol::observation::VmFacts;
use reeve_protocol::{CloudName, Epoch, ShardId, Timestamp, VmId};
use tokio::sync::oneshot;

use self::load::{decode, loading, reload};
use crate::actor::{
    ArbiterPool, End, Envelope, InputReply, Intensity, Limit, OwnedVm, ShardTerm, ToVm, VmHandle, VmLink, VmOwner,
    spawn_vm,
};
use crate::node::router::Standing;
use crate::perform::Ownership;
use crate::performer::Task;
use crate::shared::Shared;

/// How many inputs wait for one VM that is being loaded. Past it senders are told to come again.
const MAX_WAITING: usize = 1024;

/// An input on its way to a VM.
pub(crate) struct Routed {
    pub(crate) vm: VmId,
    /// The cloud that speaks of it, for a VM that is not known.
    pub(crate) cloud: Option<CloudName>,
    pub(crate) input: VmInput,
    pub(crate) reply: Option<oneshot::Sender<InputReply>>,
}

impl Routed {
    fn answer(self, reply: InputReply) {
        if let Some(sender) = self.reply {
            // Whoever asked may have gone.
            let _ = sender.send(reply);
        }
    }

    fn envelope(self) -> ToVm {
        ToVm::Input(Box::new(Envelope::new(self.input, self.reply)))
    }
}

/// What every VM of a shard is told.
#[derive(Clone)]
pub(crate) enum Broadcast {
    /// The clock was set.
    Rearm,
    /// A hold begins or ends, for the VMs of a cloud or for all.
    Hold { cloud: Option<Arc<CloudName>>, hold: Hold, begins: bool },
    /// A complete listing of a cloud, asked for at this time, showed these.
    Listed { cloud: Arc<CloudName>, asked_at: Timestamp, seen: Arc<std::collections::BTreeSet<VmId>> },
}

/// Where a VM is found.
pub(crate) enum Found {
    /// Supervised.
    Live(VmHandle),
    /// Its record cannot be read.
    Parked(String),
    /// Being loaded.
    Loading,
}

/// What the owner is told.
pub(crate) enum ToShard {
    /// The shard is ours from this epoch on.
    Claimed(Epoch),
    /// Another node owns the shard; it is asked for again.
    Elsewhere,
    /// A page of its records.
    Page(Vec<Stored>),
    /// That was the last page.
    Loaded,
    /// An input for a VM.
    Route(Box<Routed>),
    /// A supervisor ended.
    Down { vm: VmId, incarnation: u64, end: End },
    /// A record was read again.
    Reloaded { vm: VmId, stored: Result<Option<Stored>, String> },
    /// Something for every VM.
    Broadcast(Broadcast),
    /// The VMs after an id, in the order of their ids.
    After { after: Option<VmId>, limit: usize, reply: oneshot::Sender<Vec<(VmId, Found)>> },
    /// One VM.
    Find { vm: VmId, reply: oneshot::Sender<Option<Found>> },
    /// How many VMs there are.
    Count(oneshot::Sender<usize>),
    /// Stop every supervisor in order; answered when they have ended.
    Halt(oneshot::Sender<()>),
}

/// A VM of the shard.
enum Slot {
    Live { vm: OwnedVm, incarnation: u64 },
    Loading { waiting: Vec<Routed>, _task: Option<Task> },
    Parked { reason: String },
}

/// The owner of a shard.
pub(super) struct ShardOwner;

/// What an owner is started with.
pub(super) struct ShardArguments {
    pub(super) shared: Arc<Shared>,
    pub(super) arbiters: Arc<ArbiterPool>,
    pub(super) shard: ShardId,
    pub(super) ready: Arc<super::Readiness>,
}

/// The state of an owner.
pub(super) struct ShardState {
    shared: Arc<Shared>,
    arbiters: Arc<ArbiterPool>,
    shard: ShardId,
    ready: Arc<super::Readiness>,
    term: Option<Arc<ShardTerm>>,
    vms: BTreeMap<VmId, Slot>,
    troubles: BTreeMap<VmId, Intensity>,
    incarnations: u64,
    /// Inputs that came before everything was loaded; `None` once it is.
    early: Option<Vec<Routed>>,
    holds: Vec<(Option<Arc<CloudName>>, Hold)>,
    halting: Option<oneshot::Sender<()>>,
    _loading: Task,
}

struct Owner(ActorRef<ToShard>);

impl VmOwner for Owner {
    fn down(&self, vm: VmId, incarnation: u64, end: End) {
        // An owner that has ended has no use for it.
        let _ = self.0.send_message(ToShard::Down { vm, incarnation, end });
    }
}

impl Actor for ShardOwner {
    type Msg = ToShard;
    type State = ShardState;
    type Arguments = ShardArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<ToShard>,
        arguments: ShardArguments,
    ) -> Result<ShardState, ActorProcessingErr> {
        let ShardArguments { shared, arbiters, shard, ready } = arguments;
        let task = tokio::spawn(loading(Arc::clone(&shared), shard, myself.clone()));
        shared.router.stands(shard, Standing::Claiming);
        shared.router.register(shard, myself);
        Ok(ShardState {
            shared,
            arbiters,
            shard,
            ready,
            term: None,
            vms: BTreeMap::new(),
            troubles: BTreeMap::new(),
            incarnations: 0,
            early: Some(Vec::new()),
            holds: Vec::new(),
            halting: None,
            _loading: Task::new(&task),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ToShard>,
        message: ToShard,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ToShard::Claimed(epoch) => state.claimed(epoch, &myself),
            ToShard::Elsewhere => state.elsewhere(),
            ToShard::Page(page) => {
                for stored in page {
                    state.loaded(stored).await;
                }
            }
            ToShard::Loaded => {
                for routed in state.early.take().into_iter().flatten() {
                    state.route(routed, &myself).await;
                }
                state.ready.mark(state.shard);
            }
            ToShard::Route(routed) => state.route(*routed, &myself).await,
            ToShard::Down { vm, incarnation, end } => state.down(vm, incarnation, end, &myself),
            ToShard::Reloaded { vm, stored } => state.reloaded(vm, stored, &myself).await,
            ToShard::Broadcast(broadcast) => state.broadcast(broadcast),
            ToShard::After { after, limit, reply } => {
                let _ = reply.send(state.after(after, limit));
            }
            ToShard::Find { vm, reply } => {
                let _ = reply.send(state.vms.get(&vm).map(found));
            }
            ToShard::Count(reply) => {
                let _ = reply.send(state.vms.len());
            }
            ToShard::Halt(done) => state.halt(done),
        }
        Ok(())
    }
}

fn found(slot: &Slot) -> Found {
    match slot {
        Slot::Live { vm, .. } => Found::Live(vm.handle().clone()),
        Slot::Loading { .. } => Found::Loading,
        Slot::Parked { reason } => Found::Parked(reason.clone()),
    }
}

impl ShardState {
    /// What waits here goes to the owner instead: whoever sent it learns where the shard is from the router.
    fn elsewhere(&mut self) {
        self.shared.router.stands(self.shard, Standing::Elsewhere);
        self.early = Some(Vec::new());
        // The node is ready when every shard is loaded by whoever owns it.
        self.ready.mark(self.shard);
    }

    fn claimed(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        self.shared.router.stands(self.shard, Standing::Owned);
        let ownership = Ownership {
            shard: self.shard,
            epoch,
            coordination: Arc::clone(&self.shared.coordination),
            introducer: Arc::clone(&self.shared.router) as Arc<_>,
        };
        self.term = Some(Arc::new(ShardTerm {
            shared: Arc::clone(&self.shared),
            ownership: Arc::new(ownership),
            owner: Arc::new(Owner(myself.clone())),
        }));
    }

    async fn loaded(&mut self, stored: Stored) {
        let vm = stored.vm;
        match decode(&stored) {
            Ok(record) => self.start(record).await,
            Err(reason) => self.park(vm, reason),
        }
    }

    fn park(&mut self, vm: VmId, reason: String) {
        tracing::error!(%vm, %reason, "a stored record cannot be read; it is left as it is");
        if let Some(Slot::Loading { waiting, .. }) = self.vms.insert(vm, Slot::Parked { reason: reason.clone() }) {
            waiting.into_iter().for_each(|routed| routed.answer(parked(vm, &reason)));
        }
    }

    /// Starts the supervisor of a record, and hands over what waited for it.
    async fn start(&mut self, record: VmRecord) {
        let Some(term) = self.term.clone() else { return };
        let vm = record.vm;
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let link = VmLink::new(Arc::clone(&term.owner), vm, incarnation);
        let arbiter = match self.arbiters.get(usize::from(self.shard.0)).await {
            Ok(arbiter) => arbiter,
            Err(error) => {
                tracing::warn!(%vm, %error, "a supervisor cannot be started");
                return;
            }
        };
        let started = spawn_vm(&arbiter, term, record, link);
        for (cloud, hold) in &self.holds {
            started.handle().send(ToVm::Hold { cloud: cloud.clone(), hold: *hold, begins: true });
        }
        let handle = started.handle().clone();
        handle.send(ToVm::Begin);
        if let Some(Slot::Loading { waiting, .. }) = self.vms.insert(vm, Slot::Live { vm: started, incarnation }) {
            waiting.into_iter().for_each(|routed| handle.send(routed.envelope()));
        }
    }

    async fn route(&mut self, routed: Routed, myself: &ActorRef<ToShard>) {
        if let Some(early) = &mut self.early {
            if !self.shared.owns(self.shard) {
                // Dropped: see `elsewhere`.
                return;
            }
            if early.len() < MAX_WAITING {
                early.push(routed);
            } else {
                routed.answer(InputReply::Busy);
            }
            return;
        }
        if self.halting.is_some() {
            return;
        }
        match self.vms.get_mut(&routed.vm) {
            Some(Slot::Live { vm, .. }) => vm.handle().send(routed.envelope()),
            Some(Slot::Loading { waiting, .. }) if waiting.len() < MAX_WAITING => waiting.push(routed),
            Some(Slot::Loading { .. }) => routed.answer(InputReply::Busy),
            Some(Slot::Parked { reason }) => {
                let reply = parked(routed.vm, reason);
                routed.answer(reply);
            }
            None => self.unknown(routed, myself).await,
        }
    }

    /// An input for a VM that has no record.
    async fn unknown(&mut self, routed: Routed, myself: &ActorRef<ToShard>) {
        let facts: &VmFacts = match &routed.input {
            VmInput::Notified(notification) => &notification.facts,
            VmInput::Listed { facts, .. } | VmInput::Introduced { facts, .. } => facts,
            VmInput::Commanded { command, .. } => {
                if command.kind == CommandKind::VmAdopt {
                    self.adopt(routed, myself);
                } else {
                    let refusal = Refusal::new(RefusalCode::NotFound, format!("no VM {} is known", routed.vm));
                    routed.answer(InputReply::Refused(refusal));
                }
                return;
            }
            VmInput::Missing { .. }
            | VmInput::Probed { .. }
            | VmInput::EffectDone { .. }
            | VmInput::Published { .. }
            | VmInput::PolicyAssigned { .. }
            | VmInput::HoldRaised(_)
            | VmInput::HoldLifted(_)
            | VmInput::ChildExhausted(_)
            | VmInput::ChildRecovered(_)
            | VmInput::Tick => return routed.answer(InputReply::Verdict(Verdict::Ignored(Ignored::Over))),
        };
        let Some(cloud) = routed.cloud.clone() else {
            return routed.answer(InputReply::Verdict(Verdict::Ignored(Ignored::Over)));
        };
        let policy = self.shared.policies.resolve(facts).policy;
        let vm = routed.vm;
        self.start(VmRecord::unseen(vm, cloud, policy)).await;
        if let Some(Slot::Live { vm, .. }) = self.vms.get(&vm) {
            vm.handle().send(routed.envelope());
        }
    }

    /// Asks the clouds for the VM, tells its supervisor what they say, and then the command.
    fn adopt(&mut self, routed: Routed, myself: &ActorRef<ToShard>) {
        let task = tokio::spawn(load::adopt(Arc::clone(&self.shared), routed, myself.clone()));
        // It ends by itself, within the time of a call for each cloud.
        drop(task);
    }

    fn down(&mut self, vm: VmId, incarnation: u64, end: End, myself: &ActorRef<ToShard>) {
        let Entry::Occupied(mut slot) = self.vms.entry(vm) else { return };
        if !matches!(slot.get(), Slot::Live { incarnation: live, .. } if *live == incarnation) {
            return;
        }
        let again = match end {
            End::Halted | End::Idle | End::Purged => {
                slot.remove();
                self.troubles.remove(&vm);
                return self.halted();
            }
            End::Parked(reason) => {
                slot.remove();
                return self.park(vm, reason);
            }
            End::Fenced => {
                slot.remove();
                tracing::error!(shard = %self.shard, "the shard has another owner; this one stops");
                // Until the successor's claim tells where the shard is.
                self.shared.router.stands(self.shard, Standing::Claiming);
                return myself.stop(Some("fenced".to_owned()));
            }
            End::Panicked | End::Lost | End::Killed | End::Restart => end,
        };
        if self.halting.is_some() {
            slot.remove();
            return self.halted();
        }
        self.shared.counters.child_restarts.fetch_add(1, Ordering::Relaxed);
        let elapsed = self.shared.clock.elapsed();
        let trouble = self.troubles.entry(vm).or_default();
        // Nobody was told of it, so nobody is told that it is over.
        let _ = trouble.recovers(Limit::VM, elapsed);
        let attempt = trouble.ended(Limit::VM, elapsed);
        if again == End::Panicked {
            tracing::error!(%vm, wait = ?attempt.wait, "a supervisor panicked; it is started again");
        } else {
            tracing::warn!(%vm, end = ?again, wait = ?attempt.wait, "a supervisor ended; it is started again");
        }
        let task = tokio::spawn(reload(Arc::clone(&self.shared), self.shard, vm, attempt.wait, myself.clone()));
        slot.insert(Slot::Loading { waiting: Vec::new(), _task: Some(Task::new(&task)) });
    }

    async fn reloaded(&mut self, vm: VmId, stored: Result<Option<Stored>, String>, myself: &ActorRef<ToShard>) {
        if !matches!(self.vms.get(&vm), Some(Slot::Loading { .. })) {
            return;
        }
        match stored {
            Ok(Some(stored)) => self.loaded(stored).await,
            Ok(None) => {
                // It never was stored, or it was purged: what waited is about a VM that is not known.
                if let Some(Slot::Loading { waiting, .. }) = self.vms.remove(&vm) {
                    for routed in waiting {
                        Box::pin(self.route(routed, myself)).await;
                    }
                }
            }
            Err(reason) => self.park(vm, reason),
        }
    }

    fn broadcast(&mut self, broadcast: Broadcast) {
        if let Broadcast::Hold { cloud, hold, begins } = &broadcast {
            self.holds.retain(|(held, kind)| held != cloud || kind != hold);
            if *begins {
                self.holds.push((cloud.clone(), *hold));
            }
        }
        for (id, slot) in &self.vms {
            let Slot::Live { vm, .. } = slot else { continue };
            let vm = vm.handle();
            match &broadcast {
                Broadcast::Rearm => vm.send(ToVm::Rearm),
                Broadcast::Hold { cloud, hold, begins } => {
                    vm.send(ToVm::Hold { cloud: cloud.clone(), hold: *hold, begins: *begins });
                }
                Broadcast::Listed { cloud, asked_at, seen } => {
                    if !seen.contains(id) {
                        // A full mailbox has enough to do; the next listing tells it again.
                        let _ = vm.offer(ToVm::Absent { cloud: Arc::clone(cloud), asked_at: *asked_at });
                    }
                }
            }
        }
    }

    fn after(&self, after: Option<VmId>, limit: usize) -> Vec<(VmId, Found)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.vms.range((from, Unbounded)).take(limit).map(|(vm, slot)| (*vm, found(slot))).collect()
    }

    fn halt(&mut self, done: oneshot::Sender<()>) {
        self.halting = Some(done);
        for slot in self.vms.values() {
            if let Slot::Live { vm, .. } = slot {
                vm.handle().send(ToVm::Halt);
            }
        }
        self.halted();
    }

    /// Tells, once, that no supervisor is left.
    fn halted(&mut self) {
        let live = self.vms.values().any(|slot| matches!(slot, Slot::Live { .. }));
        if !live && let Some(done) = self.halting.take() {
            // Whoever asked may have run out of patience.
            let _ = done.send(());
        }
    }
}

fn parked(vm: VmId, reason: &str) -> InputReply {
    let message = format!("the stored record of {vm} cannot be read ({reason}); an operator is needed");
    InputReply::Refused(Refusal::new(RefusalCode::Unavailable, message))
}

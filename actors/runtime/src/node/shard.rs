//! The owner of a shard: claims it when it is wanted here, loads its records, keeps one supervisor per VM, and hands it
//! over.
//!
//! ```text
//!            wanted            claimed                        all pages
//! Elsewhere ────────► Claiming ────────► Loading (by pages) ────────────► Open
//!   ▲ ▲                  ▲ ▲                 │ │ lost, fenced              │ │
//!   │ └─ another has it ─┘ └─────────────────┼─┴───────────────────────────┘ │
//!   │                                        └─────── unwanted ──────────────┤
//!   └───── released ◄─ supervisors end ◄─ calls end, for a moment ◄──── Leaving
//!
//! a VM:  Loading ─► Live ─ ended, or not to be started ─► Loading (from the store, after a wait) …
//!           └─ unreadable, to the store or to its supervisor ─► Parked (said once, listed, never overwritten)
//! ```
//!
//! What arrives before a record is loaded waits: nothing is taken for a new VM that is in the store. An owner that dies
//! releases what it claimed ([`claim::Claim`]).
//!
//! Strategy: one for one. Intensity: `Limit::VM` per VM, from the outside the same as for a supervisor's own children.

mod claim;
mod load;
mod roster;
mod tenure;
mod vms;

use std::collections::BTreeMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use reeve_lifecycle::VmInput;
use reeve_lifecycle::record::Hold;
use reeve_ports::store::{Page, Stored};
use reeve_protocol::{CloudName, Epoch, ShardId, Timestamp, VmId};
use tokio::sync::oneshot;

use self::claim::Claim;
use self::load::owning;
pub(crate) use self::roster::{Roster, Vms};
use self::tenure::Tenure;
use crate::actor::{ArbiterPool, End, Envelope, InputReply, Intensity, OwnedVm, ToVm, VmHandle, VmOwner};
use crate::node::router::Standing;
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
    /// This node is to own the shard.
    Wanted,
    /// Another node owns the shard or is to own it.
    Elsewhere,
    /// The shard is ours.
    Claimed(Claim),
    /// The node stops: the shard is not claimed, and no claim is on its way any more.
    Unclaimed,
    /// A page of its records.
    Page(Epoch, Page),
    /// That was the last page.
    Loaded(Epoch),
    /// Another node is to own the shard: hand it over.
    Unwanted(Epoch),
    /// The claim is over: stop at once.
    Lost(Epoch),
    /// In a hand-over: nothing is on its way in the clouds, or it was awaited long enough.
    Quiet(Epoch),
    /// In a hand-over: the supervisors had their time.
    Overdue(Epoch),
    /// The shard is given up.
    Released(Epoch),
    /// An input for a VM.
    Route(Box<Routed>),
    /// A supervisor ended.
    Down { vm: VmId, incarnation: u64, end: End },
    /// A record was read again.
    Reloaded { epoch: Epoch, vm: VmId, stored: Result<Option<Stored>, String> },
    /// Something for every VM.
    Broadcast(Broadcast),
    /// The VMs after an id, in the order of their ids.
    After { after: Option<VmId>, limit: usize, reply: oneshot::Sender<Vec<(VmId, Found)>> },
    /// One VM.
    Find { vm: VmId, reply: oneshot::Sender<Option<Found>> },
    /// How many VMs there are.
    Count(oneshot::Sender<usize>),
    /// The node stops, as [`Shared::stopping`] says already: hand the shard over, whoever is to have it. Answered when it
    /// is released.
    Halt(oneshot::Sender<()>),
}

/// A VM of the shard.
enum Slot {
    Live { vm: OwnedVm, incarnation: u64 },
    Loading { waiting: Vec<Routed>, _task: Task },
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
    phase: Phase,
    tenure: Option<Tenure>,
    vms: Vms,
    troubles: BTreeMap<VmId, Intensity>,
    incarnations: u64,
    /// Inputs that came before everything was loaded.
    early: Vec<Routed>,
    holds: Vec<(Option<Arc<CloudName>>, Hold)>,
    /// The supervisors were told to end, and the shard is released when they have.
    halting: bool,
    /// Told when the shard is released, or turns out not to be claimed, because the node stops.
    stopping: Option<oneshot::Sender<()>>,
    owning: Option<Task>,
    leaving: Option<Task>,
}

/// How far the ownership has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not everything is loaded.
    Loading,
    /// Every VM is there.
    Open,
    /// It is handed over.
    Leaving,
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
        let task = tokio::spawn(owning(Arc::clone(&shared), shard, myself.clone()));
        shared.router.stands(shard, Standing::Claiming);
        let vms = Vms::default();
        shared.router.register(shard, myself, &vms);
        Ok(ShardState {
            shared,
            arbiters,
            shard,
            ready,
            phase: Phase::Loading,
            tenure: None,
            vms,
            troubles: BTreeMap::new(),
            incarnations: 0,
            early: Vec::new(),
            holds: Vec::new(),
            halting: false,
            stopping: None,
            owning: Some(Task::new(&task)),
            leaving: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ToShard>,
        message: ToShard,
        state: &mut ShardState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ToShard::Wanted => state.wanted(),
            ToShard::Elsewhere => state.elsewhere(),
            ToShard::Claimed(claim) => state.claimed(claim, &myself),
            ToShard::Unclaimed => state.unclaimed(),
            ToShard::Page(epoch, page) => state.page(epoch, page, &myself).await,
            ToShard::Loaded(epoch) => state.opened(epoch, &myself).await,
            ToShard::Unwanted(epoch) => state.unwanted(epoch, &myself),
            ToShard::Lost(epoch) => state.lost(epoch, &myself),
            ToShard::Quiet(epoch) => state.quiet(epoch, &myself),
            ToShard::Overdue(epoch) => state.overdue(epoch, &myself),
            ToShard::Released(epoch) => state.released(epoch, &myself),
            ToShard::Route(routed) => state.route(*routed, &myself).await,
            ToShard::Down { vm, incarnation, end } => state.down(vm, incarnation, end, &myself),
            ToShard::Reloaded { epoch, vm, stored } if state.is_current(epoch) => {
                state.reloaded(vm, stored, &myself).await;
            }
            // Of a term that is over: a record that was read then may have changed since.
            ToShard::Reloaded { .. } => {}
            ToShard::Broadcast(broadcast) => state.broadcast(broadcast),
            ToShard::After { after, limit, reply } => {
                let _ = reply.send(state.after(after, limit));
            }
            ToShard::Find { vm, reply } => {
                // What is not loaded yet, or comes up at another owner, may exist.
                let unknown = (!state.knows_all()).then_some(Found::Loading);
                let _ = reply.send(state.vms.read().get(&vm).map(found).or(unknown));
            }
            ToShard::Count(reply) => {
                let _ = reply.send(state.vms.read().len());
            }
            ToShard::Halt(done) => state.halt(done, &myself),
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

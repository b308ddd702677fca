//! The way to the owner of a VM. Inputs are posted in the order of the calls, so the order per VM is kept.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ractor::ActorRef;
use reeve_lifecycle::{Verdict, VmInput};
use reeve_ports::Clock;
use reeve_protocol::{CloudName, ShardId, VmId};
use tokio::sync::{oneshot, watch};

use super::shard::{Broadcast, Roster, Routed, ToShard, Vms};
use crate::actor::{InputReply, VmHandle};

/// How many times an input is sent that was lost with a supervisor, before it counts as the cause.
const MAX_TRIES: u32 = 5;
/// The wait before the second try; it grows fourfold: a supervisor that is restarted soon answers one of them.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The wait while the owner of a shard is being started.
const OWNER_WAIT: Duration = Duration::from_millis(200);
/// The wait while a VM takes nothing because too much of it is unpublished.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Where a shard is, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is being claimed or loaded: what is for it waits.
    Claiming,
    /// It is here.
    Owned,
    /// It is being handed over: what is for it goes to its queue, its VMs are still supervised here.
    Leaving,
    /// Another node has it: what is for it goes to its queue.
    Elsewhere,
}

impl Standing {
    /// Whether what is for the shard is taken in here.
    pub(crate) const fn takes(self) -> bool {
        match self {
            Self::Claiming | Self::Owned => true,
            Self::Leaving | Self::Elsewhere => false,
        }
    }
}

/// Ways to the owners of the shards of this node.
pub(crate) struct Router {
    shards: u16,
    owners: RwLock<Vec<Option<Owner>>>,
    standings: Vec<watch::Sender<Standing>>,
    clock: Arc<dyn Clock>,
}

/// The owner of a shard, and who its VMs are.
struct Owner {
    actor: ActorRef<ToShard>,
    roster: Roster,
}

/// An input to a VM.
#[derive(Debug, Clone)]
pub(crate) struct Sending {
    pub(crate) vm: VmId,
    pub(crate) cloud: Option<CloudName>,
    pub(crate) input: VmInput,
}

/// An input that was posted and whose answer is awaited.
pub(crate) struct Posted {
    sending: Sending,
    answer: Option<oneshot::Receiver<InputReply>>,
}

/// What came of an input.
#[derive(Debug)]
pub(crate) enum Delivered {
    /// It was taken.
    Verdict(Verdict),
    /// The VM cannot take it.
    Refused(reeve_protocol::command::Refusal),
    /// Its supervisor ended each time that it was sent.
    Poison,
    /// Another node owns its shard; nothing is committed here.
    Elsewhere,
}

impl Router {
    pub(crate) fn new(shards: u16, clock: Arc<dyn Clock>) -> Self {
        let standings = (0..shards).map(|_| watch::Sender::new(Standing::Claiming)).collect();
        Self { shards, owners: RwLock::new((0..shards).map(|_| None).collect()), standings, clock }
    }

    pub(crate) fn shard_of(&self, vm: VmId) -> ShardId {
        ShardId::of(vm, self.shards)
    }

    /// The owner of a shard has been started.
    pub(crate) fn register(&self, shard: ShardId, actor: ActorRef<ToShard>, vms: &Vms) {
        let owner = Owner { actor, roster: vms.roster() };
        self.owners.write().unwrap_or_else(PoisonError::into_inner)[usize::from(shard.0)] = Some(owner);
    }

    /// Where a shard is, from now on.
    pub(crate) fn stands(&self, shard: ShardId, standing: Standing) {
        self.standings[usize::from(shard.0)].send_replace(standing);
    }

    pub(crate) fn standing(&self, shard: ShardId) -> Standing {
        *self.standings[usize::from(shard.0)].borrow()
    }

    /// Waits until a shard stands so.
    pub(crate) async fn until(&self, shard: ShardId, so: impl Fn(Standing) -> bool) {
        let mut receiver = self.standings[usize::from(shard.0)].subscribe();
        let reached = receiver.wait_for(|now| so(*now)).await;
        reached.expect("the sender lives in self, which this future borrows");
    }

    pub(crate) fn owner(&self, shard: ShardId) -> Option<ActorRef<ToShard>> {
        self.registered()[usize::from(shard.0)].as_ref().map(|owner| owner.actor.clone())
    }

    /// The supervisor of a VM, if one runs here. Whoever only looks need not wait for the shard's owner; what is an input
    /// goes through it, for the order.
    pub(crate) fn live(&self, vm: VmId) -> Option<VmHandle> {
        self.registered()[usize::from(self.shard_of(vm).0)].as_ref()?.roster.live(vm)
    }

    fn registered(&self) -> RwLockReadGuard<'_, Vec<Option<Owner>>> {
        self.owners.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn owners(&self) -> Vec<ActorRef<ToShard>> {
        self.registered().iter().flatten().map(|owner| owner.actor.clone()).collect()
    }

    /// Tells every VM of this node.
    pub(crate) fn broadcast(&self, broadcast: &Broadcast) {
        for owner in self.owners() {
            // An owner that is being restarted tells its VMs what it is told when it registers.
            let _ = owner.send_message(ToShard::Broadcast(broadcast.clone()));
        }
    }

    /// Posts an input; [`Router::answer`] awaits what comes of it.
    pub(crate) fn post(&self, sending: Sending) -> Posted {
        let answer = self.try_post(&sending);
        Posted { sending, answer }
    }

    fn try_post(&self, sending: &Sending) -> Option<oneshot::Receiver<InputReply>> {
        let owner = self.owner(self.shard_of(sending.vm))?;
        let (sender, receiver) = oneshot::channel();
        let Sending { vm, cloud, input } = sending.clone();
        let routed = Routed { vm, cloud, input, reply: Some(sender) };
        owner.send_message(ToShard::Route(Box::new(routed))).is_ok().then_some(receiver)
    }

    /// What came of a posted input. Waits as long as the store is away or the VM is busy; sends again what was lost
    /// with a supervisor.
    pub(crate) async fn answer(&self, posted: Posted) -> Delivered {
        let Posted { sending, mut answer } = posted;
        let mut tries = 1;
        let mut wait = FIRST_WAIT;
        let shard = self.shard_of(sending.vm);
        loop {
            let pause = match answer {
                None => OWNER_WAIT,
                Some(receiver) => match receiver.await {
                    Ok(InputReply::Verdict(Verdict::Busy) | InputReply::Busy) => BUSY_WAIT,
                    Ok(InputReply::Unheard) if !self.standing(shard).takes() => return Delivered::Elsewhere,
                    Ok(InputReply::Unheard) => FIRST_WAIT,
                    Ok(InputReply::Verdict(verdict)) => return Delivered::Verdict(verdict),
                    Ok(InputReply::Refused(refusal)) => return Delivered::Refused(refusal),
                    Err(_) if !self.standing(shard).takes() => return Delivered::Elsewhere,
                    // The owner of the shard ended, not the VM's supervisor by this input.
                    Err(_) if self.standing(shard) == Standing::Claiming => OWNER_WAIT,
                    Err(_) if tries >= MAX_TRIES => return Delivered::Poison,
                    Err(_) => {
                        tries += 1;
                        wait *= 4;
                        wait / 4
                    }
                },
            };
            self.clock.sleep(pause).await;
            if !self.standing(shard).takes() {
                return Delivered::Elsewhere;
            }
            answer = self.try_post(&sending);
        }
    }

    /// Posts an input and awaits what comes of it.
    pub(crate) async fn deliver(&self, sending: Sending) -> Delivered {
        let posted = self.post(sending);
        self.answer(posted).await
    }
}

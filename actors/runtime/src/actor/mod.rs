//! The per-VM tree on actix arbiters. The only module that names actix.
//!
//! ```text
//! ShardOwner (ractor) ── VmSupervisor ── LeaseTimer     always
//!                                     ├─ Poller         while the VM's health is judged
//!                                     ├─ Repairer       ┐
//!                                     ├─ BackupWorker   ├ while there is work (one type, three roles)
//!                                     └─ ActionWorker   ┘
//! ```
//!
//! actix's own supervisor does not survive a panic, so supervision is ours: each actor owns a [`link`] whose `Drop`
//! tells its parent how it ended, whether it stopped, was killed, panicked, or went down with its arbiter thread.

mod arbiters;
mod effect_worker;
mod intensity;
mod lease_timer;
mod link;
mod poller;
mod seldom;
mod sleeping;
mod starting;
mod supervisor;
mod system;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::{Message, WeakAddr};
use reeve_lifecycle::record::Hold;
use reeve_lifecycle::{EffectKey, Outcome, Verdict, VmInput, VmRecord};
use reeve_protocol::admin::ActorView;
use reeve_protocol::command::Refusal;
use reeve_protocol::event::Child;
use reeve_protocol::{CloudName, Generation, Timestamp, VmId};
use tokio::sync::oneshot;

pub(crate) use self::arbiters::ArbiterPool;
pub(crate) use self::intensity::{Intensity, Limit};
pub(crate) use self::link::End;
pub(crate) use self::starting::{NewVm, Starting};
pub use self::system::run_system;
use crate::perform::Ownership;
use crate::shared::{Over, Shared};

/// The answer to an input.
#[derive(Debug)]
pub(crate) enum InputReply {
    /// How it was taken; what it changed is committed.
    Verdict(Verdict),
    /// The VM cannot take it, and will not until somebody does something about it.
    Refused(Refusal),
    /// Too much waits here already: offer it again later.
    Busy,
    /// The supervisor ended before it looked at it: offer it again.
    Unheard,
}

/// How far the decision about an input has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was done about it.
    Waiting,
    /// It is being decided. What ends a supervisor now may be this input's fault.
    Deciding,
}

/// An input on its way to a supervisor. Dropped while it waits, it is answered [`InputReply::Unheard`]; dropped while it
/// is being decided, its sender learns from the missing answer that it may be lost, and may be the cause.
pub(crate) struct Envelope {
    pub(crate) input: VmInput,
    reply: Option<oneshot::Sender<InputReply>>,
    stage: Stage,
}

impl Envelope {
    pub(crate) fn new(input: VmInput, reply: Option<oneshot::Sender<InputReply>>) -> Self {
        Self { input, reply, stage: Stage::Waiting }
    }

    /// It is being decided from now on.
    fn decide(&mut self) {
        self.stage = Stage::Deciding;
    }

    /// It waits again.
    fn wait(&mut self) {
        self.stage = Stage::Waiting;
    }

    fn answer(mut self, reply: InputReply) {
        if let Some(sender) = self.reply.take() {
            // Whoever asked may have gone; the decision stands.
            let _ = sender.send(reply);
        }
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        if self.stage == Stage::Waiting
            && let Some(sender) = self.reply.take()
        {
            let _ = sender.send(InputReply::Unheard);
        }
    }
}

/// Whether there was somebody to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It was told.
    Yes,
    /// No such child runs now.
    NoSuchChild,
}

/// What is told of how a supervisor ended.
pub(crate) trait VmOwner: Send + Sync + 'static {
    /// A supervisor has ended.
    fn down(&self, vm: VmId, incarnation: u64, end: End);
}

/// What all supervisors of a shard share.
pub(crate) struct ShardTerm {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) owner: Arc<dyn VmOwner>,
    /// Until when what a predecessor began may still be on its way, by the boot-time clock.
    pub(crate) quarantine: Duration,
    /// The term is over: nothing is written or done in its name any more.
    pub(crate) over: Arc<Over>,
}

/// What a supervisor is told.
pub(crate) enum ToVm {
    /// Decide.
    Input(Box<Envelope>),
    /// A complete listing of this cloud lacks the VM.
    Absent { cloud: Arc<CloudName>, asked_at: Timestamp },
    /// A hold begins or ends, for the VMs of a cloud or for all.
    Hold { cloud: Option<Arc<CloudName>>, hold: Hold, begins: bool },
    /// The clock was set: every timer looks again.
    Rearm,
    /// Show the record.
    Look(Box<dyn FnOnce(&VmRecord) + Send>),
    /// Show the actors.
    Tree(oneshot::Sender<ActorView>),
    /// Go on where the predecessor ended. Sent first, after the holds that stand.
    Begin,
    /// Kill a child, or the supervisor itself.
    Kill(Option<Child>, oneshot::Sender<Told>),
    /// Stop a child in order and start it again, or the supervisor itself.
    Restart(Option<Child>, oneshot::Sender<Told>),
    /// Stop in order: the commit under way is awaited, what waits behind it is not decided, and what the bus has confirmed
    /// is written down. The link says when it is done.
    Halt,
    /// The wait before the effects of a predecessor, or before a deadline that was missed, is over.
    Wake,
    /// The wait before a child is started again is over.
    ChildAgain(Child),
    /// The bus has confirmed the VM's events up to this sequence.
    Published { through: u64 },
    /// Write down what is confirmed, if nothing was written since this generation.
    Record { since: Generation },
    /// An effect was performed.
    Performed { key: EffectKey, outcome: Outcome },
    /// A child ended by itself.
    ChildDown { child: Child, incarnation: u32 },
}

impl Message for ToVm {
    type Result = ();
}

/// How many messages are on their way to a supervisor before what comes again by itself is turned away.
const MAX_OFFERED: u32 = 16;

/// How many messages are on their way to a supervisor.
#[derive(Clone, Default)]
struct Depth(Arc<AtomicU32>);

impl Depth {
    fn sent(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn received(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A way to a supervisor. It does not keep it.
#[derive(Clone)]
pub(crate) struct VmHandle {
    address: WeakAddr<supervisor::VmSupervisor>,
    depth: Depth,
}

impl VmHandle {
    /// Sends without a bound; for those whose own work is bounded. Dropped, when the supervisor has ended.
    pub(crate) fn send(&self, message: ToVm) {
        if let Some(address) = self.address.upgrade() {
            self.depth.sent();
            address.do_send(message);
        }
    }

    /// Sends unless much waits already; gives up then.
    pub(crate) fn offer(&self, message: ToVm) -> bool {
        let has_room = self.depth.now() < MAX_OFFERED;
        if has_room {
            self.send(message);
        }
        has_room
    }

    /// What this function makes of the record; `None` when the supervisor has ended.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        function: impl FnOnce(&VmRecord) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.send(ToVm::Look(Box::new(move |record| {
            // Whoever asked may have gone.
            let _ = sender.send(function(record));
        })));
        receiver.await.ok()
    }
}

/// A handle whose holder owns the supervisor: dropped, the supervisor is told to stop.
pub(crate) struct OwnedVm(VmHandle);

impl OwnedVm {
    pub(crate) fn handle(&self) -> &VmHandle {
        &self.0
    }
}

impl Drop for OwnedVm {
    fn drop(&mut self) {
        self.0.send(ToVm::Halt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_by_itself_is_turned_away_by_a_full_mailbox() {
        let unread = actix::Context::<supervisor::VmSupervisor>::new();
        let handle = VmHandle { address: actix::AsyncContext::address(&unread).downgrade(), depth: Depth::default() };
        let taken = (0..20).filter(|_| handle.offer(ToVm::Rearm)).count();
        assert_eq!(taken, MAX_OFFERED as usize);
        handle.send(ToVm::Rearm);
        assert_eq!(handle.depth.now(), MAX_OFFERED + 1);
        handle.depth.received();
        handle.depth.received();
        assert!(handle.offer(ToVm::Rearm) && !handle.offer(ToVm::Rearm));
    }

    #[test]
    fn only_an_input_that_was_being_decided_leaves_its_sender_without_an_answer() {
        let envelope = || {
            let (sender, receiver) = oneshot::channel();
            (Envelope::new(VmInput::Tick, Some(sender)), receiver)
        };
        let (waiting, mut answer) = envelope();
        drop(waiting);
        assert!(matches!(answer.try_recv(), Ok(InputReply::Unheard)));
        let (mut deciding, mut answer) = envelope();
        deciding.decide();
        drop(deciding);
        assert_eq!(answer.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
        let (mut held, mut answer) = envelope();
        held.decide();
        held.wait();
        drop(held);
        assert!(matches!(answer.try_recv(), Ok(InputReply::Unheard)));
    }
}

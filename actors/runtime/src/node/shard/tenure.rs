//! The life of an ownership: claimed, loaded, handed over, lost.
//!
//! Hand-over, in this order: nothing new is taken in or begun in the clouds; calls on their way are awaited for a
//! moment, while the supervisors go on; each supervisor finishes its commit and ends; the shard is released. Lost: all of
//! it ends at once, without a word to the store or the clouds.
//!
//! Whatever hangs, it ends: calls have [`ACTS_END`], supervisors [`COMMITS_END`], a load nothing. A release that fails is
//! tried on and keeps no other shard waiting.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ractor::ActorRef;
use reeve_lifecycle::record::Hold;
use reeve_ports::Coordination;
use reeve_ports::coordination::{CoordinationError, Skew};
use reeve_protocol::{Epoch, ShardId};
use tokio::sync::oneshot;

use super::load::{handing_over, owning, releasing};
use super::{Claim, Owner, Phase, ShardState, Slot, ToShard};
use crate::actor::{ShardTerm, ToVm};
use crate::node::consumer::ClusterIntroducer;
use crate::node::router::Standing;
use crate::perform::{Acts, Ownership};
use crate::performer::Task;
use crate::shared::{Over, Shared};

/// A term, with the claim that it rests on; both are over when this is dropped, whatever the reason.
pub(super) struct Tenure {
    term: Arc<ShardTerm>,
    claim: Claim,
}

impl Tenure {
    fn new(shared: &Arc<Shared>, shard: ShardId, claim: Claim, myself: &ActorRef<ToShard>) -> Self {
        let epoch = claim.epoch();
        let over = Arc::new(Over::default());
        let coordination = TermCoordination { shared: Arc::clone(shared), shard, over: Arc::clone(&over) };
        let ownership = Ownership {
            shard,
            epoch,
            coordination: Arc::new(coordination),
            introducer: Arc::new(ClusterIntroducer(Arc::clone(shared))),
            acts: Acts::default(),
        };
        let term = Arc::new(ShardTerm {
            shared: Arc::clone(shared),
            ownership: Arc::new(ownership),
            owner: Arc::new(Owner(myself.clone())),
            quarantine: shared.clock.elapsed() + shared.config.runtime.quarantine,
            over,
        });
        Self { term, claim }
    }

    pub(super) fn term(&self) -> &Arc<ShardTerm> {
        &self.term
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.claim.epoch()
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        // The claim is given up after this: nothing acts for it then.
        self.term.ownership.acts.close();
        self.term.over.begin();
    }
}

/// The coordination as the effects of one term see it.
struct TermCoordination {
    shared: Arc<Shared>,
    shard: ShardId,
    over: Arc<Over>,
}

#[async_trait]
impl Coordination for TermCoordination {
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError> {
        Err(CoordinationError::NotOwner(shard))
    }

    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        if self.over.has_begun() {
            return Err(CoordinationError::NotOwner(self.shard));
        }
        self.shared.trust.look_for_a_leap();
        if self.shared.trust.is_doubted() {
            return Err(CoordinationError::Unavailable("the wall clock is in doubt".to_owned()));
        }
        self.shared.coordination.confirm(shard, epoch).await
    }

    fn may_act(&self) -> bool {
        !self.over.has_begun() && self.shared.coordination.may_act()
    }

    fn holds(&self, shard: ShardId, epoch: Epoch) -> bool {
        !self.over.has_begun() && self.shared.coordination.holds(shard, epoch)
    }

    fn skew(&self) -> Skew {
        self.shared.coordination.skew()
    }
}

impl ShardState {
    /// Whether a message is about the term that lasts.
    pub(super) fn is_current(&self, epoch: Epoch) -> bool {
        self.tenure.as_ref().is_some_and(|tenure| tenure.epoch() == epoch)
    }

    /// Whether a VM that is not here has no record: everything is loaded, and nobody else can own the shard meanwhile.
    pub(super) fn knows_all(&self) -> bool {
        let holds = |tenure: &Tenure| self.shared.coordination.holds(self.shard, tenure.epoch());
        self.phase == Phase::Open && self.tenure.as_ref().is_some_and(holds)
    }

    /// This node is to own the shard.
    pub(super) fn wanted(&self) {
        self.shared.router.stands(self.shard, Standing::Claiming);
    }

    /// What waits here goes to the owner instead: whoever sent it learns where the shard is from the router.
    pub(super) fn elsewhere(&mut self) {
        self.shared.router.stands(self.shard, Standing::Elsewhere);
        self.early.clear();
        self.ready.mark(self.shard);
    }

    pub(super) fn claimed(&mut self, claim: Claim, myself: &ActorRef<ToShard>) {
        self.shared.router.stands(self.shard, Standing::Claiming);
        self.tenure = Some(Tenure::new(&self.shared, self.shard, claim, myself));
        self.troubles.clear();
        // It may have been on its way when the node began to stop.
        if self.shared.stopping.has_begun() {
            self.leave(myself);
        }
    }

    /// The node stops, and nothing was claimed.
    pub(super) fn unclaimed(&mut self) {
        self.owning = None;
        if let Some(done) = self.stopping.take() {
            self.stopped(done);
        }
    }

    /// Every record is loaded.
    pub(super) async fn opened(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        if !self.is_current(epoch) || self.phase != Phase::Loading {
            return;
        }
        self.phase = Phase::Open;
        for routed in std::mem::take(&mut self.early) {
            self.route(routed, myself).await;
        }
        if self.shared.trust.is_settled() {
            // A predecessor that doubted its clock has left its hold in the records.
            let lifted = super::Broadcast::Hold { cloud: None, hold: Hold::ClockUntrusted, begins: false };
            self.broadcast(lifted);
        }
        self.shared.router.stands(self.shard, Standing::Owned);
        self.ready.mark(self.shard);
        tracing::debug!(shard = %self.shard, epoch = epoch.0, vms = self.vms.read().len(), "the shard is here");
    }

    /// Another node is to own the shard.
    pub(super) fn unwanted(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        if self.is_current(epoch) && self.phase != Phase::Leaving {
            tracing::debug!(shard = %self.shard, epoch = epoch.0, "the shard is handed over");
            self.leave(myself);
        }
    }

    fn leave(&mut self, myself: &ActorRef<ToShard>) {
        let Some(tenure) = &self.tenure else { return };
        self.phase = Phase::Leaving;
        self.shared.router.stands(self.shard, Standing::Leaving);
        self.early.clear();
        let term = Arc::clone(tenure.term());
        term.ownership.acts.close();
        let task = tokio::spawn(handing_over(term, myself.clone()));
        self.leaving = Some(Task::new(&task));
    }

    /// Nothing is on its way in the clouds any more, or it was awaited long enough.
    pub(super) fn quiet(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        if !self.is_current(epoch) || self.phase != Phase::Leaving {
            return;
        }
        self.vms.write().retain(|_, slot| matches!(slot, Slot::Live { .. }));
        for slot in self.vms.read().values() {
            if let Slot::Live { vm, .. } = slot {
                vm.handle().send(ToVm::Halt);
            }
        }
        self.halting = true;
        self.halted(myself);
    }

    /// The supervisors had their time to end in order.
    pub(super) fn overdue(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        if self.is_current(epoch) && self.halting {
            tracing::warn!(shard = %self.shard, "not every supervisor has ended in time; none of them writes any more");
            if let Some(tenure) = &self.tenure {
                tenure.term().over.begin();
            }
            self.vms.clear();
            self.halted(myself);
        }
    }

    /// Releases the shard, once, when no supervisor is left.
    pub(super) fn halted(&mut self, myself: &ActorRef<ToShard>) {
        if !self.halting || self.vms.read().values().any(|slot| matches!(slot, Slot::Live { .. })) {
            return;
        }
        self.halting = false;
        let Some(tenure) = &self.tenure else { return };
        let task = tokio::spawn(releasing(Arc::clone(&self.shared), self.shard, tenure.epoch(), myself.clone()));
        self.leaving = Some(Task::new(&task));
    }

    /// The shard is given up.
    pub(super) fn released(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        if self.is_current(epoch) {
            self.again(Standing::Elsewhere, myself);
        }
    }

    /// The claim is over without a release: nothing is written or done any more.
    pub(super) fn lost(&mut self, epoch: Epoch, myself: &ActorRef<ToShard>) {
        if self.is_current(epoch) {
            tracing::warn!(shard = %self.shard, epoch = epoch.0, "the shard is lost; everything for it stops");
            // Until the next claim tells where it is.
            self.again(Standing::Claiming, myself);
        }
    }

    /// The store has refused a write of this term.
    pub(super) fn fenced(&mut self, myself: &ActorRef<ToShard>) {
        if let Some(epoch) = self.tenure.as_ref().map(Tenure::epoch) {
            tracing::warn!(shard = %self.shard, "a write was fenced: the shard has another owner");
            self.lost(epoch, myself);
        }
    }

    /// Ends the term, and waits to be wanted again.
    fn again(&mut self, standing: Standing, myself: &ActorRef<ToShard>) {
        self.shared.router.stands(self.shard, standing);
        // In this order: nothing acts for a term that is over.
        if let Some(mut tenure) = self.tenure.take() {
            tenure.claim.over();
        }
        self.vms.clear();
        self.early.clear();
        self.leaving = None;
        self.halting = false;
        self.phase = Phase::Loading;
        match self.stopping.take() {
            Some(done) => {
                // The node stops: the shard is not claimed again.
                self.stopped(done);
            }
            None => {
                let task = tokio::spawn(owning(Arc::clone(&self.shared), self.shard, myself.clone()));
                self.owning = Some(Task::new(&task));
            }
        }
    }

    fn stopped(&mut self, done: oneshot::Sender<()>) {
        self.owning = None;
        self.shared.router.stands(self.shard, Standing::Elsewhere);
        // Whoever asked may have run out of patience.
        let _ = done.send(());
    }

    /// The node stops.
    pub(super) fn halt(&mut self, done: oneshot::Sender<()>, myself: &ActorRef<ToShard>) {
        if self.tenure.is_none() && self.owning.is_none() {
            return self.stopped(done);
        }
        // Without a tenure a claim may be on its way: that it is made, or that there is none, comes next.
        self.stopping = Some(done);
        if self.phase != Phase::Leaving {
            self.leave(myself);
        }
    }
}

/// How long calls that are on their way are awaited in a hand-over.
pub(super) const ACTS_END: Duration = Duration::from_millis(200);
/// How long supervisors may take for the commit under way in a hand-over.
pub(super) const COMMITS_END: Duration = Duration::from_secs(1);

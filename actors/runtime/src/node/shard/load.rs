//! The slow parts of owning a shard, as tasks that answer by a message.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use ractor::ActorRef;
use reeve_lifecycle::VmInput;
use reeve_ports::coordination::CoordinationError;
use reeve_ports::{CloudError, StoreError};
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::observation::VmState;
use reeve_protocol::{Epoch, ShardId, VmId};

use super::tenure::{ACTS_END, COMMITS_END};
use super::{Claim, Routed, ToShard, claim};
use crate::actor::{InputReply, ShardTerm};
use crate::node::router::Standing;
use crate::perform::wait::{pause, within};
use crate::shared::Shared;

/// Records per page: a shard of ordinary size is one read, of about half a megabyte.
const PAGE: usize = 500;
/// The wait before a store or a coordination that is away is asked again; it doubles up to [`LAST_WAIT`].
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait: one that is back is noticed within it.
pub(super) const LAST_WAIT: Duration = Duration::from_millis(500);
/// Between two claims while the predecessor hands over.
const CLAIM_SOON: Duration = Duration::from_millis(20);
/// How many claims are made that soon after another.
const SOON_TRIES: u32 = 50;
/// Between two claims after that.
const CLAIM_LATER: Duration = Duration::from_millis(200);
/// How long the outcome of a call that has ended takes to its supervisor, at most.
const OUTCOMES: Duration = Duration::from_millis(10);

/// Owns the shard, from the wait to be wanted to its end.
pub(super) async fn owning(shared: Arc<Shared>, shard: ShardId, owner: ActorRef<ToShard>) {
    let Some(claim) = claimed(&shared, shard, &owner).await else {
        // An owner that has ended waits for nothing.
        let _ = owner.send_message(ToShard::Unclaimed);
        return;
    };
    let epoch = claim.epoch();
    if owner.send_message(ToShard::Claimed(claim)).is_err() {
        return;
    }
    let coordination = Arc::clone(&shared.coordination);
    let mut lost = coordination.until_lost(shard, epoch);
    let serving = Box::pin(async {
        let loading = std::pin::pin!(load(&shared, shard, epoch, &owner));
        // At any time: a store that is away keeps the shard from opening, and nobody else from having it.
        match select(shared.coordination.until_unwanted(shard), loading).await {
            Either::Left(((), _)) => {}
            Either::Right(((), unwanted)) => unwanted.await,
        }
    });
    match select(lost, serving).await {
        Either::Left(((), _)) => {}
        Either::Right(((), rest)) => {
            lost = rest;
            if owner.send_message(ToShard::Unwanted(epoch)).is_err() {
                return;
            }
            lost.await;
        }
    }
    // An owner that has ended has nothing to lose.
    let _ = owner.send_message(ToShard::Lost(epoch));
}

/// Claims the shard when it is wanted, as long as it takes; tells the owner where it is meanwhile. Nothing when the node
/// stops, or the owner has ended.
async fn claimed(shared: &Arc<Shared>, shard: ShardId, owner: &ActorRef<ToShard>) -> Option<Claim> {
    let mut told = None;
    let mut tell = |standing: Standing| {
        if told.replace(standing) == Some(standing) {
            return Some(());
        }
        let message = if standing == Standing::Elsewhere { ToShard::Elsewhere } else { ToShard::Wanted };
        owner.send_message(message).ok()
    };
    let mut tries: u32 = 0;
    loop {
        let mut wanted = shared.coordination.until_wanted(shard);
        if futures::poll!(&mut wanted).is_pending() {
            tell(Standing::Elsewhere)?;
            unless_stopping(shared, wanted).await?;
            tries = 0;
        }
        if shared.stopping.has_begun() {
            return None;
        }
        // Awaited even when the node stops meanwhile: who made a claim has to give it up.
        match shared.coordination.claim(shard).await {
            Ok(epoch) => return Some(Claim::new(shared, shard, epoch)),
            Err(error @ CoordinationError::NotOwner(_)) => {
                tracing::debug!(%shard, %error, "the shard is not claimed; it is asked for again");
                tell(Standing::Elsewhere)?;
            }
            Err(error @ (CoordinationError::Unavailable(_) | CoordinationError::Refused(_))) => {
                if tries == 0 {
                    tracing::warn!(%shard, %error, "the shard cannot be claimed; it is tried again");
                }
                // What is for it does not wait for an outage to end where another node is known to have it.
                let elsewhere = shared.elsewhere(shard).is_some();
                tell(if elsewhere { Standing::Elsewhere } else { Standing::Claiming })?;
            }
        }
        tries = tries.saturating_add(1);
        // A predecessor that hands over does so within a moment.
        let wait = if tries <= SOON_TRIES { CLAIM_SOON } else { CLAIM_LATER };
        unless_stopping(shared, shared.clock.sleep(wait)).await?;
    }
}

/// What comes of it, or nothing when the node stops before.
async fn unless_stopping<F: Future + Unpin>(shared: &Shared, future: F) -> Option<F::Output> {
    match select(std::pin::pin!(shared.stopping.begun()), future).await {
        Either::Left(((), _)) => None,
        Either::Right((output, _)) => Some(output),
    }
}

/// Loads the records, as long as it takes.
async fn load(shared: &Shared, shard: ShardId, epoch: Epoch, owner: &ActorRef<ToShard>) {
    let mut after = None;
    let mut wait = FIRST_WAIT;
    loop {
        match shared.store.load(shard, after, PAGE).await {
            Ok(page) => {
                wait = FIRST_WAIT;
                after = page.next;
                // An owner that has ended has no use for them.
                if owner.send_message(ToShard::Page(epoch, page)).is_err() {
                    return;
                }
                if after.is_none() {
                    let _ = owner.send_message(ToShard::Loaded(epoch));
                    return;
                }
            }
            Err(error) => {
                if wait == FIRST_WAIT {
                    tracing::warn!(%shard, %error, "the records cannot be loaded; it is tried again");
                }
                shared.clock.sleep(wait).await;
                wait = (wait * 2).min(LAST_WAIT);
            }
        }
    }
}

/// Lets what is on its way in the clouds end, and then the supervisors, each within its time.
pub(super) async fn handing_over(term: Arc<ShardTerm>, owner: ActorRef<ToShard>) {
    let (clock, epoch) = (term.shared.clock.as_ref(), term.ownership.epoch);
    if within(clock, ACTS_END, term.ownership.acts.over()).await.is_none() {
        tracing::debug!(shard = %term.ownership.shard, "calls are left to their ends; the next owner looks first");
    }
    // Their outcomes are on their way to the supervisors.
    clock.sleep(OUTCOMES).await;
    if owner.send_message(ToShard::Quiet(epoch)).is_err() {
        return;
    }
    pause(clock, COMMITS_END).await;
    let _ = owner.send_message(ToShard::Overdue(epoch));
}

/// Releases the shard, as long as it takes.
pub(super) async fn releasing(shared: Arc<Shared>, shard: ShardId, epoch: Epoch, owner: ActorRef<ToShard>) {
    claim::release(shared, shard, epoch).await;
    // An owner that has ended has released it as well.
    let _ = owner.send_message(ToShard::Released(epoch));
}

/// Reads one record again, after a wait, as long as it takes.
pub(super) async fn reload(
    shared: Arc<Shared>,
    (shard, epoch): (ShardId, Epoch),
    vm: VmId,
    wait: Duration,
    owner: ActorRef<ToShard>,
) {
    if !wait.is_zero() {
        shared.clock.sleep(wait).await;
    }
    let mut wait = FIRST_WAIT;
    let stored = loop {
        match shared.store.get(shard, vm).await {
            Ok(stored) => break Ok(stored),
            Err(StoreError::Damaged(why)) => break Err(why),
            Err(error) => tracing::warn!(%vm, %error, "a record cannot be read; it is tried again"),
        }
        shared.clock.sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    };
    // An owner that has ended has no use for it.
    let _ = owner.send_message(ToShard::Reloaded { epoch, vm, stored });
}

/// Looks for a VM in every cloud; where it is found, its supervisor hears of it first and then of the command.
pub(super) async fn adopt(shared: Arc<Shared>, routed: Routed, owner: ActorRef<ToShard>) {
    let mut silent = Vec::new();
    for (name, cloud) in &shared.ports.cloud {
        match within(shared.clock.as_ref(), shared.ports.timeouts.call, cloud.show(routed.vm)).await {
            // A cloud may show for a while what is gone.
            Some(Ok((facts, _))) if facts.state == VmState::Deleted => {}
            Some(Ok((facts, said))) => {
                let input = VmInput::Listed { facts, said };
                let listed = Routed { vm: routed.vm, cloud: Some(name.clone()), input, reply: None };
                // Lost with the owner, the command is sent again, and with it this.
                let _ = owner.send_message(ToShard::Route(Box::new(listed)));
                let _ = owner.send_message(ToShard::Route(Box::new(routed)));
                return;
            }
            Some(Err(CloudError::NotFound(_))) => {}
            Some(Err(error)) => silent.push(format!("{name}: {error}")),
            None => silent.push(format!("{name}: no answer in time")),
        }
    }
    let refusal = if silent.is_empty() {
        Refusal::new(RefusalCode::NotFound, format!("no cloud has a VM {}", routed.vm))
    } else {
        let message = format!("VM {} was not found, and not every cloud answered ({})", routed.vm, silent.join(", "));
        Refusal::new(RefusalCode::Unavailable, message)
    };
    routed.answer(InputReply::Refused(refusal));
}

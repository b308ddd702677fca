//! The slow parts of owning a shard, as tasks that answer by a message.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use reeve_lifecycle::record::RECORD_FORMAT;
use reeve_lifecycle::{VmInput, VmRecord};
use reeve_ports::coordination::CoordinationError;
use reeve_ports::store::Stored;
use reeve_ports::{CloudError, StoreError};
use reeve_protocol::command::{Refusal, RefusalCode};
use reeve_protocol::observation::VmState;
use reeve_protocol::{ShardId, VmId, codec};

use super::{Routed, ToShard};
use crate::actor::InputReply;
use crate::perform::wait::within;
use crate::shared::Shared;

/// Records per page.
const PAGE: usize = 256;
/// The wait before a store or a coordination that is away is asked again; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A stored record, or why it cannot be read.
pub(super) fn decode(stored: &Stored) -> Result<VmRecord, String> {
    let (_, record) = codec::decode::<VmRecord>(RECORD_FORMAT, &stored.value).map_err(|error| error.to_string())?;
    if record.vm != stored.vm || record.generation != stored.generation {
        return Err(format!("it says that it is {} of generation {}", record.vm, record.generation));
    }
    Ok(record)
}

/// Claims the shard and loads its records, as long as it takes.
pub(super) async fn loading(shared: Arc<Shared>, shard: ShardId, owner: ActorRef<ToShard>) {
    let mut wait = FIRST_WAIT;
    let epoch = loop {
        match shared.coordination.claim(shard).await {
            Ok(epoch) => break epoch,
            Err(error @ CoordinationError::NotOwner(_)) => {
                tracing::info!(%shard, %error, "the shard is not claimed; it is asked for again");
                if owner.send_message(ToShard::Elsewhere).is_err() {
                    return;
                }
            }
            Err(error @ (CoordinationError::Unavailable(_) | CoordinationError::Refused(_))) => {
                tracing::warn!(%shard, %error, "the shard cannot be claimed; it is tried again");
            }
        }
        shared.clock.sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    };
    if owner.send_message(ToShard::Claimed(epoch)).is_err() {
        return;
    }
    let mut after = None;
    wait = FIRST_WAIT;
    loop {
        match shared.store.load(shard, after, PAGE).await {
            Ok(page) => {
                wait = FIRST_WAIT;
                let last = page.len() < PAGE;
                after = page.last().map(|stored| stored.vm);
                let message = if page.is_empty() { ToShard::Loaded } else { ToShard::Page(page) };
                if owner.send_message(message).is_err() || after.is_none() {
                    return;
                }
                if last {
                    // An owner that has ended has no use for it.
                    let _ = owner.send_message(ToShard::Loaded);
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%shard, %error, "the records cannot be loaded; it is tried again");
                shared.clock.sleep(wait).await;
                wait = (wait * 2).min(LAST_WAIT);
            }
        }
    }
}

/// Reads one record again, after a wait, as long as it takes.
pub(super) async fn reload(shared: Arc<Shared>, shard: ShardId, vm: VmId, wait: Duration, owner: ActorRef<ToShard>) {
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
    let _ = owner.send_message(ToShard::Reloaded { vm, stored });
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

//! The one write of a decision, and what its failures mean.
//!
//! ```text
//! commit ─ Ok ─► Committed
//!   ├─ Unavailable ─► wait, again (the input is held, nothing is acknowledged)
//!   ├─ Unknown, Conflict ─► read what is stored ┬ ours ─► Committed (the answer was lost)
//!   │                                           ├ the one before ─► again
//!   │                                           └ another, and the shard is still ours ─► Reload
//!   ├─ Fenced ─► Fenced
//!   ├─ the term is over ─► GivenUp, at once
//!   └─ Damaged ─► Parked
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::format;
use reeve_ports::coordination::CoordinationError;
use reeve_ports::store::{Change, Stored};
use reeve_ports::{StoreError, Write};
use reeve_protocol::{Generation, VmId, codec};

use crate::actor::ShardTerm;
use crate::shared::Shared;

/// The wait before a store that is away is asked again; it doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait: a store that is back is noticed within it.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// What came of a commit.
pub(super) enum Committed {
    /// It is stored.
    Yes,
    /// Another record is stored: decide again from that one.
    Reload(Option<Box<VmRecord>>),
    /// The shard has another owner.
    Fenced,
    /// The stored record cannot be read.
    Parked(String),
    /// The node stops or the term is over; nothing is known.
    GivenUp,
}

/// The write of a decision.
pub(super) fn write_of(vm: VmId, expected: Generation, record: Option<&VmRecord>) -> Result<Write, codec::CodecError> {
    let change = match record {
        Some(record) => {
            let value = Bytes::from(format::encode(record)?);
            Change::Put { generation: record.generation, value }
        }
        None => Change::Delete,
    };
    Ok(Write { vm, expected, change })
}

/// Commits, as long as it takes and the term lasts.
pub(super) async fn commit(term: &ShardTerm, write: Write) -> Committed {
    let over = std::pin::pin!(term.over.begun());
    let committing = std::pin::pin!(try_commit(term, write));
    // In this order: what is over writes nothing any more.
    match select(over, committing).await {
        Either::Left(_) => Committed::GivenUp,
        Either::Right((committed, _)) => committed,
    }
}

async fn try_commit(term: &ShardTerm, write: Write) -> Committed {
    let ownership = &term.ownership;
    let shared = term.shared.as_ref();
    let mut wait = FIRST_WAIT;
    loop {
        let error = match shared.store.commit(ownership.shard, ownership.epoch, write.clone()).await {
            Ok(()) => return Committed::Yes,
            Err(error) => error,
        };
        match error {
            StoreError::Fenced { .. } => return Committed::Fenced,
            StoreError::Damaged(why) => return Committed::Parked(why),
            StoreError::Unavailable(why) => {
                if wait == FIRST_WAIT {
                    tracing::warn!(vm = %write.vm, %why, "the store is away; the decision waits");
                }
            }
            StoreError::Unknown(_) | StoreError::Conflict { .. } => {
                match shared.store.get(ownership.shard, write.vm).await {
                    Ok(stored) => match compare(&write, stored) {
                        Stand::Ours => return Committed::Yes,
                        Stand::Before => {}
                        // Another owner may have written it, and what is read is not fenced: a stale owner must
                        // not decide, and answer, by another's record.
                        Stand::Other(result) => {
                            match shared.coordination.confirm(ownership.shard, ownership.epoch).await {
                                Ok(()) => return result,
                                Err(CoordinationError::NotOwner(_)) => return Committed::Fenced,
                                Err(CoordinationError::Unavailable(_) | CoordinationError::Refused(_)) => {}
                            }
                        }
                    },
                    Err(StoreError::Fenced { .. }) => return Committed::Fenced,
                    Err(StoreError::Damaged(why)) => return Committed::Parked(why),
                    // The next commit tells more.
                    Err(StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Conflict { .. }) => {}
                }
            }
        }
        if !pause(shared, wait).await {
            return Committed::GivenUp;
        }
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// How what is stored relates to a write whose fate is not known.
enum Stand {
    Ours,
    Before,
    Other(Committed),
}

fn compare(write: &Write, stored: Option<Stored>) -> Stand {
    match (&write.change, stored) {
        (Change::Delete, None) => Stand::Ours,
        (Change::Put { generation, value }, Some(stored))
            if stored.generation == *generation && stored.value == *value =>
        {
            Stand::Ours
        }
        (_, Some(stored)) if stored.generation == write.expected => Stand::Before,
        (Change::Put { .. }, None) if write.expected == Generation::default() => Stand::Before,
        (_, Some(stored)) => Stand::Other(match format::decode(&stored.value) {
            Ok(record) => Committed::Reload(Some(record)),
            Err(error) => Committed::Parked(error.to_string()),
        }),
        (Change::Put { .. }, None) => Stand::Other(Committed::Reload(None)),
    }
}

/// Waits; false when the node stops meanwhile.
async fn pause(shared: &Shared, wait: Duration) -> bool {
    let sleep = shared.clock.sleep(wait);
    let begun = std::pin::pin!(shared.stopping.begun());
    match select(sleep, begun).await {
        Either::Left(_) => true,
        Either::Right(_) => false,
    }
}

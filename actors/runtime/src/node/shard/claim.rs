//! A claim of a shard: whatever becomes of those who hold it, the shard is given up in the end.
//!
//! ```text
//! held ─ released, or lost ─► over
//!   └─ dropped: its owner died, or never heard of it ─► released beside everything else
//! ```
//!
//! A claim that nobody releases would keep everybody else from owning the shard as long as this node lives, and with
//! it every shard that is to be handed over after it.

use std::sync::Arc;

use reeve_protocol::{Epoch, ShardId};

use super::load::{FIRST_WAIT, LAST_WAIT};
use crate::shared::Shared;

/// A claim that this node has made.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    shard: ShardId,
    epoch: Epoch,
    is_over: bool,
}

impl Claim {
    pub(super) fn new(shared: &Arc<Shared>, shard: ShardId, epoch: Epoch) -> Self {
        Self { shared: Arc::clone(shared), shard, epoch, is_over: false }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// It was released, or lost: nothing is left to give up.
    pub(super) fn over(&mut self) {
        self.is_over = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_over {
            tracing::debug!(shard = %self.shard, epoch = self.epoch.0, "nobody holds the shard any more; it is released");
            self.shared.tokio.spawn(release(Arc::clone(&self.shared), self.shard, self.epoch));
        }
    }
}

/// Releases the shard, as long as it takes.
pub(super) async fn release(shared: Arc<Shared>, shard: ShardId, epoch: Epoch) {
    let mut wait = FIRST_WAIT;
    while let Err(error) = shared.coordination.release(shard, epoch).await {
        if wait == FIRST_WAIT {
            tracing::warn!(%shard, %error, "the shard cannot be released; it is tried again");
        }
        shared.clock.sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

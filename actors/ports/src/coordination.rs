//! Who owns what. Embedded: this node owns everything, with a new epoch at each start. Clustered: an elected leader
//! wants each shard on one node, and a node owns a shard from its claim until it releases or loses it.
//!
//! ```text
//!            wanted here            claim                unwanted: halt, release
//! Elsewhere ────────────► Claiming ───────► Owned(epoch) ────────────────────────► Elsewhere
//!     ▲                      │ NotOwner: again  │ lost: stop at once, write nothing
//!     └──────────────────────┴──────────────────┘
//! ```
//!
//! The right to act ([`Coordination::may_act`]) is apart from ownership: it lapses by the boot-time clock while the
//! coordination cannot be reached, before anybody else may own the shard, and may come back with the same epoch.

use std::collections::BTreeMap;

use async_trait::async_trait;
use reeve_protocol::admin::{MemberView, ShardView};
use reeve_protocol::{Epoch, NodeId, ShardId};

/// Why ownership could not be had or confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinationError {
    /// Another node owns the shard, or is to own it.
    #[error("shard {0} has another owner")]
    NotOwner(ShardId),
    /// Nobody can say.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// It cannot be done, now or later.
    #[error("refused: {0}")]
    Refused(String),
}

/// What a node tells the others of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// How many VMs it supervises.
    pub vms: u64,
    /// How many unpublished events wait.
    pub outbox: u64,
}

/// How the wall clock of this node compares with those of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skew {
    /// This clock less the median of all, in milliseconds; `None` when nobody can be compared with.
    pub by_ms: Option<i64>,
    /// Whether that is more than is tolerated: no lease ends and nothing is destroyed by such a clock.
    pub exceeded: bool,
}

/// What this node knows of its cluster. Without a cluster there are no members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes that live, this one among them, and those that are drained though they do not live.
    pub members: BTreeMap<NodeId, MemberView>,
    /// Every shard, by its number.
    pub shards: Vec<ShardView>,
}

/// Ownership of shards.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Takes a shard; the epoch is greater than every one before. `NotOwner` while another owns it or is to own it.
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError>;

    /// Whether this epoch still owns the shard, asked right before something is destroyed or replaced.
    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError>;

    /// Gives a shard up, when nothing acts for it here any more. Done as well when it was lost already.
    async fn release(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        let _ = (shard, epoch);
        Ok(())
    }

    /// Waits until this node is to own the shard.
    async fn until_wanted(&self, shard: ShardId) {
        let _ = shard;
    }

    /// Waits until this node is to give the shard up. Shards are given up one after the other: the wait for the next
    /// ends when the one before was released.
    async fn until_unwanted(&self, shard: ShardId) {
        let _ = shard;
        std::future::pending::<()>().await;
    }

    /// Waits until this claim is known to be over without a release: nothing may be done under it any more.
    async fn until_lost(&self, shard: ShardId, epoch: Epoch) {
        let _ = (shard, epoch);
        std::future::pending::<()>().await;
    }

    /// Whether this node may act as an owner now. Costs nothing, asks nobody: the right ends by the boot-time clock.
    fn may_act(&self) -> bool {
        true
    }

    /// Whether this claim lasts as far as is known, and this node may act. As cheap as [`Coordination::may_act`].
    fn holds(&self, shard: ShardId, epoch: Epoch) -> bool {
        let _ = (shard, epoch);
        self.may_act()
    }

    /// Tells the others that this node is about to leave, and waits until they have what it owned, or until nobody is
    /// there to take more. Shards are given up as [`Coordination::until_unwanted`] says.
    async fn retire(&self) {}

    /// Tells the others how busy this node is.
    fn report(&self, load: Load) {
        let _ = load;
    }

    /// How the wall clock compares with those of the others.
    fn skew(&self) -> Skew {
        Skew::default()
    }

    /// What this node knows of its cluster, without asking.
    fn cluster(&self) -> Cluster {
        Cluster::default()
    }

    /// One shard of [`Coordination::cluster`]; for those who ask about each message.
    fn shard(&self, shard: ShardId) -> Option<ShardView> {
        self.cluster().shards.into_iter().nth(usize::from(shard.0))
    }

    /// Asks that a node give up its shards and get no others, until [`Coordination::undrain`].
    async fn drain(&self, node: &NodeId) -> Result<(), CoordinationError> {
        Err(CoordinationError::Refused(format!("{node} runs without a cluster: nobody could take over")))
    }

    /// Asks that a node get shards again.
    async fn undrain(&self, node: &NodeId) -> Result<(), CoordinationError> {
        Err(CoordinationError::Refused(format!("{node} runs without a cluster")))
    }
}

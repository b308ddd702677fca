//! Who owns what. Embedded: this node owns everything, with a new epoch at each start.

use async_trait::async_trait;
use reeve_protocol::{Epoch, ShardId};

/// Why ownership could not be had or confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinationError {
    /// Another node owns the shard.
    #[error("shard {0} has another owner")]
    NotOwner(ShardId),
    /// Nobody can say.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// Ownership of shards.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// Takes a shard; the epoch is greater than every one before.
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError>;

    /// Whether this epoch still owns the shard, asked right before something is destroyed or replaced.
    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError>;
}

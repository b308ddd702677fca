//! Ownership on one machine: this process owns everything, because it alone has the file open. Each claim is a new
//! epoch, so that what an earlier life left behind is fenced.

use async_trait::async_trait;
use redb::ReadableTable;
use reeve_ports::coordination::{Coordination, CoordinationError};
use reeve_protocol::{Epoch, ShardId};

use super::db::EmbeddedDb;
use super::tables::EPOCHS;

/// The coordination of a node without a cluster.
#[derive(Clone)]
pub struct EmbeddedCoordination {
    db: EmbeddedDb,
}

impl EmbeddedCoordination {
    /// The epochs of this file.
    #[must_use]
    pub fn new(db: EmbeddedDb) -> Self {
        Self { db }
    }
}

#[async_trait]
impl Coordination for EmbeddedCoordination {
    async fn claim(&self, shard: ShardId) -> Result<Epoch, CoordinationError> {
        let claim = self.db.write(move |tables| {
            let next = tables.epochs.get(shard.0)?.map_or(0, |value| value.value()) + 1;
            tables.epochs.insert(shard.0, next)?;
            Ok(Epoch(next))
        });
        claim.await.map_err(|error| CoordinationError::Unavailable(error.to_string()))
    }

    async fn confirm(&self, shard: ShardId, epoch: Epoch) -> Result<(), CoordinationError> {
        let current = self.db.read(move |transaction| {
            let epochs = transaction.open_table(EPOCHS)?;
            let current = epochs.get(shard.0)?.map(|value| value.value());
            Ok(current)
        });
        let current = current.await.map_err(|error| CoordinationError::Unavailable(error.to_string()))?;
        if current == Some(epoch.0) { Ok(()) } else { Err(CoordinationError::NotOwner(shard)) }
    }
}

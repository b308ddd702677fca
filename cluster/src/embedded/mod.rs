//! The embedded half: one redb file and one process take the place of etcd and RabbitMQ. A product for one machine, held
//! to the same conformance suites as the servers.
//!
//! [`EmbeddedDb`] owns the file and its one writer; [`EmbeddedStore`], [`EmbeddedCoordination`] and [`EmbeddedBus`] are
//! views of it, so that whatever waits to be written at the same time shares one transaction and one fsync.
//!
//! ```text
//! store ─┐                      ┌─ opens a transaction, applies each job, commits once
//! coord ─┼─► queue of jobs ─► writer
//! bus ───┘   (bounded)          └─ answers each job with its own result, after the commit
//! ```

mod bus;
mod consumer;
mod coordination;
mod db;
mod error;
mod file;
mod ledger;
mod queue;
mod shared;
mod store;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use bus::{EmbeddedBus, ReplyQueue};
pub use coordination::EmbeddedCoordination;
pub use db::EmbeddedDb;
pub use error::EmbeddedError;
pub use shared::BusLimits;
pub use store::EmbeddedStore;

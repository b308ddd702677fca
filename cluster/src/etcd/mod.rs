//! etcd: who is a member, who leads, who owns what, and the records.
//!
//! ```text
//!  session ── beats ──► nodes/<id> ─┐                    ┌─► until_wanted ──► claim ──► shards/<n>
//!  operator ──────────► drains/<id> ┼─► leader ─► plan ──┤                                  │
//!                                   │                    └─► until_unwanted ─► release ─────┤
//!                                   └────────── watch ◄─────────────────────────────────────┘
//! ```
//!
//! * [`EtcdClient`]: the way to etcd; one endpoint at a time.
//! * [`EtcdCluster`]: a node's membership and what it owns. What a plan is, until when a node may act and whether its
//!   clock is sane is decided by pure functions ([`crate::shard_map`]).
//! * [`EtcdStore`]: records, each write fenced by the owner's epoch.
//!
//! A lease alone never protects anything: an owner stops by its own clock before its lease can end, and every write
//! compares the epoch.

mod client;
mod cluster;
mod config;
mod error;
mod keys;
mod leading;
mod ownership;
mod reaping;
mod registration;
mod seen;
mod session;
mod shared;
mod state;
mod store;
mod value;
mod watching;

pub use client::{Connection, EtcdClient};
pub use cluster::EtcdCluster;
pub use config::{EtcdConfig, EtcdTls, EtcdUser};
pub use error::EtcdError;
pub use keys::Keys;
pub use store::EtcdStore;

//! The actor shells around the pure core: performing effects, the per-VM trees on actix arbiters, the shard owners and
//! the node's own tree on ractor.

pub mod config;
pub mod perform;

pub use config::{Caps, ClockLimits, NodeConfig, Notifications, RuntimeConfig, Timeouts};
pub use perform::{EffectContext, Introducer, Ownership, Ports, perform};

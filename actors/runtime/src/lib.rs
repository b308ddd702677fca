//! The actor shells around the pure core: performing effects, the per-VM trees on actix arbiters, the shard owners and
//! the node's own tree on ractor.

mod actor;
pub mod admission;
pub mod config;
mod masking;
mod node;
mod pacer;
mod passes;
pub mod perform;
mod performer;
mod shared;
mod trust;
pub mod view;

pub use actor::run_system;
pub use admission::ProvisionRules;
pub use config::{Caps, ClockLimits, NodeConfig, Notifications, RuntimeConfig, Timeouts};
pub use node::{Adapters, Node, NodeError, NodeHandle};
pub use perform::{Acts, EffectContext, Introducer, Ownership, Ports, perform};

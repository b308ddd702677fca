//! Which node is to own which shard, and what a node may conclude from clocks. Pure: no runtime, no etcd, no clock.
//!
//! * [`rank`]: how well a node suits a shard, the same on every machine.
//! * [`plan()`]: the wanted owner of each shard, from the plan before and the nodes that live.
//! * [`fence`]: until when a node may act on its lease.
//! * [`silence`]: when a node that is not heard of may act no longer.
//! * [`skew`]: how far a wall clock is from the others'.

pub mod fence;
pub mod plan;
pub mod rank;
pub mod silence;
pub mod skew;

pub use fence::Right;
pub use plan::{Candidate, Damping, Memory, Plan, plan};
pub use silence::Silence;

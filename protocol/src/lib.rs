//! What is said: between nodes, by producers on the bus, by clouds and to administrators.
//!
//! Pure: no runtime, no clock, no I/O. Everything foreign is bounded before it is parsed.

pub mod admin;
pub mod bounds;
pub mod codec;
pub mod command;
pub mod event;
pub mod id;
pub mod link;
pub mod names;
pub mod observation;
pub mod openstack;
pub mod provision;
pub mod rule;
pub mod time;

pub use id::{
    BackupId, CloudName, Epoch, EventId, Generation, HostName, MessageId, NodeId, ProjectId, ShardId, UserId, VmId,
};
pub use time::{Span, Timestamp};

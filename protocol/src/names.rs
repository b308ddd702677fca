//! Every exchange, queue and header name on the bus, and every key prefix, in one place (the operator's interface).

use crate::{CloudName, ShardId};

/// Topic exchange and quorum queue that producers publish commands to.
pub const REQUESTS: &str = "reeve.requests";
/// Direct exchange that routes commands to a shard's owner; the routing key is the shard's number.
pub const SHARDS: &str = "reeve.shards";
/// Topic exchange of everything that happened.
pub const EVENTS: &str = "reeve.events";
/// Stream queue of all events.
pub const AUDIT: &str = "reeve.audit";
/// Queue of the events that rules of the configuration look at.
pub const RULES: &str = "reeve.rules";
/// Fanout exchange and queue of what could not be handled.
pub const DEAD: &str = "reeve.dead";
/// Header of a dead letter: why it is one.
pub const HEADER_REASON: &str = "x-reeve-reason";
/// Header of a dead letter: the queue that it was taken from.
pub const HEADER_SOURCE: &str = "x-reeve-source";
/// Header of a dead letter: when it was given up, RFC 3339.
pub const HEADER_AT: &str = "x-reeve-at";

/// The queue of a shard.
#[must_use]
pub fn shard_queue(shard: ShardId) -> String {
    format!("reeve.shard.{shard}")
}

/// The queue bound to a cloud's own exchange.
#[must_use]
pub fn intake_queue(cloud: &CloudName) -> String {
    format!("reeve.intake.{cloud}")
}

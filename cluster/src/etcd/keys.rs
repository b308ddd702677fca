//! The names of the keys, all below `/reeve/<cluster>/`.
//!
//! ```text
//! drains/<id>                 an operator's wish, bound to no lease
//! leader                      bound to the leader's lease
//! meta/format                 what everybody has to understand
//! nodes/<id>                  bound to the node's lease
//! plan                        the wanted owner of each shard
//! records/<shard>/<kind>/<id> the record store
//! shards/<n>                  bound to the owner's lease; its create revision is the epoch
//! ```
//!
//! Numbers of shards have five digits, so that keys sort as numbers do. Two ranges hold all that is watched: what
//! sorts before the records, and the shards.

use reeve_protocol::{NodeId, ShardId};

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    root: String,
}

/// What a watched key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    Node(NodeId),
    Drain(NodeId),
    Plan,
    Leader,
    Shard(ShardId),
    /// Something that this version does not watch for.
    Other,
}

impl Keys {
    /// The keys of the cluster of this name.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("/reeve/{cluster}/") }
    }

    /// `/reeve/<cluster>/`.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The owner of a shard.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> String {
        format!("{}shards/{:05}", self.root, shard.0)
    }

    /// The records of a shard: a prefix, with its slash.
    #[must_use]
    pub fn records(&self, shard: ShardId) -> String {
        format!("{}records/{:05}/", self.root, shard.0)
    }

    pub(crate) fn node(&self, node: &NodeId) -> String {
        format!("{}nodes/{node}", self.root)
    }

    pub(crate) fn drain(&self, node: &NodeId) -> String {
        format!("{}drains/{node}", self.root)
    }

    pub(crate) fn leader(&self) -> String {
        format!("{}leader", self.root)
    }

    pub(crate) fn plan(&self) -> String {
        format!("{}plan", self.root)
    }

    pub(crate) fn format(&self) -> String {
        format!("{}meta/format", self.root)
    }

    /// Drains, leader, nodes, plan: from the first key to the one after the last.
    pub(crate) fn members_range(&self) -> (String, String) {
        (format!("{}drains/", self.root), format!("{}records/", self.root))
    }

    /// The owners.
    pub(crate) fn shards_range(&self) -> (String, String) {
        // '0' follows '/'.
        (format!("{}shards/", self.root), format!("{}shards0", self.root))
    }

    pub(crate) fn subject(&self, key: &[u8]) -> Subject {
        let Some(rest) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.root)) else {
            return Subject::Other;
        };
        let node = |id: &str| NodeId::new(id).ok();
        match rest.split_once('/') {
            None if rest == "plan" => Subject::Plan,
            None if rest == "leader" => Subject::Leader,
            Some(("nodes", id)) => node(id).map_or(Subject::Other, Subject::Node),
            Some(("drains", id)) => node(id).map_or(Subject::Other, Subject::Drain),
            Some(("shards", number)) => number.parse().map_or(Subject::Other, |n| Subject::Shard(ShardId(n))),
            None | Some(_) => Subject::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is_about() {
        let keys = Keys::new("blue");
        let node = NodeId::new("rack 1/n1").unwrap();
        assert_eq!(keys.shard(ShardId(7)), "/reeve/blue/shards/00007");
        assert_eq!(keys.records(ShardId(7)), "/reeve/blue/records/00007/");
        assert_eq!(keys.subject(keys.node(&node).as_bytes()), Subject::Node(node.clone()));
        assert_eq!(keys.subject(keys.drain(&node).as_bytes()), Subject::Drain(node));
        assert_eq!(keys.subject(keys.shard(ShardId(63)).as_bytes()), Subject::Shard(ShardId(63)));
        assert_eq!(keys.subject(keys.plan().as_bytes()), Subject::Plan);
        assert_eq!(keys.subject(keys.leader().as_bytes()), Subject::Leader);
        for other in ["/reeve/blue/meta/format", "/reeve/red/plan", "/reeve/blue/shards/x", "/reeve/blue/nodes/"] {
            assert_eq!(keys.subject(other.as_bytes()), Subject::Other, "{other}");
        }
    }

    #[test]
    fn the_two_ranges_hold_all_that_is_watched_and_no_record() {
        let keys = Keys::new("blue");
        let node = NodeId::new("~").unwrap();
        let within = |range: &(String, String), key: &str| key >= range.0.as_str() && key < range.1.as_str();
        let members = keys.members_range();
        for key in [keys.node(&node), keys.drain(&node), keys.leader(), keys.plan()] {
            assert!(within(&members, &key), "{key}");
        }
        let shards = keys.shards_range();
        assert!(within(&shards, &keys.shard(ShardId(0))) && within(&shards, &keys.shard(ShardId(u16::MAX))));
        for range in [members, shards] {
            assert!(!within(&range, &keys.records(ShardId(3))), "{range:?}");
        }
    }
}

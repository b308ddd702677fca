//! What happens to the cluster itself.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{About, Category, CloudEvent, EventId, EventSource, NodeId, Timestamp};
use crate::ShardId;

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterEvent {
    /// Its place among the events of its subject: 1, 2, 3 … without gaps.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// The node that it is about.
    pub node: NodeId,
    /// What happened.
    pub kind: ClusterEventKind,
}

/// What happened. Append only: the cluster's plan holds these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterEventKind {
    /// It became a member.
    NodeJoined {
        /// The version that it runs.
        version: String,
    },
    /// It is no member any more, whether it left or was lost.
    NodeLost,
    /// It is to give up its shards.
    NodeDraining,
    /// It is to own a shard.
    ShardMoved {
        /// Which.
        shard: ShardId,
        /// Who was to own it before.
        from: Option<NodeId>,
    },
}

impl ClusterEvent {
    /// The event's id.
    #[must_use]
    pub fn id(&self) -> EventId {
        EventId(format!("{}/{}", self.subject(), self.sequence))
    }

    /// `node/<id>`.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("node/{}", self.node)
    }

    /// The routing key on `reeve.events`: the type without the prefix `reeve.`.
    #[must_use]
    pub fn routing_key(&self) -> &'static str {
        match &self.kind {
            ClusterEventKind::NodeJoined { .. } => "node.joined",
            ClusterEventKind::NodeLost => "node.lost",
            ClusterEventKind::NodeDraining => "node.draining",
            ClusterEventKind::ShardMoved { .. } => "shard.moved",
        }
    }

    /// How grave it is.
    #[must_use]
    pub const fn category(&self) -> Category {
        match &self.kind {
            ClusterEventKind::NodeJoined { .. } | ClusterEventKind::ShardMoved { .. } => Category::Information,
            ClusterEventKind::NodeDraining => Category::Warning,
            ClusterEventKind::NodeLost => Category::Exception,
        }
    }

    /// The event as the bus carries it.
    #[must_use]
    pub fn to_cloud_event(&self, source: &EventSource) -> CloudEvent {
        CloudEvent {
            specversion: "1.0".into(),
            id: self.id(),
            source: format!("/reeve/{}/{}", source.cluster, source.node),
            kind: format!("reeve.{}", self.routing_key()),
            subject: self.subject(),
            time: self.at,
            sequence: self.sequence,
            datacontenttype: "application/json".into(),
            category: self.category(),
            about: About::default(),
            data: self.data(),
        }
    }

    fn data(&self) -> Value {
        match &self.kind {
            ClusterEventKind::NodeJoined { version } => json!({ "node": self.node, "version": version }),
            ClusterEventKind::NodeLost | ClusterEventKind::NodeDraining => json!({ "node": self.node }),
            ClusterEventKind::ShardMoved { shard, from } => {
                json!({ "shard": shard, "from": from, "to": self.node })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_about_a_node_has_a_stable_id_and_its_data() {
        let node = NodeId::new("n2").unwrap();
        let from = NodeId::new("n1").unwrap();
        let kind = ClusterEventKind::ShardMoved { shard: ShardId(7), from: Some(from.clone()) };
        let event = ClusterEvent { sequence: 4, at: Timestamp::EPOCH, node, kind };
        let source = EventSource { cluster: "blue".into(), node: from };
        let json = serde_json::to_value(event.to_cloud_event(&source)).unwrap();
        assert_eq!(
            json,
            json!({
                "specversion": "1.0", "id": "node/n2/4", "source": "/reeve/blue/n1", "type": "reeve.shard.moved",
                "subject": "node/n2", "time": "1970-01-01T00:00:00.000Z", "sequence": 4,
                "datacontenttype": "application/json", "category": "information", "data": { "shard": 7, "from": "n1", "to": "n2" },
            })
        );
    }
}

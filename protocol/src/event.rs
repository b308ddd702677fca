//! What happened: events about a VM, and their form on the bus, CloudEvents 1.0 in structured mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
//!
//! A record keeps its unpublished events as these closed types; JSON is made only when one is published.

use serde::{Deserialize, Serialize};

use crate::{BackupId, CloudName, EventId, HostName, NodeId, ProjectId, Span, Timestamp, VmId};

mod category;
mod cluster;
mod kind;
mod outage;
mod ruled;

pub use category::{Category, TYPES};
pub use cluster::{ClusterEvent, ClusterEventKind};
pub use kind::{Alert, BackupPurpose, Child, EventKind, LeaseEndReason, Offer, Origin};
pub use outage::OutageEvent;
pub use ruled::RuleAlert;

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place among the events of its subject: 1, 2, 3 … without gaps.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// The VM that it is about.
    pub vm: VmId,
    /// What happened.
    pub kind: EventKind,
}

/// An event as the bus carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique, and stable across redelivery.
    pub id: EventId,
    /// `/reeve/<cluster>/<node>`.
    pub source: String,
    /// `reeve.<type>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `vm/<uuid>`.
    pub subject: String,
    /// When it happened.
    pub time: Timestamp,
    /// Its place among the events of its subject.
    pub sequence: u64,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// How grave it is: an extension attribute, as `sequence` is.
    #[serde(default)]
    pub category: Category,
    /// What it is about, besides its subject.
    #[serde(flatten)]
    pub about: About,
    /// What happened, by type.
    pub data: serde_json::Value,
}

/// Extension attributes of an event: where what it is about belongs, as far as that is known when it is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudName>,
    /// The project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The policy that rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// Who publishes: the `source` of the events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// `[cluster] name`, or `standalone`.
    pub cluster: String,
    /// The node.
    pub node: NodeId,
}

impl Event {
    /// The event's id.
    #[must_use]
    pub fn id(&self) -> EventId {
        EventId::of_vm(self.vm, self.sequence)
    }

    /// The routing key on `reeve.events`: the type without the prefix `reeve.`.
    #[must_use]
    pub fn routing_key(&self) -> &'static str {
        self.kind.type_name()
    }

    /// The event as the bus carries it. Where its VM belongs is known to who has the record.
    #[must_use]
    pub fn to_cloud_event(&self, source: &EventSource) -> CloudEvent {
        CloudEvent {
            specversion: "1.0".into(),
            id: self.id(),
            source: format!("/reeve/{}/{}", source.cluster, source.node),
            kind: format!("reeve.{}", self.kind.type_name()),
            subject: format!("vm/{}", self.vm),
            time: self.at,
            sequence: self.sequence,
            datacontenttype: "application/json".into(),
            category: self.kind.category(),
            about: About::default(),
            data: self.kind.data(),
        }
    }
}

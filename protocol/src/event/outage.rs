//! A service of a cloud that a node cannot reach, and can again.

use serde_json::json;

use super::{About, Category, CloudEvent, CloudName, EventId, EventSource, Timestamp};

/// A service of a cloud does not answer a node, or answers again: `alert.raised` and `alert.cleared` about the cloud.
///
/// Each node tells for itself: that one does not get through says nothing of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutageEvent {
    /// Its place among the events of its subject since the node was started.
    pub sequence: u64,
    /// When it was noticed.
    pub at: Timestamp,
    /// The cloud.
    pub cloud: CloudName,
    /// Which of its services: `identity`, `compute`, `volume`, `image`, `network`.
    pub service: String,
    /// Since when the service does not answer.
    pub since: Timestamp,
    /// Whether it answers again.
    pub is_over: bool,
}

impl OutageEvent {
    /// The routing key on `reeve.events`: the type without the prefix `reeve.`.
    #[must_use]
    pub const fn routing_key(&self) -> &'static str {
        if self.is_over { "alert.cleared" } else { "alert.raised" }
    }

    /// The event as the bus carries it.
    #[must_use]
    pub fn to_cloud_event(&self, source: &EventSource) -> CloudEvent {
        let Self { sequence, at, cloud, service, since, is_over } = self;
        let subject = format!("cloud/{cloud}/{}", source.node);
        let message = if *is_over {
            format!("{service} of cloud {cloud} answers again")
        } else {
            format!("{service} of cloud {cloud} does not answer")
        };
        let key = self.routing_key();
        CloudEvent {
            specversion: "1.0".into(),
            // The same outage of the same node has the same id, however often it is published.
            id: EventId(format!("{subject}/{service}/{}/{key}", since.as_millis())),
            source: format!("/reeve/{}/{}", source.cluster, source.node),
            kind: format!("reeve.{key}"),
            subject,
            time: *at,
            sequence: *sequence,
            datacontenttype: "application/json".into(),
            category: if *is_over { Category::Information } else { Category::Exception },
            about: About { cloud: Some(cloud.clone()), ..About::default() },
            data: json!({
                "alert": "cloud_unreachable", "cloud": cloud, "service": service, "node": source.node, "since": since,
                "message": message,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    #[test]
    fn an_outage_has_the_same_id_each_time_it_is_told_and_another_when_it_is_over() {
        let cloud = CloudName::new("prod").unwrap();
        let since = Timestamp::from_millis(5_000);
        let event = OutageEvent { sequence: 1, at: since, cloud, service: "compute".into(), since, is_over: false };
        let source = EventSource { cluster: "blue".into(), node: NodeId::new("n1").unwrap() };
        let json = serde_json::to_value(event.to_cloud_event(&source)).unwrap();
        assert_eq!(
            json,
            json!({
                "specversion": "1.0", "id": "cloud/prod/n1/compute/5000/alert.raised", "source": "/reeve/blue/n1",
                "type": "reeve.alert.raised", "subject": "cloud/prod/n1", "time": "1970-01-01T00:00:05.000Z",
                "sequence": 1, "datacontenttype": "application/json", "category": "exception", "cloud": "prod",
                "data": { "alert": "cloud_unreachable", "cloud": "prod", "service": "compute", "node": "n1",
                    "since": "1970-01-01T00:00:05.000Z", "message": "compute of cloud prod does not answer" },
            })
        );
        let over = OutageEvent { sequence: 2, is_over: true, ..event };
        assert_eq!(over.to_cloud_event(&source).id.0, "cloud/prod/n1/compute/5000/alert.cleared");
    }
}

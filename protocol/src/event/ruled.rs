//! An alert that a rule of the configuration raises.

use serde_json::json;

use super::{Category, CloudEvent, EventId, EventSource};

/// A rule says that a human is needed: `alert.raised` about `rule/NAME`. Nobody clears it: it is a remark, not a
/// state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleAlert<'a> {
    /// The rule.
    pub rule: &'a str,
    /// The place of the action among those of the rule.
    pub action: usize,
    /// In words.
    pub message: String,
    /// The event that it answers.
    pub event: &'a CloudEvent,
}

impl RuleAlert<'_> {
    /// The routing key on `reeve.events`.
    pub const ROUTING_KEY: &'static str = "alert.raised";

    /// The alert as the bus carries it. The same action on the same event has the same id, however often it is taken. Its
    /// sequence is always 0: many nodes raise alerts of a rule, and nobody counts them.
    #[must_use]
    pub fn to_cloud_event(&self, source: &EventSource) -> CloudEvent {
        let Self { rule, action, message, event } = self;
        CloudEvent {
            specversion: "1.0".into(),
            id: EventId(format!("rule/{rule}/{action}/{}", event.id.0)),
            source: format!("/reeve/{}/{}", source.cluster, source.node),
            kind: format!("reeve.{}", Self::ROUTING_KEY),
            subject: format!("rule/{rule}"),
            time: event.time,
            sequence: 0,
            datacontenttype: "application/json".into(),
            category: Category::Exception,
            about: event.about.clone(),
            data: json!({
                "alert": "rule", "rule": rule, "message": message, "event": event.id, "about": event.subject,
            }),
        }
    }
}

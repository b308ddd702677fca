//! Rules: what is done because something happened, as the configuration says it. Pure: no clock, no I/O.
//!
//! ```text
//! event ─► on (types, category, cloud, project, policy) ─► at_most (per rule and subject) ─► then, in order
//!          no ─► nothing                                    over it ─► nothing               notify, command, alert
//! ```
//!
//! An event says nothing of what caused it, so a rule may feed itself by a detour: `at_most` is what ends that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::NoticeTo;
use crate::event::{Category, CloudEvent};
use crate::{CloudName, ProjectId, Span};

mod check;
mod rate;
mod text;

pub use check::{MAX_RULES, check};
pub use rate::{Allowed, Rate};

/// A rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name: letters, digits, `-`, `_`, at most 64. Part of the keys of what it does. Required.
    pub name: String,
    /// Which events. Required.
    #[serde(default)]
    pub on: Trigger,
    /// What is done, in order, 1 to 8 actions. Required.
    #[serde(default)]
    pub then: Vec<Action>,
    /// How often, for each subject. Default five times an hour.
    #[serde(default)]
    pub at_most: AtMost,
}

/// Which events: all that is said must be so, and types or a category must be said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trigger {
    /// One of these types without `reeve.`; `lease.*` stands for all that begin with `lease.`. Default every type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// This category. Default every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
    /// About this cloud or a VM of it. Default every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudName>,
    /// About a VM of this project. Default every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// About a VM that this policy rules. Default every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawAction", into = "RawAction")]
pub enum Action {
    /// People are told.
    Notify {
        /// Whom.
        to: NoticeTo,
        /// What.
        text: Option<String>,
    },
    /// A command is given for the VM that the event is about; for other events nothing is.
    Command {
        /// Its name.
        name: String,
        /// Its other keys.
        with: BTreeMap<String, Value>,
    },
    /// An alert is published.
    Alert {
        /// What it says.
        text: String,
    },
}

/// How often a rule acts for one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AtMost {
    /// So many times, 1 to 1000. Default 5.
    pub times: u32,
    /// Within this time, `1s` to `30d`. Default `1h`.
    pub per: Span,
}

impl Default for AtMost {
    fn default() -> Self {
        Self { times: 5, per: Span::from_secs(3600) }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawAction {
    #[serde(skip_serializing_if = "Option::is_none")]
    notify: Option<NoticeTo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    with: BTreeMap<String, Value>,
}

impl TryFrom<RawAction> for Action {
    type Error = &'static str;

    fn try_from(raw: RawAction) -> Result<Self, Self::Error> {
        match raw {
            RawAction { notify: Some(to), command: None, alert: None, text, with } if with.is_empty() => {
                Ok(Self::Notify { to, text })
            }
            RawAction { notify: None, command: Some(name), alert: None, text: None, with } => {
                Ok(Self::Command { name, with })
            }
            RawAction { notify: None, command: None, alert: Some(text), text: None, with } if with.is_empty() => {
                Ok(Self::Alert { text })
            }
            RawAction { .. } => Err("expected one of { notify, text }, { command, with } and { alert }"),
        }
    }
}

impl From<Action> for RawAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Notify { to, text } => Self { notify: Some(to), text, ..Self::default() },
            Action::Command { name, with } => Self { command: Some(name), with, ..Self::default() },
            Action::Alert { text } => Self { alert: Some(text), ..Self::default() },
        }
    }
}

/// The type of an event as rules name it.
#[must_use]
pub fn type_of(event: &CloudEvent) -> &str {
    event.kind.strip_prefix("reeve.").unwrap_or(&event.kind)
}

/// Whether a pattern of types, `backup.failed` or `lease.*`, means this type.
#[must_use]
pub fn means(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

impl Rule {
    /// Whether the rule is to act on an event. Never on an alert of its own.
    #[must_use]
    pub fn matches(&self, event: &CloudEvent) -> bool {
        let on = &self.on;
        let is_own = event.subject.strip_prefix("rule/") == Some(self.name.as_str());
        !is_own
            && on.means(type_of(event), event.category)
            && on.cloud.as_ref().is_none_or(|cloud| event.about.cloud.as_ref() == Some(cloud))
            && on.project.as_ref().is_none_or(|project| event.about.project.as_ref() == Some(project))
            && on.policy.as_ref().is_none_or(|policy| event.about.policy.as_ref() == Some(policy))
    }

    /// The key of one of its actions on an event: the same again is the same action.
    #[must_use]
    pub fn key(&self, action: usize, event: &CloudEvent) -> String {
        format!("rule:{}:{action}:{}", self.name, event.id.0)
    }
}

impl Trigger {
    /// Whether it is for events of this type and category.
    #[must_use]
    pub fn means(&self, name: &str, category: Category) -> bool {
        (self.types.is_empty() || self.types.iter().any(|pattern| means(pattern, name)))
            && self.category.is_none_or(|wanted| wanted == category)
    }
}

impl Action {
    /// What a notice or an alert says of an event.
    #[must_use]
    pub fn says(&self, event: &CloudEvent) -> String {
        match self {
            Self::Notify { text: Some(text), .. } | Self::Alert { text } => text::fill(text, event),
            Self::Notify { text: None, .. } | Self::Command { .. } => text::fill(text::DEFAULT, event),
        }
    }
}

/// The routing keys of the events that any of the rules may act on.
#[must_use]
pub fn topics(rules: &[Rule]) -> Vec<String> {
    let mut topics: Vec<String> = Vec::new();
    for rule in rules {
        if rule.on.types.is_empty() {
            return vec!["#".to_owned()];
        }
        topics.extend(rule.on.types.iter().cloned());
    }
    topics.sort();
    topics.dedup();
    topics
}

/// Whether one of these routing keys means a type: as a topic exchange has it, for the patterns that there are.
#[must_use]
pub fn is_routed(topics: &[String], name: &str) -> bool {
    topics.iter().any(|topic| topic == "#" || means(topic, name))
}

#[cfg(test)]
mod tests;

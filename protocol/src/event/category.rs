//! How grave an event is, and every type of event with that.

use serde::{Deserialize, Serialize};

/// How grave an event is: the extension attribute `category`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// As it should be. Also of an event of a version that said nothing of it.
    #[default]
    Information,
    /// Somebody may want to do something.
    Warning,
    /// Something failed.
    Exception,
}

impl Category {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Information => "information",
            Self::Warning => "warning",
            Self::Exception => "exception",
        }
    }
}

impl std::str::FromStr for Category {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Information, Self::Warning, Self::Exception]
            .into_iter()
            .find(|category| category.as_str() == text)
            .ok_or_else(|| "expected information, warning or exception".to_owned())
    }
}

/// Every type of event, without the prefix `reeve.`.
pub const TYPES: [(&str, Category); 53] = [
    ("vm.discovered", Category::Information),
    ("vm.state-changed", Category::Information),
    ("vm.terminating", Category::Warning),
    ("vm.terminated", Category::Information),
    ("vm.vanished", Category::Warning),
    ("vm.revived", Category::Information),
    ("lease.created", Category::Information),
    ("lease.expiring", Category::Warning),
    ("lease.expired", Category::Warning),
    ("lease.extended", Category::Information),
    ("lease.extension-denied", Category::Warning),
    ("lease.ended", Category::Information),
    ("lease.held", Category::Warning),
    ("lease.released", Category::Information),
    ("lease.end-cancelled", Category::Information),
    ("lease.exempted", Category::Information),
    ("lease.policy-changed", Category::Information),
    ("health.degraded", Category::Warning),
    ("health.down", Category::Exception),
    ("health.recovered", Category::Information),
    ("health.monitoring-paused", Category::Warning),
    ("repair.started", Category::Warning),
    ("repair.step-started", Category::Information),
    ("repair.step-finished", Category::Information),
    ("repair.succeeded", Category::Information),
    ("repair.exhausted", Category::Exception),
    ("backup.started", Category::Information),
    ("backup.verified", Category::Information),
    ("backup.failed", Category::Exception),
    ("backup.deleted", Category::Information),
    ("backup.missed", Category::Warning),
    ("backup.restored", Category::Information),
    ("alert.raised", Category::Exception),
    ("alert.cleared", Category::Information),
    ("action.done", Category::Information),
    ("supervision.exhausted", Category::Exception),
    ("lease.corrected", Category::Information),
    ("action.started", Category::Information),
    ("action.failed", Category::Exception),
    ("vm.revive-started", Category::Information),
    ("vm.revive-failed", Category::Exception),
    ("backup.verify-started", Category::Information),
    ("backup.verify-failed", Category::Exception),
    ("repair.abandoned", Category::Warning),
    ("vm.provision-requested", Category::Information),
    ("vm.provision-denied", Category::Warning),
    ("vm.provision-failed", Category::Exception),
    ("vm.provisioned", Category::Information),
    ("vm.delivered", Category::Information),
    ("node.joined", Category::Information),
    ("node.lost", Category::Exception),
    ("node.draining", Category::Warning),
    ("shard.moved", Category::Information),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the arms of a `match`, from the source: an enum cannot be listed.
    fn named(source: &str, from: &str) -> Vec<String> {
        let (_, rest) = source.split_once(from).expect("the function is there");
        let (body, _) = rest.split_once("\n    }\n").expect("and ends");
        body.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_type_is_listed_once() {
        let mut named_in_source = named(include_str!("kind.rs"), "fn type_name");
        named_in_source.extend(named(include_str!("cluster.rs"), "fn routing_key"));
        named_in_source.sort();
        let mut listed: Vec<String> = TYPES.iter().map(|(name, _)| (*name).to_owned()).collect();
        listed.sort();
        assert_eq!(listed, named_in_source);
    }

    #[test]
    fn what_is_listed_is_what_an_event_says() {
        use crate::event::EventKind;
        let listed = |name| TYPES.iter().find(|(other, _)| *other == name).map(|(_, category)| *category);
        for kind in [
            EventKind::VmTerminated,
            EventKind::VmVanished { how: String::new() },
            EventKind::LeaseReleased,
            EventKind::HealthDegraded { misses: 1 },
            EventKind::HealthRecovered,
            EventKind::RepairStarted { cause: String::new() },
            EventKind::RepairExhausted,
        ] {
            assert_eq!(listed(kind.type_name()), Some(kind.category()), "{kind:?}");
        }
    }

    #[test]
    fn a_category_is_read_as_it_is_written() {
        for category in [Category::Information, Category::Warning, Category::Exception] {
            assert_eq!(category.as_str().parse(), Ok(category));
            assert_eq!(serde_json::json!(category), category.as_str());
        }
        assert!("grave".parse::<Category>().is_err());
    }
}

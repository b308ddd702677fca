//! Rules against events: what matches, what is done, and how often.

use serde_json::json;

use super::*;
use crate::event::{Event, EventKind, EventSource, OutageEvent, RuleAlert};
use crate::{BackupId, NodeId, Timestamp, VmId};

fn source() -> EventSource {
    EventSource { cluster: "blue".into(), node: NodeId::new("n1").unwrap() }
}

fn vm() -> VmId {
    "178b0921-8f85-4257-88b6-2e743b5a975c".parse().unwrap()
}

fn failed(sequence: u64) -> CloudEvent {
    let backup: BackupId = "178b0921-8f85-4257-88b6-2e743b5a975d".parse().unwrap();
    let kind = EventKind::BackupFailed { backup, reason: "disk {full}".into() };
    let mut event = Event { sequence, at: Timestamp::EPOCH, vm: vm(), kind }.to_cloud_event(&source());
    event.about.cloud = Some(CloudName::new("prod").unwrap());
    event.about.policy = Some("gold".into());
    event
}

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

fn on(trigger: Value) -> Rule {
    rule(json!({ "name": "r", "on": trigger, "then": [{ "notify": "operators" }] }))
}

#[test]
fn a_rule_acts_on_what_is_all_that_it_says() {
    for (trigger, expected) in [
        (json!({ "types": ["backup.failed"] }), true),
        (json!({ "types": ["lease.*", "backup.*"] }), true),
        (json!({ "types": ["backup.fail"] }), false),
        (json!({ "types": ["lease.*"] }), false),
        (json!({ "category": "exception" }), true),
        (json!({ "category": "warning" }), false),
        (json!({ "types": ["backup.failed"], "category": "information" }), false),
        (json!({ "types": ["backup.failed"], "cloud": "prod", "policy": "gold" }), true),
        (json!({ "types": ["backup.failed"], "cloud": "lab" }), false),
        (json!({ "types": ["backup.failed"], "policy": "lead" }), false),
        (json!({ "types": ["backup.failed"], "project": "p" }), false),
    ] {
        assert_eq!(on(trigger.clone()).matches(&failed(1)), expected, "{trigger}");
    }
}

#[test]
fn a_rule_never_acts_on_its_own_alert_and_others_may() {
    let mut exceptions = on(json!({ "category": "exception" }));
    let event = failed(1);
    let alert = RuleAlert { rule: "r", action: 0, message: "m".into(), event: &event }.to_cloud_event(&source());
    assert!(!exceptions.matches(&alert));
    exceptions.name = "other".into();
    assert!(exceptions.matches(&alert));
    assert_eq!(alert.id.0, format!("rule/r/0/{}/1", vm()));
}

#[test]
fn a_text_says_what_the_event_says_and_nothing_else() {
    let says = |text: &str| Action::Alert { text: text.into() }.says(&failed(1));
    assert_eq!(says("{type} ({category}) in {cloud}: {data.reason}"), "backup.failed (exception) in prod: disk {full}");
    assert_eq!(says("{data.nothing}{project}"), "backup.failed", "a notice says something");
    assert_eq!(says("open { and shut }, {subject"), "open { and shut }, {subject".replace("{ and shut }", ""));
    assert_eq!(says(&"ä".repeat(2000)).chars().count(), 1000);
    let default = Action::Notify { to: NoticeTo::Owner, text: None }.says(&failed(1));
    assert!(default.starts_with(&format!("backup.failed of vm/{}: backup ", vm())), "{default}");
}

#[test]
fn a_rule_acts_so_often_for_each_subject_and_the_same_event_is_counted_once() {
    let mut rule = on(json!({ "types": ["backup.failed"] }));
    rule.at_most = AtMost { times: 2, per: Span::from_secs(60) };
    let mut rate = Rate::default();
    let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
    assert_eq!(rate.take(&rule, &failed(1), at(0)), Allowed::Yes);
    assert_eq!(rate.take(&rule, &failed(1), at(1)), Allowed::Yes, "the same event");
    assert_eq!(rate.take(&rule, &failed(2), at(2)), Allowed::Yes);
    assert_eq!(rate.take(&rule, &failed(3), at(3)), Allowed::No);
    assert_eq!(rate.take(&rule, &failed(2), at(4)), Allowed::Yes, "it was allowed");
    let mut other = failed(3);
    other.subject = "vm/other".into();
    assert_eq!(rate.take(&rule, &other, at(3)), Allowed::Yes, "another subject");
    assert_eq!(rate.take(&rule, &failed(4), at(60)), Allowed::Yes, "the first is over");
    assert_eq!(rate.take(&rule, &failed(5), at(61)), Allowed::No);
    assert_eq!(rate.take(&rule, &failed(6), at(-5)), Allowed::Yes, "a clock that was set back forbids nothing");
}

#[test]
fn a_rule_that_feeds_itself_by_a_detour_ends() {
    let rule = on(json!({ "types": ["backup.failed"] }));
    let mut rate = Rate::default();
    let acts = (1..=1000).filter(|n| rate.take(&rule, &failed(*n), Timestamp::EPOCH) == Allowed::Yes).count();
    assert_eq!(acts, 5);
}

#[test]
fn what_is_counted_is_bounded() {
    let rule = on(json!({ "types": ["backup.failed"] }));
    let mut rate = Rate::default();
    for n in 0..10_100_i64 {
        let mut event = failed(1);
        event.subject = format!("vm/{n}");
        assert_eq!(rate.take(&rule, &event, Timestamp::from_millis(n)), Allowed::Yes);
    }
    let debug = format!("{rate:?}");
    assert!(!debug.contains("vm/99\"") && debug.contains("vm/100\""), "the oldest are forgotten");
}

fn refused(value: Value) -> String {
    let rules: Vec<Rule> = serde_json::from_value(json!([value])).unwrap();
    check(&rules).into_iter().map(|(key, why)| format!("{key}: {why}")).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_wrong_with_a_rule_is_said_with_its_key() {
    let then = json!([{ "notify": "operators" }]);
    let failed = json!({ "types": ["backup.failed"] });
    for (value, expected) in [
        (json!({ "name": "a b", "on": failed, "then": then }), "[0].name: expected 1 to 64 letters"),
        (json!({ "name": "a", "on": {}, "then": then }), "[0].on: matches every event"),
        (json!({ "name": "a", "on": { "types": ["backup.fail"] }, "then": then }), "[0].on.types[0]: no event has"),
        (json!({ "name": "a", "on": { "types": ["lea*"] }, "then": then }), "[0].on.types[0]: no event has"),
        (json!({ "name": "a", "on": failed, "then": [] }), "[0].then: expected 1 to 8"),
        (
            json!({ "name": "a", "on": failed, "then": [{ "command": "backup.make" }] }),
            "[0].then[0].command: property type",
        ),
        (
            json!({ "name": "a", "on": failed, "then": [{ "command": "lease.extend", "with": { "until": "7d" } }] }),
            "[0].then[0].command: key \"until\"",
        ),
        (
            json!({ "name": "a", "on": failed, "then": [{ "command": "backup.run", "with": { "vm": "x" } }] }),
            "[0].then[0].with.vm: is the event's",
        ),
        (
            json!({ "name": "a", "on": failed, "then": [{ "alert": "{reason}" }] }),
            "[0].then[0].alert: there is no {reason}",
        ),
        (
            json!({ "name": "a", "on": { "types": ["backup.*"] }, "then": [{ "command": "backup.run" }] }),
            "[0].then[0]: brings about backup.started",
        ),
        (
            json!({ "name": "a", "on": { "category": "exception" }, "then": [{ "alert": "look" }] }),
            "[0].then[0]: brings about alert.raised",
        ),
        (
            json!({ "name": "a", "on": failed, "then": then, "at_most": { "times": 0 } }),
            "[0].at_most.times: is 0, expected 1 to 1000",
        ),
        (
            json!({ "name": "a", "on": failed, "then": then, "at_most": { "per": "90d" } }),
            "[0].at_most.per: is 90d, expected 1s to 30d",
        ),
    ] {
        let message = refused(value);
        assert!(message.starts_with(expected), "{expected}\n{message}");
    }
    let sound = json!({ "name": "again", "on": failed, "then": [{ "command": "backup.run" }] });
    assert_eq!(refused(sound.clone()), "");
    let twice: Vec<Rule> = serde_json::from_value(json!([sound, sound])).unwrap();
    assert_eq!(check(&twice), [("[1].name".to_owned(), "two rules are called \"again\"".to_owned())]);
}

#[test]
fn an_action_is_one_thing_and_is_written_as_it_is_read() {
    for value in [
        json!({ "notify": "owner", "text": "t" }),
        json!({ "command": "lease.extend", "with": { "for": "7d" } }),
        json!({ "alert": "a" }),
    ] {
        let action: Action = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&action).unwrap(), value);
    }
    for value in [
        json!({}),
        json!({ "notify": "owner", "alert": "a" }),
        json!({ "command": "backup.run", "text": "t" }),
        json!({ "notify": "bob" }),
        json!({ "shell": "true" }),
    ] {
        assert!(serde_json::from_value::<Action>(value.clone()).is_err(), "{value}");
    }
}

#[test]
fn topics_are_what_the_rules_name() {
    let rules = [on(json!({ "types": ["lease.*", "backup.failed"] })), on(json!({ "types": ["backup.failed"] }))];
    let named = topics(&rules);
    assert_eq!(named, ["backup.failed", "lease.*"]);
    assert!(is_routed(&named, "lease.expired") && !is_routed(&named, "backup.verified"));
    let all = topics(&[on(json!({ "category": "warning" }))]);
    assert_eq!(all, ["#"]);
    assert!(is_routed(&all, "node.lost"));
    let cloud = CloudName::new("prod").unwrap();
    let (at, since) = (Timestamp::EPOCH, Timestamp::EPOCH);
    let outage = OutageEvent { sequence: 1, at, cloud, service: "compute".into(), since, is_over: false };
    let rule = on(json!({ "types": ["alert.raised"], "cloud": "prod" }));
    assert!(rule.matches(&outage.to_cloud_event(&source())));
}

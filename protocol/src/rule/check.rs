//! What is wrong with rules, each with its key.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Action, Rule, Trigger, means, rate, text};
use crate::command::{MAX_NOTICE, parse};
use crate::event::{Category, RuleAlert, TYPES};

/// The most rules.
pub const MAX_RULES: usize = 100;
/// The most actions of a rule.
const MAX_ACTIONS: usize = 8;
/// The most types that a rule names.
const MAX_TYPES: usize = 64;
/// The longest name.
const MAX_NAME: usize = 64;
/// The most times that a rule may act.
const MAX_TIMES: u32 = 1000;

/// A VM that stands for any.
const ANY_VM: &str = "00000000-0000-0000-0000-000000000000";

/// Everything that is wrong: the key within `rule`, as `[0].on.types`, and what was expected.
#[must_use]
pub fn check(rules: &[Rule]) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if rules.len() > MAX_RULES {
        wrong.push((String::new(), format!("{} rules, at most {MAX_RULES}", rules.len())));
    }
    let mut names = BTreeSet::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut complain = |key: &str, why: String| wrong.push((format!("[{index}]{key}"), why));
        if !names.insert(rule.name.as_str()) {
            complain(".name", format!("two rules are called {:?}", rule.name));
        }
        check_rule(rule, &mut complain);
    }
    wrong
}

fn check_rule(rule: &Rule, complain: &mut impl FnMut(&str, String)) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if rule.name.is_empty() || rule.name.len() > MAX_NAME || !rule.name.chars().all(plain) {
        complain(".name", format!("expected 1 to {MAX_NAME} letters, digits, - and _"));
    }
    check_trigger(&rule.on, complain);
    if rule.then.is_empty() || rule.then.len() > MAX_ACTIONS {
        complain(".then", format!("expected 1 to {MAX_ACTIONS} actions"));
    }
    if !(1..=MAX_TIMES).contains(&rule.at_most.times) {
        complain(".at_most.times", format!("is {}, expected 1 to {MAX_TIMES}", rule.at_most.times));
    }
    let (least, most) = rate::PER;
    if rule.at_most.per < least || rule.at_most.per > most {
        complain(".at_most.per", format!("is {}, expected {least} to {most}", rule.at_most.per));
    }
    for (index, action) in rule.then.iter().enumerate() {
        let key = format!(".then[{index}]");
        check_action(action, &key, complain);
        for caused in causes(action) {
            if category_of(caused).is_some_and(|category| rule.on.means(caused, category)) {
                complain(&key, format!("brings about {caused}, on which the rule acts: it would feed itself"));
            }
        }
    }
}

fn check_trigger(on: &Trigger, complain: &mut impl FnMut(&str, String)) {
    if on.types.is_empty() && on.category.is_none() {
        complain(".on", "matches every event: name types, a category or both".into());
    }
    if on.types.len() > MAX_TYPES {
        complain(".on.types", format!("{} types, at most {MAX_TYPES}", on.types.len()));
    }
    for (index, pattern) in on.types.iter().enumerate() {
        // Only what a topic exchange understands in the same way.
        let is_sound = pattern.strip_suffix('*').is_none_or(|prefix| prefix.ends_with('.'));
        if !is_sound || !TYPES.iter().any(|(name, _)| means(pattern, name)) {
            complain(
                &format!(".on.types[{index}]"),
                format!("no event has the type {pattern:?}, expected for example backup.failed or lease.*"),
            );
        }
    }
}

fn check_action(action: &Action, key: &str, complain: &mut impl FnMut(&str, String)) {
    match action {
        Action::Notify { text: None, .. } => {}
        Action::Notify { text: Some(said), .. } => check_text(said, &format!("{key}.text"), complain),
        Action::Alert { text: said } => check_text(said, &format!("{key}.alert"), complain),
        Action::Command { name, with } => {
            if let Some(own) = ["vm", "by"].into_iter().find(|own| with.contains_key(*own)) {
                complain(&format!("{key}.with.{own}"), "is the event's and the rule's own, leave it out".into());
                return;
            }
            let mut body = json!(with);
            body["vm"] = ANY_VM.into();
            body["by"] = "operator:rule".into();
            if let Err(error) = parse(Some(name), Some("rule"), body.to_string().as_bytes()) {
                complain(&format!("{key}.command"), error.to_string());
            }
        }
    }
}

fn check_text(said: &str, key: &str, complain: &mut impl FnMut(&str, String)) {
    if said.trim().is_empty() || said.chars().count() > MAX_NOTICE {
        complain(key, format!("expected 1 to {MAX_NOTICE} characters"));
    }
    if let Some(why) = text::unknown_word(said) {
        complain(key, why);
    }
}

fn category_of(name: &str) -> Option<Category> {
    TYPES.iter().find(|(other, _)| *other == name).map(|(_, category)| *category)
}

/// The types of events that come of an action itself, not of how it ends.
fn causes(action: &Action) -> &'static [&'static str] {
    match action {
        Action::Notify { .. } => &[],
        Action::Alert { .. } => &[RuleAlert::ROUTING_KEY],
        Action::Command { name, .. } => match name.as_str() {
            "vm.start" | "vm.stop" | "vm.reboot" | "vm.suspend" | "vm.resume" => &["action.started", "action.done"],
            "vm.delete" => &["vm.terminating"],
            "vm.revive" => &["vm.revive-started", "vm.revived"],
            "lease.extend" => &["lease.extended", "lease.extension-denied"],
            "lease.end" => &["lease.expired"],
            "lease.cancel-end" => &["lease.end-cancelled"],
            "lease.set-policy" => &["lease.policy-changed"],
            "lease.exempt" => &["lease.exempted"],
            "backup.run" => &["backup.started"],
            "backup.verify" => &["backup.verify-started", "backup.verified"],
            "backup.restore" => &["action.started", "backup.restored"],
            "backup.delete" => &["backup.deleted"],
            "health.report" => &["health.down", "health.recovered"],
            "repair.run" => &["repair.started"],
            "vm.maintenance" => &["lease.held", "lease.released"],
            // Either no command, or one that is no event.
            _ => &[],
        },
    }
}

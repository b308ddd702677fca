//! Rule 5: a human is told once an episode.

use std::collections::BTreeSet;

use super::case::Case;
use super::{Judgement, Rule};

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        let mut raised: BTreeSet<&str> = BTreeSet::new();
        for heard in story.told() {
            let alert = heard.event.data["alert"].as_str().unwrap_or("?");
            match heard.event.kind.as_str() {
                "reeve.alert.raised" if !raised.insert(alert) => {
                    verdict.broke(Rule::Alert, *vm, format!("{alert} was raised twice in one episode"));
                }
                "reeve.alert.cleared" if !raised.remove(alert) => {
                    verdict.broke(Rule::Alert, *vm, format!("{alert} was cleared and not raised"));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Rule;
    use super::super::tale::{Tale, vm};

    fn alerts(kinds: &[&str]) -> Vec<Rule> {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        for kind in kinds {
            tale.event(vm(1), &format!("alert.{kind}"), json!({"alert": "ending_stuck", "message": "m"}));
        }
        tale.broken()
    }

    #[test]
    fn an_alert_may_come_again_after_it_was_cleared() {
        assert_eq!(alerts(&["raised", "cleared", "raised"]), []);
    }

    #[test]
    fn an_alert_that_comes_twice_or_is_cleared_without_cause_is_found() {
        assert_eq!(alerts(&["raised", "raised"]), [Rule::Alert]);
        assert_eq!(alerts(&["cleared"]), [Rule::Alert]);
    }
}

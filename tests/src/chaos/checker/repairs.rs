//! Rule 4: every step of a repair ends with a retest of what started it, before the next step begins.

use super::case::Case;
use super::{Judgement, Rule};

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        let mut open: Option<&str> = None;
        for heard in story.told() {
            let step = heard.event.data["step"].as_str().unwrap_or("?");
            match heard.event.kind.as_str() {
                // An episode that gave way, because the VM was held or stopped, leaves its step without an end.
                "reeve.repair.started" => open = None,
                "reeve.repair.step-started" => {
                    if let Some(before) = open.replace(step) {
                        verdict.broke(Rule::Retest, *vm, format!("step {step} begins, {before} was not retested"));
                    }
                }
                "reeve.repair.step-finished" if open.take().is_none() => {
                    verdict.broke(Rule::Retest, *vm, format!("step {step} ends and did not begin"));
                }
                "reeve.repair.succeeded" | "reeve.repair.exhausted" if open.is_some() => {
                    verdict.broke(Rule::Retest, *vm, "a repair is over with a step that was not retested");
                }
                "reeve.repair.step-finished" | "reeve.repair.succeeded" | "reeve.repair.exhausted" => {}
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

    fn repair(kinds: &[&str]) -> Vec<Rule> {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        for kind in kinds {
            tale.event(vm(1), &format!("repair.{kind}"), json!({"step": "hard_reboot", "cured": false}));
        }
        tale.broken()
    }

    #[test]
    fn two_steps_each_with_a_retest_are_in_order() {
        let kinds = ["started", "step-started", "step-finished", "step-started", "step-finished", "succeeded"];
        assert_eq!(repair(&kinds), []);
        assert_eq!(repair(&["started", "step-started", "started", "step-started", "step-finished"]), []);
    }

    #[test]
    fn a_step_without_a_retest_is_found() {
        assert_eq!(repair(&["started", "step-started", "step-started"]), [Rule::Retest]);
        assert_eq!(repair(&["started", "step-started", "succeeded"]), [Rule::Retest]);
        assert_eq!(repair(&["started", "step-finished"]), [Rule::Retest]);
    }
}

//! Rule 4: every step of a repair ends with a retest of what started it, before the next step begins; and every repair
//! comes to a verdict, unless the VM was held or no longer meant to run.

use super::case::{Case, Story};
use super::effects::{is_busy, runs};
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
        if case.healed
            && let Some(sequence) = without_verdict(story)
        {
            verdict.broke(Rule::Retest, *vm, format!("the repair of event {sequence} came to no verdict"));
        }
    }
}

/// The first repair that is over without a verdict and without a reason to give way.
fn without_verdict(story: &Story<'_>) -> Option<u64> {
    // Whoever locks a VM, or puts it under maintenance, does so at a time that no event tells.
    if !story.hands_off.is_empty() {
        return None;
    }
    let mut open: Option<u64> = None;
    for heard in story.told() {
        let to = heard.event.data["to"].as_str().unwrap_or("?");
        match heard.event.kind.as_str() {
            "reeve.repair.started" if open.is_some() => return open,
            "reeve.repair.started" => open = Some(heard.event.sequence),
            "reeve.repair.succeeded" | "reeve.repair.exhausted" => open = None,
            "reeve.vm.state-changed" if !runs(to) => open = None,
            _ => {}
        }
    }
    open.filter(|_| !story.is_gone() && !is_busy(story))
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

    /// What is broken at the end of a run after a repair that took these steps.
    fn repair_at_end(kinds: &[&str], to: Option<&str>) -> Vec<Rule> {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.in_cloud(vm(1));
        tale.last(vm(1), "n1", "active");
        for kind in kinds {
            tale.event(vm(1), &format!("repair.{kind}"), json!({"step": "hard_reboot", "cured": false}));
        }
        if let Some(to) = to {
            tale.event(vm(1), "vm.state-changed", json!({"from": "active", "to": to}));
        }
        tale.broken_at_end()
    }

    #[test]
    fn a_repair_without_a_verdict_is_found_unless_the_vm_was_stopped() {
        assert_eq!(repair_at_end(&["started", "step-started", "step-finished", "exhausted"], None), []);
        assert_eq!(repair_at_end(&["started", "step-started", "step-finished"], None), [Rule::Retest]);
        assert_eq!(repair_at_end(&["started", "step-started", "step-finished"], Some("error")), [Rule::Retest]);
        assert_eq!(repair_at_end(&["started", "step-started", "step-finished"], Some("stopped")), []);
        let twice =
            ["started", "step-started", "step-finished", "started", "step-started", "step-finished", "succeeded"];
        assert_eq!(repair_at_end(&twice, None), [Rule::Retest]);
    }

    #[test]
    fn a_step_without_a_retest_is_found() {
        assert_eq!(repair(&["started", "step-started", "step-started"]), [Rule::Retest]);
        assert_eq!(repair(&["started", "step-started", "succeeded"]), [Rule::Retest]);
        assert_eq!(repair(&["started", "step-finished"]), [Rule::Retest]);
    }
}

//! Rule 4: every step of a repair ends with a retest of what started it, before the next step begins; and every repair
//! comes to a verdict, unless the VM was held, or may have been, or is no longer meant to run.

use reeve_protocol::Timestamp;

use super::case::{Case, Heard, Story};
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
            && let Some(sequence) = without_verdict(case, story)
        {
            verdict.broke(Rule::Retest, *vm, format!("the repair of event {sequence} came to no verdict"));
        }
    }
}

/// The first repair that is over without a verdict and without a reason to give way.
fn without_verdict(case: &Case<'_>, story: &Story<'_>) -> Option<u64> {
    // Whoever locks a VM, or puts it under maintenance, does so at a time that no event tells.
    if !story.hands_off.is_empty() {
        return None;
    }
    // Nor does one tell of a node that does not trust its clock, and holds its VMs.
    let has_reason = |begun: &Heard<'_>, over: Timestamp| case.clocks.may_be_doubted(begun.decided.earliest, over);
    let mut open: Option<&Heard<'_>> = None;
    for heard in story.told() {
        let to = heard.event.data["to"].as_str().unwrap_or("?");
        match heard.event.kind.as_str() {
            "reeve.repair.started" => {
                if let Some(begun) = open.replace(heard).filter(|begun| !has_reason(begun, heard.decided.latest)) {
                    return Some(begun.event.sequence);
                }
            }
            "reeve.repair.succeeded" | "reeve.repair.exhausted" => open = None,
            "reeve.vm.state-changed" if !runs(to) => open = None,
            _ => {}
        }
    }
    let begun = open.filter(|begun| !story.is_gone() && !is_busy(story) && !has_reason(begun, Timestamp::MAX))?;
    Some(begun.event.sequence)
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

    /// A VM whose repair begins; at the end it runs.
    fn repair_begins() -> Tale {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.in_cloud(vm(1));
        tale.last(vm(1), "n1", "active");
        tale
    }

    #[test]
    fn a_repair_that_gave_way_while_a_clock_was_doubted_is_none() {
        for (seconds, expected) in [(20, vec![]), (40, vec![Rule::Retest])] {
            let mut tale = repair_begins();
            tale.stepped("n1", 3_600_000);
            tale.stepped("n1", 0);
            tale.pass(seconds);
            tale.event(vm(1), "repair.started", json!({"cause": "health"}));
            assert_eq!(tale.broken_at_end(), expected, "{seconds} s after the clock was set right");
            tale.event(vm(1), "repair.started", json!({"cause": "health"}));
            tale.event(vm(1), "repair.succeeded", json!({"steps": 0}));
            assert_eq!(tale.broken_at_end(), expected, "{seconds} s after the clock was set right");
        }
        for (seconds, expected) in [(-5, vec![]), (5, vec![Rule::Retest])] {
            let mut tale = repair_begins();
            tale.event(vm(1), "repair.started", json!({"cause": "health"}));
            tale.pass(10);
            if seconds < 0 {
                tale.stepped("n2", -3_600_000);
            }
            tale.pass(10);
            tale.event(vm(1), "repair.started", json!({"cause": "health"}));
            tale.event(vm(1), "repair.succeeded", json!({"steps": 0}));
            tale.pass(5);
            if seconds > 0 {
                tale.stepped("n2", -3_600_000);
            }
            assert_eq!(tale.broken_at_end(), expected, "a clock is stepped {seconds} s after the repair gave way");
        }
    }

    #[test]
    fn a_step_without_a_retest_is_found() {
        assert_eq!(repair(&["started", "step-started", "step-started"]), [Rule::Retest]);
        assert_eq!(repair(&["started", "step-started", "succeeded"]), [Rule::Retest]);
        assert_eq!(repair(&["started", "step-finished"]), [Rule::Retest]);
    }
}

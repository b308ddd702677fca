//! Rule 7: a VM that is locked or under maintenance is left alone.

use std::time::Duration;

use super::case::Case;
use super::{Judgement, Rule};

/// What was under way when the hold came may still be finished, and a lock is heard of with the next listing at the
/// latest.
const SETTLES: Duration = Duration::from_secs(30);

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        for (from, until) in &story.hands_off {
            let touched = story.calls.iter().filter(|made| {
                made.node().is_some() && made.call.applied && made.at > *from + SETTLES && made.at < *until
            });
            for made in touched {
                let (call, at) = (made.call.call, made.at);
                verdict.broke(Rule::HandsOff, *vm, format!("{call:?} at {at}, nobody was to touch it since {from}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use reeve_drivers::cloud::sim::CallKind;

    use super::super::Rule;
    use super::super::tale::{Tale, vm};
    use crate::chaos::history::What;

    #[test]
    fn a_held_vm_that_is_stopped_is_found_and_one_that_was_let_go_is_not() {
        for (let_go, expected) in [(false, vec![Rule::HandsOff]), (true, Vec::new())] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.owned(vm(1), "n1", 1);
            tale.say(What::HandsOff { vm: vm(1) });
            tale.pass(60);
            if let_go {
                tale.say(What::HandsOn { vm: vm(1) });
            }
            tale.pass(5);
            tale.call(vm(1), "n1", CallKind::Stop, "");
            assert_eq!(tale.broken(), expected);
        }
    }
}

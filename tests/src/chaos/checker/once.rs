//! Rule 3: nothing that destroys, replaces, makes or restarts is done twice for one decision.

use std::collections::BTreeMap;

use reeve_drivers::cloud::sim::CallKind;

use super::case::{Case, Story};
use super::{Judgement, Rule};

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        let mut too_often = |call: CallKind, done: usize, decided: usize| {
            if done > decided {
                verdict.double_actions += u64::try_from(done - decided).unwrap_or(1);
                verdict.broke(Rule::Once, *vm, format!("{call:?} was done {done} times for {decided} decisions"));
            }
        };
        let deletions = done(story, CallKind::DeleteServer);
        too_often(CallKind::DeleteServer, deletions, 1);
        let asked = |kind: &str| case.granted(story, kind).count();
        // Without the events of the whole run some decisions are not known.
        if case.healed {
            let reboots = asked("vm.reboot") + steps(story, "hard_reboot");
            too_often(CallKind::HardReboot, done(story, CallKind::HardReboot), reboots);
            let restores = asked("backup.restore") + steps(story, "relaunch");
            too_often(CallKind::RestoreInPlace, done(story, CallKind::RestoreInPlace), restores);
        }
    }
    named_once(case, verdict);
}

/// A call that names what it destroys or for which operation it makes something does so once.
fn named_once(case: &Case<'_>, verdict: &mut Judgement) {
    let kinds = [CallKind::DeleteVolume, CallKind::ReleaseAddress, CallKind::Launch];
    let mut counts: BTreeMap<(CallKind, &str), u64> = BTreeMap::new();
    let calls = case.vms.values().flat_map(|story| &story.calls).chain(&case.loose);
    for made in calls {
        let call = made.call;
        if kinds.contains(&call.call) && made.is_done(call.call) && !call.detail.is_empty() {
            *counts.entry((call.call, call.detail.as_str())).or_default() += 1;
        }
    }
    for ((call, detail), count) in counts.into_iter().filter(|(_, count)| *count > 1) {
        verdict.double_actions += count - 1;
        verdict.broke(Rule::Once, None, format!("{call:?} {detail} was done {count} times"));
    }
}

fn done(story: &Story<'_>, kind: CallKind) -> usize {
    story.calls.iter().filter(|made| made.is_done(kind)).count()
}

fn steps(story: &Story<'_>, step: &str) -> usize {
    let started = story.told().filter(|heard| heard.event.kind == "reeve.repair.step-started");
    started.filter(|heard| heard.event.data["step"] == step).count()
}

#[cfg(test)]
mod tests {
    use reeve_drivers::cloud::sim::CallKind;
    use serde_json::json;

    use super::super::Rule;
    use super::super::tale::{Tale, vm};

    #[test]
    fn a_second_deletion_is_found() {
        let mut tale = Tale::whole_life();
        tale.call(vm(1), "n1", CallKind::DeleteServer, "");
        assert_eq!(tale.broken(), [Rule::Once]);
        assert_eq!(tale.judge().double_actions, 1);
    }

    #[test]
    fn a_volume_deleted_twice_and_a_launch_repeated_are_found() {
        for kind in [CallKind::DeleteVolume, CallKind::Launch] {
            let mut tale = Tale::whole_life();
            tale.call(vm(1), "n1", kind, "x");
            assert_eq!(tale.broken(), []);
            tale.call(vm(1), "n1", kind, "x");
            assert_eq!(tale.broken(), [Rule::Once]);
        }
    }

    #[test]
    fn a_reboot_more_than_was_decided_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.owned(vm(1), "n1", 1);
        tale.sent("c1", vm(1), "vm.reboot", json!({}));
        tale.answered("c1", &json!({"ok": true, "result": {}}));
        tale.event(vm(1), "action.done", json!({"action": "reboot"}));
        tale.event(vm(1), "repair.step-started", json!({"step": "hard_reboot"}));
        tale.call(vm(1), "n1", CallKind::HardReboot, "");
        tale.call(vm(1), "n1", CallKind::HardReboot, "");
        assert_eq!(tale.broken_at_end(), []);
        tale.call(vm(1), "n1", CallKind::HardReboot, "");
        assert_eq!(tale.broken_at_end(), [Rule::Once]);
    }
}

//! Rule 6: what was accepted is done, or somebody was told why not, by the end of the run; and nothing is done that nobody
//! asked for.
//!
//! ```text
//! accepted ─► done ─┐
//!     ├─► given up ─┴─► one event each; while an alert is open, giving up again is not told a second time
//!     └─► the VM went: the one that was under way then needs neither
//! ```
//!
//! What is still under way at the end is named by the rule about the end.

use reeve_protocol::event::Alert;
use reeve_protocol::{Timestamp, VmId};

use super::case::{Asked, Case, Heard, SLACK, Story};
use super::{Judgement, Rule};

/// The actions with which a VM can be ordered about: command, name, and whether Reeve itself does it too.
const ACTIONS: [(&str, &str, Own); 6] = [
    ("vm.start", "start", Own::Also),
    ("vm.resume", "resume", Own::Also),
    ("vm.stop", "stop", Own::Never),
    ("vm.suspend", "suspend", Own::Never),
    ("vm.reboot", "reboot", Own::Never),
    ("backup.restore", "restore", Own::Never),
];

/// Whether an action is done unasked too: a VM whose end was taken back, or whose lease was extended, runs again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Also,
    Never,
}

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    if !case.healed {
        return;
    }
    for (vm, story) in &case.vms {
        let mut broke = |why: Result<(), String>| {
            if let Err(why) = why {
                verdict.broke(Rule::Command, *vm, why);
            }
        };
        for (command, action, own) in ACTIONS {
            broke(acted(case, story, command, action, own));
        }
        broke(revived(case, story));
        broke(backed_up(case, story));
        broke(backups_over(story));
        broke(lease_ended(case, story));
        broke(deleted(case, story));
        broke(repaired(case, story));
    }
}

/// How the commands of a kind came out.
struct Outcomes<'b> {
    command: &'b str,
    done: usize,
    given_up: usize,
    /// What the going of the VM overtook.
    overtaken: usize,
    /// The alert that is raised when one is given up.
    alert: &'b str,
}

impl Outcomes<'_> {
    /// Every accepted command has its outcome.
    fn cover(&self, case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
        let Self { command, done, given_up, overtaken, alert } = self;
        let accepted = case.accepted(story, command).count();
        let silent = case.accepted(story, command).filter(|asked| may_be_silent(story, alert, asked.first_at)).count();
        if done + given_up + overtaken + silent < accepted {
            let why = format!("{command} was accepted {accepted} times, done {done} times, given up {given_up} times");
            return Err(why);
        }
        Ok(())
    }
}

/// Whether what was asked for then may have been given up while people were told already: an alert that was cleared before
/// cannot be the reason.
fn may_be_silent(story: &Story<'_>, alert: &str, asked_at: Timestamp) -> bool {
    let of = |kind: &'static str| story.of(kind).filter(|heard| heard.event.data["alert"] == alert);
    let cleared = of("reeve.alert.cleared").map(|heard| (heard.event.sequence, heard.at)).collect::<Vec<_>>();
    of("reeve.alert.raised").any(|raised| {
        let end = cleared.iter().find(|(sequence, _)| *sequence > raised.event.sequence);
        end.is_none_or(|(_, at)| *at >= asked_at)
    })
}

/// How many alerts of this kind say this.
fn alerts(story: &Story<'_>, alert: &str, says: impl Fn(&str) -> bool) -> usize {
    let raised = story.of("reeve.alert.raised").filter(|heard| heard.event.data["alert"] == alert);
    raised.filter(|heard| heard.event.data["message"].as_str().is_some_and(&says)).count()
}

fn acted(case: &Case<'_>, story: &Story<'_>, command: &str, action: &str, own: Own) -> Result<(), String> {
    let done = match action {
        "restore" => story.count("reeve.backup.restored"),
        _ => story.of("reeve.action.done").filter(|heard| heard.event.data["action"] == action).count(),
    };
    at_most(case, story, command, done, own)?;
    let begins = format!("{action} asked for");
    let given_up = alerts(story, "action_stuck", |message| message.starts_with(&begins));
    // Only one can have been under way when the VM went.
    let overtaken = usize::from(story.is_gone());
    Outcomes { command, done, given_up, overtaken, alert: "action_stuck" }.cover(case, story)
}

fn revived(case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
    let done = story.count("reeve.vm.revived");
    at_most(case, story, "vm.revive", done, Own::Never)?;
    for heard in story.of("reeve.vm.revived") {
        let new_vm: Option<VmId> = heard.event.data["new_vm"].as_str().and_then(|id| id.parse().ok());
        let known = new_vm.and_then(|vm| case.vms.get(&vm)).is_some_and(|new| new.last.is_some());
        if !known {
            return Err(format!("it was revived as {new_vm:?}, which no node knows"));
        }
    }
    // A revival that does not get past a step raises the same alert and goes on.
    let given_up = alerts(story, "revive_stuck", |message| !message.contains("does not get past"));
    Outcomes { command: "vm.revive", done, given_up, overtaken: 0, alert: "revive_stuck" }.cover(case, story)
}

/// What is done once for each command is not done without one. One that was not answered may have had its effect.
fn at_most(case: &Case<'_>, story: &Story<'_>, command: &str, done: usize, own: Own) -> Result<(), String> {
    let asked = case.granted(story, command).count();
    if own == Own::Never && done > asked {
        return Err(format!("{command} was done {done} times, and asked for {asked} times"));
    }
    Ok(())
}

fn backed_up(case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
    let accepted = case.accepted(story, "backup.run").count();
    let begun = story.of("reeve.backup.started").filter(|heard| heard.event.data["purpose"] == "manual").count();
    at_most(case, story, "backup.run", begun, Own::Never)?;
    // One that the end of the lease overtook is served by the final backup; a second cannot wait.
    let overtaken = story.is_gone() || story.count("reeve.vm.terminating") > 0;
    if begun + usize::from(overtaken) < accepted {
        return Err(format!("{accepted} backups were accepted, {begun} were begun"));
    }
    Ok(())
}

/// Every backup that somebody waits for is verified, or said to have failed.
fn backups_over(story: &Story<'_>) -> Result<(), String> {
    if is_busy(story) {
        return Ok(());
    }
    for begun in story.of("reeve.backup.started").filter(|heard| heard.event.data["purpose"] != "scheduled") {
        let backup = &begun.event.data["backup"];
        let is_over = |heard: &Heard<'_>| heard.event.data["backup"] == *backup;
        let mut over = story.of("reeve.backup.verified").chain(story.of("reeve.backup.failed"));
        if !over.any(is_over) {
            return Err(format!("backup {backup} was begun, and neither verified nor failed"));
        }
    }
    Ok(())
}

/// The lease ends after somebody asked for that, or an operator took it back, or people know what is in the way.
fn lease_ended(case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
    let Some(asked) = case.accepted(story, "lease.end").max_by_key(|asked| asked.first_at) else { return Ok(()) };
    let kinds = ["reeve.lease.ended", "reeve.lease.end-cancelled", "reeve.lease.exempted"];
    if kinds.iter().any(|kind| is_since(story, kind, asked)) || is_stuck(story) {
        return Ok(());
    }
    Err(format!("the end of its lease was accepted at {} and never came", asked.first_at))
}

fn deleted(case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
    let Some(asked) = case.accepted(story, "vm.delete").max_by_key(|asked| asked.first_at) else { return Ok(()) };
    let kinds = ["reeve.vm.terminated", "reeve.vm.vanished", "reeve.lease.end-cancelled", "reeve.lease.exempted"];
    if kinds.iter().any(|kind| is_since(story, kind, asked)) || is_stuck(story) {
        return Ok(());
    }
    Err(format!("its deletion was accepted at {} and never came", asked.first_at))
}

/// A repair begins after somebody asked for it; that it ends is a rule of repairs.
fn repaired(case: &Case<'_>, story: &Story<'_>) -> Result<(), String> {
    let begun = story.of("reeve.repair.started").filter(|heard| heard.event.data["cause"] == "asked for").count();
    at_most(case, story, "repair.run", begun, Own::Never)?;
    let Some(asked) = case.accepted(story, "repair.run").max_by_key(|asked| asked.first_at) else { return Ok(()) };
    // It waits while the VM is held or not meant to run.
    let waits = story.last.is_none_or(|view| !view.holds.is_empty() || !runs(&view.state));
    if is_since(story, "reeve.repair.started", asked) || story.is_gone() || is_busy(story) || waits {
        return Ok(());
    }
    Err(format!("a repair was accepted at {} and never began", asked.first_at))
}

/// Whether a VM in this state is meant to run, in Nova's words.
pub(super) fn runs(state: &str) -> bool {
    ["active", "error", "resized", "unknown"].contains(&state)
}

/// Whether an event of this kind may have been decided after this was asked for; when it was heard of proves nothing.
fn is_since(story: &Story<'_>, kind: &str, asked: &Asked<'_>) -> bool {
    story.of(kind).any(|heard| heard.decided.latest + SLACK >= asked.first_at)
}

/// Whether something was still under way at the end.
pub(super) fn is_busy(story: &Story<'_>) -> bool {
    story.last.is_some_and(|view| view.operation.is_some())
}

/// Whether the end of the VM waits and people know for what.
fn is_stuck(story: &Story<'_>) -> bool {
    story.last.is_some_and(|view| !view.holds.is_empty() || view.alerts.contains(&Alert::EndingStuck))
}

#[cfg(test)]
mod tests {
    use reeve_drivers::cloud::sim::CallKind;
    use serde_json::{Value, json};

    use super::super::Rule;
    use super::super::tale::{Tale, vm};

    /// Somebody asked, and was promised it.
    fn accepted(kind: &str) -> Tale {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.owned(vm(1), "n1", 1);
        tale.lease(vm(1), 0, 60);
        tale.in_cloud(vm(1));
        tale.last(vm(1), "n1", "active");
        again(&mut tale, "c1", kind);
        tale
    }

    fn again(tale: &mut Tale, id: &str, kind: &str) {
        tale.sent(id, vm(1), kind, json!({}));
        tale.answered(id, &json!({"ok": true, "result": {}}));
    }

    fn alert(tale: &mut Tale, kind: &str, alert: &str, message: &str) {
        tale.event(vm(1), &format!("alert.{kind}"), json!({"alert": alert, "message": message}));
    }

    fn action(name: &str) -> Value {
        json!({"action": name})
    }

    #[test]
    fn what_was_accepted_and_neither_done_nor_given_up_is_found() {
        let kinds = [
            "vm.start",
            "vm.reboot",
            "vm.stop",
            "vm.suspend",
            "vm.resume",
            "backup.run",
            "backup.restore",
            "vm.revive",
        ];
        for kind in kinds.into_iter().chain(["lease.end", "vm.delete", "repair.run"]) {
            assert_eq!(accepted(kind).broken_at_end(), [Rule::Command], "{kind}");
        }
    }

    #[test]
    fn what_was_done_is_as_it_should_be_and_once_more_is_found() {
        let (backup, new_vm) = (json!({"backup": Tale::BACKUP}), json!({"new_vm": vm(2).to_string()}));
        let known = |mut tale: Tale| {
            tale.last(vm(2), "n1", "active");
            tale.in_cloud(vm(2));
            tale
        };
        for (kind, event, data) in [
            ("vm.reboot", "action.done", action("reboot")),
            ("backup.restore", "backup.restored", backup),
            ("vm.revive", "vm.revived", new_vm),
        ] {
            let mut tale = known(accepted(kind));
            tale.event(vm(1), event, data.clone());
            assert_eq!(tale.broken_at_end(), [], "{kind}");
            tale.event(vm(1), event, data);
            assert_eq!(tale.broken_at_end(), [Rule::Command], "{kind}");
        }
    }

    #[test]
    fn a_reason_is_as_good_as_a_deed_if_it_is_about_the_same() {
        let mut tale = accepted("backup.restore");
        alert(&mut tale, "raised", "action_stuck", "restore asked for by u failed: r");
        assert_eq!(tale.broken_at_end(), []);
        let mut tale = accepted("vm.revive");
        alert(&mut tale, "raised", "revive_stuck", "the revival was refused and is given up: r");
        assert_eq!(tale.broken_at_end(), []);
        let mut tale = accepted("vm.stop");
        alert(&mut tale, "raised", "action_stuck", "restore asked for by u failed: r");
        alert(&mut tale, "cleared", "action_stuck", "");
        again(&mut tale, "c2", "vm.stop");
        tale.event(vm(1), "action.done", action("stop"));
        assert_eq!(tale.broken_at_end(), [], "the first may have been given up in silence");
        again(&mut tale, "c3", "vm.stop");
        assert_eq!(tale.broken_at_end(), [Rule::Command], "the third may not: the alert was cleared before");
    }

    #[test]
    fn a_revival_as_a_vm_that_nobody_knows_is_found() {
        let mut tale = accepted("vm.revive");
        tale.event(vm(1), "vm.revived", json!({"new_vm": vm(3).to_string()}));
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
    }

    #[test]
    fn a_backup_that_was_begun_and_never_came_to_an_end_is_found() {
        let mut tale = accepted("backup.run");
        tale.event(vm(1), "backup.started", json!({"backup": Tale::BACKUP, "purpose": "manual", "late": false}));
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
        tale.event(vm(1), "backup.failed", json!({"backup": Tale::BACKUP, "reason": "r"}));
        assert_eq!(tale.broken_at_end(), []);
    }

    #[test]
    fn a_deletion_that_only_began_is_found_and_one_that_was_taken_back_is_not() {
        let mut tale = accepted("vm.delete");
        tale.event(vm(1), "vm.terminating", json!({"by": "u"}));
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
        tale.event(vm(1), "lease.end-cancelled", json!({"by": "operator:o"}));
        assert_eq!(tale.broken_at_end(), []);
    }

    #[test]
    fn an_end_that_came_before_it_was_asked_for_is_none() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.lease(vm(1), 0, 60);
        tale.in_cloud(vm(1));
        tale.last(vm(1), "n1", "active");
        tale.pass(61);
        tale.event(vm(1), "lease.ended", json!({"reason": "stopped"}));
        let ends_at = tale.time(20);
        tale.event(vm(1), "lease.extended", json!({"by": "u", "ends_at": ends_at, "extensions": 1}));
        tale.sent("e", vm(1), "lease.extend", json!({}));
        tale.answered("e", &json!({"ok": true, "result": {"ends_at": ends_at}}));
        tale.pass(2);
        again(&mut tale, "c1", "lease.end");
        assert_eq!(tale.broken_at_end(), [Rule::Command]);
        tale.event(vm(1), "lease.ended", json!({"reason": "stopped"}));
        assert_eq!(tale.broken_at_end(), []);
    }

    #[test]
    fn what_was_decided_before_it_was_asked_for_and_heard_of_after_is_none() {
        for (seconds, expected) in [(-30, vec![Rule::Command]), (-5, vec![])] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.lease(vm(1), 0, 600);
            tale.in_cloud(vm(1));
            tale.last(vm(1), "n1", "active");
            tale.pass(100);
            again(&mut tale, "c1", "repair.run");
            tale.pass(10);
            tale.written_at(seconds);
            tale.event(vm(1), "repair.started", json!({"cause": "health"}));
            tale.event(vm(1), "repair.succeeded", json!({"steps": 0}));
            assert_eq!(tale.broken_at_end(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_repair_that_was_asked_for_begins_unless_the_vm_was_stopped() {
        let mut tale = accepted("repair.run");
        tale.event(vm(1), "repair.started", json!({"cause": "asked for"}));
        tale.event(vm(1), "repair.step-started", json!({"step": "hard_reboot"}));
        tale.call(vm(1), "n1", CallKind::HardReboot, "");
        tale.event(vm(1), "repair.step-finished", json!({"step": "hard_reboot", "cured": true}));
        tale.event(vm(1), "repair.succeeded", json!({"steps": 1}));
        assert_eq!(tale.broken_at_end(), []);
        tale.pass(2);
        again(&mut tale, "c2", "repair.run");
        assert_eq!(tale.broken_at_end(), [Rule::Command], "one that began before is another");
        tale.last(vm(1), "n1", "stopped");
        assert!(!tale.broken_at_end().contains(&Rule::Command));
    }
}

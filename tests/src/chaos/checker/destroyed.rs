//! Rule 1: a node destroys a VM only when its lease or a command asked for that, and where the policy wants a backup first,
//! only after a final backup was verified, which then lies in the vault.

use std::collections::BTreeSet;

use reeve_drivers::cloud::sim::CallKind;
use reeve_lifecycle::policy::OnEnd;
use reeve_protocol::{Timestamp, VmId};

use super::case::{Case, SLACK, Story};
use super::{Judgement, Rule};

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for (vm, story) in &case.vms {
        let Some(deletion) = story.calls.iter().find(|made| made.is_done(CallKind::DeleteServer)) else { continue };
        verdict.destroyed += 1;
        if let Err(why) = asked_for(case, *vm, story, deletion.at) {
            verdict.broke(Rule::Destroyed, *vm, why);
        }
    }
}

fn asked_for(case: &Case<'_>, vm: VmId, story: &Story<'_>, at: Timestamp) -> Result<(), String> {
    let terminating = story.told().filter(|heard| heard.event.kind == "reeve.vm.terminating").last();
    let Some(terminating) = terminating else {
        return if case.healed { Err(format!("destroyed at {at}, and no event told why")) } else { Ok(()) };
    };
    let by = terminating.event.data["by"].as_str().unwrap_or("?");
    let name = super::leases::policy_name(story, terminating.event.sequence);
    let Some(policy) = name.and_then(|name| case.policy(name)) else { return Ok(()) };
    let backs_up = match (by, policy.lease.on_end) {
        ("lease", OnEnd::BackupAndDelete) => true,
        ("lease", OnEnd::Delete) => false,
        ("lease", on_end @ (OnEnd::Stop | OnEnd::Suspend | OnEnd::Notify)) => {
            return Err(format!("destroyed by the end of its lease, its policy wants {on_end:?}"));
        }
        (_, on_end) => {
            let mut commands = case.granted(story, "vm.delete").peekable();
            if commands.peek().is_none() {
                return Err(format!("destroyed for {by}, and nobody asked for its deletion"));
            }
            on_end != OnEnd::Delete && !commands.any(|asked| asked.sent.body["backup"] == false)
        }
    };
    if backs_up { backed_up(case, vm, story, terminating.event.sequence, at) } else { Ok(()) }
}

/// The final backup belongs to the end that destroyed the VM: one of an end that was taken back does not have what was
/// written since.
fn backed_up(case: &Case<'_>, vm: VmId, story: &Story<'_>, begun: u64, at: Timestamp) -> Result<(), String> {
    let finals: BTreeSet<&str> = story
        .of("reeve.backup.started")
        .filter(|heard| heard.event.sequence > begun && heard.event.data["purpose"] == "final")
        .filter_map(|heard| heard.event.data["backup"].as_str())
        .collect();
    let over = story.of("reeve.vm.terminated").chain(story.of("reeve.lease.ended"));
    let over = over.map(|heard| heard.event.sequence).filter(|sequence| *sequence > begun).min();
    // An event is heard of at any time after its decision, so neither its order of arrival nor its arrival tells.
    let verified = story.of("reeve.backup.verified").find(|heard| {
        heard.event.data["backup"].as_str().is_some_and(|backup| finals.contains(backup))
            && over.is_none_or(|over| heard.event.sequence < over)
            && heard.decided.earliest <= at + SLACK
    });
    let Some(verified) = verified else {
        return Err(format!("destroyed at {at} before a final backup was verified"));
    };
    let backup = verified.event.data["backup"].as_str().unwrap_or_default();
    let deleted = story.of("reeve.backup.deleted").any(|heard| heard.event.data["backup"] == backup);
    if case.healed && !deleted && !story.in_vault.iter().any(|kept| kept.to_string() == backup) {
        return Err(format!("VM {vm} is destroyed, and its final backup {backup} is not in the vault"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Rule;
    use super::super::tale::{Tale, vm};
    use reeve_drivers::cloud::sim::CallKind;

    #[test]
    fn a_whole_life_breaks_nothing() {
        assert_eq!(Tale::whole_life().broken(), []);
    }

    #[test]
    fn a_vm_destroyed_without_a_word_is_found() {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.owned(vm(1), "n1", 1);
        tale.pass(100);
        tale.call(vm(1), "n1", CallKind::DeleteServer, "");
        assert_eq!(tale.broken_at_end(), [Rule::Destroyed]);
    }

    #[test]
    fn a_final_backup_that_was_never_verified_is_found() {
        let mut tale = Tale::whole_life();
        tale.replace_event(5, "backup.failed", json!({"backup": Tale::BACKUP, "reason": "r"}));
        assert_eq!(tale.broken(), [Rule::Destroyed]);
    }

    /// Destroyed first and verified later, while some node's clock was off; the event carries this time, in seconds from
    /// then.
    fn verified_late(written: i64) -> Vec<Rule> {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.owned(vm(1), "n1", 1);
        tale.stepped("n2", 3_600_000);
        tale.pass(10);
        tale.stepped("n2", 0);
        let ends_at = tale.lease(vm(1), -11, 60);
        tale.pass(61);
        tale.event(vm(1), "lease.expired", json!({"ends_at": ends_at, "grace_until": null}));
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        tale.event(vm(1), "backup.started", json!({"backup": Tale::BACKUP, "purpose": "final", "late": false}));
        tale.pass(5);
        tale.call(vm(1), "n1", CallKind::DeleteServer, "");
        tale.pass(5);
        tale.written_at(written);
        tale.event(vm(1), "backup.verified", json!({"backup": Tale::BACKUP, "bytes": 5}));
        tale.broken()
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_excuse_a_backup_that_was_verified_too_late() {
        assert_eq!(verified_late(0), [Rule::Destroyed]);
        assert_eq!(verified_late(3_600), [Rule::Destroyed]);
        assert_eq!(verified_late(-6), [], "it was heard of late");
        assert_eq!(verified_late(3_600 - 6), [], "it was heard of late, and its node was an hour ahead");
    }

    #[test]
    fn a_backup_of_an_end_that_was_taken_back_does_not_count() {
        let mut tale = Tale::whole_life();
        tale.replace_event(3, "lease.held", json!({"reasons": []}));
        tale.event(vm(1), "vm.terminating", json!({"by": "lease"}));
        assert!(tale.broken().contains(&Rule::Destroyed));
    }

    #[test]
    fn a_final_backup_that_the_vault_does_not_have_is_found() {
        let mut tale = Tale::whole_life();
        tale.empty_vault();
        assert_eq!(tale.broken(), [Rule::Destroyed]);
    }

    #[test]
    fn a_policy_that_only_stops_destroys_nothing() {
        let mut tale = Tale::whole_life();
        tale.policy("short", |policy| policy.lease.on_end = reeve_lifecycle::policy::OnEnd::Stop);
        assert_eq!(tale.broken(), [Rule::Destroyed]);
    }

    #[test]
    fn a_deletion_that_nobody_asked_for_is_found() {
        let mut tale = Tale::whole_life();
        tale.replace_event(3, "vm.terminating", json!({"by": "somebody"}));
        assert_eq!(tale.broken(), [Rule::Destroyed]);
    }
}

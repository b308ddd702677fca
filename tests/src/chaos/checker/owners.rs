//! Rule 3: never do two owners act on one VM. A call belongs to the last claim of its node; once a later claim of another
//! node has called, no call of an earlier one may come, nor when a later claim of another node is old enough, nor when the
//! node's own was given up long enough before. A claim that is heard of within the time that a call may be on its way counts
//! for the one who is judged, and never against another.

use std::time::Duration;

use reeve_protocol::{Epoch, Timestamp};

use super::case::{Case, Claim, Made, ON_ITS_WAY, SLACK};
use super::{Judgement, Rule};

pub(super) fn check(case: &Case<'_>, verdict: &mut Judgement) {
    for claims in case.claims.values() {
        let moves = claims.windows(2).filter(|pair| pair[0].node != pair[1].node).count();
        verdict.handovers += u64::try_from(moves).unwrap_or(0);
    }
    for (vm, story) in &case.vms {
        let none = Vec::new();
        let claims = case.claims.get(&case.shard(*vm)).unwrap_or(&none);
        let mut newest: Option<Epoch> = None;
        for made in &story.calls {
            match complaint(claims, made, newest) {
                None => newest = newest.max(epoch_of(claims, made, SLACK)),
                Some(why) => {
                    verdict.double_actions += 1;
                    verdict.broke(Rule::OneOwner, *vm, why);
                }
            }
        }
    }
}

/// What is wrong with a call, if anything; `newest` is the newest claim under which somebody has called before.
fn complaint(claims: &[Claim<'_>], made: &Made<'_>, newest: Option<Epoch>) -> Option<String> {
    let (node, call, at) = (made.node()?, made.call.call, made.at);
    let Some(epoch) = epoch_of(claims, made, ON_ITS_WAY) else {
        return Some(format!("{node} called {call:?} at {at} and never owned it"));
    };
    let called = format!("{node} called {call:?} at {at} in epoch {}", epoch.0);
    if let Some(newer) = newest.filter(|newest| epoch < *newest) {
        return Some(format!("{called}, after the owner of epoch {}", newer.0));
    }
    if let Some(claim) = taken_over(claims, made, epoch) {
        return Some(format!("{called}, {} had claimed it in epoch {} at {}", claim.node, claim.epoch.0, claim.at));
    }
    let ended = given_up(claims, epoch).filter(|ended| *ended + ON_ITS_WAY < at)?;
    Some(format!("{called}, after it had given the shard up at {ended}"))
}

/// The newest claim of the node that called, of those that were heard of not more than this after the call.
fn epoch_of(claims: &[Claim<'_>], made: &Made<'_>, late: Duration) -> Option<Epoch> {
    let own = claims.iter().filter(|claim| Some(claim.node) == made.node() && claim.at <= made.at + late);
    own.map(|claim| claim.epoch).max()
}

/// The claim of another node that had ended the one under which a node called, long enough before.
fn taken_over<'c, 'a>(claims: &'c [Claim<'a>], made: &Made<'_>, epoch: Epoch) -> Option<&'c Claim<'a>> {
    claims.iter().find(|claim| claim.epoch > epoch && claim.at + ON_ITS_WAY < made.at)
}

/// When it was heard that the claim of this epoch had ended without another. It may have been told anew since.
fn given_up(claims: &[Claim<'_>], epoch: Epoch) -> Option<Timestamp> {
    claims.iter().rfind(|claim| claim.epoch == epoch).and_then(|claim| claim.ended)
}

#[cfg(test)]
mod tests {
    use reeve_drivers::cloud::sim::CallKind;

    use super::super::Rule;
    use super::super::tale::{Tale, vm};

    fn two_owners() -> Tale {
        let mut tale = Tale::new();
        tale.made(vm(1), "short");
        tale.owned(vm(1), "n1", 1);
        tale.pass(5);
        tale.call(vm(1), "n1", CallKind::Snapshot, "");
        tale.pass(5);
        tale.owned(vm(1), "n2", 2);
        tale.pass(5);
        tale.call(vm(1), "n2", CallKind::Snapshot, "");
        tale.pass(5);
        tale
    }

    #[test]
    fn a_hand_over_is_counted_and_no_harm() {
        let mut tale = two_owners();
        tale.call(vm(1), "n2", CallKind::Stop, "");
        assert_eq!(tale.broken(), []);
        assert_eq!(tale.judge().handovers, 1);
    }

    #[test]
    fn a_stale_owner_that_goes_on_calling_is_found() {
        let mut tale = two_owners();
        tale.call(vm(1), "n1", CallKind::Stop, "");
        assert_eq!(tale.broken(), [Rule::OneOwner]);
        assert_eq!(tale.judge().double_actions, 1);
    }

    #[test]
    fn a_stale_owner_is_found_although_the_new_one_has_not_called() {
        for (seconds, expected) in [(2, vec![]), (5, vec![Rule::OneOwner])] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.owned(vm(1), "n1", 1);
            tale.call(vm(1), "n1", CallKind::Snapshot, "");
            tale.pass(10);
            tale.owned(vm(1), "n2", 2);
            tale.pass(seconds);
            tale.call(vm(1), "n1", CallKind::DeleteVolume, "v");
            assert_eq!(tale.broken(), expected, "{seconds} s after the claim");
        }
    }

    #[test]
    fn an_own_new_claim_that_is_heard_of_a_moment_after_the_call_counts() {
        let mut tale = two_owners();
        tale.owned(vm(1), "n3", 3);
        tale.pass(10);
        tale.call(vm(1), "n2", CallKind::Stop, "");
        tale.pass(2);
        tale.owned(vm(1), "n2", 4);
        assert_eq!(tale.broken(), []);
    }

    #[test]
    fn a_first_claim_that_is_heard_of_after_the_call_counts_for_its_node() {
        for (seconds, expected) in [(2, vec![]), (4, vec![Rule::OneOwner])] {
            let mut tale = Tale::new();
            tale.made(vm(1), "short");
            tale.call(vm(1), "n1", CallKind::Snapshot, "");
            tale.pass(seconds);
            tale.owned(vm(1), "n1", 1);
            assert_eq!(tale.broken(), expected, "{seconds} s after the call");
        }
    }

    #[test]
    fn a_claim_after_that_of_a_newer_owner_that_is_heard_of_late_counts_and_not_against_that_one() {
        for (seconds, expected) in [(2, vec![]), (4, vec![Rule::OneOwner])] {
            let mut tale = two_owners();
            tale.call(vm(1), "n1", CallKind::Stop, "");
            tale.call(vm(1), "n2", CallKind::Snapshot, "");
            tale.pass(seconds);
            tale.owned(vm(1), "n1", 3);
            assert_eq!(tale.broken(), expected, "{seconds} s after the call");
        }
    }

    #[test]
    fn a_call_of_a_node_that_had_given_the_shard_up_is_found() {
        for (seconds, expected) in [(2, vec![]), (4, vec![Rule::OneOwner])] {
            let mut tale = two_owners();
            tale.disowned(vm(1));
            tale.pass(seconds);
            tale.call(vm(1), "n2", CallKind::Stop, "");
            assert_eq!(tale.broken(), expected, "{seconds} s after it gave the shard up");
            tale.pass(2);
            tale.owned(vm(1), "n2", 3);
            assert_eq!(tale.broken(), [], "it had claimed it again, which was heard of late");
        }
    }

    #[test]
    fn a_claim_that_is_told_anew_goes_on() {
        let mut tale = two_owners();
        tale.disowned(vm(1));
        tale.owned(vm(1), "n2", 2);
        tale.pass(10);
        tale.call(vm(1), "n2", CallKind::Stop, "");
        assert_eq!(tale.broken(), []);
    }

    #[test]
    fn an_owner_that_has_come_back_may_call() {
        let mut tale = two_owners();
        tale.owned(vm(1), "n1", 3);
        tale.call(vm(1), "n1", CallKind::Stop, "");
        assert_eq!(tale.broken(), []);
    }

    #[test]
    fn a_launch_belongs_to_the_vm_that_is_revived() {
        let mut tale = two_owners();
        let new_vm = vm(2).to_string();
        tale.call(vm(2), "n2", CallKind::Launch, "op");
        tale.event(vm(1), "vm.revived", serde_json::json!({"new_vm": new_vm, "backup": Tale::BACKUP}));
        assert_eq!(tale.broken(), []);
        tale.call(vm(2), "n1", CallKind::Launch, "op-2");
        assert_eq!(tale.broken(), [Rule::OneOwner]);
    }

    #[test]
    fn whoever_never_owned_it_is_found() {
        let mut tale = two_owners();
        tale.call(vm(1), "n3", CallKind::Stop, "");
        assert_eq!(tale.broken(), [Rule::OneOwner]);
    }
}

//! Rule 3: never do two owners act on one VM. A call belongs to the last claim of its node; once a later claim of another
//! node has called, no call of an earlier one may come, nor when a later claim of another node is old enough.

use reeve_protocol::Epoch;

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
            let Some(node) = made.node() else { continue };
            let (call, at) = (made.call.call, made.at);
            let why = match (epoch_of(claims, made), newest) {
                (None, _) => format!("{node} called {call:?} at {at} and never owned it"),
                (Some(epoch), Some(newer)) if epoch < newer => {
                    format!("{node} called {call:?} at {at} in epoch {}, after the owner of epoch {}", epoch.0, newer.0)
                }
                (Some(epoch), _) => match taken_over(claims, made, epoch) {
                    Some(claim) => format!(
                        "{node} called {call:?} at {at} in epoch {}, {} had claimed it in epoch {} at {}",
                        epoch.0, claim.node, claim.epoch.0, claim.at
                    ),
                    None => {
                        newest = Some(epoch);
                        continue;
                    }
                },
            };
            verdict.double_actions += 1;
            verdict.broke(Rule::OneOwner, *vm, why);
        }
    }
}

/// The claim under which a node called. Claims are heard of a moment after they are made.
fn epoch_of(claims: &[Claim<'_>], made: &Made<'_>) -> Option<Epoch> {
    let own = claims.iter().filter(|claim| Some(claim.node) == made.node() && claim.at <= made.at + SLACK);
    own.map(|claim| claim.epoch).max()
}

/// The claim of another node that had ended the one under which a node called, long enough before.
fn taken_over<'c, 'a>(claims: &'c [Claim<'a>], made: &Made<'_>, epoch: Epoch) -> Option<&'c Claim<'a>> {
    let later = |claim: &&Claim<'_>| claim.epoch > epoch;
    let again = claims.iter().filter(later).filter(|claim| Some(claim.node) == made.node());
    if again.into_iter().any(|claim| claim.at <= made.at + ON_ITS_WAY) {
        return None;
    }
    claims.iter().filter(later).find(|claim| claim.at + ON_ITS_WAY < made.at)
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

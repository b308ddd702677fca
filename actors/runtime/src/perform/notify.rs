//! Notices to people, and the introduction of a new VM to its own supervisor.

use reeve_lifecycle::effect::{Audience, Notice};
use reeve_lifecycle::{Done, Outcome, VmInput};
use reeve_ports::CloudError;
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_protocol::VmId;

use super::{Attempt, look_failed, not_applied, retryable, unknown};

/// Delivers a notice, at least once.
pub(super) async fn notify(attempt: Attempt<'_>, to: &Audience, notice: &Notice) -> Outcome {
    let letter = Letter {
        vm: attempt.vm.vm,
        vm_name: attempt.vm.name.clone(),
        key: attempt.pending.key,
        to: to.clone(),
        notice: notice.clone(),
        at: attempt.pending.decided_at,
        extendable: attempt.vm.extendable.clone(),
    };
    match attempt.notifier.deliver(&letter).await {
        Ok(()) => Outcome::Done(Done::Plain),
        Err(error @ NotifierError::Unavailable(_)) => retryable(error.to_string()),
        Err(error @ NotifierError::Undeliverable(_)) => not_applied(error.to_string()),
        Err(error @ NotifierError::Unknown(_)) => unknown(error.to_string()),
    }
}

/// Tells a new VM's supervisor whose successor it is.
pub(super) async fn introduce(attempt: Attempt<'_>, new_vm: VmId) -> Outcome {
    let (facts, said) = match attempt.cloud.show(new_vm).await {
        Ok(shown) => shown,
        // A cloud with several API servers may not show it everywhere yet; if it stays so, there is nobody to tell.
        Err(CloudError::NotFound(_)) => return not_applied(format!("the new VM {new_vm} is gone")),
        Err(error) => return look_failed(&error),
    };
    // A request for a VM is nobody's ancestor.
    let revived_from = (!attempt.vm.presence.is_request()).then_some(attempt.vm.vm);
    let input = VmInput::Introduced { revived_from, facts, said };
    match attempt.vm.ownership.introducer.introduce(new_vm, &attempt.vm.cloud, input).await {
        Ok(()) => Outcome::Done(Done::Plain),
        Err(reason) => retryable(reason),
    }
}

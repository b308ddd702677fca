//! Power, hard reboot, and the destruction of a server, its volumes and its addresses.

use std::future::Future;

use reeve_lifecycle::{Done, Outcome};
use reeve_ports::CloudError;
use reeve_protocol::VmId;
use reeve_protocol::observation::{VmFacts, VmState};

use super::wait::Patience;
use super::{Attempt, act_failed, look_failed, not_applied, unknown};

/// What a change of power leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    On,
    Resumed,
    Off,
    Suspended,
}

impl Goal {
    const fn word(self) -> &'static str {
        match self {
            Self::On | Self::Resumed => "running",
            Self::Off => "off",
            Self::Suspended => "suspended",
        }
    }

    const fn is_destructive(self) -> bool {
        match self {
            Self::On | Self::Resumed => false,
            Self::Off | Self::Suspended => true,
        }
    }

    /// Whether the VM is so. Suspended and shelved VMs count as off: nothing runs that could write to a disk, and no
    /// cloud powers them off.
    fn reached(self, facts: &VmFacts) -> bool {
        facts.task.is_none()
            && match self {
                Self::On | Self::Resumed => facts.state == VmState::Active,
                Self::Off => matches!(
                    facts.state,
                    VmState::Stopped | VmState::Suspended | VmState::Shelved | VmState::ShelvedOffloaded
                ),
                // A VM that is off already has nothing to suspend, and no cloud does it.
                Self::Suspended => Self::Off.reached(facts),
            }
    }
}

/// How a VM is seen.
pub(super) enum Seen {
    There(Box<VmFacts>),
    Gone,
}

/// Looks at a VM.
pub(super) async fn look(attempt: Attempt<'_>, vm: VmId) -> Result<Seen, Outcome> {
    match attempt.cloud.show(vm).await {
        Ok((facts, _)) if facts.state == VmState::Deleted => Ok(Seen::Gone),
        Ok((facts, _)) => Ok(Seen::There(Box::new(facts))),
        Err(CloudError::NotFound(_)) => Ok(Seen::Gone),
        Err(error) => Err(look_failed(&error)),
    }
}

/// Refuses to touch a VM that is locked. Clouds let an administrator pass a lock, and the lock may be younger than the
/// decision.
pub(super) fn unlocked(facts: &VmFacts) -> Result<(), Outcome> {
    if facts.locked == Some(true) { Err(not_applied("the VM is locked")) } else { Ok(()) }
}

fn patience(attempt: Attempt<'_>) -> Patience<'_> {
    Patience::new(attempt.clock(), attempt.timeouts().settle, attempt.timeouts().look_every)
}

/// Turns the result of a family of steps into an outcome.
fn settle(result: Result<Outcome, Outcome>) -> Outcome {
    result.unwrap_or_else(|outcome| outcome)
}

/// Brings the VM to the goal.
pub(super) async fn power(attempt: Attempt<'_>, goal: Goal) -> Outcome {
    settle(try_power(attempt, goal).await)
}

async fn try_power(attempt: Attempt<'_>, goal: Goal) -> Result<Outcome, Outcome> {
    let vm = attempt.vm.vm;
    let patience = patience(attempt);
    let mut acted = false;
    loop {
        let Seen::There(facts) = look(attempt, vm).await? else {
            return Ok(not_applied("the VM is gone"));
        };
        if goal.reached(&facts) {
            return Ok(Outcome::Done(Done::Plain));
        }
        // While the cloud works on the VM, what was asked for before a crash may be on its way.
        if !acted && facts.task.is_none() {
            if goal.is_destructive() {
                unlocked(&facts)?;
                attempt.confirm().await?;
            }
            let answer = match goal {
                Goal::On => attempt.cloud.start(vm).await,
                Goal::Resumed => attempt.cloud.resume(vm).await,
                Goal::Off => attempt.cloud.stop(vm).await,
                Goal::Suspended => attempt.cloud.suspend(vm).await,
            };
            answer.map_err(|error| act_failed(&error))?;
            acted = true;
        }
        if !patience.again().await {
            return Ok(unknown(format!("the VM is not seen {}, it is {}", goal.word(), said(&facts))));
        }
    }
}

fn said(facts: &VmFacts) -> String {
    match &facts.task {
        Some(task) => format!("{} ({task})", facts.state.as_nova()),
        None => facts.state.as_nova().to_owned(),
    }
}

/// Cuts the power and starts again. A reboot since the decision is the one that an earlier attempt began: it leaves
/// nothing to look at but the cloud's history of actions.
pub(super) async fn hard_reboot(attempt: Attempt<'_>) -> Outcome {
    settle(try_hard_reboot(attempt).await)
}

async fn try_hard_reboot(attempt: Attempt<'_>) -> Result<Outcome, Outcome> {
    let vm = attempt.vm.vm;
    let patience = patience(attempt);
    let last = attempt.cloud.last_reboot(vm).await.map_err(|error| look_failed(&error))?;
    let mut begun = last.is_some_and(|at| at >= attempt.pending.decided_at);
    loop {
        let Seen::There(facts) = look(attempt, vm).await? else {
            return Ok(not_applied("the VM is gone"));
        };
        match &facts.task {
            Some(task) => begun = begun || task.starts_with("reboot"),
            None if !begun => {
                unlocked(&facts)?;
                attempt.confirm().await?;
                attempt.cloud.hard_reboot(vm).await.map_err(|error| act_failed(&error))?;
                begun = true;
            }
            None if facts.state == VmState::Active => return Ok(Outcome::Done(Done::Plain)),
            None if facts.state == VmState::Error => {
                return Ok(not_applied("the VM is in state error after the reboot"));
            }
            None => {}
        }
        if !patience.again().await {
            return Ok(unknown(format!("the reboot is not seen to be over, the VM is {}", said(&facts))));
        }
    }
}

/// Destroys the VM, and sees that it is gone.
pub(super) async fn delete_server(attempt: Attempt<'_>) -> Outcome {
    settle(remove_server(attempt, attempt.vm.vm).await)
}

/// Destroys a volume, and sees that it is gone.
pub(super) async fn delete_volume(attempt: Attempt<'_>, volume: &str) -> Outcome {
    settle(remove_volume(attempt, volume).await)
}

/// Gives an address back, and sees that it is free.
pub(super) async fn release_address(attempt: Attempt<'_>, address: &str) -> Outcome {
    settle(remove_address(attempt, address).await)
}

async fn remove_server(attempt: Attempt<'_>, vm: VmId) -> Result<Outcome, Outcome> {
    let exists = async || match look(attempt, vm).await? {
        // What an earlier attempt began is waited for, not begun again.
        Seen::There(facts) if facts.task.as_deref().is_some_and(|task| task.contains("delet")) => Ok(Existence::Going),
        Seen::There(facts) => unlocked(&facts).map(|()| Existence::There),
        Seen::Gone => Ok(Existence::Gone),
    };
    match remove(attempt, exists, async || attempt.cloud.delete_server(vm).await, "the VM").await? {
        Outcome::Done(_) => remove_remains(attempt, vm).await,
        other @ (Outcome::NotApplied { .. } | Outcome::Retryable { .. } | Outcome::Unknown { .. }) => Ok(other),
    }
}

/// Removes what was made for a VM alone and does not go with it, and sees that it is gone.
async fn remove_remains(attempt: Attempt<'_>, vm: VmId) -> Result<Outcome, Outcome> {
    let patience = patience(attempt);
    loop {
        if attempt.cloud.remove_remains(vm).await.map_err(|error| act_failed(&error))? {
            return Ok(Outcome::Done(Done::Plain));
        }
        if !patience.again().await {
            return Ok(unknown("what was made for the VM is still there"));
        }
    }
}

async fn remove_volume(attempt: Attempt<'_>, volume: &str) -> Result<Outcome, Outcome> {
    let exists = async || there(attempt.cloud.volume_exists(volume).await);
    remove(attempt, exists, async || attempt.cloud.delete_volume(volume).await, "the volume").await
}

async fn remove_address(attempt: Attempt<'_>, address: &str) -> Result<Outcome, Outcome> {
    let held = async || there(attempt.cloud.address_held(address).await);
    remove(attempt, held, async || attempt.cloud.release_address(address).await, "the address").await
}

/// Destroys a VM that this operation made and that never ran, with what was made for it alone.
pub(super) async fn discard(attempt: Attempt<'_>, vm: VmId) -> Result<(), Outcome> {
    let inventory = match attempt.cloud.inventory(vm).await {
        Ok(inventory) => inventory,
        Err(CloudError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(look_failed(&error)),
    };
    done(remove_server(attempt, vm).await)?;
    for volume in inventory.volumes.iter().filter(|volume| volume.own) {
        done(remove_volume(attempt, &volume.id).await)?;
    }
    for address in &inventory.addresses {
        done(remove_address(attempt, address).await)?;
    }
    Ok(())
}

fn done(result: Result<Outcome, Outcome>) -> Result<(), Outcome> {
    match settle(result) {
        Outcome::Done(_) => Ok(()),
        other @ (Outcome::NotApplied { .. } | Outcome::Retryable { .. } | Outcome::Unknown { .. }) => Err(other),
    }
}

/// Whether something that is to go exists.
enum Existence {
    There,
    Going,
    Gone,
}

fn there(answer: Result<bool, CloudError>) -> Result<Existence, Outcome> {
    match answer {
        Ok(true) => Ok(Existence::There),
        Ok(false) | Err(CloudError::NotFound(_)) => Ok(Existence::Gone),
        Err(error) => Err(look_failed(&error)),
    }
}

async fn remove<E, A>(
    attempt: Attempt<'_>,
    exists: impl Fn() -> E,
    act: impl Fn() -> A,
    what: &str,
) -> Result<Outcome, Outcome>
where
    E: Future<Output = Result<Existence, Outcome>>,
    A: Future<Output = Result<(), CloudError>>,
{
    let patience = patience(attempt);
    let mut acted = false;
    loop {
        match exists().await? {
            Existence::Gone => return Ok(Outcome::Done(Done::Plain)),
            Existence::There if !acted => {
                attempt.confirm().await?;
                match act().await {
                    Ok(()) => acted = true,
                    Err(CloudError::NotFound(_)) => return Ok(Outcome::Done(Done::Plain)),
                    Err(error) => return Err(act_failed(&error)),
                }
            }
            Existence::There | Existence::Going => {}
        }
        if !patience.again().await {
            return Ok(unknown(format!("{what} is still there")));
        }
    }
}

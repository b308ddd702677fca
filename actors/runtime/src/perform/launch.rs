//! New VMs out of backups, and old ones put back to them.
//!
//! ```text
//! look for what this operation made ┬ none ─► launch ─► look ┬ running, or off after it ran ─► Done
//!                 ▲                 ├ one ──────────────────►┤                                   ▲
//!                 │                 └ one that ran, and is gone ─────────────────────────────────┘
//!                 └─ (the next attempt) ◄─ NotApplied ◄─ remove it ◄─ failed before it ever ran
//!
//! look for this operation's restore ┬ none ─► restore ─► look ┬ running, or off ─► Done
//!                                   └ done ──────────────────►┴ in error ─► NotApplied
//! ```
//!
//! A new VM runs. A restore changes what is on the disks and not whether the VM runs: clouds leave a VM off that was off,
//! so one that its owner stopped stays stopped. What is off without a task of the cloud is not being worked on: it was
//! off before, or was stopped since by somebody whose will that is.
//!
//! An attempt launches at most once, and the core bounds the attempts, so a cloud that cannot build the VM is asked a
//! few times and keeps nothing of it. What has run once is never removed here, and never made again: an attempt may take
//! longer than the VM lives, and whoever removed it meant to.

use std::collections::BTreeMap;

use reeve_lifecycle::policy::POLICY_KEY;
use reeve_lifecycle::{Done, Outcome};
use reeve_ports::CloudError;
use reeve_ports::cloud::{DiskSource, LaunchSpec, OPERATION_KEY, OWNER_KEY, REVIVED_FROM_KEY};
use reeve_protocol::observation::{VmFacts, VmState};
use reeve_protocol::{BackupId, VmId};

use super::server::{Seen, discard, look, unlocked};
use super::wait::Patience;
use super::{Attempt, act_failed, look_failed, not_applied, retryable, unknown, vault_failed};

/// Makes a new VM from a backup, unless this operation has made one.
pub(super) async fn launch(attempt: Attempt<'_>, backup: BackupId, name: &str) -> Outcome {
    try_launch(attempt, backup, name).await.unwrap_or_else(|outcome| outcome)
}

async fn try_launch(attempt: Attempt<'_>, backup: BackupId, name: &str) -> Result<Outcome, Outcome> {
    let operation = attempt.vm.operation(attempt.pending);
    let new_vm = match made_before(attempt, &operation).await? {
        Some(Made::There(new_vm)) => new_vm,
        Some(Made::Gone(new_vm)) => {
            drop_sources(attempt, &operation).await?;
            return Ok(Outcome::Done(Done::Launched { new_vm }));
        }
        None => match make(attempt, backup, name, &operation).await {
            Ok(new_vm) => new_vm,
            Err(outcome) => {
                if matches!(outcome, Outcome::NotApplied { .. }) {
                    take_back(attempt, &operation).await;
                }
                return Err(outcome);
            }
        },
    };
    match settled(attempt, new_vm, |facts| facts.launched_at.is_some()).await? {
        Settled::Ready => {
            drop_sources(attempt, &operation).await?;
            Ok(Outcome::Done(Done::Launched { new_vm }))
        }
        Settled::Failed(facts) if never_ran(&facts, &operation) => {
            discard(attempt, new_vm).await?;
            drop_sources(attempt, &operation).await?;
            Ok(not_applied(format!("the new VM {new_vm} ended in state error and was removed")))
        }
        Settled::Failed(_) => Ok(not_applied(format!("the new VM {new_vm} is in state error"))),
    }
}

async fn make(attempt: Attempt<'_>, backup: BackupId, name: &str, operation: &str) -> Result<VmId, Outcome> {
    let disks = sources(attempt, backup).await?;
    attempt.confirm().await?;
    let mut metadata = BTreeMap::from([
        (OPERATION_KEY.to_owned(), operation.to_owned()),
        (REVIVED_FROM_KEY.to_owned(), attempt.vm.vm.to_string()),
        // A VM lives again under the terms that it had, and belongs to whom it belonged.
        (POLICY_KEY.to_owned(), attempt.vm.policy.clone()),
    ]);
    if let Some(owner) = &attempt.vm.owner {
        metadata.insert(OWNER_KEY.to_owned(), owner.to_string());
    }
    let spec = LaunchSpec {
        name: name.to_owned(),
        metadata,
        like: attempt.vm.vm,
        addresses: attempt.vm.inventory.addresses.len(),
        disks,
    };
    attempt.cloud.launch(spec).await.map_err(|error| act_failed(&error))
}

/// Removes what was made for a server that is refused: its port, its addresses, what was uploaded. It may be asked for
/// again, and is given up one day; what cannot be removed now is removed then, or stays under its tag.
async fn take_back(attempt: Attempt<'_>, operation: &str) {
    let patience = Patience::new(attempt.clock(), attempt.timeouts().settle, attempt.timeouts().look_every);
    loop {
        match attempt.cloud.remove_parts(operation).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => return tracing::warn!(%operation, %error, "what was made for a launch stays"),
        }
        if !patience.again().await {
            return;
        }
    }
}

/// Removes what was uploaded. What a cloud will not remove is no reason to begin again.
async fn drop_sources(attempt: Attempt<'_>, operation: &str) -> Result<(), Outcome> {
    match attempt.cloud.drop_sources(operation).await {
        Ok(()) | Err(CloudError::NotFound(_)) => Ok(()),
        Err(error @ CloudError::Refused(_)) => {
            tracing::warn!(%operation, %error, "what was uploaded stays");
            Ok(())
        }
        Err(error @ (CloudError::Unavailable(_) | CloudError::Unknown(_))) => Err(retryable(error.to_string())),
    }
}

/// Whether a VM that failed carries the tag of this operation and never ran: then nothing of anybody's is in it.
fn never_ran(facts: &VmFacts, operation: &str) -> bool {
    facts.state == VmState::Error
        && facts.launched_at.is_none()
        && facts.metadata.get(OPERATION_KEY).is_some_and(|tag| tag == operation)
}

/// A VM that an earlier attempt made.
enum Made {
    There(VmId),
    /// It ran, and went since.
    Gone(VmId),
}

/// The VM that an earlier attempt of this operation made. What failed before it ran is removed.
async fn made_before(attempt: Attempt<'_>, operation: &str) -> Result<Option<Made>, Outcome> {
    let found = attempt.cloud.find_launched(operation, attempt.pending.decided_at).await;
    let mut found = found.map_err(|error| look_failed(&error))?;
    found.sort_by_key(|facts| (facts.created_at, facts.vm));
    let mut alive = Vec::new();
    let mut went = None;
    for listed in found {
        // A listing may be older than what the VM says itself.
        match look(attempt, listed.vm).await? {
            Seen::There(facts) if never_ran(&facts, operation) => discard(attempt, listed.vm).await?,
            Seen::There(_) => alive.push(listed.vm),
            Seen::Gone => went = went.or(listed.launched_at.map(|_| Made::Gone(listed.vm))),
        }
    }
    let Some((oldest, surplus)) = alive.split_first() else { return Ok(went) };
    if !surplus.is_empty() {
        let surplus: Vec<String> = surplus.iter().map(VmId::to_string).collect();
        tracing::error!(%operation, surplus = %surplus.join(" "), "one operation made several VMs; the oldest is kept");
    }
    Ok(Some(Made::There(*oldest)))
}

/// The disks of a backup, as streams from the vault.
async fn sources(attempt: Attempt<'_>, backup: BackupId) -> Result<Vec<DiskSource>, Outcome> {
    let path = attempt.vm.path(backup);
    let vault = attempt.vault;
    let manifest = vault.manifest(&path).await.map_err(|error| vault_failed(&error))?;
    let mut disks = Vec::with_capacity(manifest.objects.len());
    for object in manifest.objects {
        let content = vault.read(&path, &object.name).await.map_err(|error| vault_failed(&error))?;
        disks.push(DiskSource { disk: object.disk, bytes: object.bytes, content });
    }
    Ok(disks)
}

/// How a VM is once the cloud has done with it.
enum Settled {
    Ready,
    Failed(Box<VmFacts>),
}

/// Waits until the VM is seen running, or off where that will do, or failed.
async fn settled(attempt: Attempt<'_>, vm: VmId, may_be_off: fn(&VmFacts) -> bool) -> Result<Settled, Outcome> {
    let patience = Patience::new(attempt.clock(), attempt.timeouts().settle, attempt.timeouts().look_every);
    loop {
        // A VM that is not shown may not be shown yet.
        if let Seen::There(facts) = look(attempt, vm).await? {
            match facts.state {
                VmState::Active if facts.task.is_none() => return Ok(Settled::Ready),
                VmState::Stopped if facts.task.is_none() && may_be_off(&facts) => return Ok(Settled::Ready),
                VmState::Error => return Ok(Settled::Failed(facts)),
                VmState::Building
                | VmState::Active
                | VmState::Paused
                | VmState::Suspended
                | VmState::Stopped
                | VmState::Rescued
                | VmState::Resized
                | VmState::SoftDeleted
                | VmState::Deleted
                | VmState::Shelved
                | VmState::ShelvedOffloaded
                | VmState::Unknown => {}
            }
        }
        if !patience.again().await {
            return Err(unknown(format!("VM {vm} is not seen to be ready")));
        }
    }
}

/// Puts the VM back to a backup, in place, unless this operation has done it.
pub(super) async fn restore_in_place(attempt: Attempt<'_>, backup: BackupId) -> Outcome {
    try_restore(attempt, backup).await.unwrap_or_else(|outcome| outcome)
}

async fn try_restore(attempt: Attempt<'_>, backup: BackupId) -> Result<Outcome, Outcome> {
    let vm = attempt.vm.vm;
    let operation = attempt.vm.operation(attempt.pending);
    let last = attempt.cloud.last_restore(vm).await.map_err(|error| look_failed(&error))?;
    if last.as_deref() != Some(operation.as_str()) {
        let disks = sources(attempt, backup).await?;
        match look(attempt, vm).await? {
            Seen::There(facts) => unlocked(&facts)?,
            Seen::Gone => return Ok(not_applied("the VM is gone")),
        }
        attempt.confirm().await?;
        let answer = attempt.cloud.restore_in_place(vm, &operation, disks).await;
        answer.map_err(|error| act_failed(&error))?;
    }
    match settled(attempt, vm, |_| true).await? {
        Settled::Ready => {
            drop_sources(attempt, &operation).await?;
            Ok(Outcome::Done(Done::Plain))
        }
        Settled::Failed(_) => Ok(not_applied(format!("VM {vm} is in state error"))),
    }
}

//! The end of a run: whether everything has come to rest, and whether what came of it is right.

use std::collections::BTreeMap;

use futures::FutureExt;
use reeve_drivers::cloud::sim::{Actor, CallKind, GuestState};
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::effect::Notice;
use reeve_lifecycle::policy::OnEnd;
use reeve_lifecycle::record::{BackupState, Health, Lease, Presence};
use reeve_ports::Cloud;
use reeve_ports::cloud::snapshot_name;
use reeve_protocol::command::{CommandKind, Switch};
use reeve_protocol::event::{Alert, EventKind, LeaseEndReason};
use reeve_protocol::observation::VmState;
use reeve_protocol::{Timestamp, VmId};

use super::model::State;
use super::oracle::Watched;
use super::people;
use super::scenario::Report;
use super::world::World;

/// Whether nothing is under way any more, and every lease has come to its end.
pub(super) fn is_at_rest(world: &World) -> bool {
    let Some(node) = &world.node else { return false };
    let known = world.sim.vm_ids().into_iter().all(|vm| node.vms.contains_key(&vm));
    known && world.bus.first().is_none() && node.vms.values().all(|live| rests(&live.record))
}

fn rests(record: &VmRecord) -> bool {
    let over = match &record.lease {
        Lease::None | Lease::Exempt | Lease::Parked { .. } | Lease::Ended { .. } => record.end_request.is_none(),
        Lease::Running { .. } => record.hold_said,
    };
    let idle = record.operation.is_none() || record.hold_said;
    let is_down = matches!(record.health, Health::Down { .. });
    let may_run =
        !is_down && !record.is_gone() && record.holds.is_empty() && !matches!(record.lease, Lease::Parked { .. });
    // What a repair or a backup waits for in a VM that does not run may never come.
    let waits =
        may_run && record.facts.state == VmState::Active && (record.repairs.requested || record.schedule.manual);
    over && idle && !waits && record.effects.is_empty() && record.outbox.is_empty()
}

/// What is not at rest, for people.
pub(super) fn unrest(world: &World) -> String {
    let Some(node) = &world.node else { return "the node is down".into() };
    let restless = node.vms.values().filter(|live| !rests(&live.record)).map(|live| {
        let record = &live.record;
        format!(
            "{}: lease {:?}, operation {:?}, end {:?}, effects {:?}, outbox {}, holds {:?}, facts {:?}, deadline {:?}",
            record.vm,
            record.lease,
            record.operation,
            record.end_request,
            record.effects,
            record.outbox.len(),
            record.holds,
            record.facts,
            live.deadline
        )
    });
    restless.collect::<Vec<_>>().join("\n")
}

/// Checks the whole run; the error is the first rule that does not hold.
pub(super) fn check(world: &World) -> Result<(), String> {
    let oracle = world.oracle();
    for vm in world.sim.vm_ids() {
        let launched = world.sim.ground_truth(vm).is_some_and(|truth| truth.facts.launched_at.is_some());
        if launched && !oracle.vms.contains_key(&vm) {
            return Err(format!("VM {vm} lives and is not known: its lease is lost"));
        }
    }
    for (vm, watched) in &oracle.vms {
        if watched.last.presence.is_request() {
            check_request(world, watched).map_err(|why| format!("request {vm} at the end: {why}"))?;
            continue;
        }
        check_vm(world, *vm, watched).map_err(|why| format!("VM {vm} at the end: {why}"))?;
    }
    once(world)?;
    if world.sim.audit_dropped() > 0
        && world.sim.audit().first().is_some_and(|entry| !entry.call.is_look() && entry.seq > 1)
    {
        return Err("the audit is not whole".into());
    }
    Ok(())
}

/// A request is settled: its VM was made whole and leaves nothing when it goes, or nothing was made.
fn check_request(world: &World, watched: &Watched) -> Result<(), String> {
    let record = &watched.last;
    let made = world.sim.made_by(&format!("{}/provision", record.vm));
    let Presence::Closed { vm, .. } = record.presence else {
        return Err(format!("it is not settled: {:?}", record.operation));
    };
    let lives = vm.and_then(|vm| world.sim.ground_truth(vm)).is_some_and(|truth| !truth.gone);
    if !lives {
        return if made.is_empty() { Ok(()) } else { Err(format!("nothing should be left, and there is {made:?}")) };
    }
    let asked = (0..world.scenario.asked).map(people::request).find(|command| command.vm == record.vm);
    let Some(CommandKind::VmProvision(request)) = asked.map(|command| command.kind) else {
        return Err("nobody asked for it".into());
    };
    let wanted = request.plan.parts().count();
    if made.len() == wanted { Ok(()) } else { Err(format!("{wanted} parts are wanted, and there are {made:?}")) }
}

fn check_vm(world: &World, vm: VmId, watched: &Watched) -> Result<(), String> {
    if watched.published != watched.events.len() {
        return Err(format!("{} events were decided, {} published", watched.events.len(), watched.published));
    }
    check_fate(world, vm, watched)?;
    check_letters(world, vm, watched)?;
    check_commands(watched)?;
    check_backups(world, vm, watched)
}

/// What must have become of the VM.
fn check_fate(world: &World, vm: VmId, watched: &Watched) -> Result<(), String> {
    let truth = world.sim.ground_truth(vm).ok_or("it never was")?;
    let lease = watched.model.lease();
    let record = &watched.last;
    // A cloud's listing need not show what is soft-deleted, so it cannot say that this is gone; a lost word of its going
    // leaves its lease parked.
    if truth.gone && matches!(record.presence, Presence::SoftDeleted { .. }) {
        return Ok(());
    }
    if truth.gone != record.is_gone() {
        return Err(format!("it is gone: {}, the record says: {}", truth.gone, record.is_gone()));
    }
    if truth.gone {
        return check_gone(world, vm, watched);
    }
    let held = watched.maintenance || truth.facts.locked == Some(true);
    let due = lease.asked.is_some() || lease.state == State::Running;
    if due && !held {
        return Err(format!("it should have come to its end: {lease:?}, record {:?}", record.lease));
    }
    if let (State::Kept, Lease::Ended { reason, .. }, false) = (lease.state, &record.lease, held) {
        let wanted = match watched.model.policy().lease.on_end {
            OnEnd::Stop => (LeaseEndReason::Stopped, VmState::Stopped),
            OnEnd::Suspend => (LeaseEndReason::Suspended, VmState::Suspended),
            OnEnd::Notify => (LeaseEndReason::Notified, truth.facts.state),
            // Another policy came after the end.
            OnEnd::BackupAndDelete | OnEnd::Delete => (*reason, truth.facts.state),
        };
        let policy_changed =
            watched.accepted.iter().any(|(_, kind)| matches!(kind, CommandKind::LeaseSetPolicy { .. }));
        if *reason != wanted.0 && !policy_changed {
            return Err(format!("it was to end as {:?}, and ended as {reason:?}", wanted.0));
        }
    }
    Ok(())
}

fn check_gone(world: &World, vm: VmId, watched: &Watched) -> Result<(), String> {
    let truth = world.sim.ground_truth(vm).ok_or("it never was")?;
    match &watched.last.lease {
        Lease::Ended { reason: LeaseEndReason::Destroyed, .. } => {
            if lease_never_began_to_end(watched) {
                return Err("its lease ended as destroyed, and its end never began".into());
            }
        }
        Lease::Ended { .. } | Lease::Exempt | Lease::None => {}
        Lease::Running { .. } | Lease::Parked { .. } => {
            return Err(format!("it is gone, and its lease is {:?}", watched.last.lease));
        }
    }
    let finished = watched.events.iter().any(|event| event.kind == EventKind::VmTerminated);
    if watched.destroying && finished && watched.destroyed_with.is_some() && !truth.addresses.is_empty() {
        let by_reeve = world.sim.times_applied(CallKind::DeleteServer, vm) > 0;
        if by_reeve && matches!(watched.last.lease, Lease::Ended { reason: LeaseEndReason::Destroyed, .. }) {
            return Err(format!("its addresses {:?} are still held", truth.addresses));
        }
    }
    if truth.guest != GuestState::Off {
        return Err("its guest lives".into());
    }
    Ok(())
}

fn lease_never_began_to_end(watched: &Watched) -> bool {
    !watched.events.iter().any(|event| matches!(event.kind, EventKind::VmTerminating { .. }))
}

/// Every notice that was decided came to somebody, once by its key.
fn check_letters(world: &World, vm: VmId, watched: &Watched) -> Result<(), String> {
    let letters = world.letters.lock().map_err(|_| "the letters are poisoned")?;
    let expiring = letters
        .range((vm, LEAST)..)
        .take_while(|((of, _), _)| *of == vm)
        .filter(|(_, letter)| matches!(letter.notice, Notice::Expiring { .. }))
        .count();
    let decided = watched.events.iter().filter(|event| matches!(event.kind, EventKind::LeaseExpiring { .. })).count();
    if expiring == decided { Ok(()) } else { Err(format!("{decided} warnings were decided, {expiring} came")) }
}

const LEAST: reeve_lifecycle::EffectKey =
    reeve_lifecycle::EffectKey { generation: reeve_protocol::Generation(0), index: 0 };

/// Every accepted command was carried out, or a human was told why not.
fn check_commands(watched: &Watched) -> Result<(), String> {
    for (at, kind) in &watched.accepted {
        let after = |found: &dyn Fn(&EventKind) -> bool| {
            watched.events.iter().any(|event| event.at >= *at && found(&event.kind))
        };
        let told = |alert: Alert| {
            let raised =
                |kind: &EventKind| matches!(kind, EventKind::AlertRaised { alert: known, .. } if *known == alert);
            after(&raised) || raised_at(watched, alert, *at)
        };
        let gone = after(&|kind| {
            matches!(kind, EventKind::VmTerminated | EventKind::VmVanished { .. } | EventKind::VmTerminating { .. })
        });
        let done = |name: &str| after(&|kind| matches!(kind, EventKind::ActionDone { action } if action == name));
        let carried_out = match kind {
            CommandKind::VmStart => done("start") || told(Alert::ActionStuck),
            CommandKind::VmStop => done("stop") || told(Alert::ActionStuck),
            CommandKind::VmReboot => done("reboot") || told(Alert::ActionStuck),
            CommandKind::VmSuspend => done("suspend") || told(Alert::ActionStuck),
            CommandKind::VmResume => done("resume") || told(Alert::ActionStuck),
            CommandKind::BackupRestore { .. } => {
                after(&|kind| matches!(kind, EventKind::BackupRestored { .. })) || told(Alert::ActionStuck)
            }
            CommandKind::VmRevive { .. } => {
                after(&|kind| matches!(kind, EventKind::VmRevived { .. })) || told(Alert::ReviveStuck)
            }
            CommandKind::BackupRun => {
                after(&|kind| matches!(kind, EventKind::BackupVerified { .. } | EventKind::BackupFailed { .. }))
                    || !ran(watched)
            }
            CommandKind::VmDelete { .. } | CommandKind::LeaseEnd => {
                after(&|kind| matches!(kind, EventKind::LeaseEnded { .. } | EventKind::LeaseEndCancelled { .. }))
                    || watched.maintenance
                    || watched.last.facts.locked
                    || after(&|kind| matches!(kind, EventKind::VmTerminating { .. }))
                    || matches!(watched.last.lease, Lease::Parked { .. })
            }
            CommandKind::RepairRun => after(&|kind| matches!(kind, EventKind::RepairStarted { .. })) || !ran(watched),
            CommandKind::VmMaintenance(switch) => {
                *switch == Switch::Off || watched.maintenance || watched.last.holds.is_empty()
            }
            _ => true,
        };
        if !carried_out && !gone {
            return Err(format!("{kind:?}, accepted at {at}, was not carried out"));
        }
    }
    Ok(())
}

/// Whether the VM was in a state in which it can be backed up when all was calm.
fn ran(watched: &Watched) -> bool {
    watched.last.facts.state == VmState::Active
        && watched.last.facts.task.is_none()
        && watched.last.holds.is_empty()
        && !matches!(watched.last.lease, Lease::Parked { .. })
        && !matches!(watched.last.health, Health::Down { .. })
}

fn raised_at(watched: &Watched, alert: Alert, at: Timestamp) -> bool {
    let mut raised = false;
    for event in watched.events.iter().take_while(|event| event.at <= at) {
        match &event.kind {
            EventKind::AlertRaised { alert: known, .. } if *known == alert => raised = true,
            EventKind::AlertCleared { alert: known } if *known == alert => raised = false,
            _ => {}
        }
    }
    raised
}

/// The vault holds what the record lists, and the cloud no snapshot that nobody needs.
fn check_backups(world: &World, vm: VmId, watched: &Watched) -> Result<(), String> {
    let listed: Vec<_> = if watched.purged {
        Vec::new()
    } else {
        watched
            .last
            .backups
            .iter()
            .filter(|entry| matches!(entry.state, BackupState::Verified { .. }))
            .map(|e| e.id)
            .collect()
    };
    for (backup, kept) in world.vault.of(vm) {
        let known = watched.last.backup(backup).is_some_and(|entry| !matches!(entry.state, BackupState::Running));
        if !known || watched.purged {
            return Err(format!("backup {backup} is in the vault, and nobody knows it"));
        }
        if listed.contains(&backup) && !kept.verified {
            return Err(format!("backup {backup} is listed as verified, and was never read back"));
        }
    }
    let held: Vec<_> = world.vault.of(vm).into_iter().map(|(backup, _)| backup).collect();
    if let Some(lost) = listed.iter().find(|backup| !held.contains(backup)) {
        return Err(format!("backup {lost} is listed and not in the vault"));
    }
    let disks = world.sim.ground_truth(vm).map(|truth| truth.disks).unwrap_or_default();
    for event in &watched.events {
        let EventKind::BackupStarted { backup, .. } = &event.kind else { continue };
        let volumes = disks.iter().map(|(disk, _)| snapshot_name(*backup, disk));
        let names: Vec<String> = volumes.collect();
        for name in names {
            let left = world.sim.find_snapshots(vm, &name).now_or_never();
            if left.is_some_and(|left| left.is_ok_and(|left| !left.is_empty())) {
                return Err(format!("snapshot {name} was left in the cloud"));
            }
        }
    }
    Ok(())
}

/// Nothing that destroys or makes was done twice for one decision.
fn once(world: &World) -> Result<(), String> {
    let mut done: BTreeMap<(CallKind, Option<VmId>, String), u32> = BTreeMap::new();
    for entry in world.sim.audit() {
        if !entry.applied || entry.by != Actor::Caller {
            continue;
        }
        let key = match entry.call {
            CallKind::DeleteServer => (entry.call, entry.vm, String::new()),
            CallKind::DeleteVolume | CallKind::ReleaseAddress | CallKind::Launch => (entry.call, None, entry.detail),
            CallKind::RestoreInPlace => (entry.call, entry.vm, entry.detail),
            _ => continue,
        };
        let count = done.entry(key.clone()).or_default();
        *count += 1;
        if *count > 1 {
            return Err(format!("{:?} of {:?} {} was done twice", key.0, key.1, key.2));
        }
    }
    Ok(())
}

/// What came of the run.
pub(super) fn report(world: &World) -> Report {
    let oracle = world.oracle();
    let mut events: BTreeMap<&'static str, u64> = BTreeMap::new();
    for event in oracle.vms.values().flat_map(|watched| &watched.events) {
        *events.entry(event.kind.type_name()).or_default() += 1;
    }
    Report {
        log: String::new(),
        commits: world.commits,
        calls: world.faults.calls(),
        crashes: world.crashes,
        vms: oracle.vms.len() as u64,
        repeated_reboots: oracle.reboots.values().filter(|times| **times > 1).count() as u64,
        events,
    }
}

//! The other commands on a lease: end it, take an end back, change its policy, remove it, name delegates; and the
//! deletion of a VM on request.

use reeve_protocol::UserId;
use reeve_protocol::command::{Accepted, Answer, BackupFirst, Refusal, RefusalCode, Requester, Switch};
use reeve_protocol::event::{Alert, EventKind};

use crate::draft::Draft;
use crate::extend::is_owner;
use crate::operation::{Action, EndPlan, Operation};
use crate::policy::{NamedPolicy, OnEnd};
use crate::record::{Basis, Lease, LeasePhase, Presence};
use crate::{action, backup_schedule, ending, lease};

/// How many delegates a VM may have.
const MAX_DELEGATES: usize = 16;

fn refuse<T>(code: RefusalCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, message))
}

fn accepted(d: &Draft, message: impl Into<String>) -> Answer {
    let ends_at = d.rec.term().map(|term| term.ends_at);
    Ok(Accepted { vm: d.rec.vm, message: message.into(), ends_at, backup: None })
}

/// Refuses whoever is neither owner nor operator, and whatever concerns a VM that is gone.
pub(crate) fn owner_of_living(d: &Draft, by: &Requester) -> Result<(), Refusal> {
    if !is_owner(&d.rec, by) {
        return refuse(RefusalCode::Denied, format!("{by} is neither the owner of this VM nor an operator"));
    }
    if d.rec.is_gone() {
        return refuse(RefusalCode::Conflict, "the VM is gone");
    }
    Ok(())
}

pub(crate) fn operator_only(by: &Requester) -> Result<(), Refusal> {
    match by {
        Requester::Operator(_) => Ok(()),
        Requester::User { .. } => refuse(RefusalCode::Denied, "only an operator may"),
    }
}

/// Refuses what would touch a VM that nobody may touch.
pub(crate) fn untouched(d: &Draft) -> Result<(), Refusal> {
    match d.rec.holds.first() {
        Some(hold) => refuse(RefusalCode::Conflict, format!("the VM is held: {}", hold.name())),
        None => Ok(()),
    }
}

/// `lease.end`: the end comes now, as the policy says.
pub(crate) fn end_now(d: &mut Draft, by: &Requester) -> Answer {
    owner_of_living(d, by)?;
    untouched(d)?;
    match &d.rec.lease {
        Lease::Running { phase: LeasePhase::Ending { .. }, .. } => {
            return refuse(RefusalCode::Conflict, "the lease is being ended already");
        }
        Lease::Running { .. } => {}
        Lease::None | Lease::Exempt | Lease::Parked { .. } | Lease::Ended { .. } => {
            return refuse(RefusalCode::Conflict, "there is no running lease");
        }
    }
    lease::request_end(d);
    accepted(d, "the lease is being ended")
}

/// `vm.delete`: destroyed, after a backup if the policy asks for one and the requester does not refuse it.
pub(crate) fn delete(d: &mut Draft, by: &Requester, backup: BackupFirst) -> Answer {
    owner_of_living(d, by)?;
    untouched(d)?;
    if ending::is_wanted(&d.rec) {
        return refuse(RefusalCode::Conflict, "the VM is being ended already");
    }
    let on_end = d.rec.policy.terms.lease.on_end;
    let plan = match (backup, on_end) {
        (BackupFirst::No, _) | (BackupFirst::AsPolicy, OnEnd::Delete) => EndPlan::Delete,
        // Whoever keeps a VM at the end of its lease does not want it lost by a deletion either.
        (BackupFirst::AsPolicy, OnEnd::BackupAndDelete | OnEnd::Stop | OnEnd::Suspend | OnEnd::Notify) => {
            EndPlan::BackupAndDelete
        }
    };
    lease::request_plan(d, plan, by.to_string());
    let message = match plan {
        EndPlan::BackupAndDelete => "the VM is backed up, then destroyed",
        EndPlan::Delete | EndPlan::Stop | EndPlan::Suspend => "the VM is being destroyed without a backup",
    };
    accepted(d, message)
}

/// `lease.cancel-end`: an end that has not begun to delete is taken back.
pub(crate) fn cancel_end(d: &mut Draft, by: &Requester) -> Answer {
    operator_only(by)?;
    if d.rec.is_gone() {
        return refuse(RefusalCode::Conflict, "the VM is gone");
    }
    if !ending::is_wanted(&d.rec) {
        return refuse(RefusalCode::Conflict, "nothing is being ended");
    }
    take_back(d, &by.to_string())?;
    accepted(d, "the end was taken back")
}

/// Takes back an end that has not begun to delete; the VM runs again if the end halted it.
fn take_back(d: &mut Draft, by: &str) -> Result<(), Refusal> {
    let wake = match &d.rec.operation {
        Some(Operation::Ending(run)) if ending::has_begun_to_delete(run) => {
            return refuse(RefusalCode::Conflict, "the deletion has been issued; it cannot be taken back");
        }
        Some(Operation::Ending(run)) => {
            let wake = if run.plan == EndPlan::Suspend { Action::Resume } else { Action::Start };
            run.halted.then_some(wake)
        }
        Some(
            Operation::Backup(_)
            | Operation::Repair(_)
            | Operation::Revive(_)
            | Operation::Action(_)
            | Operation::Provision(_),
        )
        | None => None,
    };
    d.rec.end_request = None;
    ending::abandon(d);
    d.clear(Alert::EndingStuck);
    let now = d.now;
    let notice = d.rec.policy.terms.lease.min_notice;
    if let Lease::Running { term, phase } = &mut d.rec.lease {
        // Without some time left the end would come again at once.
        term.ends_at = term.ends_at.max(now + notice);
        lease::rearm(term, now);
        *phase = LeasePhase::Active;
        d.rec.hold_said = false;
    }
    d.emit(EventKind::LeaseEndCancelled { by: by.to_owned() });
    if let Some(action) = wake {
        action::wake(d, action, by.to_owned());
    }
    Ok(())
}

/// `lease.set-policy`: attaches a lease, or puts another policy in charge.
pub(crate) fn set_policy(d: &mut Draft, by: &Requester, name: &str, policy: Option<NamedPolicy>) -> Answer {
    operator_only(by)?;
    let Some(policy) = policy else { return refuse(RefusalCode::NotFound, format!("there is no policy {name:?}")) };
    if d.rec.is_gone() {
        return refuse(RefusalCode::Conflict, "the VM is gone");
    }
    assign_policy(d, policy);
    accepted(d, format!("policy {name} rules now"))
}

/// Puts a policy in charge. A longer one moves the end out; a shorter one never brings it nearer.
pub(crate) fn assign_policy(d: &mut Draft, policy: NamedPolicy) {
    if d.rec.policy == policy {
        return;
    }
    let old = std::mem::replace(&mut d.rec.policy, policy);
    let was_exempt = old.terms.exempt;
    let terms = d.rec.policy.terms.clone();
    let now = d.now;
    let is_rescheduled = (old.terms.backup.every, old.terms.backup.window) != (terms.backup.every, terms.backup.window);
    if is_rescheduled && d.rec.schedule.next_at.is_some_and(|at| at > now) {
        d.rec.schedule.next_at = None;
    }
    if old.terms.backup.reverify != terms.backup.reverify {
        backup_schedule::spread_reverify(d);
    }
    spare(d);
    match &mut d.rec.lease {
        Lease::Running { phase: LeasePhase::Ending { .. }, .. } | Lease::Parked { .. } | Lease::Ended { .. } => {}
        Lease::Running { .. } if terms.exempt => d.rec.lease = Lease::Exempt,
        Lease::Running { term, phase } => {
            let by_duration = term.started_at + terms.lease.duration;
            if by_duration > term.ends_at {
                term.ends_at = by_duration;
                lease::rearm(term, now);
                *phase = LeasePhase::Active;
            }
        }
        Lease::Exempt if was_exempt && !terms.exempt => {
            d.rec.lease = Lease::None;
            attach(d);
        }
        Lease::None | Lease::Exempt => {}
    }
    let ends_at = d.rec.term().map(|term| term.ends_at);
    let policy = d.rec.policy.name.clone();
    d.emit(EventKind::LeasePolicyChanged { policy, ends_at });
}

/// Takes back the end of a lease that the policy no longer wants: there is none by it, or it runs longer.
fn spare(d: &mut Draft) {
    let Lease::Running { term, phase: LeasePhase::Ending { .. } } = &d.rec.lease else { return };
    let terms = &d.rec.policy.terms;
    let runs_longer = term.started_at + terms.lease.duration > term.ends_at.max(d.now);
    if (terms.exempt || runs_longer) && ending::is_by_lease(&d.rec) {
        // Once the deletion has been issued it is too late.
        let _too_late = take_back(d, "policy").is_err();
    }
}

/// Gives a lease that counts from now to a VM that was launched.
fn attach(d: &mut Draft) {
    if let (Presence::Present { .. }, Some(_)) = (d.rec.presence, d.rec.facts.launched_at) {
        lease::begin(d, d.now, d.now, Basis::Attachment);
    }
}

/// `lease.exempt`: removes the lease, or gives one again.
pub(crate) fn exempt(d: &mut Draft, by: &Requester, switch: Switch) -> Answer {
    operator_only(by)?;
    if d.rec.is_gone() {
        return refuse(RefusalCode::Conflict, "the VM is gone");
    }
    match (switch, &d.rec.lease) {
        (Switch::On, Lease::Running { phase: LeasePhase::Ending { .. }, .. }) => {
            take_back(d, &by.to_string())?;
            d.rec.lease = Lease::Exempt;
        }
        (Switch::On, Lease::None | Lease::Running { .. } | Lease::Parked { .. } | Lease::Ended { .. }) => {
            d.rec.lease = Lease::Exempt;
        }
        (Switch::Off, Lease::Exempt) => {
            d.rec.lease = Lease::None;
            attach(d);
        }
        (Switch::On, Lease::Exempt) => return accepted(d, "the VM is exempt already"),
        (Switch::Off, Lease::None | Lease::Running { .. } | Lease::Parked { .. } | Lease::Ended { .. }) => {
            return accepted(d, "the VM is not exempt");
        }
    }
    let exempt = switch == Switch::On;
    d.emit(EventKind::LeaseExempted { by: by.to_string(), exempt });
    accepted(d, if exempt { "the VM is exempt" } else { "the VM has a lease again" })
}

/// `lease.set-delegates`.
pub(crate) fn set_delegates(d: &mut Draft, by: &Requester, delegates: &[UserId]) -> Answer {
    owner_of_living(d, by)?;
    if delegates.len() > MAX_DELEGATES {
        let message = format!("{} delegates, at most {MAX_DELEGATES} are allowed", delegates.len());
        return refuse(RefusalCode::Invalid, message);
    }
    d.rec.delegates = delegates.to_vec();
    accepted(d, format!("{} delegates may extend", delegates.len()))
}

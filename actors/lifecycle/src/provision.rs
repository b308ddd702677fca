//! `vm.provision`: a VM is made for whoever asks, part by part, and handed over; or nothing of it stays.
//!
//! ```text
//! Requested: Checking ─► Making(part)… ─► Awaiting(server) ─► Introducing ─► Closed(the VM)
//!               │ refused    │ refused, too late, cancelled ▼
//!               ▼            └──────────────────────► TakingBack ─► Closed(none)
//!            Closed(none)
//! ```
//!
//! The request has a record of its own, under an id made of its message's id, so that the same message is the same request.
//! It names what it makes by that id alone: each part is looked for before it is made, and what is taken back is found in
//! the cloud, whoever made it and whatever answer was lost. The new VM's record begins when its supervisor is told of it.
//!
//! A step is never given up while it is being tried: whoever tries it may be about to make what would be looked for in
//! vain. A request that is cancelled or late is taken back when the try under way has ended.

use reeve_protocol::command::{Accepted, Answer, Command, CommandKind, Refusal, RefusalCode, Requester};
use reeve_protocol::event::{Alert, EventKind};
use reeve_protocol::provision::{Part, ProvisionRequest};
use reeve_protocol::{Timestamp, UserId, VmId};

use crate::command::{answered, answered_before};
use crate::draft::Draft;
use crate::effect::{Delivery, Done, Effect, EffectKey, Notice, Outcome, Report};
use crate::extend::is_owner;
use crate::input::{Admission, Verdict};
use crate::operation::{Operation, ProvisionRun, ProvisionStep, ReplyTo};
use crate::policy::POLICY_KEY;
use crate::record::{Health, PauseReason, Presence};

/// After so many failures of taking back a human is told; it is tried on.
const ALERT_AFTER: u32 = 3;
/// How often the new VM may be missing when its supervisor is to be told.
const MAX_MISSING: u32 = 5;

/// Somebody asks for a VM.
pub(crate) fn asked(
    d: &mut Draft,
    command: Command,
    admission: Result<Admission, Refusal>,
    reply: Option<ReplyTo>,
) -> Verdict {
    if let Some(verdict) = answered_before(d, &command.id) {
        return verdict;
    }
    let CommandKind::VmProvision(request) = command.kind else {
        return Verdict::Denied(Err(Refusal::new(RefusalCode::Invalid, "this asks for no VM")));
    };
    if d.rec.presence != Presence::Unseen {
        let message = format!("{} is in use already", d.rec.vm);
        return Verdict::Denied(Err(Refusal::new(RefusalCode::Conflict, message)));
    }
    d.rec.facts.name.clone_from(&request.plan.name);
    d.rec.health = Health::Paused { reason: PauseReason::Gone };
    let answer = match admission {
        Ok(admission) => Ok(begin(d, &command.by, *request, admission, reply)),
        Err(refusal) => {
            d.rec.facts.user = asker(&command.by);
            d.rec.presence = Presence::Closed { at: d.now, vm: None };
            let (by, reason) = (command.by.to_string(), refusal.message.clone());
            d.emit(EventKind::ProvisionDenied { by, reason });
            Err(refusal)
        }
    };
    answered(d, &command.id, answer)
}

fn asker(by: &Requester) -> Option<UserId> {
    match by {
        Requester::User { id, .. } => Some(id.clone()),
        Requester::Operator(_) => None,
    }
}

fn begin(
    d: &mut Draft,
    by: &Requester,
    request: ProvisionRequest,
    admission: Admission,
    reply: Option<ReplyTo>,
) -> Accepted {
    let owner = request.owner.or_else(|| asker(by));
    d.rec.facts.user.clone_from(&owner);
    d.rec.presence = Presence::Requested { since: d.now };
    let (name, cloud) = (request.plan.name.clone(), d.rec.cloud.clone());
    d.emit(EventKind::ProvisionRequested { by: by.to_string(), name, cloud });
    let mut plan = request.plan;
    if let Some(policy) = request.policy {
        plan.metadata.insert(POLICY_KEY.to_owned(), policy);
    }
    let key = d.issue(Effect::CheckPlan);
    d.rec.operation = Some(Operation::Provision(Box::new(ProvisionRun {
        by: by.to_string(),
        owner,
        reply,
        plan,
        user_data: admission.user_data,
        until: d.now + admission.within,
        cancelled: None,
        addresses: Vec::new(),
        step: ProvisionStep::Checking(key),
    })));
    Accepted { vm: d.rec.vm, message: "the VM is being made".into(), ends_at: None, backup: None }
}

/// `vm.delete` of a request: what was made is taken back.
pub(crate) fn cancel(d: &mut Draft, by: &Requester) -> Answer {
    if !is_owner(&d.rec, by) {
        return Err(Refusal::new(RefusalCode::Denied, format!("{by} is neither who this is made for nor an operator")));
    }
    let Some(Operation::Provision(run)) = &mut d.rec.operation else {
        return Err(Refusal::new(RefusalCode::Conflict, "the request is settled; a VM that was made has its own id"));
    };
    match &run.step {
        ProvisionStep::Introducing { new_vm, .. } => {
            return Err(Refusal::new(RefusalCode::Conflict, format!("the VM is there: delete {new_vm}")));
        }
        ProvisionStep::Checking(_)
        | ProvisionStep::Making { .. }
        | ProvisionStep::Awaiting { .. }
        | ProvisionStep::TakingBack { .. } => {}
    }
    run.cancelled.get_or_insert_with(|| by.to_string());
    Ok(Accepted { vm: d.rec.vm, message: "the request is being taken back".into(), ends_at: None, backup: None })
}

/// Takes back what is cancelled or late, if no try is under way.
pub(crate) fn advance(d: &mut Draft) {
    let Some(Operation::Provision(run)) = &d.rec.operation else { return };
    let key = match &run.step {
        ProvisionStep::Checking(key) | ProvisionStep::Making { key, .. } | ProvisionStep::Awaiting { key, .. } => *key,
        ProvisionStep::Introducing { .. } | ProvisionStep::TakingBack { .. } => return,
    };
    let waits = d.pending(key).is_some_and(|pending| pending.retry_at.is_some());
    let Some(reason) = given_up(run, d.now).filter(|_| waits) else { return };
    if let Some(Operation::Provision(run)) = d.rec.operation.take() {
        take_back(d, run, key, reason);
    }
}

/// A worker answered to the effect that the request waits for.
pub(crate) fn effect_done(d: &mut Draft, mut run: Box<ProvisionRun>, key: EffectKey, outcome: Outcome) {
    match run.step.clone() {
        ProvisionStep::Checking(_) => checked(d, run, key, outcome),
        ProvisionStep::Making { part, .. } => made(d, run, part, key, outcome),
        ProvisionStep::Awaiting { new_vm, .. } => awaited(d, run, new_vm, key, outcome),
        ProvisionStep::Introducing { new_vm, .. } => introduced(d, run, new_vm, key, outcome),
        ProvisionStep::TakingBack { reason, .. } => match outcome {
            Outcome::Done(_) => {
                d.forget(key);
                d.clear(Alert::TakeBackStuck);
                failed(d, &run, reason);
            }
            Outcome::NotApplied { reason: why }
            | Outcome::Retryable { reason: why }
            | Outcome::Unknown { reason: why } => {
                if d.put_off(key) >= ALERT_AFTER {
                    d.alert(Alert::TakeBackStuck, format!("what was made cannot be removed: {why}"));
                }
                run.step = ProvisionStep::TakingBack { reason, key };
                d.rec.operation = Some(Operation::Provision(run));
            }
        },
    }
}

fn checked(d: &mut Draft, mut run: Box<ProvisionRun>, key: EffectKey, outcome: Outcome) {
    match outcome {
        Outcome::Done(_) => {
            d.forget(key);
            match given_up(&run, d.now) {
                Some(reason) => failed(d, &run, reason),
                None => make_next(d, run, None),
            }
        }
        Outcome::NotApplied { reason } => {
            d.forget(key);
            d.emit(EventKind::ProvisionDenied { by: run.by.clone(), reason: reason.clone() });
            close(d, &run, Report::Failed { reason });
        }
        Outcome::Retryable { reason } | Outcome::Unknown { reason } => match given_up(&run, d.now) {
            Some(why) => {
                d.forget(key);
                failed(d, &run, format!("{why}: {reason}"));
            }
            None => {
                d.put_off(key);
                run.step = ProvisionStep::Checking(key);
                d.rec.operation = Some(Operation::Provision(run));
            }
        },
    }
}

fn made(d: &mut Draft, mut run: Box<ProvisionRun>, part: Part, key: EffectKey, outcome: Outcome) {
    let done = match outcome {
        Outcome::Done(done) => done,
        Outcome::NotApplied { reason } => return take_back(d, run, key, reason),
        Outcome::Retryable { reason } | Outcome::Unknown { reason } => return again(d, run, key, &reason),
    };
    if let Some(reason) = given_up(&run, d.now) {
        return take_back(d, run, key, reason);
    }
    match (part, done) {
        (Part::Server, Done::Launched { new_vm }) => {
            d.forget(key);
            let key = d.issue(Effect::AwaitReady { new_vm, addresses: run.addresses.clone() });
            run.step = ProvisionStep::Awaiting { new_vm, key };
            d.rec.operation = Some(Operation::Provision(run));
        }
        (Part::Firewall | Part::Port | Part::Address | Part::Volume(_), Done::Part { addresses }) => {
            d.forget(key);
            // The public one comes after the port's own, and is what people use.
            run.addresses.splice(0..0, addresses);
            make_next(d, run, Some(part));
        }
        (_, done) => take_back(d, run, key, format!("the worker answered with {done:?}")),
    }
}

fn awaited(d: &mut Draft, mut run: Box<ProvisionRun>, new_vm: VmId, key: EffectKey, outcome: Outcome) {
    match outcome {
        // Ready a little late is ready.
        Outcome::Done(_) => match cancelled(&run) {
            Some(reason) => take_back(d, run, key, reason),
            None => {
                d.forget(key);
                d.emit(EventKind::Provisioned { new_vm });
                let key = d.issue(Effect::Introduce { new_vm });
                run.step = ProvisionStep::Introducing { new_vm, key };
                d.rec.operation = Some(Operation::Provision(run));
            }
        },
        Outcome::NotApplied { reason } => take_back(d, run, key, reason),
        Outcome::Retryable { reason } | Outcome::Unknown { reason } => again(d, run, key, &reason),
    }
}

fn introduced(d: &mut Draft, run: Box<ProvisionRun>, new_vm: VmId, key: EffectKey, outcome: Outcome) {
    match outcome {
        Outcome::Done(_) => {
            d.forget(key);
            let (addresses, key) = (run.addresses.clone(), run.plan.key.clone());
            d.emit(EventKind::Delivered { new_vm, addresses: addresses.clone(), key: key.clone() });
            let delivery = Delivery { vm: new_vm, name: run.plan.name.clone(), addresses, key };
            close(d, &run, Report::Delivered(delivery));
        }
        Outcome::NotApplied { reason } => {
            if d.put_off(key) >= MAX_MISSING {
                take_back(d, run, key, reason);
            } else {
                d.rec.operation = Some(Operation::Provision(run));
            }
        }
        // The VM is there and goes to nobody else: it is tried on.
        Outcome::Retryable { .. } | Outcome::Unknown { .. } => {
            d.put_off(key);
            d.rec.operation = Some(Operation::Provision(run));
        }
    }
}

/// Makes the part after this one, or the first.
fn make_next(d: &mut Draft, mut run: Box<ProvisionRun>, after: Option<Part>) {
    let next = run.plan.parts().find(|part| after.is_none_or(|after| *part > after));
    let part = next.expect("a plan ends with its server, and nothing is made after that");
    let key = d.issue(Effect::MakePart { part });
    run.step = ProvisionStep::Making { part, key };
    d.rec.operation = Some(Operation::Provision(run));
}

/// Tries the step again, unless the request is to be given up.
fn again(d: &mut Draft, run: Box<ProvisionRun>, key: EffectKey, reason: &str) {
    match given_up(&run, d.now) {
        Some(why) => take_back(d, run, key, format!("{why}: {reason}")),
        None => {
            d.put_off_until(key, run.until);
            d.rec.operation = Some(Operation::Provision(run));
        }
    }
}

/// Why the request is not to go on, if it is not.
fn given_up(run: &ProvisionRun, now: Timestamp) -> Option<String> {
    cancelled(run).or_else(|| (now >= run.until).then(|| format!("it was not ready by {}", run.until)))
}

fn cancelled(run: &ProvisionRun) -> Option<String> {
    run.cancelled.as_ref().map(|by| format!("cancelled by {by}"))
}

fn take_back(d: &mut Draft, mut run: Box<ProvisionRun>, key: EffectKey, reason: String) {
    d.forget(key);
    let key = d.issue(Effect::TakeBack);
    run.step = ProvisionStep::TakingBack { reason, key };
    d.rec.operation = Some(Operation::Provision(run));
}

fn failed(d: &mut Draft, run: &ProvisionRun, reason: String) {
    d.emit(EventKind::ProvisionFailed { reason: reason.clone() });
    close(d, run, Report::Failed { reason });
}

/// The request is settled, and whoever asked is told: over the way that the request came, and as the VM's owner.
fn close(d: &mut Draft, run: &ProvisionRun, report: Report) {
    let (vm, notice) = match &report {
        Report::Delivered(delivery) => (Some(delivery.vm), Notice::Delivered(delivery.clone())),
        Report::Failed { reason } => (None, Notice::ProvisionFailed { reason: reason.clone() }),
    };
    d.rec.operation = None;
    d.rec.presence = Presence::Closed { at: d.now, vm };
    d.tell_owner(notice);
    if let Some(to) = run.reply.clone() {
        d.issue(Effect::Report { to, report });
    }
}

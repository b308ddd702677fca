//! `lease.extend`: who may, how often, how long; and what a refusal says.

use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode, Requester};
use reeve_protocol::event::{EventKind, LeaseEndReason};
use reeve_protocol::{Span, Timestamp};

use crate::draft::Draft;
use crate::effect::Notice;
use crate::lease_commands::untouched;
use crate::operation::Action;
use crate::record::{Lease, LeasePhase, Term, VmRecord};
use crate::{action, ending, lease};

/// Whether the requester may decide about the VM: its owner and the operators.
pub(crate) fn is_owner(record: &VmRecord, by: &Requester) -> bool {
    match by {
        Requester::Operator(_) => true,
        Requester::User { id, .. } => record.facts.user.as_ref() == Some(id),
    }
}

fn may_extend(record: &VmRecord, by: &Requester) -> bool {
    let Requester::User { id, project, roles } = by else { return true };
    let is_member = project.is_some() && *project == record.facts.project;
    is_owner(record, by)
        || record.delegates.contains(id)
        || (is_member && record.policy.terms.lease.extend_roles.iter().any(|role| roles.contains(role)))
}

/// Extends the lease, or says why not and what would still be possible. With `ends_at` only the lease that ends then.
pub(crate) fn extend(d: &mut Draft, by: &Requester, wanted: Option<Span>, ends_at: Option<Timestamp>) -> Answer {
    match check(d, by, wanted, ends_at) {
        Ok(extension) => Ok(grant(d, by, extension)),
        Err(refusal) => {
            d.emit(EventKind::LeaseExtensionDenied { by: by.to_string(), reason: refusal.message.clone() });
            Err(refusal)
        }
    }
}

/// Refuses a wish that was about the lease before its end was moved.
fn of_period(d: &Draft, meant: Option<Timestamp>) -> Result<(), Refusal> {
    let ends_at = d.rec.term().map(|term| term.ends_at);
    let Some(meant) = meant.filter(|meant| ends_at != Some(*meant)) else { return Ok(()) };
    let now = ends_at.map_or_else(|| "there is none now".to_owned(), |at| format!("it now ends at {at}"));
    Err(Refusal::new(RefusalCode::Conflict, format!("this was about the lease that was to end at {meant}; {now}")))
}

fn check(d: &Draft, by: &Requester, wanted: Option<Span>, ends_at: Option<Timestamp>) -> Result<Span, Refusal> {
    let denied = |message: String| Err(Refusal::new(RefusalCode::Denied, message));
    let conflict = |message: &str| Err(Refusal::new(RefusalCode::Conflict, message));
    if !may_extend(&d.rec, by) {
        return denied(format!("{by} is neither owner nor delegate of this VM, nor an operator"));
    }
    if d.rec.is_gone() {
        return denied("the VM is gone; it may be revived from a backup".into());
    }
    of_period(d, ends_at)?;
    let term = match &d.rec.lease {
        Lease::Running { phase: LeasePhase::Ending { .. }, .. } => {
            return conflict("the lease is being ended; an operator may cancel that before anything is deleted");
        }
        Lease::Running { term, .. } => term,
        Lease::Ended { .. } if ending::is_wanted(&d.rec) => return conflict("the VM is being ended"),
        Lease::Ended { term, reason, .. } => match reason {
            // The extension starts the VM again, and must be able to.
            LeaseEndReason::Stopped | LeaseEndReason::Suspended => {
                if let Some(operation) = &d.rec.operation {
                    return conflict(&format!("in the way: {}", operation.name()));
                }
                untouched(d)?;
                term
            }
            LeaseEndReason::Notified => term,
            LeaseEndReason::Destroyed | LeaseEndReason::VmGone => return denied("the VM is gone".into()),
        },
        Lease::Parked { .. } => return conflict("the VM is soft-deleted; restore it first"),
        Lease::Exempt => return conflict("the VM has no lease: it is exempt"),
        Lease::None => return conflict("the lease has not begun: the VM was not launched yet"),
    };
    amount(d, term, wanted)
}

/// The extension that is granted: what was wanted, if the policy allows it.
fn amount(d: &Draft, term: &Term, wanted: Option<Span>) -> Result<Span, Refusal> {
    let denied = |message: String| Err(Refusal::new(RefusalCode::Denied, message));
    let policy = &d.rec.policy.terms.lease;
    if term.extensions >= policy.max_extensions {
        return denied(format!("all {} extensions are used", policy.max_extensions));
    }
    let room = lease::room(term, policy, d.now);
    if room.is_zero() {
        return denied(format!("the lease has reached its longest total of {}", policy.max_total));
    }
    let possible = policy.extension.min(room);
    match wanted {
        // Without a wish, as much as the policy gives and the total allows.
        None => Ok(possible),
        Some(by) if by.is_zero() => Err(Refusal::new(RefusalCode::Invalid, "an extension of 0s makes no sense")),
        Some(by) if by > policy.extension => {
            denied(format!("{by} is more than one extension may give; up to {possible} would be possible"))
        }
        Some(by) if by > room => denied(format!(
            "{by} would pass the longest total of {}; up to {possible} would be possible",
            policy.max_total
        )),
        Some(by) => Ok(by),
    }
}

fn grant(d: &mut Draft, by: &Requester, extension: Span) -> Accepted {
    let now = d.now;
    let restart = match d.rec.lease {
        Lease::Ended { reason: LeaseEndReason::Stopped, .. } => Some(Action::Start),
        Lease::Ended { reason: LeaseEndReason::Suspended, .. } => Some(Action::Resume),
        Lease::None | Lease::Exempt | Lease::Running { .. } | Lease::Parked { .. } | Lease::Ended { .. } => None,
    };
    let mut term = *d.rec.term().expect("`check` found the terms");
    term.ends_at = term.ends_at.max(now) + extension;
    term.extensions += 1;
    lease::rearm(&mut term, now);
    d.rec.hold_said = false;
    d.rec.lease = Lease::Running { term, phase: LeasePhase::Active };
    d.emit(EventKind::LeaseExtended { by: by.to_string(), ends_at: term.ends_at, extensions: term.extensions });
    d.tell_owner(Notice::Extended { ends_at: term.ends_at });
    if let Some(action) = restart {
        action::wake(d, action, by.to_string());
    }
    Accepted {
        vm: d.rec.vm,
        message: format!("extended by {extension}; the lease now ends at {}", term.ends_at),
        ends_at: Some(term.ends_at),
        backup: None,
    }
}

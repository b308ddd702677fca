//! The lease: its start, the notices before its end, the end, the grace, and what makes the end wait.
//!
//! ```text
//! None ─► Running(Active ─► Warned ─► Grace ─► Ending) ─► Ended
//! ```
//!
//! The commands on a lease are in files of their own: [`crate::extend`], [`crate::lease_commands`].

use reeve_protocol::event::{EventKind, LeaseEndReason, Offer, Origin};
use reeve_protocol::{Span, Timestamp};

use crate::draft::Draft;
use crate::effect::Notice;
use crate::ending;
use crate::input::Reason;
use crate::operation::EndPlan;
use crate::policy::{Adopt, LeasePolicy, OnEnd};
use crate::record::{Basis, EndRequest, Hold, Lease, LeasePhase, Presence, Term, VmRecord};

/// Who asks for the end that a lease brings.
pub(crate) const BY_LEASE: &str = "lease";

/// Begins the lease of a VM that was launched, if it has none yet.
pub(crate) fn begin_if_launched(d: &mut Draft) {
    let (Lease::None, Presence::Present { since, .. }, Some(launched)) =
        (&d.rec.lease, d.rec.presence, d.rec.facts.launched_at)
    else {
        return;
    };
    let (started_at, _) = first_term(&d.rec, launched, since);
    begin(d, started_at, since, Basis::Coming);
}

/// When the lease of a VM that was launched and came under care at these times starts and first ends.
pub(crate) fn first_term(record: &VmRecord, launched: Timestamp, since: Timestamp) -> (Timestamp, Timestamp) {
    let policy = &record.policy.terms.lease;
    let started_at = match (record.created_seen, policy.adopt) {
        (true, _) | (false, Adopt::Launch) => launched,
        (false, Adopt::Discovery) => since,
    };
    (started_at, first_end(record.created_seen, policy, started_at, since))
}

/// Begins a lease that counts from `started_at`, for a VM under care since `since`.
pub(crate) fn begin(d: &mut Draft, started_at: Timestamp, since: Timestamp, basis: Basis) {
    if d.rec.policy.terms.exempt {
        d.rec.lease = Lease::Exempt;
        return;
    }
    let ends_at = first_end(d.rec.created_seen, &d.rec.policy.terms.lease, started_at, since);
    let term = Term { started_at, ends_at, armed_at: d.now, warned: None, extensions: 0, basis };
    d.rec.lease = Lease::Running { term, phase: first_phase(d) };
    d.emit(EventKind::LeaseCreated { started_at, ends_at, policy: d.rec.policy.name.clone() });
    d.tell_owner(Notice::LeaseCreated { ends_at });
}

/// Where a lease is that begins or goes on: that of a VM which is being deleted on request ends with it.
fn first_phase(d: &Draft) -> LeasePhase {
    if ending::is_wanted(&d.rec) { LeasePhase::Ending { since: d.now } } else { LeasePhase::Active }
}

/// When a lease first ends. A VM that was found, or whose creation was heard of late, gets at least `min_notice` from
/// the moment it came under care: switching Reeve on ends no VM by surprise.
pub(crate) fn first_end(
    created_seen: bool,
    policy: &LeasePolicy,
    started_at: Timestamp,
    since: Timestamp,
) -> Timestamp {
    let by_duration = started_at + policy.duration;
    let heard_late = since.since(started_at) > policy.min_notice.duration();
    if created_seen && !heard_late { by_duration } else { by_duration.max(since + policy.min_notice) }
}

/// The creation of a VM was heard of after something else about it: its lease counts from its launch after all, unless
/// somebody has been told or has answered already.
pub(crate) fn rebase(d: &mut Draft, launched: Timestamp) {
    let since = match (d.rec.presence, d.rec.term()) {
        (Presence::Present { since, .. } | Presence::SoftDeleted { since, .. }, _) => since,
        // A lease that was never extended was armed when the VM came under care.
        (Presence::Gone { .. } | Presence::Unseen | Presence::Requested { .. } | Presence::Closed { .. }, term) => {
            term.map_or(launched, |term| term.armed_at)
        }
    };
    let policy = &d.rec.policy.terms.lease;
    let ends_at = first_end(true, policy, launched, since);
    // An end that was moved since (restored, cancelled, another policy) is not brought back to where it first was.
    let is_first = |term: &Term| {
        [true, false].into_iter().any(|seen| first_end(seen, policy, term.started_at, since) == term.ends_at)
    };
    let soonest = d.now + policy.min_notice;
    let corrects = |term: &Term| {
        term.basis == Basis::Coming && term.extensions == 0 && term.started_at != launched && is_first(term)
    };
    match &mut d.rec.lease {
        Lease::Running { term, phase: LeasePhase::Active } if corrects(term) => {
            term.started_at = launched;
            // Whoever was told of a later end is told of this one in time.
            term.ends_at = ends_at.max(soonest.min(term.ends_at));
            let ends_at = term.ends_at;
            d.emit(EventKind::LeaseCorrected { started_at: launched, ends_at });
            d.tell_owner(Notice::LeaseCreated { ends_at });
        }
        Lease::Ended { term, reason: LeaseEndReason::VmGone, .. } if corrects(term) => {
            term.started_at = launched;
            term.ends_at = ends_at;
        }
        Lease::None | Lease::Exempt | Lease::Running { .. } | Lease::Parked { .. } | Lease::Ended { .. } => {}
    }
}

/// What the owner may still do about the end.
#[must_use]
pub fn offer(record: &VmRecord, now: Timestamp) -> Offer {
    let Some(term) = record.term() else { return Offer::No { why: "there is no lease".into() } };
    let policy = &record.policy.terms.lease;
    let left = policy.max_extensions.saturating_sub(term.extensions);
    if left == 0 {
        return Offer::No { why: format!("all {} extensions are used", policy.max_extensions) };
    }
    let room = room(term, policy, now);
    if room.is_zero() {
        return Offer::No { why: format!("the lease has reached its longest total of {}", policy.max_total) };
    }
    Offer::Extend { by: policy.extension.min(room), left }
}

/// By how much a lease may still grow under `max_total`.
pub(crate) fn room(term: &Term, policy: &LeasePolicy, now: Timestamp) -> Span {
    Span::from((term.started_at + policy.max_total).since(term.ends_at.max(now)))
}

/// The notice that comes next: when, and which entry of `warn_before`. Entries at or before the arming of this end are
/// skipped, as are those already served.
fn next_warning(term: &Term, policy: &LeasePolicy) -> Option<(Timestamp, Span)> {
    policy
        .warn_before
        .iter()
        .filter(|warn| term.warned.is_none_or(|served| **warn < served))
        .map(|warn| (term.ends_at - *warn, *warn))
        .filter(|(at, _)| *at > term.armed_at)
        .min()
}

/// Does what is due: a notice, the end, the end of the grace; says a hold once.
pub(crate) fn advance(d: &mut Draft) {
    warn(d);
    let Lease::Running { term, phase } = d.rec.lease.clone() else { return };
    match phase {
        LeasePhase::Active | LeasePhase::Warned if d.now >= term.ends_at => {
            if !held(d) {
                come_to_end(d, &term);
            }
        }
        LeasePhase::Grace { until } if d.now >= until => {
            if !held(d) {
                request_end(d);
            }
        }
        LeasePhase::Ending { .. } => {
            if d.rec.end_request.is_some() {
                held(d);
            }
        }
        LeasePhase::Active | LeasePhase::Warned | LeasePhase::Grace { .. } => {}
    }
}

fn warn(d: &mut Draft) {
    let offer = offer(&d.rec, d.now);
    let now = d.now;
    let policy = d.rec.policy.terms.lease.clone();
    let Lease::Running { term, phase: phase @ (LeasePhase::Active | LeasePhase::Warned) } = &mut d.rec.lease else {
        return;
    };
    if now >= term.ends_at {
        return;
    }
    let mut due = false;
    // Several that passed while nobody was running give one notice, the latest.
    while let Some((_, warn)) = next_warning(term, &policy).filter(|(at, _)| *at <= now) {
        term.warned = Some(warn);
        due = true;
    }
    if due {
        *phase = LeasePhase::Warned;
        let ends_at = term.ends_at;
        d.emit(EventKind::LeaseExpiring { ends_at, offer: offer.clone() });
        d.tell_owner(Notice::Expiring { ends_at, offer });
    }
}

/// Whether something makes the end wait; says so once, and says once when it goes on.
pub(crate) fn held(d: &mut Draft) -> bool {
    let held = !d.rec.holds.is_empty();
    if held && !d.rec.hold_said {
        d.rec.hold_said = true;
        let reasons = d.rec.holds.iter().map(|hold| hold.name().to_owned()).collect();
        d.emit(EventKind::LeaseHeld { reasons });
    }
    if !held && d.rec.hold_said {
        d.rec.hold_said = false;
        d.emit(EventKind::LeaseReleased);
    }
    held
}

fn come_to_end(d: &mut Draft, term: &Term) {
    let policy = d.rec.policy.terms.lease.clone();
    if policy.on_end == OnEnd::Notify {
        let offer = offer(&d.rec, d.now);
        d.emit(EventKind::LeaseExpired { ends_at: term.ends_at, grace_until: None, offer: offer.clone() });
        d.tell_owner(Notice::Expired { grace_until: None, offer });
        end(d, LeaseEndReason::Notified);
        return;
    }
    if policy.grace.is_zero() {
        let offer = Offer::No { why: "the lease is over".into() };
        d.emit(EventKind::LeaseExpired { ends_at: term.ends_at, grace_until: None, offer: offer.clone() });
        d.tell_owner(Notice::Expired { grace_until: None, offer });
        request_end(d);
        return;
    }
    // The grace counts from the notice: an outage of ours takes nothing from the owner's time to answer.
    let until = d.now + policy.grace;
    let offer = offer(&d.rec, d.now);
    d.rec.lease = Lease::Running { term: *term, phase: LeasePhase::Grace { until } };
    d.emit(EventKind::LeaseExpired { ends_at: term.ends_at, grace_until: Some(until), offer: offer.clone() });
    d.tell_owner(Notice::Expired { grace_until: Some(until), offer });
}

/// Asks for the end as the policy says; the operation begins when nothing is in its way.
pub(crate) fn request_end(d: &mut Draft) {
    let plan = match d.rec.policy.terms.lease.on_end {
        OnEnd::BackupAndDelete => EndPlan::BackupAndDelete,
        OnEnd::Delete => EndPlan::Delete,
        OnEnd::Stop => EndPlan::Stop,
        OnEnd::Suspend => EndPlan::Suspend,
        OnEnd::Notify => {
            end(d, LeaseEndReason::Notified);
            return;
        }
    };
    request_plan(d, plan, BY_LEASE.to_owned());
}

/// Asks for this end of the VM; a running lease is `ending` from now on.
pub(crate) fn request_plan(d: &mut Draft, plan: EndPlan, by: String) {
    d.rec.end_request = Some(EndRequest { plan, by });
    if let Lease::Running { phase, .. } = &mut d.rec.lease {
        *phase = LeasePhase::Ending { since: d.now };
    }
}

/// The lease is over.
pub(crate) fn end(d: &mut Draft, reason: LeaseEndReason) {
    let at = d.now;
    match d.rec.lease.clone() {
        Lease::Running { term, .. } | Lease::Parked { term, .. } => {
            d.rec.lease = Lease::Ended { term, at, reason };
            d.emit(EventKind::LeaseEnded { reason });
            d.tell_owner(Notice::Ended);
        }
        // Kept after its end and destroyed later, on request.
        Lease::Ended {
            term,
            at,
            reason: LeaseEndReason::Stopped | LeaseEndReason::Suspended | LeaseEndReason::Notified,
        } => {
            d.rec.lease = Lease::Ended { term, at, reason };
        }
        Lease::None | Lease::Exempt | Lease::Ended { .. } => {}
    }
}

/// The VM is soft-deleted: the lease waits with the time it has left.
pub(crate) fn park(d: &mut Draft) {
    let now = d.now;
    if let Lease::Running { term, .. } = d.rec.lease {
        d.rec.lease = Lease::Parked { term, left: Span::from(term.ends_at.since(now)) };
        d.rec.end_request = None;
    }
}

/// The VM is restored: the lease goes on with the time it had left, at least `min_notice`.
pub(crate) fn unpark(d: &mut Draft) {
    let min_notice = d.rec.policy.terms.lease.min_notice;
    if let Lease::Parked { mut term, left } = d.rec.lease {
        term.ends_at = d.now + left.max(min_notice);
        rearm(&mut term, d.now);
        let exempt = d.rec.policy.terms.exempt;
        d.rec.lease = if exempt { Lease::Exempt } else { Lease::Running { term, phase: first_phase(d) } };
    }
}

/// A new end: its notices are due anew. A hold that it meets is said anew too.
pub(crate) fn rearm(term: &mut Term, now: Timestamp) {
    term.armed_at = now;
    term.warned = None;
}

/// Adds or takes away a hold.
pub(crate) fn set_hold(d: &mut Draft, hold: Hold, on: bool) {
    if on && d.rec.is_gone() && matches!(hold, Hold::Locked | Hold::Maintenance) {
        return;
    }
    match (d.rec.holds.binary_search(&hold), on) {
        (Err(at), true) => d.rec.holds.insert(at, hold),
        (Ok(at), false) => {
            d.rec.holds.remove(at);
        }
        (Ok(_), true) | (Err(_), false) => {}
    }
    if d.rec.holds.is_empty() {
        held(d);
    }
}

/// When the lease next wants something.
pub(crate) fn deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    let Lease::Running { term, phase } = &record.lease else { return None };
    let held = !record.holds.is_empty();
    match phase {
        LeasePhase::Active | LeasePhase::Warned => {
            // A hold is said when the end is due; after that only its lifting counts.
            if held && record.hold_said {
                return None;
            }
            let warning = next_warning(term, &record.policy.terms.lease).map(|(at, _)| (at, Reason::Warning));
            let end = Some((term.ends_at, Reason::LeaseEnd));
            [warning.filter(|(at, _)| *at < term.ends_at), end].into_iter().flatten().min()
        }
        LeasePhase::Grace { until } => (!held || !record.hold_said).then_some((*until, Reason::GraceOver)),
        LeasePhase::Ending { .. } => None,
    }
}

/// How a VM came under care.
pub(crate) fn origin(record: &VmRecord) -> Origin {
    match record.revived_from {
        Some(from) => Origin::Revived { from },
        None if record.created_seen => Origin::Created,
        None => Origin::Found,
    }
}

//! What the cloud says of a VM: its coming, its changes, its going.
//!
//! Notifications come late, twice and out of order. The newest payload wins, whatever the order of arrival; a delete
//! wins over everything; a listing proves absence only when it is complete, twice.

use reeve_protocol::event::{Alert, EventKind, LeaseEndReason};
use reeve_protocol::observation::{Phase, Said, VmChange, VmFacts, VmNotification, VmState};
use reeve_protocol::{Span, Timestamp, UserId, VmId};

use crate::draft::Draft;
use crate::input::{Ignored, Verdict};
use crate::operation::Operation;
use crate::record::{Basis, Hold, Lease, LeasePhase, MAX_SEEN, Presence, Term};
use crate::{action, backup, ending, lease};

/// Two complete listings this far apart that lack a VM prove that it is gone.
pub(crate) const MISSING_FOR: Span = Span::from_secs(60);
/// The metadata key of the user whom a VM belongs to that Reeve made.
pub const OWNER_KEY: &str = "reeve_owner";
/// The metadata key of a revived VM's ancestor.
pub const REVIVED_FROM_KEY: &str = "reeve_revived_from";

/// The cloud tells of a change.
pub(crate) fn notified(d: &mut Draft, notification: VmNotification) -> Verdict {
    let id = Said::new(0, notification.id.as_str()).tie;
    if d.rec.seen.contains(&id) {
        return Verdict::Ignored(Ignored::Duplicate(None));
    }
    let before = d.rec.clone();
    let VmNotification { said, change, phase, facts, .. } = notification;
    let (launched, deleted_at) = (facts.launched_at, facts.deleted_at);
    let deleted =
        (change == VmChange::Delete && matches!(phase, Phase::End | Phase::Whole)) || facts.state == VmState::Deleted;
    if change == VmChange::Create || (facts.state == VmState::Building && launched.is_none()) {
        d.rec.created_seen = true;
    }
    discover(d, &facts);
    let fresh = apply(d, facts, said);
    if !deleted {
        lease::begin_if_launched(d);
    }
    if d.rec.created_seen
        && let Some(launched) = d.rec.facts.launched_at
    {
        lease::rebase(d, launched);
    }
    if deleted {
        gone(d, deleted_at.unwrap_or(said.at()), Going::Deleted);
    }
    if d.rec == before {
        return Verdict::Ignored(if fresh { Ignored::Nothing } else { Ignored::Stale });
    }
    // An id is kept only where the message counted: what changed nothing changes nothing the second time either.
    d.rec.seen.push(id);
    if d.rec.seen.len() > MAX_SEEN {
        d.rec.seen.remove(0);
    }
    Verdict::Accepted(None)
}

/// A listing, or a look, shows the VM.
pub(crate) fn listed(d: &mut Draft, facts: VmFacts, said: Said) -> Verdict {
    let before = d.rec.clone();
    let deleted = facts.state == VmState::Deleted;
    let deleted_at = facts.deleted_at;
    if facts.state == VmState::Building && facts.launched_at.is_none() && d.rec.presence == Presence::Unseen {
        d.rec.created_seen = true;
    }
    discover(d, &facts);
    let fresh = apply(d, facts, said);
    if deleted {
        gone(d, deleted_at.unwrap_or(said.at()), Going::Deleted);
    } else {
        lease::begin_if_launched(d);
    }
    // Only the time of asking moved: nothing worth a write.
    let said_before = std::mem::replace(&mut d.rec.facts.said, before.facts.said);
    if d.rec == before {
        return Verdict::Ignored(if fresh { Ignored::Nothing } else { Ignored::Stale });
    }
    d.rec.facts.said = said_before;
    Verdict::Accepted(None)
}

/// A complete listing lacks the VM.
pub(crate) fn missing(d: &mut Draft, asked_at: Timestamp) -> Verdict {
    let Presence::Present { missing_since, .. } = &mut d.rec.presence else {
        return Verdict::Ignored(Ignored::Over);
    };
    if d.rec.facts.said.at() >= asked_at {
        return Verdict::Ignored(Ignored::Stale);
    }
    match *missing_since {
        None => *missing_since = Some(asked_at),
        Some(first) if asked_at.since(first) >= MISSING_FOR.duration() => gone(d, asked_at, Going::Missing),
        Some(_) => return Verdict::Ignored(Ignored::Nothing),
    }
    Verdict::Accepted(None)
}

/// This VM was made by Reeve, from a backup of another or for a request.
pub(crate) fn introduced(d: &mut Draft, from: Option<VmId>, facts: VmFacts, said: Said) -> Verdict {
    let known = d.rec.revived_from.is_some() || (from.is_none() && d.rec.presence != Presence::Unseen);
    d.rec.revived_from = from.or(d.rec.revived_from);
    // What was heard of it before may not have told whose it is.
    if let Some(owner) = named_owner(&facts) {
        d.rec.facts.user = Some(owner);
    }
    d.rec.created_seen = true;
    match listed(d, facts, said) {
        Verdict::Ignored(_) if !known => Verdict::Accepted(None),
        verdict @ (Verdict::Accepted(_) | Verdict::Ignored(_) | Verdict::Denied(_) | Verdict::Busy) => verdict,
    }
}

fn discover(d: &mut Draft, facts: &VmFacts) {
    if d.rec.presence != Presence::Unseen {
        return;
    }
    d.rec.presence = Presence::Present { since: d.now, missing_since: None };
    if let Some(from) = facts.metadata.get(REVIVED_FROM_KEY).and_then(|text| text.parse().ok()) {
        d.rec.revived_from = Some(from);
        d.rec.created_seen = true;
    }
    d.emit(EventKind::VmDiscovered {
        name: facts.name.clone(),
        cloud: d.rec.cloud.clone(),
        project: facts.project.clone(),
        host: facts.host.clone(),
        origin: lease::origin(&d.rec),
    });
}

/// Whom a VM belongs to: to a cloud, what Reeve makes is Reeve's.
fn owner(facts: &VmFacts) -> Option<UserId> {
    named_owner(facts).or_else(|| facts.user.clone())
}

fn named_owner(facts: &VmFacts) -> Option<UserId> {
    facts.metadata.get(OWNER_KEY).and_then(|text| UserId::new(text.as_str()).ok())
}

/// Takes the payload if it is newer than what is known; says whether it was.
fn apply(d: &mut Draft, facts: VmFacts, said: Said) -> bool {
    let known = &mut d.rec.facts;
    // All that was heard so far told of the VM without describing it.
    let little_known = known.name.is_empty() && known.created_at.is_none();
    // What never changes is taken from any payload: some tell of a VM without naming it.
    if known.name.is_empty() {
        known.name.clone_from(&facts.name);
    }
    known.project = known.project.take().or_else(|| facts.project.clone());
    known.user = known.user.take().or_else(|| owner(&facts));
    known.created_at = known.created_at.or(facts.created_at);
    // A rebuild or an unshelving launches again: the first launch counts, whichever is heard of first.
    known.launched_at = known.launched_at.into_iter().chain(facts.launched_at).min();
    if known.said >= said {
        if little_known {
            known.host = facts.host;
            known.power = facts.power;
        }
        return false;
    }
    let from = std::mem::replace(&mut known.state, facts.state);
    let partial = facts.name.is_empty() && facts.created_at.is_none();
    if !partial {
        known.name = facts.name;
        known.host = facts.host;
        known.power = facts.power;
    }
    known.task = facts.task;
    known.said = said;
    if let Some(locked) = facts.locked {
        d.rec.facts.locked = locked;
        lease::set_hold(d, Hold::Locked, locked);
    }
    if let Presence::Present { missing_since, .. } = &mut d.rec.presence {
        *missing_since = None;
    }
    if from != facts.state && !d.rec.is_gone() {
        if from != VmState::Unknown {
            let to = facts.state.as_nova().to_owned();
            d.emit(EventKind::VmStateChanged { from: from.as_nova().to_owned(), to });
        }
        state_changed(d, facts.state);
    }
    true
}

fn state_changed(d: &mut Draft, state: VmState) {
    match (d.rec.presence, state) {
        (Presence::Present { since, .. }, VmState::SoftDeleted) => {
            d.rec.presence = Presence::SoftDeleted { since, at: d.now };
            match &d.rec.operation {
                // Our own doing: a cloud may take the server away in two steps.
                Some(Operation::Ending(run)) if ending::has_begun_to_delete(run) => return,
                Some(Operation::Ending(_)) => ending::abandon(d),
                Some(
                    Operation::Backup(_)
                    | Operation::Repair(_)
                    | Operation::Revive(_)
                    | Operation::Action(_)
                    | Operation::Provision(_),
                )
                | None => {}
            }
            d.clear(Alert::EndingStuck);
            lease::park(d);
        }
        (Presence::SoftDeleted { since, .. }, state) if state != VmState::SoftDeleted => {
            // A lease that begins only now counts from now.
            let since = if d.rec.lease == Lease::None { d.now } else { since };
            d.rec.presence = Presence::Present { since, missing_since: None };
            lease::unpark(d);
        }
        _ => {}
    }
    if state == VmState::Error {
        d.alert(Alert::CloudFault, "the cloud reports the VM in state error");
    } else {
        d.clear(Alert::CloudFault);
    }
}

/// How a VM went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Going {
    /// The cloud says that it was deleted.
    Deleted,
    /// Complete listings lack it.
    Missing,
}

/// The VM is gone by itself, or the cloud confirms what an ending did.
pub(crate) fn gone(d: &mut Draft, at: Timestamp, how: Going) {
    let since = match &mut d.rec.presence {
        Presence::Gone { at: known } => {
            *known = at.min(*known);
            let at = *known;
            if let Lease::Ended { at: ended, reason: LeaseEndReason::VmGone, .. } = &mut d.rec.lease {
                *ended = at;
            }
            return;
        }
        Presence::Present { since, .. } | Presence::SoftDeleted { since, .. } => *since,
        Presence::Unseen | Presence::Requested { .. } | Presence::Closed { .. } => d.now,
    };
    mark_gone(d, at);
    if let Some(Operation::Ending(run)) = &d.rec.operation
        && ending::has_begun_to_delete(run)
    {
        // Our own doing: the operation sees to the rest.
        return;
    }
    d.rec.end_request = None;
    match &d.rec.operation {
        Some(Operation::Backup(_)) => backup::abandon_operation(d, "the VM is gone"),
        Some(Operation::Ending(_)) => ending::abandon(d),
        Some(Operation::Repair(_) | Operation::Action(_)) => action::abandon(d),
        Some(Operation::Revive(_) | Operation::Provision(_)) | None => {}
    }
    d.emit(match how {
        Going::Deleted => EventKind::VmTerminated,
        Going::Missing => EventKind::VmVanished { how: "complete listings lack it".into() },
    });
    end_lease(d, since, at);
    for alert in d.rec.alerts.clone() {
        d.clear(alert);
    }
}

/// Marks the VM as gone; what bars others from touching the VM itself lapses with it.
pub(crate) fn mark_gone(d: &mut Draft, at: Timestamp) {
    d.rec.presence = Presence::Gone { at };
    lease::set_hold(d, Hold::Locked, false);
    lease::set_hold(d, Hold::Maintenance, false);
}

/// The lease of a VM that is gone. One that never began here, because the delete came first, is written as it was.
fn end_lease(d: &mut Draft, since: Timestamp, at: Timestamp) {
    if let (Lease::None, Some(launched), false) = (&d.rec.lease, d.rec.facts.launched_at, d.rec.policy.terms.exempt) {
        let (started_at, ends_at) = lease::first_term(&d.rec, launched, since);
        let term = Term { started_at, ends_at, armed_at: since, warned: None, extensions: 0, basis: Basis::Coming };
        d.rec.lease = Lease::Running { term, phase: LeasePhase::Active };
    }
    lease::end(d, LeaseEndReason::VmGone);
    if let Lease::Ended { at: ended_at, reason: LeaseEndReason::VmGone, .. } = &mut d.rec.lease {
        *ended_at = at;
    }
}

//! The health of a VM: what probes saw, when nobody judges, and what somebody outside reported.
//!
//! ```text
//! Unknown ─► Up ─► Suspect(n) ─► Down ─► (repair) ─► Up │ NeedsOperator        any ◄─► Paused
//! ```

use reeve_protocol::command::{Accepted, Answer, Refusal, RefusalCode};
use reeve_protocol::event::{Alert, EventKind};
use reeve_protocol::observation::{PowerState, VmState};

use crate::draft::Draft;
use crate::effect::ProbeVerdict;
use crate::input::{Ignored, Verdict};
use crate::operation::Operation;
use crate::policy::ProbeKind;
use crate::record::{Health, Hold, PauseReason, Presence, VmRecord};

/// The longest cause that is kept, in bytes.
const MAX_CAUSE: usize = 255;

/// Why nobody judges this VM now, if nobody does.
pub(crate) fn pause_reason(record: &VmRecord) -> Option<PauseReason> {
    if !matches!(record.presence, Presence::Present { .. }) {
        return Some(PauseReason::Gone);
    }
    if !record.policy.terms.health.enabled {
        return Some(PauseReason::Disabled);
    }
    if record.holds.contains(&Hold::Maintenance) {
        return Some(PauseReason::Maintenance);
    }
    match &record.operation {
        // A repair tests the condition itself, and must not lose it.
        Some(Operation::Repair(_)) => return None,
        Some(
            Operation::Backup(_)
            | Operation::Ending(_)
            | Operation::Revive(_)
            | Operation::Action(_)
            | Operation::Provision(_),
        ) => return Some(PauseReason::Operation),
        None => {}
    }
    if record.facts.task.is_some() {
        return Some(PauseReason::CloudTask);
    }
    match record.facts.state {
        VmState::Building => Some(PauseReason::Building),
        VmState::Rescued => Some(PauseReason::Rescue),
        VmState::Paused
        | VmState::Suspended
        | VmState::Stopped
        | VmState::SoftDeleted
        | VmState::Shelved
        | VmState::ShelvedOffloaded => Some(PauseReason::NotRunning),
        VmState::Deleted => Some(PauseReason::Gone),
        // `virsh suspend` and the like: the state stays active while the guest does not run.
        VmState::Active if matches!(record.facts.power, Some(PowerState::Paused | PowerState::Suspended)) => {
            Some(PauseReason::NotRunning)
        }
        VmState::Active | VmState::Resized | VmState::Error | VmState::Unknown => None,
    }
}

/// Pauses or resumes judgement as the record now says.
pub(crate) fn refresh_pause(d: &mut Draft) {
    let reason = pause_reason(&d.rec);
    match (&d.rec.health, reason) {
        (Health::Paused { reason: known }, Some(reason)) if *known == reason => {}
        (Health::Paused { .. }, Some(reason)) => d.rec.health = Health::Paused { reason },
        (Health::Paused { .. }, None) => d.rec.health = Health::Unknown { misses: 0 },
        (_, Some(reason)) => {
            d.rec.health = Health::Paused { reason };
            d.emit(EventKind::HealthMonitoringPaused { reason: reason.name().to_owned() });
        }
        (_, None) => {}
    }
}

/// A probe was made.
pub(crate) fn probed(d: &mut Draft, probe: ProbeKind, verdict: ProbeVerdict) -> Verdict {
    if matches!(d.rec.health, Health::Paused { .. }) || matches!(d.rec.operation, Some(Operation::Repair(_))) {
        return Verdict::Ignored(Ignored::Over);
    }
    let before = d.rec.health.clone();
    match verdict {
        ProbeVerdict::Up => answered(d),
        ProbeVerdict::Down { cause } => missed(d, probe, cause),
        // The prober or something above the VM is in doubt: no judgement.
        ProbeVerdict::Inconclusive { .. } => {}
    }
    if d.rec.health == before { Verdict::Ignored(Ignored::Nothing) } else { Verdict::Accepted(None) }
}

fn answered(d: &mut Draft) {
    let needed = d.rec.policy.terms.health.successes;
    match &mut d.rec.health {
        Health::Up | Health::Paused { .. } => {}
        // Judged anew after a pause: the episode before it is over.
        Health::Unknown { .. }
            if d.rec.alerts.iter().any(|open| matches!(open, Alert::RepairExhausted | Alert::RepairHeld)) =>
        {
            recovered(d);
        }
        Health::Unknown { .. } => d.rec.health = Health::Up,
        Health::Suspect { .. } => recovered(d),
        Health::Down { successes, .. } | Health::NeedsOperator { successes, .. } => {
            *successes += 1;
            if *successes >= needed {
                recovered(d);
            }
        }
    }
}

/// The VM lives again; what was raised for it is cleared.
pub(crate) fn recovered(d: &mut Draft) {
    d.rec.health = Health::Up;
    d.emit(EventKind::HealthRecovered);
    d.clear(Alert::RepairExhausted);
    d.clear(Alert::RepairHeld);
}

fn missed(d: &mut Draft, probe: ProbeKind, cause: String) {
    let needed = d.rec.policy.terms.health.failures;
    let misses = match &mut d.rec.health {
        Health::Down { successes, .. } | Health::NeedsOperator { successes, .. } => {
            *successes = 0;
            return;
        }
        Health::Paused { .. } => return,
        Health::Up => 1,
        Health::Unknown { misses } | Health::Suspect { misses } => *misses + 1,
    };
    if misses >= needed {
        down(d, probe, cause);
        return;
    }
    match &mut d.rec.health {
        Health::Unknown { misses: known } | Health::Suspect { misses: known } => *known = misses,
        Health::Up => {
            d.rec.health = Health::Suspect { misses };
            d.emit(EventKind::HealthDegraded { misses });
        }
        Health::Down { .. } | Health::NeedsOperator { .. } | Health::Paused { .. } => {}
    }
}

fn down(d: &mut Draft, probe: ProbeKind, cause: String) {
    let cause = shorten(cause);
    d.emit(EventKind::HealthDown { cause: cause.clone() });
    // Paused and un-paused in the middle of an episode that a human was told of: it is still the human's.
    d.rec.health = if d.rec.alerts.contains(&Alert::RepairExhausted) {
        Health::NeedsOperator { since: d.now, successes: 0 }
    } else {
        Health::Down { since: d.now, cause, probe, successes: 0 }
    };
}

fn shorten(mut cause: String) -> String {
    if cause.len() > MAX_CAUSE {
        let end = (0..=MAX_CAUSE).rev().find(|at| cause.is_char_boundary(*at)).unwrap_or(0);
        cause.truncate(end);
    }
    cause
}

/// `health.report`: somebody outside saw the VM down or up. A report of down is believed at once: the repair tests
/// before and after it acts.
pub(crate) fn report(d: &mut Draft, well: HealthReport) -> Answer {
    if let Health::Paused { reason } = &d.rec.health {
        let message = format!("nobody judges this VM now: {}", reason.name());
        return Err(Refusal::new(RefusalCode::Conflict, message));
    }
    if matches!(d.rec.operation, Some(Operation::Repair(_))) {
        return Err(Refusal::new(RefusalCode::Conflict, "a repair is under way"));
    }
    match well {
        HealthReport::Well => answered(d),
        HealthReport::Down(cause) => {
            if !matches!(d.rec.health, Health::Down { .. } | Health::NeedsOperator { .. }) {
                let probe = d.rec.policy.terms.health.probe;
                down(d, probe, if cause.is_empty() { "reported from outside".into() } else { cause });
            }
        }
    }
    Ok(Accepted { vm: d.rec.vm, message: "reported".into(), ends_at: None, backup: None })
}

/// What somebody outside saw.
pub(crate) enum HealthReport {
    /// It is well.
    Well,
    /// It is down, with the cause.
    Down(String),
}

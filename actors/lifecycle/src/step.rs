//! Dispatch.

use reeve_protocol::Timestamp;

use crate::effect::PendingEffect;
use crate::input::{Reason, Step, VmInput};
use crate::record::VmRecord;

/// Decides.
#[must_use]
pub fn step(record: &VmRecord, input: VmInput, now: Timestamp) -> Step {
    let _ = (input, now);
    Step {
        record: record.clone(),
        changed: false,
        purge: false,
        effects: Vec::new(),
        events: Vec::new(),
        verdict: crate::input::Verdict::Ignored(crate::input::Ignored::Nothing),
    }
}

/// The effects to issue again after a crash.
#[must_use]
pub fn recover(record: &VmRecord, now: Timestamp) -> Vec<PendingEffect> {
    let _ = now;
    record.effects.clone()
}

/// When to wake the record next, and why.
#[must_use]
pub fn next_deadline(record: &VmRecord) -> Option<(Timestamp, Reason)> {
    let _ = record;
    None
}

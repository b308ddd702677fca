//! What a VM does: its life as pure functions of its record, an input and the time.
//!
//! ```text
//! step(&record, input, now) ─► record' + effects + events + verdict
//! recover(&record, now)     ─► effects to issue again
//! next_deadline(&record)    ─► when to wake, and why
//! ```
//!
//! No runtime, no clock, no randomness: the shells bring them as arguments.

pub mod effect;
pub mod input;
pub mod operation;
pub mod policy;
pub mod record;
mod step;

pub use effect::{Done, Effect, EffectKey, Outcome, PendingEffect, ProbeVerdict, Worker};
pub use input::{Ignored, Reason, Step, Verdict, VmInput};
pub use policy::{NamedPolicy, Policies, Policy};
pub use record::VmRecord;
pub use step::{next_deadline, recover, step};

//! What a VM does: its life as pure functions of its record, an input and the time.
//!
//! ```text
//! step(&record, input, now) ─► record' + effects + events + verdict
//! recover(&record, now)     ─► effects to issue again
//! next_deadline(&record)    ─► when to wake, and why
//! confirm(&mut record, n)   ─► the outbox without what the bus has taken
//! ```
//!
//! No runtime, no clock, no randomness: the shells bring them as arguments.

mod action;
mod backup;
mod backup_schedule;
mod command;
mod draft;
pub mod effect;
mod ending;
mod extend;
pub mod format;
mod health;
pub mod input;
pub mod invariants;
mod lease;
mod lease_commands;
mod observe;
pub mod offered;
pub mod operation;
mod outcome;
pub mod policy;
mod provision;
pub mod record;
mod repair;
mod retention;
mod reverify;
mod revive;
mod step;

pub use lease::offer;

pub use effect::{Done, Effect, EffectKey, Outcome, PendingEffect, ProbeVerdict, Worker};
pub use input::{Admission, Ignored, Reason, Step, Verdict, VmInput};
pub use observe::{OWNER_KEY, REVIVED_FROM_KEY};
pub use offered::{Extendable, offered};
pub use policy::{NamedPolicy, Policies, Policy};
pub use record::VmRecord;
pub use step::{TOMBSTONE_FOR, confirm, confirmed, next_deadline, recover, step};

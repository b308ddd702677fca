//! Harness, scenarios, chaos, simulation and tidy checks.

pub mod harness;
pub mod simulation;

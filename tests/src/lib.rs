//! Harness, scenarios, chaos, simulation and tidy checks.

pub mod chaos;
pub mod harness;
pub mod nobody;
pub mod sim_cloud;
pub mod simulation;

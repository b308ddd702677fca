//! The actor shells with the embedded engine and the simulated cloud: whatever is killed, nothing acknowledged is lost
//! and nothing is done twice.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy, and fail the test that calls them")]

mod backup;
mod changes;
mod chaos;
mod clock;
mod cold_start;
mod council;
mod events;
mod faulty;
mod guard;
mod hand_over;
mod holds;
mod intake;
mod links;
mod loading;
mod outage;
mod ownership;
mod perform;
mod perform_bench;
mod poison;
mod probing;
mod provision;
mod realm;
mod restore;
mod rules;
mod store;
mod supervision;
mod takeover;
mod tenants;
mod world;

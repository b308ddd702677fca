//! The actor shells with the embedded engine and the simulated cloud: whatever is killed, nothing acknowledged is lost
//! and nothing is done twice.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy, and fail the test that calls them")]

mod chaos;
mod clock;
mod intake;
mod store;
mod world;

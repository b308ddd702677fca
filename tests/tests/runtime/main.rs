//! The actor shells with the embedded engine and the simulated cloud: whatever is killed, nothing acknowledged is lost
//! and nothing is done twice.

mod chaos;
mod clock;
mod intake;
mod store;
mod world;

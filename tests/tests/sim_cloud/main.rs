//! The simulated OpenStack and the driver that speaks to it: the ports' suites over HTTP, and what goes wrong on a wire.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy, and fail the test that calls them")]

mod bulk;
mod downloads;
mod ends;
mod faults;
mod fixture;
mod history;
mod images;
mod limits;
mod listing;
mod live;
mod notifications;
mod outage;
mod performing;
mod provision;
mod session;
mod suites;
mod versions;

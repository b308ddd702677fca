//! The simulated OpenStack and the driver that speaks to it: the ports' suites over HTTP, and what goes wrong on a wire.

mod bulk;
mod faults;
mod fixture;
mod history;
mod limits;
mod listing;
mod notifications;
mod outage;
mod session;
mod suites;
mod versions;

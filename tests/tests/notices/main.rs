//! Notices over real channels: a real mail server, a web service that checks every signature, and the page behind a link.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy, and fail the test that calls them")]

mod email;
mod fixture;
mod outage;
mod page;
mod webhook;

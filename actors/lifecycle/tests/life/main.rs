//! The rules of a VM's life, each a test whose name states it. One binary, so that the helpers are built once.

#![expect(clippy::unwrap_used, reason = "a helper that cannot build what a test needs fails the test")]

mod backup;
mod commands;
mod common;
mod deadlines;
mod ending;
mod extension;
mod format;
mod health;
mod holds;
mod lease;
mod notices;
mod observation_order;
mod operations;
mod properties;
mod provision;
mod repair;
mod retention;
mod reverify;
mod revive;

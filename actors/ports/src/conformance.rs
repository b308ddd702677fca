//! One suite per port; every implementation runs all of it.

pub mod bus;
pub mod cloud;
pub mod coordination;
pub mod notifier;
pub mod probe;
pub mod provision;
pub mod store;
pub mod vault;

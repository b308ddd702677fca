//! One suite per port; every implementation runs all of it.

pub mod bus;
pub mod coordination;
pub mod store;

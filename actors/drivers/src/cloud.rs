//! Clouds.

pub mod sim;

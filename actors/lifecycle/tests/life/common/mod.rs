//! A world of one VM: it applies steps, checks every invariant after each, and plays the workers.

mod build;
mod world;

pub(crate) use build::*;
pub(crate) use world::World;

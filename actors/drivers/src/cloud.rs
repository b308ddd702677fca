//! Clouds.

pub mod openstack;
pub mod sim;

/// Metadata key on a VM that was restored in place: the operation that did it last.
pub const RESTORED_BY_KEY: &str = "reeve_restored_by";

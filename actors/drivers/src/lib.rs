//! Implementations of the outward ports: clouds, vaults, notifiers, probes.

pub mod cloud;
pub mod notifier;
pub mod vault;

pub use cloud::openstack::{OpenStackCloud, OpenStackConfig};
pub use cloud::sim::{SimCloud, SimConfig};
pub use notifier::{FanOut, LogNotifier, MemoryNotifier};
pub use vault::OpendalVault;

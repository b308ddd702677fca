//! The traits through which Reeve meets the world. Each has a conformance suite in [`conformance`] (feature
//! `conformance`) that every implementation runs, the real servers too.

pub mod admin;
pub mod bus;
pub mod clock;
pub mod cloud;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod coordination;
pub mod notifier;
pub mod peers;
pub mod probe;
pub mod store;
pub mod vault;

pub use admin::AdminService;
pub use bus::{Address, Bus, BusError, Consumer, DeadLetter, Delivery, Message, Queue, Settlement};
pub use clock::{Clock, Sleep, SystemClock};
pub use cloud::{Cloud, CloudError};
pub use coordination::Coordination;
pub use notifier::Notifier;
pub use peers::{NoPeers, Peers};
pub use probe::{Freshness, GuestProbe};
pub use store::{RecordStore, StoreError, Write};
pub use vault::{Vault, VaultError};

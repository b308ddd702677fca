//! Chaos: a whole cluster of processes, faults drawn from a seed, owners who go on asking, and a checker that reads the
//! history of it all.
//!
//! ```text
//! seed ─► schedule ─► faults ─► etcd ×3, RabbitMQ ×3, nodes ×3, proxies, clocks, disks
//!                                  ▲                │            │
//! owners, guests, users ───────────┘                ▼            ▼
//!                                     history (one file): commands, calls, events, faults, ownership
//!                                                   │
//!                                                   ▼
//!                                   checker (pure): rules broken ─► report, exit status
//! ```
//!
//! The checker reads the file alone, so `reeve-chaos check FILE` judges a kept history again.

pub mod asker;
pub mod attendance;
pub mod checker;
pub mod clock;
pub mod cloud;
pub mod commander;
pub mod disk;
pub mod driver;
pub mod failover;
pub mod faults;
pub mod history;
pub mod listener;
pub mod member;
pub mod options;
pub mod ownership;
pub mod people;
pub mod report;
pub mod roles;
pub mod rolling;
pub mod run;
pub mod settings;
pub mod settle;
pub mod stage;

pub use run::judge;

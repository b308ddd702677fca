//! The seeded simulation: whole lives of VMs on one thread and a clock of its own, the real core and the real performer
//! of effects between a simulated cloud, a vault, scripted people and a node that dies.
//!
//! ```text
//! people, fate ─► cloud ─► notifications ─► bus ─► node: step ─► commit ─► effects ─► cloud, vault, letters
//!      └────────────── commands ────────────┘        │  crash here, come back from the stored bytes
//!                                                    ▼
//!                      oracle: a slow model of each lease, and the truth in the cloud
//! ```
//!
//! Everything follows from the seed: who does what, which task goes on, which call fails, when the node dies. The same
//! seed gives the same log, byte by byte. What is here in place of the product is the shell of actors; the scenarios
//! and the chaos tests run that.

mod bus;
mod chance;
mod clock;
mod cloud;
mod commit;
mod executor;
mod faults;
mod finish;
mod life;
mod model;
mod node;
mod oracle;
mod people;
mod policies;
mod scenario;
mod vault;
mod words;
mod world;

pub use self::faults::{Faults, Port, Trouble};
pub use self::scenario::{Crashes, Failure, Report, Scenario};

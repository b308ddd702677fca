//! `reeve-sim-cloud`: one simulated cloud for all nodes of a cluster, in a process that survives them.
//!
//! ```text
//! nodes ── REST (Keystone, Nova, Glance, Cinder, Neutron) ─┐
//! chaos ── REST (/sim) ────────────────────────────────────┴─► SimCloud ─┬─► journal in --data
//!                                                                        ├─► history: each change, who called
//!                                                                        └─► Nova's notifications ─► RabbitMQ
//! ```
//!
//! The cloud is [`reeve_drivers::SimCloud`]; here is only its face. Who calls is told by the header `X-Reeve-Node`, else
//! by `node/NAME` in the user agent, else by the user of the token. An answer that the cloud loses is lost on the wire:
//! the connection is closed.
//!
//! What differs from a real OpenStack, so that nobody is surprised: a server that was launched with
//! `reeve_revived_from` in its metadata belongs to the project and user of that ancestor; `os-reimage` and
//! `os-volume_upload_image` work on attached volumes; the state of a guest that hangs or boots is told by the
//! diagnostics as `crashed` or `pending`; uploaded images live in
//! memory; there is one image, flavor, key pair and zone for plans ([`reeve_drivers::cloud::sim::catalog`]).

mod auth;
mod cinder;
mod client;
mod control;
mod firewall;
mod glance;
mod listing;
mod neutron;
mod nova;
mod offers;
mod publisher;
mod record;
mod reply;
mod server;

pub use client::SimControl;
pub use control::{Afflict, Booted, Counts, HttpFault, NewVm, OrderFault, SimVmView};
pub use server::{Microversions, SimCloudOptions, SimCloudServer};

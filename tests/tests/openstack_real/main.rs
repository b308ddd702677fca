//! Reeve beside a real OpenStack, whose servers are made, watched and listed by its plain client.
//!
//! `live_openstack_…` needs the fake hypervisor alone. `live_guest_…` needs Neutron and Cinder beside, and real guests
//! under emulation; `tests/run --long` runs them too.

mod crashes;
mod fixture;
mod guest;
mod held;
mod leases;
mod life;
mod request;

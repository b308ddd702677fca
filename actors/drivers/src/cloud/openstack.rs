//! OpenStack, by its REST: Keystone v3, Nova, Glance, Cinder and Neutron.
//!
//! ```text
//! call ─► permit ─► gate ─► ticket (token, catalog) ─► microversion ─► request ─┬─ 2xx ─► answer
//!           ▲        ▲          │ one login at a time                           ├─ 401 ─► the ticket is thrown away, once again
//!           │        │          ▼                                               ├─ no connection ─► Unavailable
//!  max_concurrent  breaker   Keystone                                           └─ lost, 5xx ─► a look: Unavailable,
//!                                                                                               a change: Unknown
//! ```
//!
//! A service that fails as a whole is left alone for a while, and so is one that asks for it by `Retry-After` (`gate`).
//!
//! Every call has a time-out, every body a bound. Nothing is tried twice but a request that a stale token kept from
//! being looked at, and a page of the listing that probes share: whoever calls looks first, and then again. What a launch
//! or a restore needs (images, a port, public addresses) is named by its operation and looked for before it is made, so that
//! a second attempt finds the first one's.
//!
//! A server that is made from a plan is made part by part (`parts`): whoever calls looks for a part, makes it, and looks
//! again. What there is two of because an answer was lost is reduced to one (`twins`). Everything is taken back by its tag,
//! and what a server leaves by a note (`removal`).
//!
//! The probe `cloud` of a VM that is up is answered by a listing that all of them share, one an interval. It is asked by
//! itself once the listing shows anything else.
//!
//! ```text
//!        probe of a VM ─► the shared view ─┬─ up, and seen within the interval ─────────────► up
//!                          ▲               ├─ its host or cell does not answer ─────────────► inconclusive
//!   one call a page,       │               ├─ anything else, or asked for now ─► GET the VM ─► what that says
//!   one sweep at a time ───┘               └─ too old ─► a sweep ─► the shared view
//! ```
//!
//! What it does not do: it needs the right to list the servers of all projects; a server that it launches belongs to the
//! project and user of its own credentials; a snapshot of an attached volume needs Cinder's `enable_force_upload`; a
//! volume is put back in place only where Cinder takes `os-reimage` while it is attached.
//!
//! It never logs a token or a password, and it never follows a redirect, which would carry the token elsewhere.

mod actions;
mod answer;
mod api;
mod ask;
mod breaker;
mod bulk;
mod calls;
mod catalog;
mod clients;
mod config;
mod console;
mod content;
mod firewall;
mod format;
mod gate;
mod images;
mod launch;
mod login;
mod network;
mod pages;
mod parts;
mod plan;
mod probe;
mod quota;
mod removal;
mod rest;
mod server;
mod session;
mod sweep;
mod time;
mod twins;
mod version;
mod view;

use std::sync::Arc;

use reeve_ports::Clock;
use reeve_protocol::CloudName;

use self::api::Api;
use self::bulk::Bulk;

pub use self::config::{
    Interface, OpenStackConfig, OpenStackConfigError, default_connect_timeout, default_max_concurrent, default_page,
    default_timeout,
};
pub use self::gate::Outages;
pub use self::launch::operation_tag;
pub use self::login::{Credential, Domain, Login, OpenStackAuth, Reference};

/// Why the driver could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenStackError {
    /// A key is out of its limits.
    #[error("openstack")]
    Config(#[from] OpenStackConfigError),
    /// The file of certificates cannot be used.
    #[error("cacert {path}: {why}")]
    Certificates {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        why: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

/// A cloud that speaks OpenStack's REST. Cheap to share through an [`Arc`].
pub struct OpenStackCloud {
    api: Arc<Api>,
    bulk: Bulk,
}

impl OpenStackCloud {
    /// A driver that has not logged in yet: it does so with the first call. The process must have installed a default
    /// provider of cryptography for rustls.
    ///
    /// # Errors
    /// [`OpenStackError`] when the configuration cannot be.
    pub fn new(
        name: CloudName,
        config: OpenStackConfig,
        clock: Arc<dyn Clock>,
        user_agent: &str,
    ) -> Result<Self, OpenStackError> {
        config.validate()?;
        let api = Arc::new(Api::new(name, config, clock, user_agent)?);
        Ok(Self { bulk: Bulk::new(Arc::clone(&api)), api })
    }

    /// Which services of the cloud do not answer, now and from now on.
    #[must_use]
    pub fn outages(&self) -> tokio::sync::watch::Receiver<Outages> {
        self.api.gate.outages()
    }
}

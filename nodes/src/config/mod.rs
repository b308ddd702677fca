//! The configuration of a node: one TOML file, refused as a whole when a key in it is unknown or makes no sense.
//!
//! ```text
//! file text ─► TOML table ─► environment REEVE__SECTION__KEY over it ─► sections ─► checks ─► Config
//! ```
//!
//! Every complaint names the key, the file and the line (or the variable), and what was expected. Sections and drivers
//! that belong to later versions are refused: an operator must not believe that something works which does not.

mod check;
mod cluster;
mod environment;
mod http;
mod notify;
mod openstack;
mod openstack_auth;
mod openstack_clouds;
mod pem;
mod problem;
mod provision;
mod read;
mod runtime;
mod secret;
mod sections;
mod vault;

pub use check::folder_url;
pub(crate) use check::{is_host_port, is_plain_name};
pub use cluster::{ClusterSection, RpcSection};
pub use http::HttpSection;
pub use notify::{EmailSection, LinkSection, NotifySection, WebhookSection};
pub use openstack::{OpenStackProblem, OpenStackSection, Why};
pub use openstack_auth::AuthSection;
pub(crate) use pem::certified;
pub use pem::{Credential, PemFile};
pub use problem::{ConfigError, Problem};
pub use provision::ProvisionSection;
pub use read::{Checked, inspect, load, parse, with_defaults};
pub use runtime::{CapsSection, ClockSection, RuntimeSection, TimeoutsSection};
pub use secret::{Password, Revealed, Secret, SecretError, mask_url};
pub use sections::{
    BusSection, CloudSection, Config, Driver, LogFormat, LogSection, NodeSection, NotificationFormat,
    NotificationsSection,
};
pub use vault::{VaultKeySection, VaultSection};

//! Implementations of the outward ports: clouds, vaults, notifiers, probes.

pub mod cloud;
pub mod notifier;
pub mod vault;

pub use cloud::openstack::{OpenStackCloud, OpenStackConfig};
pub use cloud::sim::{SimCloud, SimConfig};
pub use notifier::email::{EmailConfig, EmailNotifier, SmtpLogin, SmtpTls};
pub use notifier::signature::WebhookSecret;
pub use notifier::templates::{TemplateError, Templates};
pub use notifier::webhook::{WebhookConfig, WebhookNotifier};
pub use notifier::wording::{Links, Wording};
pub use notifier::{FanOut, LogNotifier, MemoryNotifier, SettingError};
pub use vault::OpendalVault;

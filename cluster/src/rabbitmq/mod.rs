//! The bus on RabbitMQ (3.10 and later), with lapin over rustls.
//!
//! ```text
//!                       ┌─ Link "publish" ── Publisher: channels with confirms
//!   RabbitBus ── stop ──┤                       ▲ dead letters
//!                       └─ Link "consume" ──┬─ RabbitConsumer (task + inbox) each
//!                                           ├─ keep_bound for each intake
//!                                           └─ Graveyard and history, on channels of their own
//! ```
//!
//! Two connections, because a broker short of memory or disk stops reading from those that publish, and
//! acknowledgements must get through then. Each is kept up by its own task, with the next broker of the list when one
//! fails; nothing here fails for good while the broker is away, and nothing is queued: a publish waits at most its
//! timeout, and whoever published tries again.
//!
//! lapin itself logs at ERROR when a connection is lost, and at WARN with the whole body when a message is returned, so
//! a node must switch the target `lapin` off in its log filter; what matters is logged here, without bodies.
//!
//! Never: declares a cloud's exchange or queue, consumes one, puts a message back with `nack`, shows the password.

mod ack;
mod acks;
mod audit;
mod backoff;
mod broker_url;
mod bus;
mod channel;
mod config;
mod consumer;
mod dead;
mod dial;
mod grave;
mod inbox;
mod intake;
mod link;
mod publisher;
mod rotation;
mod topology;
mod wire;

pub use broker_url::{BrokerUrl, BrokerUrlError};
pub use bus::{BusStatus, LinkStatus, RabbitBus};
pub use config::{Authority, IntakeConfig, RabbitConfig, RabbitConfigError};
pub use intake::IntakeStatus;

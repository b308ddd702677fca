//! A private RabbitMQ broker with its own data, node name, cookie, ports and epmd.
//!
//! ```text
//! start ──► running ──stop──► stopped ──restart──► running
//!              └──kill──────────┘
//! ```
//!
//! The data outlives `stop` and `kill` and goes with the value, so after a restart durable queues are back with their
//! persistent messages, and transient exchanges are gone. The port stays the same over a restart.
//!
//! [`RabbitCluster`] is several of them that share their queues.
//!
//! It never touches a broker of the machine: it reads no file below `/etc/rabbitmq` and signals only the processes it
//! has started.

use std::path::Path;
use std::time::Duration;

use super::certificates::Certificates;
use super::ports::Port;
use super::process::ChildGuard;

mod broker;
mod cluster;

use broker::{Broker, Family, Tls, data_folder, start_epmd};
pub use cluster::RabbitCluster;

/// How long RabbitMQ needs to bring a new quorum queue's replica to disk: its registry (ra's `names.dets`) is saved
/// every 500 ms, whatever was confirmed. Measured with 3.10.8.
pub const REGISTRATION_FLUSH: Duration = Duration::from_millis(1_500);

/// More than any disk has free.
const FULL: &str = "1000000GB";
/// What the configuration says.
const FREE: &str = "50MB";

/// A RabbitMQ broker for one test; dropping it ends the broker and removes its data.
#[derive(Debug)]
pub struct RabbitMq {
    // Declaration order is drop order: the broker with its data, then the epmd it is registered with.
    broker: Broker,
    _epmd: ChildGuard,
    _family: Family,
}

impl RabbitMq {
    /// Starts a broker and waits until it speaks AMQP.
    ///
    /// # Errors
    /// When RabbitMQ is not installed, ends early, or is not ready within 60 s; the end of its log is in the message.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_in(data_folder()?, None).await
    }

    /// As [`RabbitMq::start`], with a TLS listener beside the plain one.
    ///
    /// # Errors
    /// As [`RabbitMq::start`].
    pub async fn start_tls() -> anyhow::Result<Self> {
        let folder = data_folder()?;
        let tls = Tls { port: Port::reserve()?, certificates: Certificates::create(folder.path())? };
        Self::start_in(folder, Some(tls)).await
    }

    /// The URL of the plain listener, virtual host `/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.broker.amqp())
    }

    /// The URL of the TLS listener.
    ///
    /// # Panics
    /// When the broker was not started with [`RabbitMq::start_tls`].
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}/%2f", self.tls().port.number())
    }

    /// The certificate of the authority that signed the TLS listener's.
    ///
    /// # Panics
    /// When the broker was not started with [`RabbitMq::start_tls`].
    #[must_use]
    pub fn ca_pem_path(&self) -> &Path {
        self.tls().certificates.ca()
    }

    /// The last lines of the broker's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.broker.log_tail()
    }

    /// Shuts the broker down in good order; a broker that is already down is no error.
    ///
    /// # Errors
    /// When it has not ended after 30 s; it is killed then.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.broker.stop().await
    }

    /// Ends the broker with SIGKILL, as a crash would.
    ///
    /// Wait [`REGISTRATION_FLUSH`] after declaring a quorum queue: a broker killed earlier keeps the queue, but no
    /// replica can lead it, and consumers time out after a minute.
    pub fn kill(&mut self) {
        self.broker.kill();
    }

    /// Starts the broker again on the same ports and data; stops it in good order first where it runs.
    ///
    /// # Errors
    /// As [`RabbitMq::stop`] and [`RabbitMq::start`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.broker.stop().await?;
        self.broker.launch()?;
        self.broker.await_ready().await
    }

    /// Raises the disk alarm, as a full disk does: publishers are blocked until [`RabbitMq::free_disk`].
    ///
    /// # Errors
    /// When the broker does not take the command.
    pub async fn fill_disk(&self) -> anyhow::Result<()> {
        self.broker.ctl(&["set_disk_free_limit", FULL]).await.map(drop)
    }

    /// Ends the disk alarm.
    ///
    /// # Errors
    /// When the broker does not take the command.
    pub async fn free_disk(&self) -> anyhow::Result<()> {
        self.broker.ctl(&["set_disk_free_limit", FREE]).await.map(drop)
    }

    async fn start_in(folder: tempfile::TempDir, tls: Option<Tls>) -> anyhow::Result<Self> {
        let family = Family::new()?;
        let epmd = start_epmd(folder.path(), family.epmd.number()).await?;
        let mut broker = Broker::prepare(folder, &family, tls)?;
        broker.launch()?;
        broker.await_ready().await?;
        Ok(Self { broker, _epmd: epmd, _family: family })
    }

    fn tls(&self) -> &Tls {
        self.broker.tls().expect("the broker was started with start_tls")
    }
}

//! Several brokers that share their queues, on one machine.
//!
//! ```text
//! start ──► running ──hold──► held (SIGSTOP) ──go_on──► running
//!              ├──kill, stop──► down ──restart──► running, joined again by itself
//!              └── dropped: killed, the data removed
//! ```
//!
//! Quorum queues declared here have a replica on each of up to five members. A minority that is cut off pauses, as the
//! runbook wants it; a held member is noticed by the others after about ten seconds.

use rustix::process::Signal;

use super::broker::{Broker, Family, data_folder, start_epmd};
use super::{FREE, FULL};
use crate::harness::process::ChildGuard;

/// A cluster of RabbitMQ brokers; dropping it ends them and removes their data.
#[derive(Debug)]
pub struct RabbitCluster {
    // Declaration order is drop order: the brokers with their data, then the epmd they are registered with.
    members: Vec<Broker>,
    _epmd: ChildGuard,
    _family: Family,
    _folder: tempfile::TempDir,
}

impl RabbitCluster {
    /// Starts so many brokers and waits until all have joined.
    ///
    /// # Errors
    /// When RabbitMQ is not installed, or a broker ends early or is not ready within 60 s; the end of its log is in the
    /// message.
    pub async fn start(members: usize) -> anyhow::Result<Self> {
        anyhow::ensure!(members > 0, "a cluster has at least one broker");
        let folder = data_folder()?;
        let mut family = Family::new()?;
        let epmd = start_epmd(folder.path(), family.epmd.number()).await?;
        let mut first = Broker::prepare(data_folder()?, &family, None)?;
        first.launch()?;
        first.await_ready().await?;
        family.first = Some(first.node().to_owned());
        let mut cluster = Self { members: vec![first], _epmd: epmd, _family: family, _folder: folder };
        for _ in 1..members {
            // One after the other: two that join at once wait for each other's locks.
            let mut next = Broker::prepare(data_folder()?, &cluster._family, None)?;
            next.launch()?;
            next.await_ready().await?;
            cluster.members.push(next);
        }
        Ok(cluster)
    }

    /// How many brokers it has, running or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The URL of one broker, virtual host `/`.
    #[must_use]
    pub fn url(&self, member: usize) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address(member))
    }

    /// The URLs of all, in their order.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        (0..self.size()).map(|member| self.url(member)).collect()
    }

    /// Where a broker listens: what a [`Proxy`](crate::harness::Proxy) stands before.
    #[must_use]
    pub fn address(&self, member: usize) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([127, 0, 0, 1], self.members[member].amqp()))
    }

    /// Ends a broker with SIGKILL, as a crash would; see [`RabbitMq::kill`](super::RabbitMq::kill).
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Shuts a broker down in good order; one that is down already is no error.
    ///
    /// # Errors
    /// When it has not ended after 30 s; it is killed then.
    pub async fn stop(&mut self, member: usize) -> anyhow::Result<()> {
        self.members[member].stop().await
    }

    /// Stops a broker in its tracks: it keeps its connections and does nothing until [`RabbitCluster::go_on`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn hold(&self, member: usize) -> anyhow::Result<()> {
        self.members[member].signal(Signal::STOP)
    }

    /// Lets a held broker go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn go_on(&self, member: usize) -> anyhow::Result<()> {
        self.members[member].signal(Signal::CONT)
    }

    /// Starts a broker again on its data and port, stopped in good order first where it runs.
    ///
    /// # Errors
    /// As [`RabbitCluster::stop`] and [`RabbitCluster::start`].
    pub async fn restart(&mut self, member: usize) -> anyhow::Result<()> {
        let broker = &mut self.members[member];
        broker.stop().await?;
        broker.launch()?;
        broker.await_ready().await
    }

    /// As [`RabbitCluster::restart`] for the brokers that are down, all at once: after an outage each waits for the one
    /// that was the last to end.
    ///
    /// # Errors
    /// As [`RabbitCluster::restart`].
    pub async fn restart_those_down(&mut self) -> anyhow::Result<()> {
        let mut down: Vec<&mut Broker> = self.members.iter_mut().filter(|broker| !broker.runs()).collect();
        for broker in &mut down {
            broker.launch()?;
        }
        for broker in down {
            broker.await_ready().await?;
        }
        Ok(())
    }

    /// Raises the disk alarm of one broker, as a full disk does: publishers of the whole cluster are blocked.
    ///
    /// # Errors
    /// When the broker does not take the command.
    pub async fn fill_disk(&self, member: usize) -> anyhow::Result<()> {
        self.members[member].ctl(&["set_disk_free_limit", FULL]).await.map(drop)
    }

    /// Ends the disk alarm of one broker.
    ///
    /// # Errors
    /// When the broker does not take the command.
    pub async fn free_disk(&self, member: usize) -> anyhow::Result<()> {
        self.members[member].ctl(&["set_disk_free_limit", FREE]).await.map(drop)
    }

    /// The last lines of a broker's log.
    #[must_use]
    pub fn log_tail(&self, member: usize) -> String {
        self.members[member].log_tail()
    }
}

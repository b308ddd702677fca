//! The bulk view of a cloud's servers: one sweep over the listing answers the probes of all VMs ([`super::sweep`] says
//! whom it answers).
//!
//! ```text
//! probe ─► decide ─┬─ answered by the view
//!                  ├─ a look of its own ─► GET /servers/ID            some at once, the others wait
//!                  └─ a sweep ─► a task: rest, GET /servers/detail page by page ─► all who wait decide again
//! ```
//!
//! A sweep is a task of its own: a prober that gives up takes nothing from those that wait with it. It ends by itself
//! after a while at the latest, and with the driver. A sweep that comes to no end for whatever reason tells so.
//!
//! Where a sweep takes longer than a probe waits, that probe is inconclusive, which changes nothing for a VM that is up;
//! the next probe after the sweep reads what it saw. So a cloud whose listing is slow is judged at the pace of its
//! listing. Each node sweeps for itself: a cluster of n nodes asks n times as much.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reeve_lifecycle::effect::ProbeVerdict;
use reeve_ports::CloudError;
use reeve_ports::probe::Freshness;
use reeve_protocol::VmId;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};

use super::api::{Api, Ask};
use super::session::Service;
use super::sweep::{Next, Question, Sweeps};
use super::view::{GlimpsePage, OneGlimpse, View};

/// Looks may take this part of the calls that are allowed at once, so that work on other VMs goes on.
const LOOKS_SHARE: usize = 4;
/// The longest that a sweep may take.
const SWEEP_LIMIT: Duration = Duration::from_secs(600);
/// The most servers of a view, 20 bytes each. A listing that goes on after that is taken for one without an end.
const MAX_SERVERS: usize = 4_000_000;
/// How often a page is asked for, so that one lost answer does not cost a whole sweep.
const PAGE_TRIES: u32 = 3;
/// The time between two of these.
const PAGE_PAUSE: Duration = Duration::from_secs(1);

/// The view, and who fills it.
pub(super) struct Bulk {
    api: Arc<Api>,
    desk: Arc<Desk>,
    /// The sweep under way. Dropping it ends it.
    task: Mutex<JoinSet<()>>,
}

/// What probers and the sweep share.
struct Desk {
    sweeps: Mutex<Sweeps>,
    /// Changes when a sweep has ended.
    ended: watch::Sender<()>,
    looks: Semaphore,
}

impl Desk {
    fn sweeps(&self) -> MutexGuard<'_, Sweeps> {
        // No change of it can panic half-way.
        self.sweeps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look that was granted; it is over when this is dropped, however it ended.
struct Looking<'a>(&'a Desk);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.sweeps().looked();
    }
}

/// A sweep that was begun; it has ended when this is dropped, however it ended.
struct Sweeping {
    api: Arc<Api>,
    desk: Arc<Desk>,
    told: bool,
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Err("it was broken off".to_owned()));
        }
    }
}

impl Bulk {
    pub(super) fn new(api: Arc<Api>) -> Self {
        let at_once = usize::from(api.config.max_concurrent).div_ceil(LOOKS_SHARE);
        let desk = Desk {
            sweeps: Mutex::new(Sweeps::new(at_once)),
            ended: watch::Sender::new(()),
            looks: Semaphore::new(at_once),
        };
        Self { api, desk: Arc::new(desk), task: Mutex::default() }
    }

    /// What the cloud says of a VM.
    pub(super) async fn cloud_view(&self, vm: VmId, freshness: Freshness) -> Result<ProbeVerdict, CloudError> {
        let question = Question::new(vm, freshness, self.api.clock.elapsed());
        // From before the decision, so that no end is missed.
        let mut ended = self.desk.ended.subscribe();
        loop {
            let next = self.desk.sweeps().next(&question, self.api.clock.elapsed());
            match next {
                Next::Answer(verdict) => return Ok(verdict),
                Next::Look => return self.look(vm).await,
                Next::Sweep => self.sweep(),
                Next::Wait => {}
            }
            // Whoever tells lives as long as this.
            let _ = ended.changed().await;
        }
    }

    async fn look(&self, vm: VmId) -> Result<ProbeVerdict, CloudError> {
        let _looking = Looking(&self.desk);
        let _permit = self.desk.looks.acquire().await;
        let answer = self.api.ask(Ask::get(Service::Compute, format!("/servers/{vm}"))).await?;
        Ok(answer.json::<OneGlimpse>()?.server.sight().verdict())
    }

    fn sweep(&self) {
        let mut sweeping = Sweeping { api: Arc::clone(&self.api), desk: Arc::clone(&self.desk), told: false };
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // The one before has ended, or no other would have begun.
        while task.try_join_next().is_some() {}
        task.spawn(async move {
            sweeping.rest().await;
            let swept = tokio::time::timeout(SWEEP_LIMIT, sweeping.run()).await;
            let swept = swept.unwrap_or_else(|_| Err(CloudError::Unavailable("it takes too long".to_owned())));
            if let Err(error) = &swept {
                tracing::warn!(cloud = %sweeping.api.name, %error, "the servers cannot be listed for their probes");
            }
            sweeping.tell(swept.map_err(|error| error.to_string()));
        });
    }
}

impl Sweeping {
    fn tell(&mut self, result: Result<View, String>) {
        self.told = true;
        self.desk.sweeps().ended(result, self.api.clock.elapsed());
        self.desk.ended.send_replace(());
    }

    async fn rest(&self) {
        let clock = &self.api.clock;
        loop {
            let rest = self.desk.sweeps().rest(clock.elapsed());
            if rest.is_zero() {
                return;
            }
            clock.sleep(rest).await;
        }
    }

    async fn run(&self) -> Result<View, CloudError> {
        let mut view = View::new(self.api.clock.elapsed());
        let mut after = None;
        loop {
            after = view.take(&self.page(after).await?);
            if after.is_none() {
                return Ok(view.whole());
            }
            if view.servers() > MAX_SERVERS {
                return Err(CloudError::Unavailable(format!("more than {MAX_SERVERS} servers")));
            }
        }
    }

    async fn page(&self, after: Option<String>) -> Result<GlimpsePage, CloudError> {
        let mut tries = 1;
        loop {
            match self.page_once(after.clone()).await {
                Err(CloudError::Unavailable(_)) if tries < PAGE_TRIES => tries += 1,
                answer => return answer,
            }
            self.api.clock.sleep(PAGE_PAUSE).await;
        }
    }

    async fn page_once(&self, after: Option<String>) -> Result<GlimpsePage, CloudError> {
        let answer = self.api.ask(self.api.page(Ask::servers(), after)).await?;
        // Some milliseconds of work, which the VMs on this thread must not wait for.
        let read = spawn_blocking(move || answer.json()).await;
        read.unwrap_or_else(|_| Err(CloudError::Unavailable("a page cannot be read".to_owned())))
    }
}

//! A cloud that lists the VMs of the store by pages, and does nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_lifecycle::VmRecord;
use reeve_lifecycle::effect::{Disk, Inventory};
use reeve_ports::cloud::{CloudSnapshot, DiskSource, HostHealth, LaunchSpec, ListPage};
use reeve_ports::{Clock, Cloud, CloudError, SystemClock};
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::{Timestamp, VmId};

use super::Make;

/// VMs a page: Nova's own limit.
const PAGE: u64 = 1000;

/// The cloud.
pub(crate) struct ListedCloud {
    vms: u64,
    make: Make,
    now: Timestamp,
    /// How many pages it was asked for.
    pub(crate) pages: AtomicU64,
    /// How many listings came to their end.
    pub(crate) listings: AtomicU64,
}

impl ListedCloud {
    pub(super) fn new(vms: u64, make: Make, now: Timestamp) -> Self {
        Self { vms, make, now, pages: AtomicU64::new(0), listings: AtomicU64::new(0) }
    }
}

/// What a cloud says of the VM of a record.
pub(crate) fn facts_of(record: VmRecord) -> VmFacts {
    let facts = record.facts;
    VmFacts {
        vm: record.vm,
        name: facts.name,
        project: facts.project,
        user: facts.user,
        host: facts.host,
        state: facts.state,
        task: facts.task,
        power: facts.power,
        locked: Some(facts.locked),
        created_at: facts.created_at,
        launched_at: facts.launched_at,
        deleted_at: None,
        metadata: std::collections::BTreeMap::new(),
    }
}

fn nothing<T>() -> Result<T, CloudError> {
    Err(CloudError::Unavailable("nothing is done in this cloud".to_owned()))
}

#[async_trait]
impl Cloud for ListedCloud {
    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let from: u64 = from.and_then(|from| from.parse().ok()).unwrap_or(0);
        let until = (from + PAGE).min(self.vms);
        let vms = (from..until).map(|index| facts_of((self.make)(index, self.now))).collect();
        let next = (until < self.vms).then(|| until.to_string());
        if next.is_none() {
            self.listings.fetch_add(1, Ordering::Relaxed);
        }
        let said = Said { at_us: SystemClock.now().as_millis() * 1000, tie: 0 };
        Ok(ListPage { vms, said, next, complete: true })
    }

    async fn show(&self, _: VmId) -> Result<(VmFacts, Said), CloudError> {
        nothing()
    }

    async fn inventory(&self, _: VmId) -> Result<Inventory, CloudError> {
        nothing()
    }

    async fn start(&self, _: VmId) -> Result<(), CloudError> {
        nothing()
    }

    async fn stop(&self, _: VmId) -> Result<(), CloudError> {
        nothing()
    }

    async fn hard_reboot(&self, _: VmId) -> Result<(), CloudError> {
        nothing()
    }

    async fn suspend(&self, _: VmId) -> Result<(), CloudError> {
        nothing()
    }

    async fn resume(&self, _: VmId) -> Result<(), CloudError> {
        nothing()
    }

    async fn snapshot(&self, _: VmId, _: &Disk, _: &str) -> Result<(), CloudError> {
        nothing()
    }

    async fn find_snapshots(&self, _: VmId, _: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        nothing()
    }

    async fn read_snapshot(&self, _: VmId, _: &str) -> Result<BoxStream<'static, std::io::Result<Bytes>>, CloudError> {
        nothing()
    }

    async fn delete_snapshot(&self, _: VmId, _: &str) -> Result<(), CloudError> {
        nothing()
    }

    async fn delete_server(&self, _: VmId) -> Result<(), CloudError> {
        nothing()
    }

    async fn volume_exists(&self, _: &str) -> Result<bool, CloudError> {
        nothing()
    }

    async fn delete_volume(&self, _: &str) -> Result<(), CloudError> {
        nothing()
    }

    async fn address_held(&self, _: &str) -> Result<bool, CloudError> {
        nothing()
    }

    async fn release_address(&self, _: &str) -> Result<(), CloudError> {
        nothing()
    }

    async fn launch(&self, _: LaunchSpec) -> Result<VmId, CloudError> {
        nothing()
    }

    async fn find_launched(&self, _: &str, _: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        nothing()
    }

    async fn restore_in_place(&self, _: VmId, _: &str, _: Vec<DiskSource>) -> Result<(), CloudError> {
        nothing()
    }

    async fn last_restore(&self, _: VmId) -> Result<Option<String>, CloudError> {
        nothing()
    }

    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError> {
        nothing()
    }
}

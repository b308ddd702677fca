//! The ports as effects reach them: what changes the world is let through only while its owner may act.
//!
//! ```text
//! call ─ the term is handed over ─► waits for its own end, which is near
//!   └─ the right to act has lapsed ─► unavailable: nothing is sent, the attempt is made again
//!        └─ sent, and counted ─► answered
//!                   └─ the right lapses, or the term ends ─► dropped ─ a call's time later ─► unknown: the next
//!                                                                      attempt looks first
//! ```
//!
//! A call is no single request: a disk streams for minutes, and a launch is several requests in a row. So the right is
//! asked for again whenever the call goes on, not only when it begins: the shard may have a new owner by then, and what
//! is sent beside it cannot be fenced. Dropping the call ends its stream and keeps its next request from being sent; what
//! was sent before may have had its effect. A right lapses by the clock and tells nobody, so a call that waits is looked
//! after at an interval that is shorter than the least margin by which the right ends before the lease does.
//!
//! A call that was dropped may still be carried out, for as long as its answer would have been awaited. Nothing is told of
//! it before that, because whoever looks sooner may find nothing and do it again. A new owner waits as long before it
//! repeats anything.
//!
//! Looks pass. Whoever performs an effect sees nothing but these, so no act goes around them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use reeve_lifecycle::effect::{Disk, Inventory, StoredDisk};
use reeve_ports::cloud::{Blueprint, CloudSnapshot, DiskSource, HostHealth, LaunchSpec, ListPage, PartState};
use reeve_ports::notifier::{Letter, NotifierError};
use reeve_ports::vault::{BackupPath, Manifest, Verification};
use reeve_ports::{Clock, Cloud, CloudError, Notifier, Vault, VaultError};
use reeve_protocol::observation::{Said, VmFacts};
use reeve_protocol::provision::{Part, ServerPlan};
use reeve_protocol::{BackupId, CloudName, Timestamp, VmId};
use tokio::sync::watch;

use super::Ownership;
use super::wait::pause;

/// How often the right to act is looked at while a call waits: below the least margin of a right.
const LOOK_EVERY: Duration = Duration::from_millis(50);

type Content = BoxStream<'static, std::io::Result<Bytes>>;

/// The calls of one term that change the world: how many are on their way, and whether more may begin.
#[derive(Debug, Default)]
pub struct Acts(watch::Sender<UnderWay>);

#[derive(Debug, Clone, Copy, Default)]
struct UnderWay {
    acts: usize,
    closed: bool,
}

/// A call that is on its way.
struct Act<'a>(&'a Acts);

impl Acts {
    fn begin(&self) -> Option<Act<'_>> {
        let begun = self.0.send_if_modified(|now| {
            now.acts += usize::from(!now.closed);
            !now.closed
        });
        begun.then(|| Act(self))
    }

    /// From now on none begins.
    pub(crate) fn close(&self) {
        self.0.send_modify(|now| now.closed = true);
    }

    /// Waits until none is on its way.
    pub(crate) async fn over(&self) {
        let mut receiver = self.0.subscribe();
        let over = receiver.wait_for(|now| now.acts == 0).await;
        over.expect("the sender lives in self, which this future borrows");
    }
}

impl Drop for Act<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|now| now.acts -= 1);
    }
}

/// Why a call did not come to its end.
enum Barred {
    /// The right had lapsed before: nothing was sent.
    Before,
    /// It lapsed, or the term ended, while the call was under way.
    During,
}

impl Barred {
    /// In the words of the port: its error for what had no effect, and for what may have had one.
    fn told<E>(&self, unavailable: impl FnOnce(String) -> E, unknown: impl FnOnce(String) -> E) -> E {
        match self {
            Self::Before => unavailable("this node's right to act has lapsed".to_owned()),
            Self::During => unknown("this node's right to act has ended during the call".to_owned()),
        }
    }
}

/// Lets calls through while their owner may act.
#[derive(Clone)]
pub(super) struct Guard {
    ownership: Arc<Ownership>,
    clock: Arc<dyn Clock>,
    /// How long a call that was dropped may still be carried out.
    lands_within: Duration,
}

impl Guard {
    pub(super) fn new(ownership: &Arc<Ownership>, clock: &Arc<dyn Clock>, lands_within: Duration) -> Self {
        Self { ownership: Arc::clone(ownership), clock: Arc::clone(clock), lands_within }
    }

    fn holds(&self) -> bool {
        self.ownership.coordination.holds(self.ownership.shard, self.ownership.epoch)
    }

    /// Returns when the right is seen to have ended.
    async fn ended(&self) {
        while self.holds() {
            pause(self.clock.as_ref(), LOOK_EVERY).await;
        }
    }

    async fn act<T>(&self, call: impl Future<Output = T>) -> Result<T, Barred> {
        let answer = self.through(call).await;
        if matches!(answer, Err(Barred::During)) {
            // Not counted any more: a hand-over does not wait for this.
            pause(self.clock.as_ref(), self.lands_within).await;
        }
        answer
    }

    async fn through<T>(&self, call: impl Future<Output = T>) -> Result<T, Barred> {
        let Some(_act) = self.ownership.acts.begin() else {
            // The task is about to be ended; any answer would be taken for the outcome of an attempt.
            return std::future::pending().await;
        };
        if !self.holds() {
            return Err(Barred::Before);
        }
        let (mut call, mut ended) = (pin!(call), pin!(self.ended()));
        // In this order: what an answer wakes up may be about to send the next request.
        poll_fn(|cx| {
            if !self.holds() {
                return Poll::Ready(Err(Barred::During));
            }
            if let Poll::Ready(answer) = call.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            ended.as_mut().poll(cx).map(|()| Err(Barred::During))
        })
        .await
    }
}

/// A cloud.
pub(super) struct GuardedCloud {
    inner: Arc<dyn Cloud>,
    guard: Guard,
}

impl GuardedCloud {
    pub(super) fn new(inner: Arc<dyn Cloud>, guard: Guard) -> Self {
        Self { inner, guard }
    }

    async fn act<T>(&self, call: impl Future<Output = Result<T, CloudError>>) -> Result<T, CloudError> {
        let answer = self.guard.act(call).await;
        answer.unwrap_or_else(|barred| Err(barred.told(CloudError::Unavailable, CloudError::Unknown)))
    }
}

#[async_trait]
impl Cloud for GuardedCloud {
    async fn list(&self, from: Option<String>) -> Result<ListPage, CloudError> {
        self.inner.list(from).await
    }
    async fn changed(&self, since: Timestamp, from: Option<String>) -> Result<Option<ListPage>, CloudError> {
        self.inner.changed(since, from).await
    }
    async fn show(&self, vm: VmId) -> Result<(VmFacts, Said), CloudError> {
        self.inner.show(vm).await
    }
    async fn inventory(&self, vm: VmId) -> Result<Inventory, CloudError> {
        self.inner.inventory(vm).await
    }
    async fn start(&self, vm: VmId) -> Result<(), CloudError> {
        self.act(self.inner.start(vm)).await
    }
    async fn stop(&self, vm: VmId) -> Result<(), CloudError> {
        self.act(self.inner.stop(vm)).await
    }
    async fn hard_reboot(&self, vm: VmId) -> Result<(), CloudError> {
        self.act(self.inner.hard_reboot(vm)).await
    }
    async fn last_reboot(&self, vm: VmId) -> Result<Option<Timestamp>, CloudError> {
        self.inner.last_reboot(vm).await
    }
    async fn suspend(&self, vm: VmId) -> Result<(), CloudError> {
        self.act(self.inner.suspend(vm)).await
    }
    async fn resume(&self, vm: VmId) -> Result<(), CloudError> {
        self.act(self.inner.resume(vm)).await
    }
    async fn snapshot(&self, vm: VmId, disk: &Disk, name: &str) -> Result<(), CloudError> {
        self.act(self.inner.snapshot(vm, disk, name)).await
    }
    async fn find_snapshots(&self, vm: VmId, name: &str) -> Result<Vec<CloudSnapshot>, CloudError> {
        self.inner.find_snapshots(vm, name).await
    }
    async fn read_snapshot(&self, vm: VmId, id: &str) -> Result<Content, CloudError> {
        self.inner.read_snapshot(vm, id).await
    }
    async fn delete_snapshot(&self, vm: VmId, id: &str) -> Result<(), CloudError> {
        self.act(self.inner.delete_snapshot(vm, id)).await
    }
    async fn delete_server(&self, vm: VmId) -> Result<(), CloudError> {
        self.act(self.inner.delete_server(vm)).await
    }
    async fn volume_exists(&self, volume: &str) -> Result<bool, CloudError> {
        self.inner.volume_exists(volume).await
    }
    async fn delete_volume(&self, volume: &str) -> Result<(), CloudError> {
        self.act(self.inner.delete_volume(volume)).await
    }
    async fn address_held(&self, address: &str) -> Result<bool, CloudError> {
        self.inner.address_held(address).await
    }
    async fn release_address(&self, address: &str) -> Result<(), CloudError> {
        self.act(self.inner.release_address(address)).await
    }
    async fn launch(&self, spec: LaunchSpec) -> Result<VmId, CloudError> {
        self.act(self.inner.launch(spec)).await
    }
    async fn find_launched(&self, operation: &str, since: Timestamp) -> Result<Vec<VmFacts>, CloudError> {
        self.inner.find_launched(operation, since).await
    }
    async fn restore_in_place(&self, vm: VmId, operation: &str, disks: Vec<DiskSource>) -> Result<(), CloudError> {
        self.act(self.inner.restore_in_place(vm, operation, disks)).await
    }
    async fn drop_sources(&self, operation: &str) -> Result<(), CloudError> {
        self.act(self.inner.drop_sources(operation)).await
    }
    async fn last_restore(&self, vm: VmId) -> Result<Option<String>, CloudError> {
        self.inner.last_restore(vm).await
    }
    async fn check_plan(&self, plan: &ServerPlan) -> Result<(), CloudError> {
        self.inner.check_plan(plan).await
    }
    async fn find_part(&self, blueprint: &Blueprint, part: Part) -> Result<PartState, CloudError> {
        // It may remove what is there twice.
        self.act(self.inner.find_part(blueprint, part)).await
    }
    async fn make_part(&self, blueprint: &Blueprint, part: Part) -> Result<(), CloudError> {
        self.act(self.inner.make_part(blueprint, part)).await
    }
    async fn remove_parts(&self, operation: &str) -> Result<bool, CloudError> {
        self.act(self.inner.remove_parts(operation)).await
    }
    async fn remove_remains(&self, vm: VmId) -> Result<bool, CloudError> {
        self.act(self.inner.remove_remains(vm)).await
    }
    async fn console(&self, vm: VmId) -> Result<String, CloudError> {
        self.inner.console(vm).await
    }
    async fn hosts(&self) -> Result<Vec<HostHealth>, CloudError> {
        self.inner.hosts().await
    }
}

/// A vault.
pub(super) struct GuardedVault {
    inner: Arc<dyn Vault>,
    guard: Guard,
}

impl GuardedVault {
    pub(super) fn new(inner: Arc<dyn Vault>, guard: Guard) -> Self {
        Self { inner, guard }
    }

    async fn act<T>(&self, call: impl Future<Output = Result<T, VaultError>>) -> Result<T, VaultError> {
        let answer = self.guard.act(call).await;
        answer.unwrap_or_else(|barred| Err(barred.told(VaultError::Unavailable, VaultError::Unknown)))
    }
}

#[async_trait]
impl Vault for GuardedVault {
    async fn store(&self, path: &BackupPath, disk: &Disk, content: Content) -> Result<StoredDisk, VaultError> {
        self.act(self.inner.store(path, disk, content)).await
    }
    async fn seal(&self, path: &BackupPath, manifest: &Manifest) -> Result<(), VaultError> {
        self.act(self.inner.seal(path, manifest)).await
    }
    async fn manifest(&self, path: &BackupPath) -> Result<Manifest, VaultError> {
        self.inner.manifest(path).await
    }
    async fn verify(&self, path: &BackupPath) -> Result<Verification, VaultError> {
        self.inner.verify(path).await
    }
    async fn read(&self, path: &BackupPath, name: &str) -> Result<Content, VaultError> {
        self.inner.read(path, name).await
    }
    async fn delete(&self, path: &BackupPath) -> Result<(), VaultError> {
        self.act(self.inner.delete(path)).await
    }
    async fn list(&self, cloud: &CloudName, vm: VmId) -> Result<Vec<BackupId>, VaultError> {
        self.inner.list(cloud, vm).await
    }
}

/// The way to people.
pub(super) struct GuardedNotifier {
    inner: Arc<dyn Notifier>,
    guard: Guard,
}

impl GuardedNotifier {
    pub(super) fn new(inner: Arc<dyn Notifier>, guard: Guard) -> Self {
        Self { inner, guard }
    }
}

#[async_trait]
impl Notifier for GuardedNotifier {
    async fn deliver(&self, letter: &Letter) -> Result<(), NotifierError> {
        let answer = self.guard.act(self.inner.deliver(letter)).await;
        answer.unwrap_or_else(|barred| Err(barred.told(NotifierError::Unavailable, NotifierError::Unknown)))
    }
}

#[cfg(test)]
mod tests;

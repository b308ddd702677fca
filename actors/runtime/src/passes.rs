//! How many backups are under way at once: on one host, in one cloud, on this node.
//!
//! ```text
//! inventory ─ takes host, cloud, node ─► snapshots ─ gives back the host ─► disks stored
//!      ─ gives back the cloud ─► sealed, read back ─ gives back the node
//! ```
//!
//! A backup keeps its pass from one step to the next. If each step queued anew, the disks of one VM would be snapshotted
//! hours apart behind the first disks of all others, and the cloud would fill with snapshots that wait to be stored.
//!
//! A pass is never stored. It is with the attempt or, between two of them, with the VM's backup worker, and goes with
//! either: after a failure, which queues anew, at an abort, a hand-over and a crash. Whoever waits is served in the order
//! of asking. All take host, cloud and node in this order, so none waits for another in a circle, and a crowded host keeps
//! no place of its cloud or of the node from the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reeve_lifecycle::Effect;
use reeve_protocol::{CloudName, HostName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Caps;

/// What a step of a backup burdens, most first. Each burdens what the next does, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Burden {
    /// The host, its cloud and this node: snapshots, and what comes before them.
    Host,
    /// The cloud and this node: a disk on its way into the vault.
    Cloud,
    /// This node: what is read back from the vault.
    Node,
}

impl Burden {
    /// What an effect burdens as a step of a backup, or of its verification; nothing if it is none.
    pub(crate) const fn of(effect: &Effect) -> Option<Self> {
        match effect {
            Effect::TakeInventory | Effect::SnapshotDisk { .. } => Some(Self::Host),
            Effect::StoreDisk { .. } => Some(Self::Cloud),
            Effect::SealBackup { .. } | Effect::VerifyBackup { .. } => Some(Self::Node),
            Effect::Notify { .. }
            | Effect::Start
            | Effect::Stop
            | Effect::HardReboot
            | Effect::Suspend
            | Effect::Resume
            | Effect::DropSnapshots { .. }
            | Effect::DeleteBackup { .. }
            | Effect::DeleteServer
            | Effect::DeleteVolume { .. }
            | Effect::ReleaseAddress { .. }
            | Effect::RestoreInPlace { .. }
            | Effect::Launch { .. }
            | Effect::Introduce { .. }
            | Effect::CheckPlan
            | Effect::MakePart { .. }
            | Effect::AwaitReady { .. }
            | Effect::TakeBack
            | Effect::Report { .. }
            | Effect::Retest { .. } => None,
        }
    }
}

/// The right of one backup to be under way.
#[derive(Debug)]
pub(crate) struct Pass {
    burden: Burden,
    host: Option<OwnedSemaphorePermit>,
    cloud: Option<OwnedSemaphorePermit>,
    _node: OwnedSemaphorePermit,
}

impl Pass {
    /// This pass for a step that burdens no more than the one before: what it no longer needs goes to others.
    fn narrowed(mut self, to: Burden) -> Self {
        if to > Burden::Host {
            self.host = None;
        }
        if to > Burden::Cloud {
            self.cloud = None;
        }
        self.burden = to;
        self
    }
}

/// Where somebody waits for a place.
type Places = Arc<Semaphore>;

/// Gives passes.
pub(crate) struct Passes {
    node: Places,
    clouds: BTreeMap<CloudName, Places>,
    hosts: Hosts,
}

impl Passes {
    pub(crate) fn new<'a>(clouds: impl Iterator<Item = &'a CloudName>, caps: &Caps) -> Self {
        let cloud = || Arc::new(Semaphore::new(caps.backups_per_cloud.max(1)));
        Self {
            node: Arc::new(Semaphore::new(caps.backups.max(1))),
            clouds: clouds.map(|name| (name.clone(), cloud())).collect(),
            hosts: Hosts::new(caps.backups_per_host),
        }
    }

    /// Where a step queues that has no pass.
    pub(crate) fn queue(&self, burden: Burden, cloud: &CloudName, host: Option<&HostName>) -> Queue {
        let host = host.filter(|_| burden == Burden::Host).map(|host| self.hosts.of(cloud, host));
        let cloud = self.clouds.get(cloud).filter(|_| burden <= Burden::Cloud).cloned();
        Queue { burden, host, cloud, node: Arc::clone(&self.node) }
    }

    /// The places of the node: what restores a VM takes one of them as well.
    pub(crate) fn node(&self) -> Arc<Semaphore> {
        Arc::clone(&self.node)
    }
}

/// The way to a pass.
pub(crate) struct Queue {
    burden: Burden,
    host: Option<Places>,
    cloud: Option<Places>,
    node: Places,
}

impl Queue {
    /// The pass that the step before left, if it is enough, or a new one.
    pub(crate) async fn pass(self, kept: Option<Pass>) -> Pass {
        // One that is not enough goes first: whoever waits with places that come later in the order may wait in a circle.
        if let Some(kept) = kept.filter(|kept| kept.burden <= self.burden) {
            return kept.narrowed(self.burden);
        }
        let host = place(self.host).await;
        let cloud = place(self.cloud).await;
        let node = self.node.acquire_owned().await.expect("the places of a node are never closed");
        Pass { burden: self.burden, host, cloud, _node: node }
    }
}

async fn place(places: Option<Places>) -> Option<OwnedSemaphorePermit> {
    match places {
        Some(places) => Some(places.acquire_owned().await.expect("places are never closed")),
        None => None,
    }
}

/// The places of hosts, each known while somebody has or awaits one of them.
pub(crate) struct Hosts {
    each: usize,
    known: Mutex<BTreeMap<(CloudName, HostName), Weak<Semaphore>>>,
}

impl Hosts {
    /// So many places each.
    pub(crate) fn new(each: usize) -> Self {
        Self { each: each.max(1), known: Mutex::default() }
    }

    /// The places of a host.
    pub(crate) fn of(&self, cloud: &CloudName, host: &HostName) -> Arc<Semaphore> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, places| places.strong_count() > 0);
        let key = (cloud.clone(), host.clone());
        if let Some(places) = known.get(&key).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(self.each));
        known.insert(key, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn cloud(name: &str) -> CloudName {
        CloudName::new(name).unwrap()
    }

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    /// Two clouds: three backups on the node, two in a cloud, one on a host.
    fn passes() -> Passes {
        let caps = Caps { backups: 3, backups_per_cloud: 2, backups_per_host: 1, ..Caps::default() };
        Passes::new([cloud("a"), cloud("b")].iter(), &caps)
    }

    /// Somebody asks for a pass.
    fn asks(passes: &Passes, burden: Burden, of: &str, on: &str) -> BoxFuture<'static, Pass> {
        passes.queue(burden, &cloud(of), Some(&host(on))).pass(None).boxed()
    }

    fn gets(waiting: &mut BoxFuture<'static, Pass>) -> Option<Pass> {
        waiting.now_or_never()
    }

    #[test]
    fn a_host_a_cloud_and_the_node_have_so_many_backups_at_once_and_no_more() {
        let passes = passes();
        let first = gets(&mut asks(&passes, Burden::Host, "a", "h1")).unwrap();
        assert!(gets(&mut asks(&passes, Burden::Host, "a", "h1")).is_none(), "the host has one");
        let _same_name = gets(&mut asks(&passes, Burden::Host, "b", "h1")).expect("a host of another cloud is another");
        let _second = gets(&mut asks(&passes, Burden::Host, "a", "h2")).unwrap();
        assert!(gets(&mut asks(&passes, Burden::Host, "a", "h3")).is_none(), "the cloud has two");
        assert!(gets(&mut asks(&passes, Burden::Host, "b", "h2")).is_none(), "the node has three");
        drop(first);
        assert!(gets(&mut asks(&passes, Burden::Host, "b", "h2")).is_some());
    }

    #[test]
    fn whoever_waits_for_a_host_keeps_no_place_of_the_cloud_or_the_node() {
        let passes = passes();
        let _first = gets(&mut asks(&passes, Burden::Host, "a", "h1")).unwrap();
        let mut crowd: Vec<_> = (0..5).map(|_| asks(&passes, Burden::Host, "a", "h1")).collect();
        assert!(crowd.iter_mut().all(|waiting| gets(waiting).is_none()));
        assert!(gets(&mut asks(&passes, Burden::Host, "a", "h2")).is_some());
    }

    #[test]
    fn a_place_goes_to_who_asked_first_and_one_who_gives_up_is_passed_over() {
        let passes = passes();
        let held = gets(&mut asks(&passes, Burden::Host, "a", "h1")).unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| asks(&passes, Burden::Host, "a", "h1")).collect();
        assert!(waiting.iter_mut().all(|one| gets(one).is_none()));
        drop(waiting.remove(0));
        drop(held);
        assert!(gets(&mut waiting[1]).is_none(), "another asked before");
        let served = gets(&mut waiting[0]).unwrap();
        assert!(gets(&mut waiting[1]).is_none());
        drop(served);
        assert!(gets(&mut waiting[1]).is_some());
    }

    #[test]
    fn a_backup_goes_on_with_its_pass_and_gives_back_what_it_no_longer_needs() {
        let passes = passes();
        let next = |burden, kept| passes.queue(burden, &cloud("a"), Some(&host("h1"))).pass(Some(kept)).boxed();
        let pass = gets(&mut asks(&passes, Burden::Host, "a", "h1")).unwrap();
        // Others wait; none of them comes between the disks of one VM.
        let mut other = asks(&passes, Burden::Host, "a", "h1");
        assert!(gets(&mut other).is_none());
        let pass = gets(&mut next(Burden::Host, pass)).unwrap();
        assert!(gets(&mut other).is_none());
        let pass = gets(&mut next(Burden::Cloud, pass)).unwrap();
        let _other = gets(&mut other).expect("the host is free while a disk is stored");
        let mut third = asks(&passes, Burden::Host, "a", "h2");
        assert!(gets(&mut third).is_none(), "the cloud is not");
        let pass = gets(&mut next(Burden::Node, pass)).unwrap();
        let third = gets(&mut third).expect("the cloud is free while the backup is read back");
        assert!(gets(&mut asks(&passes, Burden::Node, "b", "h1")).is_none(), "the node is not");
        drop((pass, third));
        assert!(gets(&mut asks(&passes, Burden::Node, "b", "h1")).is_some());
    }

    #[test]
    fn a_pass_that_is_not_enough_is_given_back_before_another_is_awaited() {
        let passes = passes();
        let narrow = gets(&mut asks(&passes, Burden::Node, "a", "h1")).unwrap();
        let _one = gets(&mut asks(&passes, Burden::Host, "a", "h1")).unwrap();
        let mut wide = passes.queue(Burden::Host, &cloud("a"), Some(&host("h1"))).pass(Some(narrow)).boxed();
        assert!(gets(&mut wide).is_none());
        let _two = gets(&mut asks(&passes, Burden::Node, "a", "h1")).unwrap();
        assert!(gets(&mut asks(&passes, Burden::Node, "a", "h1")).is_some(), "the narrow one was given back");
    }

    #[test]
    fn a_host_that_nobody_uses_is_forgotten() {
        let hosts = Hosts::new(1);
        let places = hosts.of(&cloud("a"), &host("h1"));
        assert!(Arc::ptr_eq(&places, &hosts.of(&cloud("a"), &host("h1"))));
        drop(places);
        let _other = hosts.of(&cloud("a"), &host("h2"));
        assert_eq!(hosts.known.lock().unwrap().len(), 1);
    }
}

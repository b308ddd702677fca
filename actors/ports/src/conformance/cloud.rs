//! What every [`Cloud`] must do. Level-triggered: the suite looks before and after, as Reeve does.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use reeve_lifecycle::effect::{Disk, Inventory};
use reeve_protocol::observation::{Said, VmFacts, VmState};
use reeve_protocol::provision::ServerPlan;
use reeve_protocol::{BackupId, Timestamp, VmId};
use uuid::Uuid;

use crate::cloud::{
    Cloud, CloudError, DiskSource, LaunchSpec, OPERATION_KEY, REVIVED_FROM_KEY, SnapshotState, snapshot_name,
};

/// How often the suite looks again before it gives up.
pub(super) const MAX_LOOKS: usize = 600;
/// The most pages that a listing of a test's cloud has.
const MAX_PAGES: usize = 1_000;

/// A cloud under test.
#[async_trait]
pub trait CloudFixture: Send + Sync {
    /// The cloud.
    fn cloud(&self) -> Arc<dyn Cloud>;

    /// Makes a VM as a user would, with at least one volume of its own and one public address. Need not wait for it.
    async fn boot(&self, name: &str) -> VmId;

    /// A plan of what the cloud has: with a public address, at least one volume and at least one rule.
    fn plan(&self) -> ServerPlan;

    /// Lets some time pass: the cloud's own, or real time.
    async fn wait(&self);
}

/// Runs the whole suite.
///
/// # Panics
/// When the cloud breaks a rule; the message says which.
pub async fn run(fixture: &dyn CloudFixture) {
    what_is_not_there_is_not_found(fixture).await;
    a_listing_shows_every_vm_once(fixture).await;
    what_changed_is_told_and_what_went_with_it(fixture).await;
    power_goes_off_and_on(fixture).await;
    it_suspends_and_resumes(fixture).await;
    a_hard_reboot_ends_active(fixture).await;
    a_snapshot_is_found_read_and_removed(fixture).await;
    a_vm_is_restored_in_place(fixture).await;
    a_launch_is_found_by_its_operation(fixture).await;
    a_deleted_vm_leaves_nothing(fixture).await;
    hosts_are_told(fixture).await;
    super::provision::run(fixture).await;
}

async fn show(fixture: &dyn CloudFixture, vm: VmId) -> (VmFacts, Said) {
    fixture.cloud().show(vm).await.unwrap_or_else(|why| panic!("show of {vm}: {why}"))
}

async fn until<F: Fn(&VmFacts) -> bool>(fixture: &dyn CloudFixture, vm: VmId, what: &str, reached: F) -> VmFacts {
    for _ in 0..MAX_LOOKS {
        let (facts, _) = show(fixture, vm).await;
        if reached(&facts) {
            return facts;
        }
        fixture.wait().await;
    }
    panic!("{vm} never became {what}: {:?}", show(fixture, vm).await.0)
}

pub(super) async fn until_settled(fixture: &dyn CloudFixture, vm: VmId, state: VmState) -> VmFacts {
    until(fixture, vm, state.as_nova(), |facts| facts.state == state && facts.task.is_none()).await
}

async fn booted(fixture: &dyn CloudFixture, name: &str) -> VmId {
    let vm = fixture.boot(name).await;
    until_settled(fixture, vm, VmState::Active).await;
    vm
}

pub(super) async fn inventory(fixture: &dyn CloudFixture, vm: VmId) -> Inventory {
    fixture.cloud().inventory(vm).await.unwrap_or_else(|why| panic!("inventory of {vm}: {why}"))
}

/// Reads a whole stream.
async fn bytes_of(mut stream: BoxStream<'static, std::io::Result<Bytes>>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.expect("the content of a ready snapshot is read without error"));
    }
    all
}

fn source(disk: Disk, content: Vec<u8>) -> DiskSource {
    let bytes = content.len() as u64;
    DiskSource { disk, bytes, content: stream::iter([Ok(Bytes::from(content))]).boxed() }
}

/// Takes a snapshot, waits for it, and gives its id and content.
async fn take_snapshot(fixture: &dyn CloudFixture, vm: VmId, disk: &Disk) -> (String, Vec<u8>) {
    let cloud = fixture.cloud();
    let name = snapshot_name(BackupId::new(Uuid::new_v4()), disk);
    let before = cloud.find_snapshots(vm, &name).await.expect("snapshots are looked for");
    assert!(before.is_empty(), "a snapshot by a new name is there already: {before:?}");
    cloud.snapshot(vm, disk, &name).await.expect("a snapshot begins");
    for _ in 0..MAX_LOOKS {
        let found = cloud.find_snapshots(vm, &name).await.expect("snapshots are looked for");
        assert!(found.len() <= 1, "one call made {} snapshots", found.len());
        if let Some(snapshot) = found.first() {
            match &snapshot.state {
                SnapshotState::Pending => {}
                SnapshotState::Failed(why) => panic!("snapshot of {disk:?} failed: {why}"),
                SnapshotState::Ready { bytes } => {
                    let stream = cloud.read_snapshot(vm, &snapshot.id).await.expect("a ready snapshot is read");
                    let content = bytes_of(stream).await;
                    assert_eq!(content.len() as u64, *bytes, "a snapshot has the size that it says");
                    return (snapshot.id.clone(), content);
                }
            }
        }
        fixture.wait().await;
    }
    panic!("a snapshot of {disk:?} never became ready")
}

async fn what_is_not_there_is_not_found(fixture: &dyn CloudFixture) {
    let cloud = fixture.cloud();
    let nobody = VmId::new(Uuid::new_v4());
    let calls = [
        ("show", cloud.show(nobody).await.err()),
        ("inventory", cloud.inventory(nobody).await.err()),
        ("start", cloud.start(nobody).await.err()),
        ("stop", cloud.stop(nobody).await.err()),
        ("hard_reboot", cloud.hard_reboot(nobody).await.err()),
        ("delete_server", cloud.delete_server(nobody).await.err()),
        ("delete_snapshot", cloud.delete_snapshot(nobody, &Uuid::new_v4().to_string()).await.err()),
    ];
    for (call, answer) in calls {
        assert!(matches!(answer, Some(CloudError::NotFound(_))), "{call} of no VM: {answer:?}");
    }
    assert_eq!(cloud.volume_exists(&Uuid::new_v4().to_string()).await, Ok(false), "a volume that never was");
    let found = cloud.find_launched("no such operation", Timestamp::EPOCH).await;
    assert_eq!(found, Ok(Vec::new()), "an operation that never was");
}

async fn a_listing_shows_every_vm_once(fixture: &dyn CloudFixture) {
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(booted(fixture, &format!("listed-{n}")).await);
    }
    let cloud = fixture.cloud();
    let mut seen = Vec::new();
    let mut from = None;
    for page in 0.. {
        assert!(page < MAX_PAGES, "a listing never ends");
        let listed = cloud.list(from).await.expect("a listing");
        assert!(listed.complete, "a listing of a healthy cloud is complete");
        seen.extend(listed.vms);
        from = listed.next;
        if from.is_none() {
            break;
        }
    }
    for vm in made {
        let found: Vec<_> = seen.iter().filter(|facts| facts.vm == vm).collect();
        assert_eq!(found.len(), 1, "{vm} is listed {} times", found.len());
        let (shown, _) = show(fixture, vm).await;
        assert_eq!(*found[0], shown, "a listing and a look say the same of a VM at rest");
    }
    let (_, first) = show(fixture, seen[0].vm).await;
    let (_, second) = show(fixture, seen[0].vm).await;
    assert!(first <= second, "what is said later is said later");
}

/// Where the cloud tells at all.
async fn what_changed_is_told_and_what_went_with_it(fixture: &dyn CloudFixture) {
    let (stays, goes) = (booted(fixture, "changes-stays").await, booted(fixture, "changes-goes").await);
    let before = show(fixture, stays).await.1.at();
    let cloud = fixture.cloud();
    cloud.delete_server(goes).await.expect("a VM is deleted");
    for _ in 0..MAX_LOOKS {
        let Some(changed) = changed_since(&*cloud, Timestamp::EPOCH).await else { return };
        assert!(changed.iter().any(|facts| facts.vm == stays), "what came is told");
        if changed.iter().any(|facts| facts.vm == goes && facts.state == VmState::Deleted) {
            let hence = Timestamp::from_millis(before.as_millis() + 86_400_000);
            assert_eq!(changed_since(&*cloud, hence).await, Some(Vec::new()), "what changed before is not told");
            return;
        }
        fixture.wait().await;
    }
    panic!("{goes} is never told to be deleted");
}

async fn changed_since(cloud: &dyn Cloud, since: Timestamp) -> Option<Vec<VmFacts>> {
    let (mut all, mut from) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page = cloud.changed(since, from).await.expect("what changed is asked for")?;
        all.extend(page.vms);
        from = page.next;
        if from.is_none() {
            return Some(all);
        }
    }
    panic!("more than {MAX_PAGES} pages")
}

async fn power_goes_off_and_on(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "powered").await;
    let cloud = fixture.cloud();
    cloud.stop(vm).await.expect("a running VM is stopped");
    until_settled(fixture, vm, VmState::Stopped).await;
    let again = cloud.stop(vm).await;
    assert!(matches!(again, Ok(()) | Err(CloudError::Refused(_))), "stop of a stopped VM: {again:?}");
    until_settled(fixture, vm, VmState::Stopped).await;
    cloud.start(vm).await.expect("a stopped VM is started");
    until_settled(fixture, vm, VmState::Active).await;
}

async fn it_suspends_and_resumes(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "suspended").await;
    let cloud = fixture.cloud();
    cloud.suspend(vm).await.expect("a running VM is suspended");
    until_settled(fixture, vm, VmState::Suspended).await;
    cloud.resume(vm).await.expect("a suspended VM is resumed");
    until_settled(fixture, vm, VmState::Active).await;
}

async fn a_hard_reboot_ends_active(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "rebooted").await;
    fixture.cloud().hard_reboot(vm).await.expect("a running VM is rebooted");
    until_settled(fixture, vm, VmState::Active).await;
}

async fn a_snapshot_is_found_read_and_removed(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "snapshotted").await;
    let cloud = fixture.cloud();
    let volume = inventory(fixture, vm).await.volumes.first().expect("a booted VM has a volume").id.clone();
    for disk in [Disk::Root, Disk::Volume(volume)] {
        let (id, content) = take_snapshot(fixture, vm, &disk).await;
        let stream = cloud.read_snapshot(vm, &id).await.expect("a snapshot is read again");
        assert_eq!(bytes_of(stream).await, content, "a snapshot of {disk:?} reads the same twice");
        cloud.delete_snapshot(vm, &id).await.expect("a snapshot is removed");
        gone_snapshot(fixture, vm, &id).await;
    }
    until_settled(fixture, vm, VmState::Active).await;
}

async fn gone_snapshot(fixture: &dyn CloudFixture, vm: VmId, id: &str) {
    for _ in 0..MAX_LOOKS {
        if matches!(fixture.cloud().read_snapshot(vm, id).await, Err(CloudError::NotFound(_))) {
            let again = fixture.cloud().delete_snapshot(vm, id).await;
            assert!(matches!(again, Ok(()) | Err(CloudError::NotFound(_))), "removing what is gone: {again:?}");
            return;
        }
        fixture.wait().await;
    }
    panic!("snapshot {id} was removed and is still there")
}

async fn a_vm_is_restored_in_place(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "restored").await;
    let cloud = fixture.cloud();
    assert_eq!(cloud.last_restore(vm).await, Ok(None), "a new VM was never restored");
    let (_, mut content) = take_snapshot(fixture, vm, &Disk::Root).await;
    until_settled(fixture, vm, VmState::Active).await;
    content.reverse();
    let operation = Uuid::new_v4().to_string();
    let disks = vec![source(Disk::Root, content.clone())];
    cloud.restore_in_place(vm, &operation, disks).await.expect("a VM is restored");
    until_settled(fixture, vm, VmState::Active).await;
    assert_eq!(cloud.last_restore(vm).await, Ok(Some(operation)), "a restore is known by its operation");
    let (_, now) = take_snapshot(fixture, vm, &Disk::Root).await;
    assert!(now == content, "a restored disk holds what it was restored to");
    until_settled(fixture, vm, VmState::Active).await;
    cloud.stop(vm).await.expect("a VM is stopped");
    until_settled(fixture, vm, VmState::Stopped).await;
    let operation = Uuid::new_v4().to_string();
    let disks = vec![source(Disk::Root, content)];
    cloud.restore_in_place(vm, &operation, disks).await.expect("a VM that is off is restored");
    assert_eq!(cloud.last_restore(vm).await, Ok(Some(operation)));
    until_settled(fixture, vm, VmState::Stopped).await;
}

async fn a_launch_is_found_by_its_operation(fixture: &dyn CloudFixture) {
    let ancestor = booted(fixture, "ancestor").await;
    let cloud = fixture.cloud();
    let (old, _) = show(fixture, ancestor).await;
    let (_, root) = take_snapshot(fixture, ancestor, &Disk::Root).await;
    let operation = Uuid::new_v4().to_string();
    let metadata = BTreeMap::from([
        (OPERATION_KEY.to_owned(), operation.clone()),
        (REVIVED_FROM_KEY.to_owned(), ancestor.to_string()),
    ]);
    let data: Vec<u8> = (0..4_096_u32).map(|n| (n % 251) as u8).collect();
    let disks = vec![source(Disk::Root, root.clone()), source(Disk::Volume("old".to_owned()), data.clone())];
    let spec =
        LaunchSpec { name: "successor".to_owned(), metadata: metadata.clone(), like: ancestor, addresses: 1, disks };
    let made = cloud.launch(spec).await.expect("a VM is launched");
    let since = old.created_at.unwrap_or(Timestamp::EPOCH);
    let launched = async || {
        let found = cloud.find_launched(&operation, since).await.expect("a launch is looked for");
        found.into_iter().map(|facts| (facts.vm, facts.state == VmState::Deleted)).collect::<Vec<_>>()
    };
    assert_eq!(launched().await, [(made, false)], "a launch is found by its operation");
    let facts = until_settled(fixture, made, VmState::Active).await;
    assert_ne!(made, ancestor, "a launch makes a new VM");
    assert_eq!((facts.name.as_str(), &facts.project, &facts.user), ("successor", &old.project, &old.user));
    for (key, value) in &metadata {
        assert_eq!(facts.metadata.get(key), Some(value), "metadata {key} of a launched VM");
    }
    let inventory = inventory(fixture, made).await;
    assert_eq!((inventory.volumes.len(), inventory.addresses.len()), (1, 1), "{inventory:?}");
    assert!(inventory.volumes[0].own, "a launched VM's volume is its own");
    let (_, now) = take_snapshot(fixture, made, &Disk::Root).await;
    assert!(now == root, "a launched root disk holds what it was launched from");
    let (_, now) = take_snapshot(fixture, made, &Disk::Volume(inventory.volumes[0].id.clone())).await;
    assert!(now == data, "a launched volume holds what it was launched from");
    cloud.delete_server(made).await.expect("a launched VM is deleted");
    until_gone(fixture, made).await;
    assert_eq!(launched().await, [(made, true)], "a launch is found when its VM is gone");
}

pub(super) async fn until_gone(fixture: &dyn CloudFixture, vm: VmId) {
    let cloud = fixture.cloud();
    let mut looks = 0;
    while !matches!(cloud.show(vm).await, Err(CloudError::NotFound(_))) {
        looks += 1;
        assert!(looks < MAX_LOOKS, "{vm} was deleted and is still there");
        fixture.wait().await;
    }
}

async fn a_deleted_vm_leaves_nothing(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "deleted").await;
    let cloud = fixture.cloud();
    let inventory = inventory(fixture, vm).await;
    assert!(!inventory.addresses.is_empty(), "a booted VM has an address");
    let own: Vec<_> = inventory.volumes.iter().filter(|volume| volume.own).collect();
    assert!(!own.is_empty(), "a booted VM has a volume of its own");
    cloud.delete_server(vm).await.expect("a VM is deleted");
    until_gone(fixture, vm).await;
    let again = cloud.delete_server(vm).await;
    assert!(matches!(again, Err(CloudError::NotFound(_))), "deleting what is gone: {again:?}");
    for volume in own {
        if cloud.volume_exists(&volume.id).await.expect("a volume is looked for") {
            cloud.delete_volume(&volume.id).await.expect("a free volume is deleted");
        }
        let mut looks = 0;
        while cloud.volume_exists(&volume.id).await.expect("a volume is looked for") {
            looks += 1;
            assert!(looks < MAX_LOOKS, "volume {} was deleted and is still there", volume.id);
            fixture.wait().await;
        }
    }
    for address in &inventory.addresses {
        assert_eq!(cloud.address_held(address).await, Ok(true), "an address stays until it is given back");
        cloud.release_address(address).await.expect("an address is given back");
        assert_eq!(cloud.address_held(address).await, Ok(false), "an address that was given back is free");
        let again = cloud.release_address(address).await;
        assert!(matches!(again, Ok(()) | Err(CloudError::NotFound(_))), "giving back what is free: {again:?}");
    }
}

async fn hosts_are_told(fixture: &dyn CloudFixture) {
    let vm = booted(fixture, "hosted").await;
    let host = show(fixture, vm).await.0.host.expect("a running VM has a host");
    let hosts = fixture.cloud().hosts().await.expect("hosts are told");
    let found = hosts.iter().find(|health| health.host == host);
    assert!(found.is_some_and(|health| health.up), "the host of a running VM is up: {found:?}");
}

//! States, guests, listings, determinism, the audit.

use reeve_lifecycle::effect::Disk;
use reeve_ports::CloudError;
use reeve_ports::cloud::{DiskSource, LaunchSpec, OPERATION_KEY};
use reeve_protocol::observation::VmState;

use super::*;

#[test]
fn the_same_seed_makes_the_same_cloud() {
    let tell = |seed: u64| {
        let fixture = Fixture::with(SimConfig { seed, ..config() });
        let vm = fixture.first();
        block_on(fixture.cloud.stop(vm)).unwrap();
        fixture.later();
        let truths: Vec<_> = fixture.cloud.vm_ids().into_iter().map(|vm| format!("{:?}", fixture.truth(vm))).collect();
        (truths, format!("{:?}", fixture.cloud.audit()))
    };
    assert_eq!(tell(5), tell(5));
    assert_ne!(tell(5), tell(6));
}

#[test]
fn a_task_is_done_when_its_time_has_come_and_not_before() {
    let power = [Span::from_millis(100), Span::from_millis(100)];
    let fixture = Fixture::with(SimConfig { power, ..config() });
    let vm = fixture.first();
    block_on(fixture.cloud.stop(vm)).unwrap();
    fixture.clock.step(Duration::from_millis(99));
    let (facts, _) = block_on(fixture.cloud.show(vm)).unwrap();
    assert_eq!((facts.state, facts.task.as_deref()), (VmState::Active, Some("powering-off")));
    fixture.clock.step(Duration::from_millis(1));
    let (facts, _) = block_on(fixture.cloud.show(vm)).unwrap();
    assert_eq!((facts.state, facts.task), (VmState::Stopped, None));
}

#[test]
fn a_hang_is_cured_by_what_cures_it() {
    for (cure, after_reboot, after_restore) in [
        (Cure::Reboot, GuestState::Up, GuestState::Up),
        (Cure::Restore, GuestState::Hung, GuestState::Up),
        (Cure::Never, GuestState::Hung, GuestState::Hung),
    ] {
        let fixture = Fixture::new();
        let vm = fixture.first();
        fixture.cloud.hang_guest(vm, cure).unwrap();
        assert_eq!(fixture.truth(vm).guest, GuestState::Hung);
        block_on(fixture.cloud.hard_reboot(vm)).unwrap();
        assert_eq!(fixture.truth(vm).guest, GuestState::Hung, "a reboot cures when it is done");
        fixture.later();
        assert_eq!(fixture.truth(vm).guest, after_reboot, "{cure:?}");
        block_on(fixture.cloud.restore_in_place(vm, "op", Vec::new())).unwrap();
        fixture.later();
        assert_eq!(fixture.truth(vm).guest, after_restore, "{cure:?}");
    }
}

#[test]
fn a_crashed_guest_is_down_for_the_cloud_too() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    fixture.cloud.crash_guest(vm, Cure::Reboot).unwrap();
    let verdict = block_on(fixture.cloud.probe(vm, None, ProbeKind::Cloud, Freshness::Now, Duration::from_secs(1)));
    assert!(matches!(verdict, ProbeVerdict::Down { .. }), "{verdict:?}");
    block_on(fixture.cloud.hard_reboot(vm)).unwrap();
    fixture.later();
    assert_eq!(block_on(fixture.probed(vm)), ProbeVerdict::Up);
}

#[test]
fn a_blind_prober_and_a_down_cell_judge_nothing() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    fixture.cloud.hang_guest(vm, Cure::Reboot).unwrap();
    fixture.cloud.blind_prober();
    assert!(matches!(block_on(fixture.probed(vm)), ProbeVerdict::Inconclusive { .. }));
    fixture.cloud.unblind_prober();
    fixture.cloud.cell_down(0).unwrap();
    fixture.cloud.cell_down(1).unwrap();
    assert!(matches!(block_on(fixture.probed(vm)), ProbeVerdict::Inconclusive { .. }));
    let page = block_on(fixture.cloud.list(None)).unwrap();
    assert!(!page.complete && page.vms.is_empty(), "a listing without its cells is incomplete");
    assert!(matches!(block_on(fixture.cloud.show(vm)), Err(CloudError::Unavailable(_))), "not shown is not gone");
    fixture.cloud.cell_up(0).unwrap();
    fixture.cloud.cell_up(1).unwrap();
    assert!(block_on(fixture.cloud.list(None)).unwrap().complete);
}

#[test]
fn a_locked_vm_is_not_touched() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    fixture.cloud.lock_vm(vm).unwrap();
    assert!(matches!(block_on(fixture.cloud.delete_server(vm)), Err(CloudError::Refused(_))));
    assert!(matches!(block_on(fixture.cloud.hard_reboot(vm)), Err(CloudError::Refused(_))));
    assert_eq!(fixture.cloud.times_applied(CallKind::DeleteServer, vm), 0);
    fixture.cloud.unlock_vm(vm).unwrap();
    block_on(fixture.cloud.delete_server(vm)).unwrap();
    assert_eq!(fixture.cloud.times_applied(CallKind::DeleteServer, vm), 1);
}

#[test]
fn the_audit_tells_what_had_an_effect_from_what_had_none() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    block_on(fixture.cloud.delete_server(vm)).unwrap();
    block_on(fixture.cloud.delete_server(vm)).unwrap();
    fixture.later();
    assert!(matches!(block_on(fixture.cloud.delete_server(vm)), Err(CloudError::NotFound(_))));
    let deletes: Vec<_> =
        fixture.cloud.audit().into_iter().filter(|entry| entry.call == CallKind::DeleteServer).collect();
    assert_eq!(deletes.iter().map(|entry| entry.applied).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(deletes[1].answer, Answer::Ok);
    assert!(matches!(deletes[2].answer, Answer::NotFound(_)));
    assert!(deletes.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    assert!(deletes.iter().all(|entry| entry.call.is_destructive() && entry.by == Actor::Caller));
}

#[test]
fn launching_twice_makes_two() {
    let fixture = Fixture::new();
    let like = fixture.first();
    let launch = || {
        let content = Box::pin(futures::stream::iter([Ok(bytes::Bytes::from_static(b"root"))]));
        let spec = LaunchSpec {
            name: "twin".into(),
            metadata: BTreeMap::from([(OPERATION_KEY.to_owned(), "op-1".to_owned())]),
            like,
            addresses: 0,
            disks: vec![DiskSource { disk: Disk::Root, bytes: 4, content }],
        };
        block_on(fixture.cloud.launch(spec)).unwrap()
    };
    let (first, second) = (launch(), launch());
    assert_ne!(first, second);
    assert_eq!(block_on(fixture.cloud.find_launched("op-1", Timestamp::EPOCH)).unwrap().len(), 2);
    let audit = fixture.cloud.audit();
    let made = audit.iter().filter(|entry| entry.call == CallKind::Launch && entry.applied && entry.detail == "op-1");
    assert_eq!(made.filter_map(|entry| entry.vm).collect::<Vec<_>>(), [first, second]);
}

#[test]
fn a_revived_vm_has_the_content_of_its_ancestor() {
    let fixture = Fixture::new();
    let old = fixture.first();
    fixture.cloud.write_root(old, 99).unwrap();
    let (_, content) = fixture.truth(old).disks.swap_remove(0);
    block_on(fixture.cloud.snapshot(old, &Disk::Root, "s")).unwrap();
    fixture.later();
    block_on(fixture.cloud.delete_server(old)).unwrap();
    fixture.later();
    let snapshot = block_on(fixture.cloud.find_snapshots(old, "s")).unwrap().swap_remove(0);
    let stream = block_on(fixture.cloud.read_snapshot(old, &snapshot.id)).unwrap();
    let disks = vec![DiskSource { disk: Disk::Root, bytes: content.bytes, content: stream }];
    let spec = LaunchSpec { name: "new".into(), metadata: BTreeMap::new(), like: old, addresses: 0, disks };
    let new = block_on(fixture.cloud.launch(spec)).unwrap();
    assert_eq!(fixture.truth(new).disks[0].1, content);
    assert!(fixture.truth(old).gone);
}

#[test]
fn a_volume_in_use_is_not_deleted_and_an_unfinished_upload_has_no_effect() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    let volume = fixture.truth(vm).volumes[0].clone();
    assert!(matches!(block_on(fixture.cloud.delete_volume(&volume)), Err(CloudError::Refused(_))));
    let before = fixture.truth(vm).disks;
    let content = Box::pin(futures::stream::iter([Ok(bytes::Bytes::from_static(b"short"))]));
    let disks = vec![DiskSource { disk: Disk::Root, bytes: 9, content }];
    let restored = block_on(fixture.cloud.restore_in_place(vm, "op", disks));
    assert!(matches!(restored, Err(CloudError::Unavailable(_))), "{restored:?}");
    assert_eq!(fixture.truth(vm).disks, before);
    assert_eq!(block_on(fixture.cloud.last_restore(vm)), Ok(None));
}

#[test]
fn the_audit_names_the_vm_that_a_volume_or_an_address_belonged_to_and_nobody_for_what_is_gone() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    let truth = fixture.truth(vm);
    let (volume, address) = (&truth.volumes[0], &truth.addresses[0]);
    block_on(fixture.cloud.delete_server(vm)).unwrap();
    fixture.later();
    block_on(fixture.cloud.delete_volume(volume)).unwrap();
    block_on(fixture.cloud.release_address(address)).unwrap();
    block_on(fixture.cloud.release_address(address)).unwrap_err();
    block_on(fixture.cloud.delete_volume("nobody's")).unwrap_err();
    block_on(fixture.cloud.remove_snapshot("gone")).unwrap_err();
    block_on(fixture.cloud.snapshot(fixture.cloud.vm_ids()[1], &Disk::Root, "s")).unwrap();
    let snapshot = fixture.cloud.snapshot_views(Some("s")).swap_remove(0);
    block_on(fixture.cloud.remove_snapshot(&snapshot.id)).unwrap();
    let audit = fixture.cloud.audit();
    let of = |kind: CallKind| audit.iter().filter(move |entry| entry.call == kind).map(|entry| entry.vm);
    assert_eq!(of(CallKind::DeleteVolume).collect::<Vec<_>>(), [Some(vm), None]);
    assert_eq!(of(CallKind::ReleaseAddress).collect::<Vec<_>>(), [Some(vm), Some(vm)]);
    assert_eq!(of(CallKind::DeleteSnapshot).collect::<Vec<_>>(), [None, Some(snapshot.vm)]);
}

#[test]
fn the_quota_refuses_a_vm_too_many() {
    let fixture = Fixture::with(SimConfig { max_vms: 3, ..config() });
    let (project, user) = (ProjectId::new("p").unwrap(), UserId::new("u").unwrap());
    let refused = fixture.cloud.boot_vm("one too many", project, user, BTreeMap::new());
    assert!(matches!(refused, Err(CloudError::Refused(_))));
}

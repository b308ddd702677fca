//! Every fault, once.

use futures::StreamExt;
use reeve_lifecycle::effect::Disk;
use reeve_ports::CloudError;
use reeve_ports::cloud::SnapshotState;

use super::*;

/// Meets one fault on a stop: what was answered, how often it had its effect, and how long it took.
fn stop_with(kind: FaultKind) -> (Result<(), CloudError>, usize, Duration) {
    let fixture = Fixture::new();
    let vm = fixture.first();
    fixture.cloud.inject(Fault::next(CallKind::Stop, kind).on(vm)).unwrap();
    let before = fixture.clock.now();
    let answer = block_on(fixture.cloud.stop(vm));
    let entry = fixture.cloud.audit().pop().unwrap();
    assert_eq!(entry.fault, Some(kind));
    assert_eq!(fixture.cloud.faults_ordered(), 0);
    (answer, fixture.cloud.times_applied(CallKind::Stop, vm), fixture.clock.now().since(before))
}

#[test]
fn each_fault_answers_and_acts_as_it_is_named() {
    let slow = Span::from_secs(3);
    assert!(matches!(stop_with(FaultKind::Error), (Err(CloudError::Unavailable(_)), 0, Duration::ZERO)));
    assert!(matches!(stop_with(FaultKind::Refused), (Err(CloudError::Refused(_)), 0, Duration::ZERO)));
    assert!(matches!(stop_with(FaultKind::Quota), (Err(CloudError::Refused(_)), 0, Duration::ZERO)));
    assert!(matches!(stop_with(FaultKind::TimeoutBefore), (Err(CloudError::Unknown(_)), 0, Duration::ZERO)));
    assert!(matches!(stop_with(FaultKind::TimeoutAfter), (Err(CloudError::Unknown(_)), 1, Duration::ZERO)));
    assert_eq!(stop_with(FaultKind::Slow(slow)), (Ok(()), 1, slow.duration()));
    let (answer, applied, took) = stop_with(FaultKind::Hang);
    assert!(matches!(answer, Err(CloudError::Unknown(_))));
    assert_eq!((applied, took), (0, config().hang.duration()));
    assert!(matches!(stop_with(FaultKind::Vanish), (Err(CloudError::NotFound(_)), 0, Duration::ZERO)));
}

#[test]
fn a_fault_waits_for_its_call_its_vm_and_its_turn() {
    let fixture = Fixture::new();
    let ids = fixture.cloud.vm_ids();
    fixture.cloud.inject(Fault::next(CallKind::Show, FaultKind::Error).on(ids[1]).after(1)).unwrap();
    assert!(block_on(fixture.cloud.show(ids[0])).is_ok(), "another VM");
    assert!(block_on(fixture.cloud.inventory(ids[1])).is_ok(), "another call");
    assert!(block_on(fixture.cloud.show(ids[1])).is_ok(), "not its turn");
    assert!(block_on(fixture.cloud.show(ids[1])).is_err(), "now");
    assert!(block_on(fixture.cloud.show(ids[1])).is_ok(), "once only");
}

#[test]
fn two_faults_for_the_next_call_meet_the_next_two() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    fixture.cloud.inject(Fault::next(CallKind::Show, FaultKind::Error)).unwrap();
    fixture.cloud.inject(Fault::next(CallKind::Show, FaultKind::Refused)).unwrap();
    assert!(matches!(block_on(fixture.cloud.show(vm)), Err(CloudError::Unavailable(_))));
    assert!(matches!(block_on(fixture.cloud.show(vm)), Err(CloudError::Refused(_))));
    assert!(block_on(fixture.cloud.show(vm)).is_ok());
}

#[test]
fn a_fault_that_means_nothing_for_a_call_is_not_taken() {
    let fixture = Fixture::new();
    let pointless = fixture.cloud.inject(Fault::next(CallKind::Stop, FaultKind::FailedSnapshot));
    assert!(matches!(pointless, Err(FaultError::Pointless { .. })));
    assert!(fixture.cloud.inject(Fault::next(CallKind::List, FaultKind::Vanish)).is_err());
}

#[test]
fn a_snapshot_ends_failed_truncated_or_breaks_off() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    let size = fixture.truth(vm).disks[0].1.bytes;
    let snapshot = |name: &str| {
        block_on(fixture.cloud.snapshot(vm, &Disk::Root, name)).unwrap();
        let state = || block_on(fixture.cloud.find_snapshots(vm, name)).unwrap().swap_remove(0);
        assert_eq!(state().state, SnapshotState::Pending);
        let early = block_on(fixture.cloud.read_snapshot(vm, &state().id)).err();
        assert!(matches!(early, Some(CloudError::Unavailable(_))), "{early:?}");
        fixture.later();
        state()
    };
    let read = |id: &str| {
        let stream = block_on(fixture.cloud.read_snapshot(vm, id)).unwrap();
        block_on(stream.collect::<Vec<_>>())
    };
    let bytes = |chunks: &[std::io::Result<bytes::Bytes>]| -> u64 {
        chunks.iter().filter_map(|chunk| chunk.as_ref().ok()).map(|chunk| chunk.len() as u64).sum()
    };

    fixture.cloud.inject(Fault::next(CallKind::Snapshot, FaultKind::FailedSnapshot)).unwrap();
    let failed = snapshot("failed");
    assert!(matches!(failed.state, SnapshotState::Failed(_)));
    assert!(matches!(block_on(fixture.cloud.read_snapshot(vm, &failed.id)).err(), Some(CloudError::Refused(_))));

    fixture.cloud.inject(Fault::next(CallKind::Snapshot, FaultKind::TruncatedSnapshot)).unwrap();
    let truncated = snapshot("truncated");
    assert_eq!(truncated.state, SnapshotState::Ready { bytes: size }, "it lies about its size");
    let chunks = read(&truncated.id);
    assert!(chunks.iter().all(Result::is_ok));
    assert_eq!(bytes(&chunks), size / 2);

    let good = snapshot("good");
    assert_eq!(bytes(&read(&good.id)), size);
    fixture.cloud.inject(Fault::next(CallKind::ReadSnapshot, FaultKind::BrokenStream)).unwrap();
    let chunks = read(&good.id);
    assert!(chunks.last().unwrap().is_err(), "the end of a broken stream is an error");
    assert_eq!(bytes(&chunks), size / 2);
}

#[test]
fn a_fault_on_a_probe_is_never_a_verdict_on_the_vm() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    for kind in [FaultKind::Error, FaultKind::TimeoutAfter, FaultKind::Hang, FaultKind::Vanish] {
        fixture.cloud.inject(Fault::next(CallKind::Probe, kind)).unwrap();
        let verdict = block_on(fixture.probed(vm));
        assert!(matches!(verdict, ProbeVerdict::Inconclusive { .. }), "{kind:?}: {verdict:?}");
    }
}

#[test]
fn chance_follows_from_the_seed_and_not_from_other_vms() {
    let fates = |noisy: bool| {
        let fixture = Fixture::with(SimConfig { faults_per_mille: 300, ..config() });
        let ids = fixture.cloud.vm_ids();
        let fate = |_| {
            if noisy {
                let _ = block_on(fixture.cloud.show(ids[1]));
            }
            Answer::of(&block_on(fixture.cloud.show(ids[0])))
        };
        (0..100).map(fate).collect::<Vec<_>>()
    };
    let quiet = fates(false);
    assert_eq!(quiet, fates(true));
    let failed = quiet.iter().filter(|answer| **answer != Answer::Ok).count();
    assert!((5..60).contains(&failed), "{failed} of 100 failed");
}

#[test]
fn a_dead_host_answers_nothing_but_a_delete() {
    let fixture = Fixture::new();
    let vm = fixture.first();
    let host = fixture.truth(vm).facts.host.unwrap();
    fixture.cloud.host_down(&host).unwrap();
    assert!(matches!(block_on(fixture.cloud.hard_reboot(vm)), Err(CloudError::Unavailable(_))));
    assert!(matches!(block_on(fixture.cloud.snapshot(vm, &Disk::Root, "s")), Err(CloudError::Unavailable(_))));
    let hosts = block_on(fixture.cloud.hosts()).unwrap();
    assert!(hosts.iter().any(|health| health.host == host && !health.up));
    block_on(fixture.cloud.delete_server(vm)).unwrap();
    assert!(fixture.truth(vm).gone);
}

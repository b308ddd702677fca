//! What goes wrong on a wire, and what the driver makes of it.

use std::time::Duration;

use reeve_drivers::cloud::sim::{CallKind, FaultKind};
use reeve_lifecycle::effect::Disk;
use reeve_ports::cloud::SnapshotState;
use reeve_ports::{Cloud, CloudError};
use reeve_protocol::observation::VmState;
use reeve_protocol::{Span, VmId};
use reeve_tests::sim_cloud::{HttpFault, OrderFault};

use crate::fixture::{Fixture, driver, driver_config};

fn kind<T>(answer: &Result<T, CloudError>) -> char {
    match answer {
        Ok(_) => 'O',
        Err(CloudError::NotFound(_)) => 'N',
        Err(CloudError::Refused(_)) => 'R',
        Err(CloudError::Unavailable(_)) => 'A',
        Err(CloudError::Unknown(_)) => 'U',
    }
}

async fn state(fixture: &Fixture, vm: VmId) -> VmState {
    fixture.control.vm(vm).await.expect("the cloud answers").expect("the VM is there").facts.state
}

/// (status, `Retry-After`, body, meaning of a look, meaning of a change)
const ANSWERS: &[(u16, Option<u64>, &str, char, char)] = &[
    (400, None, r#"{"badRequest": {"code": 400, "message": "bad"}}"#, 'R', 'R'),
    (403, None, r#"{"forbidden": {"code": 403, "message": "Quota exceeded"}}"#, 'R', 'R'),
    (404, None, r#"{"itemNotFound": {"code": 404, "message": "gone"}}"#, 'N', 'N'),
    (409, None, r#"{"conflictingRequest": {"code": 409, "message": "locked"}}"#, 'R', 'R'),
    (413, Some(0), r#"{"overLimit": {"code": 413, "message": "quota"}}"#, 'R', 'R'),
    (413, Some(5), r#"{"overLimit": {"code": 413, "message": "slow down"}}"#, 'A', 'A'),
    (429, Some(5), "", 'A', 'A'),
    (500, None, r#"{"computeFault": {"code": 500, "message": "oops"}}"#, 'A', 'U'),
    (502, None, "<html>", 'A', 'U'),
    (503, None, "", 'A', 'U'),
    (503, Some(1), "", 'A', 'A'),
    (302, None, "", 'A', 'U'),
];

#[tokio::test]
async fn every_answer_that_is_no_success_has_its_meaning() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    for &(status, retry_after, body, look, change) in ANSWERS {
        let fault = HttpFault { path: "/servers/".to_owned(), status, retry_after, ..HttpFault::default() };
        let fault = HttpFault { body: body.to_owned(), ..fault };
        // What one answer asks for, such as to be left alone, is no matter of the next.
        let fresh = || driver(driver_config(&fixture.server));
        fixture.control.http_fault(&fault).await.unwrap();
        let looked = kind(&fresh().show(vm).await);
        fixture.control.http_fault(&fault).await.unwrap();
        let changed = kind(&fresh().hard_reboot(vm).await);
        assert_eq!((looked, changed), (look, change), "{status} {retry_after:?}");
    }
    assert_eq!(fixture.sim().times_applied(CallKind::HardReboot, vm), 0, "none of them had an effect");
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_effect_is_unknown() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let lost = HttpFault { method: "POST".to_owned(), path: "/action".to_owned(), ..HttpFault::default() };
    fixture.control.http_fault(&HttpFault { after_effect: true, ..lost }).await.unwrap();
    assert_eq!(kind(&fixture.driver.stop(vm).await), 'U');
    assert_eq!(fixture.sim().times_applied(CallKind::Stop, vm), 1);
    let fault = OrderFault { call: CallKind::Show, vm: Some(vm), skip: 0, kind: FaultKind::TimeoutAfter };
    fixture.control.fault(&fault).await.unwrap();
    assert_eq!(kind(&fixture.driver.show(vm).await), 'A', "a look that is lost can be had again");
}

#[tokio::test]
async fn every_fault_of_the_simulated_cloud_means_the_same_over_http() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    for (fault, meaning, applied) in [
        (FaultKind::Error, 'A', 0),
        (FaultKind::Refused, 'R', 0),
        (FaultKind::Quota, 'R', 0),
        (FaultKind::TimeoutBefore, 'U', 0),
        (FaultKind::TimeoutAfter, 'U', 1),
        (FaultKind::Vanish, 'N', 0),
    ] {
        let before = fixture.sim().times_applied(CallKind::Suspend, vm);
        let order = OrderFault { call: CallKind::Suspend, vm: Some(vm), skip: 0, kind: fault };
        fixture.control.fault(&order).await.unwrap();
        assert_eq!(kind(&fixture.driver.suspend(vm).await), meaning, "{fault:?}");
        assert_eq!(fixture.sim().times_applied(CallKind::Suspend, vm) - before, applied, "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_so_already_is_done() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    assert_eq!(state(&fixture, vm).await, VmState::Active);
    assert_eq!(fixture.driver.start(vm).await, Ok(()));
    assert_eq!(fixture.sim().times_applied(CallKind::Start, vm), 0);
    fixture.control.deed(vm, "lock").await.unwrap();
    assert_eq!(kind(&fixture.driver.stop(vm).await), 'R', "a lock is no state that was wanted");
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_or_is_too_short_is_an_error_of_its_stream() {
    use futures::TryStreamExt;
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    for (call, kind) in
        [(CallKind::ReadSnapshot, FaultKind::BrokenStream), (CallKind::Snapshot, FaultKind::TruncatedSnapshot)]
    {
        fixture.control.fault(&OrderFault { call, vm: Some(vm), skip: 0, kind }).await.unwrap();
        let name = format!("{kind:?}");
        while fixture.sim().ground_truth(vm).unwrap().facts.task.is_some() {
            tokio::task::yield_now().await;
        }
        fixture.driver.snapshot(vm, &Disk::Root, &name).await.unwrap();
        let id = loop {
            let found = fixture.driver.find_snapshots(vm, &name).await.unwrap().pop().unwrap();
            match found.state {
                SnapshotState::Pending => {}
                SnapshotState::Ready { .. } => break found.id,
                SnapshotState::Failed(why) => panic!("{why}"),
            }
        };
        let stream = fixture.driver.read_snapshot(vm, &id).await.unwrap();
        let read: Result<Vec<_>, _> = stream.try_collect().await;
        assert!(read.is_err(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_change_goes_on_although_its_caller_is_gone() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let slow = FaultKind::Slow(Span::from_millis(300));
    fixture.control.fault(&OrderFault { call: CallKind::Stop, vm: Some(vm), skip: 0, kind: slow }).await.unwrap();
    let gave_up = tokio::time::timeout(Duration::from_millis(100), fixture.driver.stop(vm)).await;
    assert!(gave_up.is_err(), "the call was not slow");
    for _ in 0..1_000 {
        if fixture.sim().times_applied(CallKind::Stop, vm) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the change was dropped with its caller");
}

#[tokio::test]
async fn an_id_that_cannot_be_leads_nowhere() {
    let fixture = Fixture::start().await;
    for id in ["../../compute/v2.1/servers/detail", "a?b", "a b", "a%2fb"] {
        assert_eq!(fixture.driver.volume_exists(id).await, Ok(false), "{id}");
        assert_eq!(kind(&fixture.driver.delete_volume(id).await), 'N', "{id}");
    }
}

#[tokio::test]
async fn a_launch_whose_answer_is_lost_is_found_by_its_operation() {
    use futures::StreamExt;
    use reeve_ports::cloud::{DiskSource, LaunchSpec, OPERATION_KEY, REVIVED_FROM_KEY};
    use reeve_protocol::Timestamp;
    let fixture = Fixture::start().await;
    let like = fixture.first();
    let keys = [(OPERATION_KEY, "op/1".to_owned()), (REVIVED_FROM_KEY, like.to_string())];
    let content = futures::stream::iter([Ok(bytes::Bytes::from_static(b"root"))]).boxed();
    let spec = LaunchSpec {
        name: "new".to_owned(),
        metadata: keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        like,
        addresses: 0,
        disks: vec![DiskSource { disk: Disk::Root, bytes: 4, content }],
    };
    assert_eq!(fixture.driver.find_launched("op/1", Timestamp::EPOCH).await, Ok(Vec::new()));
    let lost = HttpFault { method: "POST".to_owned(), path: "/servers".to_owned(), ..HttpFault::default() };
    fixture.control.http_fault(&HttpFault { after_effect: true, ..lost }).await.unwrap();
    assert_eq!(kind(&fixture.driver.launch(spec).await), 'U', "whoever calls looks before the next attempt");
    let found = fixture.driver.find_launched("op/1", Timestamp::EPOCH).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(fixture.sim().vm_ids().len(), 6);
}

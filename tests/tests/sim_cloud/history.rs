//! The history: who did what, in the file and over `/sim`; and that a cloud outlives its process.

use std::collections::BTreeMap;

use reeve_drivers::cloud::sim::{Actor, Answer, AuditEntry, CallKind, FaultKind};
use reeve_ports::Cloud;
use reeve_protocol::Span;
use reeve_tests::sim_cloud::{NewVm, OrderFault, SimCloudOptions};

use crate::fixture::{Fixture, config, options};

#[tokio::test]
async fn every_change_is_told_with_its_caller_in_the_file_and_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let fixture = Fixture::with(SimCloudOptions { history: Some(path.clone()), ..options() }).await;
    let vm = fixture.first();
    let lost = OrderFault { call: CallKind::Stop, vm: Some(vm), skip: 0, kind: FaultKind::TimeoutAfter };
    fixture.control.fault(&lost).await.unwrap();
    fixture.driver.show(vm).await.unwrap();
    fixture.driver.stop(vm).await.unwrap_err();
    let made = NewVm { name: "new".into(), project: "p".into(), user: "u".into(), metadata: BTreeMap::new() };
    let made = fixture.control.boot(&made).await.unwrap();
    fixture.control.delete(made).await.unwrap();

    let told = fixture.control.audit_after(0).await.unwrap();
    let seen: Vec<_> = told.iter().map(|e| (e.by, e.caller.as_deref(), e.call, e.vm, e.applied)).collect();
    assert_eq!(
        seen,
        [
            (Actor::Caller, Some("n1"), CallKind::Stop, Some(vm), true),
            (Actor::Owner, None, CallKind::Event, Some(made), true),
            (Actor::Owner, None, CallKind::DeleteServer, Some(made), true),
        ]
    );
    assert!(matches!(told[0].answer, Answer::Unknown(_)), "an answer that was lost is told as lost");
    assert_eq!(fixture.control.audit_after(told[1].seq).await.unwrap(), told[2..]);
    let file = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<AuditEntry> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, told, "the file says the same");
    let counts = fixture.control.counts().await.unwrap();
    assert_eq!((counts.living + counts.gone, counts.faults_ordered), (6, 0));
}

#[tokio::test]
async fn what_is_given_back_is_told_of_the_vm_that_had_it_and_a_snapshot_that_is_gone_of_nobody() {
    let fixture = Fixture::start().await;
    let vm = fixture.first();
    let truth = fixture.sim().ground_truth(vm).unwrap();
    fixture.driver.release_address(&truth.addresses[0]).await.unwrap();
    let gone = "5f0c3f0a-9f0e-4e83-8a53-1d6a3c1c1a11";
    fixture.driver.delete_snapshot(vm, gone).await.unwrap_err();
    let told = fixture.control.audit_after(0).await.unwrap();
    let seen: Vec<_> = told.iter().map(|entry| (entry.call, entry.vm, entry.applied)).collect();
    assert_eq!(seen, [(CallKind::ReleaseAddress, Some(vm), true), (CallKind::DeleteSnapshot, None, false)]);
}

#[tokio::test]
async fn a_cloud_in_a_folder_outlives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let kept = SimCloudOptions { data: Some(folder.path().join("cloud")), ..options() };
    let first = Fixture::with(kept.clone()).await;
    let vm = first.first();
    first.driver.stop(vm).await.unwrap();
    let Fixture { server, driver, control } = first;
    server.stop().await;
    drop((driver, control));
    let slow = [Span::from_secs(1), Span::from_secs(1)];
    let again =
        Fixture::with(SimCloudOptions { sim: reeve_drivers::SimConfig { vms: 1, power: slow, ..config() }, ..kept });
    let again = again.await;
    assert_eq!(again.sim().vm_ids().len(), 5, "what is there wins over the options");
    assert_eq!(again.control.audit_after(0).await.unwrap()[0].call, CallKind::Stop);
    again.driver.show(vm).await.unwrap();
}

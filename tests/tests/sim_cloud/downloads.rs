//! Images that do not come as they should on their way into the vault: tried again, and never sealed.

use futures::TryStreamExt;
use reeve_drivers::cloud::sim::{CallKind, FaultKind};
use reeve_lifecycle::effect::{Disk, Snapshot};
use reeve_lifecycle::{Done, Outcome};
use reeve_ports::Cloud;
use reeve_tests::sim_cloud::{HttpFault, OrderFault};
use serde_json::json;
use sha2::{Digest, Sha512};

use crate::performing::{Desk, letter};

/// A desk with a snapshot of the root disk, and what that holds.
async fn with_snapshot() -> (Desk, Snapshot, Vec<u8>) {
    let desk = Desk::new().await;
    let snapshot = desk.snapshot(Disk::Root).await;
    let content = desk.fixture.driver.read_snapshot(desk.vm, &snapshot.id).await.unwrap();
    let content: Vec<bytes::Bytes> = content.try_collect().await.unwrap();
    (desk, snapshot, content.concat())
}

fn file(status: u16, body: &str) -> HttpFault {
    HttpFault {
        method: "GET".to_owned(),
        path: "/file".to_owned(),
        status,
        body: body.to_owned(),
        ..HttpFault::default()
    }
}

/// The record of the image, with the hash of this content.
fn record(snapshot: &Snapshot, content: &[u8]) -> HttpFault {
    let hash: String = Sha512::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let image = json!({ "id": snapshot.id, "status": "active", "size": content.len(), "os_hash_algo": "sha512",
        "os_hash_value": hash });
    let path = format!("/v2/images/{}", snapshot.id);
    HttpFault { method: "GET".to_owned(), path, status: 200, body: image.to_string(), ..HttpFault::default() }
}

fn reason(outcome: Outcome) -> String {
    match outcome {
        Outcome::Done(done) => panic!("done: {done:?}"),
        Outcome::NotApplied { reason } | Outcome::Retryable { reason } | Outcome::Unknown { reason } => reason,
    }
}

/// Whatever went wrong has left nothing that is taken for a backup, and once it is over there is one.
async fn comes_right(desk: &Desk, snapshot: &Snapshot, content: &[u8]) {
    assert!(!desk.is_sealed().await);
    let done = desk.until_done(&desk.storing(snapshot)).await;
    let Done::Stored(stored) = done else { panic!("not stored: {done:?}") };
    assert_eq!((stored.bytes, stored.blake3), (content.len() as u64, *blake3::hash(content).as_bytes()));
    assert_eq!(desk.seal(vec![stored]).await, content.len() as u64);
    assert!(desk.is_sealed().await);
}

#[tokio::test]
async fn a_download_that_is_cut_off_is_made_again() {
    let (desk, snapshot, content) = with_snapshot().await;
    let broken = OrderFault { call: CallKind::ReadSnapshot, vm: None, skip: 0, kind: FaultKind::BrokenStream };
    desk.fixture.control.fault(&broken).await.unwrap();
    let outcome = desk.attempt(&desk.storing(&snapshot)).await;
    assert_eq!(letter(&outcome), 'R', "{outcome:?}");
    // Whole by HTTP, and still not the image.
    desk.order(file(200, &"x".repeat(content.len() / 2))).await;
    let outcome = desk.attempt(&desk.storing(&snapshot)).await;
    assert_eq!(letter(&outcome), 'R', "{outcome:?}");
    assert!(reason(outcome).contains(&format!("{} of {} bytes came", content.len() / 2, content.len())));
    desk.order(file(200, &"x".repeat(content.len() + 1))).await;
    assert_eq!(letter(&desk.attempt(&desk.storing(&snapshot)).await), 'R', "a byte too many");
    desk.order(file(200, "")).await;
    assert_eq!(letter(&desk.attempt(&desk.storing(&snapshot)).await), 'R', "nothing at all");
    comes_right(&desk, &snapshot, &content).await;
}

#[tokio::test]
async fn a_content_with_another_hash_than_glance_has_noted_is_refused_each_time() {
    let (desk, snapshot, content) = with_snapshot().await;
    let mut other = content.clone();
    other[content.len() / 2] ^= 1;
    for _ in 0..3 {
        // Of the right length, all of it, without an error on the wire.
        desk.order(record(&snapshot, &other)).await;
        let outcome = desk.attempt(&desk.storing(&snapshot)).await;
        assert_eq!(letter(&outcome), 'R', "{outcome:?}");
        assert!(reason(outcome).contains("another hash than the image's record tells"));
        assert!(!desk.is_sealed().await);
    }
    desk.order(record(&snapshot, &content)).await;
    desk.order(file(200, &"x".repeat(content.len()))).await;
    let outcome = desk.attempt(&desk.storing(&snapshot)).await;
    assert!(reason(outcome).contains("another hash"), "the record is right, and what came is not");
    // With the right hash in the record.
    desk.order(record(&snapshot, &content)).await;
    comes_right(&desk, &snapshot, &content).await;
}

#[tokio::test]
async fn an_image_without_data_yet_is_waited_for() {
    let (desk, snapshot, content) = with_snapshot().await;
    desk.order(file(204, "")).await;
    let outcome = desk.attempt(&desk.storing(&snapshot)).await;
    assert_eq!(letter(&outcome), 'R', "{outcome:?}");
    assert!(reason(outcome).contains("no data yet"));
    comes_right(&desk, &snapshot, &content).await;
}

#[tokio::test]
async fn a_token_that_ends_between_snapshot_and_download_is_renewed_within_the_attempt() {
    let (desk, snapshot, content) = with_snapshot().await;
    desk.order(file(401, r#"{"message": "no", "code": "401 Unauthorized"}"#)).await;
    let outcome = desk.attempt(&desk.storing(&snapshot)).await;
    assert_eq!(letter(&outcome), 'D', "{outcome:?}");
    desk.fixture.control.revoke_tokens().await.unwrap();
    comes_right(&desk, &snapshot, &content).await;
}

#[tokio::test]
async fn every_failure_of_a_download_has_its_end() {
    const IMAGE: [(u16, char); 10] = [
        // Deactivated.
        (403, 'N'),
        (404, 'N'),
        (416, 'N'),
        (413, 'N'),
        (429, 'R'),
        (500, 'R'),
        (502, 'R'),
        (503, 'R'),
        (504, 'R'),
        (302, 'R'),
    ];
    let (desk, snapshot, content) = with_snapshot().await;
    for (status, end) in IMAGE {
        desk.order(file(status, "<html><head><title>no</title></head></html>")).await;
        let outcome = desk.attempt(&desk.storing(&snapshot)).await;
        assert_eq!(letter(&outcome), end, "{status}: {outcome:?}");
    }
    comes_right(&desk, &snapshot, &content).await;
}

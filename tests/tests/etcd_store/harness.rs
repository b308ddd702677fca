//! What the harness promises of its etcd.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions};
use reeve_tests::harness::Etcd;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

/// As often as an election takes.
async fn put(client: &Client, value: &str) {
    let putting = async {
        while client.clone().put("key", value, None).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, putting).await.expect("etcd takes it");
}

async fn get(client: &Client) -> String {
    let read = timeout(PATIENCE, client.clone().get("key", None)).await.expect("etcd answers").expect("it reads");
    read.kvs()[0].value_str().expect("a text").to_owned()
}

#[tokio::test]
async fn live_three_members_agree_over_a_new_leader_a_held_member_and_a_dead_one() -> anyhow::Result<()> {
    let mut etcd = Etcd::start(3).await?;
    let first = etcd.leader().await?;
    put(&etcd.client().await?, "one").await;
    let second = etcd.move_leader().await?;
    assert_ne!(first, second);
    assert_eq!(etcd.leader().await?, second);

    etcd.hold(first)?;
    let third = (0..3).find(|member| *member != first && *member != second).unwrap();
    let endpoint = [etcd.endpoint(third)];
    let beside = Client::connect(endpoint, None).await?;
    put(&beside, "two").await;
    etcd.go_on(first)?;

    etcd.kill(second);
    put(&beside, "three").await;
    etcd.restart(second).await?;
    let back = Client::connect([etcd.endpoint(second)], None).await?;
    assert_eq!(get(&back).await, "three");

    // Without a majority nothing is written.
    etcd.kill(first);
    etcd.kill(second);
    let alone = timeout(Duration::from_secs(2), beside.clone().put("key", "four", None)).await;
    assert!(!matches!(alone, Ok(Ok(_))), "one of three has written");
    etcd.restart_those_down().await?;
    put(&etcd.client().await?, "five").await;
    Ok(())
}

#[tokio::test]
async fn live_a_compaction_ends_an_old_watch() -> anyhow::Result<()> {
    let etcd = crate::fixture::shared().await;
    let client = etcd.client().await?;
    put(&client, "one").await;
    put(&client, "two").await;
    let revision = etcd.compact().await?;
    let options = WatchOptions::new().with_start_revision(revision - 1);
    let mut watch = client.clone().watch("key", Some(options)).await?;
    let mut compacted = 0;
    while compacted == 0 {
        let message = timeout(PATIENCE, watch.message()).await?.unwrap().expect("an answer before the end");
        assert!(message.events().iter().all(|event| event.event_type() != EventType::Put), "it remembers");
        compacted = message.compact_revision();
    }
    assert!(compacted >= revision - 1, "{compacted} {revision}");
    Ok(())
}

#[tokio::test]
async fn live_tls_asks_for_a_certificate_of_its_authority() -> anyhow::Result<()> {
    let etcd = Etcd::start_tls(1).await?;
    put(&etcd.client().await?, "sealed").await;
    assert_eq!(get(&etcd.client().await?).await, "sealed");
    let ca = std::fs::read(etcd.certificates().unwrap().ca())?;
    let nobody = etcd_client::TlsOptions::new().ca_certificate(etcd_client::Certificate::from_pem(ca));
    let options = etcd_client::ConnectOptions::new().with_tls(nobody);
    let mut client = Client::connect(etcd.endpoints(), Some(options)).await?;
    let refused = timeout(Duration::from_secs(3), client.get("key", None)).await;
    assert!(!matches!(refused, Ok(Ok(_))), "a client without a certificate was served");
    Ok(())
}

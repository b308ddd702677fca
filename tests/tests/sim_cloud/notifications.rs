//! Notifications on a real broker: in Nova's form, through outages.

use reeve_ports::Cloud;
use reeve_protocol::openstack;
use reeve_tests::harness::RabbitMq;
use reeve_tests::harness::amqp::Peer;
use reeve_tests::sim_cloud::SimCloudOptions;

use crate::fixture::{Fixture, options};

const KEY: &str = "versioned_notifications.info";

#[tokio::test]
async fn live_notifications_are_novas_and_come_back_after_the_broker_was_away() {
    let mut broker = RabbitMq::start().await.unwrap();
    let fixture = Fixture::with(SimCloudOptions { amqp: Some(broker.url()), ..options() }).await;
    let vm = fixture.first();
    for (round, stops) in [true, false].into_iter().enumerate() {
        if round > 0 {
            broker.kill();
            broker.restart().await.unwrap();
        }
        let peer = Peer::connect(&broker.url()).await.unwrap();
        peer.declare_as_nova_does("nova", &[KEY]).await.unwrap();
        let collected = peer.collect(KEY).await.unwrap();
        if stops {
            fixture.driver.stop(vm).await.unwrap();
        } else {
            fixture.driver.start(vm).await.unwrap();
        }
        collected.reach(4).await.unwrap();
        let types: Vec<String> =
            collected.all().iter().map(|message| openstack::decode(&message.body).unwrap().event_type).collect();
        let stem = if stops { "power_off" } else { "power_on" };
        for wanted in [format!("instance.{stem}.start"), format!("instance.{stem}.end")] {
            assert!(types.contains(&wanted), "{wanted} is not among {types:?}");
        }
        assert!(collected.all().iter().all(|message| message.key == KEY));
    }
    assert_eq!(fixture.control.counts().await.unwrap().notifications_lost, 0);
}

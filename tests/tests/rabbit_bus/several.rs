//! A bus that knows more than one broker.

use reeve_cluster::rabbitmq::{BusStatus, LinkStatus, RabbitBus};
use reeve_ports::{Address, Bus, Consumer, Queue, Settlement};
use reeve_protocol::Timestamp;
use reeve_tests::harness::rabbitmq::{REGISTRATION_FLUSH, RabbitCluster};
use reeve_tests::harness::{Mode, Port, Proxy};

use crate::fixture::{Broker, config, message, next, start, until, until_connected};

fn says(status: &BusStatus, part: &str) -> bool {
    matches!(&status.publishing, LinkStatus::Away { error, .. } if error.contains(part))
}

/// Since when the two connections are there.
fn connections(status: &BusStatus) -> [Option<Timestamp>; 2] {
    [&status.publishing, &status.consuming].map(|link| match link {
        LinkStatus::Connected { since, .. } => Some(*since),
        LinkStatus::Away { .. } | LinkStatus::Closed => None,
    })
}

/// Until both connections are other ones.
async fn until_others(bus: &RabbitBus, before: [Option<Timestamp>; 2]) {
    let other = |status: &BusStatus| connections(status).iter().zip(&before).all(|(now, before)| now != before);
    until(bus, |status| status.is_connected() && other(status)).await;
}

/// Until this message comes. What was acknowledged right before a loss may come again before it.
async fn until_delivered(consumer: &mut Consumer, body: &str) {
    loop {
        let delivery = next(consumer).await;
        delivery.settle.settle(Settlement::Ack).await.expect("acknowledged");
        if delivery.message.body == body.as_bytes() {
            return;
        }
    }
}

#[tokio::test]
async fn live_a_broker_that_refuses_or_is_silent_is_passed_over() {
    let broker = Broker::take().await;
    let (dead, silent) = (Port::reserve().expect("a free port"), tokio::net::TcpListener::bind("127.0.0.1:0").await);
    let silent = silent.expect("a free port").local_addr().expect("bound");
    let first = format!("guest:guest@127.0.0.1:{},{silent},", dead.number());
    let bus = start(config(&broker.url().replace("guest:guest@", &first)));
    until_connected(&bus).await;
    bus.publish(&Address::Requests, message("m")).await.expect("taken");
    let mut consumer = bus.consume(&Queue::Requests, 1).await.expect("consumed");
    assert_eq!(next(&mut consumer).await.message.body, b"m".as_slice());
}

#[tokio::test]
async fn live_all_brokers_that_failed_are_named_without_the_password() {
    let ports = [(); 2].map(|()| Port::reserve().expect("a free port"));
    let hosts = ports.each_ref().map(|port| format!("127.0.0.1:{}", port.number()));
    let bus = start(config(&format!("amqp://reeve:s3cret@{}/%2f", hosts.join(","))));
    let status = until(&bus, |status| hosts.iter().all(|host| says(status, host))).await;
    assert!(says(&status, "refused") && !format!("{status:?} {bus:?}").contains("s3cret"), "{status:?}");
}

/// One broker stands behind two addresses: what is on it does not move, the way to it does.
#[tokio::test]
async fn live_a_lost_way_to_the_broker_is_left_for_another_and_the_next_loss_leads_back() {
    let broker = Broker::take().await;
    let target =
        broker.url().trim_start_matches("amqp://guest:guest@").trim_end_matches("/%2f").parse().expect("an address");
    let ways = [Proxy::start(target).await.expect("a proxy"), Proxy::start(target).await.expect("a proxy")];
    let hosts = ways.each_ref().map(|way| way.address().to_string());
    let bus = start(config(&format!("amqp://guest:guest@{}/%2f", hosts.join(","))));
    until_connected(&bus).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.expect("consumed");
    for (lost, left) in [(0, 1), (1, 0)] {
        ways[left].set(Mode::Pass);
        let before = connections(&bus.status());
        ways[lost].set(Mode::Refuse);
        until_others(&bus, before).await;
        bus.publish(&Address::Requests, message(&format!("without {lost}"))).await.expect("taken");
        until_delivered(&mut consumer, &format!("without {lost}")).await;
    }
}

#[tokio::test]
async fn live_a_bus_goes_on_with_another_broker_of_the_cluster_when_its_own_stops() {
    let mut cluster = RabbitCluster::start(3).await.expect("the cluster starts");
    let hosts: Vec<String> = (0..cluster.size()).map(|member| cluster.address(member).to_string()).collect();
    let bus = start(config(&format!("amqp://guest:guest@{}/%2f", hosts.join(","))));
    until_connected(&bus).await;
    let mut consumer = bus.consume(&Queue::Requests, 1).await.expect("consumed");
    bus.publish(&Address::Requests, message("before")).await.expect("taken");
    until_delivered(&mut consumer, "before").await;
    tokio::time::sleep(REGISTRATION_FLUSH).await;
    let before = connections(&bus.status());
    cluster.kill(0);
    // It is not started again.
    until_others(&bus, before).await;
    while bus.publish(&Address::Requests, message("after")).await.is_err() {}
    until_delivered(&mut consumer, "after").await;
}

//! A registration that etcd carries out, and whose answer is lost.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test that asked for it")]

use std::time::Duration;

use etcd_client::{Client, GetOptions};
use reeve_cluster::etcd::EtcdError;
use reeve_ports::Coordination;
use reeve_tests::harness::{Etcd, Mode, Proxy};
use tokio::task::JoinHandle;

use crate::fixture::{Node, PATIENCE, World};

/// How long an answer is on its way, so that it can be lost there.
const WAY: Duration = Duration::from_millis(300);

/// A node that joins through a slow proxy.
async fn join_slowly(world: &World, etcd: &Etcd) -> (Proxy, JoinHandle<Result<Node, EtcdError>>) {
    let proxy = Proxy::start(etcd.address(0)).await.unwrap();
    let config = world.config_through("a", &proxy);
    proxy.set(Mode::Slow(WAY));
    let world = world.clone();
    (proxy, tokio::spawn(async move { world.try_join(config).await }))
}

/// Joins; whatever etcd answers is lost from the moment on that `carried_out` says so, until the node has given up
/// waiting for it. Returns the leases that there are then.
async fn join_and_lose_the_answer(
    world: &mut World,
    etcd: &Etcd,
    carried_out: impl AsyncFn(&mut Client) -> bool,
) -> usize {
    world.ttl = Duration::from_secs(20);
    let mut direct = etcd.client().await.unwrap();
    let (proxy, joining) = join_slowly(world, etcd).await;
    let waiting = async {
        while !carried_out(&mut direct).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is carried out");
    proxy.set(Mode::DropAnswers);
    // Longer than a call's patience.
    tokio::time::sleep(Duration::from_secs(4)).await;
    proxy.set(Mode::Pass);
    // Less than the TTL: a node that waited for the end of its own lease would still be waiting.
    let joined = tokio::time::timeout(world.ttl / 2, joining).await;
    let node = joined.expect("it joins before the TTL is over").unwrap().expect("it joins");
    // With its first sign of life: the others have heard of the one before long ago.
    world.until("it may act", || node.cluster.may_act()).await;
    direct.leases().await.unwrap().leases().len()
}

#[tokio::test]
async fn live_a_lost_answer_to_the_registration_does_not_stand_in_its_way() {
    let etcd = Etcd::start(1).await.unwrap();
    let mut world = World::on(etcd.endpoints());
    let nodes = format!("/reeve/{}/nodes/", world.config("a").cluster);
    let registered = async |etcd: &mut Client| {
        let found = etcd.get(nodes.as_str(), Some(GetOptions::new().with_prefix())).await.unwrap();
        !found.kvs().is_empty()
    };
    assert_eq!(join_and_lose_the_answer(&mut world, &etcd, registered).await, 1);
}

#[tokio::test]
async fn live_a_lease_whose_grant_was_not_answered_is_used_and_not_left_behind() {
    let etcd = Etcd::start(1).await.unwrap();
    let mut world = World::on(etcd.endpoints());
    let granted = async |etcd: &mut Client| !etcd.leases().await.unwrap().leases().is_empty();
    assert_eq!(join_and_lose_the_answer(&mut world, &etcd, granted).await, 1);
}

#[tokio::test]
async fn live_a_lease_that_others_may_be_about_to_end_is_not_used() {
    let etcd = Etcd::start(1).await.unwrap();
    let mut world = World::on(etcd.endpoints());
    world.ttl = Duration::from_secs(3);
    let mut direct = etcd.client().await.unwrap();
    let (proxy, joining) = join_slowly(&world, &etcd).await;
    let granted = async {
        loop {
            let leases = direct.leases().await.unwrap();
            if let Some(lease) = leases.leases().first() {
                return lease.id();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let first = tokio::time::timeout(PATIENCE, granted).await.expect("the lease is granted");
    proxy.set(Mode::DropAnswers);
    // etcd extends it, while whoever has heard of its node for a TTL may take the node for dead.
    let until = tokio::time::Instant::now() + world.ttl + Duration::from_secs(1);
    while tokio::time::Instant::now() < until {
        // Until the node gives it back.
        let _ = direct.lease_keep_alive(first).await;
        tokio::time::sleep(world.ttl / 8).await;
    }
    proxy.set(Mode::Pass);
    let node = tokio::time::timeout(PATIENCE, joining).await.expect("it joins").unwrap().expect("it joins");
    world.until("it may act", || node.cluster.may_act()).await;
    assert_ne!(world.lease_of("a").await, first);
}

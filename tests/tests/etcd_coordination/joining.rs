//! Who gets in, and who does not.

use std::sync::Arc;

use etcd_client::Permission;
use reeve_cluster::etcd::{EtcdCluster, EtcdConfig, EtcdError, EtcdTls, EtcdUser};
use reeve_ports::{Coordination, SystemClock};
use reeve_tests::harness::Etcd;

use crate::fixture::{TTL, World, node_id};

async fn refused(world: &World, config: EtcdConfig) -> String {
    match world.try_join(config).await {
        Ok(_) => panic!("it joined"),
        Err(error @ EtcdError::Config(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn live_a_node_with_another_number_of_shards_is_refused() {
    let world = World::new().await;
    let _a = world.join("a").await;
    let mut config = world.config("b");
    config.shards = 17;
    let error = refused(&world, config).await;
    assert!(error.contains("shards is 17 (expected 16"), "{error}");
}

#[tokio::test]
async fn live_an_id_that_is_in_use_is_refused_and_one_whose_lease_ended_is_not() {
    let world = World::new().await;
    let mut config = world.config("a");
    config.address = Some("10.0.0.1:7471".into());
    let a = world.join_with(config.clone()).await;
    world.until_shared(&["a"]).await;
    let before = world.epochs_of("a");
    let error = refused(&world, config.clone()).await;
    assert!(error.contains("in use by another process at 10.0.0.1:7471"), "{error}");
    a.die().await;
    let again = world.join_with(config).await;
    let anew = || world.epochs_of("a").iter().all(|(shard, epoch)| *epoch > before[shard]);
    world.until("all is claimed anew", || world.epochs_of("a").len() == before.len() && anew()).await;
    assert_eq!(again.cluster.address_of(&again.id).as_deref(), Some("10.0.0.1:7471"));
}

#[tokio::test]
async fn live_a_node_that_left_is_replaced_at_once() {
    let world = World::new().await;
    let a = world.join("a").await;
    let b = world.join("b").await;
    world.until_shared(&["a", "b"]).await;
    let started = tokio::time::Instant::now();
    b.leave().await;
    world.until_shared(&["a"]).await;
    println!("all was owned {:?} after a node left, at a TTL of {TTL:?}", started.elapsed());
    assert!(!a.cluster.cluster().members.contains_key(&node_id("b")));
    let _b = world.join("b").await;
}

#[tokio::test]
async fn live_a_clock_that_is_off_is_noticed_by_its_own_node() {
    let world = World::new().await;
    let nodes = [world.join("a").await, world.join("b").await, world.join("c").await];
    let compared = || nodes.iter().all(|node| node.cluster.skew().by_ms.is_some());
    world.until("the clocks are compared", compared).await;
    assert!(nodes.iter().all(|node| !node.cluster.skew().exceeded));
    nodes[1].clock.set_ahead(3_600_000);
    // Its own step is noticed at once.
    assert!(nodes[1].cluster.skew().exceeded);
    let seen = |by: usize| nodes[by].cluster.cluster().members[&nodes[1].id].clock_skew_ms.unwrap_or(0);
    world.until("the others see it", || seen(0) > 3_500_000 && seen(2) > 3_500_000).await;
    assert!(!nodes[0].cluster.skew().exceeded && !nodes[2].cluster.skew().exceeded);
    nodes[1].clock.set_ahead(0);
    world.until("it is well again", || !nodes[1].cluster.skew().exceeded).await;
}

#[tokio::test]
async fn live_tls_is_used_and_a_stranger_is_not_trusted() {
    let etcd = Etcd::start_tls(1).await.unwrap();
    let files = etcd.certificates().expect("it has certificates");
    let world = World::on(etcd.endpoints());
    let mut config = world.config("a");
    let path = |path: &std::path::Path| Some(path.to_owned());
    config.tls = Some(EtcdTls { ca: path(files.ca()), cert: path(files.certificate()), key: path(files.key()) });
    let cluster = EtcdCluster::join(config.clone(), Arc::new(SystemClock)).await.unwrap();
    cluster.until_planned().await;
    assert!(cluster.may_act());
    config.node = node_id("b");
    config.tls = Some(EtcdTls { ca: path(files.ca()), ..EtcdTls::default() });
    assert!(EtcdCluster::join(config, Arc::new(SystemClock)).await.is_err(), "without a certificate");
}

#[tokio::test]
async fn live_a_user_with_the_rights_of_its_prefix_joins_and_a_wrong_password_does_not() {
    let etcd = Etcd::start(1).await.unwrap();
    let world = World::on(etcd.endpoints());
    let mut admin = etcd.client().await.unwrap();
    admin.user_add("root", "secret-of-root", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.role_add("reeve").await.unwrap();
    admin.role_grant_permission("reeve", Permission::read_write("/reeve/").with_prefix()).await.unwrap();
    admin.user_add("reeve", "secret-of-reeve", None).await.unwrap();
    admin.user_grant_role("reeve", "reeve").await.unwrap();
    admin.auth_enable().await.unwrap();
    let mut config = world.config("a");
    config.auth = Some(EtcdUser { name: "reeve".into(), password: "secret-of-reeve".into() });
    let a = world.join_with(config.clone()).await;
    world.until_shared(&["a"]).await;
    // Keep-alives and the watch work with a login as well.
    tokio::time::sleep(2 * TTL).await;
    assert!(a.cluster.may_act());
    a.cluster.drain(&a.id).await.unwrap();
    world.until("the watch brings it", || a.cluster.cluster().members[&a.id].state == "draining").await;
    config.node = node_id("b");
    config.auth = Some(EtcdUser { name: "reeve".into(), password: "wrong-secret".into() });
    let error = world.try_join(config.clone()).await.err().expect("it is refused").to_string();
    assert!(!error.contains("secret"), "{error}");
    config.auth = None;
    assert!(world.try_join(config).await.is_err(), "without a login");
}

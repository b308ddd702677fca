//! etcd stops, restarts, or cannot be reached; a node stops in its tracks.

use std::time::Duration;

use reeve_ports::Coordination;
use reeve_ports::coordination::CoordinationError;
use reeve_protocol::ShardId;
use reeve_tests::harness::{Etcd, Mode, Proxy};

use crate::fixture::{SHARDS, TTL, World, etcd, node_id};

#[tokio::test]
async fn live_a_node_whose_keep_alives_stop_cannot_act_before_another_owns_its_shards() {
    let world = World::new().await;
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    let old = world.epochs_of("a");
    a.clock.stop(true);
    // The fixture sees whether a may act when b takes over.
    world.until("b owns everything", || world.count("b") == usize::from(SHARDS)).await;
    assert!(!a.cluster.may_act() && b.cluster.may_act());
    let (shard, epoch) = old.first_key_value().unwrap();
    assert!(matches!(a.cluster.claim(*shard).await, Err(CoordinationError::Unavailable(_))));
    assert!(matches!(a.cluster.confirm(*shard, *epoch).await, Err(CoordinationError::Unavailable(_))));
    a.clock.stop(false);
    world.until("a may act again", || a.cluster.may_act()).await;
    assert_eq!(a.cluster.confirm(*shard, *epoch).await, Err(CoordinationError::NotOwner(*shard)));
    assert_eq!(a.cluster.release(*shard, *epoch).await, Ok(()));
    world.until_shared(&["a", "b"]).await;
}

#[tokio::test]
async fn live_a_node_that_is_cut_off_is_replaced_and_comes_back() {
    let proxy = Proxy::start(etcd().await.address(0)).await.unwrap();
    let world = World::new().await;
    let a = world.join_with(world.config_through("a", &proxy)).await;
    let b = world.join("b").await;
    world.until_shared(&["a", "b"]).await;
    let old = world.epochs_of("a");
    proxy.set(Mode::Cut);
    world.until("b owns everything", || world.count("b") == usize::from(SHARDS)).await;
    assert!(!a.cluster.may_act() && b.cluster.may_act());
    proxy.set(Mode::Pass);
    world.until("a may act again", || a.cluster.may_act()).await;
    let (shard, epoch) = old.first_key_value().unwrap();
    assert_eq!(a.cluster.confirm(*shard, *epoch).await, Err(CoordinationError::NotOwner(*shard)));
    world.until_shared(&["a", "b"]).await;
}

#[tokio::test]
async fn live_an_etcd_that_stops_for_longer_than_the_ttl_stops_everybody_and_all_goes_on_by_itself() {
    let etcd = Etcd::start(1).await.unwrap();
    let world = World::on(etcd.endpoints());
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    etcd.hold(0).unwrap();
    world.until("nobody may act", || !a.cluster.may_act() && !b.cluster.may_act()).await;
    tokio::time::sleep(TTL).await;
    etcd.go_on(0).unwrap();
    world.until("both may act", || a.cluster.may_act() && b.cluster.may_act()).await;
    let all = || world.count("a") + world.count("b") == usize::from(SHARDS);
    world.until("all shards are owned", all).await;
    let owners = world.owners.lock().unwrap().clone();
    for (shard, (node, epoch)) in owners {
        let owner = if node == a.id { &a } else { &b };
        assert_eq!(owner.cluster.confirm(shard, epoch).await, Ok(()), "{shard} {node}");
    }
}

#[tokio::test]
async fn live_leases_that_outlive_a_restart_of_etcd_go_on_with_the_same_epochs() {
    let mut etcd = Etcd::start(1).await.unwrap();
    let mut world = World::on(etcd.endpoints());
    world.ttl = Duration::from_secs(10);
    let a = world.join("a").await;
    world.until_shared(&["a"]).await;
    let before = world.epochs_of("a");
    etcd.restart(0).await.unwrap();
    let (shard, epoch) = before.first_key_value().map(|(shard, epoch)| (*shard, *epoch)).unwrap();
    assert_eq!(a.cluster.confirm(shard, epoch).await, Ok(()));
    // The watch works again as well.
    let b = world.join("b").await;
    world.until("a sees b", || a.cluster.cluster().members.contains_key(&b.id)).await;
    assert!(a.cluster.may_act());
    assert_eq!(world.epochs_of("a"), before);
}

#[tokio::test]
async fn live_what_happened_while_the_watch_was_cut_and_then_forgotten_is_seen_again() {
    let etcd = Etcd::start(1).await.unwrap();
    let proxy = Proxy::start(etcd.address(0)).await.unwrap();
    let mut world = World::on(etcd.endpoints());
    world.ttl = Duration::from_secs(10);
    let b = world.join("b").await;
    let a = world.join_with(world.config_through("a", &proxy)).await;
    world.until("a sees b", || a.cluster.cluster().members.contains_key(&b.id)).await;
    proxy.set(Mode::Refuse);
    b.cluster.drain(&b.id).await.unwrap();
    b.cluster.report(reeve_ports::coordination::Load { vms: 5, outbox: 0 });
    let told = || b.cluster.cluster().members.get(&b.id).is_some_and(|member| member.vms == 5);
    world.until("b's sign of life", told).await;
    etcd.compact().await.unwrap();
    assert_eq!(a.cluster.cluster().members[&b.id].state, "ready");
    proxy.set(Mode::Pass);
    world.until("a sees the drain", || a.cluster.cluster().members[&b.id].state.starts_with("drain")).await;
    world.until("a sees the load", || a.cluster.cluster().members[&b.id].vms == 5).await;
}

#[tokio::test]
async fn live_a_member_of_etcd_that_hangs_or_dies_is_left_for_another() {
    let mut etcd = Etcd::start(3).await.unwrap();
    let world = World::on(etcd.endpoints());
    let a = world.join("a").await;
    world.until_shared(&["a"]).await;
    let before = world.epochs_of("a");
    // It is connected to the first.
    etcd.hold(0).unwrap();
    let confirmed = async |shard: ShardId| a.cluster.confirm(shard, before[&shard]).await;
    let patience = tokio::time::timeout(TTL * 10, async { while confirmed(ShardId(0)).await.is_err() {} }).await;
    assert!(patience.is_ok(), "another member answers");
    etcd.go_on(0).unwrap();
    etcd.kill(1);
    world.until("it may act", || a.cluster.may_act()).await;
    let patience = tokio::time::timeout(TTL * 10, async { while confirmed(ShardId(1)).await.is_err() {} }).await;
    assert!(patience.is_ok(), "another member answers");
    assert_eq!(a.cluster.cluster().members[&node_id("a")].shards, SHARDS);
}

#[tokio::test]
async fn live_a_dead_node_is_replaced_though_its_lease_does_not_end() {
    let world = World::new().await;
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    let _extending = world.extend("a").await;
    a.die().await;
    world.until("b owns everything", || world.count("b") == usize::from(SHARDS)).await;
    assert!(b.cluster.may_act());
}

#[tokio::test]
async fn live_a_silent_node_that_lives_may_not_act_when_its_lease_is_ended_for_it() {
    let world = World::new().await;
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    // The fixture's check of `may_act` has more time to find a fault than the lease alone would give.
    let _extending = world.extend("a").await;
    a.clock.stop(true);
    world.until("b owns everything", || world.count("b") == usize::from(SHARDS)).await;
    assert!(!a.cluster.may_act() && b.cluster.may_act());
    a.clock.stop(false);
    world.until_shared(&["a", "b"]).await;
}

#[tokio::test]
async fn live_nobody_is_taken_for_dead_after_all_were_cut_off() {
    let proxy = Proxy::start(etcd().await.address(0)).await.unwrap();
    let world = World::on(vec![format!("http://{}", proxy.address())]);
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    let old = (world.epochs_of("a"), world.epochs_of("b"));
    let _extending = [world.extend("a").await, world.extend("b").await];
    proxy.set(Mode::Cut);
    tokio::time::sleep(TTL * 2).await;
    assert!(!a.cluster.may_act() && !b.cluster.may_act());
    proxy.set(Mode::Pass);
    proxy.reset();
    world.until("both may act again", || a.cluster.may_act() && b.cluster.may_act()).await;
    tokio::time::sleep(TTL * 2).await;
    assert_eq!((world.epochs_of("a"), world.epochs_of("b")), old);
    world.check();
}

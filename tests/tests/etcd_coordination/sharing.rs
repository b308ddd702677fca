//! Nodes come, go, are drained and flap.

use std::time::Duration;

use reeve_ports::Coordination;
use reeve_ports::coordination::{CoordinationError, Load};
use reeve_protocol::{Epoch, ShardId};

use crate::fixture::{SHARDS, TTL, World, node_id};

#[tokio::test]
async fn live_three_nodes_share_and_when_the_leader_dies_the_others_own_everything() {
    let world = World::new().await;
    let mut nodes = vec![world.join("a").await, world.join("b").await, world.join("c").await];
    world.until_shared(&["a", "b", "c"]).await;
    let before = world.owners.lock().unwrap().clone();
    let leader = nodes[0].cluster.cluster().members.into_values().find(|member| member.leader).expect("one leads");
    let at = nodes.iter().position(|node| node.id == leader.id).unwrap();
    let dead = nodes.remove(at);
    let id = dead.id.clone();
    let started = tokio::time::Instant::now();
    dead.die().await;
    let rest: Vec<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    world.until_shared(&rest).await;
    println!("the leader's shards were owned again {:?} after its end, at a TTL of {TTL:?}", started.elapsed());
    for (shard, (node, epoch)) in world.owners.lock().unwrap().iter() {
        let (owner, old) = &before[shard];
        // Who lived moved nothing.
        assert_eq!(*owner == id, epoch > old, "{shard} {node}");
    }
    let view = nodes[0].cluster.cluster();
    assert_eq!(view.members.len(), 2);
    assert!(view.shards.iter().all(|shard| shard.owner.is_some() && shard.owner == shard.wanted));
}

#[tokio::test]
async fn live_a_drained_node_gives_up_one_shard_after_the_other_and_gets_them_back() {
    let world = World::new().await;
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    a.cluster.report(Load { vms: 7, outbox: 2 });
    // Any node may be asked; the fixture sees whether two go at a time.
    b.cluster.drain(&a.id).await.unwrap();
    world.until("a owns nothing", || world.count("a") == 0 && world.count("b") == usize::from(SHARDS)).await;
    let state = || b.cluster.cluster().members[&a.id].state.clone();
    world.until("a is drained", || state() == "drained").await;
    world.until("b knows a's load", || b.cluster.cluster().members[&a.id].vms == 7).await;
    assert!(a.cluster.may_act());
    // The wish outlives the node.
    let id = a.id.clone();
    a.leave().await;
    world.until("a is lost", || b.cluster.cluster().members[&id].state == "lost").await;
    let a = world.join("a").await;
    a.cluster.until_planned().await;
    assert_eq!(world.count("a"), 0);
    a.cluster.undrain(&id).await.unwrap();
    world.until_shared(&["a", "b"]).await;
    let unknown = b.cluster.drain(&node_id("nobody")).await;
    assert!(matches!(unknown, Err(CoordinationError::Refused(_))), "{unknown:?}");
}

#[tokio::test]
async fn live_a_node_that_retires_hands_everything_over_before_it_leaves() {
    let world = World::new().await;
    let (a, b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    a.cluster.retire().await;
    assert!(a.cluster.may_act(), "it is a member until it leaves");
    world.until("b owns all", || world.count("b") == usize::from(SHARDS)).await;
    // Nobody is there for the last one: it does not wait for ever.
    a.leave().await;
    b.cluster.retire().await;
    assert_eq!(world.count("b"), usize::from(SHARDS));
    world.check();
}

#[tokio::test]
async fn live_a_flapping_node_moves_nothing() {
    let world = World::new().await;
    let (_a, _b) = (world.join("a").await, world.join("b").await);
    world.until_shared(&["a", "b"]).await;
    let before = world.owners.lock().unwrap().clone();
    for _ in 0..3 {
        let c = world.join("c").await;
        c.cluster.until_planned().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        c.leave().await;
    }
    assert_eq!(*world.owners.lock().unwrap(), before);
    world.check();
}

#[tokio::test]
async fn live_a_new_node_gets_its_share_when_it_has_settled() {
    let world = World::new().await;
    let a = world.join("a").await;
    world.until_shared(&["a"]).await;
    let b = world.join("b").await;
    world.until_shared(&["a", "b"]).await;
    assert!(matches!(b.cluster.claim(ShardId(SHARDS)).await, Err(CoordinationError::Refused(_))));
    let (shard, epoch) = world.epochs_of("b").pop_first().unwrap();
    assert_eq!(a.cluster.claim(shard).await, Err(CoordinationError::NotOwner(shard)));
    assert_eq!(a.cluster.confirm(shard, Epoch(epoch.0 - 1)).await, Err(CoordinationError::NotOwner(shard)));
    assert_eq!(b.cluster.confirm(shard, epoch).await, Ok(()));
}

#[tokio::test]
async fn live_what_happens_to_the_cluster_is_told_once_published_and_numbered_without_gaps() {
    let world = World::new().await;
    let a = world.join("a").await;
    world.until_shared(&["a"]).await;
    let mut told = Vec::new();
    let b = world.join("b").await;
    b.cluster.until_planned().await;
    b.leave().await;
    while !told.iter().any(|line| line == "b/2 node.lost") {
        let events = a.cluster.next_events().await;
        told.extend(events.iter().map(|e| format!("{}/{} {}", e.node, e.sequence, e.routing_key())));
        a.cluster.published(&events).await.unwrap();
    }
    let moved = (0..SHARDS).map(|n| format!("a/{} shard.moved", n + 2));
    let expected: Vec<String> = ["a/1 node.joined".to_owned()].into_iter().chain(moved).collect();
    assert_eq!(told[..expected.len()], expected);
    assert_eq!(told[expected.len()..], ["b/1 node.joined", "b/2 node.lost"]);
}

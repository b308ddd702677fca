//! A shard that another node takes: whoever had it stops, and comes back only when it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reeve_drivers::cloud::sim::CallKind;
use reeve_ports::store::Stored;
use reeve_ports::{Address, Bus, Message, Queue, RecordStore};
use reeve_protocol::admin::AdminReply;
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::{ShardId, Span, VmId};

use crate::world::{World, run, short, until};

const SHARDS: u16 = 4;
const EXTEND: CommandKind = CommandKind::LeaseExtend { by: None };

async fn stored(world: &World) -> BTreeMap<VmId, Stored> {
    let mut all = BTreeMap::new();
    for shard in 0..SHARDS {
        let page = world.store.load(ShardId(shard), None, 1000).await.unwrap();
        all.extend(page.records.into_iter().map(|stored| (stored.vm, stored)));
    }
    all
}

#[test]
fn a_fenced_owner_writes_and_destroys_nothing_and_goes_on_when_it_owns_again() {
    run(|| async {
        let world = World::new(6, short(Span::from_secs(30))).await;
        let vms = world.sim.vm_ids();
        world.all_leases(vms.len(), "active").await;
        world.coordination.lose(SHARDS).await;
        let before = stored(&world).await;
        // The leases end meanwhile, and every shard notices by its first write.
        until("every shard is given up", || async {
            for vm in &vms {
                if world.show(*vm).await.is_some() {
                    return None;
                }
            }
            Some(())
        })
        .await;
        assert!(world.store.fenced.load(Ordering::SeqCst) > 0);
        world.clock.suspend(Span::from_secs(60));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(stored(&world).await, before, "a fenced owner has written");
        let destroyed = world.sim.audit().into_iter().filter(|entry| entry.call.is_destructive() && entry.applied);
        assert_eq!(destroyed.count(), 0);
        let told = world.command("extend-elsewhere", vms[0], EXTEND).await;
        assert!(
            matches!(&told, AdminReply::Refused(refusal)
                if refusal.code == RefusalCode::Unavailable && refusal.message.contains("another node")),
            "whoever asks is told that it is not here: {told:?}"
        );
        world.coordination.give_back();
        world.all_leases(vms.len(), "ended").await;
        for vm in &vms {
            assert_eq!(world.sim.times_applied(CallKind::DeleteServer, *vm), 1);
        }
        world.events().await;
        world.stop().await;
    });
}

#[test]
fn commands_for_a_shard_of_another_node_wait_in_its_queue() {
    run(|| async {
        let world = World::new(2, short(Span::from_days(30))).await;
        let vm = world.all_leases(2, "active").await[0].id;
        world.coordination.lose(SHARDS).await;
        // Whoever writes first learns that the shard is lost; the command itself must not get lost with it.
        let publish = async |id: &str| {
            let message = Message {
                body: Bytes::from(format!(r#"{{"vm":"{vm}","by":"operator:test"}}"#)),
                kind: Some("lease.extend".to_owned()),
                message_id: Some(id.to_owned()),
                ..Message::default()
            };
            world.bus.publish(&Address::Requests, message).await.unwrap();
        };
        publish("extend-1").await;
        until("the owner is fenced", || async { (world.store.fenced.load(Ordering::SeqCst) > 0).then_some(()) }).await;
        publish("extend-2").await;
        // The other node finds both in the shard's queue, and dies with them.
        let mut other = world.bus.consume(&Queue::Shard(ShardId::of(vm, SHARDS)), 10).await.unwrap();
        let mut taken = Vec::new();
        while taken.len() < 2 {
            let next = tokio::time::timeout(Duration::from_secs(20), other.next()).await;
            taken.push(next.expect("it comes to the shard's queue").unwrap());
        }
        let ids: BTreeSet<_> = taken.iter().filter_map(|delivery| delivery.message.message_id.as_deref()).collect();
        assert_eq!(ids, BTreeSet::from(["extend-1", "extend-2"]));
        drop(ids);
        drop((taken, other));
        assert_eq!(world.bus.dead(0, 10).await.unwrap(), [], "nothing is given up");
        world.coordination.give_back();
        until("both are carried out, once", || async {
            world.show(vm).await.filter(|view| view.lease.extensions == 2)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 2);
        world.stop().await;
    });
}

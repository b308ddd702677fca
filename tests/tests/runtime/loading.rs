//! Shards that cannot be loaded, or not whole, and owners that end before or while they load.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_cluster::embedded::EmbeddedStore;
use reeve_ports::RecordStore;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::{CommandKind, RefusalCode};
use reeve_protocol::{ShardId, Span, VmId};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::realm::{Member, Plan, Realm, SHARDS};
use crate::world::{World, run, short, until};

const SHARD: ShardId = ShardId(0);
const EXTEND: CommandKind = CommandKind::LeaseExtend { by: None };

async fn realm(vms: u32) -> Realm {
    Realm::new(Plan::new(vms, short(Span::from_days(30)))).await
}

/// Plans the shard for `b`, and waits until `b` has claimed it.
async fn moved_to_b(realm: &Realm) {
    realm.council.plan(SHARD, &realm.b.id);
    until("b claims the shard", || async { (realm.council.owner(SHARD).as_ref() == Some(&realm.b.id)).then_some(()) })
        .await;
}

#[test]
fn a_damaged_record_is_parked_with_its_reason_and_its_shard_opens() {
    run(|| async {
        let world = World::new(6, short(Span::from_days(30))).await;
        let vm = world.all_leases(6, "active").await[0].id;
        let shard = ShardId::of(vm, SHARDS);
        let stopped = world.stop().await;
        let (sender, before) = oneshot::channel();
        let read = |store: EmbeddedStore, _| async move { sender.send(store.get(shard, vm).await.unwrap()).unwrap() };
        stopped.with_store(read).await;
        let world = stopped.start_with(|store| assert!(store.damaged.lock().unwrap().insert(vm))).await;
        let list = world.all_leases(5, "active").await;
        assert_eq!(list.iter().filter(|view| view.state == "parked" && view.id == vm).count(), 1, "{list:?}");
        for request in [EXTEND, CommandKind::VmAdopt] {
            let reply = world.command("refused", vm, request).await;
            let AdminReply::Refused(refusal) = reply else { panic!("{reply:?}") };
            assert!(refusal.message.contains("told so: it is damaged"), "{refusal:?}");
        }
        world.store.damaged.lock().unwrap().clear();
        assert_eq!(world.store.get(shard, vm).await.unwrap(), before.await.unwrap(), "it is left as it was");
        world.stop().await;
    });
}

#[test]
fn a_shard_that_cannot_be_loaded_is_handed_over() {
    run(|| async {
        let realm = realm(6).await;
        realm.all_leases(6, "active").await;
        for trouble in [&realm.b.store.away, &realm.b.store.stalls] {
            trouble.store(true, Ordering::SeqCst);
            moved_to_b(&realm).await;
            realm.council.plan(SHARD, &realm.a.id);
            realm.until_owned(SHARD, &realm.a).await;
            trouble.store(false, Ordering::SeqCst);
        }
        realm.all_leases(6, "active").await;
        moved_to_b(&realm).await;
        realm.until_owned(SHARD, &realm.b).await;
        realm.all_leases(6, "active").await;
        realm.stop().await;
    });
}

#[test]
fn a_node_that_stops_while_it_loads_a_shard_releases_it() {
    run(|| async {
        let realm = realm(6).await;
        realm.b.store.stalls.store(true, Ordering::SeqCst);
        moved_to_b(&realm).await;
        // It looks that nobody owns anything afterwards.
        realm.stop().await;
    });
}

#[test]
fn a_claim_that_is_answered_while_the_node_stops_is_released() {
    run(|| async {
        let realm = realm(6).await;
        realm.council.mute(&realm.b.id, true);
        moved_to_b(&realm).await;
        let answer = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            realm.council.mute(&realm.b.id, false);
        };
        let (in_order, ()) = tokio::join!(realm.b.handle.stop(Duration::from_secs(20)), answer);
        assert!(in_order);
        assert_eq!(realm.council.owner(SHARD), None);
        realm.council.plan(SHARD, &realm.a.id);
        realm.until_owned(SHARD, &realm.a).await;
        assert!(realm.a.handle.stop(Duration::from_secs(10)).await);
    });
}

#[test]
fn an_owner_that_dies_keeps_nobody_else_from_owning_its_shard() {
    run(|| async {
        // No VM's supervisor looks whether the shard is still its owner's.
        let realm = realm(0).await;
        let mut ids = (0..).map(|n| VmId::new(Uuid::from_u128(n)));
        let nobody = ids.find(|vm| ShardId::of(*vm, SHARDS) == SHARD).unwrap();
        realm.council.trap(SHARD, &realm.b.id);
        // It is asked about a VM that it does not have, and asks itself whether that is certain.
        let reply = realm.a.ask_alone(AdminRequest::VmShow(nobody)).await;
        assert!(matches!(reply, AdminReply::Refused(_)), "{reply:?}");
        realm.until_owned(SHARD, &realm.b).await;
        realm.stop().await;
    });
}

/// Waits until a VM's record was read again and again on a node, where all that is said of it meanwhile is "not yet".
async fn tried_again(node: &Member, vm: VmId) {
    let asked = node.store.asked.load(Ordering::SeqCst);
    until("it is tried again", || async {
        match node.ask_alone(AdminRequest::VmShow(vm)).await {
            AdminReply::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Unavailable, "{refusal:?}"),
            // Its supervisor has not noticed yet.
            AdminReply::Vm(_) => {}
            other => panic!("{other:?}"),
        }
        (node.store.asked.load(Ordering::SeqCst) > asked + 4).then_some(())
    })
    .await;
}

#[test]
fn a_vm_whose_supervisor_cannot_be_started_is_tried_again_and_never_taken_for_unknown() {
    run(|| async {
        let realm = realm(1).await;
        let vm = realm.all_leases(1, "active").await[0].id;
        // From now on no thread can be made.
        assert!(actix_web::rt::System::current().arbiter().stop());
        for arbiter in 0..realm.a.handle.arbiters() {
            // One that nobody needed was not started.
            let _ = realm.a.handle.kill_arbiter(arbiter);
        }
        tried_again(&realm.a, vm).await;
        // What another node loads anew.
        let shard = ShardId::of(vm, SHARDS);
        realm.council.plan(shard, &realm.b.id);
        realm.until_owned(shard, &realm.b).await;
        tried_again(&realm.b, vm).await;
        realm.stop().await;
    });
}

//! Events that are out, and what the store still says of them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use reeve_lifecycle::VmRecord;
use reeve_lifecycle::record::{MAX_OUTBOX, RECORD_FORMAT};
use reeve_ports::{Bus, RecordStore};
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::CommandKind;
use reeve_protocol::event::{CloudEvent, Event};
use reeve_protocol::{ShardId, Span, Timestamp, VmId, codec};

use crate::faulty::FlakyStore;
use crate::realm::{Member, Plan, Realm, SHARDS};
use crate::world::{TestClock, World, run, short, until};

/// Denied ones have an event as well.
const EXTEND: CommandKind = CommandKind::LeaseExtend { by: None };

async fn stored(store: &FlakyStore, vm: VmId) -> VmRecord {
    let stored = store.get(ShardId::of(vm, SHARDS), vm).await.unwrap().unwrap();
    codec::decode(RECORD_FORMAT, &stored.value).unwrap().1
}

/// Waits until a node has no event that the bus has not confirmed.
async fn until_confirmed(ask: impl AsyncFn() -> AdminReply) {
    until("every event is confirmed", || async {
        match ask().await {
            AdminReply::Node(node) => (node.outbox == 0).then_some(()),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

/// Waits until the bus has confirmed every event of a world.
async fn confirmed(world: &World) {
    until_confirmed(async || world.ask(AdminRequest::Node).await).await;
}

/// Waits until the store knows that every event of a VM is out.
async fn recorded(world: &World, vm: VmId) {
    until("its stored outbox is empty", || async { stored(&world.store, vm).await.outbox.is_empty().then_some(()) })
        .await;
}

/// Waits until the bus has confirmed every event of a node.
async fn confirmed_of(node: &Member) {
    until_confirmed(async || node.ask(AdminRequest::NodeShow(node.id.clone())).await).await;
}

/// A realm with so slow a clock that only a decision or an end writes down that events are out, and its VMs.
async fn slow_realm(vms: u32) -> (Realm, Vec<VmId>) {
    let plan = Plan { clock: TestClock::scaled(1), ..Plan::new(vms, short(Span::from_days(30))) };
    let realm = Realm::new(plan).await;
    let ids = realm.all_leases(vms as usize, "active").await.iter().map(|vm| vm.id).collect();
    (realm, ids)
}

/// Each event that these nodes published was published once.
fn assert_published_once(nodes: &[&Member]) {
    let taken: Vec<String> = nodes.iter().flat_map(|node| node.outward.taken.lock().unwrap().clone()).collect();
    let ids: BTreeSet<&String> = taken.iter().collect();
    assert_eq!(ids.len(), taken.len(), "each event was published once");
}

async fn accepted(world: &World, id: &str, vm: VmId) {
    let reply = world.command(id, vm, EXTEND).await;
    assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
}

fn extensions(events: &[CloudEvent]) -> Vec<&CloudEvent> {
    events.iter().filter(|event| event.kind == "reeve.lease.extended").collect()
}

#[test]
fn that_the_events_of_a_quiet_vm_are_out_is_written_down_after_a_while() {
    run(|| async {
        let world = World::new(3, short(Span::from_days(30))).await;
        for vm in world.all_leases(3, "active").await {
            recorded(&world, vm.id).await;
        }
        world.stop().await;
    });
}

#[test]
fn that_events_are_out_is_written_down_with_the_next_decision() {
    run(|| async {
        let (realm, vms) = slow_realm(1).await;
        let vm = vms[0];
        confirmed_of(&realm.a).await;
        let before = stored(&realm.a.store, vm).await;
        let decisions = 12;
        for number in 0..decisions {
            realm.a.command(&format!("extend-{number}"), vm, EXTEND).await;
            confirmed_of(&realm.a).await;
        }
        let after = stored(&realm.a.store, vm).await;
        assert!(after.sequence >= before.sequence + decisions, "each has an event");
        let commits = after.generation.0 - before.generation.0;
        assert!((decisions..2 * decisions).contains(&commits), "{commits} commits for {decisions} decisions");
        realm.stop().await;
    });
}

#[test]
fn a_crash_between_a_confirm_and_its_record_publishes_the_same_again_and_loses_nothing() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        recorded(&world, vm).await;
        world.outward.away.store(true, Ordering::SeqCst);
        accepted(&world, "extend-1", vm).await;
        until("its owner is told", || async { stored(&world.store, vm).await.effects.is_empty().then_some(()) }).await;
        // From here on what the bus confirms cannot be written down.
        world.store.away.store(true, Ordering::SeqCst);
        world.outward.away.store(false, Ordering::SeqCst);
        confirmed(&world).await;
        assert_eq!(extensions(&world.events().await).len(), 1);
        let killed = world.ask(AdminRequest::ActorKill { vm, child: None }).await;
        assert!(matches!(killed, AdminReply::Done), "{killed:?}");
        world.store.away.store(false, Ordering::SeqCst);
        let id = extensions(&world.events().await)[0].id.0.clone();
        let times = || world.outward.taken.lock().unwrap().iter().filter(|taken| **taken == id).count();
        until("it is published again", || async { (times() == 2).then_some(()) }).await;
        recorded(&world, vm).await;
        accepted(&world, "extend-2", vm).await;
        confirmed(&world).await;
        let events = world.events().await;
        assert_eq!(events.last().unwrap().sequence, stored(&world.store, vm).await.sequence);
        assert_eq!((extensions(&events).len(), times()), (2, 2), "what is written down is not published again");
        world.stop().await;
    });
}

#[test]
fn a_hand_over_writes_down_what_is_confirmed_so_that_nothing_is_published_again() {
    run(|| async {
        let (realm, vms) = slow_realm(4).await;
        for (from, to) in [(&realm.a, &realm.b), (&realm.b, &realm.a), (&realm.a, &realm.b)] {
            for vm in &vms {
                from.command(&format!("{vm} {}", from.id), *vm, EXTEND).await;
            }
            confirmed_of(from).await;
            for shard in crate::realm::shards() {
                realm.council.plan(shard, &to.id);
                realm.until_owned(shard, to).await;
            }
        }
        for vm in &vms {
            // Whatever was to be published again goes before this.
            realm.b.command(&format!("{vm} last"), *vm, EXTEND).await;
        }
        confirmed_of(&realm.b).await;
        assert_published_once(&[&realm.a, &realm.b]);
        let events = realm.bus.history(Timestamp::MIN, None, 10_000).await.unwrap();
        for vm in &vms {
            let told = events.iter().filter(|past| past.event.subject.contains(&vm.to_string())).count();
            assert_eq!(told as u64, stored(&realm.b.store, *vm).await.sequence, "every event is out");
        }
        realm.stop().await;
    });
}

#[test]
fn a_restart_in_order_writes_down_what_is_confirmed_so_that_nothing_is_published_again() {
    run(|| async {
        let (realm, vms) = slow_realm(1).await;
        let vm = vms[0];
        for turn in 0..3 {
            realm.a.command(&format!("extend-{turn}"), vm, EXTEND).await;
            confirmed_of(&realm.a).await;
            until("it is restarted", || async {
                let reply = realm.a.ask(AdminRequest::ActorRestart { vm, child: None }).await;
                matches!(reply, AdminReply::Done).then_some(())
            })
            .await;
        }
        // Whatever was to be published again goes before this.
        realm.a.command("extend-last", vm, EXTEND).await;
        confirmed_of(&realm.a).await;
        assert_published_once(&[&realm.a]);
        realm.stop().await;
    });
}

#[test]
fn a_full_outbox_that_is_found_in_the_store_is_published_and_what_waits_for_it_is_decided() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.outward.away.store(true, Ordering::SeqCst);
        accepted(&world, "extend-1", vm).await;
        let event = stored(&world.store, vm).await.outbox.pop().unwrap();
        world.outward.away.store(false, Ordering::SeqCst);
        confirmed(&world).await;
        recorded(&world, vm).await;
        let shard = ShardId::of(vm, SHARDS);
        let mut late = world.store.get(shard, vm).await.unwrap().unwrap();
        let mut record: VmRecord = codec::decode(RECORD_FORMAT, &late.value).unwrap().1;
        let first = record.sequence + 1;
        record.outbox = (first..).take(MAX_OUTBOX).map(|sequence| Event { sequence, ..event.clone() }).collect();
        record.sequence += MAX_OUTBOX as u64;
        record.generation = late.generation.next();
        late.value = codec::encode(RECORD_FORMAT, &record).unwrap().into();
        world.store.write_behind(shard, late).await;
        accepted(&world, "extend-2", vm).await;
        confirmed(&world).await;
        assert_eq!(world.events().await.last().unwrap().sequence, stored(&world.store, vm).await.sequence);
        world.stop().await;
    });
}

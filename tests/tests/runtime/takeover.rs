//! A shard that is taken from its owner, and an owner whose right to act lapses.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reeve_drivers::cloud::sim::{CallKind, Fault, FaultKind};
use reeve_ports::Bus;
use reeve_protocol::admin::{AdminReply, AdminRequest};
use reeve_protocol::command::CommandKind;
use reeve_protocol::{ProjectId, ShardId, Span, UserId, VmId};

use crate::realm::{Plan, Realm, SHARDS, shards};
use crate::world::{World, run, short, until};

const EXTEND: CommandKind = CommandKind::LeaseExtend { by: None };

fn asked(realm: &Realm, call: CallKind, vm: VmId) -> usize {
    realm.sim.audit().iter().filter(|entry| entry.call == call && entry.vm == Some(vm)).count()
}

#[test]
fn a_robbed_owner_stops_at_once_and_its_successor_finishes_what_it_began() {
    run(|| async {
        let realm = Realm::new(Plan::new(6, short(Span::from_days(30)))).await;
        let vms: Vec<VmId> = realm.all_leases(6, "active").await.iter().map(|vm| vm.id).collect();
        for vm in &vms {
            realm.a.command(&format!("end-{vm}"), *vm, CommandKind::LeaseEnd).await;
        }
        // In the middle of it the store does not answer the owner any more, and another node takes over.
        until("a VM is backed up", || async {
            realm.sim.audit().iter().any(|entry| entry.call == CallKind::Snapshot).then_some(())
        })
        .await;
        realm.a.store.away.store(true, Ordering::SeqCst);
        for shard in shards() {
            realm.council.seize(shard, &realm.b.id).await;
        }
        for shard in shards() {
            realm.until_owned(shard, &realm.b).await;
        }
        for vm in &vms {
            until("the robbed owner has let go", || async { realm.a.tree_alone(*vm).await.is_none().then_some(()) })
                .await;
        }
        realm.a.store.away.store(false, Ordering::SeqCst);
        realm.all_leases(vms.len(), "ended").await;
        for vm in &vms {
            assert_eq!(realm.sim.times_applied(CallKind::DeleteServer, *vm), 1);
        }
        assert_eq!(realm.bus.dead(0, 10).await.unwrap(), []);
        realm.stop().await;
    });
}

#[test]
fn a_lapsed_right_sends_nothing_to_the_cloud_and_comes_back_by_itself() {
    run(|| async {
        let realm = Realm::new(Plan::new(2, short(Span::from_days(30)))).await;
        let vm = realm.all_leases(2, "active").await[0].id;
        realm.council.lapse(&realm.a.id, true);
        let reply = realm.a.command("stop", vm, CommandKind::VmStop).await;
        assert!(matches!(reply, AdminReply::Accepted(_)), "decided and stored: {reply:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(asked(&realm, CallKind::Stop, vm), 0, "nothing is sent without the right to act");
        assert_eq!(realm.b.show(vm).await.unwrap().operation.as_deref(), Some("stop"), "it is still to be done");
        realm.council.lapse(&realm.a.id, false);
        until("it is done", || async { realm.b.show(vm).await.filter(|view| view.state == "stopped") }).await;
        assert_eq!(realm.sim.times_applied(CallKind::Stop, vm), 1);
        realm.stop().await;
    });
}

#[test]
fn a_successor_waits_out_the_call_of_its_predecessor_and_does_at_once_what_is_decided_anew() {
    run(|| async {
        // 60 s of the clock are 3 s here.
        let plan = Plan { quarantine: Duration::from_secs(60), ..Plan::new(12, short(Span::from_days(30))) };
        let realm = Realm::new(plan).await;
        let vms: Vec<VmId> = realm.all_leases(12, "active").await.iter().map(|vm| vm.id).collect();
        let shard = ShardId::of(vms[0], SHARDS);
        let mut here = vms.iter().filter(|vm| ShardId::of(**vm, SHARDS) == shard);
        let (begun, anew) = (*here.next().unwrap(), *here.next().unwrap());
        realm.sim.inject(Fault::next(CallKind::Stop, FaultKind::Slow(Span::from_secs(3600))).on(begun)).unwrap();
        realm.a.command("begun", begun, CommandKind::VmStop).await;
        until("the call is on its way", || async { (realm.sim.faults_ordered() == 0).then_some(()) }).await;
        let before = asked(&realm, CallKind::Stop, begun);
        realm.council.seize(shard, &realm.b.id).await;
        realm.until_owned(shard, &realm.b).await;
        realm.b.command("anew", anew, CommandKind::VmStop).await;
        until("what is decided anew is done", || async {
            realm.b.show(anew).await.filter(|view| view.state == "stopped")
        })
        .await;
        assert_eq!(asked(&realm, CallKind::Stop, begun), before, "the other waits for the predecessor's call to end");
        let waiting = realm.b.show(begun).await.unwrap();
        assert_eq!(waiting.operation.as_deref(), Some("stop"), "and answers meanwhile");
        until("it is done after that", || async { realm.b.show(begun).await.filter(|view| view.state == "stopped") })
            .await;
        assert_eq!(realm.sim.times_applied(CallKind::Stop, begun), 1);
        realm.stop().await;
    });
}

#[test]
fn a_node_whose_clock_differs_from_the_others_holds_the_ends_of_its_leases() {
    run(|| async {
        let realm = Realm::new(Plan::new(6, short(Span::from_days(30)))).await;
        let vms: Vec<VmId> = realm.all_leases(6, "active").await.iter().map(|vm| vm.id).collect();
        let held = async |is_held: bool| {
            until(&format!("held is {is_held}"), || async {
                for vm in &vms {
                    let view = realm.b.show(*vm).await?;
                    (view.holds.contains(&"clock_untrusted".to_owned()) == is_held).then_some(())?;
                }
                Some(())
            })
            .await;
        };
        realm.council.skew(&realm.a.id, true);
        held(true).await;
        realm.a.command("stop", vms[0], CommandKind::VmStop).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(asked(&realm, CallKind::Stop, vms[0]), 0, "nothing is replaced by such a clock");
        // The other node's clock is right: it lifts the hold of what it takes over.
        let shard = ShardId::of(vms[1], SHARDS);
        realm.council.plan(shard, &realm.b.id);
        realm.until_owned(shard, &realm.b).await;
        until("the new owner lifts it", || async { realm.b.show(vms[1]).await.filter(|view| view.holds.is_empty()) })
            .await;
        realm.council.skew(&realm.a.id, false);
        held(false).await;
        realm.stop().await;
    });
}

#[test]
fn no_lease_begins_by_a_clock_that_differs_from_the_others() {
    run(|| async {
        let realm = Realm::new(Plan::new(2, short(Span::from_days(30)))).await;
        realm.all_leases(2, "active").await;
        realm.silence_the_cloud();
        realm.council.skew(&realm.a.id, true);
        realm.council.skew(&realm.b.id, true);
        let (project, user) = (ProjectId::new("p").unwrap(), UserId::new("u").unwrap());
        let vm = realm.sim.boot_vm("made", project, user, BTreeMap::new()).unwrap();
        let listings = || realm.sim.audit().iter().filter(|entry| entry.call == CallKind::List).count();
        let before = listings();
        until("it is listed by both", || async { (listings() > before + 4).then_some(()) }).await;
        assert_eq!(realm.b.show(vm).await, None, "nobody can say when its lease would begin");
        realm.council.skew(&realm.a.id, false);
        realm.council.skew(&realm.b.id, false);
        until("it has a lease", || async { realm.b.show(vm).await.filter(|view| view.lease.state == "active") }).await;
        realm.stop().await;
    });
}

#[test]
fn a_store_that_is_away_hides_no_vm_and_what_waits_for_it_goes_on_by_itself() {
    run(|| async {
        let world = World::new(2, short(Span::from_days(30))).await;
        let vm = world.all_leases(2, "active").await[0].id;
        world.store.away.store(true, Ordering::SeqCst);
        let commands = async {
            let first = world.command("extend-1", vm, EXTEND);
            let second = world.command("extend-2", vm, EXTEND);
            tokio::join!(first, second)
        };
        let looks = async {
            let waiting = until("a commit is awaited", || async {
                match world.ask(AdminRequest::ActorTree(Some(vm))).await {
                    AdminReply::Actors(tree) => {
                        (tree.state.contains("store") && tree.mailbox.is_some_and(|depth| depth >= 1)).then_some(*tree)
                    }
                    other => panic!("{other:?}"),
                }
            })
            .await;
            assert!(waiting.children.iter().any(|child| child.name == "lease-timer"), "{waiting:?}");
            assert_eq!(world.show(vm).await.unwrap().lease.extensions, 0, "what is shown is what is stored");
            assert_eq!(world.list().await.len(), 2);
            world.store.away.store(false, Ordering::SeqCst);
        };
        let ((first, second), ()) = tokio::join!(commands, looks);
        assert!(
            matches!((&first, &second), (AdminReply::Accepted(_), AdminReply::Accepted(_))),
            "{first:?} {second:?}"
        );
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 2);
        world.stop().await;
    });
}

#[test]
fn a_supervisor_that_waits_for_the_store_can_be_killed_and_loses_nothing() {
    run(|| async {
        let world = World::new(1, short(Span::from_days(30))).await;
        let vm = world.all_leases(1, "active").await[0].id;
        world.store.away.store(true, Ordering::SeqCst);
        let kill = async {
            until("a commit is awaited", || async {
                match world.ask(AdminRequest::ActorTree(Some(vm))).await {
                    AdminReply::Actors(tree) => tree.state.contains("store").then_some(()),
                    _ => None,
                }
            })
            .await;
            let reply = world.ask(AdminRequest::ActorKill { vm, child: None }).await;
            assert_eq!(reply, AdminReply::Done);
            world.store.away.store(false, Ordering::SeqCst);
        };
        let (reply, ()) = tokio::join!(world.command("extend-1", vm, EXTEND), kill);
        assert!(matches!(reply, AdminReply::Accepted(_)), "{reply:?}");
        assert_eq!(world.show(vm).await.unwrap().lease.extensions, 1);
        world.stop().await;
    });
}
